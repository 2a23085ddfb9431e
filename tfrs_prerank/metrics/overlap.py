"""Overlap of two top sets of one size."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics.ranker_hit_rate import RankerHitRate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class Overlap(RankerHitRate):
    """Which share of the k best candidates pre-ranker and ranker have in common.

    Formula, for one request of n candidates, with `P_k` the k best by score and `R_k`
    the k best of the same candidates by the ranker:

        Overlap@k = |P_k & R_k| / min(k, n)

    and the result is the mean over requests: `RankerHitRate` with m = k. Ties and
    candidates without the ranker's score (NaN) are read as there. A list of at most k
    candidates gives 1 and so says nothing: choose k below the length of the lists.

    Args:
        k: size of both sets.
        name: default `"overlap@<k>"`.

    Call arguments: labels `[B, L]`, the ranker's scores (`teacher/<task>`), NaN =
    none; scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    Example:
        >>> import tensorflow as tf
        >>> metric = Overlap(k=2)
        >>> metric.update_state([[0.9, 0.1, 0.8, 0.2]], [[4.0, 3.0, 2.0, 1.0]])
        >>> float(metric.result())  # {0, 1} and {0, 2}
        0.5
    """

    def __init__(self, k: int = 100, name: str | None = None):
        super().__init__(k, k, name or f"overlap@{k}")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "k": self.k}
