"""Values of additive attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import AdditiveAttention


def _inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    query = rng.normal(size=[4, 3]).astype("float32")
    keys = rng.normal(size=[4, 5, 6]).astype("float32")
    mask = np.arange(5) < np.array([5, 3, 1, 0])[:, np.newaxis]
    return query, keys, mask


def _trained(dtype: str = "float32") -> AdditiveAttention:
    """A layer none of whose weights is zero."""
    attend = AdditiveAttention(units=7, dtype=dtype)
    attend.build(([None, 3], [None, None, 6]))
    rng = np.random.default_rng(1)
    attend.set_weights([rng.normal(size=w.shape) for w in attend.weights])
    return attend


def test_by_hand() -> None:
    attend = AdditiveAttention(units=1)
    attend.build(([None, 1], [None, None, 1]))
    # tanh(2 q + 3 k - 4) of q = 1/2 and k = 1, 2 is tanh(0), tanh(3); times
    # v = ln 3 / tanh(3) the logits are 0 and ln 3: weights 1/4 and 3/4.
    v = math.log(3) / math.tanh(3)
    attend.set_weights([np.array(w) for w in ([[2.0]], [[3.0]], [-4.0], [[v]])])
    output = attend(np.array([[0.5]], "f"), np.array([[[1.0], [2.0]]], "f"))
    np.testing.assert_allclose(output, [[1.75]], rtol=1e-6)


def test_equals_a_loop() -> None:
    attend = _trained()
    a, c, b, v = attend.get_weights()
    expected = []
    for query, keys, mask in zip(*_inputs(), strict=True):
        powers = [math.exp(np.tanh(query @ a + k @ c + b) @ v[:, 0]) for k in keys]
        powers = np.where(mask, powers, 0.0)
        expected.append(sum(p * k for p, k in zip(powers, keys, strict=True)))
        expected[-1] = expected[-1] / max(powers.sum(), 1e-9)
    inputs = map(tf.constant, _inputs())
    np.testing.assert_allclose(attend(*inputs), expected, rtol=1e-4, atol=1e-6)


def test_masking_equals_deleting_and_order_does_not_count() -> None:
    attend = _trained()
    query, keys, _ = _inputs()
    mask = np.array([True, False, True, True, False])
    expected = attend(query, keys[:, mask])
    keys[:, ~mask] = np.nan  # a pad may hold anything
    order = np.array([4, 2, 0, 1, 3])
    shuffled = attend(query, keys[:, order], np.tile(mask[order], [4, 1]))
    np.testing.assert_allclose(shuffled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_all_masked_is_zero_with_zero_gradients(dtype: str, jit: bool) -> None:
    attend = _trained(dtype)
    query, keys, _ = map(tf.constant, _inputs())
    watched = [query, keys, *attend.trainable_variables]

    @tf.function(jit_compile=jit)
    def run() -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(watched)
            output = attend(query, keys, tf.zeros([4, 5], tf.bool))
            loss = tf.reduce_sum(output)
        return output, tape.gradient(loss, watched)

    output, gradients = run()
    np.testing.assert_array_equal(output, np.zeros([4, 6]))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    no_slot = attend(query, keys[:, :0], tf.zeros([4, 0], tf.bool))
    np.testing.assert_array_equal(no_slot, np.zeros([4, 6]))


def test_a_long_sum_is_float32_under_mixed_precision() -> None:
    # 4,096 equal keys: the mean is the key. Powers added up in bfloat16 stop at 256.
    attend = _trained("mixed_bfloat16")
    keys = tf.ones([4, 4096, 6])
    output = attend(tf.constant(_inputs()[0]), keys)
    np.testing.assert_array_equal(tf.cast(output, tf.float32), np.ones([4, 6]))


def test_units_default_to_the_size_of_the_keys() -> None:
    attend = AdditiveAttention()
    attend.build(([None, 3], [None, None, 6]))
    assert attend.key_kernel.shape == [6, 6]
    assert attend.count_params() == 3 * 6 + 6 * 6 + 6 + 6


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`units`.*Received: 0"):
        AdditiveAttention(units=0)
    with pytest.raises(ValueError, match=r"query of shape .*Received: shapes"):
        AdditiveAttention()(tf.ones([2, 3, 3]), tf.ones([2, 4, 3]))
    with pytest.raises(TypeError, match=r"must be bool.*Received: dtype float32"):
        AdditiveAttention()(tf.ones([2, 3]), tf.ones([2, 4, 3]), tf.ones([2, 4]))
