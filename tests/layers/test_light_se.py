"""Values of the light squeeze-and-excitation gate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfrs_prerank.layers import LightSE

FIELDS = np.array([[[1.0, 3.0], [2.0, 6.0], [-2.0, 0.0]]], "float32")  # z = [2, 4, -1]


def _gate(kernel: np.ndarray, bias: np.ndarray, dtype: str = "float32") -> LightSE:
    gate = LightSE(dtype=dtype)
    gate.build([None, len(bias), 2])
    gate.set_weights([kernel, bias])
    return gate


def test_by_hand() -> None:
    # z W = [4 * ln 2 / 4, 2 * ln 3 / 2, -1 * -ln 5] = ln [2, 3, 5]: shares of 10.
    kernel = np.zeros([3, 3])
    kernel[1, 0], kernel[0, 1] = math.log(2) / 4, math.log(3) / 2
    kernel[2, 2] = -math.log(5)
    gate = _gate(kernel, np.zeros(3))
    weights = np.array([[1.2, 1.3, 1.5]])
    np.testing.assert_allclose(gate.field_weights(FIELDS), weights, rtol=1e-6)
    np.testing.assert_allclose(gate(FIELDS), FIELDS * weights[..., None], rtol=1e-6)


def test_bias_by_hand() -> None:
    # Logits [ln 2, 0, 0] for every example: shares 2/4, 1/4 and 1/4.
    gate = _gate(np.zeros([3, 3]), np.array([math.log(2), 0.0, 0.0]))
    np.testing.assert_allclose(gate.field_weights(FIELDS), [[1.5, 1.25, 1.25]], 1e-6)


def test_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[4, 5, 2]).astype("float32")
    kernel, bias = rng.normal(size=[5, 5]), rng.normal(size=5)
    expected = np.zeros(fields.shape)
    for b, example in enumerate(fields):
        powers = []
        for i in range(5):
            logit = bias[i]
            for j in range(5):
                logit += example[j].mean() * kernel[j, i]
            powers.append(math.exp(logit))
        for i in range(5):
            expected[b, i] = example[i] * (1 + powers[i] / sum(powers))
    np.testing.assert_allclose(_gate(kernel, bias)(fields), expected, rtol=1e-5)


def test_extra_weights_add_up_to_one() -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[8, 6, 2]).astype("float32")
    gate = _gate(rng.normal(size=[6, 6]), rng.normal(size=6))
    weights = gate.field_weights(fields).numpy()
    assert weights.min() > 1
    assert weights.max() < 2
    np.testing.assert_allclose((weights - 1).sum(axis=-1), np.ones(8), rtol=1e-5)


def test_a_constant_on_all_logits_does_not_count() -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=[3, 3]), rng.normal(size=3)
    expected = _gate(kernel, bias)(FIELDS)
    np.testing.assert_allclose(_gate(kernel, bias + 50)(FIELDS), expected, rtol=1e-4)
    kernel[0] += 7  # what one field adds to the logits of all
    np.testing.assert_allclose(_gate(kernel, bias)(FIELDS), expected, rtol=1e-4)


def test_permuting_fields_and_weights_permutes_the_output() -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[4, 6, 2]).astype("float32")
    kernel, bias = rng.normal(size=[6, 6]), rng.normal(size=6)
    order = rng.permutation(6)
    gate = _gate(kernel, bias)
    permuted = _gate(kernel[order][:, order], bias[order])
    expected = gate(fields).numpy()[:, order]
    np.testing.assert_allclose(permuted(fields[:, order]), expected, rtol=1e-5)
    # The gate does tell fields apart: the weights alone must not be permuted.
    assert not np.allclose(gate(fields[:, order]), expected)


@pytest.mark.parametrize("fields", [2, 7])
def test_number_of_weights(fields: int) -> None:
    gate = LightSE()
    gate.build([None, fields, 4])
    assert gate.count_params() == fields**2 + fields


def test_large_fields_under_mixed_precision() -> None:
    # The sum of 16 numbers of 3e4 is beyond float16, and 0 times infinity is NaN.
    gate = LightSE(dtype="mixed_float16")
    gate.build([None, 3, 16])
    gate.set_weights([np.zeros([3, 3]), np.zeros(3)])
    output = gate(np.full([1, 3, 16], 3e4, "float32"))
    np.testing.assert_allclose(output, np.full([1, 3, 16], 4e4), rtol=1e-3)
