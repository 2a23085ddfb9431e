"""What all metrics share: reading of labels, scores, masks, weights and columns."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Lists:
    """The checked arguments of one `update_state`.

    Attributes:
        labels: `[B, L]`, float64 with NaN = absent, or ids.
        scores: float64 `[B, L]`.
        where: bool `[B, L]`; false also where a document's weight is 0.
        list_weights: float64 `[B]`, or None where none are given.
        doc_weights: float64 `[B, L]`, or None where none are given.
        columns: the further columns, `[B, L]`.
    """

    labels: tf.Tensor
    scores: tf.Tensor
    where: tf.Tensor
    list_weights: tf.Tensor | None
    doc_weights: tf.Tensor | None
    columns: dict[str, tf.Tensor]


class Metric(tf.keras.metrics.Metric):
    """A metric over a batch of lists.

    Attributes:
        reads: `"scores"` where the metric ranks by the fused scores, `"logits"` where
            it reads the logit of its task.
        additive: whether `list_sums` and `value_of` exist, so that a bootstrap can
            add lists up again.
    """

    reads: ClassVar[Literal["scores", "logits"]] = "scores"
    additive: ClassVar[bool] = True

    _labels_are_numbers: ClassVar[bool] = True

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes.

        `{task}` in a column's name stands for the task that is measured.
        """
        return {"labels": "label/{task}"}

    def arguments(self, batch: Mapping[str, Any], task: str) -> dict[str, Any]:
        """Returns the columns of a batch that `update_state` takes, by argument.

        Args:
            batch: columns by name.
            task: the task that is measured.

        Raises:
            KeyError: the batch has no such column.
        """
        found = {}
        for argument, column in self.columns.items():
            column = column.format(task=task)
            if column not in batch:
                raise KeyError(
                    f"{self.name}: the batch has no {column!r}, the {argument} of task "
                    f"{task!r}; add the column or leave the metric out"
                )
            found[argument] = batch[column]
        return found

    @property
    @abc.abstractmethod
    def usable(self) -> tf.Tensor:
        """Whether there is a result so far (bool scalar)."""

    def _read(
        self,
        labels: Any,
        scores: Any,
        where: Any,
        weights: Any = None,
        columns: dict[str, Any] | None = None,
    ) -> Lists:
        labels = tf.convert_to_tensor(labels)
        if self._labels_are_numbers:
            labels = tf.cast(labels, tf.float64)
        scores = tf.cast(tf.convert_to_tensor(scores), tf.float64)
        if labels.shape.rank not in (2, None) or not labels.shape.is_compatible_with(
            scores.shape
        ):
            raise ValueError(
                f"{self.name}: labels has shape {labels.shape} and scores "
                f"{scores.shape}: give both as [B, L]."
            )
        if where is None:
            where = tf.ones_like(scores, tf.bool)
        where = tf.convert_to_tensor(where)
        if where.dtype != tf.bool:
            raise TypeError(
                f"{self.name}: where has dtype {where.dtype.name}: "
                "give a bool mask, true = valid."
            )
        if not where.shape.is_compatible_with(scores.shape):
            raise ValueError(
                f"{self.name}: where has shape {where.shape} and scores "
                f"{scores.shape}: give both as [B, L]."
            )
        list_weights = doc_weights = None
        if weights is not None:
            weights = tf.cast(tf.convert_to_tensor(weights), tf.float64)
            shape = weights.shape
            weights = tf.where(tf.math.is_nan(weights), tf.ones_like(weights), weights)
            if tf.executing_eagerly() and bool(tf.reduce_any(weights < 0.0)):
                raise ValueError(
                    f"{self.name}: weights holds {float(tf.reduce_min(weights)):g}: "
                    "give none below 0."
                )
            # In a graph nobody can be told: no weight rather than a negative one.
            weights = tf.nn.relu(weights)
            if shape.rank == 2 and shape.is_compatible_with(scores.shape):
                doc_weights = weights
                where = tf.logical_and(where, tf.not_equal(weights, 0))
            elif shape.rank == 1 and shape.is_compatible_with(scores.shape[:1]):
                list_weights = weights
            else:
                raise ValueError(
                    f"{self.name}: weights has shape {shape} and scores "
                    f"{scores.shape}: give weights [B] for lists or [B, L] for "
                    "documents."
                )
        further = self._read_columns(columns or {}, scores)
        return Lists(labels, scores, where, list_weights, doc_weights, further)

    def _read_columns(
        self, columns: dict[str, Any], scores: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        wanted = dict(self.columns)
        del wanted["labels"]
        for name in columns:
            if name not in wanted:
                raise TypeError(
                    f"{self.name}: there is no argument {name!r}; the columns are "
                    f"{sorted(wanted) or 'labels only'}."
                )
        tensors = {}
        for name, column in wanted.items():
            if columns.get(name) is None:
                raise TypeError(
                    f"{self.name}: {name} is missing: give {name}=, the batch's "
                    f"{column!r}."
                )
            tensor = tf.convert_to_tensor(columns[name])
            if not tensor.shape.is_compatible_with(scores.shape):
                raise ValueError(
                    f"{self.name}: {name} has shape {tensor.shape} and scores "
                    f"{scores.shape}: give both as [B, L]."
                )
            tensors[name] = tensor
        return tensors

    def reset_state(self) -> None:
        """Forgets all lists."""
        # Keras' own resets scalars only.
        tf.keras.backend.batch_set_value(
            [(variable, np.zeros(variable.shape)) for variable in self.variables]
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments (the state is float64 always)."""
        return {"name": self.name}


def nan_where(condition: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns float64 values, NaN where the condition holds."""
    return tf.where(condition, tf.constant(float("nan"), tf.float64), values)


def as_sums(sums: Any) -> tf.Tensor:
    """Returns a float64 tensor; Python's numbers lose nothing on the way."""
    return tf.cast(tf.convert_to_tensor(sums, dtype_hint=tf.float64), tf.float64)
