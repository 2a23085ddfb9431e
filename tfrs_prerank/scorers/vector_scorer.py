"""Dot products and cosines of a query's and a document's vector."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrs_prerank.scorers.scorer import Scorer
from tfrs_prerank.scorers.scorer_layer import ScorerLayer
from tfrs_prerank.towers.encoded import Encoded


class VectorScorer(ScorerLayer):
    """The scorers `"dot"` and `"cosine"`: a scale and a bias for each task.

    Args:
        scorer: the declaration.
        tasks: number of tasks.
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        super().__init__(scorer, tasks)
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

    def ensure_built(self, query: Encoded, doc: Encoded, context: int | None) -> None:
        """Does nothing: no weight depends on the towers."""

    def query_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns the vectors, `[B, tasks * d]`; of unit length for `"cosine"`."""
        return flat(self.vectors(encoded.outputs))

    def doc_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns the vectors, `[V, tasks * d]`; of unit length for `"cosine"`."""
        return flat(self.vectors(encoded.outputs))

    def compare(
        self, queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None
    ) -> tf.Tensor:
        """Returns logits `[B, tasks]` or `[B, N, tasks]`."""
        size = docs.shape[-1] // self.tasks
        queries = tf.reshape(queries, [-1, self.tasks, size])
        if docs.shape.rank == 2:
            pairs = queries * tf.reshape(docs, [-1, self.tasks, size])
            return self.logits(tf.reduce_sum(pairs, axis=-1))
        # One matrix product: each task's query stands in its own block of a row.
        eye = tf.eye(self.tasks)[:, :, tf.newaxis]  # [tasks, tasks, 1]
        blocks = queries[:, :, tf.newaxis, :] * eye  # [B, tasks, tasks, d]
        blocks = tf.reshape(blocks, [-1, self.tasks, self.tasks * size])
        # The documents as columns: TensorFlow is faster this way around.
        similarity = tf.matmul(blocks, docs, transpose_b=True)
        return self.logits(tf.transpose(similarity, [0, 2, 1]))

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

    def task_vectors(self, side: tf.Tensor, task: int) -> tf.Tensor:
        """Takes one task's vectors `[..., d]` out of a side `[..., tasks * d]`."""
        size = side.shape[-1] // self.tasks
        return side[..., task * size : (task + 1) * size]

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


def flat(outputs: tf.Tensor) -> tf.Tensor:
    """Reshapes `[rows, tasks, d]` to `[rows, tasks * d]`."""
    return tf.reshape(outputs, [-1, outputs.shape[1] * outputs.shape[2]])
