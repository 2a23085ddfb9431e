"""In-batch probabilities: exact ones, and estimates from the stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.sampling import StreamingFrequency, in_batch_log_q


@pytest.mark.parametrize("batch", [1, 2, 3, 6])
def test_exact_probabilities_by_enumeration(batch):
    # Document d is in the first counts[d] of six requests.
    counts = np.array([0, 1, 2, 5, 6])
    batches = list(itertools.combinations(range(6), batch))
    there = [[min(each) < count for each in batches] for count in counts]
    wanted = np.mean(there, axis=1)
    found = np.exp(in_batch_log_q(counts, requests=6, batch_size=batch))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_exact_probabilities_of_rare_documents():
    # 32 of 10^9: in the mean 3.2e-8, and a share that small is no difference of 1.
    log_q = in_batch_log_q([1], requests=10**9, batch_size=32)
    assert log_q[0] == pytest.approx(np.log(3.2e-8), rel=1e-9)


@pytest.mark.parametrize(
    ("counts", "requests", "batch", "message"),
    [
        ([1], 4, 5, "batch_size must be from 1 to 4, .* Received: 5"),
        ([1], 4, 0, "Received: 0"),
        ([5, 1], 4, 2, "counts must be from 0 to 4, .* Received: 1 to 5"),
        ([-1], 4, 2, "Received: -1 to -1"),
    ],
)
def test_impossible_counts_are_refused(counts, requests, batch, message):
    with pytest.raises(ValueError, match=message):
        in_batch_log_q(counts, requests, batch)


def test_gaps_are_by_hand():
    # alpha 1/2. a in steps 1, 2, 4: gaps 1; then 1 + (1 - 1) / 2 = 1; then
    # 1 + (2 - 1) / 2 = 1.5. b in step 3 only: its first gap is 3.
    frequency = StreamingFrequency(buckets=1000, alpha=0.5)
    found = [
        np.exp(-frequency.update(ids).numpy()).round(5).tolist()
        for ids in (["a"], ["a", "a"], ["b"], ["a"])
    ]
    assert found == [[1.0], [1.0, 1.0], [3.0], [1.5]]
    # Reading takes nothing in; c was never seen in four steps.
    for _ in range(2):
        gaps = np.exp(-frequency.log_q(["a", "b", "c"]).numpy())
        np.testing.assert_allclose(gaps, [1.5, 3.0, 5.0], rtol=1e-6)
    assert frequency.step == 4


def test_of_several_hashes_the_longest_gap_counts():
    # In one bucket a, b, c are one document that is in every step. With two hashes of
    # two buckets, some pairs share both, one or none.
    ids = [["a"], ["b"], ["c"], ["a"], ["b"], ["c"]] * 4
    one = StreamingFrequency(buckets=1, alpha=1.0)
    many = StreamingFrequency(buckets=1000, hashes=1, alpha=1.0)
    for batch in ids:
        assert one.update(batch).numpy() == [0.0]
        many.update(batch)
    found = np.exp(-many.log_q(["a", "b", "c"]).numpy())
    np.testing.assert_allclose(found, 3.0, rtol=1e-6)
    # The longest of the rows, whatever they hold.
    two = StreamingFrequency(buckets=5, hashes=3, alpha=0.3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        two.update(rng.choice(20, 3))
    places = two._places(np.arange(20))
    rows = tf.gather(two.gap, places).numpy()
    assert (rows.max(axis=1) > rows.min(axis=1)).any()
    gaps = np.exp(-two.log_q(np.arange(20)).numpy())
    np.testing.assert_allclose(gaps, np.maximum(rows.max(axis=1), 1), rtol=1e-5)


def test_estimates_come_near_the_exact_probabilities():
    # Documents in a batch with probability .9 to .01, in a graph, with integer ids.
    frequency = StreamingFrequency(buckets=10_000, alpha=0.01)
    chances = np.array([0.9, 0.5, 0.2, 0.05, 0.01])
    update = tf.function(
        frequency.update, input_signature=[tf.TensorSpec([None], tf.int64)]
    )
    rng = np.random.default_rng(1)
    for _ in range(3000):
        update(np.flatnonzero(rng.random(5) < chances))
    found = np.exp(frequency.log_q(tf.range(5, dtype=tf.int64)).numpy())
    # The last mean gap is an average of about 2 / alpha = 200 gaps, or of the 30 that
    # the rarest document has; that of gaps whose deviation is their mean, at most.
    assert np.abs(found / chances - 1)[:4].max() < 4 * np.sqrt(1 / 200)
    assert 0.4 < found[4] / chances[4] < 2.5
    # It follows: what was rare is now in every batch.
    for _ in range(1000):
        update([4])
    assert frequency.log_q(tf.constant([4], tf.int64)).numpy()[0] == pytest.approx(
        0.0, abs=0.02
    )


def test_a_rare_document_is_not_taken_for_a_frequent_one():
    # Every 50th step, and seen but twice: the zero of the beginning is forgotten.
    frequency = StreamingFrequency(buckets=1000)
    for step in range(1, 101):
        frequency.update(["often", "rare"] if step % 50 == 0 else ["often"])
    np.testing.assert_allclose(
        np.exp(frequency.log_q(["often", "rare"]).numpy()), [1, 1 / 50], rtol=1e-5
    )


def test_the_state_is_in_a_checkpoint(tmp_path):
    frequency = StreamingFrequency(buckets=50)
    for _ in range(3):
        frequency.update(["a"])
    path = tf.train.Checkpoint(frequency=frequency).save(str(tmp_path / "state"))
    other = StreamingFrequency(buckets=50)
    tf.train.Checkpoint(frequency=other).restore(path).assert_consumed()
    other.update(["b"])
    np.testing.assert_allclose(np.exp(other.log_q(["a", "b"])), [1, 1 / 4], rtol=1e-6)
    assert not frequency.trainable_variables


@pytest.mark.parametrize(
    "arguments", [{"buckets": 0}, {"hashes": 0}, {"alpha": 0.0}, {"alpha": 1.5}]
)
def test_bad_arguments_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
        StreamingFrequency(**arguments)
