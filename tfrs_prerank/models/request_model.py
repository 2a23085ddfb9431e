"""Training of a model over request-major batches by its objective, in Keras' `fit`."""

from __future__ import annotations

import abc
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf
import tensorflow_recommenders as tfrs
from typing_extensions import Self

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models import run_directory
from tfrs_prerank.models.epochs import EpochCounter, for_keras, leave_out, start_epoch
from tfrs_prerank.models.given_vectors import (
    InitializedEmbeddings,
    initialize_embeddings,
)
from tfrs_prerank.models.memory import MemoryReport, memory_report
from tfrs_prerank.models.trackers import Trackers
from tfrs_prerank.models.warm_start import WarmStart, warm_start
from tfrs_prerank.objectives.objective import Objective
from tfrs_prerank.objectives.terms import Forward
from tfrs_prerank.objectives.uncertainty import Sums, UncertaintyWeights, fixed_sum
from tfrs_prerank.optimizers import LazyAdam

_REFUSED = {
    "loss": "the model optimises its objective; pass objective=Objective(...)",
    "loss_weights": "the model optimises its objective; pass objective=Objective(...)",
    "weighted_metrics": "the model weighs no metrics; pass metrics=[...]",
}
"""Arguments of Keras' `compile` that would do nothing, and what to do instead."""


class Computed(NamedTuple):
    """What a model computes of one batch, to be trained on and logged.

    Attributes:
        forward: its outputs.
        sums: the sum of each term's losses and what it must be divided by.
        weights: the terms' weights in this step, numbers or scalar tensors.
        penalties: what is added to the loss, such as L2.
    """

    forward: Forward
    sums: Sums
    weights: Mapping[str, Any]
    penalties: list[tf.Tensor]


class RequestModel(tfrs.Model, abc.ABC):
    """A TFRS model that scores the documents of requests and trains on an objective.

    `model(batch)` maps a batch of requests to `{task: logits [B, L], "scores": [B, L]}`
    in float32.

    Every loss is divided by the number of valid documents or lists of the global batch
    (all replicas), scaled under `mixed_float16`, and printed as the mean over all
    examples of the epoch.

    Args:
        schema: the features and tasks.
        declarations: what the networks are made of, for the run directory.
        objective: what is optimised.
        network: what scores, with all its weights.
    """

    declared_by: ClassVar[type]
    """The class of the declarations."""

    def __init__(
        self, schema: Schema, declarations: Any, objective: Objective, network: Any
    ) -> None:
        super().__init__(autocast=False)
        # Metrics are over all replicas already; Keras would add them up over workers.
        self.distribute_reduction_method = "first"
        self.schema = schema
        self.declarations = declarations
        self.objective = objective
        self.network = network
        self.generators: list[Any] = []
        self._keep_generators(network)
        self.uncertainty = (
            UncertaintyWeights(self.term_weights)
            if objective.weighting == "uncertainty"
            else None
        )
        self.epochs_trained = tf.Variable(
            0, trainable=False, dtype=tf.int64, name="epochs_trained"
        )
        self._trackers = Trackers()
        self.built = True

    @abc.abstractmethod
    def compute(self, batch: Mapping[str, tf.Tensor], training: bool) -> Computed:
        """Computes outputs and losses of a batch.

        Args:
            batch: features, `doc_ids`, `mask` and what the objective reads.
            training: drops ids and units, adds the training-only bias.
        """

    @property
    def term_weights(self) -> dict[str, float]:
        """The weights of all terms that are logged, by name."""
        return {term.name: term.weight for term in self.objective.terms}

    def weights_now(self) -> dict[str, Any]:
        """Returns the weights of all terms in this step of the training, by name."""
        weights: dict[str, Any] = dict(self.term_weights)
        for term in self.objective.terms:
            if term.warmup_steps and self.optimizer is not None:
                is_over = self.optimizer.iterations >= term.warmup_steps
                weights[term.name] *= tf.cast(is_over, tf.float32)
        return weights

    def combine(self, sums: Sums, weights: Mapping[str, Any]) -> tf.Tensor:
        """Returns the objective's value, a scalar.

        Args:
            sums: as in `Computed`.
            weights: as in `Computed`.
        """
        if self.uncertainty is None:
            return fixed_sum(sums, weights)
        return self.uncertainty.combine(sums, weights)

    def checkpoint(self) -> tf.train.Checkpoint:
        """Returns what a run directory keeps of the model: weights and their state."""
        parts = {
            "network": self.network,
            "generators": self.generators,
            "epochs_trained": self.epochs_trained,
        }
        if self.uncertainty is not None:
            parts["uncertainty"] = self.uncertainty
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer
        return tf.train.Checkpoint(**parts)

    def _keep_generators(self, network: tf.keras.layers.Layer) -> None:
        # Keras leaves the generators of dropout out of checkpoints; as a part of the
        # model they are in every one.
        kept = [
            layer._random_generator._generator
            for layer in network.submodules
            if isinstance(layer, tf.keras.layers.Dropout) and layer.rate
        ]
        for generator in kept:
            # It remembers its seed from here on, whatever is drawn before training.
            start_epoch(generator, tf.constant(0, tf.int64))
        self.generators.extend(kept)

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
                loss, which is the objective's; or layers learn at shares of the
                learning rate, which the optimiser does not know of.
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
        if self.uncertainty is not None:
            _leave_undecayed(self.optimizer, self.uncertainty.log_variances)
        _scale_learning_rates(self)
        # Its slots exist from here on, so that a backup finds what it restores.
        self.optimizer.build(self.trainable_variables)
        self._trackers = Trackers(
            self.term_weights, by_task, self.combine, self.uncertainty
        )

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
            computed = self.compute(batch, training=True)
            loss = tf.add_n([tf.constant(0.0), *computed.penalties])
            loss += self.combine(computed.sums, computed.weights)
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
        return self._logs(batch, computed)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Evaluates one batch; see `tf.keras.Model.test_step`."""
        batch = _one_dict(batch)
        return self._logs(batch, self.compute(batch, training=False))

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
        x, steps = for_keras(x, self.epochs_trained, self.distribute_strategy)
        if steps is not None:
            kwargs.setdefault("steps_per_epoch", steps)
        if "validation_data" in kwargs:
            kwargs["validation_data"], steps = for_keras(
                kwargs["validation_data"], 0, self.distribute_strategy
            )
            if steps is not None:
                kwargs.setdefault("validation_steps", steps)
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
        x, steps = for_keras(x, 0, self.distribute_strategy)
        if steps is not None:
            kwargs.setdefault("steps", steps)
        results = super().evaluate(x, *args, **kwargs)
        if isinstance(results, dict):
            leave_out(self.unusable_metrics(), results)
        return results

    def save(
        self, directory: str | Path, overwrite: bool = True, options: Any = None
    ) -> None:
        """Writes a run directory, from which `load` makes the model again.

        It holds `config.yaml`, `schema.yaml`, `vocabularies/`, `statistics.json` and
        `checkpoint/` (weights, optimiser, epoch), with relative paths only. It is
        written beside its place and then renamed. Of workers that train in step all
        have to call this, and the first one writes.

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
        if self.distribute_strategy.extended.should_checkpoint:
            run_directory.save(self, directory)
            return
        # Moving averages are means over all workers, so all have to read them.
        with tempfile.TemporaryDirectory() as elsewhere:
            run_directory.save(self, Path(elsewhere) / "run")

    @classmethod
    def load(cls, directory: str | Path) -> Self:
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

    def warm_start(self, previous: str | Path) -> WarmStart:
        """Takes over the weights of a previous run, as for a daily retraining.

            model = PreRanker(schema_of_today, ...)
            model.compile()
            print(model.warm_start("runs/yesterday"))
            model.fit(requests_of_today)

        Rows of embedding tables, and what the optimiser keeps of them, go by value:
        those of a vocabulary by its tokens, new ones keep their initialisation, and
        row 0, of unknown values, stays row 0. Rows of hash buckets are taken over where
        buckets and hashes are as they were, those of a number's buckets where their
        boundaries are. All other weights are taken over where place and shape are the
        same, and what they read: a tower whose fields are others begins anew, and with
        other tasks everything but the tables does.

        Of the optimiser, the count of its steps goes on too, and with it a schedule of
        the learning rate, where it is of the same class. So does the frequency of
        documents that in-batch terms estimate. Epochs are counted anew; the weights of
        `Task(fuse=...)` are those of the schema, and means, deviations and boundaries
        of numbers those of the new statistics.

        Args:
            previous: a run directory, as `save` wrote it.

        Returns:
            What was taken over and what was not; print it.

        Raises:
            FileNotFoundError: it is no run directory, or a file of it is gone.
            ConfigurationError: it is that of another kind of model, holds NaN or
                infinity, or nothing of it fits. The model is then as it was.
        """
        return warm_start(self, previous)

    def initialize_embeddings(
        self, feature: str, ids: Any, vectors: Any
    ) -> InitializedEmbeddings:
        """Sets embeddings to given vectors, such as those of another domain.

        The vectors are copied as they are, so their length is the caller's choice: the
        initialiser's own are uniform in [-0.05, 0.05]. One of zeros means missing, and
        its row stays as it is. Where several of the ids share a
        hash bucket, it gets the mean of their vectors.

        Args:
            feature: a feature with an embedding table, or one that shares it.
            ids: values of the feature, `[n]`, each once; tokens for a text.
            vectors: `[n, dimension]`, as float32. Longer ones are brought to that size
                by `datasets.reduce_vectors`.

        Returns:
            How many rows were set, and which values are left without a vector or are
            not in the vocabulary.

        Raises:
            KeyError: there is no such feature.
            ValueError: the feature has no table of ids or one of several hashes; the
                vectors are of another size or hold NaN; an id is there twice, is the
                pad or of another type.

        >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task
        >>> model = PreRanker(
        ...     Schema(
        ...         features=[
        ...             Categorical("user_id", "query", buckets=100, dimension=2),
        ...             Categorical("city", "doc", buckets=10, dimension=2),
        ...         ],
        ...         tasks=[Task("click")],
        ...     )
        ... )
        >>> print(model.initialize_embeddings("user_id", ["u7"], [[0.1, -0.2]]))
        user_id: 1 row set
        """
        return initialize_embeddings(self, feature, ids, vectors)

    def memory_report(self, documents: int | None = None) -> MemoryReport:
        """Adds up what the model's variables take, before the first step too.

        Args:
            documents: number of documents of an export, whose size is told too.

        Returns:
            Sizes by embedding table and by part; print it.

        Raises:
            ConfigurationError: documents are given, and the model is a ranker.

        >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task
        >>> model = PreRanker(
        ...     Schema(
        ...         features=[
        ...             Categorical("user_id", "query", buckets=65_535),
        ...             Categorical("city", "doc", buckets=10),
        ...         ],
        ...         tasks=[Task("click")],
        ...     )
        ... )
        >>> user, city = model.memory_report().tables
        >>> user.rows, user.size, user.weights == 65_536 * 16 * 4
        (65536, 16, True)
        >>> user.slots == 2 * user.weights  # of LazyAdam
        True
        """
        return memory_report(self, documents)

    def _scaled(self, loss: tf.Tensor) -> tf.Tensor:
        if isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
            return self.optimizer.get_scaled_loss(loss)
        return loss

    def _logs(
        self, batch: Mapping[str, tf.Tensor], computed: Computed
    ) -> dict[str, tf.Tensor]:
        forward = computed.forward
        for place, task in enumerate(self.schema.task_names):
            for metric in self._trackers.metrics.get(task, []):
                reads_logits = metric.reads == "logits"
                scores = forward.logits[:, :, place] if reads_logits else forward.scores
                columns = metric.arguments(batch, task)
                metric.update_state(scores=scores, where=batch["mask"], **columns)
        return self._trackers.update(computed.sums)


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


def _scale_learning_rates(model: RequestModel) -> None:
    """Hands the shares of the learning rate that layers ask for to the optimiser."""
    scales = [
        scale
        for layer in model.submodules
        if hasattr(layer, "learning_rate_scales")
        for scale in layer.learning_rate_scales()
    ]
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if isinstance(optimizer, LazyAdam):
        optimizer.scale_learning_rate(scales)
    elif any(factor != 1 for _, factor in scales):
        raise ConfigurationError(
            "optimizer: layer_decay is a share of the learning rate, which LazyAdam "
            "alone takes; give LazyAdam(), or leave layer_decay out. Received: "
            f"{type(optimizer).__name__}"
        )


def _leave_undecayed(optimizer: Any, variable: tf.Variable) -> None:
    """Leaves a variable out of weight decay, beside what is left out already."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    # Keras' own method forgets what it was told before.
    names = getattr(optimizer, "_exclude_from_weight_decay_names", [])
    optimizer._exclude_from_weight_decay_names = [*names, f"^{variable.name}$"]


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


def _counting(model: RequestModel, callbacks: Any) -> Any:
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
