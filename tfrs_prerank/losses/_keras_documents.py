"""Keras classes of the losses over documents."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.losses._keras import KerasListLoss
from tfrs_prerank.losses._pointwise import contrastive, sigmoid_cross_entropy
from tfrs_prerank.losses._reduction import check_positive


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SigmoidCrossEntropy(KerasListLoss):
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
class Contrastive(KerasListLoss):
    """Contrastive loss of every document's distance, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.contrastive`. A NaN in `y_true` means
    that the document is absent.

    Args:
        margin: `m` of the formula, positive.
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all documents only where
            every replica has the same sum of weights.
        name: default `"contrastive"`.

    Call arguments:
        y_true: labels `[..., list_size]`, in `[0, 1]`.
        y_pred: distances, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, `margin` is not positive, or `reduction` is
            unknown.

    Example:
        >>> loss = Contrastive(margin=2.0)
        >>> float(loss([[1.0, 0.0]], [[1.0, 1.0]]))  # (1^2 / 2 + (2 - 1)^2 / 2) / 2
        0.5
    """

    def __init__(
        self,
        margin: float = 1.0,
        reduction: str = "mean",
        name: str | None = None,
    ):
        check_positive("margin", margin)
        super().__init__(contrastive, reduction, name, margin=margin)
