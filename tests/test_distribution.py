"""Sums over replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tests.processes import Replicas, four_replicas
from tfrs_prerank.distribution import global_concat, global_sum
from tfrs_prerank.objectives import Term
from tfrs_prerank.objectives.terms import Forward, term_sums
from tfrs_prerank.sampling import StreamingFrequency
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.scorers.vector_scorer import VectorScorer

SCORER = VectorScorer(Scorer("dot"), 1)


def test_without_replicas_the_value_comes_back() -> None:
    assert float(global_sum(tf.constant(3.0))) == 3.0
    assert float(tf.function(global_sum)(tf.constant(3.0))) == 3.0
    np.testing.assert_array_equal(global_sum([1.0, 2.0]), [1.0, 2.0])


def test_one_replica_and_cross_replica_code() -> None:
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    assert float(strategy.run(lambda: global_sum(tf.constant(3.0)))) == 3.0
    with strategy.scope():  # cross-replica: there is no replica context
        assert tf.distribute.get_replica_context() is None
        assert float(global_sum(tf.constant(3.0))) == 3.0


def _four_replicas() -> None:
    strategy = four_replicas()

    def replica() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        x = tf.cast(number, tf.float32) + 1.0
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = global_sum(x)
            loss = total * x
        return total, global_sum([x, 10.0 * x]), tape.gradient(loss, x)

    for run in (replica, tf.function(replica)):
        results = strategy.run(run)
        totals, vectors, gradients = map(strategy.experimental_local_results, results)
        # 1 + 2 + 3 + 4 = 10 on every replica.
        assert [float(t) for t in totals] == [10.0] * 4
        for vector in vectors:
            np.testing.assert_array_equal(vector, [10.0, 100.0])
        # The sum of all losses is total * total, whose derivative is 2 * total = 20:
        # 10 through x, and through the sum 1 + 2 + 3 + 4 from the four losses.
        assert [float(g) for g in gradients] == [20.0] * 4
    with strategy.scope():
        assert float(global_sum(tf.constant(3.0))) == 3.0


def test_four_replicas(on_replicas: Replicas) -> None:
    on_replicas(_four_replicas)


def test_without_replicas_rows_come_back() -> None:
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert global_concat(tf.constant([3, 4])).numpy().tolist() == [3, 4]
    assert global_concat(tf.constant([3, 4])).numpy().tolist() == [3, 4]


def _rows_of_four_replicas() -> None:
    strategy = four_replicas()
    lengths = np.array([2, 0, 1, 3])
    ends = np.cumsum(lengths)
    # No float64 holds them all.
    wanted = 2**60 + np.arange(12).reshape(6, 2)

    def replica() -> tuple[tf.Tensor, ...]:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        end = tf.gather(ends, number)
        mine = tf.constant(wanted)[end - tf.gather(lengths, number) : end]
        x = tf.cast(mine - 2**60, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            joined = global_concat(x)
            # Replica r multiplies row i by (r + 1) 10^i.
            factors = tf.cast(number + 1, tf.float32) * 10.0 ** tf.range(6.0)
            loss = tf.reduce_sum(joined[:, 0] * factors)
        return joined, global_concat(mine), tape.gradient(loss, x)

    for run in (replica, tf.function(replica)):
        results = strategy.run(run)
        joined, whole, gradients = map(strategy.experimental_local_results, results)
        for one in joined:
            np.testing.assert_array_equal(one, np.arange(12).reshape(6, 2))
        for one in whole:
            np.testing.assert_array_equal(one, wanted)
        assert [len(gradient) for gradient in gradients] == lengths.tolist()
        # 1 + 2 + 3 + 4 = 10 times the row's factor, at the replica that has the row.
        expected = np.stack([10.0 ** np.arange(1, 7), np.zeros(6)], axis=1)
        np.testing.assert_allclose(np.concatenate(gradients), expected, rtol=1e-6)


def test_rows_of_four_replicas(on_replicas: Replicas) -> None:
    on_replicas(_rows_of_four_replicas)


def _requests(seed: int, lengths: Sequence[int]) -> dict[str, tf.Tensor]:
    """Requests with lists of 0 to 4 of seven documents, at most 2 of them positive."""
    rng = np.random.default_rng(seed)
    size = (len(lengths), 4)
    mask = np.arange(4) < np.array(lengths)[:, np.newaxis]
    ids = rng.permuted(np.tile(np.arange(7), (len(lengths), 1)), axis=1)[:, :4]
    arrays = {
        "mask": mask,
        "doc_ids": np.where(mask, np.char.add("d", ids.astype(str)), ""),
        "label/click": np.tile(np.array([1, 0, np.nan, 1], "f"), (len(lengths), 1)),
        "weight/click": rng.choice([0.0, 0.5, 2.0], size).astype("f"),
        "queries": rng.normal(size=(len(lengths), 3)).astype("f"),
        # A document has another vector in each list, as of a point in time.
        "docs": rng.normal(size=(*size, 3)).astype("f"),
    }
    return {name: tf.constant(values) for name, values in arrays.items()}


def _in_batch(
    term: Term, frequency: StreamingFrequency, batch: dict[str, tf.Tensor]
) -> tuple[tf.Tensor, ...]:
    """The loss of a replica's requests, and its gradients by all vectors."""
    index = tf.where(tf.reshape(batch["mask"], [-1]))[:, 0]
    ids = tf.gather(tf.reshape(batch["doc_ids"], [-1]), index)
    log_q = frequency.update(ids)
    with tf.GradientTape() as tape:
        tape.watch([batch["queries"], batch["docs"]])
        docs = tf.gather(tf.reshape(batch["docs"], [-1, 3]), index)
        logits = tf.zeros(tf.shape(batch["mask"]))
        forward = Forward(
            logits[..., tf.newaxis], logits, index, batch["queries"], docs
        )
        value, count = term_sums(term, batch, forward, 0, SCORER, log_q)
        loss = tf.math.divide_no_nan(value, global_sum(count))
    gradients = tape.gradient(loss, [batch["queries"], batch["docs"]])
    return (loss, *map(tf.convert_to_tensor, gradients))


def _in_batch_softmax_of_four_replicas() -> None:
    strategy = four_replicas()
    terms = (
        Term("click", "in_batch_softmax", temperature=0.5, log_q=True),
        Term("click", "in_batch_softmax", log_q=True, hard_negatives=2),
    )
    for term, wrap in zip(terms, (tf.function, lambda run: run), strict=True):
        frequency = StreamingFrequency(buckets=100)
        with strategy.scope():
            shared = StreamingFrequency(buckets=100)

        def replica(batch: dict[str, tf.Tensor], term=term, shared=shared) -> Any:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            mine = {name: x[2 * number : 2 * number + 2] for name, x in batch.items()}
            return _in_batch(term, shared, mine)

        run = wrap(replica)
        # The second replica has no document, then the others, then none has.
        steps = ([4, 2, 0, 0, 1, 2, 4, 1], [0, 0, 3, 4, 0, 0, 0, 0], [0] * 8)
        for step, lengths in enumerate(steps):
            batch = _requests(step, lengths)
            wanted = _in_batch(term, frequency, batch)
            results = strategy.run(run, args=(batch,))
            loss, *gradients = map(strategy.experimental_local_results, results)
            assert (wanted[0] > 0.1) == (step < 2)
            np.testing.assert_allclose(sum(loss), wanted[0], rtol=1e-5)
            for parts, whole in zip(gradients, wanted[1:], strict=True):
                assert np.any(whole) == (step < 2)
                found = np.concatenate(parts)
                np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
        for copy in strategy.experimental_local_results(shared.gap):
            np.testing.assert_array_equal(copy, frequency.gap)


def test_in_batch_softmax_of_four_replicas(on_replicas: Replicas) -> None:
    on_replicas(_in_batch_softmax_of_four_replicas)
