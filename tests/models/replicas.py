"""Trains on four logical CPUs and on one; see the fixture `on_replicas`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import (
    assert_same_state,
    dataset,
    random_requests,
    small_model,
    small_schema,
    state_of,
    steady_adam,
)
from tests.processes import four_replicas
from tfrs_prerank.metrics import GAUC, NDCG

TASKS = ("click", "like")


def model_of(
    normalization: str,
    *more: tp.Term,
    metrics: Sequence[Any] = (),
    weighting: Any = "fixed",
) -> tp.PreRanker:
    terms = (
        tp.Term("click", weight=0.5),
        tp.Term("click", "softmax_cross_entropy", stages=("exposed", "ranked")),
        tp.Term("like", "softmax_cross_entropy", weight=2.0),
    )
    model = small_model(
        small_schema(TASKS, l2=0.1, position=True),
        normalization=normalization,
        # The cosine of vectors near 0 has gradients near 1000, and rounding to match.
        scorer="dot",
        objective=tp.Objective((*terms, *more), weighting),
    )
    model.compile(steady_adam(0.01), metrics=list(metrics))
    return model


def check(
    strategy: tf.distribute.Strategy,
    batches: tf.data.Dataset,
    normalization: str,
    metrics: Sequence[Any] = (),
    more: Sequence[tp.Term] = (),
    weighting: Any = "fixed",
) -> tuple[tp.PreRanker, tp.PreRanker]:
    """Three steps on one and on four; returns the two models."""
    options = {"metrics": metrics, "weighting": weighting}
    one = model_of(normalization, *more, **options)
    with strategy.scope():
        four = model_of(normalization, *more, **options)
    four.network.set_weights(one.network.get_weights())
    start = state_of(one)
    history = one.fit(batches, verbose=0).history
    of_four = four.fit(batches, verbose=0).history

    assert one.optimizer.iterations == four.optimizer.iterations == 3
    # Gradients that are nothing but rounding grow with the logits.
    assert_same_state(state_of(one), state_of(four), 1e-5 if more else 1e-6)
    for name, value in state_of(one).items():
        if "moving" in name or "embeddings" in name:
            assert not np.allclose(value, start[name], atol=1e-4), name
    terms = 3 + len(more)
    variances = terms if weighting == "uncertainty" else 0
    assert_same_logs(history, of_four, 1 + terms + variances + 2 * len(metrics))
    if one.uncertainty is not None:
        left, right = (model.uncertainty.log_variances for model in (one, four))
        np.testing.assert_allclose(left, right, atol=1e-6)
        assert np.abs(left).min() > 1e-3
    return one, four


def assert_same_logs(left: dict, right: dict, number: int) -> None:
    """Every printed loss and metric of the one equals that of the other."""
    assert left.keys() == right.keys()
    assert len(left) == number
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=1e-5, err_msg=name)


def main() -> None:
    strategy = four_replicas()

    # Two requests to each replica; the last batch of seven leaves one to the last.
    arrays = random_requests(23, 5, TASKS, weights=True, position=True)
    documents = arrays["mask"][:8].reshape(4, -1).sum(axis=1)
    assert len(set(documents)) > 2, documents
    metrics = [NDCG(3), GAUC()]
    one, four = check(strategy, dataset(arrays, 8), "batch", metrics)
    assert_same_logs(
        one.evaluate(dataset(arrays, 8), return_dict=True, verbose=0),
        four.evaluate(dataset(arrays, 8), return_dict=True, verbose=0),
        8,
    )

    # In the first step the second replica has no real document, and the last batch of
    # six leaves the fourth without a request.
    arrays = {name: values[:22] for name, values in arrays.items()}
    arrays["mask"][2:4] = False
    # Every replica sees the documents of all, and counts them once.
    terms = (
        tp.Term("click", "in_batch_softmax", temperature=0.5, log_q=True),
        tp.Term("like", "in_batch_softmax", hard_negatives=2),
        tp.Term("click", "adaptive_mimic", query="user_id", doc="movie_id"),
    )
    one, four = check(
        strategy, dataset(arrays, 8), "batch", more=terms, weighting="uncertainty"
    )
    for name in ("step", "last_step", "gap"):
        ours, theirs = (getattr(model.frequency, name) for model in (one, four))
        for copy in strategy.experimental_local_results(theirs):
            np.testing.assert_array_equal(ours, copy, err_msg=name)
