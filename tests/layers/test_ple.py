"""Values of progressive layered extraction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.layers import PLE, MMoE

TASKS = ("click", "click_buy")


def _set(branch: dict[str, Any], factors: list[float], gate: Any = None) -> None:
    """Makes linear experts of a branch: each its input times a factor."""
    (layer,) = branch["experts"]
    layer["kernel"].assign([factors])
    if gate is not None:
        branch["gate"].assign([gate])


def _linear(levels: int, own: int = 1) -> PLE:
    """Makes an extraction of numbers without activation."""
    mixture = PLE(TASKS, 1, own, levels, units=[1], activation=None)
    mixture.build([None, 1])
    return mixture


def test_one_level_by_hand() -> None:
    mixture = _linear(levels=1, own=2)
    click, buy, shared = mixture.branches[0]
    # At x = 1 the gates are (1, 2, 5) / 8 and (1, 1, 2) / 4.
    _set(click, [1, 10], np.log([1, 2, 5]))
    _set(buy, [3, 5], np.log([1, 1, 2]))
    _set(shared, [100])
    assert "gate" not in shared
    outputs = mixture(tf.constant([[1.0]]))
    # (1 + 20 + 500) / 8 and (3 + 5 + 200) / 4
    np.testing.assert_allclose(outputs["click"], [[65.125]], rtol=1e-5)
    np.testing.assert_allclose(outputs["click_buy"], [[52.0]], rtol=1e-5)
    (gates,) = mixture.gates(tf.constant([[1.0]]))
    np.testing.assert_allclose(gates.tasks["click"], [[0.125, 0.25, 0.625]], rtol=1e-5)
    np.testing.assert_allclose(gates.tasks["click_buy"], [[0.25, 0.25, 0.5]], rtol=1e-5)
    assert gates.shared is None


def test_two_levels_by_hand() -> None:
    mixture = _linear(levels=2)
    click, buy, shared = mixture.branches[0]
    _set(click, [1], np.log([1, 1]))
    _set(buy, [4], np.log([1, 3]))
    _set(shared, [8], np.log([1, 2, 1]))  # it sees the experts of both tasks too
    # x = 1: click (1 + 8) / 2 = 4.5, buy (4 + 24) / 4 = 7, shared (1 + 8 + 8) / 4.
    click, buy, shared = mixture.branches[1]
    _set(click, [2], [0, 0])
    _set(buy, [3], [0, 0])
    _set(shared, [4])
    # The shared expert reads its own branch: 4 * 4.25 = 17.
    outputs = mixture(tf.constant([[1.0]]))
    np.testing.assert_allclose(outputs["click"], [[13.0]], rtol=1e-5)  # (9 + 17) / 2
    np.testing.assert_allclose(outputs["click_buy"], [[19.0]], rtol=1e-5)  # (21 + 17)/2
    first, last = mixture.gates(tf.constant([[1.0]]))
    np.testing.assert_allclose(first.shared, [[0.25, 0.5, 0.25]], rtol=1e-5)
    assert last.shared is None


def _expert(row: np.ndarray, layers: list[dict[str, Any]], k: int) -> np.ndarray:
    for number, layer in enumerate(layers):
        kernel, bias = layer["kernel"].numpy(), layer["bias"].numpy()
        unit = bias.shape[1]
        kernel = kernel[k] if number else kernel[:, k * unit : (k + 1) * unit]
        row = np.tanh(row @ kernel + bias[k])
    return row


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("lead", [(4,), (2, 3)])
def test_it_equals_a_loop(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    tasks, own, shared = ("a", "b", "ab"), 2, 3
    inputs = rng.normal(size=(*lead, 4)).astype("float32")
    mixture = PLE(tasks, shared, own, 3, [5, 3], activation="tanh")
    mixture.build(inputs.shape)
    mixture.set_weights([rng.normal(size=w.shape) for w in mixture.weights])
    outputs, gates = mixture(inputs), mixture.gates(inputs)

    for place in np.ndindex(*lead):
        now = {branch: inputs[place].astype("float64") for branch in (*tasks, "s")}
        for level, branches in enumerate(mixture.branches):
            named = dict(zip((*tasks, "s"), branches, strict=True))
            made = {
                name: [
                    _expert(now[name], branch["experts"], k)
                    for k in range(shared if name == "s" else own)
                ]
                for name, branch in named.items()
            }
            following = {}
            for name, branch in named.items():
                if "gate" not in branch:
                    assert (name, level) == ("s", 2)
                    continue
                weights = _softmax(now[name] @ branch["gate"].numpy())
                if name == "s":
                    seen = [*made["a"], *made["b"], *made["ab"], *made["s"]]
                    got = gates[level].shared[place]
                else:
                    seen = [*made[name], *made["s"]]
                    got = gates[level].tasks[name][place]
                np.testing.assert_allclose(got, weights, rtol=1e-4)
                following[name] = sum(w * e for w, e in zip(weights, seen, strict=True))
            now = following
        for task in tasks:
            np.testing.assert_allclose(
                outputs[task][place], now[task], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(("levels", "reached"), [(1, False), (2, True)])
def test_whom_a_task_teaches(levels: int, reached: bool) -> None:
    rows = np.random.default_rng(0).normal(size=[8, 3]).astype("float32")
    mixture = PLE(TASKS, 2, 1, levels, [4, 2], activation="tanh")
    mixture(rows)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(mixture(rows)["click"])
    gradients = dict(
        zip(
            (w.name for w in mixture.weights),
            tape.gradient(loss, mixture.weights),
            strict=True,
        )
    )

    def taught(experts: list[dict[str, tf.Variable]]) -> set[bool]:
        found = [gradients[w.name] for layer in experts for w in layer.values()]
        return {g is not None and bool(np.any(g)) for g in found}

    for level, (click, buy, shared) in enumerate(mixture.branches):
        assert taught(click["experts"]) == taught(shared["experts"]) == {True}
        # Below the last level, the shared gate reads the other task's experts.
        below = reached and level < levels - 1
        assert taught(buy["experts"]) == {below}
        assert gradients[buy["gate"].name] is None


def test_gates_that_shut_out_own_experts_leave_an_mmoe() -> None:
    rng = np.random.default_rng(0)
    # A last column of ones lets a gate have a constant logit.
    rows = np.c_[rng.normal(size=[5, 3]), np.ones(5)].astype("float32")
    extraction = PLE(TASKS, shared=3, own=1, levels=1, units=[4, 2])
    mixture = MMoE(TASKS, experts=3, units=[4, 2])
    extraction(rows), mixture(rows)
    gates = rng.normal(size=[2, 4, 3])
    for branch, gate in zip(extraction.branches[0], gates, strict=False):
        shut = np.array([[0], [0], [0], [-1e4]])
        branch["gate"].assign(np.concatenate([shut, gate], axis=1))
    shared = extraction.branches[0][2]["experts"]
    weights = [w.numpy() for layer in shared for w in layer.values()]
    mixture.set_weights([*weights, np.concatenate(list(gates), axis=1)])
    for task in TASKS:
        assert np.any(mixture(rows)[task])
        np.testing.assert_allclose(
            extraction(rows)[task], mixture(rows)[task], rtol=1e-5, atol=1e-6
        )


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 4),
    shared=st.integers(1, 3),
    own=st.integers(1, 3),
    levels=st.integers(1, 3),
    scale=st.floats(0, 1e3),
)
def test_gates_add_up_to_one_and_see_the_right_number(
    rows: int, shared: int, own: int, levels: int, scale: float
) -> None:
    rng = np.random.default_rng(0)
    inputs = (scale * rng.normal(size=[rows, 3])).astype("float32")
    mixture = PLE(TASKS, shared, own, levels, [2])
    assert all(np.isfinite(v).all() for v in mixture(inputs).values())
    gates = mixture.gates(inputs)
    assert len(gates) == levels
    for level in gates:
        for gate in level.tasks.values():
            assert gate.shape == [rows, own + shared]
            np.testing.assert_allclose(np.sum(gate, axis=-1), 1, rtol=1e-5)
    for level in gates[:-1]:
        assert level.shared.shape == [rows, 2 * own + shared]
        np.testing.assert_allclose(np.sum(level.shared, axis=-1), 1, rtol=1e-5)


def test_the_order_of_tasks_changes_names_only() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4, 3]).astype("float32")
    one, other = (PLE(tasks, 1, 2, 1, [3]) for tasks in (TASKS, TASKS[::-1]))
    one(rows), other(rows)
    for branch, same in zip(
        one.branches[0], [other.branches[0][i] for i in (1, 0, 2)], strict=True
    ):
        for here, there in zip(
            tf.nest.flatten(branch), tf.nest.flatten(same), strict=True
        ):
            there.assign(here)
    for task in TASKS:
        np.testing.assert_array_equal(one(rows)[task], other(rows)[task])


def test_kernels_start_as_they_would_alone() -> None:
    tf.keras.utils.set_random_seed(0)
    mixture = PLE(TASKS, 4, 4, 2, [64, 32])
    mixture.build([None, 128])
    for level, size in ((0, 128), (1, 32)):
        for branch in mixture.branches[level]:
            first, second = (layer["kernel"].numpy() for layer in branch["experts"])
            assert np.var(first) == pytest.approx(2 / (size + 64), rel=0.1)
            assert np.var(second) == pytest.approx(2 / (64 + 32), rel=0.1)
    gate = mixture.branches[0][2]["gate"].numpy()
    assert gate.shape == (128, 12)
    assert np.var(gate) == pytest.approx(2 / (128 + 12), rel=0.1)
    kernels = np.concatenate(
        [w.numpy().ravel() for w in mixture.weights if "bias" not in w.name]
    )
    assert len(np.unique(kernels)) > 0.9 * kernels.size


def test_no_rows() -> None:
    outputs = PLE(TASKS, 1, 1, 2, [3])(tf.zeros([0, 5]))
    assert [tuple(outputs[task].shape) for task in TASKS] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("a", "a")}, r"`tasks`.*Received: \('a', 'a'\)"),
        ({"shared": 0}, "`shared`.*Received: 0"),
        ({"own": 0}, "`own`.*Received: 0"),
        ({"levels": 0}, "`levels`.*Received: 0"),
        ({"levels": 1.5}, r"`levels`.*Received: 1\.5"),
        ({"units": ()}, r"`units`.*Received: \(\)"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments = {"tasks": TASKS, "shared": 1, "own": 1, "levels": 1, "units": [4]}
    with pytest.raises(ValueError, match=message):
        PLE(**{**arguments, **change})


def test_gates_need_weights() -> None:
    with pytest.raises(ValueError, match=r"no weights yet.*\(2, 3\)"):
        PLE(TASKS, 1, 1, 1, [4]).gates(tf.zeros([2, 3]))
