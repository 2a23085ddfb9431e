"""The likelihood of an order."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.losses._reduction import (
    Terms,
    as_rows,
    known_log_q,
    list_loss,
)


@list_loss
def list_mle(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    log_q: Any = None,
) -> Terms:
    """Negative log-likelihood of the order of a list's labels.

    Formula, for one list of n valid documents:

        l = -sum_i w_i log(exp(s_i) / sum_{j: y_j <= y_i} exp(s_j)) / n

    over the documents `i` that are more relevant than at least one other: the best is
    drawn from all, the next from what is left, and so on (Plackett and Luce). The mean
    is over lists with two different labels.

    With `log_q`, `s_i - log_q_i` stands in the place of every `s_i`.

    Takes memory linear in the list size L, and time O(L log L) for sorting.

    Differs from the paper, which knows no equal labels: those share their denominator
    (the approximation of Breslow), so that the order in which a list was logged says
    nothing; and documents of the lowest label, which precede nothing, have no term, as
    the paper's last document. Divided by the number of documents, so that lists of all
    lengths count alike.

    Args:
        labels: `[..., list_size]`, any numbers: only their order counts. NaN means that
            the document has no label and takes no part.
        scores: logits, same shape, any float dtype; computed in float32, or in float64
            where they are that. A score 1e30 below the list's highest counts as that.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its label and score hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `l` over lists; `"none"` for every list's `l`.
        log_q: log of the probability that a document was sampled with, 0 where it was
            not sampled; `[..., list_size]`, `[..., 1]` or a scalar. Default: all 0.

    Returns:
        float32 or float64: a scalar, or `[...]` for `"none"`. A list whose labels are
        all equal gives 0 with zero gradients and does not count in the mean.

    Raises:
        ValueError: shapes do not fit, `reduction` is unknown, or, outside of a graph, a
            label is infinite, a weight negative or `log_q` above 0.
        TypeError: `where` is not bool.

    The attribute `list_mle.terms` returns `(l, 1 or 0)`, both `[...]`.

    References:
        Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm" (ICML
        2008), section 4.3; Breslow, "Covariance Analysis of Censored Survival Data"
        (Biometrics 1974) for equal labels.

    Example:
        >>> labels, scores = [[2.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]
        >>> round(float(list_mle(labels, scores)), 4)  # (log 3 + log 2) / 3
        0.5973
    """
    scores -= known_log_q(log_q, scores, where)
    lowest, highest = scores.dtype.min, scores.dtype.max
    top = tf.reduce_max(tf.where(where, scores, lowest), axis=-1, keepdims=True)
    shifted = tf.where(where, scores - tf.stop_gradient(top), 0.0)
    shifted = tf.maximum(shifted, -1e30)  # what lies further apart may be infinite
    # From the lowest label upwards; what does not count comes last, without weight.
    ranked = tf.where(where, labels, highest)
    first = tf.reduce_min(ranked, axis=-1, keepdims=True)
    follows = tf.where(ranked > first, weights, 0.0)
    order = tf.argsort(as_rows(ranked), axis=-1)
    ranked, shifted, follows = (
        tf.gather(as_rows(column), order, batch_dims=1)
        for column in (ranked, shifted, follows)
    )
    last_equal = tf.searchsorted(ranked, ranked, side="right") - 1
    below = tf.math.cumulative_logsumexp(shifted, axis=-1)
    surprise = tf.gather(below, last_equal, batch_dims=1) - shifted
    count = tf.reduce_sum(tf.cast(where, scores.dtype), axis=-1)
    total = tf.reshape(tf.reduce_sum(follows * surprise, axis=-1), tf.shape(count))
    usable = tf.reduce_any(where & (labels > first), axis=-1)
    return tf.math.divide_no_nan(total, count), tf.cast(usable, scores.dtype)
