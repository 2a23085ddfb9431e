"""Softmax losses of lists with several positives, or with levels of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.losses._reduction import (
    Terms,
    check_labels,
    check_positive,
    known_log_q,
    list_loss,
)
from tfrs_prerank.losses._softmax import log_mass


@list_loss
def multi_positive_softmax(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    log_q: Any = None,
) -> Terms:
    """Softmax of every positive against the negatives of its list.

    Formula, for one list with positives `P` (label above 0) and negatives `N`:

        l = -sum_{i in P} w_i log(exp(s_i) / (exp(s_i) + sum_{j in N} exp(s_j))) / |P|
        mean = the mean of l over the lists with a positive

    The other positives are not in a positive's denominator, so no positive pushes
    another one down, as they do in `softmax_cross_entropy`.

    With `log_q`, `s_i - log_q_i` stands in the place of every `s_i`.

    Takes time and memory linear in the list size.

    Differs from the paper in the division by the number of positives.

    Args:
        labels: `[..., list_size]`, non-negative; above 0 is a positive, whatever the
            grade. NaN means that the document has no label and takes no part, as a
            negative neither.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar, of positives;
            of a negative only whether it is 0 counts. 0 is `where=False`; NaN means
            that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        log_q: log of the probability that a document was sampled with, 0 where it was
            not sampled; `[..., list_size]`, `[..., 1]` or a scalar. Default: all 0.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list without a positive
        gives 0 with zero gradients and does not count in the mean; one without a
        negative gives 0 and counts. A loss above the largest number of its dtype is
        that number, with no gradient.

    Raises:
        ValueError: shapes do not fit, `reduction` is unknown, or, outside of a graph, a
            label or weight is negative or `log_q` above 0.
        TypeError: `where` is not bool.

    The attribute `multi_positive_softmax.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Zhang et al., "Rethinking the Role of Pre-ranking in Large-scale E-Commerce
        Searching System" (arXiv:2305.13647), equation 7.

    Example:
        >>> labels, scores = [[1.0, 1.0, 0.0]], [[0.0, 9.0, 0.0]]
        >>> loss = multi_positive_softmax(labels, scores)
        >>> round(float(loss), 4)  # (log 2 + log(1 + exp(-9))) / 2
        0.3466
    """
    check_labels(labels, low=0.0)
    scores -= known_log_q(log_q, scores, where)
    return _against_lower(scores, where, weights, labels > 0.0)


@list_loss
def hierarchical_softmax(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    level_weights: Sequence[float] = (1.0, 1.0, 1.0),
    log_q: Any = None,
) -> Terms:
    """Softmax of every level of feedback against all that stayed below it.

    A label is the highest level that a document has reached: with the default three
    levels 0 is not exposed, 1 exposed, 2 clicked and 3 bought. What was clicked was
    exposed before and so is a positive of both levels, while what was exposed and not
    clicked is a positive of the first and a negative of the second.

    Formula, for one list, `P_t` its documents with label `t` or more, `N_t` the others:

        l_t = -sum_{i in P_t} w_i log(exp(s_i) / (exp(s_i) + sum_{j in N_t} exp(s_j)))
        l   = sum_t a_t l_t / |P_t|        over the levels t with a positive
        mean = the mean of l over the lists with a label of 1 or more

    With `log_q`, `s_i - log_q_i` stands in the place of every `s_i`. One level alone is
    `multi_positive_softmax`.

    Takes time linear in the list size and the number of levels, and memory alike.

    Differs from the paper in the division by the number of positives of a level.

    Args:
        labels: `[..., list_size]`, from 0 to the number of levels; in a graph more is
            read as the highest level. NaN means that the document has no label and
            takes no part.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar, of positives;
            of a negative only whether it is 0 counts. 0 is `where=False`; NaN means
            that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        level_weights: `a_1, a_2, ...` from the lowest level on, positive; as many as
            there are levels.
        log_q: log of the probability that a document was sampled with, 0 where it was
            not sampled; `[..., list_size]`, `[..., 1]` or a scalar. Default: all 0.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list without a positive
        gives 0 with zero gradients and does not count in the mean. A level's loss above
        the largest number of its dtype is that number, with no gradient.

    Raises:
        ValueError: shapes do not fit, `reduction` is unknown, a level weight is not
            positive, or, outside of a graph, a label is out of range, a weight negative
            or `log_q` above 0.
        TypeError: `where` is not bool.

    The attribute `hierarchical_softmax.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Zhang et al., "Rethinking the Role of Pre-ranking in Large-scale E-Commerce
        Searching System" (arXiv:2305.13647), equation 7; Zheng et al.,
        "Multi-Objective Personalized Product Retrieval in Taobao Search"
        (arXiv:2210.04170) for the nested levels.

    Example:
        >>> labels, scores = [[3.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]
        >>> loss = hierarchical_softmax(labels, scores)
        >>> round(float(loss), 4)  # log 2 exposed, log 3 clicked, log 3 bought
        2.8904
    """
    check_level_weights(level_weights)
    check_labels(labels, low=0.0, high=float(len(level_weights)))
    scores -= known_log_q(log_q, scores, where)
    levels = [
        (level_weight, *_against_lower(scores, where, weights, labels >= level))
        for level, level_weight in enumerate(level_weights, start=1)
    ]
    values = tf.add_n([level_weight * loss for level_weight, loss, _ in levels])
    return values, levels[0][2]


def check_level_weights(level_weights: Sequence[float]) -> None:
    """Raises ValueError unless there is a level and all have positive weights."""
    if len(level_weights) == 0:
        raise ValueError(
            "level_weights must hold one weight per level. "
            f"Received: level_weights={level_weights!r}"
        )
    for place, weight in enumerate(level_weights):
        check_positive(f"level_weights[{place}]", weight)


def _against_lower(
    scores: tf.Tensor, where: tf.Tensor, weights: tf.Tensor, positive: tf.Tensor
) -> Terms:
    """Returns the loss of each list's positives against its other documents."""
    positive = positive & where
    top, rest = log_mass(scores, where & ~positive)
    ahead = tf.where(positive, rest - (scores - top), 0.0)
    # Two finite scores can lie further apart than their dtype reaches.
    losses = tf.minimum(tf.nn.softplus(ahead), scores.dtype.max)
    chosen = tf.cast(positive, scores.dtype)
    count = tf.reduce_sum(chosen, axis=-1, keepdims=True)
    share = tf.math.divide_no_nan(chosen, count)
    values = tf.reduce_sum(share * weights * losses, axis=-1)
    return values, tf.cast(tf.squeeze(count, axis=-1) > 0.0, scores.dtype)
