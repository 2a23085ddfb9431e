"""Rank correlation of the pre-ranker with the ranker."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric
from tfrs_prerank.metrics._ties import row_segment_sum, tie_groups


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class KendallTau(ListMetric):
    """How far the order of the candidates agrees with the ranker's: Kendall's tau-b.

    Formula, for one request, over the pairs of its candidates, with `C` the pairs that
    scores and ranker order alike, `D` those they order differently, `T_s` the pairs
    that differ in score and `T_r` those that differ in the ranker's score:

        tau = (C - D) / sqrt(T_s T_r)

    from -1 to 1, and the result is the mean over requests with at least two different
    scores of the ranker. Pairs tied on either side are in neither C nor D, as the mean
    over their orders is 0. Constant scores give 0 and are not left out: they have the
    value of a random order.

    All pairs count alike, also those in the middle of the list that no cut divides.
    For the set that is forwarded look at `RankerHitRate`; for the order in it, mask
    the other candidates.

    Time is O(L log^2 L) per list, by counting inversions bit by bit, and memory O(L).

    Args:
        name: default `"kendall_tau"`.

    Call arguments: labels `[B, L]`, the ranker's scores (`teacher/<task>`), NaN = none
    (the candidate is left out); scores `[B, L]`; see `update_state`.

    Raises:
        ValueError: shapes do not fit.

    References:
        Kendall, "The Treatment of Ties in Ranking Problems" (Biometrika 1945); Knight,
        "A Computer Method for Calculating Kendall's Tau with Ungrouped Data" (JASA
        1966).

    Example:
        >>> import tensorflow as tf
        >>> metric = KendallTau()
        >>> metric.update_state([[3.0, 2.0, 1.0, 0.0]], [[9.0, 6.0, 7.0, 5.0]])
        >>> round(float(metric.result()), 4)  # (5 - 1) / 6
        0.6667
    """

    def __init__(self, name: str | None = None):
        super().__init__(name or "kendall_tau")

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {"labels": "teacher/{task}"}

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.shape(scores)[1]
        by_score, by_ranker = tie_groups(scores, valid), tie_groups(labels, valid)
        # Behind all others on both sides, padding is in no inversion.
        x = tf.where(valid, by_score.place, size)
        y = tf.where(valid, by_ranker.place, size)
        # Sorted by score and then by the ranker, ties are in no inversion either.
        bits = _bit_length(size)
        joint = tf.bitwise.left_shift(tf.cast(x, tf.int64), tf.cast(bits, tf.int64))
        joint = -(joint + tf.cast(y, tf.int64))
        joint = -tf.math.top_k(joint, size).values
        mask = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.cast(bits, tf.int64))
        ranks = tf.cast(tf.bitwise.bitwise_and(joint, mask - 1), tf.int32)

        n = tf.reduce_sum(tf.cast(valid, tf.float64), axis=1)
        all_pairs = _pairs(n)
        tied_score = tf.reduce_sum(_pairs(by_score.size), axis=1)
        tied_ranker = tf.reduce_sum(_pairs(by_ranker.size), axis=1)
        tied_both = _equal_neighbours(joint, ranks < size)
        discordant = _inversions(ranks, bits)
        # C + D are all pairs but those tied on one side or on both.
        ordered = all_pairs - tied_score - tied_ranker + tied_both
        differ = (all_pairs - tied_score) * (all_pairs - tied_ranker)
        tau = tf.math.divide_no_nan(ordered - 2.0 * discordant, tf.sqrt(differ))
        tau = tf.clip_by_value(tau, -1.0, 1.0)
        return tau, tf.cast(all_pairs > tied_ranker, tf.float64)


def _pairs(n: tf.Tensor) -> tf.Tensor:
    return n * (n - 1.0) / 2.0


def _bit_length(number: tf.Tensor) -> tf.Tensor:
    """Returns how many bits a number below 2^30 has, int32."""
    powers = tf.bitwise.left_shift(tf.ones([30], tf.int32), tf.range(30))
    return tf.reduce_sum(tf.cast(powers <= number, tf.int32))


def _equal_neighbours(values: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Returns the number of valid pairs of equal values in sorted rows, `[B]`."""
    previous = tf.concat([values[:, :1], values[:, :-1]], axis=1)
    group = tf.cumsum(tf.cast(tf.not_equal(values, previous), tf.int32), axis=1)
    sizes = row_segment_sum(tf.cast(valid, tf.float64), group)
    return tf.reduce_sum(_pairs(sizes), axis=1)


def _inversions(ranks: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Counts the pairs of every row in which the first number is the greater one.

    The numbers are sorted from their highest bit down. Numbers that agree in all bits
    above the current one stand together, in their first order, and those of them that
    differ in this bit and stand the wrong way round are its inversions. Every inverted
    pair is counted once, at the highest bit in which it differs.

    Args:
        ranks: int32 `[B, L]`, from 0 to L.
        bits: of the number L.

    Returns:
        float64 `[B]`.
    """
    lists, size = tf.unstack(tf.shape(ranks))
    # first[r]: how many numbers are below r, the place where r comes to stand.
    offsets = tf.range(lists)[:, tf.newaxis] * (size + 1)
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(ranks), ranks + offsets, lists * (size + 1)
    )
    counts = tf.reshape(counts, [lists, size + 1])
    first = tf.reshape(tf.cumsum(counts, axis=1, exclusive=True), [-1])
    here = tf.range(size)[tf.newaxis, :]

    def split(bit: tf.Tensor, numbers: tf.Tensor, total: tf.Tensor) -> tuple:
        high = tf.bitwise.right_shift(numbers, bit)
        ones = tf.bitwise.bitwise_and(high, 1)
        start = tf.bitwise.left_shift(high - ones, bit)
        start = tf.gather(first, start + offsets)
        before = tf.cumsum(ones, axis=1, exclusive=True)
        before -= tf.gather(before, start, batch_dims=1)
        zeros = 1 - ones
        total += tf.reduce_sum(tf.cast(zeros * before, tf.float64), axis=1)
        middle = tf.gather(first, tf.bitwise.left_shift(high, bit) + offsets)
        place = tf.where(ones > 0, middle + before, here - before)
        return bit - 1, row_segment_sum(numbers, place), total

    _, _, total = tf.while_loop(
        lambda bit, numbers, total: bit >= 0,
        split,
        [bits - 1, ranks, tf.zeros([lists], tf.float64)],
    )
    return total
