"""Share of the ranker's top m that the pre-ranker's top k keeps."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._kept_share import KeptShare
from tfrs_prerank.metrics._list_metric import check_cutoff
from tfrs_prerank.metrics._ties import top


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class RankerHitRate(KeptShare):
    """How many of the ranker's m best candidates the pre-ranker's k best hold: HR@k,m.

    Formula, for one request of n candidates, with `P_k` the k best by score and `R_m`
    the m best of the same candidates by the ranker:

        HR@k,m = |P_k & R_m| / min(m, n)

    and the result is the mean over requests. Where equal scores straddle a cut, of
    the pre-ranker or of the ranker, each of their documents is in the set with the
    same probability, independently on the two sides. So a random order has k / n, and
    a list of at most k candidates 1.

    Usually m is much smaller than k: the ranker's favourites must be in the forwarded
    set, in whatever order. The metric rewards imitation only: a ranker that knows
    exposed documents alone passes its bias on. Put `ASH` beside it.

    A candidate without the ranker's score (NaN) is left out of both sets, so the
    ranker must have scored all candidates, also those that were not forwarded. Else
    the value is that of the forwarded candidates alone.

    Args:
        k: size of the forwarded set.
        m: how many of the ranker's best count.
        name: default `"ranker_hit_rate@<k>,<m>"`.

    Call arguments: labels `[B, L]`, the ranker's scores (`teacher/<task>`), NaN =
    none; scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` or `m` is not a positive integer, or shapes do not fit.

    References:
        Wang et al., "COLD: Towards the Next Generation of Pre-Ranking System" (2020),
        where it is the recall.

    Example:
        >>> import tensorflow as tf
        >>> metric = RankerHitRate(k=2, m=2)
        >>> metric.update_state([[0.9, 0.1, 0.8, 0.2]], [[4.0, 3.0, 2.0, 1.0]])
        >>> float(metric.result())  # {0, 1} holds 0 of {0, 2}
        0.5
    """

    def __init__(self, k: int = 100, m: int = 10, name: str | None = None):
        super().__init__(k, name or f"ranker_hit_rate@{k},{m}")
        check_cutoff(type(self).__name__, m, what="m")
        self.m = m

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {"labels": "teacher/{task}"}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "m": self.m}

    def _value_of_documents(
        self, labels: tf.Tensor, valid: tf.Tensor, **columns: tf.Tensor
    ) -> tf.Tensor:
        return top(labels, valid, self.m).probability
