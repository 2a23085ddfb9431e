"""Normalised discounted cumulative gain."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff
from tfrs_prerank.metrics._ties import tie_groups


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class NDCG(ListMetric):
    """How close the order of a list comes to the best order of its graded labels.

    Formula, for one list, ranks `r` from 1:

        DCG@k  = sum_{r <= k} (2^y(r) - 1) / log2(1 + r)
        NDCG@k = DCG@k / IDCG@k,    IDCG@k = DCG@k of the best order

    and the result is the mean over lists with at least one positive label; other
    lists are left out, not counted as 0. Documents with equal scores share the mean
    of their gains in each of their ranks: the expected NDCG over random orders of
    them.

    Differs from most implementations in that ties are averaged, where a stable sort
    would favour the logged order.

    Args:
        k: number of ranks that count; None = all.
        name: default `"ndcg@<k>"`, or `"ndcg"`.

    Call arguments: labels `[B, L]`, not negative, NaN = absent; scores `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    References:
        Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques"
        (TOIS 2002); Burges et al., "Learning to Rank using Gradient Descent" (ICML
        2005) for the gain; McSherry and Najork, "Computing Information Retrieval
        Performance Measures Efficiently in the Presence of Tied Scores" (ECIR 2008).

    Example:
        >>> import tensorflow as tf
        >>> metric = NDCG(k=2)
        >>> metric.update_state([[0.0, 1.0, 0.0]], [[3.0, 2.0, 1.0]])
        >>> round(float(metric.result()), 4)  # 1 / log2(3)
        0.6309
    """

    def __init__(self, k: int | None = 10, name: str | None = None):
        check_cutoff("NDCG", k, optional=True)
        super().__init__(name or ("ndcg" if k is None else f"ndcg@{k}"))
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
        gains = tf.math.expm1(math.log(2.0) * labels)  # 2^y - 1, faster than a power
        ranks = tf.cast(tf.range(1, tf.shape(scores)[1] + 1), tf.float64)
        discounts = math.log(2.0) / tf.math.log1p(ranks)
        if self.k is not None:
            discounts = tf.where(ranks <= self.k, discounts, tf.zeros_like(ranks))
        # area[n] = the discounts of the first n ranks.
        area = tf.concat([tf.zeros([1], tf.float64), tf.cumsum(discounts)], axis=0)

        groups = tie_groups(scores, valid)
        mean_gain = tf.math.divide_no_nan(groups.sum(gains), groups.size)
        first = tf.cast(groups.ahead, tf.int32)
        last = tf.cast(groups.ahead + groups.size, tf.int32)
        share = tf.gather(area, last) - tf.gather(area, first)
        dcg = tf.reduce_sum(mean_gain * share, axis=1)

        counted = tf.shape(scores)[1]
        if self.k is not None:
            counted = tf.minimum(self.k, counted)
        ideal = tf.math.top_k(gains, counted).values
        best = tf.reduce_sum(ideal * discounts[:counted], axis=1)
        # Rounding can put the best order a hair above 1.
        ndcg = tf.minimum(tf.math.divide_no_nan(dcg, best), 1.0)
        return ndcg, tf.cast(best > 0, tf.float64)
