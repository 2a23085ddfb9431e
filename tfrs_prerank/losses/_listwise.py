"""Losses that look at a whole list at a time."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.losses._reduction import Terms, list_loss


@list_loss
def softmax_cross_entropy(
    labels: tf.Tensor, scores: tf.Tensor, *, where: tf.Tensor, weights: tf.Tensor
) -> Terms:
    """Cross-entropy between a list's labels and the softmax of its scores.

    Formula, for one list, all sums over its valid documents:

        l = -sum_i w_i y_i log(exp(s_i) / sum_j exp(s_j)) / sum_i y_i
        mean = the mean of l over the lists with sum_i y_i > 0

    Labels may be graded. A weight multiplies the term of its positive; it enters
    neither the softmax nor the divisor, so doubling all weights doubles the loss.

    Differs from ListNet: the target is `y / sum(y)`, not a softmax of the labels.

    Args:
        labels: `[..., list_size]`, non-negative. NaN means that the document has no
            label and takes no part, in the softmax neither.
        scores: logits, same shape, any float dtype; computed in float32.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.

    Returns:
        float32: a scalar, or `[...]` for `"none"`. A list without a positive gives 0
        with zero gradients and does not count in the mean. A loss above the largest
        float32 is that number, with no gradient.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.
        TypeError: `where` is not bool.

    The attribute `softmax_cross_entropy.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach"
        (ICML 2007).

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
    positive = tf.reduce_sum(labels, axis=-1, keepdims=True)
    usable = positive > 0.0
    lowest = scores.dtype.min
    top = tf.reduce_max(tf.where(where, scores, lowest), axis=-1, keepdims=True)
    shifted = tf.where(where, scores - tf.stop_gradient(top), 0.0)
    mass = tf.reduce_sum(tf.where(where, tf.exp(shifted), 0.0), axis=-1, keepdims=True)
    # The inner where keeps log(0) of an empty list out of the gradient.
    surprise = tf.math.log(tf.where(usable, mass, 1.0)) - shifted
    # Two finite scores can lie further apart than float32 reaches.
    surprise = tf.minimum(surprise, scores.dtype.max)
    share = tf.math.divide_no_nan(labels, positive)
    values = tf.reduce_sum(share * weights * surprise, axis=-1)
    return values, tf.cast(tf.squeeze(usable, axis=-1), tf.float32)
