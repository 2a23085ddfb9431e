"""What all gates over fields promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import layers
from tfrs_prerank.layers._field_gate import FieldGate

GATES = {
    "SENet": {},
    "SENetPlus": {"groups": 2},
    "LightSE": {},
    "FeatureAttention": {"heads": 2},
}
POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
FIELDS = np.random.default_rng(0).normal(size=[3, 2, 6, 4]).astype("float32")

every_gate = pytest.mark.parametrize("name", GATES)


def _gate(name: str, **kwargs: Any) -> FieldGate:
    """A gate none of whose weights is zero."""
    gate = getattr(layers, name)(**GATES[name], **kwargs)
    gate.build([None, 6, 4])
    rng = np.random.default_rng(1)
    gate.set_weights([rng.normal(size=w.shape) for w in gate.weights])
    return gate


def test_no_gate_is_left_out() -> None:
    public = [getattr(layers, name) for name in layers.__all__]
    gates = [layer for layer in public if issubclass(layer, FieldGate)]
    assert sorted(GATES) == sorted(gate.__name__ for gate in gates)


@every_gate
def test_leading_axes_are_independent(name: str) -> None:
    gate = _gate(name)
    flat = FIELDS.reshape(6, 6, 4)
    outputs, weights = gate(FIELDS), gate.field_weights(FIELDS)
    assert weights.shape == [3, 2, 6]
    np.testing.assert_allclose(tf.reshape(outputs, [6, 6, 4]), gate(flat), 1e-5, 1e-6)
    np.testing.assert_allclose(
        tf.reshape(weights, [6, 6]), gate.field_weights(flat), 1e-5, 1e-6
    )
    alone = [gate(example[np.newaxis])[0] for example in flat]
    np.testing.assert_allclose(gate(flat), alone, 1e-5, 1e-6)
    np.testing.assert_allclose(gate(flat[0]), alone[0], 1e-5, 1e-6)  # no batch axis


@every_gate
@pytest.mark.parametrize("policy", POLICIES[1:])
def test_field_weights_under_mixed_precision(name: str, policy: str) -> None:
    gate, exact = _gate(name, dtype=policy), _gate(name)
    weights = gate.field_weights(FIELDS)
    assert weights.dtype == gate.compute_dtype
    np.testing.assert_allclose(
        tf.cast(weights, tf.float32), exact.field_weights(FIELDS), rtol=0.1, atol=0.1
    )


@every_gate
def test_an_empty_batch(name: str) -> None:
    gate = _gate(name)
    assert gate(FIELDS[:0, 0]).shape == [0, 6, 4]
    assert gate.field_weights(FIELDS[:0, 0]).shape == [0, 6]


@every_gate
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("value", [0.0, 1.0, 1e3])
def test_finite_where_all_numbers_are_equal(
    name: str, policy: str, value: float
) -> None:
    gate = _gate(name, dtype=policy)
    # Small weights: neither products nor the sums in their gradients pass 65504.
    gate.set_weights([w * 1e-3 for w in gate.get_weights()])
    fields = tf.fill([2, 6, 4], value)
    with tf.GradientTape() as tape:
        tape.watch(fields)
        loss = tf.reduce_sum(tf.cast(gate(fields), tf.float32))
    assert np.isfinite(gate(fields)).all()
    assert np.isfinite(gate.field_weights(fields)).all()
    for gradient in tape.gradient(loss, [fields, *gate.trainable_weights]):
        assert np.isfinite(gradient).all()


@every_gate
def test_errors(name: str) -> None:
    gate = getattr(layers, name)(**GATES[name])
    with pytest.raises(ValueError, match=rf"{name} takes fields.*shape \(4,\)"):
        gate.build([4])
    with pytest.raises(ValueError, match=rf"{name} needs a known number of fields"):
        gate.build([None, None, 4])
    with pytest.raises(ValueError, match=r"fields F must be at least 2\. Received: 1;"):
        gate.build([None, 1, 4])
    with pytest.raises(
        ValueError, match=r"shape \(3, 2, 6, 4\); call the layer on a batch first"
    ):
        gate.field_weights(FIELDS)
