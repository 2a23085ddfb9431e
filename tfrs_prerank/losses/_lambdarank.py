"""The pairwise loss whose pairs are weighted by their effect on NDCG."""

from __future__ import annotations

import math

import tensorflow as tf

from tfrs_prerank.losses._pairs import (
    LARGEST,
    Columns,
    Sorted,
    sort_by_label,
    sum_over_pairs,
)
from tfrs_prerank.losses._pairwise import LOGISTIC
from tfrs_prerank.losses._reduction import Terms, check_labels, list_loss


@list_loss
def lambdarank(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    k: int | None = None,
) -> Terms:
    """Logistic loss of every pair, times the change of NDCG if the two changed places.

    Formula, for one list, with ranks `r` by score from 1 and `d(r) = 1 / log2(1 + r)`,
    0 where `r > k`:

        l = sum_{y_i > y_j} w_i |dZ_ij| log(1 + exp(-(s_i - s_j)))
        |dZ_ij| = |d(r_i) - d(r_j)| (2^y_i - 2^y_j) / IDCG@k
        mean = the mean of l over the lists with at least one such pair

    where `|dZ|` passes no gradient. So the derivative by `s_i` is
    `sum_j (lambda_ji - lambda_ij)`, `lambda_ij = w_i |dZ_ij| sigmoid(s_j - s_i)` if
    `y_i > y_j`, else 0. The IDCG is the only divisor: a list with more pairs has no
    larger weights. Of equal scores the more relevant document has the better rank, so
    that the order in which a list was logged says nothing.

    With P documents that are more relevant than another, L in all, takes time O(P L),
    O(L log L) for the ranks, and memory O(L): pairs are summed block by block.

    Differs from the source: equation 29 there lacks the IDCG; equation 31 the minus
    sign, and its lambda holds the sigmoid already, which would count twice; equation
    32 is the direction of ascent, the negative of the derivative.

    Args:
        labels: grades, `[..., list_size]`, non-negative; in a graph negative ones are
            read as 0. NaN means that the document has no label and takes no part.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that. Those beyond 1e30, on either side, count as 1e30.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar; that of the
            more relevant document multiplies the pair. 0 is `where=False`; NaN means
            that no weight is known and is read as 1. They get no gradient.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        k: ranks that count, at least 1; None for all. A pair counts as long as one of
            the two is among them.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list whose labels are
        all equal gives 0 with zero gradients and does not count in the mean.

    Raises:
        ValueError: shapes do not fit, `k` is not positive, `reduction` is unknown, or,
            outside of a graph, a label or weight is negative.
        TypeError: `where` is not bool.

    The attribute `lambdarank.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Burges, "From RankNet to LambdaRank to LambdaMART: An Overview" (Microsoft
        Research MSR-TR-2010-82), section 4.

    Example:
        >>> import math
        >>> loss = lambdarank([[0.0, 1.0]], [[0.0, 0.0]])  # the positive ranks first
        >>> expected = (1 - 1 / math.log2(3)) * math.log(2)
        >>> round(float(loss), 4) == round(expected, 4)
        True
    """
    check_k(k)
    check_labels(labels, low=0.0)
    lists = sort_by_label(labels, scores, where, weights)
    columns = _columns(lists, math.inf if k is None else k)
    total = sum_over_pairs(lists, columns, _change, LOGISTIC)
    usable = tf.cast(tf.reduce_any(lists.below > 0.0, axis=-1), scores.dtype)
    shape = tf.shape(scores)[:-1]
    return tf.reshape(total, shape), tf.reshape(usable, shape)


def check_k(k: int | None) -> None:
    """Raises ValueError unless `k` is a number of ranks, or None."""
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
        raise ValueError(
            f"k must be a positive integer, or None for all ranks. Received: k={k!r}"
        )


def _columns(lists: Sorted, k: float) -> Columns:
    """Returns the discount, gain and weight of every document.

    The gains are those of NDCG over the IDCG, plus a constant that cancels in their
    differences. 2^y is taken relative to the highest label, or it might be infinite.
    """
    dtype = lists.scores.dtype
    places = tf.cast(tf.range(tf.shape(lists.scores)[1]), dtype)
    discounts = math.log(2.0) / tf.math.log1p(places + 1.0)
    discounts = tf.where(places < k, discounts, tf.zeros_like(places))

    grades = tf.nn.relu(tf.where(lists.valid, lists.labels, 0.0))
    top = grades[:, :1]
    gains = tf.pow(tf.constant(2.0, dtype), grades - top)
    least = tf.pow(tf.constant(2.0, dtype), -top)
    ideal = tf.where(lists.valid, (gains - least) * discounts, 0.0)
    idcg = tf.maximum(tf.reduce_sum(ideal, axis=1, keepdims=True), 0.0)
    gains = tf.math.divide_no_nan(gains, idcg)
    # What does not count must not be less relevant than anything.
    gains = tf.where(lists.valid, gains, tf.reduce_max(gains, 1, keepdims=True))

    # As far apart as the pairs take them, so that -inf is still ahead of padding.
    bounded = tf.clip_by_value(lists.scores, -LARGEST, LARGEST)
    ranked = tf.where(lists.valid, bounded, dtype.min)
    order = tf.argsort(ranked, axis=-1, direction="DESCENDING", stable=True)
    ranks = tf.argsort(order, axis=-1)
    return tf.gather(discounts, ranks), gains, lists.weights


def _change(down: Columns, across: Columns) -> tf.Tensor:
    """Returns the weighted change of NDCG of pairs, 0 unless the first gains more."""
    (discounts, gains, weights), (others, their_gains, _) = down, across
    return tf.abs(discounts - others) * tf.nn.relu(gains - their_gains) * weights
