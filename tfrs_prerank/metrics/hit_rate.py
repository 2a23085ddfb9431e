"""Share of the positives that the top k keeps."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff, is_positive
from tfrs_prerank.metrics._ties import tie_groups


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class HitRate(ListMetric):
    """Which share of a list's positives is among its k best scores.

    Formula, for one list, with `P_k` its k best documents and `Y+` its documents with
    a label above 0:

        HitRate@k = |P_k & Y+| / |Y+|

    and the result is the mean over lists with at least one positive. Of documents
    whose equal scores straddle the cut, each is kept with the same probability.

    Differs from the hit rate of many recommender papers, which is 1 as soon as *any*
    positive is in the top k: a pre-ranker forwards a set, and every positive that it
    drops is lost. With one positive per list the two are equal. More than k positives
    cannot give 1.

    Args:
        k: size of the forwarded set.
        name: default `"hit_rate@<k>"`.

    Call arguments: labels `[B, L]`, NaN = absent; scores `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    Example:
        >>> import tensorflow as tf
        >>> metric = HitRate(k=2)
        >>> metric.update_state([[1.0, 0.0, 1.0]], [[3.0, 2.0, 1.0]])
        >>> float(metric.result())
        0.5
    """

    def __init__(self, k: int = 10, name: str | None = None):
        check_cutoff("HitRate", k, optional=False)
        super().__init__(name or f"hit_rate@{k}")
        self.k = k

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "k": self.k}

    def _per_list(
        self, labels: tf.Tensor, scores: tf.Tensor, valid: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        groups = tie_groups(scores, valid)
        positives = groups.sum(is_positive(labels))
        places = tf.clip_by_value(self.k - groups.ahead, 0.0, groups.size)
        kept = positives * tf.math.divide_no_nan(places, groups.size)
        total = tf.reduce_sum(positives, axis=1)
        rate = tf.math.divide_no_nan(tf.reduce_sum(kept, axis=1), total)
        return rate, tf.cast(total > 0, tf.float64)
