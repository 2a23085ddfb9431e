import math

import numpy as np
import tensorflow as tf

from tfrs_prerank.losses import softmax_cross_entropy


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
