"""The base of hit rates: which share of something the k best documents keep."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff, is_positive
from tfrs_prerank.metrics._ties import top


class KeptShare(ListMetric):
    """The expected share of a list's value that its k best scores keep."""

    def __init__(self, k: int, name: str):
        check_cutoff(type(self).__name__, k)
        super().__init__(name)
        self.k = k

    def _value_of_documents(
        self, labels: tf.Tensor, valid: tf.Tensor, **columns: tf.Tensor
    ) -> tf.Tensor:
        """Returns float64 `[B, L]`, not negative, 0 where not valid.

        Every positive is worth the same, unless a metric says otherwise.
        """
        return is_positive(labels)

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        values = self._value_of_documents(labels, valid, **columns)
        total = tf.reduce_sum(values, axis=1)
        kept = tf.math.divide_no_nan(top(scores, valid, self.k).sum(values), total)
        # Rounding can put the sum of all values a hair above itself.
        return tf.minimum(kept, 1.0), tf.cast(total > 0, tf.float64)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "k": self.k}
