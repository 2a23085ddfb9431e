"""Additive attention with one query per example."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._attention import (
    QueryKeysLayer,
    additive_hidden,
    masked_softmax,
    weighted_sum,
)
from tfrs_prerank.layers._checks import check_positive_int
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class AdditiveAttention(QueryKeysLayer):
    """Averages the keys by what a small network finds of query and key together.

        f_t = v . tanh(q A + k_t C + b)
        a   = softmax(f),   output = sum_t a_t k_t

    `A` is `[d, units]`, `C` is `[D, units]`, `b` and `v` are `[units]`: query and keys
    may differ in size. The keys are the values too.

    Cost per request, in multiply-adds: `units (d + T D + T) + T D`. `q A + b` is
    computed once for all keys, and nothing grows with the number of documents.

    Differs from the paper: it attends from the state of a decoder and has no `b`; an
    example whose keys are all masked gives the zero vector. The weights always add up
    to 1; where weak keys should count for little altogether use
    `ZeroAttention(score="additive")`.

    >>> import tensorflow as tf
    >>> attend = AdditiveAttention(units=8)
    >>> query, keys = tf.ones([2, 3]), tf.ones([2, 5, 4])
    >>> mask = tf.constant([[True] * 5, [False] * 5])
    >>> user = attend(query, keys, mask)
    >>> user.shape
    TensorShape([2, 4])
    >>> user[1].numpy().tolist()  # no history
    [0.0, 0.0, 0.0, 0.0]

    Args:
        units: size of the hidden layer. `None` means `D`.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        query: `[B, d]`, floating point.
        keys: `[B, T, D]`, floating point. Masked keys may hold anything.
        mask: bool `[B, T]`, true = a real key. `None` means all are real.

    Returns:
        `[B, D]` in the layer's compute dtype. Logits, softmax and sum are computed in
        float32.

    Raises:
        ValueError: `units` is out of range, a shape is of the wrong rank, or `d` or
            `D` is unknown.
        TypeError: the mask is not bool.

    References:
        Bahdanau et al., Neural Machine Translation by Jointly Learning to Align and
        Translate, https://arxiv.org/abs/1409.0473, eq. 5-6 and appendix A.1.2.
    """

    def __init__(self, units: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = None if units is None else check_positive_int("units", units)

    def build(self, input_shape: tuple[tf.TensorShape, tf.TensorShape]) -> None:
        """Creates the weights of the hidden layer and of the logit."""
        query_size, key_size = self.sizes(input_shape)
        units = self.units or key_size
        glorot = "glorot_uniform"
        self.query_kernel = self.add_weight(
            "query_kernel", [query_size, units], initializer=glorot
        )
        self.key_kernel = self.add_weight(
            "key_kernel", [key_size, units], initializer=glorot
        )
        self.bias = self.add_weight("bias", [units], initializer="zeros")
        # A column: the initialiser would take a vector's length for both its sizes.
        self.score_kernel = self.add_weight(
            "score_kernel", [units, 1], initializer=glorot
        )
        super().build(input_shape)

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the weighted mean of the keys."""
        keys = self.real_keys(keys, mask)
        hidden = additive_hidden(
            query, keys, self.query_kernel, self.key_kernel, self.bias
        )
        logits = tf.tensordot(accumulate(hidden), accumulate(self.score_kernel), 1)
        weights = masked_softmax(tf.squeeze(logits, -1), mask)  # [B, T]
        return weighted_sum(weights, keys)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "units": self.units}
