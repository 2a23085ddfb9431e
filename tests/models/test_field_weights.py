"""How much the gates let fields count, over a dataset."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import Categorical, Numeric, PreRanker, Schema, Task, Tower
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.towers import Gate

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


def test_errors() -> None:
    with pytest.raises(ConfigurationError, match="no tower has a gate"):
        PreRanker(SCHEMA).field_weights([])
    gated = PreRanker(SCHEMA, doc_tower=Tower(gate="light_se"))
    with pytest.raises(ValueError, match="the dataset has no documents"):
        gated.field_weights([])
