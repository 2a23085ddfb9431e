"""Multi-head maximum similarity as a scorer."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.layers.max_sim import MaxSim
from tfrs_prerank.scorers.scorer import Scorer
from tfrs_prerank.scorers.scorer_layer import ScorerLayer
from tfrs_prerank.scorers.vector_scorer import flat
from tfrs_prerank.towers.encoded import Encoded


class MaxSimScorer(ScorerLayer):
    """The scorer `"max_sim"`: `MaxSim` of the query's layers with the doc vector.

    The query's layers are those of its MLP and its vector; either side is its heads.

    Args:
        scorer: the declaration.
        tasks: number of tasks.
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        super().__init__(scorer, tasks)
        self.similarity = MaxSim(
            scorer.heads, scorer.head_size, tasks, name="similarity", dtype="float32"
        )
        self.bias = self.add_weight("bias", [tasks], initializer="zeros")

    def ensure_built(self, query: Encoded, doc: Encoded, context: int | None) -> None:
        """Creates the projections."""
        layers = [layer.shape for layer in _layers(query)]
        self.similarity.ensure_built(layers, flat(doc.outputs).shape)
        self.built = True

    def query_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns the heads of all the query's layers."""
        return self.similarity.project_query(_layers(encoded))

    def doc_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns the document's heads."""
        return self.similarity.project_docs(flat(encoded.outputs))

    def compare(
        self, queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None
    ) -> tf.Tensor:
        """Returns logits `[B, tasks]` or `[B, N, tasks]`."""
        return self.similarity.similarity(queries, docs) + self.bias


def _layers(encoded: Encoded) -> list[tf.Tensor]:
    return [*encoded.layers, flat(encoded.outputs)]
