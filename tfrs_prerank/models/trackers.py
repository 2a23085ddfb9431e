"""Running means of an objective's terms, and the metrics given to `compile`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfrs_prerank.objectives.uncertainty import UncertaintyWeights, fixed_sum


class Trackers:
    """The running means of the terms and the metrics of `compile`.

    A plain object: their state is not part of a checkpoint.

    Args:
        weights: of the terms in the objective, by name.
        metrics: by task.
        combine: makes the objective's value of the terms' sums and weights.
        uncertainty: weights that are learned, to be logged; None where there are none.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        metrics: Mapping[str, list[Any]] | None = None,
        combine: Callable[..., tf.Tensor] = fixed_sum,
        uncertainty: UncertaintyWeights | None = None,
    ) -> None:
        weights = weights or {}
        self.means = {
            name: tf.keras.metrics.Mean(name, dtype=tf.float64) for name in weights
        }
        self.loss = _Objective(self.means, weights, combine)
        self.variances = (
            []
            if uncertainty is None
            else [_Variance(name, uncertainty) for name in self.means]
        )
        self.metrics = {
            task: [_copy_for(task, metric) for metric in of_task]
            for task, of_task in (metrics or {}).items()
        }

    def all(self) -> list[tf.keras.metrics.Metric]:
        """Returns every metric."""
        given = [metric for of_task in self.metrics.values() for metric in of_task]
        own = [self.loss, *self.means.values(), *self.variances]
        return [*own, *given] if self.means else []

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


class _Objective(tf.keras.metrics.Metric):
    """The objective's value: what its terms' means add up to.

    A metric, since Keras adds a plain number up over the replicas.
    """

    def __init__(
        self,
        means: Mapping[str, tf.keras.metrics.Mean],
        weights: Mapping[str, float],
        combine: Callable[..., tf.Tensor],
    ) -> None:
        super().__init__(name="loss", dtype=tf.float64)
        self._means = dict(means)
        self._weights = dict(weights)
        self._combine = combine

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the parts hold the state."""

    def result(self) -> tf.Tensor:
        """Returns the value so far."""
        sums = {}
        for name, mean in self._means.items():
            is_known = tf.cast(tf.convert_to_tensor(mean.count) > 0, tf.float64)
            sums[name] = (mean.result(), is_known)
        return tf.cast(self._combine(sums, self._weights), tf.float64)


class _Variance(tf.keras.metrics.Metric):
    """What a term's loss is divided by, as it is now: `<term>/uncertainty`."""

    def __init__(self, name: str, uncertainty: UncertaintyWeights) -> None:
        super().__init__(name=f"{name}/uncertainty")
        self._read = lambda: uncertainty.variance(name)

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the model holds the state."""

    def result(self) -> tf.Tensor:
        """Returns the variance."""
        return self._read()


def _copy_for(task: str, metric: Any) -> Any:
    """Makes a task's own copy of a metric, named `<task>/<name>`."""
    config = copy.deepcopy(metric.get_config())
    config["name"] = f"{task}/{metric.name}"
    return type(metric).from_config(config)
