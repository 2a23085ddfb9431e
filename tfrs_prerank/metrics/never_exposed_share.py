"""Share of never exposed documents among those forwarded."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._forwarded_share import ForwardedShare


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class NeverExposedShare(ForwardedShare):
    """Which share of the k best documents no user had been shown before.

    Formula, for one request, with `P_k` its k best documents and `e` a document's
    number of exposures:

        NeverExposedShare@k = |{i in P_k: e_i = 0}| / |P_k|

    and the result is the mean over requests. Documents whose equal scores straddle the
    cut are each kept with the same probability. With k at least as large as the list
    the value is that of the candidates themselves: compare with it.

    It shows the loop in which a system learns from what it showed: with a value near
    0, what was never shown never will be. The number of exposures is that at the time
    of the request, so take a point-in-time counter.

    Args:
        column: the batch column `[B, L]` with the number of exposures, such as the
            name of a feature.
        k: size of the forwarded set.
        name: default `"never_exposed_share@<k>"`.

    Call arguments: labels `[B, L]`, the exposures, NaN = not known (the document is
    left out); scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.

    Example:
        >>> import tensorflow as tf
        >>> metric = NeverExposedShare("exposures", k=2)
        >>> metric.update_state([[90.0, 0.0, 0.0]], [[3.0, 2.0, 1.0]])
        >>> float(metric.result())
        0.5
    """

    def __init__(self, column: str, k: int = 100, name: str | None = None):
        super().__init__(column, k, name or f"never_exposed_share@{k}")

    def _is_of_the_kind(self, counts: tf.Tensor) -> tf.Tensor:
        return counts <= 0
