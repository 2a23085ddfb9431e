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
