"""What can rank the documents of a batch: a model, an export, a column, a function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.models.columns import check_batch, own_columns
from tfrs_prerank.models.request_model import RequestModel
from tfrs_prerank.serving.version_directory import versions_of

Batch = Mapping[str, tf.Tensor]

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What one ranking says about a batch.

    Attributes:
        row: its name, for errors.
        scores: what documents are ranked by, float64 `[B, L]`.
        logits: by task, float64 `[B, L]`; None where the ranking gives one order only.
        unknown: bool `[B, L]`, documents that it has no score for and ranks last.
    """

    row: str
    scores: tf.Tensor
    logits: Mapping[str, tf.Tensor] | None
    unknown: tf.Tensor

    def read(self, reads: str, task: str | None) -> tf.Tensor:
        """Returns what a metric reads: `"scores"`, or the `"logits"` of a task.

        A ranking without logits has one order, which is that of every task.
        """
        if reads == "scores" or task is None or self.logits is None:
            return self.scores
        if task not in self.logits:
            raise KeyError(
                f"rankings[{self.row!r}] gives no logits of task {task!r}; "
                f"{nearest(task, self.logits)}"
            )
        return self.logits[task]


class Ranking:
    """Scores of one row of an evaluation.

    Args:
        row: the row's name, for errors.
        source: see `evaluate`.

    Attributes:
        version: the directory of an export that was given as a path, else None.

    Raises:
        TypeError: `source` can rank nothing.
        FileNotFoundError: there is no export in a directory.
    """

    def __init__(self, row: str, source: Any) -> None:
        self.row = row
        self.source = source
        self.version = _export_in(row, source) if isinstance(source, Path) else None
        self._outputs = _outputs_of(row, self.version or source)

    @property
    def tasks(self) -> list[str] | None:
        """The tasks that the ranking knows of itself, None where it knows none."""
        if isinstance(self._outputs, _ExportOutputs):
            return self._outputs.tasks
        schema = getattr(self.source, "schema", None)
        return None if schema is None else list(schema.task_names)

    def __call__(self, batch: Batch, tasks: list[str]) -> Outputs:
        """Scores the documents of a batch, once for all that is measured.

        Args:
            batch: the batch, tensors.
            tasks: whose logits are kept, where there are any.

        Returns:
            The outputs.

        Raises:
            KeyError: there is no such column, or the model has no scores.
            ValueError: the scores have another shape than the mask, or are NaN.
            TypeError: the scores are no numbers.
        """
        outputs = self._outputs(batch)
        unknown = tf.zeros_like(batch["mask"])
        if not isinstance(outputs, Mapping):
            scores = self._numbers(outputs, batch)
            if isinstance(self.source, str):
                # What was logged has gaps; a model that gives NaN has diverged.
                unknown = tf.math.is_nan(scores)
                lowest = tf.constant(float("-inf"), tf.float64)
                scores = tf.where(unknown, lowest, scores)
            unknown &= batch["mask"]
            return Outputs(self.row, self._whole(scores, batch), None, unknown)
        if "scores" not in outputs:
            raise KeyError(
                f"rankings[{self.row!r}] gives no scores; {nearest('scores', outputs)}"
            )
        if isinstance(self._outputs, _ExportOutputs):
            unknown = ~outputs["found"] & batch["mask"]
        numbers = {
            name: self._whole(self._numbers(outputs[name], batch), batch)
            for name in ("scores", *tasks)
            if name in outputs
        }
        return Outputs(self.row, numbers.pop("scores"), numbers, unknown)

    def _numbers(self, scores: Any, batch: Batch) -> tf.Tensor:
        scores = tf.convert_to_tensor(scores)
        if not (scores.dtype.is_floating or scores.dtype.is_integer):
            raise TypeError(
                f"rankings[{self.row!r}] gives {scores.dtype.name}: scores are numbers"
            )
        if scores.shape != batch["mask"].shape:
            raise ValueError(
                f"rankings[{self.row!r}] gives shape {tuple(scores.shape)}: give one "
                f"score per document, {tuple(batch['mask'].shape)} as the mask"
            )
        return tf.cast(scores, tf.float64)

    def _whole(self, scores: tf.Tensor, batch: Batch) -> tf.Tensor:
        if tf.reduce_any(tf.math.is_nan(scores) & batch["mask"]):
            raise ValueError(
                f"rankings[{self.row!r}] scores a document NaN; a model that gives NaN "
                "has diverged"
            )
        return scores


def columns_for(model: RequestModel, batch: Batch) -> dict[str, tf.Tensor]:
    """Returns the columns of a batch that a model reads.

    Others may be there for other rankings and for slices: the model would refuse them.

    Args:
        model: the model.
        batch: the batch.

    Raises:
        KeyError: the batch lacks one.
    """
    own = own_columns(model.network.schema, batch)
    # Here and not within a graph, where an error's message has many lines.
    check_batch(model.network.schema, own)
    return own


def _outputs_of(row: str, source: Any) -> Callable[[Batch], Any]:
    if isinstance(source, Path):
        return _ExportOutputs(row, tf.saved_model.load(str(source)))
    if isinstance(source, str):
        if source == RANDOM:
            # Tied scores count as the mean over random orders: nothing to be drawn.
            return lambda batch: tf.zeros(batch["mask"].shape, tf.float64)
        return lambda batch: _column(row, source, batch)
    if isinstance(source, RequestModel):
        return _ModelOutputs(source)
    if "serving_default" in getattr(source, "signatures", {}):
        return _ExportOutputs(row, source)
    if not callable(source):
        raise TypeError(
            f"rankings[{row!r}] is of type {type(source).__name__}: give a model, an "
            "export's Path, the name of a batch column, 'random', or a function from a "
            "batch to scores [B, L]"
        )
    if isinstance(source, tf.keras.Model):
        return tf.function(
            lambda batch: source(batch, training=False),
            autograph=False,
            reduce_retracing=True,
        )
    return source


def _column(row: str, name: str, batch: Batch) -> tf.Tensor:
    if name not in batch:
        fix = nearest(name, batch)
        if Path(name).is_dir():
            fix = f"an export is given as pathlib.Path({name!r})"
        raise KeyError(f"rankings[{row!r}]: the batch has no column {name!r}; {fix}")
    return batch[name]


def _export_in(row: str, path: Path) -> Path:
    """Returns the version's directory: the path itself, or the newest in it."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = versions_of(path)
    if not versions:
        raise FileNotFoundError(
            f"rankings[{row!r}]: {path} holds no export; make one with `tfrs-prerank "
            "export`"
        )
    return path / str(versions[-1])


class _ModelOutputs:
    """A model of the package as a graph, traced once for all shapes of batches."""

    def __init__(self, model: RequestModel) -> None:
        self._model = model
        self._function: Callable[[Batch], Any] | None = None

    def __call__(self, batch: Batch) -> Any:
        own = columns_for(self._model, batch)
        if self._function is None:
            columns = self._model.network.schema.columns()
            spec = {}
            for name, tensor in own.items():
                shape: list[int | None] = [None] * tensor.shape.rank
                if name in columns and columns[name].length is not None:
                    shape[-1] = columns[name].length
                spec[name] = tf.TensorSpec(shape, tensor.dtype, name)
            # Concrete, or TensorFlow would take several models for one that is traced
            # again and again, and warn.
            self._function = tf.function(
                lambda batch: self._model(batch, training=False),
                autograph=False,
                input_signature=[spec],
            ).get_concrete_function()
        return self._function(own)


class _ExportOutputs:
    """An export's `serving_default`, with logits in the place of probabilities."""

    def __init__(self, row: str, loaded: Any) -> None:
        self._row = row
        # The signature alone does not keep the variables alive.
        self._loaded = loaded
        self._signature = loaded.signatures["serving_default"]
        self._inputs = self._signature.structured_input_signature[1]
        names = self._signature.structured_outputs
        self.tasks = [name for name in names if name not in ("scores", "found")]

    def __call__(self, batch: Batch) -> Any:
        for name in self._inputs:
            if name not in batch:
                raise KeyError(
                    f"rankings[{self._row!r}]: the export reads {name!r}, which the "
                    f"batch has not; {nearest(name, batch)}"
                )
        outputs = dict(self._signature(**{name: batch[name] for name in self._inputs}))
        for task in self.tasks:
            outputs[task] = _logit(outputs[task])
        return outputs


def _logit(probability: tf.Tensor) -> tf.Tensor:
    """Returns float64 logits of float32 probabilities, finite at 0 and 1.

    float32 rounds to 1 what is nearer to it than 2^-25, and to 0 what is below 2^-150.
    """
    probability = tf.cast(probability, tf.float64)
    probability = tf.clip_by_value(probability, 2.0**-150, 1.0 - 2.0**-25)
    return tf.math.log(probability) - tf.math.log1p(-probability)
