"""Share of unpopular documents among those forwarded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.metrics._forwarded_share import ForwardedShare


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class TailShare(ForwardedShare):
    """Which share of the k best documents lies outside the popular head.

    Formula, for one request, with `P_k` its k best documents and `c` the popularity of
    a document:

        TailShare@k = |{i in P_k: c_i < head_from}| / |P_k|

    and the result is the mean over requests. Documents whose equal scores straddle the
    cut are each kept with the same probability. With k at least as large as the list
    the value is that of the candidates themselves.

    A model that only learns what is popular forwards the head. The popularity is that
    of the time before the training data's end; a count from the test period would
    know the outcome. `head_of` finds where the head of a catalogue begins.

    Args:
        column: the batch column `[B, L]` with the popularity, such as the name of a
            feature.
        head_from: the popularity from which a document belongs to the head.
        k: size of the forwarded set.
        name: default `"tail_share@<k>"`.

    Call arguments: labels `[B, L]`, the popularity, NaN = not known (the document is
    left out); scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, `head_from` is not a number above 0,
            or shapes do not fit.

    Example:
        >>> import tensorflow as tf
        >>> head = TailShare.head_of([90, 7, 5, 3, 1], share=0.2)
        >>> metric = TailShare("exposures", head_from=head, k=2)
        >>> metric.update_state([[90.0, 7.0, 1.0]], [[3.0, 2.0, 1.0]])
        >>> float(metric.result())  # 7 < 90, in a set of two
        0.5
    """

    def __init__(
        self,
        column: str,
        head_from: float,
        k: int = 100,
        name: str | None = None,
    ):
        super().__init__(column, k, name or f"tail_share@{k}")
        if not float(head_from) > 0:
            raise ValueError(
                f"TailShare: head_from={head_from!r}: give a popularity above 0, else "
                "no document is in the tail; TailShare.head_of(counts) finds one."
            )
        self.head_from = float(head_from)

    @staticmethod
    def head_of(counts: Sequence[float] | np.ndarray, share: float = 0.2) -> float:
        """Returns the popularity from which a document is in the head of a catalogue.

        Documents as popular as the last one of the head are in it too, so it may be
        larger than asked for. Documents with count 0 are never in it.

        Args:
            counts: the popularity of every document of the catalogue, also of those
                that were never shown.
            share: of the catalogue's documents that form the head, above 0, below 1.

        Returns:
            The smallest popularity of the head.

        Raises:
            ValueError: `share` is out of range, counts are negative or NaN, or none is
                above 0.
        """
        values = np.asarray(counts, np.float64).reshape(-1)
        if not 0 < share < 1:
            raise ValueError(f"share={share!r}: give a number between 0 and 1.")
        if not (values >= 0).all() or not (values > 0).any():
            raise ValueError(
                "counts: give a popularity for every document of the catalogue, not "
                f"negative and at least one above 0. Received: {len(values)} counts"
            )
        last = min(len(values), max(1, round(share * len(values)))) - 1
        return float(max(np.sort(values)[::-1][last], values[values > 0].min()))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "head_from": self.head_from}

    def _is_of_the_kind(self, counts: tf.Tensor) -> tf.Tensor:
        return counts < self.head_from
