"""Losses that look at one document at a time."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.losses._reduction import (
    Terms,
    check_labels,
    check_positive,
    list_loss,
)

# The square of a distance beyond this might be infinite.
_FARTHEST = 1e18


@list_loss
def sigmoid_cross_entropy(
    labels: tf.Tensor, scores: tf.Tensor, *, where: tf.Tensor, weights: tf.Tensor
) -> Terms:
    """Binary cross-entropy of every document's logit, averaged over documents.

    Formula, with `p = sigmoid(s)`:

        l_i = -y_i log p_i - (1 - y_i) log(1 - p_i)
        mean = sum_i w_i l_i / sum_i w_i        over all valid documents

    Takes time and memory linear in the list size.

    Differs from the source: equation 24 there leaves out the term of `1 - y`, without
    which every score that grows makes the loss smaller.

    Args:
        labels: `[..., list_size]`, in `[0, 1]` (soft labels are allowed). NaN means
            that the document has no label and takes no part.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `w_i l_i`; `"none"` for `w_i l_i`.

    Returns:
        float32 or float64: a scalar, or `[..., list_size]` for `"none"`. 0, with zero
        gradients, where no document is valid.

    Raises:
        ValueError: shapes do not fit, `reduction` is unknown, or, outside of a graph, a
            label is not in `[0, 1]` or a weight negative.
        TypeError: `where` is not bool.

    The attribute `sigmoid_cross_entropy.terms` returns `(w_i l_i, w_i)`, both
    `[..., list_size]`.

    Example:
        >>> import tensorflow as tf
        >>> labels, logits = [[1.0, 0.0, 1.0]], [[0.0, 0.0, -50.0]]
        >>> loss = sigmoid_cross_entropy(labels, logits)  # (2 log 2 + 50) / 3
        >>> round(float(loss), 4)
        17.1288
        >>> loss = sigmoid_cross_entropy(labels, logits, where=[[True, True, False]])
        >>> round(float(loss), 4)  # log 2
        0.6931
    """
    del where  # weights are 0 there
    check_labels(labels, low=0.0, high=1.0)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=scores)
    return weights * losses, weights


@list_loss
def contrastive(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    margin: float = 1.0,
) -> Terms:
    """Draws similar query and document together, and dissimilar ones a margin apart.

    Formula, with the distance `d` of query and document in the place of scores:

        l_i = (y_i d_i^2 + (1 - y_i) max(0, m - d_i)^2) / 2
        mean = sum_i w_i l_i / sum_i w_i        over all valid documents

    Takes time and memory linear in the list size.

    Differs from the source: equation 25 there takes `d` for the difference of two
    scores, of which this form would draw those of a rightly ordered pair together. For
    the order of scores take `pairwise_hinge`.

    Args:
        labels: `[..., list_size]`, in `[0, 1]`; 1 is similar. NaN means that the
            document has no label and takes no part.
        scores: distances, non-negative, not similarities: `1 - cosine`, or Euclidean
            ones. Same shape, any float dtype; computed in float32, or in float64 where
            they are that. Those beyond 1e18 count as 1e18, without a gradient.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and distance hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `w_i l_i`; `"none"` for `w_i l_i`.
        margin: `m`, positive.

    Returns:
        float32 or float64: a scalar, or `[..., list_size]` for `"none"`. 0, with zero
        gradients, where no document is valid.

    Raises:
        ValueError: shapes do not fit, `margin` is not positive, `reduction` is unknown,
            or, outside of a graph, a label is not in `[0, 1]` or a weight negative.
        TypeError: `where` is not bool.

    The attribute `contrastive.terms` returns `(w_i l_i, w_i)`, both
    `[..., list_size]`.

    References:
        Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping"
        (CVPR 2006), equation 4 (whose `Y` is `1 - y` here).

    Example:
        >>> loss = contrastive([[1.0, 0.0, 0.0]], [[0.5, 0.5, 3.0]], reduction="none")
        >>> loss.numpy().tolist()  # 0.5^2 / 2; (1 - 0.5)^2 / 2; far enough apart
        [[0.125, 0.125, 0.0]]
    """
    del where  # weights are 0 there
    check_positive("margin", margin)
    check_labels(labels, low=0.0, high=1.0)
    distances = tf.clip_by_value(scores, -_FARTHEST, _FARTHEST)
    together = labels * tf.square(distances)
    apart = (1.0 - labels) * tf.square(tf.nn.relu(margin - distances))
    return weights * 0.5 * (together + apart), weights
