"""Sums over the pairs of a list, without a tensor of all pairs.

A list of L documents has up to L (L - 1) / 2 pairs of a more and a less relevant one.
Documents are sorted by label first, so that those that are more relevant than another
come first. Then a loop takes a block of these rows at a time, compares them with all
documents, and keeps sums only: of the loss, and of its slope, which is the gradient.
Each block is small enough for the cache, and with few positives there are few blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfrs_prerank.losses._reduction import as_rows

# Differences of scores beyond this change nothing, and any sum of them stays finite.
LARGEST = 1e30

# Pairs of all lists in a block. Many fewer cost a call of every operation for little
# work, many more leave the cache.
_BLOCK = 2**18

Columns = tuple[tf.Tensor, ...]


class PairLoss(NamedTuple):
    """A loss of `s_j - s_i`, how far the less relevant of two documents is ahead.

    Attributes:
        value: the loss.
        slope: its derivative.
    """

    value: Callable[[tf.Tensor], tf.Tensor]
    slope: Callable[[tf.Tensor], tf.Tensor]


class Sorted(NamedTuple):
    """Lists whose documents are sorted by label, the most relevant first.

    What does not count comes last, as label `dtype.max`, score 0 and weight 0.

    Attributes:
        labels: `[B, L]`.
        scores: `[B, L]`.
        weights: `[B, L]`.
        below: how many documents are less relevant than each, `[B, L]`.
    """

    labels: tf.Tensor
    scores: tf.Tensor
    weights: tf.Tensor
    below: tf.Tensor

    @property
    def valid(self) -> tf.Tensor:
        """Which documents count."""
        return self.weights > 0.0


def sort_by_label(
    labels: tf.Tensor, scores: tf.Tensor, where: tf.Tensor, weights: tf.Tensor
) -> Sorted:
    """Sorts the documents of lists `[..., list_size]`.

    Equal labels keep the order of the list.
    """
    highest = scores.dtype.max
    ascending = as_rows(tf.where(where, -labels, highest))
    order = tf.argsort(ascending, axis=-1, stable=True)
    ascending, scores, weights = (
        tf.gather(column, order, batch_dims=1)
        for column in (ascending, as_rows(scores), as_rows(weights))
    )
    valid = weights > 0.0
    not_below = tf.searchsorted(ascending, ascending, side="right")
    count = tf.reduce_sum(tf.cast(valid, tf.int32), axis=-1, keepdims=True)
    below = tf.where(valid, tf.cast(count - not_below, scores.dtype), 0.0)
    return Sorted(tf.where(valid, -ascending, highest), scores, weights, below)


def sum_over_pairs(
    lists: Sorted,
    columns: Columns,
    weigh: Callable[[Columns, Columns], tf.Tensor],
    loss: PairLoss,
) -> tf.Tensor:
    """Sums `weigh(i, j) loss(s_j - s_i)` over the pairs of every list.

    Args:
        lists: sorted.
        columns: what the weight of a pair depends on, each `[B, L]`.
        weigh: from these columns of documents `i` and of documents `j`, which broadcast
            to pairs, to the pairs' weights: 0 unless `i` is more relevant than `j` and
            both count.
        loss: of a pair.

    Returns:
        `[B]`. Its gradient reaches the scores only.
    """
    winners = tf.reduce_sum(tf.cast(lists.below > 0.0, tf.int32), axis=-1)
    rows = tf.maximum(tf.reduce_max(winners, axis=-1), 0)  # of no lists: int32.min
    columns = tuple(tf.stop_gradient(column) for column in columns)

    @tf.custom_gradient
    def total(scores: tf.Tensor) -> tuple[tf.Tensor, Any]:
        bounded = tf.clip_by_value(scores, -LARGEST, LARGEST)
        sums, slopes = _scan(bounded, columns, rows, weigh, loss)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return upstream[:, tf.newaxis] * slopes

        return sums, gradient

    return total(lists.scores)


def _scan(
    scores: tf.Tensor,
    columns: Columns,
    rows: tf.Tensor,
    weigh: Callable[[Columns, Columns], tf.Tensor],
    loss: PairLoss,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns every list's sum, `[B]`, and the sums' derivatives, `[B, L]`."""
    size = tf.shape(scores)[1]
    block = _BLOCK // tf.maximum(tf.size(scores), 1)
    block = tf.maximum(tf.minimum(block, size), 1)
    missing = -size % block
    padded = [tf.pad(c, [[0, 0], [0, missing]]) for c in (scores, *columns)]
    across = tuple(column[:, tf.newaxis, :] for column in columns)

    def step(
        number: tf.Tensor, sums: tf.Tensor, slopes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        places = number * block + tf.range(block)
        down = [tf.gather(c, places, axis=1)[:, :, tf.newaxis] for c in padded]
        weights = weigh(tuple(down[1:]), across)  # [B, block, L]
        ahead = scores[:, tf.newaxis, :] - down[0]
        slope = weights * loss.slope(ahead)
        own = tf.reduce_sum(slope, axis=2)
        own = tf.matmul(own, tf.one_hot(places, size, dtype=own.dtype))  # [B, L]
        sums += tf.reduce_sum(weights * loss.value(ahead), axis=[1, 2])
        slopes += tf.reduce_sum(slope, axis=1) - own
        return number + 1, sums, tf.ensure_shape(slopes, scores.shape)

    zeros = tf.zeros_like(scores)
    start = (0, tf.reduce_sum(zeros, axis=1), zeros)
    # Counted one by one: XLA runs a loop with another step too few times.
    blocks = -(-rows // block)
    # One at a time, or several blocks would be in memory.
    _, sums, slopes = tf.while_loop(
        lambda number, *_: number < blocks, step, start, parallel_iterations=1
    )
    return sums, slopes
