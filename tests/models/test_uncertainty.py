"""Weights learned from uncertainty, in a model: trained, logged, kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import (
    dataset,
    random_requests,
    small_model,
    small_schema,
    steady_adam,
)
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping

TASKS = ("click", "like")
NAMES = ["click/sigmoid_cross_entropy", "like/softmax_cross_entropy"]
TERMS = (tp.Term("click", weight=0.5), tp.Term("like", "softmax_cross_entropy"))
LEARNED = tp.Objective(TERMS, weighting="uncertainty")


def model_of(objective: tp.Objective = LEARNED, optimizer: Any = None) -> tp.PreRanker:
    model = small_model(small_schema(TASKS), scorer="dot", objective=objective)
    model.compile(optimizer or steady_adam(0.05))
    return model


def variances(model: tp.PreRanker) -> np.ndarray:
    return np.exp(model.uncertainty.log_variances.numpy())


def test_one_step_is_that_of_the_formula() -> None:
    requests = random_requests(8, 5, TASKS)
    optimizer = tf.keras.optimizers.SGD(1.0)
    model = model_of(optimizer=optimizer)
    means = model_of(tp.Objective(TERMS)).evaluate(
        dataset(requests, 8), return_dict=True, verbose=0
    )
    model.fit(dataset(requests, 8), verbose=0)
    # At s = 0 the gradient is weight (1/2 - mean).
    expected = [-0.5 * (0.5 - means[NAMES[0]]), -(0.5 - means[NAMES[1]])]
    np.testing.assert_allclose(model.uncertainty.log_variances, expected, rtol=1e-4)


def test_network_moves_as_with_the_fixed_weights_that_the_variances_make() -> None:
    requests = random_requests(8, 5, TASKS)
    model = model_of(optimizer=tf.keras.optimizers.SGD(0.1))
    model.uncertainty.log_variances.assign(np.log([4.0, 0.5]))
    fixed = tp.Objective(
        (tp.Term("click", weight=0.5 / 4), tp.Term("like", TERMS[1].loss, weight=2.0))
    )
    other = model_of(fixed, tf.keras.optimizers.SGD(0.1))
    for each in (model, other):
        each.fit(dataset(requests, 8), verbose=0)
    for one, two in zip(model.network.weights, other.network.weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_logs_hold_variances_and_the_value_that_is_minimised() -> None:
    requests = random_requests(16, 5, TASKS)
    model = model_of()
    logs = model.fit(dataset(requests, 8), epochs=3, verbose=0).history
    of_variances = [f"{name}/uncertainty" for name in NAMES]
    assert list(logs) == ["loss", *NAMES, *of_variances]
    last = model.evaluate(dataset(requests, 8), return_dict=True, verbose=0)
    now = variances(model)
    np.testing.assert_allclose([last[n] for n in of_variances], now, rtol=1e-6)
    np.testing.assert_allclose([logs[n][-1] for n in of_variances], now, rtol=1e-6)
    assert (np.abs(now - 1) > 0.01).all()
    means = np.array([last[name] for name in NAMES])
    expected = [0.5, 1.0] @ (means / now + np.log(now) / 2)
    np.testing.assert_allclose(last["loss"], expected, rtol=1e-5)


def test_a_task_without_labels_keeps_its_variance() -> None:
    requests = random_requests(16, 5, TASKS)
    model = model_of()
    model.fit(dataset(requests, 8), epochs=2, verbose=0)
    before = variances(model)
    requests["label/like"] = np.full_like(requests["label/like"], np.nan)
    with pytest.warns(UserWarning, match="like/softmax"):
        logs = model.fit(dataset(requests, 8), verbose=0).history
    after = variances(model)
    assert after[1] == before[1]
    assert after[0] != before[0]
    # The value is that of the terms that are known.
    assert NAMES[1] not in logs
    assert np.isfinite(logs["loss"]).all()


def test_a_run_directory_keeps_them(tmp_path: Path) -> None:
    batches = dataset(random_requests(16, 5, TASKS), 8)
    model = model_of()
    model.fit(batches, verbose=0)
    model.save(tmp_path / "run")
    again = tp.PreRanker.load(tmp_path / "run")
    assert again.objective == LEARNED
    np.testing.assert_array_equal(variances(again), variances(model))
    # The optimiser's slots too: both go on alike.
    for each in (model, again):
        each.fit(batches, verbose=0)
    np.testing.assert_allclose(variances(again), variances(model), rtol=1e-6)


def test_weight_decay_leaves_them_alone() -> None:
    optimizer = tf.keras.optimizers.AdamW(1e-9, weight_decay=1e8)
    optimizer.exclude_from_weight_decay(var_names=["embeddings"])
    model = model_of(optimizer=optimizer)
    model.uncertainty.log_variances.assign([1.0, -1.0])
    bias = model.network.scorer.bias
    bias.assign([1.0, 1.0])
    table = model.network.tables["user_id"].embeddings.numpy()
    model.fit(dataset(random_requests(8, 5, TASKS), 8), verbose=0)
    np.testing.assert_allclose(model.uncertainty.log_variances, [1.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(model.network.tables["user_id"].embeddings, table, 1e-5)
    assert np.abs(bias.numpy() - 0.9).max() < 1e-5  # 1 - 1e-9 * 1e8


def test_they_are_float32_and_finite_under_mixed_precision() -> None:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = model_of()
        model.fit(dataset(random_requests(16, 5, TASKS), 8), epochs=2, verbose=0)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert model.uncertainty.log_variances.dtype == tf.float32
    assert np.isfinite(variances(model)).all()
    assert (variances(model) != 1).all()


def test_fixed_weights_have_no_variable() -> None:
    model = model_of(tp.Objective(TERMS))
    assert model.uncertainty is None
    assert not [v for v in model.trainable_variables if "variances" in v.name]


def test_the_declaration() -> None:
    written = to_mapping(LEARNED)
    assert written["weighting"] == "uncertainty"
    assert from_mapping(tp.Objective, written, "objective") == LEARNED
    with pytest.raises(ConfigurationError) as error:
        tp.Objective(TERMS, weighting="uncertain")
    assert str(error.value) == (
        "Objective.weighting: unknown 'uncertain'; did you mean 'uncertainty'?"
    )
