"""The pre-rank score of several tasks."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfrs_prerank.features.declarations import Task


class Fusion(tf.keras.layers.Layer):
    """Fuses the tasks' logits into one score for each document.

    The logit itself where there is one task, else `sum_k w_k sigmoid(logit_k)`, with
    the weights `w` in a variable that no training changes.

    Args:
        tasks: the tasks; their `fuse` is the weight.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        # Scores are float32 under every policy.
        super().__init__(name="fusion", dtype="float32")
        self.weight = self.add_weight(
            name="fusion",
            shape=[len(tasks)],
            initializer=tf.keras.initializers.Constant([task.fuse for task in tasks]),
            trainable=False,
        )
        self.built = True

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns scores `[...]` of logits `[..., tasks]`."""
        if logits.shape[-1] == 1:
            return logits[..., 0]
        return tf.reduce_sum(tf.sigmoid(logits) * self.weight, axis=-1)
