"""Predicted over observed positives."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._document_metric import DocumentMetric, ratio


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class PCOC(DocumentMetric):
    """Predicted clicks over observed clicks, 1 for a calibrated model.

    Formula, over all documents with a label, `p = sigmoid(s)`:

        PCOC = sum_i p_i / sum_i y_i

    Above 1 the model promises too much. It matters where a probability is more than an
    order: where it is multiplied by a bid or a price, or fused with other tasks. Errors
    of both signs cancel, so look at `ECE` too, and at PCOC slice by slice.

    Without any positive there is no result. A model that was trained on sampled
    negatives is off by their rate; the metric says by how much.

    Reads logits.

    Args:
        name: default `"pcoc"`.

    Call arguments: labels `[B, L]` in [0, 1], NaN = absent; logits `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> import tensorflow as tf
        >>> metric = PCOC()
        >>> metric.update_state([[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]])
        >>> float(metric.result())  # 4 * 0.5 / 1
        2.0
    """

    sums = 2

    def __init__(self, name: str | None = None):
        super().__init__(name or "pcoc")

    def _terms(self, labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
        return [tf.sigmoid(logits), labels]

    def _value(self, sums: list[tf.Tensor]) -> tf.Tensor:
        predicted, observed, _ = sums
        return ratio(predicted, observed)
