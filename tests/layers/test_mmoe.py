"""Values of the multi-gate mixture of experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.layers import MMoE

TASKS = ("click", "click_buy")


def _mixture(weights: list, size: int, *args: Any, **kwargs: Any) -> MMoE:
    mixture = MMoE(*args, **kwargs)
    mixture.build([None, size])
    mixture.set_weights([np.array(w, float) for w in weights])
    return mixture


def test_two_experts_and_two_gates_by_hand() -> None:
    mixture = _mixture(
        [
            [[1, 0, -1, 1], [0, 1, 0, 1]],  # experts (a, b) and (-a, a + b)
            [[0, 0], [5, -1]],
            # Logits of click: 0 and log 3 * a; of click_buy: 0 and 0.
            [[0, np.log(3), 0, 0], [0, 0, 0, 0]],
        ],
        2,
        TASKS,
        experts=2,
        units=[2],
    )
    # a = 1, b = 2: the experts give relu(1, 2) and relu(-1 + 5, 3 - 1) = (4, 2).
    outputs = mixture(tf.constant([[1.0, 2.0]]))
    # Gates 1/4 and 3/4: 1/4 + 3, 2/4 + 6/4.
    np.testing.assert_allclose(outputs["click"], [[3.25, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(outputs["click_buy"], [[2.5, 2.0]], rtol=1e-6)
    gates = mixture.gates(tf.constant([[1.0, 2.0]]))
    np.testing.assert_allclose(gates["click"], [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(gates["click_buy"], [[0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("lead", [(4,), (2, 3), (2, 1, 3)])
def test_it_equals_a_loop_over_rows_tasks_and_experts(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    size, experts, units = 5, 3, (4, 3, 2)
    inputs = rng.normal(size=(*lead, size)).astype("float32")
    mixture = MMoE(TASKS, experts, units, activation="tanh")
    mixture.build(inputs.shape)
    weights = [rng.normal(size=w.shape) for w in mixture.weights]
    mixture.set_weights(weights)
    outputs, gates = mixture(inputs), mixture.gates(inputs)
    *kernels, gate = weights

    for place in np.ndindex(*lead):
        row = inputs[place].astype("float64")
        made = []
        for k in range(experts):
            hidden = np.tanh(row @ kernels[0][:, 4 * k : 4 * k + 4] + kernels[1][k])
            for kernel, bias in (kernels[2:4], kernels[4:6]):
                hidden = np.tanh(hidden @ kernel[k] + bias[k])
            made.append(hidden)
        for t, task in enumerate(TASKS):
            logits = [row @ gate[:, t * experts + k] for k in range(experts)]
            shares = np.exp(logits) / np.exp(logits).sum()
            expected = sum(s * e for s, e in zip(shares, made, strict=True))
            np.testing.assert_allclose(
                outputs[task][place], expected, rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(gates[task][place], shares, rtol=1e-4)


def test_one_expert_is_an_mlp() -> None:
    rows = np.random.default_rng(0).normal(size=[6, 5]).astype("float32")
    mixture = MMoE(TASKS, 1, [4, 3])
    outputs = mixture(rows)
    kernel_0, bias_0, kernel_1, bias_1, _ = mixture.get_weights()
    mlp = tf.keras.Sequential(
        [tf.keras.layers.Dense(unit, activation="relu") for unit in (4, 3)]
    )
    mlp.build(rows.shape)
    mlp.set_weights([kernel_0, bias_0[0], kernel_1[0], bias_1[0]])
    assert np.any(mlp(rows))
    for task in TASKS:
        np.testing.assert_allclose(outputs[task], mlp(rows), rtol=1e-5, atol=1e-6)


def test_equal_experts_make_gates_idle() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4, 3]).astype("float32")
    kernel, bias = rng.normal(size=[3, 2]), rng.normal(size=2)
    gate = rng.normal(size=[3, 2 * 4])
    mixture = _mixture(
        [np.tile(kernel, [1, 4]), np.tile(bias, [4, 1]), gate], 3, TASKS, 4, [2]
    )
    expected = np.maximum(rows @ kernel + bias, 0)
    for vectors in mixture(rows).values():
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    experts=st.integers(1, 4),
    scale=st.floats(0, 1e3),
    seed=st.integers(0, 99),
)
def test_a_mixture_lies_between_its_experts(
    rows: int, experts: int, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs = (scale * rng.normal(size=[rows, 3])).astype("float32")
    mixture = MMoE(TASKS, experts, [2])
    outputs = mixture(inputs)
    kernel, bias, _ = mixture.get_weights()
    made = np.maximum(inputs @ kernel, 0).reshape(rows, experts, 2) + bias
    slack = 1e-4 * (1 + np.abs(made).max())
    for task, gates in mixture.gates(inputs).items():
        np.testing.assert_allclose(np.sum(gates, axis=-1), 1, rtol=1e-5)
        assert np.all(gates >= 0)
        assert np.all(outputs[task] >= made.min(axis=1) - slack)
        assert np.all(outputs[task] <= made.max(axis=1) + slack)


def test_a_task_changes_the_experts_but_no_other_gate() -> None:
    rows = np.random.default_rng(0).normal(size=[8, 3]).astype("float32")
    mixture = MMoE(TASKS, 3, [2], activation="tanh")
    mixture(rows)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(mixture(rows)["click"])
    kernel, bias, gate = tape.gradient(loss, mixture.weights)
    assert np.all(np.any(kernel, axis=0)) and np.all(bias)
    assert np.all(np.any(gate[:, :3], axis=0))
    assert not np.any(gate[:, 3:])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_gate_that_is_sure_leaves_one_expert(policy: str) -> None:
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    mixture = MMoE(["click"], 2, [1], dtype=policy)
    mixture.build(rows.shape)
    # Logits of 3e4 a and -3e4 a: far beyond what exp holds, and float16 too.
    weights = [[[1, 7], [1, 7]], [[0], [0]], [[3e4, -3e4], [0, 0]]]
    mixture.set_weights([np.array(w, float) for w in weights])
    with tf.GradientTape() as tape:
        outputs = mixture(rows)["click"]
    np.testing.assert_array_equal(outputs, [[3], [7]])
    gates = mixture.gates(rows)["click"]
    assert gates.dtype == tf.float32
    np.testing.assert_array_equal(gates, [[1, 0], [1, 0]])
    for gradient in tape.gradient(outputs, mixture.weights):
        assert np.isfinite(gradient).all()


def test_kernels_start_as_they_would_alone() -> None:
    tf.keras.utils.set_random_seed(0)
    mixture = MMoE(TASKS, 8, [64, 32])
    mixture.build([None, 128])
    first, _, second, _, gate = mixture.get_weights()
    for kernel, fans in ((first, 128 + 64), (second, 64 + 32), (gate, 128 + 8)):
        assert np.var(kernel) == pytest.approx(2 / fans, rel=0.1)
        # An initialiser that is used twice draws the same numbers; few agree by chance.
        assert len(np.unique(kernel)) > 0.9 * kernel.size


def test_no_rows() -> None:
    outputs = MMoE(TASKS, 2, [4, 3])(tf.zeros([0, 5]))
    assert {task: tuple(v.shape) for task, v in outputs.items()} == {
        "click": (0, 3),
        "click_buy": (0, 3),
    }


def test_the_graph_has_one_product_for_all_experts() -> None:
    def products(experts: int) -> int:
        mixture = MMoE(TASKS, experts, [4, 3])
        spec = tf.TensorSpec([None, 5], tf.float32)
        graph = tf.function(mixture).get_concrete_function(spec).graph
        return sum("MatMul" in op.type for op in graph.get_operations())

    # Two layers of experts, the gates, and the mixing.
    assert products(2) == products(16) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "click"}, r"`tasks`.*Received: 'click'"),
        ({"tasks": []}, r"`tasks`.*Received: \[\]"),
        ({"tasks": ["a", "a"]}, r"`tasks`.*Received: \['a', 'a'\]"),
        ({"tasks": ["a", ""]}, r"`tasks`.*Received: \['a', ''\]"),
        ({"experts": 0}, "`experts`.*Received: 0"),
        ({"units": []}, r"`units`.*Received: \[\]"),
        ({"units": 64}, "`units`.*Received: 64"),
        ({"units": [4, 0]}, "`units`.*Received: 0"),
        ({"activation": "rely"}, "rely"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMoE(**{"tasks": TASKS, "experts": 2, "units": [4], **change})


def test_shape_errors() -> None:
    mixture = MMoE(TASKS, 2, [4])
    with pytest.raises(ValueError, match=r"no weights yet.*\(2, 3\)"):
        mixture.gates(tf.zeros([2, 3]))
    with pytest.raises(ValueError, match=r"rows of shape \[\.\.\., d\].*\(3,\)"):
        mixture.build([3])
    with pytest.raises(ValueError, match="known row size"):
        mixture.build([None, None])
    mixture(tf.zeros([2, 3]))
    with pytest.raises(ValueError, match="axis -1"):
        mixture(tf.zeros([3, 2]))  # as many numbers, in rows of another size
