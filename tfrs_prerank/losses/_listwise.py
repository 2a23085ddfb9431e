"""Losses that look at a whole list at a time."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.losses._reduction import (
    Terms,
    check_labels,
    known_log_q,
    list_loss,
)
from tfrs_prerank.losses._softmax import log_mass


@list_loss
def softmax_cross_entropy(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    log_q: Any = None,
) -> Terms:
    """Cross-entropy between a list's labels and the softmax of its scores.

    Formula, for one list, all sums over its valid documents:

        l = -sum_i w_i y_i log(exp(s_i) / sum_j exp(s_j)) / sum_i y_i
        mean = the mean of l over the lists with sum_i y_i > 0

    Labels may be graded. A weight multiplies the term of its positive; it enters
    neither the softmax nor the divisor, so doubling all weights doubles the loss.

    With `log_q`, `s_i - log_q_i` stands in the place of every `s_i`: the softmax of a
    sampled list then estimates that of all documents they were sampled from.

    Takes time and memory linear in the list size.

    Differs from ListNet: the target is `y / sum(y)`, not a softmax of the labels.

    Args:
        labels: `[..., list_size]`, non-negative. NaN means that the document has no
            label and takes no part, in the softmax neither.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        log_q: log of the probability that a document was sampled with, 0 where it was
            not sampled; `[..., list_size]`, `[..., 1]` or a scalar. Default: all 0.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list without a positive
        gives 0 with zero gradients and does not count in the mean. A loss above the
        largest number of its dtype is that number, with no gradient.

    Raises:
        ValueError: shapes do not fit, `reduction` is unknown, or, outside of a graph, a
            label or weight is negative or `log_q` above 0.
        TypeError: `where` is not bool.

    The attribute `softmax_cross_entropy.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach"
        (ICML 2007); Bengio and Senecal, "Adaptive Importance Sampling to Accelerate
        Training of a Neural Probabilistic Language Model" (IEEE Transactions on Neural
        Networks 2008) for `log_q`.

    Example:
        >>> import tensorflow as tf
        >>> loss = softmax_cross_entropy([[1.0, 0.0, 3.0]], [[0.0, 0.0, 0.0]])
        >>> round(float(loss), 4)  # every log-probability is -log 3
        1.0986
        >>> labels = [[1.0, 0.0, float("nan")], [0.0, 0.0, 0.0]]
        >>> losses = softmax_cross_entropy(labels, tf.zeros([2, 3]), reduction="none")
        >>> losses.numpy().round(4).tolist()  # log 2; no positive
        [0.6930999755859375, 0.0]
    """
    check_labels(labels, low=0.0)
    scores -= known_log_q(log_q, scores, where)
    positive = tf.reduce_sum(labels, axis=-1, keepdims=True)
    top, rest = log_mass(scores, where)
    # Two finite scores can lie further apart than their dtype reaches.
    surprise = tf.minimum(rest - (scores - top), scores.dtype.max)
    surprise = tf.where(where, surprise, 0.0)
    usable = positive > 0.0
    share = tf.math.divide_no_nan(labels, tf.where(usable, positive, 0.0))
    values = tf.reduce_sum(share * weights * surprise, axis=-1)
    return values, tf.cast(tf.squeeze(usable, axis=-1), scores.dtype)
