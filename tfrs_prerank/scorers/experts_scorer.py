"""Experts over the product of a query's and a document's vector, as a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._initializers import glorot
from tfrs_prerank.scorers.scorer import Scorer
from tfrs_prerank.scorers.scorer_layer import ScorerLayer
from tfrs_prerank.scorers.vector_scorer import flat
from tfrs_prerank.towers.encoded import Encoded
from tfrs_prerank.towers.tower_model import experts_layer


class ExpertsScorer(ScorerLayer):
    """The scorer `"experts"`: MMoE or PLE over `[q * d, c]`, and a head for each task.

        logit_k = w_k . f^k([q * d, c]) + b_k

    with `f^k` the mixture of task k, of experts with ReLU. Either side is its vector.

    Args:
        scorer: the declaration.
        tasks: names of the tasks.
    """

    def __init__(self, scorer: Scorer, tasks: Sequence[str]) -> None:
        super().__init__(scorer, len(tasks))
        experts: Any = scorer.experts
        self.experts = experts_layer(experts, tasks, "relu", dtype="float32")
        self.kernel = self.add_weight(
            "kernel",
            [self.tasks, experts.units[-1]],
            initializer=glorot(experts.units[-1], 1),
        )
        self.bias = self.add_weight("bias", [self.tasks], initializer="zeros")

    def ensure_built(self, query: Encoded, doc: Encoded, context: int | None) -> None:
        """Creates the experts' weights."""
        size = flat(doc.outputs).shape[-1] + (context or 0)
        if not self.experts.built:
            with tf.init_scope(), tf.name_scope(self.experts.name):
                self.experts.build([None, size])
        self.built = True

    def query_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns the vectors."""
        return flat(encoded.outputs)

    def doc_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns the vectors."""
        return flat(encoded.outputs)

    def compare(
        self, queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None
    ) -> tf.Tensor:
        """Returns logits `[B, tasks]` or `[B, N, tasks]`."""
        vectors = self.experts(_rows(queries, docs, context))
        stacked = tf.stack([vectors[task] for task in self.experts.tasks], axis=-2)
        return tf.reduce_sum(stacked * self.kernel, axis=-1) + self.bias

    def gates(
        self, queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None
    ) -> Any:
        """Returns how much each expert counts, `[B, experts]` or `[B, N, experts]`.

        By task, as of `layers.MMoE.gates`, or by level, as of `layers.PLE.gates`; the
        arguments are those of `compare`.
        """
        return self.experts.gates(_rows(queries, docs, context))


def _rows(queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None) -> tf.Tensor:
    """Returns what the experts read of every pair, `[B, n]` or `[B, N, n]`."""
    if docs.shape.rank == 3:
        queries = queries[:, tf.newaxis]
    product = queries * docs
    return product if context is None else tf.concat([product, context], axis=-1)
