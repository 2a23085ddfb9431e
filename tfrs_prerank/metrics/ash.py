"""All-scenario hit rate: positives from outside the search."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._kept_share import KeptShare


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class ASH(KeptShare):
    """Which share of what users liked elsewhere is among the k best candidates.

    Formula, for one request, with `P_k` its k best candidates and `O+` its candidates
    that the user liked in other scenes (bought from the recommendations, say):

        ASH@k = |P_k & O+| / |O+|

    and the result is the mean over requests with at least one such candidate.
    Candidates whose equal scores straddle the cut are each kept with the same
    probability. A list of at most k candidates gives 1.

    What was exposed here depends on the logged models; what users find elsewhere does
    not. So this is the one offline hit rate that k as large as the forwarded set does
    not make 1 by construction.

    Differs from the reference in that positives which retrieval missed are counted
    out: the metric sees candidates only, so its value is the pre-ranker's share of
    the loss. Which positives belong to a request is the log's affair: those of the
    user's latest relevant query, each (user, document) pair once.

    Args:
        k: size of the forwarded set.
        column: the batch column `[B, L]` of these labels.
        name: default `"ash@<k>"`.

    Call arguments: labels `[B, L]`, above 0 = liked elsewhere, NaN = not known (the
    document still competes); scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    References:
        Zhang et al., "Rethinking the Role of Pre-ranking in Large-scale E-Commerce
        Searching System" (2023), section 3.

    Example:
        >>> import tensorflow as tf
        >>> metric = ASH(k=1)
        >>> metric.update_state([[1.0, 1.0, 0.0]], [[3.0, 2.0, 1.0]])
        >>> float(metric.result())
        0.5
    """

    _unlabelled_compete = True

    def __init__(
        self,
        k: int = 100,
        column: str = "label/out_of_scene",
        name: str | None = None,
    ):
        super().__init__(k, name or f"ash@{k}")
        self.column = column

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {"labels": self.column}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "column": self.column}
