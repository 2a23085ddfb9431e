"""Values of target attention."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import TargetAttention

VARIANTS: list[dict[str, Any]] = [
    {"units": (7, 5)},
    {"units": (4,), "softmax": True},
    {"units": (6, 3, 2), "activation": "relu"},
    {"units": (6,), "activation": "tanh", "softmax": True},
]


def _inputs(size: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    query = rng.normal(size=[4, size]).astype("float32")
    keys = rng.normal(size=[4, 5, 6]).astype("float32")
    mask = np.arange(5) < np.array([5, 3, 1, 0])[:, np.newaxis]
    return query, keys, mask


def _trained(
    kwargs: dict[str, Any], size: int = 3, dtype: str = "float32"
) -> TargetAttention:
    """A layer none of whose weights is zero."""
    attend = TargetAttention(**kwargs, dtype=dtype)
    attend.build(([None, size], [None, None, 6]))
    rng = np.random.default_rng(1)
    for weight in attend.weights:
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) if "variance" in weight.name else value)
    return attend


def _activation(attend: TargetAttention, place: int, hidden: np.ndarray) -> np.ndarray:
    if attend.activation != "dice":
        return attend.activation(tf.constant(hidden)).numpy()
    dice = attend.dices[place]
    alpha, mean, variance = (w.numpy() for w in dice.weights)
    p = 1 / (1 + np.exp(-(hidden - mean) / np.sqrt(variance + dice.epsilon)))
    return p * hidden + (1 - p) * alpha * hidden


def _slow(attend: TargetAttention, query: Any, keys: Any, mask: Any) -> np.ndarray:
    """The published form: the concatenation of each pair through a plain MLP."""
    w = {v.name.split("/")[-1].split(":")[0]: v.numpy() for v in attend.weights}
    rows = []
    for q, example, real in zip(query, keys, mask, strict=True):
        if "query_kernel" in w:
            q = q @ w["query_kernel"]
        logits = []
        for k in example:
            hidden = np.concatenate([q, k, q - k, q * k])
            for place in range(len(attend.units)):
                hidden = hidden @ w[f"kernel_{place}"] + w[f"bias_{place}"]
                hidden = _activation(attend, place, hidden)
            logits.append(hidden @ w["output_kernel"][:, 0])
        weights = np.where(real, np.array(logits) + w.get("output_bias", 0.0), 0.0)
        if attend.softmax:
            powers = np.where(real, np.exp(logits - np.max(logits)), 0.0)
            weights = powers / (powers.sum() if real.any() else 1.0)
        rows.append(weights @ example)
    return np.array(rows)


def test_by_hand() -> None:
    attend = TargetAttention(units=(2,), activation="relu")
    attend.build(([None, 1], [None, None, 1]))
    # Columns of the first kernel: 1 q + 2 k + 3 (q - k) + 4 q k, and k alone.
    attend.set_weights(
        [
            np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [4.0, 0.0]]),
            np.array([-1.0, 0.0]),
            np.array([[1.0], [10.0]]),
            np.array([0.5]),
        ]
    )
    # q = 2: k = 1 gives relu(2 + 2 + 3 + 8 - 1) = 14 and relu(1) = 1, so a = 24.5;
    # k = -1 gives relu(2 - 2 + 9 - 8 - 1) = 0 and relu(-1) = 0, so a = 0.5.
    # The sum 24.5 * 1 + 0.5 * -1 = 24 is no mean: the weights add up to 25.
    keys = np.array([[[1.0], [-1.0], [5.0]]], "float32")
    mask = np.array([[True, True, False]])
    np.testing.assert_allclose(attend(np.array([[2.0]], "f"), keys, mask), [[24.0]])


@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_equals_the_plain_concatenation(kwargs: dict[str, Any], size: int) -> None:
    attend, inputs = _trained(kwargs, size), _inputs(size)
    expected = _slow(attend, *inputs)
    np.testing.assert_allclose(attend(*map(tf.constant, inputs)), expected, 1e-4, 1e-5)


def test_intensity_is_kept_without_softmax_only() -> None:
    # Each behaviour twice: a sum doubles, a mean does not change.
    query, keys, mask = _inputs()
    for kwargs in VARIANTS:
        attend = _trained(kwargs)
        once = attend(query, keys, mask)
        twice = attend(query, np.tile(keys, [1, 2, 1]), np.tile(mask, [1, 2]))
        factor = 1.0 if attend.softmax else 2.0
        np.testing.assert_allclose(twice, factor * once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_pads_do_not_count(kwargs: dict[str, Any], training: bool) -> None:
    query, keys, mask = _inputs()
    longer = np.concatenate([keys, np.full([4, 3, 6], np.nan, "float32")], axis=1)
    longer_mask = np.pad(mask, [(0, 0), (0, 3)])
    left, right = _trained(kwargs), _trained(kwargs)
    np.testing.assert_allclose(
        left(query, longer, longer_mask, training=training),
        right(query, keys, mask, training=training),
        rtol=1e-4,
        atol=1e-5,
    )
    # In training: into the moving averages of Dice neither.
    for one, other in zip(left.weights, right.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_order_does_not_count(kwargs: dict[str, Any]) -> None:
    attend = _trained(kwargs)
    query, keys, mask = _inputs()
    order = np.random.default_rng(2).permutation(5)
    np.testing.assert_allclose(
        attend(query, keys[:, order], mask[:, order], training=True),
        attend(query, keys, mask, training=True),
        rtol=1e-4,
        atol=1e-5,
    )


def test_training_uses_the_statistics_of_real_behaviours() -> None:
    attend = _trained({"units": (4,)}, 6)
    query, keys, mask = _inputs(6)
    attend(query, keys, mask, training=True)
    plain = _trained({"units": (4,)}, 6)
    kernel, bias = plain.kernels[0].numpy(), plain.biases[0].numpy()
    rows = [
        np.concatenate([q, k, q - k, q * k]) @ kernel + bias
        for q, example, real in zip(query, keys, mask, strict=True)
        for k in example[real]
    ]
    before = plain.dices[0].moving_mean.numpy()
    np.testing.assert_allclose(
        attend.dices[0].moving_mean,
        0.99 * before + 0.01 * np.mean(rows, axis=0),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_all_masked_is_zero_with_zero_gradients(
    kwargs: dict[str, Any], dtype: str, jit: bool
) -> None:
    attend = _trained(kwargs, dtype=dtype)
    query, keys, _ = map(tf.constant, _inputs())
    watched = [query, keys, *attend.trainable_variables]

    @tf.function(jit_compile=jit)
    def run() -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(watched)
            output = attend(query, keys, tf.zeros([4, 5], tf.bool), training=True)
            loss = tf.reduce_sum(output)
        unconnected = tf.UnconnectedGradients.ZERO
        return output, tape.gradient(loss, watched, unconnected_gradients=unconnected)

    output, gradients = run()
    np.testing.assert_array_equal(output, np.zeros([4, 6]))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    no_slot = attend(query, keys[:, :0], tf.zeros([4, 0], tf.bool))
    np.testing.assert_array_equal(no_slot, np.zeros([4, 6]))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_large_products_stay_finite_with_softmax(dtype: str) -> None:
    attend = _trained({"units": (4,), "softmax": True}, 6, dtype)
    query, keys, mask = _inputs(6)
    # Products up to 1e6: beyond the 65504 of float16.
    query, keys = tf.constant(query * 300), tf.constant(keys * 1000)
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        output = attend(query, keys, mask, training=True)
        loss = tf.reduce_sum(tf.cast(output, tf.float32))
    assert np.isfinite(tf.cast(output, tf.float32)).all()
    for gradient in tape.gradient(loss, [query, keys, *attend.trainable_variables]):
        assert np.isfinite(gradient).all()


def test_a_long_sum_is_float32_under_mixed_precision() -> None:
    # 4,096 weights of 1 (the output bias) and keys of 1: bfloat16 stops at 256.
    attend = TargetAttention(units=(2,), activation="relu", dtype="mixed_bfloat16")
    attend.build(([None, 6], [None, None, 6]))
    zeros = [np.zeros(w.shape) for w in attend.weights]
    attend.set_weights([*zeros[:-1], np.ones(1)])
    output = attend(tf.ones([1, 6]), tf.ones([1, 4096, 6]))
    np.testing.assert_array_equal(tf.cast(output, tf.float32), np.full([1, 6], 4096.0))


def test_the_number_of_weights() -> None:
    attend = TargetAttention()  # 4 * 6 -> 80 -> 40 -> 1, each Dice one alpha per unit
    attend.build(([None, 6], [None, None, 6]))
    mlp = (24 * 80 + 80) + (80 * 40 + 40) + (40 + 1)
    count = sum(math.prod(w.shape) for w in attend.trainable_weights)
    assert count == mlp + 80 + 40
    assert attend.query_kernel is None
    # A bias before a softmax would get no gradient.
    attend = TargetAttention(units=(3,), activation="relu", softmax=True)
    attend.build(([None, 2], [None, None, 6]))
    assert attend.count_params() == 2 * 6 + (24 * 3 + 3) + 3


@pytest.mark.parametrize("units", [(), 80, "80", None])
def test_units_are_checked(units: Any) -> None:
    received = re.escape(f"Received: {units!r}")
    with pytest.raises(ValueError, match=f"`units` must be the sizes.*{received}"):
        TargetAttention(units=units)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`units`.*Received: 0"):
        TargetAttention(units=(4, 0))
    with pytest.raises(ValueError, match=r"Unknown activation function"):
        TargetAttention(activation="dise")
    with pytest.raises(ValueError, match=r"query of shape .*Received: shapes"):
        TargetAttention()(tf.ones([2, 3, 3]), tf.ones([2, 4, 3]))
    with pytest.raises(TypeError, match=r"must be bool.*Received: dtype float32"):
        TargetAttention()(tf.ones([2, 3]), tf.ones([2, 4, 3]), tf.ones([2, 4]))
