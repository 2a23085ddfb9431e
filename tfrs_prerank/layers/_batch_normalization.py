"""Batch normalisation over the real rows of all replicas."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.distribution import global_sum
from tfrs_prerank.layers._checks import check_known


class StandardizingLayer(tf.keras.layers.Layer):
    r"""Base of layers that standardise every unit over the rows of a batch.

    $$\frac{x - E[x]}{\sqrt{Var[x] + \epsilon}}$$

    In training E and Var are taken over the rows of all replicas, whatever share of
    them each replica has; in inference they are the moving averages.

    Differs from `tf.keras.layers.BatchNormalization(synchronized=True)`, which leaves a
    replica without rows out of the moving averages (they were off by 12%) and sums
    statistics in bfloat16 under `mixed_bfloat16`: here they are float32 (float64 in a
    float64 layer) under every policy, and a step without any row changes nothing.

    Args:
        momentum: share of the moving averages that a step keeps.
        epsilon: added to the variance.
        **kwargs: arguments of `tf.keras.layers.Layer`.
    """

    def __init__(self, momentum: float, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: {momentum!r}")
        if epsilon < 0:
            raise ValueError(f"`epsilon` must not be negative. Received: {epsilon!r}")
        self.momentum = momentum
        self.epsilon = epsilon

    @property
    def statistics_dtype(self) -> tf.DType:
        """The dtype of statistics and of what is computed with them."""
        return tf.float64 if self.compute_dtype == "float64" else tf.float32

    def add_moving_averages(self, size: int) -> None:
        """Creates the moving mean and variance of `size` units."""
        # Every replica computes the same averages, so none has to be sent on.
        moving: dict[str, Any] = {
            "dtype": self.statistics_dtype,
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
            "experimental_autocast": False,
        }
        self.moving_mean = self.add_weight(
            "moving_mean", [size], initializer="zeros", **moving
        )
        self.moving_variance = self.add_weight(
            "moving_variance", [size], initializer="ones", **moving
        )

    def moments(
        self, values: tf.Tensor, used: tf.Tensor | None, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and variance `[d]`, and moves the averages in training.

        Args:
            values: `[..., d]`, of `statistics_dtype`; finite, also where not used.
            used: bool `[...]`, true = a row that counts. `None` means all do.
            training: whether the rows' own statistics are wanted.
        """
        if training:
            return self._statistics(values, used)
        # Weights that were extrapolated from those of several trainings may be below
        # 0, whose root is NaN.
        return self.moving_mean, tf.maximum(self.moving_variance, 0.0)

    def _statistics(
        self, values: tf.Tensor, used: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and variance of all used rows and moves the averages."""
        size = values.shape[-1]
        values = tf.reshape(values, [-1, size])
        if used is None:
            count = tf.cast(tf.shape(values)[:1], values.dtype)
        else:
            weights = tf.cast(tf.reshape(used, [-1, 1]), values.dtype)
            count = tf.reduce_sum(weights, axis=0)
            values *= weights
        total = tf.reduce_sum(values, axis=0)
        sums = global_sum(tf.concat([count, total], axis=0))
        count, total = tf.split(sums, [1, size])
        mean = tf.math.divide_no_nan(total, count)
        # A second message between the replicas: E[x^2] - E[x]^2, which needs one only,
        # loses the variance of rows that are far from 0.
        squares = tf.square(values - mean)
        if used is not None:
            squares *= weights
        squares = global_sum(tf.reduce_sum(squares, axis=0))
        variance = tf.math.divide_no_nan(squares, count)
        kept = tf.where(count > 0, tf.cast(self.momentum, count.dtype), 1.0)
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            average.assign(kept * average + (1 - kept) * tf.stop_gradient(value))
        return mean, variance

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class RowBatchNormalization(StandardizingLayer):
    r"""Batch normalisation whose statistics are those of every replica's rows.

    $$y = \gamma \frac{x - E[x]}{\sqrt{Var[x] + \epsilon}} + \beta$$

    E and Var, and how they differ from those of
    `tf.keras.layers.BatchNormalization`: see `StandardizingLayer`.

    Args:
        momentum: share of the moving averages that a step keeps.
        epsilon: added to the variance.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        x: `[rows, d]`, floating point.
        training: whether the rows' own statistics are used.

    Returns:
        `[rows, d]` in the layer's compute dtype.

    References:
        Ioffe and Szegedy, Batch Normalization, https://arxiv.org/abs/1502.03167,
        algorithm 1.

    >>> import tensorflow as tf
    >>> layer = RowBatchNormalization(epsilon=0.0)
    >>> layer(tf.constant([[1.0], [3.0]]), training=True).numpy().tolist()
    [[-1.0], [1.0]]
    """

    def __init__(
        self, momentum: float = 0.99, epsilon: float = 1e-3, **kwargs: Any
    ) -> None:
        super().__init__(momentum, epsilon, **kwargs)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates scale, offset and moving averages."""
        size = check_known(
            "RowBatchNormalization", "row size", tf.TensorShape(input_shape)[-1]
        )
        dtype = self.statistics_dtype
        self.gamma = self.add_weight("gamma", [size], dtype, initializer="ones")
        self.beta = self.add_weight("beta", [size], dtype, initializer="zeros")
        self.add_moving_averages(size)
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises rows."""
        values = tf.cast(x, self.statistics_dtype)
        mean, variance = self.moments(values, None, training)
        gamma, beta = (tf.cast(w, values.dtype) for w in (self.gamma, self.beta))
        scale = gamma * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast((values - mean) * scale + beta, self.compute_dtype)
