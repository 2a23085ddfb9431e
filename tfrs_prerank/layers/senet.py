"""The squeeze-and-excitation gate over fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_known, check_positive_int


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SENet(tf.keras.layers.Layer):
    """Gives every field a weight that depends on all fields of the example.

    With fields `e_1 .. e_F` of size `D`:

        z_i = mean(e_i)                        squeeze, eq. 2
        a   = s2(s1(z W_1) W_2)                excitation, eq. 3
        v_i = a_i e_i                          re-weighting, eq. 4

    `W_1` is `[F, H]` and `W_2` is `[H, F]` with `H = max(1, F // reduction)`.
    Neither has a bias. Cost: `2 F D + 2 F H` multiply-adds per example.

    Differs from the sources: the paper of FiBiNET uses ReLU twice, the original
    network (and the default here) ReLU and then sigmoid. With ReLU last a field can
    be switched off for good; with sigmoid every weight stays between 0 and 1.

    >>> import tensorflow as tf
    >>> gate = SENet()
    >>> fields = tf.ones([2, 6, 4])
    >>> gate(fields).shape
    TensorShape([2, 6, 4])
    >>> gate.field_weights(fields).shape
    TensorShape([2, 6])

    Args:
        reduction: how many times smaller the hidden layer is than `F`.
        squeeze: `"mean"` or `"max"` over the `D` values of a field.
        activations: the two activations `(s1, s2)`, names or functions.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[..., F, D]`, floating point.

    Returns:
        `[..., F, D]` in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range, or `F` is unknown.

    References:
        Huang et al., FiBiNET, https://arxiv.org/abs/1905.09433, eq. 2-5.
        Hu et al., Squeeze-and-Excitation Networks,
        https://arxiv.org/abs/1709.01507, eq. 2-4.
    """

    def __init__(
        self,
        reduction: int = 3,
        squeeze: str = "mean",
        activations: Sequence[str | Callable] = ("relu", "sigmoid"),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(activations, str) or len(activations) != 2:
            raise ValueError(
                "`activations` must be a pair of activations, for example "
                f"('relu', 'sigmoid'). Received: {activations!r}"
            )
        self.reduction = check_positive_int("reduction", reduction)
        self.squeeze = check_choice("squeeze", squeeze, ("mean", "max"))
        self.activations = tuple(tf.keras.activations.get(a) for a in activations)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the two kernels."""
        shape = tf.TensorShape(input_shape)
        if shape.rank is None or shape.rank < 2:
            raise ValueError(
                f"SENet takes fields of shape [..., F, D]. Received: shape {shape}"
            )
        fields = check_known("SENet", "number of fields", shape[-2])
        hidden = max(1, fields // self.reduction)
        self.squeeze_kernel = self.add_weight(
            "squeeze_kernel", [fields, hidden], initializer="glorot_uniform"
        )
        self.excite_kernel = self.add_weight(
            "excite_kernel", [hidden, fields], initializer="glorot_uniform"
        )
        super().build(input_shape)

    def field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the weight of every field, to explain or to log.

        Args:
            fields: `[..., F, D]`, the layer's input.

        Returns:
            `[..., F]` in the layer's compute dtype.

        Raises:
            ValueError: the layer has not been built.
        """
        if not self.built:
            raise ValueError(
                f"{self.name} has no weights yet. Received: fields of shape "
                f"{tuple(fields.shape)}; call the layer on a batch first"
            )
        # Keras casts inputs and weights only inside `__call__`.
        fields = tf.cast(fields, self.compute_dtype)
        first, second = self.activations
        reduce = tf.reduce_mean if self.squeeze == "mean" else tf.reduce_max
        squeezed = reduce(fields, axis=-1)  # [..., F]
        hidden = tf.tensordot(squeezed, tf.cast(self.squeeze_kernel, fields.dtype), 1)
        hidden = first(hidden)  # [..., H]
        return second(
            tf.tensordot(hidden, tf.cast(self.excite_kernel, fields.dtype), 1)
        )

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the fields, each multiplied by its weight."""
        return fields * self.field_weights(fields)[..., tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "squeeze": self.squeeze,
            "activations": [
                tf.keras.activations.serialize(a) for a in self.activations
            ],
        }
