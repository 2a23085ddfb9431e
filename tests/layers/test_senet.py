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


def test_leading_axes_are_independent() -> None:
    fields = np.random.default_rng(0).normal(size=[2, 4, 6, 5]).astype("float32")
    gate = SENet()
    flat = gate(fields.reshape(8, 6, 5))
    np.testing.assert_allclose(gate(fields), tf.reshape(flat, [2, 4, 6, 5]), 1e-6)


@pytest.mark.parametrize(("fields", "hidden"), [(2, 1), (3, 1), (5, 1), (7, 2)])
def test_hidden_size(fields: int, hidden: int) -> None:
    gate = SENet()
    gate.build([None, fields, 8])
    assert gate.squeeze_kernel.shape == [fields, hidden]


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
    with pytest.raises(ValueError, match=r"number of fields"):
        SENet().build([None, None, 4])
    with pytest.raises(ValueError, match=r"shape"):
        SENet().build([4])
    with pytest.raises(ValueError, match=r"call the layer on a batch first"):
        SENet().field_weights(FIELDS)
