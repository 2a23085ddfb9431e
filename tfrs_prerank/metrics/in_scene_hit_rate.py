"""Share of the positives of the own scene that the top k of all candidates keeps."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._kept_share import KeptShare


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class InSceneHitRate(KeptShare):
    """Which share of what users liked here is among the k best of all candidates.

    Formula, for one request, with `P_k` its k best candidates and `Y+` its exposed
    documents with a label above 0:

        InSceneHitRate@k = |P_k & Y+| / |Y+|

    and the result is the mean over requests with at least one positive. Candidates
    whose equal scores straddle the cut are each kept with the same probability. A
    list of at most k candidates gives 1.

    Differs from `HitRate` in who competes: here a document without a label (NaN)
    stays a candidate, as most candidates were never shown and so have none. There it
    is left out, and the exposed documents compete among themselves.

    Two cautions. With k as large as the set that the logged pre-ranker forwarded, its
    own value is 1 by construction: choose a smaller k. And only what was exposed can
    be a positive, which favours models that resemble the logged one; put `ASH` beside
    it.

    Args:
        k: size of the forwarded set.
        name: default `"in_scene_hit_rate@<k>"`.

    Call arguments: labels `[B, L]`, NaN = not shown; scores `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    References:
        Zhang et al., "Rethinking the Role of Pre-ranking in Large-scale E-Commerce
        Searching System" (2023), section 3.

    Example:
        >>> import tensorflow as tf
        >>> nan = float("nan")
        >>> metric = InSceneHitRate(k=2)
        >>> metric.update_state([[1.0, nan, 1.0, 0.0]], [[3.0, 2.0, 1.0, 0.0]])
        >>> float(metric.result())
        0.5
    """

    _unlabelled_compete = True

    def __init__(self, k: int = 100, name: str | None = None):
        super().__init__(k, name or f"in_scene_hit_rate@{k}")
