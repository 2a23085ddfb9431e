"""Running means of an objective's terms, and the metrics given to `compile`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


class Trackers:
    """The running means of the terms and the metrics of `compile`.

    A plain object: their state is not part of a checkpoint.

    Args:
        weights: of the terms in the objective, by name.
        metrics: by task.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        metrics: Mapping[str, list[Any]] | None = None,
    ) -> None:
        weights = weights or {}
        self.means = {
            name: tf.keras.metrics.Mean(name, dtype=tf.float64) for name in weights
        }
        self.loss = _WeightedSum(
            [(weights[name], mean) for name, mean in self.means.items()]
        )
        self.metrics = {
            task: [_copy_for(task, metric) for metric in of_task]
            for task, of_task in (metrics or {}).items()
        }

    def all(self) -> list[tf.keras.metrics.Metric]:
        """Returns every metric."""
        given = [metric for of_task in self.metrics.values() for metric in of_task]
        return [self.loss, *self.means.values(), *given] if self.means else []

    def update(
        self, sums: Mapping[str, tuple[tf.Tensor, tf.Tensor]]
    ) -> dict[str, tf.Tensor]:
        """Takes in one batch's sums and returns the logs so far."""
        for name, (value, count) in sums.items():
            mean = tf.math.divide_no_nan(value, count)
            self.means[name].update_state(mean, sample_weight=count)
        return {metric.name: metric.result() for metric in self.all()}

    def unusable(self) -> list[str]:
        """Returns the names of the terms and metrics that saw no usable list."""
        # On several replicas only a conversion adds a variable's parts up.
        names = [
            name
            for name, mean in self.means.items()
            if not bool(tf.convert_to_tensor(mean.count) > 0)
        ]
        if len(names) == len(self.means):
            names = [self.loss.name, *names]
        return names + [
            metric.name
            for of_task in self.metrics.values()
            for metric in of_task
            if not bool(metric.usable)
        ]


class _WeightedSum(tf.keras.metrics.Metric):
    """The objective's value: the weighted sum of its terms' means.

    A metric, since Keras adds a plain number up over the replicas.
    """

    def __init__(self, parts: list[tuple[float, tf.keras.metrics.Mean]]) -> None:
        super().__init__(name="loss", dtype=tf.float64)
        self._parts = parts

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the parts hold the state."""

    def result(self) -> tf.Tensor:
        """Returns the sum so far."""
        total = tf.constant(0.0, tf.float64)
        for weight, mean in self._parts:
            total += weight * mean.result()
        return total


def _copy_for(task: str, metric: Any) -> Any:
    """Makes a task's own copy of a metric, named `<task>/<name>`."""
    config = copy.deepcopy(metric.get_config())
    config["name"] = f"{task}/{metric.name}"
    return type(metric).from_config(config)
