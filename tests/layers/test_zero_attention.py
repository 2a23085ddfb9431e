"""Values of zero attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import ZeroAttention

VARIANTS = [
    {"heads": heads, "zero_logit": zero_logit, "score": score}
    for heads, zero_logit, score in [
        (1, "fixed", "dot"),
        (2, "learned", "dot"),
        (2, "query", "additive"),
        (1, "fixed", "additive"),
    ]
]


def _inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=[4, 3]).astype("float32")
    keys = rng.normal(size=[4, 5, 6]).astype("float32")
    mask = np.arange(5) < np.array([5, 3, 1, 0])[:, np.newaxis]
    return query, keys, mask


def _trained(kwargs: dict[str, Any], dtype: str = "float32") -> ZeroAttention:
    """A layer none of whose weights is zero."""
    attend = ZeroAttention(**kwargs, dtype=dtype)
    attend.build(([None, 3], [None, None, 6]))
    rng = np.random.default_rng(1)
    attend.set_weights([rng.normal(size=w.shape) for w in attend.weights])
    return attend


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _slow(attend: ZeroAttention, query: Any, keys: Any, mask: Any) -> np.ndarray:
    """Plain softmax over the real keys and, as one more key, the zero vector."""
    size, heads = keys.shape[-1], attend.heads
    width = size // heads
    w = {v.name.split("/")[-1].split(":")[0]: v.numpy() for v in attend.weights}
    rows = []
    for q, example, real in zip(query, keys, mask, strict=True):
        slots = np.concatenate([example[real], np.zeros([1, size])])
        row = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            if attend.score == "dot":
                projected = q @ w["query_kernel"][:, h * size : (h + 1) * size]
                logits = slots @ projected / math.sqrt(size)
            else:
                hidden = np.tanh(
                    q @ w["query_kernel"] + slots @ w["key_kernel"] + w["score_bias"]
                )
                logits = hidden[:, part] @ w["score_kernel"][h]
            logits[-1] = w["zero_bias"][h] if "zero_bias" in w else 0.0
            if "zero_kernel" in w:
                logits[-1] += q @ w["zero_kernel"][:, h]
            pooled = _softmax(logits) @ slots
            row.append(pooled @ w["value_kernel"][:, part] if heads > 1 else pooled)
        rows.append(np.concatenate(row))
    return np.array(rows)


def test_by_hand() -> None:
    attend = ZeroAttention()
    attend.build(([None, 1], [None, None, 1]))
    attend.set_weights([np.ones([1, 1])])
    # Logits ln 2 * [1, 2], and 0: shares 2/7, 4/7 and 1/7, so u = (2 + 8) / 7.
    query = np.array([[math.log(2)]], "float32")
    keys = np.array([[[1.0], [2.0]]], "float32")
    np.testing.assert_allclose(attend(query, keys), [[10 / 7]], rtol=1e-6)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_equals_softmax_over_one_more_slot(kwargs: dict[str, Any]) -> None:
    attend, inputs = _trained(kwargs), _inputs()
    expected = _slow(attend, *inputs)
    np.testing.assert_allclose(attend(*map(tf.constant, inputs)), expected, 1e-4, 1e-5)


def test_trained_zero_logits_start_as_the_fixed_one() -> None:
    query, keys, mask = map(tf.constant, _inputs())
    outputs = []
    for zero_logit in ("fixed", "learned", "query"):
        tf.keras.utils.set_random_seed(3)
        outputs.append(ZeroAttention(zero_logit=zero_logit)(query, keys, mask))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_a_constant_on_the_real_logits_counts() -> None:
    # The last component of every key is 1, so the kernel's last row adds the same
    # constant to all real logits. Plain softmax would not see it.
    query = np.ones([1, 1], "float32")
    keys = np.array([[[1.0, 1.0], [3.0, 1.0]]], "float32")
    attend = ZeroAttention()
    attend.build(([None, 1], [None, None, 2]))
    shares = []
    for constant in (-30.0, 0.0, 30.0):
        attend.set_weights([np.array([[1.0, constant * math.sqrt(2)]])])
        shares.append(float(attend(query, keys)[0, 1]))  # all weight on real keys
    assert shares[0] < 1e-9
    assert 0.7 < shares[1] < 0.95
    assert shares[2] > 1 - 1e-6


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_pads_do_not_count(kwargs: dict[str, Any]) -> None:
    attend = _trained(kwargs)
    query, keys, mask = _inputs()
    expected = attend(query, keys, mask)
    longer = np.concatenate([keys, np.full([4, 3, 6], np.inf, "float32")], axis=1)
    longer_mask = np.pad(mask, [(0, 0), (0, 3)])
    np.testing.assert_allclose(attend(query, longer, longer_mask), expected, 1e-5, 1e-6)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_order_does_not_count(kwargs: dict[str, Any]) -> None:
    attend = _trained(kwargs)
    query, keys, mask = _inputs()
    order = np.random.default_rng(2).permutation(5)
    np.testing.assert_allclose(
        attend(query, keys[:, order], mask[:, order]),
        attend(query, keys, mask),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "mixed_float16"])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_empty_history_is_exactly_zero(
    kwargs: dict[str, Any], dtype: str, jit: bool
) -> None:
    attend = _trained(kwargs, dtype)
    function = tf.function(attend, jit_compile=jit)
    query, keys, _ = map(tf.constant, _inputs())
    output = function(query, keys * 1e4, tf.zeros([4, 5], tf.bool))
    np.testing.assert_array_equal(output, np.zeros([4, 6]))
    no_slot = function(query, keys[:, :0], tf.zeros([4, 0], tf.bool))
    np.testing.assert_array_equal(no_slot, np.zeros([4, 6]))


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_empty_history_gives_zero_gradients(kwargs: dict[str, Any]) -> None:
    attend = _trained(kwargs)
    query, keys, _ = map(tf.constant, _inputs())
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        loss = tf.reduce_sum(attend(query, keys, tf.zeros([4, 5], tf.bool)))
    watched = [query, keys, *attend.trainable_variables]
    for gradient in tape.gradient(loss, watched):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_large_logits_stay_finite(kwargs: dict[str, Any], dtype: str) -> None:
    attend = _trained(kwargs, dtype)
    query, keys, mask = _inputs()
    # Products up to 1e6: beyond the 65504 of float16.
    query, keys = tf.constant(query * 300), tf.constant(keys * 1000)
    with tf.GradientTape() as tape:
        tape.watch([query, keys])
        output = attend(query, keys, mask)
        loss = tf.reduce_sum(tf.cast(output, tf.float32))
    assert np.isfinite(tf.cast(output, tf.float32)).all()
    for gradient in tape.gradient(loss, [query, keys, *attend.trainable_variables]):
        assert np.isfinite(gradient).all()


def test_a_long_sum_is_float32_under_mixed_precision() -> None:
    # 4,096 keys of 1 with logits of 0, and the zero vector: 4096 / 4097, which is 1 in
    # bfloat16. Powers or shares added up in bfloat16 stop early.
    attend = ZeroAttention(dtype="mixed_bfloat16")
    attend.build(([None, 3], [None, None, 6]))
    attend.set_weights([np.zeros([3, 6])])
    output = attend(tf.ones([1, 3]), tf.ones([1, 4096, 6]))
    np.testing.assert_array_equal(tf.cast(output, tf.float32), np.ones([1, 6]))


def test_far_logits_give_all_or_nothing() -> None:
    attend = ZeroAttention()
    attend.build(([None, 1], [None, None, 1]))
    attend.set_weights([np.ones([1, 1])])
    query = np.array([[1e30], [-1e30]], "float32")
    keys = np.full([2, 1, 1], 2.0, "float32")
    np.testing.assert_array_equal(attend(query, keys), [[2.0], [0.0]])


def test_no_mask_means_all_real() -> None:
    attend = _trained(VARIANTS[1])
    query, keys, _ = _inputs()
    full = attend(query, keys, np.ones([4, 5], bool))
    np.testing.assert_array_equal(attend(query, keys), full)


def test_every_weight_learns() -> None:
    for kwargs in VARIANTS:
        attend = _trained(kwargs)
        query, keys, mask = _inputs()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(attend(query, keys, mask)))
        for gradient in tape.gradient(loss, attend.trainable_variables):
            assert np.any(gradient)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`heads`.*Received: 0"):
        ZeroAttention(heads=0)
    with pytest.raises(ValueError, match=r"`zero_logit`.*Received: 'free'"):
        ZeroAttention(zero_logit="free")
    with pytest.raises(ValueError, match=r"`score`.*Received: 'cosine'"):
        ZeroAttention(score="cosine")
    with pytest.raises(ValueError, match=r"key size 6, heads=4"):
        ZeroAttention(heads=4).build(([None, 3], [None, None, 6]))
    with pytest.raises(TypeError, match=r"must be bool"):
        ZeroAttention()(tf.ones([2, 3]), tf.ones([2, 4, 3]), tf.ones([2, 4]))
