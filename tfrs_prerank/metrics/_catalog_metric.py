"""The base of metrics over the catalogue: how often each document was forwarded."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.metrics._list_metric import check_cutoff
from tfrs_prerank.metrics._metric import Metric, nan_where
from tfrs_prerank.metrics._ties import top


class CatalogMetric(Metric):
    """A function of what every document of a catalogue adds up to over all lists.

    Args:
        documents: all ids of the catalogue, or their number n where ids are the
            integers from 0 to n - 1.
        k: size of the forwarded set.
        column: the batch column of the ids.
        name: the name.
    """

    additive = False
    _labels_are_numbers = False

    def __init__(
        self,
        documents: int | Sequence[str] | Sequence[int] | np.ndarray,
        k: int,
        column: str,
        name: str,
    ):
        kind = type(self).__name__
        check_cutoff(kind, k)
        super().__init__(name=name, dtype=tf.float64)
        self.k = k
        self.column = column
        self._table = None
        self._key_dtype = tf.int64
        if isinstance(documents, int | np.integer) and not isinstance(documents, bool):
            self._documents: Any = int(documents)
            self.number = int(documents)
        else:
            ids = np.asarray(documents)
            _check_ids(kind, ids)
            self._documents, self.number = ids, len(ids)
            if ids.dtype.kind not in "iu":
                self._key_dtype = tf.string
        if self.number < 1:
            raise ValueError(
                f"{kind}: the catalogue is empty: give all of its ids, or their "
                f"number. Received: documents={documents!r}"
            )
        if not isinstance(self._documents, int):
            keys = tf.constant(self._documents, self._key_dtype)
            places = tf.range(self.number, dtype=tf.int64)
            self._table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys, places), -1
            )
        self.by_document = self.add_weight(
            name="by_document",
            shape=[self.number],
            initializer="zeros",
            dtype=tf.float64,
        )
        self.lists = self.add_weight(
            name="lists", initializer="zeros", dtype=tf.float64
        )
        self.not_in_catalog = self.add_weight(
            name="not_in_catalog", initializer="zeros", dtype=tf.float64
        )

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {"labels": self.column}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; of a table of ids, all of them."""
        documents = self._documents
        if not isinstance(documents, int):
            documents = documents.tolist()
        return {
            **super().get_config(),
            "documents": documents,
            "k": self.k,
            "column": self.column,
        }

    @abc.abstractmethod
    def _adds(self, probability: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Returns what forwarded documents add to their entry, float64 `[n]`.

        Args:
            probability: of being forwarded, above 0, float64 `[n]`.
            weights: of their lists, above 0, float64 `[n]`.
        """

    @abc.abstractmethod
    def _value(self, by_document: tf.Tensor) -> tf.Tensor:
        """Returns the metric of all documents' entries."""

    def update_state(
        self, labels: Any, scores: Any, *, where: Any = None, weights: Any = None
    ) -> None:
        """Adds a batch of lists.

        Args:
            labels: the ids `[B, L]`, strings or integers as in the catalogue.
            scores: `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.
            weights: non-negative. `[B]`: of lists, default 1; 0 takes a list out.
                `[B, L]`: of documents; 0 takes the document out of its list, any other
                value changes nothing. NaN is read as 1.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool, or ids are of another type than the
                catalogue's.
        """
        lists = self._read(labels, scores, where, weights)
        valid, of_list = lists.where, lists.list_weights
        if of_list is None:
            of_list = tf.ones(tf.shape(valid)[:1], tf.float64)
        valid &= (of_list > 0)[:, tf.newaxis]
        probability = top(lists.scores, valid, self.k).probability
        # Only what is forwarded is looked up: a small part of long lists.
        forwarded = tf.where(probability > 0)
        chances = tf.gather_nd(probability, forwarded)
        places = self._places(tf.gather_nd(lists.labels, forwarded))
        added = self._adds(chances, tf.gather(of_list, forwarded[:, 0]))
        # A document that is not in the catalogue has place -1, which is left out.
        sums = tf.math.unsorted_segment_sum(added, places, self.number)
        self.by_document.assign_add(sums)
        unknown = tf.where(places < 0, chances, tf.zeros_like(chances))
        self.not_in_catalog.assign_add(tf.reduce_sum(unknown))
        # A model that diverged must not look like one that ranks badly.
        broken = tf.reduce_any(valid & tf.math.is_nan(lists.scores), axis=1)
        used = tf.cast(tf.reduce_any(valid, axis=1), tf.float64)
        self.lists.assign_add(tf.reduce_sum(nan_where(broken, used)))

    def result(self) -> tf.Tensor:
        """Returns the value so far, float64; NaN before the first usable list."""
        lists = tf.convert_to_tensor(self.lists)
        value = self._value(tf.convert_to_tensor(self.by_document))
        return nan_where(~(lists > 0), value)

    @property
    def usable(self) -> tf.Tensor:
        """Whether any list held a document so far (bool scalar)."""
        return tf.not_equal(tf.convert_to_tensor(self.lists), 0)

    @property
    def unknown_documents(self) -> tf.Tensor:
        """How many forwarded documents were not in the catalogue, so far.

        They hold a place in their lists and count for no document. A tie at the cut
        adds the probability with which it is kept.
        """
        return tf.convert_to_tensor(self.not_in_catalog)

    def _places(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the places of ids in the catalogue, int64 `[n]`, -1 for none."""
        wanted = "strings" if self._key_dtype == tf.string else "integers"
        if (ids.dtype == tf.string) != (self._key_dtype == tf.string) or not (
            ids.dtype == tf.string or ids.dtype.is_integer
        ):
            raise TypeError(
                f"{self.name}: labels has dtype {ids.dtype.name}: the catalogue's ids "
                f"are {wanted}, so give the document ids as {wanted}."
            )
        ids = tf.cast(ids, self._key_dtype)
        if self._table is not None:
            return self._table.lookup(ids)
        known = (ids >= 0) & (ids < self.number)
        return tf.where(known, ids, tf.constant(-1, tf.int64))


def _check_ids(kind: str, ids: np.ndarray) -> None:
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iuUSO"):
        raise TypeError(
            f"{kind}: documents is neither a number nor a list of ids: give all ids of "
            "the catalogue as strings or integers, or n where they are 0 to n - 1."
        )
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        twice = distinct[counts > 1][0]
        raise ValueError(
            f"{kind}: documents holds {twice.item()!r} twice: give every id once."
        )
