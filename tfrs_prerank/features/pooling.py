"""Several vectors of a row as one."""

from __future__ import annotations

import tensorflow as tf


def pool(embedded: tf.Tensor, used: tf.Tensor, pooling: str) -> tf.Tensor:
    """Pools vectors `[rows, T, D]` over the used ones to `[rows, D]`.

    >>> import tensorflow as tf
    >>> from tfrs_prerank.features.pooling import pool
    >>> vectors = tf.constant([[[1.0], [5.0], [9.0]]])
    >>> used = tf.constant([[True, True, False]])
    >>> pool(vectors, used, "mean").numpy().tolist()
    [[3.0]]

    Args:
        embedded: the vectors.
        used: bool `[rows, T]`.
        pooling: `"mean"` or `"sum"`.

    Returns:
        The pooled vectors; zero where none is used. Summed in float32.
    """
    weights = tf.cast(used, tf.float32)
    total = tf.einsum("rt,rtd->rd", weights, tf.cast(embedded, tf.float32))
    if pooling == "mean":
        total /= tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1.0)
    return tf.cast(total, embedded.dtype)
