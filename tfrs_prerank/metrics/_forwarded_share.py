"""The base of metrics that say which share of the forwarded documents is of a kind."""

from __future__ import annotations

import abc
from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff
from tfrs_prerank.metrics._ties import top


class ForwardedShare(ListMetric):
    """The expected share of the k best documents that are of a kind."""

    def __init__(self, column: str, k: int, name: str):
        check_cutoff(type(self).__name__, k)
        super().__init__(name)
        self.column = column
        self.k = k

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {"labels": self.column}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "column": self.column, "k": self.k}

    @abc.abstractmethod
    def _is_of_the_kind(self, counts: tf.Tensor) -> tf.Tensor:
        """Returns bool `[B, L]` of counts `[B, L]`."""

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        forwarded = top(scores, valid, self.k)
        of_the_kind = valid & self._is_of_the_kind(labels)
        number = forwarded.sum(tf.cast(valid, tf.float64))
        share = tf.math.divide_no_nan(
            forwarded.sum(tf.cast(of_the_kind, tf.float64)), number
        )
        return share, tf.cast(number > 0, tf.float64)
