"""Losses that look at one document at a time."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.losses._reduction import Terms, list_loss


@list_loss
def sigmoid_cross_entropy(
    labels: tf.Tensor, scores: tf.Tensor, *, where: tf.Tensor, weights: tf.Tensor
) -> Terms:
    """Binary cross-entropy of every document's logit, averaged over documents.

    Formula, with `p = sigmoid(s)`:

        l_i = -y_i log p_i - (1 - y_i) log(1 - p_i)
        mean = sum_i w_i l_i / sum_i w_i        over all valid documents

    Differs from the source: equation 24 there leaves out the term of `1 - y`, without
    which every score that grows makes the loss smaller.

    Args:
        labels: `[..., list_size]`, in `[0, 1]` (soft labels are allowed). NaN means
            that the document has no label and takes no part.
        scores: logits, same shape, any float dtype; computed in float32.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `w_i l_i`; `"none"` for `w_i l_i`.

    Returns:
        float32: a scalar, or `[..., list_size]` for `"none"`. 0, with zero gradients,
        where no document is valid.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.
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
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=scores)
    return weights * losses, weights
