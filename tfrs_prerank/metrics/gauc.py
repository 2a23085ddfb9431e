"""AUC within each request, averaged."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, is_positive
from tfrs_prerank.metrics._ties import tie_groups


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class GAUC(ListMetric):
    """How often a positive scores above a negative of the same request.

    Formula, with every list (request) `g` as a group, `p` its documents with a label
    above 0 and `n` its others:

        AUC_g = mean over (p, n) of  1 if s_p > s_n,  1/2 if s_p = s_n,  else 0
        GAUC  = sum_g w_g AUC_g / sum_g w_g,    w_g = number of documents of g

    over the groups that hold both classes; other groups are left out.

    Differs from DIN, where a group is a *user*: in search the documents of one
    request are what compete. Constant scores give 1/2; such a list is not skipped.

    Reads logits: the metric belongs to one task, not to the fused scores.

    Args:
        name: default `"gauc"`.

    Call arguments: labels `[B, L]`, NaN = absent; logits `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: shapes do not fit.

    References:
        Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD
        2018), equation 9.

    Example:
        >>> import tensorflow as tf
        >>> metric = GAUC()
        >>> metric.update_state([[1.0, 0.0, 0.0]], [[2.0, 3.0, 1.0]])
        >>> float(metric.result())
        0.5
    """

    reads = "logits"

    def __init__(self, name: str | None = None):
        super().__init__(name or "gauc")

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        groups = tie_groups(scores, valid)
        positives = groups.sum(is_positive(labels))
        negatives = groups.size - positives
        total = tf.reduce_sum(negatives, axis=1, keepdims=True)
        below = total - tf.cumsum(negatives, axis=1)
        won = tf.reduce_sum(positives * (below + 0.5 * negatives), axis=1)
        pairs = tf.reduce_sum(positives, axis=1) * total[:, 0]
        auc = tf.math.divide_no_nan(won, pairs)
        documents = tf.reduce_sum(groups.size, axis=1)
        return auc, tf.where(pairs > 0, documents, tf.zeros_like(documents))
