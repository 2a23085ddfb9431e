"""The sum of exponentials that the losses over a list divide by."""

from __future__ import annotations

import tensorflow as tf


def log_mass(scores: tf.Tensor, where: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes `log sum_j exp(s_j)` over documents of each list, in two parts.

    The parts are apart because `(top - s_i) + rest` keeps the small difference of two
    large scores, which `(top + rest) - s_i` loses.

    Args:
        scores: `[..., list_size]`.
        where: bool, the documents that are summed.

    Returns:
        `(top, rest)`, both `[..., 1]`: their sum is the logarithm, and `top`, which
        passes no gradient, the largest score. Where no document is summed, or only
        such of score minus infinity, `top` is the lowest finite number and `rest` 0.
    """
    lowest = scores.dtype.min
    top = tf.reduce_max(tf.where(where, scores, lowest), axis=-1, keepdims=True)
    top = tf.stop_gradient(tf.maximum(top, lowest))
    shifted = tf.where(where, scores - top, 0.0)
    mass = tf.reduce_sum(tf.where(where, tf.exp(shifted), 0.0), axis=-1, keepdims=True)
    # The inner where keeps log(0) out of the gradient.
    return top, tf.math.log(tf.where(tf.equal(mass, 0.0), tf.ones_like(mass), mass))
