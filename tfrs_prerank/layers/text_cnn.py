"""Convolutions over the tokens of a text, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class TextCNN(tf.keras.layers.Layer):
    """Finds the strongest sign of each filter anywhere in a text.

    With token embeddings `x_1 .. x_n` of size `D`, a filter `W` that spans `w` tokens
    looks at every window and keeps its strongest answer:

        c_i = activation(W [x_i, .., x_{i + w - 1}] + b)      i = 1 .. n - w + 1
        c   = max(c_1, c_2, ..)                               max over time

    The output joins the `c` of all filters, those of the first width first. A text of
    fewer than `w` tokens is one window, filled up with zeros; a text without a token
    gives zeros. So the output depends on the tokens alone, not on the padding.

    Cost: `T D w` multiply-adds per text for each filter.

    Differs from the paper: one channel of embeddings, which come from outside; its
    dropout and softmax are the tower's business. Kim pads every text to the longest,
    so that a window over padding could win.

    >>> import tensorflow as tf
    >>> cnn = TextCNN(widths=(1, 2), filters=1)
    >>> tokens = tf.constant([[[1.0], [-3.0], [2.0], [9.0]]])
    >>> mask = tf.constant([[True, True, True, False]])
    >>> _ = cnn(tokens, mask=mask)
    >>> _ = cnn.kernels[0].assign([[[1.0]]])
    >>> _ = cnn.kernels[1].assign([[[1.0]], [[-1.0]]])
    >>> cnn(tokens, mask=mask).numpy().tolist()  # max(1, -3, 2); max(1 + 3, -3 - 2)
    [[2.0, 4.0]]

    Args:
        widths: the numbers of tokens that filters span.
        filters: the number of filters of each width.
        activation: name or function of a Keras activation.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        tokens: `[B, T, D]`, floating point.
        mask: bool `[B, T]`, true for real tokens, which come first.

    Returns:
        `[B, len(widths) * filters]` in the layer's compute dtype.

    Raises:
        ValueError: `widths` is empty or a number in it or of `filters` is not a whole
            one of at least 1.

    References:
        Kim, Convolutional Neural Networks for Sentence Classification,
        https://arxiv.org/abs/1408.5882, (2), (3) and section 2.
    """

    def __init__(
        self,
        widths: Sequence[int] = (1, 2, 3),
        filters: int = 32,
        activation: Any = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.widths = [check_positive_int("widths", width) for width in widths]
        if not self.widths:
            raise ValueError("`widths` must name at least one width. Received: ()")
        self.filters = check_positive_int("filters", filters)
        self.activation = tf.keras.activations.get(activation)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates a kernel `[width, D, filters]` and a bias for each width."""
        size = check_known("TextCNN", "size of a token", input_shape[-1])
        self.kernels = []
        self.biases = []
        for place, width in enumerate(self.widths):
            self.kernels.append(
                self.add_weight(
                    f"kernel_{place}",
                    [width, size, self.filters],
                    initializer="glorot_uniform",
                )
            )
            self.biases.append(
                self.add_weight(f"bias_{place}", [self.filters], initializer="zeros")
            )
        super().build(input_shape)

    def call(self, tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns the strongest answer of each filter."""
        mask = tf.cast(mask, tf.bool)
        tokens = tf.where(mask[..., tf.newaxis], tokens, tf.zeros_like(tokens))
        length = tf.reduce_sum(tf.cast(mask, tf.int32), axis=-1, keepdims=True)
        steps = tf.shape(tokens)[1]
        start = tf.range(steps)
        outputs = []
        for width, kernel, bias in zip(
            self.widths, self.kernels, self.biases, strict=True
        ):
            padded = tf.pad(tokens, [[0, 0], [0, width - 1], [0, 0]])
            # TensorFlow's convolution fails for no text and for no token.
            windows = tf.concat(
                [padded[:, place : place + steps] for place in range(width)], axis=-1
            )
            answers = tf.tensordot(
                windows,
                tf.reshape(tf.cast(kernel, tokens.dtype), [-1, self.filters]),
                axes=1,
            )
            answers = accumulate(answers)
            answers = self.activation(answers + tf.cast(bias, answers.dtype))
            # A short text has one window, an empty one none.
            count = tf.maximum(length - width + 1, tf.minimum(length, 1))
            seen = (start < count)[..., tf.newaxis]
            best = tf.reduce_max(tf.where(seen, answers, answers.dtype.min), axis=1)
            outputs.append(tf.where(length > 0, best, tf.zeros_like(best)))
        return tf.cast(tf.concat(outputs, axis=-1), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        config: dict[str, Any] = super().get_config()
        return {
            **config,
            "widths": self.widths,
            "filters": self.filters,
            "activation": tf.keras.activations.serialize(self.activation),
        }
