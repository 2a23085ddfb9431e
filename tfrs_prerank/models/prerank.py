"""The pre-ranker: a TFRS model over request-major batches."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.distribution import global_sum
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models import run_directory
from tfrs_prerank.models.config import ModelConfig
from tfrs_prerank.models.drawing import draw
from tfrs_prerank.models.epochs import EpochCounter, dataset_of_epochs, leave_out
from tfrs_prerank.models.network import Network
from tfrs_prerank.models.row_means import row_means
from tfrs_prerank.objectives.objective import Objective, make_objective
from tfrs_prerank.objectives.terms import Forward, check_one_replica, term_sums
from tfrs_prerank.optimizers import LazyAdam
from tfrs_prerank.sampling.streaming import StreamingFrequency
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.towers import Tower

_REFUSED = {
    "loss": "PreRanker optimises its objective; pass objective=Objective(...)",
    "loss_weights": "PreRanker optimises its objective; pass objective=Objective(...)",
    "weighted_metrics": "PreRanker weighs no metrics; pass metrics=[...]",
}
"""Arguments of Keras' `compile` that would do nothing, and what to do instead."""


class PreRanker(tfrs.Model):
    """A two- or three-tower pre-ranking model for Keras `fit` and `evaluate`.

    `model(batch)` maps a batch of requests to `{task: logits [B, L], "scores": [B, L]}`
    in float32. `scores` is the logit where there is one task, else
    `sum_k fuse_k * sigmoid(logit_k)`.

    Every loss is divided by the number of valid documents or lists of the global batch
    (all replicas), scaled under `mixed_float16`, and printed as the mean over all
    examples of the epoch.

    Args:
        schema: the features and tasks.
        query_tower: declaration of the query tower; its `output` is the size of the
            vectors of both sides.
        doc_tower: declaration of the document tower; the same `output`.
        cross_tower: declaration of the cross tower; needed where the schema has cross
            features.
        scorer: a `Scorer`, or its kind alone.
        objective: an `Objective`, or a loss's name for one term of weight 1 per task.
        distinct_documents: run the document tower once for each distinct document of a
            batch. It saves time where requests share documents. It changes no gradient
            but that of batch statistics, dropout and `l2`, which then see a document
            once. Without point-in-time columns only.

    Raises:
        ConfigurationError: the parts do not fit together.

    Example:
        >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task
        >>> model = PreRanker(
        ...     Schema(
        ...         features=[
        ...             Categorical("user_id", "query", buckets=100),
        ...             Categorical("city", "doc", buckets=10),
        ...         ],
        ...         tasks=[Task("click")],
        ...     ),
        ... )
        >>> model.compile()
        >>> model.schema.task_names
        ('click',)
    """

    def __init__(
        self,
        schema: Schema,
        query_tower: Tower = Tower(),  # noqa: B008 - frozen
        doc_tower: Tower = Tower(),  # noqa: B008 - frozen
        cross_tower: Tower | None = None,
        scorer: Scorer | str = "cosine",
        objective: Objective | str = "sigmoid_cross_entropy",
        distinct_documents: bool = False,
    ) -> None:
        super().__init__(autocast=False)
        self.declarations = ModelConfig(
            query_tower,
            doc_tower,
            cross_tower,
            scorer,  # type: ignore[arg-type]
            distinct_documents,
        )
        self.schema = schema
        self.objective = make_objective(objective, schema)
        self.declarations.check(schema, self.objective)
        self.network = Network(schema, **self.declarations.arguments())
        # Keras leaves the generators of dropout out of checkpoints; as a part of the
        # model they are in every one.
        self.generators = [
            layer._random_generator._generator
            for layer in self.network.submodules
            if isinstance(layer, tf.keras.layers.Dropout)
        ]
        corrected = any(
            term.loss == "in_batch_softmax" and term.log_q
            for term in self.objective.terms
        )
        self.frequency = StreamingFrequency() if corrected else None
        self.epochs_trained = tf.Variable(
            0, trainable=False, dtype=tf.int64, name="epochs_trained"
        )
        self._trackers = _Trackers()
        self.built = True

    def call(
        self, batch: Mapping[str, tf.Tensor], training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Scores the documents of a batch.

        Args:
            batch: every feature by its name, `doc_ids` `[B, L]` and `mask` `[B, L]`.
            training: adds the training-only bias, drops ids and units.

        Returns:
            `{task: logits [B, L], "scores": [B, L]}`, float32, 0 in padding.
        """
        forward = self.network(batch, training=training)
        outputs = {
            task: forward.logits[:, :, place]
            for place, task in enumerate(self.schema.task_names)
        }
        return {**outputs, "scores": forward.scores}

    def compile(
        self,
        optimizer: Any = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Sets the optimiser and the metrics.

        Args:
            optimizer: as in Keras; None means `LazyAdam()`.
            metrics: of `tfrs_prerank.metrics`: one or a list, for every task, or a dict
                of them by task. They rank by `scores`, or by the task's logit where
                they say so (`reads = "logits"`), and are logged as `<task>/<name>`.
            **kwargs: passed on to Keras (`run_eagerly`, `steps_per_execution`).

        Raises:
            ConfigurationError: metrics are given for a task that does not exist, or a
                loss, which is the objective's.
            TypeError: a metric does not read lists, or the optimiser is a legacy one.
        """
        for name, fix in _REFUSED.items():
            if kwargs.get(name) is not None:
                raise ConfigurationError(f"{name}: {fix}")
        if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
            raise TypeError(
                "optimizer: give LazyAdam() or one of tf.keras.optimizers, not a "
                f"legacy one. Received: {type(optimizer).__name__}"
            )
        by_task = _metrics_by_task(metrics, self.schema.task_names)
        super().compile(
            optimizer=LazyAdam() if optimizer is None else optimizer, **kwargs
        )
        # Its slots exist from here on, so that a backup finds what it restores.
        self.optimizer.build(self.trainable_variables)
        self._trackers = _Trackers(self.objective, by_task)

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """All metrics: the loss, its terms and those given to `compile`."""
        return self._trackers.all()

    @property
    def task_metrics(self) -> dict[str, list[tf.keras.metrics.Metric]]:
        """The metrics given to `compile`, by task."""
        return {task: list(of_task) for task, of_task in self._trackers.metrics.items()}

    def unusable_metrics(self) -> list[str]:
        """Names the metrics that have seen no list they can use since their reset."""
        return self._trackers.unusable()

    @tf.autograph.experimental.do_not_convert
    def train_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Takes one optimisation step; see `tf.keras.Model.train_step`."""
        batch = _one_dict(batch)
        # At the end of the data the graph runs until the batch is missed: neither the
        # generators of dropout nor the step counter (below) may move by then.
        with tf.control_dependencies(list(batch.values())), tf.GradientTape() as tape:
            forward = self.network(batch, training=True)
            sums = self._term_sums(batch, forward, training=True)
            penalties = self.network.losses
            loss = tf.add_n(penalties) if penalties else tf.constant(0.0)
            for term in self.objective.terms:
                value, count = sums[term.name]
                loss += term.weight * tf.math.divide_no_nan(value, global_sum(count))
            scaled = self._scaled(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        pairs = [
            (gradient, variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            if gradient is not None
        ]
        with tf.control_dependencies([scaled]):
            self.optimizer.apply_gradients(pairs)
        return self._logs(batch, forward, sums)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Evaluates one batch; see `tf.keras.Model.test_step`."""
        batch = _one_dict(batch)
        forward = self.network(batch, training=False)
        sums = self._term_sums(batch, forward, training=False)
        return self._logs(batch, forward, sums)

    def fit(
        self, x: Any = None, *args: Any, **kwargs: Any
    ) -> tf.keras.callbacks.History:
        """Trains the model; see `tf.keras.Model.fit`.

        A term or metric that saw no usable list in an epoch is left out of its logs,
        with a warning.

        Args:
            x: a `tf.data.Dataset` of batches, or a function from an epoch's number to
                one, such as `datasets.read(...)`: then the order of an epoch's requests
                is the same whether the training was interrupted before it or not.
            *args: as in Keras.
            **kwargs: as in Keras.

        Returns:
            The history.
        """
        if callable(x):
            x = dataset_of_epochs(x, self.epochs_trained)
        if callable(kwargs.get("validation_data")):
            kwargs["validation_data"] = kwargs["validation_data"](0)
        callbacks = _counting(self, kwargs.pop("callbacks", None))
        return super().fit(x, *args, callbacks=callbacks, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the model; see `tf.keras.Model.evaluate`.

        A term or metric that saw no usable list is left out of a dict's result, with a
        warning.

        Args:
            x: a `tf.data.Dataset` of batches, or a function from an epoch's number to
                one.
            *args: as in Keras.
            **kwargs: as in Keras.

        Returns:
            As Keras: the values, or with `return_dict=True` a dict.
        """
        if callable(x):
            x = x(0)
        results = super().evaluate(x, *args, **kwargs)
        if isinstance(results, dict):
            leave_out(self.unusable_metrics(), results)
        return results

    def draw(self) -> str:
        """Draws the towers and the scorer as text; see `models.drawing.draw`."""
        return draw(self.schema, self.declarations)

    def field_weights(
        self, dataset: Iterable[Mapping[str, tf.Tensor]]
    ) -> dict[str, dict[str, float]]:
        """Tells how much the towers' gates let each field count.

        The mean over all requests (query tower) or real documents (doc and cross
        tower) of a dataset. What a weight means is in the gate's own `field_weights`:
        `layers.SENet` and the others.

        Args:
            dataset: batches.

        Returns:
            `{"query": {feature: weight}, ...}`, with towers that have a gate only.

        Raises:
            ConfigurationError: no tower has a gate.
            ValueError: the dataset is empty.
        """
        sides = self._towers_with("gate")
        if not sides:
            raise ConfigurationError(
                "field_weights: no tower has a gate; declare Tower(gate='senet')"
            )
        means = row_means(
            "field_weights", self.network.field_weights, list(sides), dataset
        )
        return {
            side: dict(zip(tower.fields.field_names, means[side].tolist(), strict=True))
            for side, tower in sides.items()
        }

    def expert_gates(
        self, dataset: Iterable[Mapping[str, tf.Tensor]]
    ) -> dict[str, Any]:
        """Tells how much the towers' experts count for each task.

        The mean gates over all requests (query tower) or real documents (doc and cross
        tower) of a dataset, each adding up to 1.

        Args:
            dataset: batches.

        Returns:
            `{"query": gates, ...}`, with towers that have experts only: by task, as of
            `layers.MMoE.gates`, or by level, as of `layers.PLE.gates`, with an array of
            as many numbers as there are experts for each gate.

        Raises:
            ConfigurationError: no tower has experts.
            ValueError: the dataset is empty.
        """
        sides = self._towers_with("experts")
        if not sides:
            raise ConfigurationError(
                "expert_gates: no tower has experts; declare Tower(experts='mmoe')"
            )
        return row_means(
            "expert_gates", self.network.expert_gates, list(sides), dataset
        )

    def _towers_with(self, part: str) -> dict[str, Any]:
        """Returns the towers that have a part, by side."""
        sides = ("query", "doc", "cross")
        towers = {side: getattr(self.network, f"{side}_tower") for side in sides}
        return {
            side: tower
            for side, tower in towers.items()
            if tower is not None and getattr(tower, part) is not None
        }

    def save(
        self, directory: str | Path, overwrite: bool = True, options: Any = None
    ) -> None:
        """Writes a run directory, from which `load` makes the model again.

        It holds `config.yaml`, `schema.yaml`, `vocabularies/`, `statistics.json` and
        `checkpoint/` (weights, optimiser, epoch), with relative paths only. It is
        written beside its place and then renamed.

        Args:
            directory: the run directory.
            overwrite: whether an earlier run directory is replaced.
            options: not used; `tf.keras.callbacks.ModelCheckpoint` gives some.

        Raises:
            FileExistsError: the directory exists and is no run directory, or may not
                be replaced.
        """
        if Path(directory).exists() and not overwrite:
            raise FileExistsError(
                f"{directory} exists and overwrite=False; choose another place"
            )
        run_directory.save(self, directory)

    @classmethod
    def load(cls, directory: str | Path) -> PreRanker:
        """Makes the model of a run directory, compiled as it was saved.

        Args:
            directory: what `save` wrote.

        Returns:
            The model, with weights, optimiser and epoch restored.

        Raises:
            FileNotFoundError: it is no run directory, or a file of it is gone.
            ConfigurationError: its configuration is not understood.
        """
        return run_directory.load(cls, directory)

    def _term_sums(
        self, batch: Mapping[str, tf.Tensor], forward: Forward, training: bool
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        tasks = self.schema.task_names
        scorer = self.network.scorer
        log_q = None
        if any(term.loss == "in_batch_softmax" for term in self.objective.terms):
            check_one_replica()
        if self.frequency is not None:
            ids = tf.gather(tf.reshape(batch["doc_ids"], [-1]), forward.index)
            estimate = self.frequency.update if training else self.frequency.log_q
            log_q = estimate(ids)
        return {
            term.name: term_sums(
                term, batch, forward, tasks.index(term.task), scorer, log_q, training
            )
            for term in self.objective.terms
        }

    def _scaled(self, loss: tf.Tensor) -> tf.Tensor:
        if isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
            return self.optimizer.get_scaled_loss(loss)
        return loss

    def _logs(
        self,
        batch: Mapping[str, tf.Tensor],
        forward: Forward,
        sums: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
    ) -> dict[str, tf.Tensor]:
        for place, task in enumerate(self.schema.task_names):
            for metric in self._trackers.metrics.get(task, []):
                reads_logits = metric.reads == "logits"
                scores = forward.logits[:, :, place] if reads_logits else forward.scores
                columns = metric.arguments(batch, task)
                metric.update_state(scores=scores, where=batch["mask"], **columns)
        return self._trackers.update(sums)


def _one_dict(batch: Any) -> Mapping[str, tf.Tensor]:
    """Returns the one dict of a batch; `train_on_batch` puts it into a tuple."""
    if isinstance(batch, tuple) and len(batch) == 1:
        (batch,) = batch
    if not isinstance(batch, Mapping):
        raise TypeError(
            "a batch is one flat dict with labels as 'label/<task>'. "
            f"Received: a {type(batch).__name__}"
        )
    return batch


def _metrics_by_task(metrics: Any, tasks: tuple[str, ...]) -> dict[str, list[Any]]:
    """Reads the metrics that `compile` takes, and checks them."""
    given = metrics if isinstance(metrics, Mapping) else dict.fromkeys(tasks, metrics)
    by_task = {}
    for task, of_task in given.items():
        if task not in tasks:
            raise ConfigurationError(f"metrics: no task {task!r}; tasks: {tasks}")
        if of_task is None:
            of_task = []
        of_task = list(of_task) if isinstance(of_task, list | tuple) else [of_task]
        for metric in of_task:
            is_metric = isinstance(metric, tf.keras.metrics.Metric)
            if is_metric and hasattr(metric, "columns"):
                continue
            if is_metric:
                received = f"{type(metric).__name__} {metric.name!r}"
            elif isinstance(metric, type):
                name = metric.__name__
                received = f"the class {name}; make one: {name}()"
            else:
                received = repr(metric)
            raise TypeError(
                "metrics: give metrics of tfrs_prerank.metrics, which read whole "
                f"lists. Received: {received}"
            )
        by_task[task] = of_task
    return by_task


def _counting(model: PreRanker, callbacks: Any) -> Any:
    """Puts an `EpochCounter` before callbacks in any form that Keras takes."""
    if isinstance(callbacks, tf.keras.callbacks.CallbackList):
        # Keras uses such a list as it is, so the new one needs what the old one has.
        return tf.keras.callbacks.CallbackList(
            [EpochCounter(), *callbacks.callbacks],
            model=model,
            **getattr(callbacks, "params", {}),
        )
    given = [] if callbacks is None else tf.nest.flatten(callbacks)
    return [EpochCounter(), *given]


class _Trackers:
    """The running means of the terms and the metrics of `compile`.

    A plain object: their state is not part of a checkpoint.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        metrics: Mapping[str, list[Any]] | None = None,
    ) -> None:
        self.terms = objective.terms if objective is not None else ()
        self.means = {
            term.name: tf.keras.metrics.Mean(term.name, dtype=tf.float64)
            for term in self.terms
        }
        self.loss = _WeightedSum(
            [(term.weight, self.means[term.name]) for term in self.terms]
        )
        self.metrics = {
            task: [_copy_for(task, metric) for metric in of_task]
            for task, of_task in (metrics or {}).items()
        }

    def all(self) -> list[tf.keras.metrics.Metric]:
        """Returns every metric."""
        given = [metric for of_task in self.metrics.values() for metric in of_task]
        return [self.loss, *self.means.values(), *given] if self.terms else []

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
