"""What the attention layers share."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known
from tfrs_prerank.layers._precision import accumulate


class QueryKeysLayer(tf.keras.layers.Layer):
    """Base of layers that are called with `(query, keys, mask)`.

    Keras hands `build` only the shape of the first argument. These layers need the
    sizes of both, so `build` takes the pair `(query shape, keys shape)`, and the
    first call passes it.
    """

    def __call__(
        self,
        query: tf.Tensor,
        keys: tf.Tensor,
        mask: tf.Tensor | None = None,
        **kwargs: Any,
    ) -> tf.Tensor:
        """Builds the layer if need be and attends.

        Args:
            query: `[B, d]`, floating point.
            keys: `[B, T, D]`, floating point.
            mask: bool `[B, T]`, true = a real key. `None` means all are real.
            **kwargs: arguments of `tf.keras.layers.Layer.__call__`.

        Returns:
            `[B, D]` in the layer's compute dtype.
        """
        if not self.built:
            # As Keras builds: outside the graph that may be traced just now.
            with tf.init_scope(), tf.name_scope(self.name):
                self.build((query.shape, keys.shape))
        return super().__call__(query, keys=keys, mask=mask, **kwargs)

    def sizes(self, input_shape: Any) -> tuple[int, int]:
        """Returns `(d, D)` from the pair of shapes given to `build`."""
        name = type(self).__name__
        try:
            query, keys = (tf.TensorShape(shape) for shape in input_shape)
        except (TypeError, ValueError):
            query = keys = tf.TensorShape(None)
        if query.rank != 2 or keys.rank != 3:
            raise ValueError(
                f"{name} takes a query of shape [B, d] and keys of shape [B, T, D]. "
                f"Received: shapes {input_shape}"
            )
        return (
            check_known(name, "query size", query[-1]),
            check_known(name, "key size", keys[-1]),
        )

    def real_keys(self, keys: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Returns the keys in the compute dtype, zero where there is none.

        Zeros, not weights of zero: a pad may hold anything, and `0 * inf` is NaN.
        """
        keys = tf.cast(keys, self.compute_dtype)
        if mask is None:
            return keys
        if mask.dtype != tf.bool:
            raise TypeError(
                f"The mask of {type(self).__name__} must be bool, true = a real key. "
                f"Received: dtype {mask.dtype.name}; pass `mask > 0`"
            )
        # Measured faster than `tf.where`, which is slow where it has to broadcast.
        real = tf.cast(mask[..., tf.newaxis], keys.dtype)
        return tf.math.multiply_no_nan(keys, real)


def additive_hidden(
    query: tf.Tensor,
    keys: tf.Tensor,
    query_kernel: tf.Tensor,
    key_kernel: tf.Tensor,
    bias: tf.Tensor,
) -> tf.Tensor:
    """Returns `tanh(q A + k C + b)`, `[B, T, units]`; `q A + b` once per query."""
    query = tf.matmul(query, query_kernel) + bias
    return tf.tanh(tf.tensordot(keys, key_kernel, 1) + query[:, tf.newaxis, :])


def weighted_sum(weights: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Sums keys `[B, T, D]` with weights `[B, T]` or `[B, heads, T]`.

    Returns:
        `[B, D]` or `[B, heads, D]` in the dtype of the keys, added up in float32 or
        float64.
    """
    wide, weights = accumulate(keys), accumulate(weights)
    if weights.shape.rank == 3:
        return tf.cast(tf.matmul(weights, wide), keys.dtype)
    # A row times a matrix: the gradients of `tf.linalg.matvec` take twice as long.
    total = tf.matmul(weights[:, tf.newaxis], wide)
    return tf.cast(tf.squeeze(total, axis=1), keys.dtype)


def masked_softmax(
    logits: tf.Tensor, mask: tf.Tensor | None, zero_logit: tf.Tensor | None = None
) -> tf.Tensor:
    """Softmax over the last axis that leaves out what is masked.

    Where nothing is left all weights are exactly 0, and so are all gradients.

    Args:
        logits: float32 or float64 `[..., T]`.
        mask: bool, broadcastable to `[..., T]`, or `None`.
        zero_logit: broadcastable to `[..., 1]`: the logit of one more slot that takes
            its share of the weight and is not returned.

    Returns:
        `[..., T]`, of the dtype of the logits. It adds up to 1, or to less with a
        `zero_logit`.
    """
    if mask is not None:
        # The lowest float, not -inf: where all is masked, -inf - -inf is NaN.
        logits = tf.where(mask, logits, logits.dtype.min)
    top = tf.reduce_max(logits, axis=-1, keepdims=True)
    if zero_logit is not None:
        top = tf.maximum(top, zero_logit)
    top = tf.stop_gradient(top)
    powers = tf.exp(logits - top)
    if mask is not None:
        powers = tf.where(mask, powers, 0.0)
    total = tf.reduce_sum(powers, axis=-1, keepdims=True)
    if zero_logit is not None:
        total += tf.exp(zero_logit - top)
    return tf.math.divide_no_nan(powers, total)
