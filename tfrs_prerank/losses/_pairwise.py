"""Losses of the difference of two scores."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.losses._pairs import (
    Columns,
    PairLoss,
    sort_by_label,
    sum_over_pairs,
)
from tfrs_prerank.losses._reduction import (
    Terms,
    as_rows,
    check_labels,
    check_positive,
    list_loss,
)

LOGISTIC = PairLoss(tf.nn.softplus, tf.sigmoid)


@list_loss
def ranknet(
    labels: tf.Tensor, scores: tf.Tensor, *, where: tf.Tensor, weights: tf.Tensor
) -> Terms:
    """Logistic loss of every pair of a more and a less relevant document.

    Formula, for one list:

        l = sum_{y_i > y_j} w_i log(1 + exp(-(s_i - s_j))) / #{y_i > y_j}
        mean = the mean of l over the lists with at least one such pair

    which is the cross-entropy of `sigmoid(s_i - s_j)`, the probability that `i` is the
    more relevant one.

    With P documents that are more relevant than another, L in all, takes time O(P L)
    and memory O(L): pairs are summed block by block.

    Differs from the source: equation 26 there sums over all `i, j`, which counts every
    pair twice, and reads equal labels, `p_ij = 0`, as an order in both directions. Here
    equal labels are no pair.

    Args:
        labels: `[..., list_size]`, any numbers: only their order counts. NaN means that
            the document has no label and takes no part.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that. Those beyond 1e30, on either side, count as 1e30.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar; that of the
            more relevant document multiplies the pair. 0 is `where=False`; NaN means
            that no weight is known and is read as 1. They get no gradient.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list whose labels are
        all equal gives 0 with zero gradients and does not count in the mean.

    Raises:
        ValueError: shapes do not fit, `reduction` is unknown, or, outside of a graph, a
            label is infinite or a weight negative.
        TypeError: `where` is not bool.

    The attribute `ranknet.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Burges et al., "Learning to Rank using Gradient Descent" (ICML 2005), equation
        3.

    Example:
        >>> labels, scores = [[1.0, 0.0, 0.0]], [[0.0, 0.0, -50.0]]
        >>> round(float(ranknet(labels, scores)), 4)  # (log 2 + 0) / 2
        0.3466
    """
    return _mean_over_pairs(labels, scores, where, weights, LOGISTIC)


@list_loss
def pairwise_hinge(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    margin: float = 1.0,
) -> Terms:
    """Margin by which a more relevant document's score should exceed a less relevant's.

    Formula, for one list:

        l = sum_{y_i > y_j} w_i max(0, m - (s_i - s_j)) / #{y_i > y_j}
        mean = the mean of l over the lists with at least one such pair

    With P documents that are more relevant than another, L in all, takes time O(P L)
    and memory O(L): pairs are summed block by block.

    Differs from the source: equation 25 there, with `d` the difference of two scores,
    draws the scores of a rightly ordered pair together. This is what it means for the
    order of a list; `contrastive` is its form for distances.

    Args:
        labels: `[..., list_size]`, any numbers: only their order counts. NaN means that
            the document has no label and takes no part.
        scores: same shape, any float dtype; computed in float32, or in float64 where
            they are that. Those beyond 1e30, on either side, count as 1e30.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar; that of the
            more relevant document multiplies the pair. 0 is `where=False`; NaN means
            that no weight is known and is read as 1. They get no gradient.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        margin: `m`, positive.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list whose labels are
        all equal gives 0 with zero gradients and does not count in the mean.

    Raises:
        ValueError: shapes do not fit, `margin` is not positive, `reduction` is unknown,
            or, outside of a graph, a label is infinite or a weight negative.
        TypeError: `where` is not bool.

    The attribute `pairwise_hinge.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Herbrich et al., "Large Margin Rank Boundaries for Ordinal Regression" (2000).

    Example:
        >>> labels, scores = [[1.0, 0.0, 0.0]], [[1.0, 0.25, -3.0]]
        >>> float(pairwise_hinge(labels, scores))  # (1 - 0.75 + 0) / 2
        0.125
    """
    check_positive("margin", margin)
    return _mean_over_pairs(labels, scores, where, weights, _hinge(margin))


@list_loss
def triplet(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    margin: float = 0.2,
    hard_negatives: int | None = None,
) -> Terms:
    """Margin between each positive and the hardest negatives of its list.

    Formula, for one list with positives `P` (label above 0) and `N` its negatives, or
    the `hard_negatives` of them that score highest:

        l = sum_{i in P, j in N} w_i max(0, D_i - D_j + m) / (|P| |N|)
          = sum_{i in P, j in N} w_i max(0, s_j - s_i + m) / (|P| |N|)
        mean = the mean of l over the lists with a positive and a negative

    with the distance `D = 1 - s`. The query is the anchor of the three.

    With P positives among L documents, takes time O(P L), and O(L log L) for finding
    the hardest negatives, and memory O(L).

    Differs from the paper, which sums over the triplets of a batch: here each list's
    loss is divided by its own number of triplets. From `pairwise_hinge` in that
    relevance has two levels only, and that easy negatives can be left out.

    Args:
        labels: `[..., list_size]`, non-negative; above 0 is a positive, whatever the
            grade. NaN means that the document has no label and takes no part.
        scores: similarities of query and document, mostly cosines; same shape, any
            float dtype; computed in float32, or in float64 where they are that. Those
            beyond 1e30, on either side, count as 1e30.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar, of positives;
            of a negative only whether it is 0 counts. 0 is `where=False`; NaN means
            that no weight is known and is read as 1. They get no gradient.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        margin: `m`, positive. Worth tuning: in the paper it moved recall by 5 to 10%.
        hard_negatives: how many negatives a positive meets, at least 1; None for all.
            In the paper no more than two were best.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list without a positive
        or without a negative gives 0 with zero gradients and does not count in the
        mean.

    Raises:
        ValueError: shapes do not fit, `margin` or `hard_negatives` is not positive,
            `reduction` is unknown, or, outside of a graph, a label or weight is
            negative.
        TypeError: `where` is not bool.

    The attribute `triplet.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Huang et al., "Embedding-based Retrieval in Facebook Search" (arXiv:2006.11632),
        equation 1 and section 6.1.

    Example:
        >>> labels, scores = [[1.0, 0.0, 0.0]], [[0.5, 0.5, -0.5]]
        >>> loss = triplet(labels, scores, margin=0.25, hard_negatives=1)
        >>> float(loss)  # the first negative is the harder one
        0.25
    """
    check_triplet(margin, hard_negatives)
    check_labels(labels, low=0.0)
    positive = labels > 0.0
    if hard_negatives is not None:
        negative = where & ~positive
        where &= positive | _highest(scores, negative, hard_negatives)
        weights = tf.where(where, weights, 0.0)
    levels = tf.cast(positive, scores.dtype)
    return _mean_over_pairs(levels, scores, where, weights, _hinge(margin))


def check_triplet(margin: float, hard_negatives: int | None) -> None:
    """Raises ValueError unless the options of `triplet` are possible."""
    check_positive("margin", margin)
    if hard_negatives is not None and (
        not isinstance(hard_negatives, int)
        or isinstance(hard_negatives, bool)
        or hard_negatives < 1
    ):
        raise ValueError(
            "hard_negatives must be a positive integer, or None for all. Received: "
            f"hard_negatives={hard_negatives!r}"
        )


def _hinge(margin: float) -> PairLoss:
    return PairLoss(
        lambda ahead: tf.nn.relu(ahead + margin),
        lambda ahead: tf.cast(ahead > -margin, ahead.dtype),
    )


def _mean_over_pairs(
    labels: tf.Tensor,
    scores: tf.Tensor,
    where: tf.Tensor,
    weights: tf.Tensor,
    loss: PairLoss,
) -> Terms:
    """Returns every list's mean over its pairs of different labels."""
    lists = sort_by_label(labels, scores, where, weights)
    total = sum_over_pairs(lists, (lists.labels, lists.weights), _more_relevant, loss)
    pairs = tf.reduce_sum(lists.below, axis=-1)
    usable = tf.cast(pairs > 0.0, scores.dtype)
    shape = tf.shape(scores)[:-1]
    values = tf.math.divide_no_nan(total, pairs)
    return tf.reshape(values, shape), tf.reshape(usable, shape)


def _more_relevant(down: Columns, across: Columns) -> tf.Tensor:
    """Returns the weight of each first document that is the more relevant one."""
    (labels, weights), (others, _) = down, across
    return tf.where(labels > others, weights, 0.0)


def _highest(scores: tf.Tensor, among: tf.Tensor, count: int) -> tf.Tensor:
    """Says which of some documents of each list score highest."""
    rows = as_rows(tf.where(among, scores, scores.dtype.min))
    order = tf.argsort(rows, axis=-1, direction="DESCENDING", stable=True)
    rank = tf.reshape(tf.argsort(order, axis=-1), tf.shape(scores))
    return among & (rank < count)
