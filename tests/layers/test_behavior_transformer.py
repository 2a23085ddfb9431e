"""Values of self-attention over behaviours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import BehaviorTransformer
from tfrs_prerank.layers.behavior_transformer import gap_bucket

VARIANTS: list[dict[str, Any]] = [
    {"positions": None},
    {"positions": None, "heads": 3, "blocks": 2, "units": 5},
    {"positions": "learned", "heads": 2, "max_length": 9},
    {"positions": "time_gap", "gap_buckets": 8},
]


def _inputs(kwargs: dict[str, Any]) -> list[np.ndarray]:
    """Behaviours, the mask and where they are wanted the gaps."""
    rng = np.random.default_rng(0)
    sequence = rng.normal(size=[4, 5, 6]).astype("float32")
    mask = np.arange(5) < np.array([5, 3, 1, 0])[:, np.newaxis]
    gaps = rng.integers(-5, 30, [4, 5])
    return [sequence, mask, gaps][: 2 + (kwargs["positions"] == "time_gap")]


def _trained(kwargs: dict[str, Any], dtype: str = "float32") -> BehaviorTransformer:
    """A layer none of whose weights is zero."""
    encode = BehaviorTransformer(**kwargs, dtype=dtype)
    encode.build([None, None, 6])
    rng = np.random.default_rng(1)
    encode.set_weights([rng.normal(0, 0.5, w.shape) for w in encode.weights])
    return encode


def _norm(x: np.ndarray, norm: Any) -> np.ndarray:
    gamma, beta = (w.numpy() for w in norm.weights)
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-6) * gamma + beta


def _slow(
    encode: BehaviorTransformer,
    sequence: np.ndarray,
    mask: np.ndarray,
    gaps: np.ndarray | None = None,
) -> np.ndarray:
    """One behaviour, head and pair after the other, real behaviours only."""
    output = np.zeros(sequence.shape)
    size = sequence.shape[-1]
    for row, real in enumerate(mask):
        places = np.flatnonzero(real)
        x = sequence[row, places].astype("float64")
        if encode.position_vectors is not None:
            table = encode.position_vectors.numpy()
            which = places
            if gaps is not None:
                which = [_bucket(gap, encode.gap_buckets) for gap in gaps[row, places]]
            x = x + table[which]
        for block in encode.stack:
            w = {v.name.split("/")[-1].split(":")[0]: v.numpy() for v in block.weights}
            width = size // block.heads
            normed = np.array([_norm(row, block.norms[0]) for row in x]).reshape(
                x.shape
            )
            q, k, v = np.split(normed @ w["projections"], 3, axis=-1)
            found = np.zeros(x.shape)
            for t in range(len(x)):
                for head in range(block.heads):
                    part = slice(head * width, (head + 1) * width)
                    powers = [
                        math.exp(q[t, part] @ other[part] / math.sqrt(width))
                        for other in k
                    ]
                    for power, value in zip(powers, v, strict=True):
                        found[t, part] += power / sum(powers) * value[part]
            x = x + found @ w["mixing"]
            for t in range(len(x)):
                hidden = _norm(x[t], block.norms[1]) @ w["hidden_kernel"]
                hidden = np.maximum(hidden + w["hidden_bias"], 0)
                x[t] = x[t] + hidden @ w["output_kernel"] + w["output_bias"]
        for place, value in zip(places, x, strict=True):
            output[row, place] = _norm(value, encode.norm)
    return output


def _bucket(gap: float, buckets: int) -> int:
    if gap < 0:
        return 0
    return min(1 if gap < 1 else 2 + math.floor(math.log2(gap)), buckets)


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_equals_a_loop(kwargs: dict[str, Any]) -> None:
    encode, inputs = _trained(kwargs), _inputs(kwargs)
    expected = _slow(encode, *inputs)
    output = encode(*map(tf.constant, inputs))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(output.numpy()[~inputs[1]], np.zeros([11, 6]))


def test_attention_by_hand() -> None:
    # D = 2, so Norm of [x, y] with x > y is [1, -1], of x < y [-1, 1].
    encode = BehaviorTransformer(positions=None, units=1)
    encode.build([None, None, 2])
    block = encode.stack[0]
    for weight in (block.hidden_kernel, block.output_kernel):
        weight.assign(tf.zeros_like(weight))  # attention alone
    # q = [n, 0], k = [n, 0] with n the first number of Norm; v = Norm; mixing 1.
    a = math.sqrt(math.sqrt(2) * math.log(3) / 2)
    block.projections.assign([[a, 0, a, 0, 1, 0], [0, 0, 0, 0, 0, 1]])
    block.mixing.assign(np.eye(2))
    # Logits of the first behaviour: a^2 / sqrt(2) = ln(3) / 2 with itself and
    # -ln(3) / 2 with the second: weights 3/4 and 1/4. It takes up
    # 3/4 [1, -1] + 1/4 [-1, 1] = [1/2, -1/2]: [10, 8] becomes [10.5, 7.5].
    captured = block(tf.constant([[[10.0, 8.0], [1.0, 5.0]]]))
    np.testing.assert_allclose(captured[0], [[10.5, 7.5], [0.5, 5.5]], rtol=1e-5)


def test_gap_buckets_are_powers_of_two() -> None:
    # Every power of two and its neighbours: a logarithm in float32 is wrong at some.
    powers = [2**power for power in range(62)]
    gaps = sorted({g + d for g in powers for d in (-1, 0, 1) if g + d >= 1})
    found = gap_bucket(tf.constant(gaps, tf.int64), 100)
    # bit_length of g is 1 + floor(log2(g)).
    np.testing.assert_array_equal(found, [1 + gap.bit_length() for gap in gaps])
    whole = [2.0**power for power in range(-3, 40)]
    found = gap_bucket(tf.constant(whole, tf.float32), 100)
    np.testing.assert_array_equal(found, [max(1, power + 2) for power in range(-3, 40)])


@pytest.mark.parametrize("dtype", [tf.float32, tf.int64, tf.int32])
def test_gap_buckets_at_the_ends(dtype: tf.DType) -> None:
    gaps = tf.constant([-7, -1, 0, 1, 2**30], dtype)
    np.testing.assert_array_equal(gap_bucket(gaps, 4), [0, 0, 1, 2, 4])
    np.testing.assert_array_equal(gap_bucket(gaps, 1), [0, 0, 1, 1, 1])
    # More buckets than an integer has powers of two.
    np.testing.assert_array_equal(gap_bucket(gaps, 100), [0, 0, 1, 2, 32])


def test_a_gap_that_is_not_known() -> None:
    gaps = tf.constant([math.nan, -math.inf, math.inf])
    np.testing.assert_array_equal(gap_bucket(gaps, 32), [0, 0, 32])


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_adding_padding_changes_nothing(kwargs: dict[str, Any]) -> None:
    encode = _trained(kwargs)
    inputs = _inputs(kwargs)
    expected = encode(*inputs)
    fills = (np.nan, False, 3)
    longer = [
        np.concatenate([x, np.full([4, 3, *x.shape[2:]], fill, x.dtype)], axis=1)
        for x, fill in zip(inputs, fills, strict=False)
    ]
    output = encode(*longer)
    np.testing.assert_allclose(output[:, :5], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(output[:, 5:], np.zeros([4, 3, 6]))


@pytest.mark.parametrize("kwargs", VARIANTS)
def test_permuting_behaviours(kwargs: dict[str, Any]) -> None:
    encode = _trained(kwargs)
    inputs = _inputs(kwargs)
    order = np.array([4, 2, 0, 1, 3])
    output = encode(*(x[:, order] for x in inputs))
    expected = encode(*inputs).numpy()[:, order]
    same = np.allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert same == (kwargs["positions"] != "learned")


def test_the_time_gap_counts() -> None:
    kwargs = VARIANTS[3]
    encode = _trained(kwargs)
    sequence, mask, gaps = _inputs(kwargs)
    later = np.where(gaps >= 0, 4 * gaps + 4, gaps)
    before, after = encode(sequence, mask, gaps), encode(sequence, mask, later)
    assert not np.allclose(before, after, atol=1e-2)
    # Not known is not known.
    unknown = np.where(gaps < 0, -1000, gaps)
    np.testing.assert_array_equal(encode(sequence, mask, unknown), before)
    seconds = tf.constant(gaps, tf.float32)
    np.testing.assert_array_equal(encode(sequence, mask, seconds), before)


@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kwargs", VARIANTS)
def test_all_masked_is_zero_with_zero_gradients(
    kwargs: dict[str, Any], dtype: str, jit: bool
) -> None:
    encode = _trained(kwargs, dtype)
    sequence, _, *gaps = map(tf.constant, _inputs(kwargs))
    nothing = tf.zeros([4, 5], tf.bool)
    watched = [sequence, *encode.trainable_variables]

    @tf.function(jit_compile=jit)
    def run() -> tuple:
        with tf.GradientTape() as tape:
            tape.watch(watched)
            output = encode(sequence, nothing, *gaps)
            loss = tf.reduce_sum(output)
        return output, [tf.convert_to_tensor(g) for g in tape.gradient(loss, watched)]

    output, gradients = run()
    np.testing.assert_array_equal(output, np.zeros([4, 5, 6]))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize("shape", [(0, 5), (4, 0)])
def test_no_request_and_no_behaviour(shape: tuple[int, int]) -> None:
    encode = _trained(VARIANTS[1])
    output = encode(tf.zeros([*shape, 6]), tf.zeros(shape, tf.bool))
    assert output.shape == (*shape, 6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_large_inputs_stay_finite(dtype: str) -> None:
    encode = _trained(VARIANTS[1], dtype)
    # Kernels that make logits beyond the 65504 of float16.
    encode.stack[0].projections.assign(1000 * encode.stack[0].projections)
    sequence, mask = _inputs(VARIANTS[1])
    sequence = tf.constant(sequence * 1000)
    with tf.GradientTape() as tape:
        tape.watch(sequence)
        output = encode(sequence, mask)
        loss = tf.reduce_sum(tf.cast(output, tf.float32))
    assert np.isfinite(tf.cast(output, tf.float32)).all()
    for gradient in tape.gradient(loss, [sequence, *encode.trainable_variables]):
        assert np.isfinite(gradient).all()


def test_no_mask_means_all_real() -> None:
    encode = _trained(VARIANTS[1])
    sequence, _ = _inputs(VARIANTS[1])
    full = encode(sequence, np.ones([4, 5], bool))
    np.testing.assert_allclose(encode(sequence), full, rtol=1e-6)


def test_norms_have_mean_zero_and_variance_one() -> None:
    sequence, _ = _inputs(VARIANTS[0])
    # Of the size of a fresh embedding too, whose variance is 8e-4.
    output = BehaviorTransformer(positions=None)(sequence * 0.03).numpy()
    np.testing.assert_allclose(output.mean(-1), np.zeros([4, 5]), atol=1e-5)
    np.testing.assert_allclose(output.var(-1), np.ones([4, 5]), atol=2e-2)


def test_dropout_in_training_only() -> None:
    tf.keras.utils.set_random_seed(1)
    sequence, mask = _inputs(VARIANTS[0])
    dropping = BehaviorTransformer(positions=None, dropout=0.5)
    dropping.build([None, None, 6])
    plain = BehaviorTransformer(positions=None)
    plain.build([None, None, 6])
    plain.set_weights([v.numpy() for v in dropping.trainable_weights])
    expected = plain(sequence, mask)
    np.testing.assert_array_equal(dropping(sequence, mask), expected)
    first = dropping(sequence, mask, training=True)
    second = dropping(sequence, mask, training=True)
    assert not np.allclose(first, expected, atol=1e-2)
    assert not np.allclose(first, second, atol=1e-2)
    np.testing.assert_array_equal(first.numpy()[~mask], np.zeros([11, 6]))


def test_the_number_of_weights() -> None:
    encode = BehaviorTransformer(blocks=2, max_length=7)
    encode.build([None, None, 6])
    block = 4 * 6 * 6 + (6 * 24 + 24) + (24 * 6 + 6) + 4 * 6
    assert encode.count_params() == 7 * 6 + 2 * block + 2 * 6
    encode = BehaviorTransformer(units=5, positions="time_gap")
    encode.build([None, None, 6])
    block = 4 * 6 * 6 + (6 * 5 + 5) + (5 * 6 + 6) + 4 * 6
    assert encode.count_params() == 33 * 6 + block + 2 * 6


def test_the_first_input_says_the_number_of_positions() -> None:
    encode = BehaviorTransformer()
    encode(tf.ones([2, 5, 4]))
    assert encode.position_vectors.shape == [5, 4]
    assert encode(tf.ones([2, 3, 4])).shape == [2, 3, 4]
    with pytest.raises(ValueError, match=r"vectors for 5 positions. Received: 6"):
        encode(tf.ones([2, 6, 4]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": 0}, r"`blocks`.*Received: 0"),
        ({"heads": 0}, r"`heads`.*Received: 0"),
        ({"units": 0}, r"`units`.*Received: 0"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\). Received: 1.0"),
        ({"positions": "sine"}, r"`positions` must be.*Received: 'sine'"),
        ({"max_length": 0}, r"`max_length`.*Received: 0"),
        (
            {"positions": None, "max_length": 9},
            r"`max_length` does nothing with positions=None.*Received: max_length=9",
        ),
        ({"gap_buckets": 0}, r"`gap_buckets`.*Received: 0"),
        (
            {"gap_buckets": 9},
            r"`gap_buckets` does nothing with positions='learned'.*gap_buckets=9",
        ),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BehaviorTransformer(**arguments)


def test_input_errors() -> None:
    with pytest.raises(ValueError, match=r"size 6, heads=4"):
        BehaviorTransformer(heads=4).build([None, 5, 6])
    with pytest.raises(ValueError, match=r"shape \[B, T, D\]. Received: shape"):
        BehaviorTransformer().build([None, 6])
    with pytest.raises(ValueError, match=r"known behaviour size"):
        BehaviorTransformer().build([None, 5, None])
    with pytest.raises(ValueError, match=r"T=None, max_length=None.*`max_length`"):
        BehaviorTransformer().build([None, None, 6])
    with pytest.raises(TypeError, match=r"must be bool.*Received: dtype float32"):
        BehaviorTransformer()(tf.ones([2, 5, 6]), tf.ones([2, 5]))
    with pytest.raises(ValueError, match=r"gaps=\(2, 5\), positions='learned'"):
        BehaviorTransformer()(tf.ones([2, 5, 6]), gaps=tf.ones([2, 5]))
    with pytest.raises(ValueError, match=r"gaps=None, positions='time_gap'"):
        BehaviorTransformer(positions="time_gap")(tf.ones([2, 5, 6]))
