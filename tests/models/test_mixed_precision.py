"""Training in 16 bits, with scores, losses and weights in 32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import (
    dataset,
    random_requests,
    small_model,
    small_schema,
    take,
)

TASKS = ("click", "like")


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
def test_gradients_that_would_vanish_in_float16_are_scaled(policy: str) -> None:
    arrays = random_requests(16, 4)
    # A float16 holds nothing below 6e-8; the logits' gradients are below 1e-9.
    objective = tp.Objective((tp.Term("click", weight=1e-8),))
    moved, losses = [], []
    for scale in (1, 2**20):
        optimizer = tf.keras.mixed_precision.LossScaleOptimizer(
            tp.LazyAdam(0.05, epsilon=1e-15), dynamic=False, initial_scale=scale
        )
        model = small_model(scorer="dot", objective=objective)
        towers = [model.network.query_tower, model.network.doc_tower]
        before = [tower.get_weights() for tower in towers]
        model.compile(optimizer)
        history = model.fit(dataset(arrays, 16), epochs=12, verbose=0).history
        losses.append(history["click/sigmoid_cross_entropy"])
        moved.append(
            max(
                np.abs(new - old).max()
                for tower, weights in zip(towers, before, strict=True)
                for new, old in zip(tower.get_weights(), weights, strict=True)
            )
        )
    without, scaled = moved
    assert without == 0.0
    assert scaled > 0.1
    assert losses[1][-1] < losses[0][-1] - 0.05


@pytest.mark.parametrize(
    "policy",
    ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)],
    indirect=True,
)
def test_every_loss_trains_in_sixteen_bits(policy: str) -> None:
    objective = tp.Objective(
        (
            tp.Term("click"),
            tp.Term("like", "softmax_cross_entropy"),
            tp.Term("click", "in_batch_softmax", temperature=0.5),
        )
    )
    arrays = random_requests(16, 4, TASKS)
    model = small_model(
        small_schema(TASKS, l2=1e-3), normalization="batch", objective=objective
    )
    tower = model.network.doc_tower
    assert tower.mlp.layers[0].compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in model.network.weights} == {tf.float32}
    model.compile(tp.LazyAdam(0.02))
    scaled = isinstance(model.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    history = model.fit(dataset(arrays, 16), epochs=12, verbose=0).history
    assert np.isfinite(list(history.values())).all()
    for term in objective.terms:
        values = history[term.name]
        assert values[-1] < values[0], term.name
    outputs = model(take(arrays, 0, 16))
    assert {output.dtype for output in outputs.values()} == {tf.float32}
    assert all(np.isfinite(weight).all() for weight in model.network.get_weights())
