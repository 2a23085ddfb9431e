"""Rankings in which documents with equal scores stand for all of their orders.

Working on groups of equal scores in the place of documents makes a metric independent
of the order in the list, and keeps padding out: counts hold valid documents only. Time
is O(L log L) per list and memory O(L).
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class TieGroups:
    """The tie groups of every list, best score first.

    A list of L documents has at most L groups; unused groups have size 0.

    Attributes:
        size: float64 `[B, L]`, valid documents in the group.
        ahead: float64 `[B, L]`, valid documents in better groups.
        place: int32 `[B, L]`, the group of each document. Padding may share one.
    """

    size: tf.Tensor
    ahead: tf.Tensor
    place: tf.Tensor

    def sum(self, values: tf.Tensor) -> tf.Tensor:
        """Adds up `[B, L]` values of documents by group; invalid ones must be 0."""
        return row_segment_sum(values, self.place)


def tie_groups(scores: tf.Tensor, valid: tf.Tensor) -> TieGroups:
    """Groups the valid documents of every list by equal score.

    Args:
        scores: float64 `[B, L]`; -inf is a score like any other.
        valid: bool `[B, L]`.
    """
    place = places_of(_keys(scores, valid))
    size = row_segment_sum(tf.cast(valid, tf.float64), place)
    return TieGroups(size, tf.cumsum(size, axis=1, exclusive=True), place)


def places_of(keys: tf.Tensor) -> tf.Tensor:
    """Numbers the distinct values of every row from 0, greatest first.

    Args:
        keys: numbers `[B, L]`.

    Returns:
        int32 `[B, L]`.
    """
    ordered, order = tf.math.top_k(keys, tf.shape(keys)[1])
    previous = tf.concat([ordered[:, :1], ordered[:, :-1]], axis=1)
    group = tf.cumsum(tf.cast(tf.not_equal(ordered, previous), tf.int32), axis=1)
    # Back to the documents' own places: a sum of one term each, as a scatter is slow.
    return row_segment_sum(group, order)


def row_segment_sum(values: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    """Adds up values `[B, L]` by their segments, int32 `[B, L]` below L, in each row.

    Returns:
        `[B, L]`, by segment.
    """
    shape = tf.shape(values)
    offsets = tf.expand_dims(tf.range(shape[0]) * shape[1], -1)
    sums = tf.math.unsorted_segment_sum(values, segments + offsets, tf.size(values))
    return tf.reshape(sums, shape)


@dataclasses.dataclass(frozen=True)
class Top:
    """The k best valid documents of every list.

    Where equal scores straddle the cut, each of their documents is among the k best
    with the same probability.

    Attributes:
        certain: bool `[B, L]`, documents that are among the k best in every order.
        tied: bool `[B, L]`, those of the score at the cut.
        ties: float64 `[B, 1]`, number of the tied.
        places: float64 `[B, 1]`, how many of them are among the k best.
    """

    certain: tf.Tensor
    tied: tf.Tensor
    ties: tf.Tensor
    places: tf.Tensor

    @property
    def share(self) -> tf.Tensor:
        """The probability that a tied document is among the k best, `[B, 1]`."""
        return tf.math.divide_no_nan(self.places, self.ties)

    @property
    def probability(self) -> tf.Tensor:
        """The probability that a document is among the k best, float64 `[B, L]`."""
        tied = tf.cast(self.tied, tf.float64) * self.share
        return tf.where(self.certain, tf.ones([], tf.float64), tied)

    def sum(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the expected sum of values `[B, L]` over the k best, `[B]`."""
        zero = tf.zeros([], tf.float64)
        certain = tf.reduce_sum(tf.where(self.certain, values, zero), axis=1)
        tied = tf.reduce_sum(tf.where(self.tied, values, zero), axis=1)
        return certain + self.share[:, 0] * tied


def top(scores: tf.Tensor, valid: tf.Tensor, k: int) -> Top:
    """Finds the k best valid documents of every list; all, where it has fewer.

    Args:
        scores: float64 `[B, L]`; -inf is a score like any other.
        valid: bool `[B, L]`.
        k: the cut-off.
    """
    keys = _keys(scores, valid)
    size = keys.shape[1]
    k_or_less = tf.minimum(k, tf.shape(keys)[1]) if size is None else min(k, size)
    best = tf.math.top_k(keys, k_or_less, sorted=False).values
    cut = tf.reduce_min(best, axis=1, keepdims=True)
    certain = valid & (keys > cut)
    tied = valid & tf.equal(keys, cut)
    ties = _count(tied)
    places = tf.clip_by_value(k - _count(certain), 0.0, ties)
    return Top(certain, tied, ties, places)


def _keys(scores: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Puts padding last; it may share the place of valid documents scored -inf."""
    lowest = tf.constant(float("-inf"), scores.dtype)
    return tf.where(valid & ~tf.math.is_nan(scores), scores, lowest)


def _count(documents: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(documents, tf.float64), axis=1, keepdims=True)
