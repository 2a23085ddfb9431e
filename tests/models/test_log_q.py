"""In-batch softmax with a running estimate of how often documents are in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import dataset, random_requests, small_model

QUERIES, DOCUMENTS, BATCH = 5, 20, 32
TERM = tp.Term("click", "in_batch_softmax", log_q=True)


def test_training_counts_and_evaluation_does_not(tmp_path):
    arrays = random_requests(8, 4)
    model = small_model(objective=tp.Objective([TERM]), scorer="dot")
    model.compile()
    model.fit(dataset(arrays, 4), verbose=0)
    assert int(model.frequency.step) == 2
    before = model.evaluate(dataset(arrays, 8), verbose=0)
    assert int(model.frequency.step) == 2
    model.save(tmp_path / "run")
    loaded = tp.PreRanker.load(tmp_path / "run")
    assert int(loaded.frequency.step) == 2
    gaps = [m.frequency.gap.numpy() for m in (loaded, model)]
    np.testing.assert_array_equal(*gaps)
    np.testing.assert_allclose(loaded.evaluate(dataset(arrays, 8), verbose=0), before)
    plain = small_model(objective="in_batch_softmax", scorer="dot")
    assert plain.frequency is None


def correlation(log_q: bool) -> float:
    """Trains on clicks of a skewed log; how well scores within a query are right.

    Documents are clicked with a probability in proportion to `exp(utility)`, and some
    are utterly popular, so they are in nearly every batch.
    """
    rng = np.random.default_rng(0)
    popularity = np.linspace(-3.0, 3.0, DOCUMENTS)
    utility = rng.normal(size=[QUERIES, DOCUMENTS]) + popularity
    share = np.exp(utility) / np.exp(utility).sum(axis=1, keepdims=True)
    queries = rng.integers(QUERIES, size=1000 * BATCH)
    thrown = rng.random([len(queries), 1])
    clicked = (
        (share.cumsum(axis=1)[queries] < thrown).sum(axis=1).clip(0, DOCUMENTS - 1)
    )
    requests = {
        "query": queries,
        "document": clicked[:, np.newaxis],
        "doc_ids": clicked[:, np.newaxis],
        "mask": np.ones([len(queries), 1], bool),
        "label/click": np.ones([len(queries), 1], np.float32),
    }
    schema = tp.Schema(
        [
            tp.Categorical("query", "query", buckets=500, dtype="int64", dimension=16),
            tp.Categorical(
                "document", "doc", buckets=2000, dtype="int64", dimension=16
            ),
        ],
        tasks=[tp.Task("click")],
        doc_id="int64",
    )
    tf.keras.utils.set_random_seed(0)
    term = tp.Term("click", "in_batch_softmax", log_q=log_q)
    tower = tp.Tower(units=[], output=16)
    model = tp.PreRanker(
        schema, tower, tower, scorer="dot", objective=tp.Objective([term])
    )
    model.compile(tp.LazyAdam(0.02))
    model.fit(tf.data.Dataset.from_tensor_slices(requests).batch(BATCH), verbose=0)
    lists = np.tile(np.arange(DOCUMENTS), [QUERIES, 1])
    scores = model(
        {
            "query": tf.range(QUERIES, dtype=tf.int64),
            "document": tf.constant(lists, tf.int64),
            "doc_ids": tf.constant(lists, tf.int64),
            "mask": tf.ones([QUERIES, DOCUMENTS], tf.bool),
        }
    )["scores"]
    # Only differences within a query are learned.
    pairs = zip(scores.numpy(), utility, strict=True)
    return float(np.mean([np.corrcoef(s, u)[0, 1] for s, u in pairs]))


@pytest.mark.slow
def test_the_correction_finds_the_true_order_where_popularity_hides_it():
    assert correlation(log_q=True) > 0.9
    assert correlation(log_q=False) < 0.75
