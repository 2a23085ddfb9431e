"""AUC within the ranker's top k."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff, is_positive
from tfrs_prerank.metrics._ties import tie_groups, top


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class PAUC(ListMetric):
    """How often a positive scores above a negative, both in the ranker's top k.

    Formula, for one request, with `R_k` the k best candidates by the ranker, `p` its
    members with a label above 0 and `n` its other members that have a label:

        PAUC@k = mean over (p, n) of  1 if s_p > s_n,  1/2 if s_p = s_n,  else 0

    and the result is the mean over requests with at least one such pair, each counted
    once. Where equal scores of the ranker straddle its cut, a pair has as weight the
    probability that both of its documents are among the k best.

    Never the sole target: it looks at the few documents at the very top, where the
    ranker decides anyway. In the reference it is best for the baseline, whose hit rate
    is worst. It is not the partial AUC over a range of false positive rates.

    Reads logits: the metric belongs to one task, not to the fused scores. A document
    without a label (NaN) takes its place in the ranker's top and is in no pair; one
    without the ranker's score is left out.

    Args:
        k: how many of the ranker's best count.
        name: default `"pauc@<k>"`.

    Call arguments: labels `[B, L]`, NaN = absent; logits `[B, L]`; `ranker` `[B, L]`,
    the ranker's scores (`teacher/<task>`), NaN = none; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.
        TypeError: `ranker` is missing.

    References:
        Zhang et al., "Rethinking the Role of Pre-ranking in Large-scale E-Commerce
        Searching System" (2023), table 1.

    Example:
        >>> import tensorflow as tf
        >>> metric = PAUC(k=3)
        >>> labels, ranker = [[1.0, 0.0, 0.0, 0.0]], [[9.0, 8.0, 7.0, 1.0]]
        >>> metric.update_state(labels, [[2.0, 3.0, 1.0, 4.0]], ranker=ranker)
        >>> float(metric.result())  # above one of two; the fourth is not in the top
        0.5
    """

    reads = "logits"
    _unlabelled_compete = True

    def __init__(self, k: int = 10, name: str | None = None):
        check_cutoff("PAUC", k)
        super().__init__(name or f"pauc@{k}")
        self.k = k

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {**super().columns, "ranker": "teacher/{task}"}

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
        ranker = tf.cast(columns["ranker"], tf.float64)
        valid = valid & ~tf.math.is_nan(ranker)
        best = top(ranker, valid, self.k)
        labelled = tf.cast(valid & ~tf.math.is_nan(labels), tf.float64)
        positive = labelled * is_positive(labels)
        negative = labelled - positive

        # Two documents at the cut do not get in independently: of n for r places,
        # both have r (r - 1) / (n (n - 1)), and not (r / n)^2.
        ties, places, share = best.ties[:, 0], best.places[:, 0], best.share[:, 0]
        both = tf.math.divide_no_nan(places * (places - 1.0), ties * (ties - 1.0))
        certain = tf.cast(best.certain, tf.float64)
        tied = tf.cast(best.tied, tf.float64)

        groups = tie_groups(scores, valid)
        above = [groups.sum(positive * kind) for kind in (certain, tied)]
        below = [groups.sum(negative * kind) for kind in (certain, tied)]
        won = pairs = tf.zeros_like(share)
        for first, weights in zip(above, ((1.0, share), (share, both)), strict=True):
            for second, weight in zip(below, weights, strict=True):
                won += weight * tf.reduce_sum(first * _beaten(second), axis=1)
                pairs += weight * tf.reduce_sum(first, 1) * tf.reduce_sum(second, 1)
        auc = tf.math.divide_no_nan(won, pairs)
        return auc, tf.cast(pairs > 0, tf.float64)


def _beaten(negatives: tf.Tensor) -> tf.Tensor:
    """Returns how many negatives each group beats, half of its own."""
    total = tf.reduce_sum(negatives, axis=1, keepdims=True)
    return total - tf.cumsum(negatives, axis=1) + 0.5 * negatives
