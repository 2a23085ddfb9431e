"""Share of the positives' value that the top k keeps."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._kept_share import KeptShare


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class WeightedRecall(KeptShare):
    """Which share of the value of a request's positives its k best candidates keep.

    Formula, for one request, with `P_k` its k best candidates and `v` the value of a
    document, such as its price or a weight of the behaviour, where its label is above
    0, else 0:

        WeightedRecall@k = sum_{i in P_k} v_i / sum_i v_i

    and the result is the mean over requests with some value, or with `pooled` the
    value kept in all requests over the value of all. Candidates whose equal scores
    straddle the cut are each kept with the same probability. A list of at most k
    candidates gives 1.

    Documents without a label (NaN) compete, as in `InSceneHitRate`, whose cautions
    hold here too. A positive whose value is NaN or below 0 has value 0.

    Args:
        k: size of the forwarded set.
        values: the batch column `[B, L]` of values. None: the labels are the values.
        pooled: whether a request counts by its value, in the place of each the same.
        name: default `"weighted_recall@<k>"`.

    Call arguments: labels `[B, L]`, NaN = not shown; scores `[B, L]`; with a column of
    values also `values` `[B, L]`; see `update_state`.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.
        TypeError: `values` is missing.

    References:
        Fu et al., "Residual Multi-Task Learner for Applied Ranking" (KDD 2024), which
        ranks pre-rankers by a recall of weighted positives.

    Example:
        >>> import tensorflow as tf
        >>> metric = WeightedRecall(k=1, values="price")
        >>> scores, price = [[3.0, 2.0, 1.0]], [[10.0, 30.0, 99.0]]
        >>> metric.update_state([[1.0, 1.0, 0.0]], scores, values=price)
        >>> float(metric.result())  # 10 of 10 + 30
        0.25
    """

    _unlabelled_compete = True

    def __init__(
        self,
        k: int = 100,
        values: str | None = None,
        pooled: bool = False,
        name: str | None = None,
    ):
        super().__init__(k, name or f"weighted_recall@{k}")
        self.values = values
        self.pooled = pooled

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        if self.values is None:
            return super().columns
        return {**super().columns, "values": self.values}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "values": self.values, "pooled": self.pooled}

    def _value_of_documents(
        self, labels: tf.Tensor, valid: tf.Tensor, **columns: tf.Tensor
    ) -> tf.Tensor:
        values = tf.cast(columns.get("values", labels), tf.float64)
        counts = valid & (labels > 0) & (values > 0)
        return tf.where(counts, values, tf.zeros([], tf.float64))

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        recall, weight = super()._per_list(labels, scores, valid, **columns)
        if self.pooled:
            values = self._value_of_documents(labels, valid, **columns)
            weight = tf.reduce_sum(values, axis=1)
        return recall, weight
