"""In-batch negatives mixed with documents that are drawn from the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.objectives.in_batch import in_batch_softmax
from tfrs_prerank.sampling import StreamingFrequency

QUERIES, DOCUMENTS = 3, 12
CLICKS, DRAWN, STEPS = 8, 6, 3000


TRAFFIC = np.array([0.9, 0.07, 0.03])
"""How often each query is asked: what the rare ones want is rarely clicked."""


def truth() -> np.ndarray:
    """P(document | query)."""
    share = np.exp(np.random.default_rng(5).normal(0, 2, [QUERIES, DOCUMENTS]))
    return share / share.sum(axis=1, keepdims=True)


def stream() -> tuple[np.ndarray, np.ndarray]:
    """Queries `[steps, rows]` and documents `[steps, rows + drawn]` of all batches."""
    rng = np.random.default_rng(6)
    query = rng.choice(QUERIES, [STEPS, CLICKS], p=TRAFFIC)
    cumulative = truth().cumsum(axis=1)[query]
    clicked = (cumulative < rng.random([STEPS, CLICKS, 1])).sum(axis=-1)
    drawn = rng.integers(0, DOCUMENTS, [STEPS, DRAWN])
    return query, np.concatenate([clicked.clip(0, DOCUMENTS - 1), drawn], axis=1)


def learned(counted: slice) -> np.ndarray:
    """Scores by gradient descent, `[queries, documents]`.

    Args:
        counted: the documents of a batch from which log q is estimated.
    """
    queries, documents = map(tf.constant, stream())
    frequency = StreamingFrequency(buckets=1000, alpha=0.002)
    scores = tf.Variable(tf.zeros([QUERIES, DOCUMENTS]))
    positive = tf.range(CLICKS + DRAWN) < CLICKS
    # The drawn documents are in the list of the last row's request.
    request = tf.minimum(tf.range(CLICKS + DRAWN, dtype=tf.int64), CLICKS - 1)

    @tf.function
    def train() -> None:
        for step in tf.range(STEPS):
            frequency.update(documents[step, counted])
        for step in tf.range(STEPS):
            ids, query = documents[step], queries[step]
            log_q = frequency.log_q(ids)
            with tf.GradientTape() as tape:
                logits = tf.gather(tf.gather(scores, query), ids, axis=1) - log_q
                columns = tf.range(CLICKS + DRAWN, dtype=tf.int64)
                own = tf.gather_nd(logits, tf.stack([request, columns], axis=1))
                ones = tf.ones_like(own)
                values, _ = in_batch_softmax(
                    ids, positive, positive, ones, request, own, ids, logits
                )
                loss = tf.reduce_mean(values)
            rate = 3.0 * (1.0 - tf.cast(step, tf.float32) / STEPS)
            gradient = tf.convert_to_tensor(tape.gradient(loss, scores))
            scores.assign_sub(rate * gradient)

    train()
    return scores.numpy()


def error(scores: np.ndarray) -> float:
    """How far scores are from log P, but for a constant of each query."""
    difference = scores - np.log(truth())
    return float((difference - difference.mean(axis=1, keepdims=True)).std())


def in_order(scores: np.ndarray) -> float:
    """The share of a query's pairs that are in the true order."""
    left, right = np.triu_indices(DOCUMENTS, 1)
    wanted = truth()
    found = scores[:, left] > scores[:, right]
    return float((found == (wanted[:, left] > wanted[:, right])).mean())


def test_the_estimate_over_all_documents_is_that_of_the_mixture():
    _, documents = stream()
    share = TRAFFIC @ truth()
    missed = (1 - share) ** CLICKS * (1 - 1 / DOCUMENTS) ** DRAWN
    frequency = StreamingFrequency(buckets=1000, alpha=0.002)
    update = tf.function(frequency.update)
    for ids in documents[:2000]:
        update(tf.constant(ids))
    found = np.exp(frequency.log_q(np.arange(DOCUMENTS)).numpy())
    # A mean of about 2 / alpha = 1000 gaps, whose deviation is their mean at most.
    np.testing.assert_allclose(found, 1 - missed, rtol=4 / np.sqrt(1000))
    # Of clicks alone it would be far less for what is rarely clicked.
    assert (1 - (1 - share) ** CLICKS).min() < 0.1 * found.min()


@pytest.mark.slow
def test_scores_are_right_with_the_mixture_and_not_with_clicks_alone():
    mixture = learned(slice(None))
    clicks = learned(slice(CLICKS))
    assert in_order(mixture) > 0.95
    assert error(mixture) < 0.4
    # What is rare among the clicks, and yet often drawn, is pushed down too far.
    assert in_order(clicks) < 0.9
    assert error(clicks) > 0.7
    # No correction is between the two.
    none = learned(slice(0))
    assert error(mixture) + 0.1 < error(none) < error(clicks) - 0.1
