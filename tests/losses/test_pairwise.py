import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.losses import reference
from tests.losses.cases import value_and_gradient
from tfrs_prerank import losses
from tfrs_prerank.losses import _pairs, lambdarank, pairwise_hinge, ranknet, triplet

# function, reference, options
OVER_PAIRS = [
    (ranknet, reference.ranknet, {}),
    (pairwise_hinge, reference.pairwise_hinge, {"margin": 0.75}),
    (triplet, reference.triplet, {"hard_negatives": 2}),
    (lambdarank, reference.lambdarank, {"k": 3}),
]
over_pairs = pytest.mark.parametrize(
    ("loss", "slow", "options"), OVER_PAIRS, ids=[f.__name__ for f, _, _ in OVER_PAIRS]
)


def test_ranknet_hand_values():
    # Pairs (2, 1), (2, 0), (1, 0) at differences 1, 3, 2, of weights 4, 4, 1.
    labels, scores = [[1.0, 2.0, 0.0]], [[0.0, 1.0, -2.0]]
    one, two, three = (math.log1p(math.exp(-x)) for x in (1.0, 2.0, 3.0))
    np.testing.assert_allclose(
        ranknet(labels, scores), (one + two + three) / 3, rtol=1e-6
    )
    np.testing.assert_allclose(
        ranknet(labels, scores, weights=[[1.0, 4.0, 9.0]]),
        (4 * one + 4 * three + two) / 3,
        rtol=1e-6,
    )


def test_ranknet_gradient_equals_the_closed_form():
    # Every pair pulls its two documents apart by sigmoid(s_j - s_i) / #pairs.
    labels, scores = np.array([2.0, 0.0, 1.0, 0.0]), np.array([0.1, 0.4, -0.3, 0.2])
    _, gradient = value_and_gradient(ranknet, [labels], [scores])
    expected = np.zeros(4)
    for i in range(4):
        for j in range(4):
            if labels[i] > labels[j]:
                force = 1 / (1 + math.exp(scores[i] - scores[j]))
                expected[i] -= force / 5
                expected[j] += force / 5
    np.testing.assert_allclose(gradient[0], expected, atol=1e-7)


def test_hinge_hand_values():
    # Differences 0.75, 4 and 1.5 of margin 2: 1.25, 0 and 0.5.
    labels, scores = [[1.0, 0.0, 0.0, 1.0]], [[1.0, 0.25, -3.0, 1.0]]
    np.testing.assert_allclose(
        pairwise_hinge(labels, scores, margin=2.0), (1.25 + 0.0) / 2, rtol=1e-6
    )
    _, gradient = value_and_gradient(pairwise_hinge, labels, scores, margin=2.0)
    # Each positive has one active pair of four in all.
    np.testing.assert_allclose(gradient, [[-0.25, 0.5, 0.0, -0.25]], rtol=1e-6)


def test_triplet_hand_values():
    # Positives 0.9 and 0.2, negatives 0.8, 0.1, -0.5, margin 0.3.
    labels, scores = [[1.0, 2.0, 0.0, 0.0, 0.0]], [[0.9, 0.2, 0.8, 0.1, -0.5]]
    every = [0.2, 0.0, 0.0, 0.9, 0.2, 0.0]  # 0.3 - 0.9 + 0.8 and so on
    np.testing.assert_allclose(
        triplet(labels, scores, margin=0.3), sum(every) / 6, rtol=1e-6
    )
    hard = triplet(labels, scores, margin=0.3, hard_negatives=1)
    np.testing.assert_allclose(hard, (0.2 + 0.9) / 2, rtol=1e-6)
    two = triplet(labels, scores, margin=0.3, hard_negatives=2)
    np.testing.assert_allclose(two, (0.2 + 0.0 + 0.9 + 0.2) / 4, rtol=1e-6)
    # More than there are.
    np.testing.assert_array_equal(
        triplet(labels, scores, margin=0.3, hard_negatives=9),
        triplet(labels, scores, margin=0.3),
    )


def test_triplet_is_the_hinge_of_two_levels():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, [5, 7]), rng.normal(size=[5, 7])
    np.testing.assert_array_equal(
        triplet(labels, scores, margin=0.5), pairwise_hinge(labels, scores, margin=0.5)
    )


@pytest.mark.parametrize("k", [None, 1, 3, 99])
def test_lambdarank_gradient_equals_the_corrected_equation_32(k):
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, [6, 8]), rng.normal(size=[6, 8])
    weights = rng.random([6, 8]) + 0.5
    _, gradient = value_and_gradient(
        lambdarank, labels, scores, weights=weights, k=k, reduction="sum"
    )
    expected = [
        reference.lambdarank_gradient(list(zip(*row, strict=True)), k)
        for row in zip(labels, scores, weights, strict=True)
    ]
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    assert np.abs(expected).max() > 0.1


def test_lambdarank_hand_values():
    # Ranks by score: label 0 first, 2 second, 1 third. Gains 3, 1, 0; IDCG = 3 + 1 d2.
    d1, d2, d3 = 1.0, 1 / math.log2(3), 0.5
    labels, scores = [[0.0, 2.0, 1.0]], [[1.0, 0.0, -1.0]]
    pairs = (
        abs(d2 - d1) * 3 * math.log1p(math.exp(1.0))  # 2 under 0
        + abs(d2 - d3) * 2 * math.log1p(math.exp(-1.0))  # 2 above 1
        + abs(d3 - d1) * 1 * math.log1p(math.exp(2.0))  # 1 under 0
    )
    np.testing.assert_allclose(lambdarank(labels, scores), pairs / (3 + d2), rtol=1e-6)
    # k = 1: what is not ranked first has no discount, and the IDCG is 3.
    pairs = 3 * math.log1p(math.exp(1.0)) + 1 * math.log1p(math.exp(2.0))
    np.testing.assert_allclose(lambdarank(labels, scores, k=1), pairs / 3, rtol=1e-6)


def test_lambdarank_does_not_favour_the_logged_order():
    # All scores are equal, as at the start: any order of the list gives the same.
    labels = np.array([2.0, 0.0, 1.0, 0.0, 1.0])
    rng = np.random.default_rng(0)
    values = [
        float(lambdarank([rng.permutation(labels)], np.zeros([1, 5]))) for _ in range(9)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-12)
    _, gradient = value_and_gradient(lambdarank, [labels], np.zeros([1, 5]))
    assert gradient[0, 0] < 0.0 < min(gradient[0, 1], gradient[0, 3])


def test_lambdarank_survives_huge_grades():
    # 2^3000 is infinite; only its ratio to the IDCG counts, which is 1 here.
    value = lambdarank([[0.0, 3000.0]], [[1.0, 0.0]])
    expected = (1 - 1 / math.log2(3)) * math.log1p(math.exp(1.0))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@over_pairs
@pytest.mark.parametrize("block", [1, 40, 100, 10**6])
def test_blocks_change_nothing(loss, slow, options, block, monkeypatch):
    # 4 lists of 9: one row at a time; one, with what is left over; two and so on.
    monkeypatch.setattr(_pairs, "_BLOCK", block)
    rng = np.random.default_rng(0)
    labels = rng.choice([0.0, 0.0, 1.0, 2.0], [4, 9])
    scores, weights = rng.normal(size=[4, 9]), rng.random([4, 9]) + 0.5
    where = rng.random([4, 9]) < 0.8
    terms = slow(labels, scores, where, weights, **options)
    mean, _ = reference.mean_and_sum(False, terms)
    value, gradient = value_and_gradient(
        loss, labels, scores, where=where, weights=weights, **options
    )
    np.testing.assert_allclose(value, mean, rtol=1e-12)
    monkeypatch.undo()
    _, whole = value_and_gradient(
        loss, labels, scores, where=where, weights=weights, **options
    )
    np.testing.assert_allclose(gradient, whole, atol=1e-14)


documents = st.tuples(
    st.integers(0, 3),  # label
    st.floats(-30, 30),  # score
    st.booleans(),  # where
    st.sampled_from([0.0, 0.5, 1.0, math.nan]),  # weight
)


@over_pairs
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 7).flatmap(
        lambda size: st.lists(
            st.lists(documents, min_size=size, max_size=size), min_size=1, max_size=3
        )
    )
)
def test_any_lists(loss, slow, options, rows):
    columns = np.array(rows, dtype=float).reshape(len(rows), len(rows[0]), 4)
    labels, scores, where, weights = np.moveaxis(columns, -1, 0)
    where = where.astype(bool)
    values, counts = loss.terms(labels, scores, where=where, weights=weights, **options)
    expected = slow(labels, scores, where, weights, **options)
    np.testing.assert_array_equal(counts, [value is not None for value in expected])
    np.testing.assert_allclose(
        values, [v or 0.0 for v in expected], rtol=1e-9, atol=1e-12
    )


@over_pairs
def test_no_tensor_of_all_pairs(loss, slow, options):
    # One float32 tensor of 32 x 500 x 500 would be more than 30 MiB.
    device = "CPU:0"
    rng = np.random.default_rng(0)
    labels = tf.constant(rng.integers(0, 3, [32, 500]), tf.float32)
    scores = tf.constant(rng.normal(size=[32, 500]), tf.float32)

    @tf.function
    def step(scores):
        return value_and_gradient(loss, labels, scores, **options)

    step(scores)
    try:
        tf.config.experimental.reset_memory_stats(device)
    except ValueError:
        pytest.skip("TensorFlow counts memory on a CPU only with oneDNN")
    before = tf.config.experimental.get_memory_info(device)["current"]
    step(scores)
    peak = tf.config.experimental.get_memory_info(device)["peak"]
    assert peak - before < 30 * 2**20


@pytest.mark.parametrize("k", [0, -1, 1.5, "10"])
def test_k_must_be_a_number_of_ranks(k):
    with pytest.raises(ValueError, match="k must be a positive integer, or None for"):
        lambdarank([[1.0]], [[0.0]], k=k)


@pytest.mark.parametrize("loss", [pairwise_hinge, triplet])
def test_margin_must_be_positive(loss):
    with pytest.raises(ValueError, match="margin must be a positive number"):
        loss([[1.0]], [[0.0]], margin=0.0)


@pytest.mark.parametrize("number", [0, 1.0, True])
def test_hard_negatives_and_k_must_be_numbers(number):
    with pytest.raises(ValueError, match="hard_negatives must be a positive integer"):
        losses.triplet([[1.0]], [[0.0]], hard_negatives=number)
    with pytest.raises(ValueError, match="k must be a positive integer"):
        losses.lambdarank([[1.0]], [[0.0]], k=number)
