"""Keras classes of the losses over lists."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfrs_prerank.losses._distillation import Form, check_distillation, distillation
from tfrs_prerank.losses._keras import KerasListLoss
from tfrs_prerank.losses._list_mle import list_mle
from tfrs_prerank.losses._listwise import softmax_cross_entropy
from tfrs_prerank.losses._multi_positive import (
    check_level_weights,
    hierarchical_softmax,
    multi_positive_softmax,
)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SoftmaxCrossEntropy(KerasListLoss):
    """Softmax cross-entropy of every list, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.softmax_cross_entropy`. A NaN in
    `y_true` means that the document is absent.

    Differs from `tf.keras.losses.CategoricalCrossentropy`: takes logits, divides a
    list's loss by the sum of its labels, and leaves lists without a positive out of
    the mean.

    Takes no `log_q`, for which Keras has no place: call the function for that.

    Args:
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"softmax_cross_entropy"`.

    Call arguments:
        y_true: labels `[..., list_size]`.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.

    Example:
        >>> import tensorflow as tf
        >>> loss = SoftmaxCrossEntropy()
        >>> round(float(loss([[1.0, 0.0, float("nan")]], [[0.0, 0.0, 9.0]])), 4)
        0.6931
    """

    def __init__(self, reduction: str = "mean", name: str | None = None):
        super().__init__(softmax_cross_entropy, reduction, name)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class MultiPositiveSoftmax(KerasListLoss):
    """Softmax of every positive against its negatives, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.multi_positive_softmax`. A NaN in
    `y_true` means that the document is absent.

    Takes no `log_q`, for which Keras has no place: call the function for that.

    Args:
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"multi_positive_softmax"`.

    Call arguments:
        y_true: labels `[..., list_size]`; above 0 is a positive.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.

    Example:
        >>> loss = MultiPositiveSoftmax()
        >>> round(float(loss([[1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]])), 4)  # log 2, twice
        0.6931
    """

    def __init__(
        self,
        reduction: str = "mean",
        name: str | None = None,
    ):
        super().__init__(multi_positive_softmax, reduction, name)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class HierarchicalSoftmax(KerasListLoss):
    """Softmax of every level of feedback, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.hierarchical_softmax`. A NaN in `y_true`
    means that the document is absent.

    Takes no `log_q`, for which Keras has no place: call the function for that.

    Args:
        level_weights: one positive weight per level, from the lowest on.
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"hierarchical_softmax"`.

    Call arguments:
        y_true: labels `[..., list_size]`, from 0 to the number of levels.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, a level weight is not positive, or `reduction` is
            unknown.

    Example:
        >>> loss = HierarchicalSoftmax(level_weights=(1.0, 2.0))
        >>> round(float(loss([[2.0, 0.0]], [[0.0, 0.0]])), 4)  # log 2 + 2 log 2
        2.0794
    """

    def __init__(
        self,
        level_weights: Sequence[float] = (1.0, 1.0, 1.0),
        reduction: str = "mean",
        name: str | None = None,
    ):
        check_level_weights(level_weights)
        super().__init__(
            hierarchical_softmax, reduction, name, level_weights=tuple(level_weights)
        )


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class ListMLE(KerasListLoss):
    """Likelihood of the order of every list, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.list_mle`. A NaN in `y_true` means that
    the document is absent.

    Takes no `log_q`, for which Keras has no place: call the function for that.

    Args:
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"list_mle"`.

    Call arguments:
        y_true: labels `[..., list_size]`; only their order counts.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.

    Example:
        >>> round(float(ListMLE()([[1.0, 0.0]], [[0.0, 0.0]])), 4)  # (log 2) / 2
        0.3466
    """

    def __init__(
        self,
        reduction: str = "mean",
        name: str | None = None,
    ):
        super().__init__(list_mle, reduction, name)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class Distillation(KerasListLoss):
    """Divergence from a teacher's probabilities, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.distillation`. A NaN in `y_true` means
    that the document is absent.

    Args:
        temperature: `T` of the formula, positive.
        form: `"softmax"` (lists) or `"sigmoid"` (documents).
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"distillation"`.

    Call arguments:
        y_true: the teacher's logits, `[..., list_size]`.
        y_pred: the student's logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, `temperature` is not positive, or `form` or
            `reduction` is unknown.

    Example:
        >>> loss = Distillation(temperature=2.0)
        >>> float(loss([[0.0, 1.0]], [[3.0, 4.0]]))  # only differences count
        0.0
    """

    def __init__(
        self,
        temperature: float = 1.0,
        form: Form = "softmax",
        reduction: str = "mean",
        name: str | None = None,
    ):
        check_distillation(temperature, form)
        super().__init__(
            distillation, reduction, name, temperature=temperature, form=form
        )
