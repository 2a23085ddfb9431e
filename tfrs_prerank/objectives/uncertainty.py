"""Weights of an objective's terms that are learned from their uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfrs_prerank.distribution import global_sum

LEAST_MEAN = 1e-4
"""What a term's mean counts as at least, where its uncertainty is learned from it."""

Sums = Mapping[str, tuple[tf.Tensor, tf.Tensor]]
"""The sum of each term's losses and what it must be divided by, by name."""


def fixed_sum(sums: Sums, weights: Mapping[str, Any]) -> tf.Tensor:
    """Returns the terms' weighted sum, `sum_k weight_k value_k / count_k`.

    >>> import tensorflow as tf
    >>> sums = {"click": (tf.constant(6.0), tf.constant(2.0))}
    >>> float(fixed_sum(sums, {"click": 0.5}))
    1.5

    Args:
        sums: scalars of this replica; counts are added up over all.
        weights: of the terms, by name.
    """
    parts = [
        weights[name] * tf.math.divide_no_nan(value, global_sum(count))
        for name, (value, count) in sums.items()
    ]
    return tf.add_n(parts)


def uncertain(
    values: tf.Tensor, counts: tf.Tensor, log_variances: tf.Tensor
) -> tf.Tensor:
    """Divides sums of losses by their variance, and adds what a variance costs.

        exp(-s) value + s / 2 count

    That is, every document or list that counts has the loss `exp(-s) l + s / 2`. The
    smallest is at `exp(s) = 2 value / count`.

    A mean below 1e-4 counts as 1e-4 and has no gradient: the variance of a term that
    is learned to the last document would fall without end.

    >>> import tensorflow as tf
    >>> float(uncertain(tf.constant(6.0), tf.constant(2.0), tf.math.log(3.0)))
    3.0986123085021973

    Args:
        values: sums of losses, any shape.
        counts: what they must be divided by, the same shape.
        log_variances: s, the same shape.

    Returns:
        The same shape.
    """
    values = tf.maximum(values, LEAST_MEAN * counts)
    return tf.exp(-log_variances) * values + 0.5 * log_variances * counts


class UncertaintyWeights(tf.keras.layers.Layer):
    """Learns how much each term of an objective counts (`weighting="uncertainty"`).

        L = sum_k weight_k (exp(-s_k) L_k + s_k / 2),    s_k = log sigma_k^2

    which is equation 10 of the paper, of a likelihood that is a softmax or a sigmoid
    with the temperature sigma^2. Its equation 7, of regressions, has half the loss;
    `s_k` would differ by log 2 and the terms' weights among each other not at all.
    Almost all losses are negative log likelihoods of the first kind, so all are taken
    as such.

    A term without a usable list in the batch leaves its `s_k` as it is: the gradient
    has no row for it. (`LazyAdam` keeps to that; an optimiser with dense momentum does
    not.)

    Args:
        names: of the terms.

    References:
        Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
        Geometry and Semantics, CVPR 2018, https://arxiv.org/abs/1705.07115.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(name="uncertainty", dtype="float32", autocast=False)
        self.names = tuple(names)
        self.log_variances = self.add_weight(
            "log_variances",
            [len(self.names)],
            initializer="zeros",
            experimental_autocast=False,
        )
        self.built = True

    def combine(self, sums: Sums, weights: Mapping[str, Any]) -> tf.Tensor:
        """Returns the objective's value, a float32 scalar; see `fixed_sum`."""

        def stacked(scalars: Iterable[Any]) -> tf.Tensor:
            return tf.stack([tf.cast(scalar, tf.float32) for scalar in scalars])

        values = stacked(sums[name][0] for name in self.names)
        counts = stacked(sums[name][1] for name in self.names)
        shares = stacked(weights[name] for name in self.names)
        shares = tf.math.divide_no_nan(shares, global_sum(counts))
        # Only rows of what counts: a lazy optimiser leaves the others as they are.
        rows = tf.where(shares > 0)[:, 0]
        values, counts, shares, log_variances = (
            tf.gather(of_terms, rows)
            for of_terms in (values, counts, shares, self.log_variances)
        )
        return tf.reduce_sum(shares * uncertain(values, counts, log_variances))

    def variance(self, name: str) -> tf.Tensor:
        """Returns what a term's loss is divided by, `exp(s_k)`, a float32 scalar."""
        return tf.exp(self.log_variances[self.names.index(name)])
