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
    doc_ids,
    positive,
    weights,
    index,
    own,
    similarity,
    rows=None,
    candidates=None,
    hard_negatives=None,
) -> list[tuple[float, float]]:
    """The definition, row by row; without `rows` each positive is one."""
    rows = positive if rows is None else rows
    first: dict = {}
    for place, doc in enumerate(doc_ids if candidates is None else candidates):
        first.setdefault(doc, place)
    result = []
    for row in range(len(doc_ids)):
        if not rows[row]:
            continue
        request = index[row]
        listed = [place for place, q in enumerate(index) if q == request]
        positives = {doc_ids[place] for place in listed if positive[place]}
        # What the request lists is as it was at the request.
        logit = {doc: similarity[request][place] for doc, place in first.items()}
        logit |= {doc_ids[place]: own[place] for place in listed}
        others = [float(logit[doc]) for doc in first if doc not in positives]
        others = sorted(others, reverse=True)[:hard_negatives]
        mass = sum(math.exp(other - float(own[row])) for other in others)
        result.append((weights[row] * math.log1p(mass), float(weights[row] != 0)))
    return result


def call(
    doc_ids,
    positive,
    weights,
    index,
    own,
    similarity,
    rows=None,
    candidates=None,
    hard_negatives=None,
    dtype=tf.float32,
):
    return in_batch_softmax(
        tf.constant(doc_ids),
        tf.constant(positive if rows is None else rows, tf.bool),
        tf.constant(positive, tf.bool),
        tf.constant(weights, dtype),
        tf.constant(index, tf.int64),
        tf.convert_to_tensor(own, dtype),
        tf.constant(doc_ids if candidates is None else candidates),
        tf.convert_to_tensor(similarity, dtype),
        hard_negatives,
    )


def test_by_hand():
    # Request 0: a (positive), b; request 1: b (positive), c (positive), a.
    values, counts = call(
        ["a", "b", "b", "c", "a"],
        [True, False, True, True, False],
        [1, 1, 2, 1, 1],
        [0, 0, 1, 1, 1],
        np.log([2.0, 3, 4, 5, 6]),
        # A request's own documents are those of `own`, and the second b and a are there
        # already: only c of the first row is read.
        np.log([[77.0, 77, 77, 1, 77], [77, 77, 77, 77, 77]]),
    )
    # (0, a): a 2 against b 3 and c 1. (1, b): b 4 against a 6 only, twice. (1, c): c 5
    # against a 6.
    expected = [math.log(6 / 2), 2 * math.log(10 / 4), math.log(11 / 5)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert counts.numpy().tolist() == [1, 1, 1]


def test_a_document_is_as_it_was_at_the_request_or_where_it_came_first():
    # b has a vector with each of requests 0 to 2. Requests 0, 1, 3 have the positives
    # a, c, d. Request 1 lists b, request 3 does not.
    values, _ = call(
        ["a", "b", "c", "b", "b", "d"],
        [True, False, True, False, False, True],
        [1] * 6,
        [0, 0, 1, 1, 2, 3],
        np.log([2.0, 3, 5, 4, 9, 2]),
        np.log([[1.0] * 6, [1] * 6, [1] * 6, [1, 7, 1, 8, 9, 1]]),
    )
    # a 2 against b 3, c 1, d 1; c 5 against b 4 (its own), a 1, d 1; d 2 against b 7
    # (that of request 0), a 1, c 1.
    expected = np.log([7 / 2, 11 / 5, 11 / 2])
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_documents_of_other_replicas_are_candidates():
    # a and b here; b, c, a elsewhere, before them in the order of replicas.
    values, _ = call(
        ["a", "b"],
        [True, False],
        [1, 1],
        [0, 0],
        np.log([2.0, 3]),
        np.log([[77.0, 4, 77, 77, 77]]),
        candidates=["b", "c", "a", "a", "b"],
    )
    # a 2 against its own b 3 and c 4.
    np.testing.assert_allclose(values, [math.log(9 / 2)], rtol=1e-6)


def gradients(hard_negatives, logits):
    """Of the loss of document 0 by the logits of all, which are one request's."""
    own = tf.constant(logits, tf.float32)
    names = [str(place) for place in range(len(logits))]
    with tf.GradientTape() as tape:
        tape.watch(own)
        values, _ = call(
            names,
            [True] + [False] * (len(logits) - 1),
            [1] * len(logits),
            [0] * len(logits),
            own,
            own[tf.newaxis],
            hard_negatives=hard_negatives,
        )
    return float(values[0]), tape.gradient(values, own).numpy()


def test_hard_negatives_by_hand():
    # 2 against 1, 5, 3, 4: the two hardest are 5 and 4.
    value, gradient = gradients(2, np.log([2.0, 1, 5, 3, 4]))
    assert value == pytest.approx(math.log(11 / 2), rel=1e-6)
    expected = np.array([2 - 11, 0, 5, 0, 4]) / 11
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert gradient[1] == gradient[3] == 0.0
    # More than there are is all, to the bit.
    everything = gradients(None, np.log([2.0, 1, 5, 3, 4]))
    assert everything[0] == pytest.approx(math.log(15 / 2), rel=1e-6)
    for count in (4, 5, 99):
        more = gradients(count, np.log([2.0, 1, 5, 3, 4]))
        np.testing.assert_allclose(more[0], everything[0], rtol=1e-6)
        np.testing.assert_allclose(more[1], everything[1], rtol=1e-6)


def test_of_equal_hard_negatives_the_first_is_taken():
    value, gradient = gradients(2, [0.0, 1.0, 2.0, 1.0, 1.0])
    assert value == pytest.approx(math.log(1 + math.e + math.e**2), rel=1e-6)
    assert gradient[1] > 0 and gradient[3] == gradient[4] == 0


def test_a_hard_negative_is_chosen_after_masks_and_correction():
    # b, the other positive, would be the hardest; c is harder than d until log q.
    log_q = np.log([1.0, 1, 1, 0.1])
    own = np.log([2.0, 9, 5, 3]) - log_q
    values, _ = call(
        ["a", "b", "c", "d"],
        [True, True, False, False],
        [1] * 4,
        [0] * 4,
        own,
        own[np.newaxis],
        rows=[True, False, False, False],
        hard_negatives=1,
    )
    # 2 against d 3 / .1
    np.testing.assert_allclose(values, [math.log(32 / 2)], rtol=1e-6)


def test_log_q_by_hand():
    # a, the positive, is in every batch, b in a half of them, c in a tenth.
    values, _ = call(
        ["a", "b", "c"],
        [True, False, False],
        [1, 1, 1],
        [0, 0, 0],
        np.log([2.0, 3, 1]) - np.log([1.0, 0.5, 0.1]),
        np.log([[2.0, 3, 1]]) - np.log([1.0, 0.5, 0.1]),
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
    # No document twice in a request; other replicas' before and after.
    width = 6
    ids = [
        doc
        for length in lengths
        for doc in draw(st.permutations(range(width)))[:length]
    ]
    around = [draw(st.lists(st.integers(0, width + 1), max_size=3)) for _ in range(2)]
    candidates = [id_type(doc) for doc in around[0] + ids + around[1]]
    positive = drawn(st.booleans())
    # A term with stages has fewer rows than there are positives.
    rows = [p and r for p, r in zip(positive, drawn(st.booleans()), strict=True)]
    return (
        [id_type(doc) for doc in ids],
        positive,
        drawn(st.sampled_from([0.0, 1.0, 0.5, 3.0])),
        index,
        drawn(logit),
        [
            draw(st.lists(logit, min_size=len(candidates), max_size=len(candidates)))
            for _ in range(requests)
        ],
        rows,
        candidates,
        draw(st.sampled_from([None, 1, 2, 9])),
    )


@given(batches())
@settings(max_examples=150, deadline=None)
def test_equals_the_loop(batch):
    values, counts = call(*batch, dtype=tf.float64)
    expected = loop(*batch)
    np.testing.assert_allclose(values, [v for v, _ in expected], rtol=1e-9, atol=1e-12)
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


@pytest.mark.parametrize("hard_negatives", [None, 2])
@pytest.mark.parametrize("documents", [0, 2])
def test_no_positive_is_no_row_and_no_gradient(documents, hard_negatives):
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
            ids,
            similarity,
            hard_negatives,
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
