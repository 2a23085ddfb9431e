"""Values of scaled dot-product attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import DotProductAttention


def test_by_hand() -> None:
    # Logits q . k / sqrt(4) = [2 ln 3 / 2, 0] = [ln 3, 0]: weights 3/4 and 1/4.
    query = np.array([[2 * math.log(3), 0, 0, 0]], "float32")
    keys = np.array([[[1, 0, 0, 4], [0, 8, 0, 0]]], "float32")
    output = DotProductAttention()(query, keys)
    np.testing.assert_allclose(output, [[0.75, 2.0, 0.0, 3.0]], rtol=1e-6)


def test_projects_a_query_of_another_size() -> None:
    attend = DotProductAttention()
    attend.build(([None, 1], [None, None, 4]))
    attend.set_weights([np.array([[2.0, 0.0, 0.0, 0.0]])])
    keys = np.array([[[1, 0, 0, 4], [0, 8, 0, 0]]], "float32")
    query = np.array([[math.log(3)]], "float32")
    np.testing.assert_allclose(attend(query, keys), [[0.75, 2, 0, 3]], rtol=1e-6)


def test_equals_a_loop() -> None:
    # Eq. 5-8 one key after the other, over the real keys only.
    rng = np.random.default_rng(0)
    query = rng.normal(size=[4, 3]).astype("float32")
    keys = rng.normal(size=[4, 5, 6]).astype("float32")
    mask = np.arange(5) < np.array([5, 3, 1, 0])[:, np.newaxis]
    attend = DotProductAttention()
    output = attend(query, keys, mask)
    kernel = attend.query_kernel.numpy()
    for q, example, real, row in zip(query, keys, mask, output, strict=True):
        powers = [math.exp(q @ kernel @ k / math.sqrt(6)) for k in example[real]]
        expected = np.zeros(6)
        for power, key in zip(powers, example[real], strict=True):
            expected += power / sum(powers) * key
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_a_long_sum_is_float32_under_mixed_precision() -> None:
    # The mean of 4,096 ones. Powers or shares added up in bfloat16 stop early.
    attend = DotProductAttention(dtype="mixed_bfloat16")
    output = attend(tf.ones([1, 6]), tf.ones([1, 4096, 6]))
    np.testing.assert_array_equal(tf.cast(output, tf.float32), np.ones([1, 6]))


def test_masking_equals_deleting() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(size=[1, 4]).astype("float32")
    keys = rng.normal(size=[1, 5, 4]).astype("float32")
    mask = np.array([[True, False, True, True, False]])
    attend = DotProductAttention()
    expected = attend(query, keys[:, mask[0]])
    keys[:, ~mask[0]] = np.nan  # a pad may hold anything
    np.testing.assert_allclose(attend(query, keys, tf.constant(mask)), expected, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_all_masked_is_zero_with_zero_gradients(dtype: str) -> None:
    attend = DotProductAttention(dtype=dtype)
    query, keys = tf.ones([2, 3]), tf.ones([2, 4, 3])
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        output = attend(query, keys, tf.zeros([2, 4], tf.bool))
        loss = tf.reduce_sum(output)
    np.testing.assert_array_equal(output, np.zeros([2, 3]))
    no_slot = attend(query, keys[:, :0], tf.zeros([2, 0], tf.bool))
    np.testing.assert_array_equal(no_slot, np.zeros([2, 3]))
    for gradient in tape.gradient(loss, [query, keys]):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_errors() -> None:
    attend = DotProductAttention()
    with pytest.raises(ValueError, match=r"query of shape .*Received: shapes"):
        attend(tf.ones([2, 3, 3]), tf.ones([2, 4, 3]))
    with pytest.raises(ValueError, match=r"query of shape .*Received: shapes"):
        attend.build([None, 3])
    with pytest.raises(ValueError, match=r"known key size"):
        attend.build(([None, 3], [None, None, None]))
    with pytest.raises(TypeError, match=r"must be bool.*Received: dtype float32"):
        attend(tf.ones([2, 3]), tf.ones([2, 4, 3]), tf.ones([2, 4]))
