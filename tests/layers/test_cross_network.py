"""Values of the cross networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import CrossNetwork

ROWS = np.array([[1.0, 2.0]], "float32")


def _network(weights: list, size: int = 2, **kwargs: Any) -> CrossNetwork:
    network = CrossNetwork(**kwargs)
    network.build([None, size])
    network.set_weights([np.array(w) for w in weights])
    return network


def test_v1_by_hand() -> None:
    network = _network([[3.0, 1.0], [0.0, 10.0], [1.0, -1.0], [1.0, 0.0]], depth=2)
    # Layer 1: x . w = 3 + 2 = 5, x1 = 5 [1, 2] + [0, 10] + [1, 2] = [6, 22].
    # Layer 2: x1 . w = 6 - 22 = -16, x2 = -16 [1, 2] + [1, 0] + [6, 22] = [-9, -10].
    np.testing.assert_allclose(network(ROWS), [[-9.0, -10.0]])


def test_v2_by_hand() -> None:
    # x K + b = [1 * 1 + 2 * 0 + 1, 1 * -1 + 2 * 3 + 0] = [2, 5]; the output is
    # [1, 2] * [2, 5] + [1, 2] = [3, 12].
    network = _network([[[1.0, -1.0], [0.0, 3.0]], [1.0, 0.0]], depth=1, version="v2")
    np.testing.assert_allclose(network(ROWS), [[3.0, 12.0]])


def test_low_rank_equals_the_full_product() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4, 6]).astype("float32")
    down, up, bias = (rng.normal(size=s) for s in ([6, 2], [2, 6], [6]))
    low = _network([down, up, bias], 6, depth=1, version="v2", rank=2)
    full = _network([down @ up, bias], 6, depth=1, version="v2")
    np.testing.assert_allclose(low(rows), full(rows), rtol=1e-4, atol=1e-5)


def test_a_rank_as_large_as_the_rows_equals_a_full_kernel() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4, 5]).astype("float32")
    kernels, biases = rng.normal(size=[2, 5, 5]), rng.normal(size=[2, 5])
    full = [kernels[0], biases[0], kernels[1], biases[1]]
    low = []
    for kernel, bias in zip(kernels, biases, strict=True):
        left, values, right = np.linalg.svd(kernel)
        low += [left * values, right, bias]
    np.testing.assert_allclose(
        _network(low, 5, depth=2, version="v2", rank=5)(rows),
        _network(full, 5, depth=2, version="v2")(rows),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("experts", [2, 4])
def test_equal_experts_equal_one(experts: int) -> None:
    rng = np.random.default_rng(0)
    size, rank = 5, 2
    rows = rng.normal(size=[4, size]).astype("float32")
    down, inner, up, bias = (
        rng.normal(size=s) for s in ([size, rank], [rank, rank], [rank, size], [size])
    )
    gate = rng.normal(size=[size, experts])  # whatever the gates are, they add up to 1
    network = _network(
        [
            np.tile(down, [1, experts]),
            np.tile(inner, [1, experts]),
            np.tile(up, [experts, 1]),
            gate,
            bias,
        ],
        size,
        depth=1,
        version="v2",
        rank=rank,
        experts=experts,
    )
    hidden = np.tanh(np.tanh(rows @ down) @ inner)
    expected = rows * (hidden @ up + bias) + rows
    np.testing.assert_allclose(network(rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_gate_that_is_sure_leaves_one_expert(dtype: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.abs(rng.normal(size=[4, 3])).astype("float32") + 3
    network = CrossNetwork(1, version="v2", rank=2, experts=2, dtype=dtype)
    network.build(rows.shape)
    down, inner, up = (rng.normal(size=w.shape) for w in network.weights[:3])
    # Logits of (1e4 x, 0), 9e4 and more: far beyond what exp holds, and float16 too.
    gate = np.array([[1e4, 0.0]] * 3)
    network.set_weights([down, inner, up, gate, np.zeros(3)])
    hidden = np.tanh(np.tanh(rows @ down[:, :2]) @ inner[:, :2])
    expected = rows * (hidden @ up[:2]) + rows
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.02}
    np.testing.assert_allclose(network(rows), expected, **close)
    with tf.GradientTape() as tape:
        output = network(rows)
    for gradient in tape.gradient(output, network.weights):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("kwargs", "name", "variance"),
    [
        ({}, "kernel", 2 / (400 + 1)),
        ({"version": "v2"}, "kernel", 2 / (400 + 400)),
        # Four experts lie side by side, and each starts as if it were alone.
        ({"version": "v2", "rank": 32, "experts": 4}, "down", 2 / (400 + 32)),
        ({"version": "v2", "rank": 32, "experts": 4}, "inner", 2 / (32 + 32)),
        ({"version": "v2", "rank": 32, "experts": 4}, "up", 2 / (32 + 400)),
        # Each of 32 products of the two factors has the variance s^4, and all of them
        # that of a full kernel: 32 s^4 = 2 / 800.
        ({"version": "v2", "rank": 32}, "up", (2 / 800 / 32) ** 0.5),
    ],
)
def test_initial_kernels_have_the_variance_of_glorot(
    kwargs: dict[str, Any], name: str, variance: float
) -> None:
    tf.keras.utils.set_random_seed(0)
    network = CrossNetwork(2, **kwargs)
    network.build([None, 400])
    drawn = np.concatenate([np.ravel(layer[name]) for layer in network.kernels])
    # A uniform number's variance is known to .9 / sqrt(n): 3% of 800 numbers.
    assert np.var(drawn) == pytest.approx(variance, rel=0.1)
    # An initialiser that is used twice draws the same numbers; few agree by chance.
    every = [
        np.ravel(w)
        for layer in network.kernels
        for n, w in layer.items()
        if n != "bias"
    ]
    assert len(np.unique(np.concatenate(every))) > 0.9 * sum(map(len, every))


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        ({}, 2 * 12),
        ({"version": "v2"}, 12 * 12 + 12),
        ({"version": "v2", "rank": 3}, 2 * 12 * 3 + 12),
        (
            {"version": "v2", "rank": 3, "experts": 4},
            4 * (2 * 12 * 3 + 3 * 3 + 12) + 12,
        ),
    ],
)
def test_numbers_of_parameters(kwargs: dict[str, Any], count: int) -> None:
    network = CrossNetwork(3, **kwargs)
    network.build([None, 12])
    assert network.count_params() == 3 * count


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_long_rows_add_up_in_float32(version: str) -> None:
    # 4,096 products of 1/16 * 1: one after the other in float16, the sum would stop
    # at 128.
    size = 4096
    network = CrossNetwork(1, version=version, dtype="mixed_float16")
    network.build([None, size])
    shapes = [tuple(w.shape) for w in network.weights]
    network.set_weights([np.full(shapes[0], 1 / 16), np.zeros(size)])
    # x0 * 256 + x
    np.testing.assert_array_equal(network(np.ones([1, size])), np.full([1, size], 257))


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"version": "v2"},
        {"version": "v2", "rank": 2},
        {"version": "v2", "rank": 2, "experts": 3},
    ],
)
def test_rows_of_zeros_stay_zero(kwargs: dict[str, Any]) -> None:
    network = CrossNetwork(2, **kwargs)
    rows = tf.zeros([2, 4])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        output = network(rows)
    gradients = tape.gradient(output, [rows, *network.weights])
    assert not np.any(output)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_mixture_equals_a_loop_over_experts() -> None:
    rng = np.random.default_rng(0)
    size, rank, experts = 5, 2, 3
    rows = rng.normal(size=[4, size]).astype("float32")
    network = CrossNetwork(2, version="v2", rank=rank, experts=experts)
    network.build(rows.shape)
    weights = [rng.normal(size=w.shape) for w in network.weights]
    network.set_weights(weights)

    x = rows.astype("float64")
    for down, inner, up, gate, bias in (weights[:5], weights[5:]):
        crossed = np.zeros_like(x)
        for b in range(len(x)):
            logits = x[b] @ gate
            shares = np.exp(logits) / np.exp(logits).sum()
            for k in range(experts):
                part = slice(k * rank, (k + 1) * rank)
                hidden = np.tanh(np.tanh(x[b] @ down[:, part]) @ inner[:, part])
                # The paper's expert, bias included: the gates add up to 1.
                expert = rows[b] * (hidden @ up[part] + bias)
                crossed[b] += shares[k] * expert
        x = crossed + x
    np.testing.assert_allclose(network(rows), x, rtol=1e-4, atol=1e-4)


def test_v1_without_bias_stays_parallel_to_its_input() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4, 3]).astype("float32")
    network = CrossNetwork(3)
    ratio = network(rows) / rows  # biases start at 0
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(3), rtol=1e-4)
    # Eq. 14: the factor of a layer is (factor before) * (x0 . w + 1).
    factor = np.prod([rows @ k["kernel"].numpy() + 1 for k in network.kernels], axis=0)
    np.testing.assert_allclose(ratio[:, 0], factor, rtol=1e-4)

    network.kernels[0]["bias"].assign([1.0, 0.0, 0.0])
    ratio = network(rows) / rows
    assert not np.allclose(ratio, ratio[:, :1] * np.ones(3), rtol=1e-2)


def test_v1_is_v2_with_a_kernel_of_equal_columns() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4, 3]).astype("float32")
    first, second = rng.normal(size=[2, 3])
    zeros, ones = np.zeros(3), np.ones(3)
    v1 = _network([first, zeros, second, zeros], 3, depth=2)
    v2 = _network(
        [np.outer(first, ones), zeros, np.outer(second, ones), zeros],
        3,
        depth=2,
        version="v2",
    )
    np.testing.assert_allclose(v1(rows), v2(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_zero_weights_change_nothing(version: str) -> None:
    network = CrossNetwork(2, version=version)
    network.build([None, 2])
    network.set_weights([np.zeros(w.shape) for w in network.weights])
    np.testing.assert_array_equal(network(ROWS), ROWS)


def test_v1_makes_no_square_matrix() -> None:
    network = CrossNetwork(1)
    network.build([None, 7])
    spec = tf.TensorSpec([2, 7], tf.float32)
    graph = tf.function(network).get_concrete_function(spec).graph
    sizes = [
        t.shape.num_elements() for op in graph.get_operations() for t in op.outputs
    ]
    assert max(size for size in sizes if size) <= 2 * 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 0}, "`depth`.*Received: 0"),
        ({"depth": 1.5}, r"`depth`.*Received: 1\.5"),
        ({"depth": 1, "version": "v3"}, "`version`.*Received: 'v3'"),
        ({"depth": 1, "version": "v2", "rank": 0}, "`rank`.*Received: 0"),
        ({"depth": 1, "rank": 2}, "version 'v2'.*rank=2"),
        ({"depth": 1, "experts": 2}, "version 'v2'.*experts=2"),
        ({"depth": 1, "version": "v2", "experts": 2}, "needs a `rank`.*experts=2"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossNetwork(**kwargs)


def test_build_errors() -> None:
    with pytest.raises(ValueError, match=r"row size 4\. Received: 5"):
        CrossNetwork(1, version="v2", rank=5).build([None, 4])
    with pytest.raises(ValueError, match=r"flatten the fields first"):
        CrossNetwork(1).build([None, 3, 4])
    with pytest.raises(ValueError, match=r"known row size"):
        CrossNetwork(1).build([None, None])
