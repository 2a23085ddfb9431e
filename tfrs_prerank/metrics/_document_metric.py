"""The base of metrics of calibration: one sum over all documents of all lists."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import tensorflow as tf

from tfrs_prerank.metrics._metric import Lists, Metric, as_sums, nan_where


class DocumentMetric(Metric):
    """A function of sums over documents.

    A subclass names the number of its `sums`, and implements `_terms(labels, logits)`,
    what a document adds to them, and `_value(sums)`. The weight of a document, 1 where
    none is given, is summed after them.
    """

    reads = "logits"
    sums: ClassVar[int]

    def __init__(self, name: str):
        super().__init__(name=name, dtype=tf.float64)
        self.totals = self.add_weight(
            name="totals", shape=[self.sums + 1], initializer="zeros", dtype=tf.float64
        )

    @abc.abstractmethod
    def _terms(self, labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
        """Returns what documents add to the sums, each float64 `[B, L]`."""

    @abc.abstractmethod
    def _value(self, sums: list[tf.Tensor]) -> tf.Tensor:
        """Returns the metric of sums and sum of weights `[...]`; NaN for none."""

    def list_sums(
        self,
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
    ) -> tf.Tensor:
        """Returns what each list adds to the result; keeps no state.

        Args:
            labels: as in `update_state`.
            scores: as in `update_state`.
            where: as in `update_state`.
            weights: as in `update_state`.

        Returns:
            float64 `[B, S]`, the last column the weight of the list's documents.
            `value_of` makes the metric of any sum of rows.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool.
        """
        lists = self._read(labels, scores, where, weights)
        known, weights = weights_of_documents(lists)
        zero = tf.zeros([], tf.float64)
        terms = self._terms(
            tf.where(known, lists.labels, zero), tf.where(known, lists.scores, zero)
        )
        sums = [tf.reduce_sum(weights * term, axis=1) for term in terms]
        return tf.stack([*sums, tf.reduce_sum(weights, axis=1)], axis=-1)

    def value_of(self, sums: Any) -> tf.Tensor:
        """Returns the metric of added-up `list_sums`.

        Args:
            sums: float64 `[..., S]`.

        Returns:
            float64 `[...]`; NaN where they have no result.
        """
        return self._value(tf.unstack(as_sums(sums), axis=-1))

    def update_state(
        self, labels: Any, scores: Any, *, where: Any = None, weights: Any = None
    ) -> None:
        """Adds a batch of lists.

        Args:
            labels: `[B, L]`, in [0, 1], NaN = absent.
            scores: logits `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.
            weights: non-negative, of lists `[B]` or of documents `[B, L]`; they
                multiply what a document adds to the sums. 0 takes it out. NaN means
                that no weight is known and is read as 1.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool.
        """
        sums = self.list_sums(labels, scores, where=where, weights=weights)
        self.totals.assign_add(tf.reduce_sum(sums, axis=0))

    def result(self) -> tf.Tensor:
        """Returns the metric of all documents so far, float64; NaN without one."""
        return self.value_of(self.totals)

    @property
    def usable(self) -> tf.Tensor:
        """Whether there is a result so far (bool scalar).

        A model that has diverged has one: NaN.
        """
        sums = tf.unstack(tf.convert_to_tensor(self.totals))
        broken = tf.reduce_any(tf.math.is_nan(sums))
        return tf.logical_or(broken, ~tf.math.is_nan(self._value(sums)))


def weights_of_documents(lists: Lists) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns which documents count, and their weights, 0 where they do not."""
    known = tf.logical_and(lists.where, ~tf.math.is_nan(lists.labels))
    weights = tf.ones_like(lists.scores)
    if lists.doc_weights is not None:
        weights = lists.doc_weights
    if lists.list_weights is not None:
        weights = lists.list_weights[:, tf.newaxis] * weights
    known = tf.logical_and(known, weights > 0)
    return known, tf.where(known, weights, tf.zeros([], tf.float64))


def ratio(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Returns a ratio, NaN where the denominator is not above 0."""
    value = tf.math.divide_no_nan(numerator, denominator)
    return nan_where(~(denominator > 0), value)
