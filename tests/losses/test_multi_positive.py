import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.losses import (
    hierarchical_softmax,
    multi_positive_softmax,
    softmax_cross_entropy,
)

# exp = 1, 2, 5
SCORES = [[0.0, math.log(2.0), math.log(5.0)]]


def test_multi_positive_hand_values():
    # Positives 2 and 5 against 1: (log(3/2) + log(6/5)) / 2.
    value = multi_positive_softmax([[0.0, 1.0, 1.0]], SCORES)
    expected = (math.log(1.5) + math.log(1.2)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # A grade above 1 is no more than a positive.
    np.testing.assert_array_equal(
        multi_positive_softmax([[0.0, 3.0, 0.5]], SCORES), value
    )
    # (4 log(3/2) + 2 log(6/5)) / 2; the negative's weight does nothing.
    weighted = multi_positive_softmax(
        [[0.0, 1.0, 1.0]], SCORES, weights=[[7.0, 4.0, 2.0]]
    )
    expected = (4 * math.log(1.5) + 2 * math.log(1.2)) / 2
    np.testing.assert_allclose(weighted, expected, rtol=1e-6)


def test_one_positive_is_the_softmax():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=[6, 9]), np.eye(9)[rng.integers(0, 9, 6)]
    np.testing.assert_allclose(
        multi_positive_softmax(labels, scores),
        softmax_cross_entropy(labels, scores),
        rtol=1e-9,
    )


def test_positives_do_not_push_each_other():
    # Pushing the first positive up moves neither value nor gradient of the second.
    gradients = []
    for score in (0.0, 30.0):
        scores = tf.constant([[score, 0.5, -0.5]])
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = multi_positive_softmax([[1.0, 1.0, 0.0]], scores)
        gradients.append(tape.gradient(value, scores)[0, 1])
    np.testing.assert_array_equal(*gradients)


def test_multi_positive_gradient_equals_the_closed_form():
    # With p_i = exp(s_i) / (exp(s_i) + mass): (p_i - 1) / |P| for a positive, and
    # sum_i (1 - p_i) exp(s_j) / mass / |P| for a negative.
    scores = np.array([0.3, -0.2, 1.0, 0.0, 2.0])
    positive = np.array([True, True, False, False, False])
    given = tf.constant(scores[np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = multi_positive_softmax(positive[np.newaxis].astype(float), given)
    e = np.exp(scores)
    mass = e[~positive].sum()
    p = e / (e + mass)
    pushed = (1 - p[positive]).sum() * e / mass
    expected = np.where(positive, p - 1, pushed) / 2
    np.testing.assert_allclose(tape.gradient(value, given)[0], expected, atol=1e-12)


def test_only_positives_cost_nothing_and_count():
    values, counts = multi_positive_softmax.terms([[1.0, 1.0]], [[5.0, -3.0]])
    np.testing.assert_array_equal([values[0], counts[0]], [0.0, 1.0])


def test_a_negative_scored_minus_infinity_counts_for_nothing():
    for scores in ([[0.0, 0.0, -math.inf]], [[0.0, -math.inf, -math.inf]]):
        given = tf.constant(scores)
        with tf.GradientTape() as tape:
            tape.watch(given)
            value = multi_positive_softmax([[1.0, 0.0, 0.0]], given)
        others = np.isfinite(scores).sum() - 1
        np.testing.assert_allclose(value, math.log(1 + others), rtol=1e-6)
        expected = [[-0.5, 0.5, 0.0] if others else [0.0, 0.0, 0.0]]
        np.testing.assert_allclose(tape.gradient(value, given), expected, atol=1e-7)


def test_hierarchical_hand_values():
    # Labels 1, 0, 2. Exposed: 1 and 5 against 2; clicked: 5 against 1 + 2.
    labels = [[1.0, 0.0, 2.0]]
    exposed = (math.log(3.0) + math.log(7 / 5)) / 2
    clicked = math.log(8 / 5)
    value = hierarchical_softmax(labels, SCORES, level_weights=(1.0, 1.0))
    np.testing.assert_allclose(value, exposed + clicked, rtol=1e-6)
    # With a third level that nothing has reached.
    value = hierarchical_softmax(labels, SCORES, level_weights=(0.5, 3.0, 9.0))
    np.testing.assert_allclose(value, 0.5 * exposed + 3 * clicked, rtol=1e-6)
    # A weight multiplies its document in every level.
    value = hierarchical_softmax(labels, SCORES, weights=[[1.0, 1.0, 4.0]])
    exposed = (math.log(3.0) + 4 * math.log(7 / 5)) / 2
    np.testing.assert_allclose(value, exposed + 4 * clicked, rtol=1e-6)


def test_one_level_is_the_multi_positive_softmax():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, [6, 9]), rng.normal(size=[6, 9])
    np.testing.assert_array_equal(
        hierarchical_softmax(labels, scores, level_weights=(1.0,)),
        multi_positive_softmax(labels, scores),
    )


def test_a_purchase_is_drawn_above_a_click_above_an_exposure():
    scores = tf.Variable(tf.zeros([1, 4], tf.float64))
    optimizer = tf.keras.optimizers.SGD(1.0)
    for _ in range(50):
        optimizer.minimize(
            lambda: hierarchical_softmax([[0.0, 1.0, 2.0, 3.0]], scores), [scores]
        )
    assert (np.diff(scores.numpy()[0]) > 1.0).all()


@pytest.mark.parametrize(
    ("level_weights", "named"),
    [((), r"level_weights must hold one"), ((1.0, 0.0), r"level_weights\[1\] must be")],
)
def test_wrong_level_weights(level_weights, named):
    with pytest.raises(ValueError, match=named):
        hierarchical_softmax([[1.0]], [[0.0]], level_weights=level_weights)
