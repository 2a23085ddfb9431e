import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import losses
from tfrs_prerank.losses import list_mle, softmax_cross_entropy


def test_hand_values():
    # exp = 1, 2, 5: the probabilities are 1/8, 2/8, 5/8.
    scores = [[0.0, math.log(2.0), math.log(5.0)]]
    one = softmax_cross_entropy([[0.0, 1.0, 0.0]], scores)
    np.testing.assert_allclose(one, math.log(4.0), rtol=1e-6)
    # Graded: (3 log(8/1) + 1 log(8/5)) / (3 + 1).
    graded = softmax_cross_entropy([[3.0, 0.0, 1.0]], scores)
    np.testing.assert_allclose(
        graded, (3 * math.log(8.0) + math.log(1.6)) / 4, rtol=1e-6
    )
    # The weights multiply the positives' terms only: (3*2 log 8 + 0.5 log 1.6) / 4.
    weighted = softmax_cross_entropy(
        [[3.0, 0.0, 1.0]], scores, weights=[[2.0, 7.0, 0.5]]
    )
    np.testing.assert_allclose(
        weighted, (6 * math.log(8.0) + 0.5 * math.log(1.6)) / 4, rtol=1e-6
    )


def test_mean_is_over_lists_with_a_positive():
    # Losses log 2 and log 4; the third list has no positive. Dividing by three lists,
    # or by the three labels, would give something else.
    labels = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    where = [[True, True, False, False], [True] * 4, [True] * 4]
    value = softmax_cross_entropy(labels, tf.zeros([3, 4]), where=where)
    np.testing.assert_allclose(value, (math.log(2) + math.log(4)) / 2, rtol=1e-6)


def test_a_masked_positive_is_no_positive():
    values, counts = softmax_cross_entropy.terms(
        [[1.0, 0.0], [1.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        weights=[[0.0, 1.0], [1.0, 1.0]],
    )
    np.testing.assert_array_equal(counts, [0.0, 1.0])
    np.testing.assert_allclose(values, [0.0, math.log(2.0)], rtol=1e-6)


def test_shifting_all_scores_changes_nothing():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, [4, 5])
    scores = rng.normal(size=[4, 5])
    shift = rng.normal(size=[4, 1]) * 50
    np.testing.assert_allclose(
        softmax_cross_entropy(labels, scores + shift, reduction="none"),
        softmax_cross_entropy(labels, scores, reduction="none"),
        rtol=1e-4,
    )


def test_gradient_is_probability_minus_share():
    labels = tf.constant([[3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    scores = tf.constant([[0.5, -2.0, 1.0], [1.0, 2.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = softmax_cross_entropy(labels, scores)
    expected = tf.nn.softmax(scores[0]) - labels[0] / 4.0
    gradient = tape.gradient(value, scores)
    np.testing.assert_allclose(gradient[0], expected, atol=1e-7)
    np.testing.assert_array_equal(gradient[1], [0.0, 0.0, 0.0])


def test_extreme_scores():
    values = softmax_cross_entropy(
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]],
        [[1e38, -1e38], [1e38, -1e38], [3e38, 3e38]],
        reduction="none",
    )
    np.testing.assert_allclose(values, [0.0, 2e38, math.log(2.0)], rtol=1e-6)
    # The true loss, 6e38, is out of reach.
    clipped = softmax_cross_entropy([[0.0, 1.0]], [[3e38, -3e38]])
    assert clipped == tf.float32.max


def test_a_negative_scored_minus_infinity_counts_for_nothing():
    scores = tf.constant([[0.0, 0.0, -math.inf]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = softmax_cross_entropy([[1.0, 0.0, 0.0]], scores)
    np.testing.assert_allclose(value, math.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(value, scores), [[-0.5, 0.5, 0.0]])


CORRECTED = [
    losses.softmax_cross_entropy,
    losses.multi_positive_softmax,
    losses.hierarchical_softmax,
    losses.list_mle,
]
each_corrected = pytest.mark.parametrize("loss", CORRECTED, ids=lambda f: f.__name__)


@each_corrected
def test_log_q_is_subtracted_from_the_scores(loss):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, [4, 5]).astype(np.float64)
    scores, log_q = rng.normal(size=[4, 5]), -rng.random([4, 5])
    where = rng.random([4, 5]) < 0.8
    expected = loss(labels, scores - log_q, where=where)
    log_q = np.where(where, log_q, np.nan)  # padding may hold anything
    np.testing.assert_allclose(
        loss(labels, scores, where=where, log_q=log_q), expected, rtol=1e-12
    )
    # The same for a whole list is nothing to softmax.
    np.testing.assert_allclose(
        loss(labels, scores, where=where, log_q=[[-1.0], [-2.0], [-3.0], [-4.0]]),
        loss(labels, scores, where=where),
        rtol=1e-9,
    )


@each_corrected
def test_log_q_gradient(loss):
    scores, log_q = tf.constant([[0.5, -1.0]]), tf.constant([[0.0, -2.0]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss([[1.0, 0.0]], scores, log_q=log_q)
    with tf.GradientTape() as plain_tape:
        plain_tape.watch(scores)
        moved = loss([[1.0, 0.0]], scores - log_q)
    np.testing.assert_array_equal(
        tape.gradient(value, scores), plain_tape.gradient(moved, scores)
    )


@each_corrected
def test_wrong_log_q_is_refused(loss):
    labels, scores = np.zeros([3, 2]), np.zeros([3, 2])
    with pytest.raises(ValueError, match=r"log_q holds 0\.5: give finite .* at most 0"):
        loss(labels, scores, log_q=0.5)
    with pytest.raises(ValueError, match="log_q holds -inf: give finite numbers"):
        loss(labels, scores, log_q=np.full([3, 2], -math.inf))
    with pytest.raises(ValueError, match=r"log_q has shape \(2,\)"):
        loss(labels, scores, log_q=np.zeros([2]))


def test_sampled_softmax_with_log_q_estimates_the_full_one():
    # Of 400 negatives a fifth of the first half is drawn and four fifths of the other,
    # whose scores are higher: without the correction the mass is 2.5 times as wrong.
    rng = np.random.default_rng(0)
    scores = np.concatenate([[3.0], rng.normal(-1, 1, 200), rng.normal(1, 1, 200)])
    q = np.concatenate([[1.0], np.full(200, 0.2), np.full(200, 0.8)])
    labels = np.eye(1, 401)
    full = float(softmax_cross_entropy(labels, scores[np.newaxis]))
    where = rng.random([300, 401]) < q
    drawn = {
        "labels": np.repeat(labels, 300, 0),
        "scores": np.repeat(scores[np.newaxis], 300, 0),
        "where": where,
    }
    log_q = np.repeat(np.log(q)[np.newaxis], 300, 0)
    corrected = float(softmax_cross_entropy(**drawn, log_q=log_q))
    assert abs(corrected - full) < 0.01
    assert abs(float(softmax_cross_entropy(**drawn)) - full) > 0.2


def test_list_mle_hand_values():
    # exp = 1, 2, 5, best to worst 5, 2, 1: -log(5/8) - log(2/3), the last has no term.
    scores = [[0.0, math.log(2.0), math.log(5.0)]]
    value = list_mle([[0.0, 1.0, 2.0]], scores)
    np.testing.assert_allclose(value, (math.log(1.6) + math.log(1.5)) / 3, rtol=1e-6)
    # Weights of their own: (2 log(8/5) + 3 log(3/2)) / 3; that of the last is unused.
    weighted = list_mle([[0.0, 1.0, 2.0]], scores, weights=[[9.0, 3.0, 2.0]])
    np.testing.assert_allclose(
        weighted, (2 * math.log(1.6) + 3 * math.log(1.5)) / 3, rtol=1e-6
    )
    # Two equal labels above one: both against all three.
    tied = list_mle([[0.0, 1.0, 1.0]], scores)
    np.testing.assert_allclose(tied, (math.log(4.0) + math.log(1.6)) / 3, rtol=1e-6)


def test_list_mle_reads_the_order_of_labels_only():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, [6, 8]), rng.normal(size=[6, 8])
    np.testing.assert_allclose(
        list_mle(labels, scores), list_mle(7.0 * labels - 3.0, scores), rtol=1e-12
    )


def test_list_mle_of_two_levels_is_the_softmax_of_the_positives():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, [6, 8]), rng.normal(size=[6, 8])
    by_positives = softmax_cross_entropy(labels, scores, reduction="none")
    np.testing.assert_allclose(
        list_mle(labels, scores, reduction="none"),
        by_positives * labels.sum(1) / 8,
        rtol=1e-9,
    )


def test_list_mle_gradient_equals_the_closed_form():
    # Sorted, with d_r = sum over the r-th and all after it: the document at place p
    # gets (sum_{r <= p} exp(s_p) / d_r - 1) / n, whose last term is 1 - 1.
    scores = np.array([2.0, -1.0, 0.5, 0.0])
    with tf.GradientTape() as tape:
        given = tf.constant(scores[np.newaxis])
        tape.watch(given)
        value = list_mle([[3.0, 2.0, 1.0, 0.0]], given)
    left = np.cumsum(np.exp(scores)[::-1])[::-1]
    expected = (np.exp(scores) * np.cumsum(1 / left) - 1) / 4
    np.testing.assert_allclose(tape.gradient(value, given)[0], expected, atol=1e-12)
