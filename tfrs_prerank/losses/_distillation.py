"""Learning from a teacher's logits."""

from __future__ import annotations

from typing import Literal, get_args

import tensorflow as tf

from tfrs_prerank.losses._reduction import Terms, check_positive, list_loss
from tfrs_prerank.losses._softmax import log_mass

Form = Literal["softmax", "sigmoid"]

# Beyond this a logit changes no probability, and differences stay finite.
_LARGEST = 1e30


@list_loss
def distillation(
    labels: tf.Tensor,
    scores: tf.Tensor,
    *,
    where: tf.Tensor,
    weights: tf.Tensor,
    temperature: float = 1.0,
    form: Form = "softmax",
) -> Terms:
    """Divergence of the student's probabilities from the teacher's, both tempered.

    Formula, with `t` the teacher's logits, given in the place of labels. The form
    "softmax" compares a list's documents with each other:

        p = softmax(t / T),  q = softmax(s / T)        over the list's valid documents
        l = T^2 sum_i w_i (p_i log(p_i / q_i) - p_i + q_i)
        mean = the mean of l over the lists with at least two documents

    whose last two terms cancel where all weights are equal, which leaves the
    Kullback-Leibler divergence. The form "sigmoid" compares every document with itself
    and keeps the teacher's probabilities, too, where they are calibrated:

        p_i = sigmoid(t_i / T),  q_i = sigmoid(s_i / T)
        l_i = T^2 (p_i log(p_i / q_i) + (1 - p_i) log((1 - p_i) / (1 - q_i)))
        mean = sum_i w_i l_i / sum_i w_i        over all valid documents

    Both are 0 where student and teacher agree, and never negative, up to rounding: the
    sum of terms that cancel may be some 1e-7 T^2 below 0. A hard loss of the labels is
    a term of its own, with the student at temperature 1.

    Takes time and memory linear in the list size.

    Differs from the source: equation 18 there tempers the teacher only, and equation 17
    lacks `T^2`, without which the gradient shrinks by `1 / T^2` as the temperature
    grows.

    Args:
        labels: the teacher's logits, `[..., list_size]`. NaN means that there is none
            and the document takes no part. They get no gradient.
        scores: the student's logits, same shape, any float dtype; computed in float32,
            or in float64 where they are that. Divided by the temperature, logits beyond
            1e30 count as that, on either side.
        where: bool, `[..., list_size]` or `[..., 1]`; false takes a document out,
            whatever its logits hold. Default: all true.
        weights: non-negative, `[..., list_size]`, `[..., 1]` or a scalar. 0 is
            `where=False`; NaN means that no weight is known and is read as 1.
        reduction: `"mean"`; `"sum"` of `l` over lists or of `w_i l_i`; `"none"` for
            every list's `l` or every document's `w_i l_i`.
        temperature: `T`, positive.
        form: `"softmax"` (lists) or `"sigmoid"` (documents).

    Returns:
        float32 or float64: a scalar, or for `"none"` `[...]` (softmax) or `[...,
        list_size]` (sigmoid). 0, with zero gradients, where nothing counts.

    Raises:
        ValueError: shapes do not fit, `temperature` is not positive, `form` or
            `reduction` is unknown, or, outside of a graph, a weight is negative.
        TypeError: `where` is not bool.

    The attribute `distillation.terms` returns `(l, 1 or 0)`, both `[...]`, for softmax,
    `(w_i l_i, w_i)`, both `[..., list_size]`, for sigmoid.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network"
        (arXiv:1503.02531), section 2.

    Example:
        >>> teacher, student = [[0.0, 2.0]], [[0.0, 0.0]]
        >>> round(float(distillation(teacher, student, temperature=2.0)), 4)
        0.4438
        >>> float(distillation(teacher, teacher, form="sigmoid"))
        0.0
    """
    check_distillation(temperature, form)
    teacher = tf.stop_gradient(labels)
    if form == "sigmoid":
        losses = _bernoulli_divergence(
            _tempered(teacher, temperature), _tempered(scores, temperature)
        )
        return temperature**2 * weights * losses, weights
    log_p = _log_softmax(_tempered(teacher, temperature), where)
    log_q = _log_softmax(_tempered(scores, temperature), where)
    p, q = tf.exp(log_p), tf.exp(log_q)
    losses = tf.where(where, p * (log_p - log_q) - p + q, 0.0)
    values = temperature**2 * tf.reduce_sum(weights * losses, axis=-1)
    usable = tf.reduce_sum(tf.cast(where, tf.int32), axis=-1) > 1
    return values, tf.cast(usable, scores.dtype)


def check_distillation(temperature: float, form: str) -> None:
    """Raises ValueError unless the options of `distillation` are possible."""
    check_positive("temperature", temperature)
    if form not in get_args(Form):
        raise ValueError(f"form={form!r} is unknown: use 'softmax' or 'sigmoid'.")


def _tempered(logits: tf.Tensor, temperature: float) -> tf.Tensor:
    return tf.clip_by_value(logits / temperature, -_LARGEST, _LARGEST)


def _bernoulli_divergence(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """Returns the divergence of two probabilities, given by their logits."""
    p = tf.sigmoid(teacher)
    # log(p / q) and log((1 - p) / (1 - q))
    of_yes = tf.nn.softplus(-student) - tf.nn.softplus(-teacher)
    of_no = tf.nn.softplus(student) - tf.nn.softplus(teacher)
    return p * of_yes + (1.0 - p) * of_no


def _log_softmax(logits: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """Returns the logarithms of a list's probabilities; any number elsewhere."""
    top, rest = log_mass(logits, where)
    return tf.where(where, logits - top, 0.0) - rest
