"""Share of the catalogue that is forwarded at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrs_prerank.metrics._catalog_metric import CatalogMetric


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class CatalogCoverage(CatalogMetric):
    """Which share of the catalogue is in the k best of at least one request.

    Formula, with `P_k(q)` the k best documents of request `q` and n documents in the
    catalogue:

        CatalogCoverage@k = |union over q of P_k(q)| / n

    Where equal scores straddle the cut, a document is in `P_k(q)` with probability
    `pi_q`, and the value is the expectation over random orders of the tied:

        (1/n) sum_d (1 - prod_q (1 - pi_q(d)))

    The value grows with the number of requests: compare models on the same ones, and
    with the random row. Candidates that no request retrieved count in n.

    There is no value per list. `unknown_documents` counts forwarded documents that are
    not in the catalogue.

    Args:
        documents: all ids of the catalogue, strings or integers, or their number n
            where ids are the integers from 0 to n - 1. A saved configuration holds all
            ids.
        k: size of the forwarded set.
        column: the batch column `[B, L]` of the ids.
        name: default `"catalog_coverage@<k>"`.

    Call arguments: labels `[B, L]`, the ids; scores `[B, L]`; see `update_state`.
    Memory is O(n).

    Raises:
        ValueError: `k` is not a positive integer, the catalogue is empty or holds an
            id twice, or shapes do not fit.
        TypeError: ids are neither strings nor integers.

    Example:
        >>> import tensorflow as tf
        >>> metric = CatalogCoverage(["a", "b", "c", "d"], k=1)
        >>> ids = [["a", "b"], ["c", "a"], ["a", "d"]]
        >>> metric.update_state(ids, [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
        >>> float(metric.result())  # a, c, a
        0.5
    """

    def __init__(
        self,
        documents: int | Sequence[str] | Sequence[int] | np.ndarray,
        k: int = 100,
        column: str = "doc_ids",
        name: str | None = None,
    ):
        super().__init__(documents, k, column, name or f"catalog_coverage@{k}")

    def _adds(self, probability: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        # The log probability of being left out, -inf where it is sure to be kept.
        return tf.math.log1p(-probability)

    def _value(self, by_document: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(-tf.math.expm1(by_document))
