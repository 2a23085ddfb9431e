"""Padding takes no part; every tower sees the rows that it should."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import (
    Arrays,
    assert_same_state,
    dataset,
    padded,
    random_requests,
    small_model,
    small_schema,
    state_of,
    steady_adam,
    take,
)
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.metrics import GAUC, NDCG
from tfrs_prerank.towers import TowerModel

TASKS = ("click", "like")


def train(*epochs: Arrays) -> tuple[tp.PreRanker, list[dict[str, list[float]]]]:
    objective = tp.Objective(
        (
            tp.Term("click", stages=("exposed", "ranked")),
            tp.Term("like", "softmax_cross_entropy"),
            tp.Term("click", "in_batch_softmax"),
        )
    )
    schema = small_schema(TASKS, l2=1e-2)
    model = small_model(schema, normalization="batch", objective=objective)
    model.compile(steady_adam(), metrics=[NDCG(3), GAUC()])
    return model, [model.fit(dataset(a, 4), verbose=0).history for a in epochs]


def test_padding_changes_no_weight_statistic_loss_or_metric() -> None:
    arrays = random_requests(12, 4, TASKS, weights=True)
    garbage = padded(arrays, 3, garbage=True)
    model, history = train(arrays, arrays)
    other, of_other = train(padded(arrays, 3), garbage)
    before = state_of(small_model(small_schema(TASKS), normalization="batch"))
    after = state_of(model)
    for name, value in before.items():
        if "moving" in name or "embeddings" in name:
            assert not np.allclose(value, after[name], atol=1e-4), name
    assert_same_state(after, state_of(other), 1e-6)
    for logs, of_padded in zip(history, of_other, strict=True):
        assert logs.keys() == of_padded.keys()
        for name, values in logs.items():
            np.testing.assert_allclose(
                values, of_padded[name], rtol=1e-5, atol=1e-7, err_msg=name
            )
    scores = model(take(arrays, 0, 12))["scores"]
    with_padding = other(take(garbage, 0, 12))["scores"]
    np.testing.assert_allclose(scores, with_padding[:, :4], atol=1e-5)
    np.testing.assert_array_equal(with_padding[~garbage["mask"]], 0.0)


def test_moving_statistics_are_those_of_real_documents() -> None:
    arrays = padded(random_requests(6, 4), 4)
    model = small_model(normalization="batch")
    inputs = []
    dense = model.network.doc_tower.mlp.layers[0]
    original = dense.call

    def record(x: tf.Tensor) -> tf.Tensor:
        output = original(x)
        if tf.executing_eagerly():
            inputs.append(output.numpy())
        return output

    dense.call = record
    model.compile(run_eagerly=True)
    model.train_on_batch(take(arrays, 0, 6))
    rows = np.concatenate(inputs)
    assert len(rows) == arrays["mask"].sum() < arrays["mask"].size
    norm = model.network.doc_tower.mlp.layers[1]
    # Keras' momentum is 0.99: 0.99 * 0 + 0.01 mean, 0.99 * 1 + 0.01 variance.
    np.testing.assert_allclose(norm.moving_mean, 0.01 * rows.mean(0), atol=1e-7)
    np.testing.assert_allclose(
        norm.moving_variance, 0.99 + 0.01 * rows.var(0), atol=1e-6
    )


@pytest.mark.parametrize("distinct", [False, True])
def test_towers_run_on_requests_and_on_real_documents(
    monkeypatch: pytest.MonkeyPatch, distinct: bool
) -> None:
    arrays = padded(random_requests(6, 4), 2)
    model = small_model(distinct_documents=distinct)
    rows: dict[str, list[int]] = {}
    original = TowerModel.call

    def record(self: TowerModel, columns: dict, training: bool = False) -> tf.Tensor:
        output = original(self, columns, training)
        rows.setdefault(self.name, []).append(int(tf.shape(output.outputs)[0]))
        return output

    monkeypatch.setattr(TowerModel, "call", record)
    model.compile(run_eagerly=True)
    model.train_on_batch(take(arrays, 0, 6))
    valid = int(arrays["mask"].sum())
    documents = len(set(arrays["doc_ids"][arrays["mask"]]))
    assert documents < valid < 36
    assert rows == {
        "query_tower": [6],
        "doc_tower": [documents if distinct else valid],
        "cross_tower": [valid],
    }


def test_encoding_distinct_documents_changes_no_gradient() -> None:
    arrays = random_requests(12, 4, TASKS)
    states = []
    for distinct in (False, True):
        model = small_model(
            small_schema(TASKS), normalization="layer", distinct_documents=distinct
        )
        model.compile(tf.keras.optimizers.SGD(0.1))
        model.fit(dataset(arrays, 4), verbose=0)
        states.append(state_of(model))
    assert_same_state(*states, tolerance=1e-6)
    start = state_of(small_model(small_schema(TASKS), normalization="layer"))
    table = "0 embeddings:0"
    assert not np.allclose(states[0][table], start[table], atol=1e-4)


def test_distinct_documents_refuse_point_in_time_columns() -> None:
    schema = tp.Schema(
        features=[
            tp.Categorical("user_id", "query", buckets=5),
            tp.Numeric("clicks", "doc", point_in_time=True),
        ],
        tasks=[tp.Task("click")],
    )
    with pytest.raises(ConfigurationError, match="distinct_documents=True: 'clicks'"):
        tp.PreRanker(schema, distinct_documents=True)


def test_a_batch_without_a_real_document_changes_nothing() -> None:
    arrays = random_requests(4, 3)
    arrays["mask"][:] = False
    model = small_model()
    model.compile(tf.keras.optimizers.SGD(0.1))
    before = state_of(model)
    with pytest.warns(UserWarning, match="loss is left out"):
        history = model.fit(dataset(arrays, 4), verbose=0).history
    assert history == {}
    assert_same_state(before, state_of(model), 0.0)
