"""What all losses share: which documents count, and how terms become one number.

A loss is written as a *body* that returns two tensors of one shape:

* pointwise: `values = w * l` and `counts = w` for every document, `[..., list_size]`;
* over lists: the list's loss and 1 (usable) or 0 (not usable), `[...]`.

The decorator `list_loss` turns a body into the public function:

* `reduction="none"` is `values`;
* `reduction="sum"` is `sum(values)`;
* `reduction="mean"` is `sum(values) / sum(counts)`, and 0 where nothing counts.

`loss.terms(...)` returns `(values, counts)`. A mean of per-replica means is wrong
when replicas hold different numbers of valid documents, so a trainer sums `counts`
over all replicas and divides each replica's `sum(values)` by that.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

REDUCTIONS = ("mean", "sum", "none")

Terms = tuple[tf.Tensor, tf.Tensor]


class ListLoss(Protocol):
    """The type of a public loss: a function that also has `terms`."""

    __name__: str

    def __call__(
        self,
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
        reduction: str = "mean",
        **options: Any,
    ) -> tf.Tensor:
        """Returns the reduced loss."""

    def terms(
        self,
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
        **options: Any,
    ) -> Terms:
        """Returns `(values, counts)`."""


def check_reduction(reduction: str) -> None:
    """Raises ValueError unless `reduction` is one of `REDUCTIONS`."""
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction={reduction!r} is unknown: use 'mean', 'sum' or 'none'."
        )


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless an option is a positive finite number."""
    if not (isinstance(value, numbers.Real) and 0.0 < value < math.inf):
        raise ValueError(
            f"{name} must be a positive number. Received: {name}={value!r}"
        )


def check_labels(labels: tf.Tensor, low: float, high: float = math.inf) -> None:
    """Raises ValueError where a label is known to be outside a range."""
    _check_known("labels", labels, low, high)


def known_log_q(log_q: Any, scores: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """Returns log probabilities of sampling as a tensor like the scores.

    Args:
        log_q: what the user gave; None stands for documents that were not sampled.
        scores: `[..., list_size]`.
        where: says which documents count; 0 is returned for others.

    Raises:
        ValueError: the shape does not fit, or a value is known not to be the logarithm
            of a probability.
    """
    if log_q is None:
        return tf.zeros_like(scores)
    log_q = tf.cast(tf.convert_to_tensor(log_q), scores.dtype)
    log_q = tf.where(where, _broadcast("log_q", log_q, scores), 0.0)
    _check_known("log_q", log_q, -math.inf, 0.0)
    return log_q


def as_rows(tensor: tf.Tensor) -> tf.Tensor:
    """Flattens `[..., list_size]` to `[lists, list_size]`."""
    shape = tf.shape(tensor)
    return tf.reshape(tensor, [tf.reduce_prod(shape[:-1]), shape[-1]])


def list_loss(body: Callable[..., Terms]) -> ListLoss:
    """Makes a public loss of a body that returns `(values, counts)`.

    The body is called as `body(labels, scores, *, where, weights, **options)` with
    tensors of one shape `[..., list_size]`, in float64 where the scores are float64,
    else in float32. `where` (bool) is final: it is false for padding, NaN labels and
    weight 0, and there labels, scores and weights are 0, so a body meets no NaN of a
    padded position, in value or gradient.

    Labels and weights out of their range are refused where their values are known,
    which is when a loss is called eagerly. In a graph that would take an assertion in
    every step: there a negative or infinite weight counts as 0, an infinite label as
    none, and another label enters the formula unless the loss says otherwise; none
    gives NaN.

    The public function takes `where=None`, `weights=None` and `reduction="mean"`
    besides the body's own options, and keeps its name and docstring.
    """

    @functools.wraps(body)
    def loss(
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
        reduction: str = "mean",
        **options: Any,
    ) -> tf.Tensor:
        check_reduction(reduction)
        values, counts = terms(labels, scores, where=where, weights=weights, **options)
        return reduce_terms(values, counts, reduction)

    def terms(
        labels: Any,
        scores: Any,
        *,
        where: Any = None,
        weights: Any = None,
        **options: Any,
    ) -> Terms:
        labels, scores, where, weights = _clean(labels, scores, where, weights)
        return body(labels, scores, where=where, weights=weights, **options)

    terms.__name__ = "terms"
    terms.__qualname__ = f"{body.__qualname__}.terms"
    terms.__doc__ = f"Returns `(values, counts)` of `{body.__name__}`."
    attributes: Any = loss
    attributes.terms = terms
    attributes.__signature__ = _public_signature(body)
    return attributes


def reduce_terms(values: tf.Tensor, counts: tf.Tensor, reduction: str) -> tf.Tensor:
    """Reduces the terms of a loss; see the text at the top of this file."""
    if reduction == "none":
        return values
    if reduction == "sum":
        return tf.reduce_sum(values)
    # Dividing first keeps the sum of huge finite terms from overflowing.
    return tf.reduce_sum(tf.math.divide_no_nan(values, tf.reduce_sum(counts)))


def _clean(
    labels: Any, scores: Any, where: Any, weights: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    scores = tf.convert_to_tensor(scores)
    dtype = tf.float64 if scores.dtype == tf.float64 else tf.float32
    scores = tf.cast(scores, dtype)
    labels = tf.cast(tf.convert_to_tensor(labels), dtype)
    if scores.shape.rank == 0:
        raise ValueError(
            "scores has shape (): a loss needs a list dimension [..., list_size]."
        )
    if not labels.shape.is_compatible_with(scores.shape):
        raise ValueError(
            f"labels has shape {labels.shape} and scores {scores.shape}: "
            "give both the same shape [..., list_size]."
        )
    valid = tf.logical_not(tf.math.is_nan(labels))
    if where is not None:
        where = tf.convert_to_tensor(where)
        if where.dtype != tf.bool:
            raise TypeError(
                f"where has dtype {where.dtype.name}: give a bool mask, true = valid."
            )
        valid = tf.logical_and(valid, _broadcast("where", where, scores))
    if weights is None:
        weights = tf.ones_like(scores)
    else:
        weights = tf.cast(tf.convert_to_tensor(weights), dtype)
        weights = _broadcast("weights", weights, scores)
        weights = tf.where(tf.math.is_nan(weights), tf.ones_like(weights), weights)
        _check_known("weights", tf.where(valid, weights, 0.0), 0.0, math.inf)
        valid = valid & (weights > 0.0) & tf.math.is_finite(weights)
    _check_known("labels", tf.where(valid, labels, 0.0), -math.inf, math.inf)
    valid = tf.logical_and(valid, tf.math.is_finite(labels))
    return (
        tf.where(valid, labels, 0.0),
        tf.where(valid, scores, 0.0),
        valid,
        tf.where(valid, weights, 0.0),
    )


def _check_known(name: str, tensor: tf.Tensor, low: float, high: float) -> None:
    """Raises where a value is known that is infinite or outside `[low, high]`."""
    values = tf.get_static_value(tensor)
    if values is None:
        return
    bad = values[~(np.isfinite(values) & (low <= values) & (values <= high))]
    bad = bad[~np.isnan(bad)]  # shown by the loss
    if bad.size:
        bounds = [f"at least {low:g}"] if low > -math.inf else []
        bounds += [f"at most {high:g}"] if high < math.inf else []
        raise ValueError(
            f"{name} holds {bad[0]:g}: give finite numbers"
            f"{', ' if bounds else ''}{' and '.join(bounds)}."
        )


def _broadcast(name: str, tensor: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Broadcasts `[..., list_size]`, `[..., 1]` or a scalar to the scores."""
    shape, target = tensor.shape, scores.shape
    if shape.rank is not None and target.rank is not None and shape.rank > 0:
        # [list_size] beside [B, list_size] could as well mean [B]: not guessed.
        fits = shape.rank == target.rank and all(
            own in (1, None) or other is None or own == other
            for own, other in zip(shape, target, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{name} has shape {shape} and scores {target}: give one value per "
                "document [..., list_size] or one per list [..., 1]."
            )
    return tf.broadcast_to(tensor, tf.shape(scores))


def _public_signature(body: Callable[..., Terms]) -> inspect.Signature:
    signature = inspect.signature(body)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name in ("where", "weights"):
            parameter = parameter.replace(default=None)
        parameters.append(parameter)
        if parameter.name == "weights":
            parameters.append(
                inspect.Parameter(
                    "reduction",
                    inspect.Parameter.KEYWORD_ONLY,
                    default="mean",
                    annotation="str",
                )
            )
    return signature.replace(parameters=parameters, return_annotation="tf.Tensor")
