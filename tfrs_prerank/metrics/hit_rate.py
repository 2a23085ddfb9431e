"""Share of the positives that the top k keeps."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._kept_share import KeptShare


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class HitRate(KeptShare):
    """Which share of a list's positives is among its k best scores.

    Formula, for one list, with `P_k` its k best documents and `Y+` its documents with
    a label above 0:

        HitRate@k = |P_k & Y+| / |Y+|

    and the result is the mean over lists with at least one positive. Of documents
    whose equal scores straddle the cut, each is kept with the same probability.

    Differs from the hit rate of many recommender papers, which is 1 as soon as *any*
    positive is in the top k: a pre-ranker forwards a set, and every positive that it
    drops is lost. With one positive per list the two are equal. More than k positives
    cannot give 1; a list of at most k documents gives 1.

    A document without a label (NaN) is left out of the list. Where such documents
    compete for the k places, as candidates that were never shown, use
    `InSceneHitRate`.

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
        super().__init__(k, name or f"hit_rate@{k}")
