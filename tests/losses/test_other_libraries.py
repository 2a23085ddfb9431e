"""The losses that other libraries have too, after the same division."""

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import losses


@pytest.fixture(scope="module")
def optax_losses():
    pytest.importorskip("jax", reason="install the extra test")
    return pytest.importorskip("optax", reason="install the extra test").losses


@pytest.fixture(scope="module")
def keras_rs_losses():
    return pytest.importorskip("keras_rs", reason="install the extra test").losses


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, [8, 12]).astype(np.float32)
    return labels, rng.normal(size=[8, 12]).astype(np.float32)


def pairs(labels):
    return (labels[:, :, np.newaxis] > labels[:, np.newaxis, :]).sum((1, 2))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("PairwiseLogisticLoss", losses.ranknet),
        ("PairwiseHingeLoss", losses.pairwise_hinge),
    ],
)
def test_keras_rs_pairs(keras_rs_losses, lists, theirs, ours):
    labels, scores = map(tf.constant, lists)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        # Theirs sums over the less relevant documents of each document.
        sums = getattr(keras_rs_losses, theirs)(reduction=None)(labels, scores)
        expected = tf.reduce_sum(sums, axis=-1) / pairs(lists[0])
    with tf.GradientTape() as own_tape:
        own_tape.watch(scores)
        value = ours(labels, scores, reduction="none")
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(
        own_tape.gradient(value, scores), tape.gradient(expected, scores), atol=1e-6
    )


def test_keras_rs_list_mle(keras_rs_losses, lists):
    _, scores = lists
    # Without equal labels, which it keeps in the order of the list.
    labels = np.float32([np.random.default_rng(i).permutation(12) for i in range(8)])
    expected = keras_rs_losses.ListMLELoss(reduction=None)(labels, scores)
    value = losses.list_mle(labels, scores, reduction="none")
    np.testing.assert_allclose(12 * value, expected, rtol=1e-5)


def test_optax_softmax(optax_losses, lists):
    labels, scores = lists
    where = np.random.default_rng(1).random(labels.shape) < 0.8
    positive = (labels * where).sum(1)
    expected = optax_losses.ranking_softmax_loss(
        scores, labels, where=where, reduce_fn=None
    )
    value = losses.softmax_cross_entropy(labels, scores, where=where, reduction="none")
    np.testing.assert_allclose(positive * value, expected, rtol=1e-5)


def test_optax_sigmoid(optax_losses, lists):
    labels, scores = lists
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(labels / 2, scores, reduction="none"),
        optax_losses.sigmoid_binary_cross_entropy(scores, labels / 2),
        rtol=1e-5,
        atol=1e-7,
    )


def test_optax_divergence(optax_losses, lists):
    _, scores = lists
    teacher = np.random.default_rng(2).normal(size=scores.shape).astype(np.float32)
    expected = optax_losses.kl_divergence(
        tf.nn.log_softmax(scores / 2).numpy(), tf.nn.softmax(teacher / 2).numpy()
    )
    value = losses.distillation(teacher, scores, temperature=2.0, reduction="none")
    np.testing.assert_allclose(value, 4 * expected, rtol=1e-4)


def test_optax_hinge(optax_losses):
    # One positive of score s and one negative of score 0 are a hinge of s.
    scores = np.random.default_rng(0).normal(size=[20]).astype(np.float32)
    lists = np.stack([scores, np.zeros_like(scores)], axis=1)
    np.testing.assert_allclose(
        losses.pairwise_hinge([[1.0, 0.0]] * 20, lists, reduction="none"),
        optax_losses.hinge_loss(scores, np.ones_like(scores)),
        rtol=1e-6,
    )
