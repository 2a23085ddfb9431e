"""What `compile` takes, and what it refuses with one line."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.models.small import dataset, random_requests, small_model, small_schema
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.metrics import GAUC, NDCG

TASKS = ("click", "like")
OBJECTIVE = "the model optimises its objective; pass objective=Objective(...)"
NEW = "give LazyAdam() or one of tf.keras.optimizers, not a legacy one"
OWN = "give metrics of tfrs_prerank.metrics, which read whole lists"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"loss": "mse"}, ConfigurationError, f"loss: {OBJECTIVE}"),
        ({"loss_weights": [1.0]}, ConfigurationError, f"loss_weights: {OBJECTIVE}"),
        (
            {"weighted_metrics": [NDCG(3)]},
            ConfigurationError,
            "weighted_metrics: the model weighs no metrics; pass metrics=[...]",
        ),
        (
            {"metrics": {"clik": [NDCG(3)]}},
            ConfigurationError,
            "metrics: no task 'clik'; tasks: ('click', 'like')",
        ),
        (
            {"metrics": [NDCG(3), tf.keras.metrics.AUC(name="auc")]},
            TypeError,
            f"metrics: {OWN}. Received: AUC 'auc'",
        ),
        (
            {"metrics": {"like": tf.keras.metrics.Mean("m")}},
            TypeError,
            f"metrics: {OWN}. Received: Mean 'm'",
        ),
        ({"metrics": "auc"}, TypeError, f"metrics: {OWN}. Received: 'auc'"),
        ({"metrics": ["auc"]}, TypeError, f"metrics: {OWN}. Received: 'auc'"),
        (
            {"metrics": [NDCG]},
            TypeError,
            f"metrics: {OWN}. Received: the class NDCG; make one: NDCG()",
        ),
        (
            {"optimizer": tf.keras.optimizers.legacy.Adagrad()},
            TypeError,
            f"optimizer: {NEW}. Received: Adagrad",
        ),
        (
            {
                "optimizer": tf.keras.mixed_precision.LossScaleOptimizer(
                    tf.keras.optimizers.legacy.SGD()
                )
            },
            TypeError,
            f"optimizer: {NEW}. Received: LossScaleOptimizer",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    model = small_model(small_schema(TASKS))
    with pytest.raises(kind) as caught:
        model.compile(**arguments)
    assert str(caught.value) == message
    assert model.optimizer is None


def test_none_is_what_keras_says_too() -> None:
    model = small_model()
    model.compile("adam", loss=None, weighted_metrics=None, loss_weights=None)
    assert isinstance(model.optimizer, tf.keras.optimizers.Adam)
    assert model.metrics_names == ["loss", "click/sigmoid_cross_entropy"]


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        (NDCG(3), ["click/ndcg@3", "like/ndcg@3"]),
        ((NDCG(3),), ["click/ndcg@3", "like/ndcg@3"]),
        ({"like": NDCG(3)}, ["like/ndcg@3"]),
        ({"like": (NDCG(3), GAUC())}, ["like/ndcg@3", "like/gauc"]),
        ({}, []),
    ],
)
def test_one_metric_is_a_list_of_one(metrics: Any, names: list[str]) -> None:
    model = small_model(small_schema(TASKS))
    model.compile(metrics=metrics)
    batches = dataset(random_requests(8, 4, TASKS), 8)
    result = model.evaluate(batches, return_dict=True, verbose=0)
    # The loss and two terms come first.
    assert list(result)[3:] == names
    assert [metric.name for of in model.task_metrics.values() for metric in of] == names
