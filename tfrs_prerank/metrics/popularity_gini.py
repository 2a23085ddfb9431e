"""How unequally documents are forwarded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrs_prerank.metrics._catalog_metric import CatalogMetric


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class PopularityGini(CatalogMetric):
    """The Gini coefficient of how often each document is among the k best.

    Formula, with `x_1 <= ... <= x_n` the number of requests that forward each of the n
    documents of the catalogue, also of those that none forwards:

        G = sum_i (2 i - n - 1) x_i / (n sum_i x_i)

    0 where all are forwarded equally often, 1 - 1/n where it is always the same one.
    Without the documents that are never forwarded the value would flatter.

    Where equal scores straddle the cut, a document adds the probability with which it
    is kept: the coefficient of the expected counts, which is a little below the
    expected coefficient of random orders.

    There is no value per list. `unknown_documents` counts forwarded documents that are
    not in the catalogue.

    Args:
        documents: all ids of the catalogue, strings or integers, or their number n
            where ids are the integers from 0 to n - 1. A saved configuration holds all
            ids.
        k: size of the forwarded set.
        column: the batch column `[B, L]` of the ids.
        name: default `"popularity_gini@<k>"`.

    Call arguments: labels `[B, L]`, the ids; scores `[B, L]`; weights of lists
    multiply their counts; see `update_state`. Memory is O(n).

    Raises:
        ValueError: `k` is not a positive integer, the catalogue is empty or holds an
            id twice, or shapes do not fit.
        TypeError: ids are neither strings nor integers.

    Example:
        >>> import tensorflow as tf
        >>> metric = PopularityGini(["a", "b", "c", "d"], k=1)
        >>> ids = [["a", "b"], ["c", "a"], ["a", "d"]]
        >>> metric.update_state(ids, [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
        >>> round(float(metric.result()), 4)  # 0, 0, 1, 2: (1 * 1 + 3 * 2) / (4 * 3)
        0.5833
    """

    def __init__(
        self,
        documents: int | Sequence[str] | Sequence[int] | np.ndarray,
        k: int = 100,
        column: str = "doc_ids",
        name: str | None = None,
    ):
        super().__init__(documents, k, column, name or f"popularity_gini@{k}")

    def _adds(self, probability: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        return probability * weights

    def _value(self, by_document: tf.Tensor) -> tf.Tensor:
        n = self.number
        counts = tf.sort(by_document)
        i = tf.cast(tf.range(1, n + 1), tf.float64)
        spread = tf.reduce_sum((2.0 * i - n - 1.0) * counts)
        total = tf.reduce_sum(counts)
        value = tf.math.divide_no_nan(spread, n * total)
        return tf.where(total > 0, value, tf.constant(float("nan"), tf.float64))
