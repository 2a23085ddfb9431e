"""Expected calibration error."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._document_metric import weights_of_documents
from tfrs_prerank.metrics._list_metric import check_cutoff
from tfrs_prerank.metrics._metric import Metric, nan_where

_CELLS = 4096
_PER_UNIT = 128.0
"""Cells of a unit of the logit: a power of two, so that no cell's edge is rounded."""


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class ECE(Metric):
    """How far predicted probabilities are from observed rates, in bins of equal mass.

    Formula, over all N documents with a label, `p = sigmoid(s)`, in M bins `b` of
    similar size by increasing `p`:

        ECE = (1/N) sum_b |sum_{i in b} (p_i - y_i)|

    0 for a calibrated model. Bins of equal mass, not of equal width: most click
    probabilities are small, and would all fall into the first of ten equal widths.

    Documents are sorted into 4096 cells of the logit, 1/128 wide from -16 to 16 (what
    lies outside goes into the outermost), which differ in p by less than 1%; the
    bins are made of whole cells, and a cell belongs to the bin in which its middle
    document falls:

        bin = floor(M (documents in smaller cells + half of its own) / N)

    So the result depends neither on the order of documents nor on how they are split
    into batches, equal predictions are never torn apart, and memory does not grow.
    With few documents it is biased upwards; compare models on the same ones.

    Reads logits.

    Args:
        bins: M.
        name: default `"ece"`.

    Call arguments: labels `[B, L]` in [0, 1], NaN = absent; logits `[B, L]`; see
    `update_state`.

    Raises:
        ValueError: `bins` is not a positive integer, or shapes do not fit.

    References:
        Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural
        language processing models" (EMNLP 2015), for bins of equal mass.

    Example:
        >>> import tensorflow as tf
        >>> metric = ECE(bins=2)
        >>> metric.update_state([[0.0, 1.0, 1.0, 1.0]], [[0.0, 0.0, 9e9, 9e9]])
        >>> float(metric.result())  # (|2 * 0.5 - 1| + |2 - 2|) / 4
        0.0
        >>> metric.update_state([[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 9e9, 9e9]])
        >>> float(metric.result())  # (|4 * 0.5 - 1| + |4 - 2|) / 8
        0.375
    """

    reads = "logits"
    additive = False

    def __init__(self, bins: int = 10, name: str | None = None):
        check_cutoff("ECE", bins, what="bins")
        super().__init__(name=name or "ece", dtype=tf.float64)
        self.bins = bins
        self.documents = self.add_weight(
            name="documents", shape=[_CELLS], initializer="zeros", dtype=tf.float64
        )
        self.excess = self.add_weight(
            name="excess", shape=[_CELLS], initializer="zeros", dtype=tf.float64
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "bins": self.bins}

    def update_state(
        self, labels: Any, scores: Any, *, where: Any = None, weights: Any = None
    ) -> None:
        """Adds a batch of lists.

        Args:
            labels: `[B, L]`, in [0, 1], NaN = absent.
            scores: logits `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.
            weights: non-negative, of lists `[B]` or of documents `[B, L]`: a document
                counts as that many. 0 takes it out. NaN means that no weight is known
                and is read as 1.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool.
        """
        lists = self._read(labels, scores, where, weights)
        known, weights = weights_of_documents(lists)
        zero = tf.zeros([], tf.float64)
        labels = tf.where(known, lists.labels, zero)
        logits = tf.where(known, lists.scores, zero)
        limit = _CELLS / _PER_UNIT / 2.0
        inside = tf.clip_by_value(logits, -limit, limit)
        # NaN has no cell; it is found in the sum, wherever it stands.
        inside = tf.where(tf.math.is_nan(inside), zero, inside)
        cells = tf.cast(tf.floor((inside + limit) * _PER_UNIT), tf.int32)
        cells = tf.minimum(cells, _CELLS - 1)
        excess = weights * (tf.sigmoid(logits) - labels)
        for state, values in ((self.documents, weights), (self.excess, excess)):
            state.assign_add(tf.math.unsorted_segment_sum(values, cells, _CELLS))

    def result(self) -> tf.Tensor:
        """Returns the error so far, float64; NaN before the first document."""
        documents = tf.convert_to_tensor(self.documents)
        total = tf.reduce_sum(documents)
        middle = tf.cumsum(documents, exclusive=True) + documents / 2.0
        place = tf.floor(self.bins * tf.math.divide_no_nan(middle, total))
        # Weights may be fractions, whose sum rounds to a hair more than the total.
        place = tf.minimum(tf.cast(place, tf.int32), self.bins - 1)
        excess = tf.math.unsorted_segment_sum(self.excess, place, self.bins)
        error = tf.math.divide_no_nan(tf.reduce_sum(tf.abs(excess)), total)
        return nan_where(~self.usable, error)

    @property
    def usable(self) -> tf.Tensor:
        """Whether any document had a label so far (bool scalar)."""
        return tf.reduce_sum(tf.convert_to_tensor(self.documents)) > 0
