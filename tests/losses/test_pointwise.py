import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.losses import contrastive, sigmoid_cross_entropy


def test_hand_values():
    # l = log(1 + e^-1) for the positive at 1; log(1 + e^2) for the negative at 2;
    # 0.25 log(1 + e^0) + 0.75 log(1 + e^0) = log 2 for the soft label at 0.
    labels, scores = [[1.0, 0.0, 0.25]], [[1.0, 2.0, 0.0]]
    first, second, third = (
        math.log1p(math.exp(-1.0)),
        math.log1p(math.exp(2.0)),
        math.log(2.0),
    )
    np.testing.assert_allclose(
        sigmoid_cross_entropy(labels, scores, reduction="none"),
        [[first, second, third]],
        rtol=1e-6,
    )
    # Weighted mean: (2 first + 1 second + 5 third) / 8.
    np.testing.assert_allclose(
        sigmoid_cross_entropy(labels, scores, weights=[[2.0, 1.0, 5.0]]),
        (2 * first + second + 5 * third) / 8,
        rtol=1e-6,
    )


def test_mean_is_over_documents_not_over_lists():
    # One list with three documents at loss log 2, one with a single document at 100:
    # (3 log 2 + 100) / 4. A mean of the lists' means would be (log 2 + 100) / 2.
    nan = float("nan")
    value = sigmoid_cross_entropy(
        [[0.0, 0.0, 0.0], [1.0, nan, nan]], [[0.0, 0.0, 0.0], [-100.0, 0.0, 0.0]]
    )
    np.testing.assert_allclose(value, (3 * math.log(2.0) + 100) / 4, rtol=1e-6)


def test_gradient_is_probability_minus_label():
    labels = tf.constant([[1.0, 0.0, 1.0]])
    scores = tf.constant([[0.5, -2.0, 30.0]])
    weights = tf.constant([[1.0, 3.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = sigmoid_cross_entropy(labels, scores, weights=weights)
    expected = weights * (tf.sigmoid(scores) - labels) / 6.0
    np.testing.assert_allclose(tape.gradient(value, scores), expected, atol=1e-7)


def test_exact_at_the_ends_of_float32():
    # A right answer costs nothing, a wrong one costs its logit.
    np.testing.assert_allclose(
        sigmoid_cross_entropy(
            [[1.0, 0.0, 1.0, 0.0]], [[3e38, -3e38, -3e38, 3e38]], reduction="none"
        ),
        np.float32([[0.0, 0.0, 3e38, 3e38]]),
        rtol=1e-6,
    )
    # Their mean: the sum 6e38 would not fit into float32, the mean does.
    np.testing.assert_allclose(
        sigmoid_cross_entropy([[1.0, 0.0]], [[-3e38, 3e38]]), 3e38, rtol=1e-6
    )


def test_contrastive_hand_values():
    # 1 at 0.5: 0.5^2 / 2. 0 at 0.5 of margin 2: 1.5^2 / 2; 0 at 3: apart enough.
    # 0.25 at 1: (0.25 * 1^2 + 0.75 * 1^2) / 2.
    labels, distances = [[1.0, 0.0, 0.0, 0.25]], [[0.5, 0.5, 3.0, 1.0]]
    np.testing.assert_allclose(
        contrastive(labels, distances, margin=2.0, reduction="none"),
        [[0.125, 1.125, 0.0, 0.5]],
        rtol=1e-6,
    )
    # (2 * 0.125 + 1 * 1.125 + 1 * 0 + 4 * 0.5) / 8
    weighted = contrastive(
        labels, distances, margin=2.0, weights=[[2.0, 1.0, 1.0, 4.0]]
    )
    np.testing.assert_allclose(weighted, 0.421875, rtol=1e-6)


def test_contrastive_gradient():
    # y d - (1 - y) max(0, m - d), over 3 documents.
    distances = tf.constant([[0.5, 0.25, 3.0]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(distances)
        value = contrastive([[1.0, 0.0, 0.0]], distances)
    np.testing.assert_allclose(
        tape.gradient(value, distances), [[0.5 / 3, -0.75 / 3, 0.0]], atol=1e-12
    )


def test_contrastive_at_large_distances():
    # Beyond 1e18 counts as 1e18: (1e18)^2 / 2.
    loss = contrastive([[1.0, 0.0]], [[3e38, 3e38]], reduction="none")
    np.testing.assert_allclose(loss, [[5e35, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf"), "1"])
def test_contrastive_margin_must_be_positive(margin):
    with pytest.raises(ValueError, match="margin must be a positive number"):
        contrastive([[1.0]], [[0.0]], margin=margin)
