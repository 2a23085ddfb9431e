"""A small network over a query's and a document's vector, as a scorer."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.layers.late_interaction import LateInteraction
from tfrs_prerank.scorers.scorer import Scorer
from tfrs_prerank.scorers.scorer_layer import ScorerLayer
from tfrs_prerank.scorers.vector_scorer import flat
from tfrs_prerank.towers.encoded import Encoded


class MlpScorer(ScorerLayer):
    """The scorer `"mlp"`: `LateInteraction` with the towers' fields as skip inputs.

    Either side is its vector and, after it, its part of the network's first layer.

    Args:
        scorer: the declaration.
        tasks: number of tasks.
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        super().__init__(scorer, tasks)
        self.interaction = LateInteraction(
            scorer.units, scorer.blocks, tasks, name="interaction", dtype="float32"
        )

    def ensure_built(self, query: Encoded, doc: Encoded, context: int | None) -> None:
        """Creates the network's weights."""
        self.interaction.ensure_built(
            flat(query.outputs).shape,
            flat(doc.outputs).shape,
            None if context is None else tf.TensorShape([None, context]),
            query.fields.shape,
            doc.fields.shape,
        )
        self.built = True

    def query_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns `[q, W_q [q, fields]]`."""
        vectors = flat(encoded.outputs)
        projected = self.interaction.project_query(vectors, encoded.fields)
        return tf.concat([vectors, projected], axis=-1)

    def doc_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns `[d, W_d [d, fields]]`."""
        vectors = flat(encoded.outputs)
        projected = self.interaction.project_docs(vectors, encoded.fields)
        return tf.concat([vectors, projected], axis=-1)

    def compare(
        self, queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None
    ) -> tf.Tensor:
        """Returns logits `[B, tasks]` or `[B, N, tasks]`."""
        size = docs.shape[-1] - self.scorer.units
        return self.interaction.interact(
            queries[:, :size],
            queries[:, size:],
            docs[..., :size],
            docs[..., size:],
            context,
        )
