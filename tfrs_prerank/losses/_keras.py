"""Keras classes of the losses: they only adapt the arguments."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.losses._listwise import softmax_cross_entropy
from tfrs_prerank.losses._pointwise import sigmoid_cross_entropy
from tfrs_prerank.losses._reduction import ListLoss, check_reduction

# "sum_over_batch_size" makes Keras divide by the number of replicas, as for any mean.
_KERAS_REDUCTIONS = {
    "mean": tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE,
    "sum": tf.keras.losses.Reduction.SUM,
    "none": tf.keras.losses.Reduction.NONE,
}


class _KerasListLoss(tf.keras.losses.Loss):
    """Calls a loss function, which a subclass passes to `__init__`.

    A subclass with options passes them to `__init__` here by keyword; they reach
    the function and the config.
    """

    def __init__(
        self, function: ListLoss, reduction: str, name: str | None, **options: Any
    ):
        check_reduction(reduction)
        name = name or function.__name__
        super().__init__(reduction=_KERAS_REDUCTIONS[reduction], name=name)
        self._function = function
        self._list_reduction = reduction
        self._options = options

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return self._apply(y_true, y_pred, sample_weight, self._list_reduction)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the unreduced loss."""
        return self._apply(y_true, y_pred, None, "none")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "reduction": self._list_reduction,
            "name": self.name,
            **self._options,
        }

    def _apply(self, labels: Any, scores: Any, weights: Any, reduction: str) -> Any:
        scores = tf.convert_to_tensor(scores)
        if weights is not None:
            weights = tf.convert_to_tensor(weights)
            ranks = (weights.shape.rank, scores.shape.rank)
            if None not in ranks and 0 < ranks[0] == ranks[1] - 1:
                weights = tf.expand_dims(weights, -1)  # one weight per list
        return self._function(
            labels, scores, weights=weights, reduction=reduction, **self._options
        )


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SigmoidCrossEntropy(_KerasListLoss):
    """Binary cross-entropy of every document's logit, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.sigmoid_cross_entropy`. A NaN in
    `y_true` means that the document is absent.

    Differs from `tf.keras.losses.BinaryCrossentropy`: takes logits, and the mean is
    `sum(w l) / sum(w)` over valid documents, not over all elements.

    Args:
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all documents only where
            every replica has the same sum of weights.
        name: default `"sigmoid_cross_entropy"`.

    Call arguments:
        y_true: labels `[..., list_size]`.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.

    Example:
        >>> import tensorflow as tf
        >>> loss = SigmoidCrossEntropy()
        >>> round(float(loss([[1.0, float("nan")]], [[0.0, 9.0]])), 4)  # log 2
        0.6931
    """

    def __init__(self, reduction: str = "mean", name: str | None = None):
        super().__init__(sigmoid_cross_entropy, reduction, name)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SoftmaxCrossEntropy(_KerasListLoss):
    """Softmax cross-entropy of every list, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.softmax_cross_entropy`. A NaN in
    `y_true` means that the document is absent.

    Differs from `tf.keras.losses.CategoricalCrossentropy`: takes logits, divides a
    list's loss by the sum of its labels, and leaves lists without a positive out of
    the mean.

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
