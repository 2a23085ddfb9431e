"""The precision in which layers add up many numbers."""

from __future__ import annotations

import tensorflow as tf


def accumulate(x: tf.Tensor) -> tf.Tensor:
    """Returns `x` in float32, or in its own dtype where that is wider.

    Softmax, means, norms and long sums go through here: float16 overflows at 65504,
    and bfloat16 adds nothing below 1/256 of a sum.
    """
    x = tf.convert_to_tensor(x)
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x
