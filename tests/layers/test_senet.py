"""Values of the squeeze-and-excitation gate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import SENet

FIELDS = np.array([[[1.0, 3.0], [2.0, 6.0], [-2.0, 0.0]]], "float32")


def _gate(kernels: list, **kwargs: object) -> SENet:
    gate = SENet(**kwargs)
    gate.build([None, 3, 2])
    gate.set_weights([np.array(k) for k in kernels])
    return gate


def test_mean_by_hand() -> None:
    # z = [2, 4, -1], z W1 = 2 * 1 + 4 * -1 + -1 * -3 = 1, relu: 1,
    # times W2 = [0, 1, -1]: sigmoid of 0, 1, -1.
    gate = _gate([[[1.0], [-1.0], [-3.0]], [[0.0, 1.0, -1.0]]])
    weights = [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))]
    np.testing.assert_allclose(gate.field_weights(FIELDS), [weights], rtol=1e-6)
    np.testing.assert_allclose(
        gate(FIELDS), FIELDS * np.array(weights)[None, :, None], rtol=1e-6
    )


def test_max_and_other_activations_by_hand() -> None:
    # z = [3, 6, 0], z W1 = 3 - 6 = -3, linear: -3, times W2 = [1, -1, 2]:
    # [-3, 3, -6], relu: [0, 3, 0].
    gate = _gate(
        [[[1.0], [-1.0], [5.0]], [[1.0, -1.0, 2.0]]],
        squeeze="max",
        activations=("linear", "relu"),
    )
    expected = [[[0.0, 0.0], [6.0, 18.0], [0.0, 0.0]]]
    np.testing.assert_allclose(gate(FIELDS), expected, rtol=1e-6)


def test_zero_weights_halve_the_fields() -> None:
    gate = _gate([np.zeros([3, 1]), np.zeros([1, 3])])
    np.testing.assert_array_equal(gate(FIELDS), FIELDS / 2)


def test_permuting_fields_and_weights_permutes_the_output() -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[4, 6, 5]).astype("float32")
    gate, permuted = SENet(), SENet()
    expected = gate(fields).numpy()
    order = rng.permutation(6)
    permuted.build(fields.shape)
    first, second = gate.get_weights()
    permuted.set_weights([first[order], second[:, order]])
    np.testing.assert_allclose(permuted(fields[:, order]), expected[:, order], 1e-5)
    # The gate does tell fields apart: the weights alone must not be permuted.
    assert not np.allclose(gate(fields[:, order]), expected[:, order])


@pytest.mark.parametrize(
    ("fields", "reduction", "hidden"),
    [(2, 2, 1), (3, 3, 1), (5, 3, 1), (7, 3, 2), (7, 7, 1), (7, 1, 7)],
)
def test_hidden_size(fields: int, reduction: int, hidden: int) -> None:
    gate = SENet(reduction=reduction)
    gate.build([None, fields, 8])
    assert gate.squeeze_kernel.shape == [fields, hidden]
    assert gate.count_params() == 2 * fields * hidden


@pytest.mark.parametrize("squeeze", ["mean", "max"])
def test_large_fields_under_mixed_precision(squeeze: str) -> None:
    # The sum of 16 numbers of 3e4 is beyond float16; their mean and maximum are not.
    # z = 3e4, z W1 = 3 * 3e4 * 1e-5 = 0.9, times W2 = 1: sigmoid(0.9) = 0.711.
    gate = SENet(squeeze=squeeze, dtype="mixed_float16")
    gate.build([None, 3, 16])
    gate.set_weights([np.full([3, 1], 1e-5), np.ones([1, 3])])
    weight = 1 / (1 + math.exp(-0.9))
    output = gate(np.full([1, 3, 16], 3e4, "float32"))
    np.testing.assert_allclose(output, np.full([1, 3, 16], 3e4 * weight), rtol=2e-3)


def test_field_weights_outside_a_call_under_mixed_precision() -> None:
    gate = SENet(dtype="mixed_float16")
    fields = tf.constant(FIELDS, tf.float16)
    output = gate(fields)
    weights = gate.field_weights(fields)
    assert weights.dtype == tf.float16
    np.testing.assert_array_equal(output, fields * weights[..., None])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`reduction`.*Received: 0"):
        SENet(reduction=0)
    with pytest.raises(ValueError, match=r"`squeeze` must be.*Received: 'sum'"):
        SENet(squeeze="sum")
    with pytest.raises(ValueError, match=r"`activations` must be a pair.*'relu'"):
        SENet(activations="relu")
    with pytest.raises(ValueError, match=r"`reduction`.*fields 2\. Received: 3"):
        SENet().build([None, 2, 4])
    with pytest.raises(ValueError, match=r"`reduction`.*fields 7\. Received: 8"):
        SENet(reduction=8).build([None, 7, 4])
