import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers._batch_normalization import RowBatchNormalization


def test_values_and_moving_averages_by_hand():
    layer = RowBatchNormalization(momentum=0.75, epsilon=0.25)
    # Column 0: mean 2, variance 1; column 1: mean 5, variance 0.
    rows = tf.constant([[1.0, 5.0], [3.0, 5.0]])
    layer.build(rows.shape)
    layer.gamma.assign([2.0, 1.0])
    layer.beta.assign([0.5, -1.0])
    root = np.sqrt(1.25)
    expected = [[0.5 - 2 / root, -1.0], [0.5 + 2 / root, -1.0]]
    np.testing.assert_allclose(layer(rows, training=True), expected, rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [0.5, 1.25])  # a quarter of the way
    np.testing.assert_allclose(layer.moving_variance, [1.0, 0.75])
    # (1 - 0.5) * 2 / sqrt(1 + 0.25) + 0.5, (5 - 1.25) / sqrt(0.75 + 0.25) - 1
    np.testing.assert_allclose(layer(rows)[0], [1.0 / root + 0.5, 2.75], rtol=1e-6)


def test_equals_keras_on_one_replica():
    ours, theirs = RowBatchNormalization(), tf.keras.layers.BatchNormalization()
    rows = tf.constant(np.random.default_rng(0).normal(3, 2, [64, 5]), tf.float32)
    for layer in (ours, theirs):
        layer.build(rows.shape)
    for _ in range(3):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(rows)
            results = [tf.reduce_sum(layer(rows, training=True) ** 3)
                       for layer in (ours, theirs)]  # fmt: skip
        gradients = [tape.gradient(result, rows) for result in results]
        np.testing.assert_allclose(*gradients, atol=2e-4)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-5)


def test_the_variance_of_rows_far_from_0_is_exact():
    # In float32 the mean of squares near 9,000,000 holds steps of 1; the variance is
    # a quarter.
    rows = np.random.default_rng(0).normal(3000, 0.5, [4096, 1]).astype("f")
    layer = RowBatchNormalization(momentum=0.0, epsilon=1e-3)
    output = layer(tf.constant(rows), training=True).numpy()
    mean, variance = rows.mean(dtype="d"), rows.var(dtype="d")
    np.testing.assert_allclose(layer.moving_mean, [mean], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [variance], rtol=1e-4)
    expected = (rows - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(output, expected, atol=2e-3)


def test_no_rows_change_nothing():
    layer = RowBatchNormalization()
    layer(tf.constant([[1.0], [3.0]]), training=True)
    before = [weight.numpy() for weight in layer.weights]
    assert layer(tf.zeros([0, 1]), training=True).shape == (0, 1)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_statistics_are_float32_in_half_precision():
    layer = RowBatchNormalization(momentum=0.0, dtype="mixed_bfloat16")
    # In bfloat16 the sum of 4,096 ones stays at 256.
    output = layer(tf.ones([4096, 1], tf.bfloat16), training=True)
    assert output.dtype == tf.bfloat16
    assert layer.moving_mean.numpy() == [1.0]


@pytest.mark.parametrize("arguments", [{"momentum": 1.0}, {"epsilon": -1.0}])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match="Received"):
        RowBatchNormalization(**arguments)


def test_round_trip():
    layer = RowBatchNormalization(momentum=0.9, epsilon=0.01)
    again = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
