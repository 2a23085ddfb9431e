"""The base of metrics that are a mean over lists."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import tensorflow as tf

from tfrs_prerank.metrics._metric import Lists, Metric, as_sums, nan_where


class ListMetric(Metric):
    """The weighted mean, over lists, of a number that every list has.

    A subclass implements `_per_list(labels, scores, valid) -> (values, weights)`; where
    it names further `columns`, it takes them by their names too.
    """

    _unlabelled_compete: ClassVar[bool] = False
    """Whether a document without a label stays in its list, as a candidate that takes
    a place in the ranking. Else it is left out."""

    def __init__(self, name: str):
        super().__init__(name=name, dtype=tf.float64)
        self.total = self.add_weight(
            name="total", initializer="zeros", dtype=tf.float64
        )
        self.count = self.add_weight(
            name="count", initializer="zeros", dtype=tf.float64
        )

    @abc.abstractmethod
    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns values and weights, float64 `[B]`.

        Args:
            labels: float64 `[B, L]`, 0 where not valid; NaN where absent, which can
                only be where documents without labels compete.
            scores: float64 `[B, L]`, anything where not valid.
            valid: bool `[B, L]`.
            **columns: `[B, L]`, anything where not valid.
        """

    def per_list(
        self, labels: Any, scores: Any, *, where: Any = None, **columns: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns every list's own value and its weight in the mean; keeps no state.

        Args:
            labels: `[B, L]`, NaN = absent.
            scores: `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.
            **columns: the further columns `[B, L]`, by the names in `columns`.

        Returns:
            `(values, weights)`, float64 `[B]`. A list that cannot be used has weight
            0 and value 0. A NaN score of a valid document makes its list's value NaN.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool, or a column is missing or unknown.
        """
        return self._values(self._read(labels, scores, where, None, columns))

    def list_sums(
        self,
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
        **columns: Any,
    ) -> tf.Tensor:
        """Returns what each list adds to the result; keeps no state.

        Args:
            labels: as in `update_state`.
            scores: as in `update_state`.
            where: as in `update_state`.
            weights: as in `update_state`.
            **columns: as in `update_state`.

        Returns:
            float64 `[B, 2]`: weight times value, and weight. `value_of` makes the
            metric of any sum of rows.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool, or a column is missing or unknown.
        """
        lists = self._read(labels, scores, where, weights, columns)
        values, counts = self._values(lists)
        if lists.list_weights is not None:
            counts *= lists.list_weights
            # Not NaN * 0: a list of weight 0 is out, whatever its scores hold.
            values = tf.where(counts > 0, values, tf.zeros([], tf.float64))
        return tf.stack([values * counts, counts], axis=-1)

    def value_of(self, sums: Any) -> tf.Tensor:
        """Returns the metric of added-up `list_sums`.

        Args:
            sums: float64 `[..., 2]`.

        Returns:
            float64 `[...]`; NaN where no list could be used.
        """
        total, count = tf.unstack(as_sums(sums), axis=-1)
        return nan_where(count <= 0, tf.math.divide_no_nan(total, count))

    def update_state(
        self,
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
        **columns: Any,
    ) -> None:
        """Adds a batch of lists.

        Args:
            labels: `[B, L]`, NaN = absent.
            scores: `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.
            weights: non-negative. `[B]`: weights of lists, default 1; they multiply
                the list's own weight. `[B, L]`: weights of documents; 0 takes the
                document out of its list, any other value leaves it in and changes
                nothing, as a document holds one place in a ranking whatever its
                weight. NaN means that no weight is known and is read as 1.
            **columns: the further columns `[B, L]`, by the names in `columns`.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool, or a column is missing or unknown.
        """
        sums = self.list_sums(labels, scores, where=where, weights=weights, **columns)
        total, count = tf.unstack(tf.reduce_sum(sums, axis=0))
        self.total.assign_add(total)
        self.count.assign_add(count)

    def result(self) -> tf.Tensor:
        """Returns the mean so far, float64; NaN before the first usable list."""
        return self.value_of(
            [tf.convert_to_tensor(self.total), tf.convert_to_tensor(self.count)]
        )

    @property
    def usable(self) -> tf.Tensor:
        """Whether any list could be used so far (bool scalar)."""
        return tf.convert_to_tensor(self.count) > 0

    def _values(self, lists: Lists) -> tuple[tf.Tensor, tf.Tensor]:
        valid = lists.where
        if not self._unlabelled_compete:
            valid = tf.logical_and(valid, ~tf.math.is_nan(lists.labels))
        zero = tf.zeros([], tf.float64)
        labels = tf.where(valid, lists.labels, zero)
        values, weights = self._per_list(labels, lists.scores, valid, **lists.columns)
        # A model that diverged must not look like one that ranks badly.
        broken = tf.reduce_any(valid & tf.math.is_nan(lists.scores), axis=-1)
        return tf.where(weights > 0, nan_where(broken, values), zero), weights


def check_cutoff(name: str, k: Any, *, optional: bool = False, what: str = "k") -> None:
    """Raises ValueError unless `k` is a positive integer (or None if `optional`)."""
    if k is None and optional:
        return
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        fix = "a positive integer" + (" or None for no cut-off" if optional else "")
        raise ValueError(f"{name}: {what}={k!r} is not a cut-off: give {fix}.")


def is_positive(labels: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for labels above 0, else 0.0, also for absent ones (float64)."""
    return tf.cast(labels > 0, tf.float64)
