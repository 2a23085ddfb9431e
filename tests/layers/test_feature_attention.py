"""Values of self-attention over fields."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import FeatureAttention


def _gate(
    kernels: list, heads: int = 1, fields: int = 2, dtype: str = "float32"
) -> FeatureAttention:
    gate = FeatureAttention(heads, dtype=dtype)
    gate.build([None, fields, len(kernels[0])])
    gate.set_weights([np.array(k) for k in kernels])
    return gate


def _random(size: int, heads: int, fields: int) -> FeatureAttention:
    return _gate(list(np.random.default_rng(1).normal(size=[3, size, size])), heads)


def test_by_hand() -> None:
    # Field 1 attends with logits 1 ln 2 * [1, 2]: shares 1/3 and 2/3, finds
    # 3 (1/3 + 2 * 2/3) = 5. Field 2 with logits 2 ln 2 * [1, 2]: shares 1/5 and 4/5,
    # finds 3 (1/5 + 2 * 4/5) = 5.4.
    gate = _gate([[[math.log(2)]], [[1.0]], [[3.0]]])
    fields = np.array([[[1.0], [2.0]]], "float32")
    np.testing.assert_allclose(gate(fields), [[[1 + 5.0], [2 + 5.4]]], rtol=1e-6)
    # Received: (1/3 + 1/5) / 2 and (2/3 + 4/5) / 2.
    np.testing.assert_allclose(gate.field_weights(fields), [[4 / 15, 11 / 15]], 1e-6)


def test_scale_by_hand() -> None:
    # Logits of field 1: [4 ln 3, 0] / sqrt(4) = [ln 9, 0]; of field 2: 0.
    query = np.zeros([4, 4])
    query[0, 0] = 4 * math.log(3)
    gate = _gate([query, np.eye(4), np.zeros([4, 4])])
    fields = np.array([[[1.0, 0, 0, 0], [0, 0, 0, 1.0]]], "float32")
    np.testing.assert_allclose(gate.field_weights(fields), [[0.7, 0.3]], rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_equals_a_loop(heads: int) -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[3, 5, 6]).astype("float32")
    query, key, value = kernels = rng.normal(size=[3, 6, 6])
    gate = _gate(list(kernels), heads, fields=5)
    width = 6 // heads
    outputs, received = fields.astype("float64"), np.zeros([3, 5])
    for b, example in enumerate(fields):
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            for i in range(5):
                powers = []
                for j in range(5):
                    product = (example[i] @ query[:, part]) @ (
                        example[j] @ key[:, part]
                    )
                    powers.append(math.exp(product / math.sqrt(width)))
                for j in range(5):
                    share = powers[j] / sum(powers)
                    outputs[b, i, part] += share * (example[j] @ value[:, part])
                    received[b, j] += share / (5 * heads)
    np.testing.assert_allclose(gate(fields), outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gate.field_weights(fields), received, 1e-4, 1e-6)


def test_permuting_fields_permutes_the_output() -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[4, 6, 8]).astype("float32")
    gate = _random(8, heads=2, fields=6)
    order = rng.permutation(6)
    # No weight belongs to a field.
    np.testing.assert_allclose(
        gate(fields[:, order]), gate(fields).numpy()[:, order], 1e-4, 1e-5
    )
    np.testing.assert_allclose(
        gate.field_weights(fields[:, order]),
        gate.field_weights(fields).numpy()[:, order],
        1e-4,
        1e-6,
    )


def test_received_attention_adds_up_to_one() -> None:
    fields = np.random.default_rng(0).normal(size=[4, 7, 8]).astype("float32")
    weights = _random(8, heads=4, fields=7).field_weights(fields)
    assert np.min(weights) > 0
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), np.ones(4), rtol=1e-5)


def test_without_values_fields_pass_through() -> None:
    fields = np.random.default_rng(0).normal(size=[4, 3, 8]).astype("float32")
    gate = _random(8, heads=2, fields=3)
    query, key, value = gate.get_weights()
    gate.set_weights([query, key, value * 0])
    np.testing.assert_array_equal(gate(fields), fields)


@pytest.mark.parametrize("fields", [2, 50])
def test_number_of_weights(fields: int) -> None:
    gate = FeatureAttention(heads=2)
    gate.build([None, fields, 10])
    assert gate.count_params() == 3 * 10**2


def test_large_logits_under_mixed_precision() -> None:
    # 16 products of 100 * 100 are beyond float16: softmax of infinities is NaN. The
    # second field, at -100, is attended to by itself alone.
    fields = np.array([[[100.0] * 16, [-100.0] * 16]], "float32")
    gate = _gate([np.eye(16)] * 3, dtype="mixed_float16")
    np.testing.assert_allclose(gate(fields), 2 * fields)
    np.testing.assert_allclose(gate.field_weights(fields), [[0.5, 0.5]])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`heads`.*Received: 0"):
        FeatureAttention(heads=0)
    with pytest.raises(ValueError, match=r"`heads`\. Received: field size 8, heads=3"):
        FeatureAttention(heads=3).build([None, 4, 8])
    with pytest.raises(ValueError, match=r"needs a known field size"):
        FeatureAttention().build([None, 4, None])
