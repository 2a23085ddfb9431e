"""The in-batch softmax against a loop over rows and documents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.objectives.in_batch import in_batch_softmax


def loop(
    doc_ids, positive, weights, index, own, similarity, rows=None
) -> list[tuple[float, float]]:
    """The definition, row by row; without `rows` each positive is one."""
    rows = positive if rows is None else rows
    first: dict = {}
    for place, doc in enumerate(doc_ids):
        first.setdefault(doc, place)
    result = []
    for row in range(len(doc_ids)):
        if not rows[row]:
            continue
        request = index[row]
        positives = {
            d
            for d, q, p in zip(doc_ids, index, positive, strict=True)
            if q == request and p
        }
        logits = [own[row]] + [
            similarity[request][place]
            for other, place in first.items()
            if other not in positives
        ]
        top = max(logits)
        mass = sum(math.exp(logit - top) for logit in logits)
        loss = top + math.log(mass) - own[row]
        result.append((weights[row] * loss, float(weights[row] != 0)))
    return result


def call(doc_ids, positive, weights, index, own, similarity, rows=None, log_q=None):
    return in_batch_softmax(
        tf.constant(doc_ids),
        tf.constant(positive if rows is None else rows, tf.bool),
        tf.constant(positive, tf.bool),
        tf.constant(weights, tf.float32),
        tf.constant(index, tf.int64),
        tf.convert_to_tensor(own, tf.float32),
        tf.convert_to_tensor(similarity, tf.float32),
        log_q,
    )


def test_by_hand():
    # Request 0: a (positive), b; request 1: b (positive), c (positive), a.
    values, counts = call(
        ["a", "b", "b", "c", "a"],
        [True, False, True, True, False],
        [1, 1, 2, 1, 1],
        [0, 0, 1, 1, 1],
        np.log([2.0, 9, 4, 5, 9]),
        # Columns of the second b and a are of documents that are there already.
        np.log([[9.0, 3, 77, 1, 77], [6, 9, 77, 9, 77]]),
    )
    # (0, a): a 2 against b 3 and c 1. (1, b): b 4 against a 6 only, twice. (1, c): c 5
    # against a 6.
    expected = [math.log(6 / 2), 2 * math.log(10 / 4), math.log(11 / 5)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert counts.numpy().tolist() == [1, 1, 1]


def test_log_q_by_hand():
    # a, the positive, is in every batch, b in a half of them, c in a tenth.
    values, _ = call(
        ["a", "b", "c"],
        [True, False, False],
        [1, 1, 1],
        [0, 0, 0],
        np.log([2.0, 3, 1]),
        np.log([[2.0, 3, 1]]),
        log_q=tf.math.log([1.0, 0.5, 0.1]),
    )
    # 2 / 1 against 3 / .5 and 1 / .1
    np.testing.assert_allclose(values, [math.log(18 / 2)], rtol=1e-6)


@st.composite
def batches(draw):
    requests = draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(1, 4), min_size=requests, max_size=requests))
    index = [q for q, length in enumerate(lengths) for _ in range(length)]
    size = len(index)
    id_type = draw(st.sampled_from([str, int]))

    def drawn(values):
        return draw(st.lists(values, min_size=size, max_size=size))

    logit = st.floats(-20, 20, width=32)
    positive = drawn(st.booleans())
    # A term with stages has fewer rows than there are positives.
    rows = [p and r for p, r in zip(positive, drawn(st.booleans()), strict=True)]
    return (
        [id_type(d) for d in drawn(st.integers(0, 4))],
        positive,
        drawn(st.sampled_from([0.0, 1.0, 0.5, 3.0])),
        index,
        drawn(logit),
        [drawn(logit) for _ in range(requests)],
        rows,
    )


@given(batches())
@settings(max_examples=150, deadline=None)
def test_equals_the_loop(batch):
    values, counts = call(*batch)
    expected = loop(*batch)
    np.testing.assert_allclose(values, [v for v, _ in expected], rtol=1e-4, atol=1e-5)
    assert counts.numpy().tolist() == [c for _, c in expected]


def test_masked_documents_get_probability_and_gradient_exactly_zero():
    # The other positive (b) and the row's own document elsewhere have huge logits.
    own = tf.constant([0.0, 0.0, 0.0])
    similarity = tf.constant([[1e30, 1e30, 0.0], [0.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch([own, similarity])
        values, _ = call(
            ["a", "b", "c"], [True, True, False], [1, 1, 1], [0, 0, 1], own, similarity
        )
    np.testing.assert_allclose(values, [math.log(2)] * 2, rtol=1e-6)
    own_gradient, gradient = map(
        tf.convert_to_tensor, tape.gradient(values, [own, similarity])
    )
    # p - 1 = -1/2 for each row; c is a negative of both.
    np.testing.assert_allclose(own_gradient, [-0.5, -0.5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 1.0], [0, 0, 0]], rtol=1e-6)
    assert gradient[0, 0] == 0 and gradient[0, 1] == 0


def test_a_duplicate_changes_nothing():
    once = call(
        ["a", "b", "c"], [True, False, False], [1, 1, 1], [0, 0, 1],
        [1.0, 2.0, 3.0], [[1.0, 2.0, 0.5], [9, 9, 9]],
    )  # fmt: skip
    twice = call(
        # b is in the other request too, and c three times.
        ["a", "b", "c", "b", "c", "c"], [True] + [False] * 5, [1] * 6,
        [0, 0, 1, 1, 1, 1], [1.0, 2.0, 3.0, 7, 7, 7],
        [[1.0, 2.0, 0.5, 2.0, 0.5, 0.5], [9] * 6],
    )  # fmt: skip
    np.testing.assert_allclose(once[0], twice[0], rtol=1e-6)


@pytest.mark.parametrize("documents", [0, 2])
def test_no_positive_is_no_row_and_no_gradient(documents):
    own = tf.zeros([documents])
    similarity = tf.zeros([1, documents])
    ids = tf.constant(["a", "b"][:documents], tf.string, [documents])
    with tf.GradientTape() as tape:
        tape.watch([own, similarity])
        values, counts = in_batch_softmax(
            ids,
            tf.zeros([documents], tf.bool),
            tf.zeros([documents], tf.bool),
            tf.ones([documents]),
            tf.zeros([documents], tf.int64),
            own,
            similarity,
        )
        total = tf.reduce_sum(values)
    assert values.shape == [0] and counts.shape == [0]
    assert float(total) == 0.0
    for gradient in tape.gradient(
        total, [own, similarity], unconnected_gradients="zero"
    ):
        assert not np.any(tf.convert_to_tensor(gradient))


def test_only_positives_are_candidates_of_each_other_across_requests():
    # Two requests with one document each: each is the other's only negative.
    values, _ = call(
        [7, 8], [True, True], [1, 1], [0, 1], [2.0, 3.0], [[2.0, 0.0], [1.0, 3.0]]
    )
    expected = [math.log1p(math.exp(-2)), math.log1p(math.exp(-2))]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
