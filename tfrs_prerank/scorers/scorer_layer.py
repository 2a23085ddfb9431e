"""The learned part of a scorer."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrs_prerank.scorers.scorer import Scorer


class ScorerLayer(tf.keras.layers.Layer):
    """The learned part of a scorer: a scale and a bias for each task.

    Args:
        scorer: the declaration.
        tasks: number of tasks.
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        # Scores are float32 under every policy.
        super().__init__(name="scorer", dtype="float32")
        self.scorer = scorer
        self.bias = self.add_weight("bias", [tasks], initializer="zeros")
        # The logarithm is learned, so that the scale stays positive.
        self.log_scale = (
            self.add_weight(
                "log_scale",
                [tasks],
                initializer=tf.keras.initializers.Constant(np.log(scorer.scale)),
            )
            if scorer.kind == "cosine"
            else None
        )
        self.built = True

    def vectors(self, outputs: tf.Tensor) -> tf.Tensor:
        """Turns a tower's outputs into what is compared and stored.

        Args:
            outputs: `[rows, tasks, d]`.

        Returns:
            The same; of unit length for `"cosine"` (a zero vector stays zero).
        """
        if self.log_scale is None:
            return outputs
        # l2_normalize bounds the norm from below, so zero gives zero and not NaN.
        return tf.math.l2_normalize(outputs, axis=-1, epsilon=1e-12)

    def logits(self, similarity: tf.Tensor) -> tf.Tensor:
        """Turns similarities `[..., tasks]` into logits of the same shape."""
        if self.log_scale is not None:
            similarity = similarity * tf.exp(self.log_scale)
        return similarity + self.bias

    def task_logits(self, similarity: tf.Tensor, task: int) -> tf.Tensor:
        """Turns similarities of one task's vectors into logits of the same shape."""
        if self.log_scale is not None:
            similarity = similarity * tf.exp(self.log_scale[task])
        return similarity + self.bias[task]
