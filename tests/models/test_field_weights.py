"""How much gates let fields and experts count, over a dataset."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import Categorical, Numeric, PreRanker, Schema, Task, Tower
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.towers import Experts, Gate

SCHEMA = Schema(
    [
        Categorical("user_id", "query", buckets=3),
        Numeric("a", "doc"),
        Numeric("b", "doc"),
    ],
    [Task("click")],
)


def batch(a: list[list[float]], mask: list[list[bool]]) -> dict[str, tf.Tensor]:
    return {
        "user_id": tf.constant(["u"] * len(a)),
        "a": tf.constant(a),
        "b": tf.constant(a) * 0,
        "doc_ids": tf.fill([len(a), len(a[0])], "d"),
        "mask": tf.constant(mask),
    }


def test_means_are_over_real_documents_of_all_batches() -> None:
    model = PreRanker(SCHEMA, doc_tower=Tower(gate=Gate("senet", reduction=2)))
    tower = model.network.doc_tower
    tower.fields.encoders["a"].kernel.assign(tf.ones([16]))
    # Field means are a and 0: relu(a), and the weights sigmoid(a) and sigmoid(-a).
    tower.gate.set_weights([np.array([[1.0], [0.0]]), np.array([[1.0, -1.0]])])
    batches = [
        batch([[0.0, 9.0], [1.0, 2.0]], [[True, False], [True, True]]),
        batch([[3.0]], [[True]]),
    ]
    weights = model.field_weights(batches)
    expected = np.mean(1 / (1 + np.exp(-np.array([0.0, 1.0, 2.0, 3.0]))))
    assert list(weights) == ["doc"]
    np.testing.assert_allclose(weights["doc"]["a"], expected, rtol=1e-6)
    np.testing.assert_allclose(weights["doc"]["b"], 1 - expected, rtol=1e-6)


def test_mean_gates_of_experts_by_task_and_by_level() -> None:
    model = PreRanker(
        Schema(SCHEMA.features, [Task("click"), Task("buy")]),
        Tower(experts="ple"),
        Tower(units=(), experts=Experts("mmoe", count=2)),
    )
    tower = model.network.doc_tower
    tower.fields.encoders["a"].kernel.assign(tf.eye(1, 16)[0])
    # The first number of the fields is a: click's logits are a and 0.
    logits = np.zeros([32, 4])
    logits[0, 0] = 1
    tower.experts.gate.assign(logits)
    batches = [
        batch([[0.0, 9.0], [1.0, 2.0]], [[True, False], [True, True]]),
        batch([[3.0]], [[True]]),
    ]
    gates = model.expert_gates(batches)
    expected = np.mean(1 / (1 + np.exp(-np.array([0.0, 1.0, 2.0, 3.0]))))
    np.testing.assert_allclose(
        gates["doc"]["click"], [expected, 1 - expected], rtol=1e-6
    )
    np.testing.assert_allclose(gates["doc"]["buy"], [0.5, 0.5], rtol=1e-6)
    first, last = gates["query"]
    assert first.tasks["click"].shape == (2,)
    assert first.shared.shape == (3,)
    assert last.shared is None
    np.testing.assert_allclose(first.shared.sum(), 1, rtol=1e-6)


def test_errors() -> None:
    with pytest.raises(ConfigurationError, match="no tower has a gate"):
        PreRanker(SCHEMA).field_weights([])
    with pytest.raises(ConfigurationError, match="no tower has experts"):
        PreRanker(SCHEMA).expert_gates([])
    gated = PreRanker(SCHEMA, doc_tower=Tower(gate="light_se"))
    with pytest.raises(ValueError, match="the dataset has no documents"):
        gated.field_weights([])
