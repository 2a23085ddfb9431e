"""The learned part of a scorer, whatever its kind."""

from __future__ import annotations

import abc

import tensorflow as tf

from tfrs_prerank.scorers.scorer import Scorer
from tfrs_prerank.towers.encoded import Encoded


class ScorerLayer(tf.keras.layers.Layer, abc.ABC):
    """Turns what towers computed into one logit for each task.

    Either side is first brought into the form in which it is kept: a request's is made
    once, a document's is what an export stores. Only then they meet.

    Args:
        scorer: the declaration.
        tasks: number of tasks.
    """

    def __init__(self, scorer: Scorer, tasks: int) -> None:
        # Scores are float32 under every policy.
        super().__init__(name="scorer", dtype="float32")
        self.scorer = scorer
        self.tasks = tasks

    @abc.abstractmethod
    def ensure_built(self, query: Encoded, doc: Encoded, context: int | None) -> None:
        """Creates the weights.

        Args:
            query: a query tower's outputs.
            doc: a document tower's outputs.
            context: size of the cross tower's vector, None without one.
        """

    @abc.abstractmethod
    def query_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns what is kept of each query, float32 `[B, q]`."""

    @abc.abstractmethod
    def doc_side(self, encoded: Encoded) -> tf.Tensor:
        """Returns what is kept of each document, float32 `[V, p]`."""

    @abc.abstractmethod
    def compare(
        self, queries: tf.Tensor, docs: tf.Tensor, context: tf.Tensor | None
    ) -> tf.Tensor:
        """Compares the two sides.

        Args:
            queries: `[B, q]`.
            docs: one document for each query `[B, p]`, or lists `[B, N, p]`.
            context: the cross tower's vectors, `[B, c]` or `[B, N, c]`, or None.

        Returns:
            Logits `[B, tasks]` or `[B, N, tasks]`.
        """
