"""Scaled dot-product attention with one query per example."""

from __future__ import annotations

import math

import tensorflow as tf

from tfrs_prerank.layers._attention import QueryKeysLayer, masked_softmax, weighted_sum
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class DotProductAttention(QueryKeysLayer):
    """Averages the keys, those most like the query counting most.

        a = softmax(K q / sqrt(D)),   output = sum_t a_t k_t          (eq. 5-8)

    The keys are the values too. Where the query has the size of the keys there are
    no weights; where it has another one, it is first projected (`[d, D]`, no bias).

    Cost per request: `2 T D` multiply-adds, and `d D` for a projection. It does not
    grow with the number of documents.

    Differs from the source: an example whose keys are all masked gives the zero
    vector; plain softmax would average the pads. Use `ZeroAttention` where weak
    keys should count for little altogether: here the weights always add up to 1.

    >>> import tensorflow as tf
    >>> attend = DotProductAttention()
    >>> query = tf.constant([[1.0, 0.0]])
    >>> keys = tf.constant([[[5.0, 1.0], [5.0, 3.0], [9.0, 9.0]]])
    >>> mask = tf.constant([[True, True, False]])
    >>> attend(query, keys, mask).numpy().tolist()  # equal logits: the mean
    [[5.0, 2.0]]

    Call arguments:
        query: `[B, d]`, floating point.
        keys: `[B, T, D]`, floating point. Masked keys may hold anything.
        mask: bool `[B, T]`, true = a real key. `None` means all are real.

    Returns:
        `[B, D]` in the layer's compute dtype. Logits and softmax are computed in
        float32.

    Raises:
        ValueError: a shape is of the wrong rank, or `d` or `D` is unknown.
        TypeError: the mask is not bool.

    References:
        Vaswani et al., Attention Is All You Need,
        https://arxiv.org/abs/1706.03762, eq. 1.
    """

    def build(self, input_shape: tuple[tf.TensorShape, tf.TensorShape]) -> None:
        """Creates the projection if query and keys differ in size."""
        query_size, key_size = self.sizes(input_shape)
        self.query_kernel = None
        if query_size != key_size:
            self.query_kernel = self.add_weight(
                "query_kernel", [query_size, key_size], initializer="glorot_uniform"
            )
        super().build(input_shape)

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the weighted mean of the keys."""
        keys = self.real_keys(keys, mask)
        if self.query_kernel is not None:
            query = tf.matmul(query, self.query_kernel)
        # float32 before the product: float16 would overflow at 65504.
        rows = accumulate(query)[:, tf.newaxis]
        logits = tf.squeeze(tf.matmul(rows, accumulate(keys), transpose_b=True), axis=1)
        weights = masked_softmax(logits / math.sqrt(keys.shape[-1]), mask)  # [B, T]
        return weighted_sum(weights, keys)
