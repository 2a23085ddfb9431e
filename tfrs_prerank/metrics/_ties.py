"""Groups of documents with equal scores.

Working on groups in the place of documents makes a metric independent of the order
in the list, and keeps padding out: counts hold valid documents only. Time is
O(L log L) per list and memory O(L).
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
    """

    size: tf.Tensor
    ahead: tf.Tensor
    _order: tf.Tensor
    _segments: tf.Tensor

    def sum(self, values: tf.Tensor) -> tf.Tensor:
        """Adds up `[B, L]` values of documents by group; invalid ones must be 0."""
        return _segment_sum(values, self._order, self._segments)


def tie_groups(scores: tf.Tensor, valid: tf.Tensor) -> TieGroups:
    """Groups the valid documents of every list by equal score.

    Args:
        scores: float64 `[B, L]`; -inf is a score like any other.
        valid: bool `[B, L]`.
    """
    # Padding may share the group of valid documents scored -inf: it counts nothing.
    lowest = tf.constant(float("-inf"), scores.dtype)
    keys = tf.where(valid & ~tf.math.is_nan(scores), scores, lowest)
    order = tf.argsort(keys, axis=-1, direction="DESCENDING")
    keys = tf.gather(keys, order, batch_dims=1)
    previous = tf.concat([keys[:, :1], keys[:, :-1]], axis=1)
    group = tf.cumsum(tf.cast(tf.not_equal(keys, previous), tf.int32), axis=1)
    shape = tf.shape(keys)
    segments = group + tf.expand_dims(tf.range(shape[0]) * shape[1], -1)
    size = _segment_sum(tf.cast(valid, tf.float64), order, segments)
    ahead = tf.cumsum(size, axis=1, exclusive=True)
    return TieGroups(size, ahead, order, segments)


def _segment_sum(values: tf.Tensor, order: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    values = tf.gather(values, order, batch_dims=1)
    sums = tf.math.unsorted_segment_sum(values, segments, tf.size(segments))
    return tf.reshape(sums, tf.shape(values))
