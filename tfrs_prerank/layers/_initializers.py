"""Initial values of kernels that Keras would scale by the wrong sizes."""

from __future__ import annotations

import math

import tensorflow as tf


def glorot(fan_in: float, fan_out: float) -> tf.keras.initializers.Initializer:
    """Returns Glorot's uniform initialiser for kernels of a given size.

    Keras takes the sizes from the weight's shape, and so counts kernels that lie in one
    weight, along leading axes or side by side, as one large kernel.
    """
    limit = math.sqrt(6 / (fan_in + fan_out))
    return tf.keras.initializers.RandomUniform(-limit, limit)


def glorot_factor(
    fan_in: float, fan_out: float, rank: int
) -> tf.keras.initializers.Initializer:
    """Returns an initialiser of two factors whose product has Glorot's variance.

    An entry of `U V^T` is a sum of `rank` products, each with the variance of an entry
    of `U` times that of an entry of `V`. Each factor needs an initialiser of its own:
    one that is used twice draws the same numbers twice.
    """
    variance = math.sqrt(2 / (fan_in + fan_out) / rank)
    limit = math.sqrt(3 * variance)
    return tf.keras.initializers.RandomUniform(-limit, limit)
