"""Keras classes of the losses over pairs of documents."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.losses._keras import KerasListLoss
from tfrs_prerank.losses._lambdarank import check_k, lambdarank
from tfrs_prerank.losses._pairwise import (
    check_triplet,
    pairwise_hinge,
    ranknet,
    triplet,
)
from tfrs_prerank.losses._reduction import check_positive


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class PairwiseHinge(KerasListLoss):
    """Hinge loss of every pair of documents, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.pairwise_hinge`. A NaN in `y_true` means
    that the document is absent.

    Args:
        margin: `m` of the formula, positive.
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"pairwise_hinge"`.

    Call arguments:
        y_true: labels `[..., list_size]`.
        y_pred: scores, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, `margin` is not positive, or `reduction` is
            unknown.

    Example:
        >>> float(PairwiseHinge(margin=2.0)([[1.0, 0.0]], [[1.0, 0.5]]))  # 2 - 0.5
        1.5
    """

    def __init__(
        self,
        margin: float = 1.0,
        reduction: str = "mean",
        name: str | None = None,
    ):
        check_positive("margin", margin)
        super().__init__(pairwise_hinge, reduction, name, margin=margin)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class RankNet(KerasListLoss):
    """Logistic loss of every pair of documents, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.ranknet`. A NaN in `y_true` means that
    the document is absent.

    Args:
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"ranknet"`.

    Call arguments:
        y_true: labels `[..., list_size]`.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, or `reduction` is unknown.

    Example:
        >>> round(float(RankNet()([[1.0, 0.0]], [[0.0, 0.0]])), 4)  # log 2
        0.6931
    """

    def __init__(
        self,
        reduction: str = "mean",
        name: str | None = None,
    ):
        super().__init__(ranknet, reduction, name)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class LambdaRank(KerasListLoss):
    """LambdaRank of every list, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.lambdarank`. A NaN in `y_true` means
    that the document is absent.

    Args:
        k: ranks that count, None for all.
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"lambdarank"`.

    Call arguments:
        y_true: grades `[..., list_size]`, non-negative.
        y_pred: logits, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, `k` is not positive, or `reduction` is unknown.

    Example:
        >>> loss = LambdaRank(k=1)
        >>> round(float(loss([[0.0, 1.0]], [[1.0, 1.0]])), 4)  # (1 - 0) log 2
        0.6931
    """

    def __init__(
        self,
        k: int | None = None,
        reduction: str = "mean",
        name: str | None = None,
    ):
        check_k(k)
        super().__init__(lambdarank, reduction, name, k=k)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class Triplet(KerasListLoss):
    """Margin between positives and hard negatives, for `model.compile`.

    The formula is that of `tfrs_prerank.losses.triplet`. A NaN in `y_true` means that
    the document is absent.

    Args:
        margin: `m` of the formula, positive.
        hard_negatives: how many negatives a positive meets, None for all.
        reduction: `"mean"`, `"sum"` or `"none"`. With several replicas Keras averages
            the replicas' means, which equals the mean over all lists only where every
            replica has the same number of usable lists.
        name: default `"triplet"`.

    Call arguments:
        y_true: labels `[..., list_size]`; above 0 is a positive.
        y_pred: similarities, same shape.
        sample_weight: `[..., list_size]` (documents), `[...]` (lists) or a scalar.

    Raises:
        ValueError: shapes do not fit, `margin` or `hard_negatives` is not positive, or
            `reduction` is unknown.

    Example:
        >>> loss = Triplet(margin=0.5, hard_negatives=1)
        >>> float(loss([[1.0, 0.0, 0.0]], [[0.5, 0.25, -0.5]]))  # 0.25 - 0.5 + 0.5
        0.25
    """

    def __init__(
        self,
        margin: float = 0.2,
        hard_negatives: int | None = None,
        reduction: str = "mean",
        name: str | None = None,
    ):
        check_triplet(margin, hard_negatives)
        super().__init__(
            triplet, reduction, name, margin=margin, hard_negatives=hard_negatives
        )
