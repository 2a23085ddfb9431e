"""Values of Dice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.processes import Replicas, four_replicas
from tfrs_prerank.layers import Dice


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, "d")))


def _rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(1.0, 2.0, shape).astype("float32")


def test_training_and_inference_by_hand() -> None:
    activation = Dice(momentum=0.75, epsilon=1.0)
    x = tf.constant([[1.0], [7.0]])
    activation.build(x.shape)
    activation.alpha.assign([0.5])
    # E = 4, Var = 9, so p = sigmoid(-+3 / sqrt(10)); f = p s + (1 - p) s / 2.
    p = _sigmoid(np.array([-3.0, 3.0]) / np.sqrt(10))
    expected = np.array([1.0, 7.0]) * (p + (1 - p) / 2)
    np.testing.assert_allclose(activation(x, training=True)[:, 0], expected, 1e-6)
    # A quarter of the way from 0 to 4, and from 1 to 9.
    np.testing.assert_allclose(activation.moving_mean, [1.0])
    np.testing.assert_allclose(activation.moving_variance, [3.0])
    # p = sigmoid((1 - 1) / sqrt(4)) = 1/2 and sigmoid(6 / 2): f = 1/2 + 1/4, ...
    p = _sigmoid(3.0)
    np.testing.assert_allclose(
        activation(x)[:, 0], [0.75, 7 * (p + (1 - p) / 2)], rtol=1e-6
    )


def test_alpha_is_one_number_per_unit() -> None:
    activation = Dice()
    activation.build([None, 2])
    activation.alpha.assign([0.0, 1.0])
    x = _rows(9, 2)
    y = activation(x, training=True).numpy()
    np.testing.assert_allclose(y[:, 1], x[:, 1], rtol=1e-6)  # p s + (1 - p) s = s
    scaled = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
    np.testing.assert_allclose(y[:, 0], x[:, 0] * _sigmoid(scaled), rtol=1e-5)


def test_alpha_starts_at_zero() -> None:
    activation = Dice()
    activation.build([None, 3])
    np.testing.assert_array_equal(activation.alpha, np.zeros(3))


@pytest.mark.parametrize("garbage", [0.0, 1e6, np.nan, np.inf])
def test_masking_equals_deleting(garbage: float) -> None:
    x = _rows(4, 5, 3)
    mask = np.arange(5) < np.array([5, 3, 0, 1])[:, np.newaxis]
    deleted, masked = Dice(momentum=0.5), Dice(momentum=0.5)
    real = tf.constant(x[mask])
    with tf.GradientTape() as tape:
        tape.watch(real)
        expected = deleted(real, training=True)
        loss = tf.reduce_sum(expected**2)
    gradient = tape.gradient(loss, real)
    x[~mask] = garbage
    padded = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(padded)
        output = masked(padded, tf.constant(mask), training=True)
        loss = tf.reduce_sum(output**2)
    np.testing.assert_allclose(output.numpy()[mask], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(output.numpy()[~mask], np.zeros([11, 3]))
    of_padded = tape.gradient(loss, padded).numpy()
    np.testing.assert_allclose(of_padded[mask], gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(of_padded[~mask], np.zeros([11, 3]))
    for left, right in zip(deleted.weights, masked.weights, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5)


def test_nothing_real_changes_nothing() -> None:
    activation = Dice()
    x = tf.constant(_rows(4, 3))
    activation(x, training=True)
    before = activation.get_weights()
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = activation(x, tf.zeros([4], tf.bool), training=True)
        loss = tf.reduce_sum(output)
    np.testing.assert_array_equal(output, np.zeros([4, 3]))
    np.testing.assert_array_equal(tape.gradient(loss, x), np.zeros([4, 3]))
    assert activation(tf.zeros([0, 3]), training=True).shape == (0, 3)
    for weight, value in zip(activation.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_equal_numbers_stay_finite() -> None:
    x = tf.fill([8, 2], 1000.0)
    activation = Dice()
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = activation(x, training=True)
        loss = tf.reduce_sum(output**2)
    np.testing.assert_allclose(output, np.full([8, 2], 500.0))  # p = sigmoid(0)
    assert np.isfinite(tape.gradient(loss, x)).all()


def test_statistics_are_float32_in_half_precision() -> None:
    activation = Dice(momentum=0.0, dtype="mixed_bfloat16")
    # In bfloat16 the sum of 4,096 ones stays at 256.
    output = activation(tf.ones([4096, 1], tf.bfloat16), training=True)
    assert output.dtype == tf.bfloat16
    assert activation.moving_mean.numpy() == [1.0]
    assert activation.moving_mean.dtype == tf.float32


def test_a_variance_below_zero_gives_no_nan() -> None:
    activation = Dice()
    activation.build([None, 1])
    activation.moving_variance.assign([-0.5])
    # p = sigmoid(+-1 / 1e-4): all or nothing.
    np.testing.assert_array_equal(activation([[1.0], [-1.0]]), [[1.0], [0.0]])


def _four_replicas_equal_one() -> None:
    strategy = four_replicas()
    x = np.random.default_rng(0).normal(3, 2, [4, 6, 2]).astype("f")
    # The third replica has no real row at all.
    mask = np.arange(6) < np.array([6, 2, 0, 1])[:, np.newaxis]
    one = Dice(momentum=0.5)
    one.build([None, 2])
    with strategy.scope():
        four = Dice(momentum=0.5)
        four.build([None, 2])

    def step(activation: Dice, rows: Any, real: Any) -> tuple[tf.Tensor, list]:
        rows = tf.convert_to_tensor(rows)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            output = activation(rows, real, training=True)
            loss = tf.reduce_sum(output**2)
        return output, tape.gradient(loss, [rows, activation.alpha])

    @tf.function
    def replica() -> tuple[tf.Tensor, list]:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return step(four, tf.gather(x, number), tf.gather(mask, number))

    for _ in range(2):
        expected, (of_rows, of_alpha) = step(one, x.reshape(24, 2), mask.reshape(24))
        output, gradients = strategy.run(replica)
        parts = strategy.experimental_local_results
        np.testing.assert_allclose(np.concatenate(parts(output)), expected, atol=1e-5)
        np.testing.assert_allclose(
            np.concatenate(parts(gradients[0])), of_rows, atol=1e-4
        )
        np.testing.assert_allclose(sum(parts(gradients[1])), of_alpha, rtol=1e-4)
        for left, right in zip(one.weights, four.weights, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5)
    assert not np.allclose(one.moving_mean, 0)


@pytest.mark.slow  # takes long
def test_four_replicas_equal_one(on_replicas: Replicas) -> None:
    on_replicas(_four_replicas_equal_one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"`momentum`.*Received: 1.0"),
        ({"epsilon": 0.0}, r"`epsilon` must be positive.*Received: 0.0"),
        ({"epsilon": -1.0}, r"`epsilon`.*Received: -1.0"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dice(**arguments)


def test_input_errors() -> None:
    with pytest.raises(ValueError, match=r"known number of units"):
        Dice().build([None, None])
    with pytest.raises(TypeError, match=r"must be bool.*Received: dtype float32"):
        Dice()(tf.ones([2, 3]), tf.ones([2]))
