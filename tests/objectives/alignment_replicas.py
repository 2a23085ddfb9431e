"""Category alignment on four logical CPUs and on one; see `on_replicas`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.processes import four_replicas
from tfrs_prerank import Term
from tfrs_prerank.distribution import global_sum
from tfrs_prerank.objectives.terms import Forward, term_sums
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.scorers.vector_scorer import VectorScorer

TERM = Term("click", "category_alignment", by="genre")
# Replicas with four, none, one and five documents; b is in two of them.
DOCUMENTS = [["a", "b", "c", "d"], [], ["e"], ["b", "f", "g", "h", "i"]]
GENRES = {"a": "x", "b": "x", "c": "y", "d": "", "e": "y", "f": "x"}


def value_and_gradient(
    scorer: VectorScorer, doc_ids: tf.Tensor, genres: tf.Tensor, vectors: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    count = tf.size(doc_ids, out_type=tf.int64)
    batch = {
        "mask": tf.ones([1, count], tf.bool),
        "doc_ids": doc_ids[tf.newaxis],
        "genre": genres[tf.newaxis],
    }
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        forward = Forward(
            logits=tf.zeros([1, count, 1]),
            scores=tf.zeros([1, count]),
            index=tf.range(count),
            query_vectors=tf.zeros([1, 2]),
            doc_vectors=vectors,
        )
        value, number = term_sums(TERM, batch, forward, 0, scorer=scorer)
        loss = value / global_sum(number)
    return global_sum(loss), tape.gradient(loss, vectors)


def main() -> None:
    strategy = four_replicas()
    scorer = VectorScorer(Scorer("dot"), 1)
    genres = [[GENRES.get(doc, "z") for doc in docs] for docs in DOCUMENTS]
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(len(docs), 2)).astype("f") for docs in DOCUMENTS]

    def of_replica(parts: list, dtype: tf.DType) -> tf.distribute.DistributedValues:
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group], dtype)
        )

    @tf.function(reduce_retracing=True)
    def on_four() -> tuple:
        return strategy.run(value_and_gradient, (scorer, *arguments))

    arguments = (
        of_replica(DOCUMENTS, tf.string),
        of_replica(genres, tf.string),
        of_replica(vectors, tf.float32),
    )
    values, gradients = map(strategy.experimental_local_results, on_four())
    value, gradient = value_and_gradient(
        scorer,
        tf.constant([doc for docs in DOCUMENTS for doc in docs]),
        tf.constant([genre for of_docs in genres for genre in of_docs]),
        tf.constant(np.concatenate(vectors)),
    )
    assert float(value) > 0.1
    np.testing.assert_allclose(values, [value] * 4, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(gradients), gradient, atol=1e-6)
    # Of b the first counts; d has no genre.
    np.testing.assert_array_equal(np.any(gradient != 0, axis=1)[[3, 5]], [False] * 2)
