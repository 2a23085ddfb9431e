"""How much of the ranker's best possible total score the top k keeps."""

from __future__ import annotations

from typing import Any, Literal, get_args

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff
from tfrs_prerank.metrics._ties import top

Gain = Literal["sigmoid", "shift"]


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class ScoreRecall(ListMetric):
    """How much of the ranker's gain the k best candidates hold, of what k could hold.

    Formula, for one request, with `P_k` the k best candidates by score, `R_k` the k
    best by the ranker and `g` the gain of a candidate:

        ScoreRecall@k = sum_{i in P_k} g_i / sum_{i in R_k} g_i

        gain="sigmoid":  g_i = 1 / (1 + exp(-r_i)),  the probability of logit r_i
        gain="shift":    g_i = r_i - min_j r_j,      for ranker scores on any scale

    and the result is the mean over requests where the denominator is above 0 (with
    `"shift"`, where the ranker's scores are not all equal). Candidates whose equal
    scores straddle the cut are each kept with the same probability. A list of at most
    k candidates gives 1.

    Softer than `RankerHitRate`: a candidate that the ranker likes nearly as much as
    another is nearly as good. A sum of raw scores would not do, as negative ones make
    a smaller set look better.

    Args:
        k: size of the forwarded set.
        gain: `"sigmoid"` or `"shift"`.
        name: default `"score_recall@<k>"`.

    Call arguments: labels `[B, L]`, the ranker's scores (`teacher/<task>`), NaN = none
    (the candidate is left out); scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, `gain` is unknown, or shapes do not
            fit.

    Example:
        >>> import tensorflow as tf
        >>> metric = ScoreRecall(k=1, gain="shift")
        >>> metric.update_state([[4.0, 3.0, 2.0]], [[1.0, 2.0, 0.0]])
        >>> float(metric.result())  # (3 - 2) / (4 - 2)
        0.5
    """

    def __init__(self, k: int = 100, gain: Gain = "sigmoid", name: str | None = None):
        check_cutoff("ScoreRecall", k)
        if gain not in get_args(Gain):
            raise ValueError(
                f"ScoreRecall: gain={gain!r} is unknown: give 'sigmoid' for logits or "
                "'shift' for scores on any scale."
            )
        super().__init__(name or f"score_recall@{k}")
        self.k = k
        self.gain = gain

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {"labels": "teacher/{task}"}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "k": self.k, "gain": self.gain}

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        gains = tf.where(valid, self._gains(labels, valid), tf.zeros([], tf.float64))
        kept = top(scores, valid, self.k).sum(gains)
        best = top(labels, valid, self.k).sum(gains)
        # Rounding can put the best set a hair above itself.
        recall = tf.minimum(tf.math.divide_no_nan(kept, best), 1.0)
        return recall, tf.cast(best > 0, tf.float64)

    def _gains(self, ranker: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        if self.gain == "sigmoid":
            return tf.sigmoid(ranker)
        largest = tf.constant(float("inf"), tf.float64)
        known = tf.where(valid, ranker, largest)
        return ranker - tf.reduce_min(known, axis=1, keepdims=True)
