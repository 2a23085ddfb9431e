"""Log loss in units of a constant prediction's."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._document_metric import DocumentMetric, ratio


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class NormalizedEntropy(DocumentMetric):
    """Log loss over the log loss of always predicting the mean label.

    Formula, over all N documents with a label, `p = sigmoid(s)`, `c = sum_i y_i / N`:

        NE = -(1/N) sum_i (y_i log p_i + (1 - y_i) log(1 - p_i))
             / -(c log c + (1 - c) log(1 - c))

    Below 1 the model knows more than the mean rate of positives, 0 is perfect; at 1 or
    above, its probabilities are worth nothing, however well it may rank. Unlike the
    log loss it can be compared between data of different rates.

    With labels of one class alone there is no result.

    Reads logits.

    Args:
        name: default `"normalized_entropy"`.

    Call arguments: labels `[B, L]` in [0, 1], NaN = absent; logits `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: shapes do not fit.

    References:
        He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook"
        (ADKDD 2014), equation 1.

    Example:
        >>> import tensorflow as tf
        >>> metric = NormalizedEntropy()
        >>> metric.update_state([[1.0, 0.0]], [[0.0, 0.0]])
        >>> float(metric.result())  # p = c = 1/2
        1.0
    """

    sums = 2

    def __init__(self, name: str | None = None):
        super().__init__(name or "normalized_entropy")

    def _terms(self, labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
        # Not 0 * inf: a certain prediction that is right costs nothing.
        zero = tf.zeros([], tf.float64)
        hit = tf.where(labels > 0, labels * tf.math.softplus(-logits), zero)
        miss = tf.where(labels < 1, (1.0 - labels) * tf.math.softplus(logits), zero)
        broken = tf.where(tf.math.is_nan(logits), logits, zero)
        return [hit + miss + broken, labels]

    def _value(self, sums: list[tf.Tensor]) -> tf.Tensor:
        loss, positives, documents = sums
        rate = tf.math.divide_no_nan(positives, documents)
        entropy = -tf.math.xlogy(rate, rate) - tf.math.xlog1py(1.0 - rate, -rate)
        return ratio(loss, documents * entropy)
