"""The activation that adapts to the distribution of its input."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._batch_normalization import StandardizingLayer
from tfrs_prerank.layers._checks import check_known


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class Dice(StandardizingLayer):
    r"""A leaky ReLU whose bend is smooth and lies at the mean of the unit's input.

        f(s) = p s + (1 - p) alpha s                                 (DIN, eq. 9)
        p    = sigmoid((s - E[s]) / sqrt(Var[s] + epsilon))

    `alpha` is one trained number per unit and starts at 0. In training E and Var are
    those of the batch, over all real positions of all replicas; in inference they are
    moving averages. Cost: a dozen operations per number.

    Masked positions stay out of E, Var and the moving averages, and their outputs are
    0. A unit that is the same everywhere has `Var = 0`; its gradient then is up to
    `1 / sqrt(epsilon)` times larger than that of other units, so raise `epsilon` where
    that may happen.

    Differs from the paper: it trains on one machine and does not say over what E and
    Var go where inputs are padded; here padding changes nothing, and replicas,
    even one without a row, compute what one would.

    >>> import tensorflow as tf
    >>> activation = Dice()
    >>> x = tf.constant([[-2.0], [2.0], [77.0]])
    >>> mask = tf.constant([True, True, False])
    >>> y = activation(x, mask, training=True)  # p = sigmoid(-1), sigmoid(1)
    >>> [round(value, 4) for value in y.numpy()[:, 0].tolist()]
    [-0.5379, 1.4621, 0.0]

    Args:
        momentum: share of the moving averages that a step keeps.
        epsilon: added to the variance.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        x: `[..., d]`, floating point. Masked positions may hold anything.
        mask: bool `[...]`, true = a real position. `None` means all are real.
        training: whether the batch's own statistics are used.

    Returns:
        `[..., d]` in the layer's compute dtype. It is computed in float32.

    Raises:
        ValueError: an argument is out of range, or `d` is unknown.
        TypeError: the mask is not bool.

    References:
        Zhou et al., Deep Interest Network, https://arxiv.org/abs/1706.06978, eq. 9;
        `epsilon` is its 1e-8.
    """

    def __init__(
        self, momentum: float = 0.99, epsilon: float = 1e-8, **kwargs: Any
    ) -> None:
        super().__init__(momentum, epsilon, **kwargs)
        self.supports_masking = True
        if not epsilon > 0:
            raise ValueError(
                "`epsilon` must be positive: the variance of equal numbers is 0. "
                f"Received: {epsilon!r}"
            )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates `alpha` and the moving averages."""
        size = check_known("Dice", "number of units", tf.TensorShape(input_shape)[-1])
        self.alpha = self.add_weight("alpha", [size], initializer="zeros")
        self.add_moving_averages(size)
        super().build(input_shape)

    def call(
        self, x: tf.Tensor, mask: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Returns the activations."""
        values = tf.cast(x, self.statistics_dtype)
        if mask is not None:
            if mask.dtype != tf.bool:
                raise TypeError(
                    "The mask of Dice must be bool, true = a real position. "
                    f"Received: dtype {mask.dtype.name}; pass `mask > 0`"
                )
            # Zeros, not weights of zero: a pad may hold anything, and 0 * inf is NaN.
            values = tf.where(mask[..., tf.newaxis], values, 0.0)
        mean, variance = self.moments(values, mask, training)
        share = tf.sigmoid((values - mean) * tf.math.rsqrt(variance + self.epsilon))
        alpha = tf.cast(self.alpha, values.dtype)
        return tf.cast(values * (alpha + share * (1.0 - alpha)), self.compute_dtype)
