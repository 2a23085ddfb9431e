"""What the Keras classes of the losses share: they only adapt the arguments."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.losses._reduction import ListLoss, check_reduction

# "sum_over_batch_size" makes Keras divide by the number of replicas, as for any mean.
_KERAS_REDUCTIONS = {
    "mean": tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE,
    "sum": tf.keras.losses.Reduction.SUM,
    "none": tf.keras.losses.Reduction.NONE,
}


class KerasListLoss(tf.keras.losses.Loss):
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
