"""Mean reciprocal rank of the first positive."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class MRR(ListMetric):
    """One over the rank of a list's best-placed positive, averaged over lists.

    Formula, with `r` the rank (from 1) of the first document whose label is above 0:

        RR = 1 / r,  or 0 where r > k

    and the result is the mean over lists with at least one positive. Where the first
    positive is tied, `RR` is the expectation over random orders: with `a` documents
    ahead of a tie group of `n` with `p` positives,

        RR = sum_{j=1}^{n-p+1} C(n-j, p-1) / C(n, p) / (a + j)

    Differs from most implementations in that ties are averaged, where a stable sort
    would favour the logged order.

    Args:
        k: number of ranks that count; None = all.
        name: default `"mrr"`, or `"mrr@<k>"`.

    Call arguments: labels `[B, L]`, NaN = absent; scores `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    References:
        McSherry and Najork, "Computing Information Retrieval Performance Measures
        Efficiently in the Presence of Tied Scores" (ECIR 2008).

    Example:
        >>> import tensorflow as tf
        >>> metric = MRR()
        >>> metric.update_state([[0.0, 1.0], [1.0, 0.0]], [[2.0, 1.0], [2.0, 1.0]])
        >>> float(metric.result())  # (1/2 + 1) / 2
        0.75
    """

    def __init__(self, k: int | None = None, name: str | None = None):
        check_cutoff("MRR", k, optional=True)
        super().__init__(name or ("mrr" if k is None else f"mrr@{k}"))
        self.k = k

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "k": self.k}

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        positive = labels > 0
        lowest = tf.constant(float("-inf"), tf.float64)
        first = tf.reduce_max(tf.where(positive, scores, lowest), axis=1, keepdims=True)
        tied = valid & tf.equal(scores, first)
        n, p, ahead = map(_count, (tied, tied & positive, valid & (scores > first)))

        # Drawing the tied documents one by one: the j-th is the first positive when
        # j - 1 negatives came before it.
        j = tf.cast(tf.range(1, tf.shape(scores)[1] + 1), tf.float64)[tf.newaxis, :]
        left = n - j + 1.0
        inside = left > 0
        left = tf.where(inside, left, tf.ones_like(left))
        negative = tf.where(
            inside, tf.maximum(left - p, 0.0) / left, tf.zeros_like(left)
        )
        missed = tf.math.cumprod(negative, axis=1, exclusive=True)
        probability = tf.where(inside, missed * p / left, tf.zeros_like(left))
        rank = ahead + j
        if self.k is not None:
            probability = tf.where(
                rank <= self.k, probability, tf.zeros_like(probability)
            )
        value = tf.reduce_sum(probability / rank, axis=1)
        return value, tf.cast(tf.reduce_any(positive, axis=1), tf.float64)


def _count(documents: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(documents, tf.float64), axis=1, keepdims=True)
