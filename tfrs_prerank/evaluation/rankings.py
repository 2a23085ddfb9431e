"""What can rank the documents of a batch: a model, a column, chance, a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.models import PreRanker
from tfrs_prerank.models.network import check_batch

Batch = Mapping[str, tf.Tensor]

RANDOM = "random"


class Ranking:
    """Scores of one row of an evaluation.

    Args:
        row: the row's name, for errors.
        source: a model, the name of a batch column, `"random"`, or a function from a
            batch to scores `[B, L]` or to a dict like a model's.

    Raises:
        TypeError: `source` is none of these.
    """

    def __init__(self, row: str, source: Any) -> None:
        if not isinstance(source, str) and not callable(source):
            raise TypeError(
                f"rankings[{row!r}] is of type {type(source).__name__}: give a model, "
                "the name of a batch column, 'random', or a function from a batch to "
                "scores [B, L]"
            )
        self.row = row
        self._outputs = _outputs_of(row, source)

    def __call__(self, batch: Batch, kinds: list[str]) -> dict[str, tf.Tensor]:
        """Scores the documents of a batch, once for all kinds.

        Args:
            batch: the batch, tensors.
            kinds: `"scores"`, or a task's name for its logits.

        Returns:
            float64 `[B, L]` by kind.

        Raises:
            KeyError: there is no such column, or the model has no such output.
            ValueError: the scores have another shape than the mask.
            TypeError: the scores are no numbers.
        """
        outputs = self._outputs(batch)
        if not isinstance(outputs, Mapping):
            return dict.fromkeys(kinds, self._checked(outputs, batch))
        for kind in kinds:
            if kind not in outputs:
                what = "scores" if kind == "scores" else f"logits of task {kind!r}"
                raise KeyError(
                    f"rankings[{self.row!r}] gives no {what}; {nearest(kind, outputs)}"
                )
        return {kind: self._checked(outputs[kind], batch) for kind in kinds}

    def _checked(self, scores: Any, batch: Batch) -> tf.Tensor:
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


def _outputs_of(row: str, source: Any) -> Callable[[Batch], Any]:
    if source == RANDOM and isinstance(source, str):
        # Tied scores count as the mean over random orders: nothing has to be drawn.
        return lambda batch: tf.zeros(batch["mask"].shape, tf.float64)
    if isinstance(source, str):
        return lambda batch: _column(row, source, batch)
    if isinstance(source, PreRanker):
        return _PreRankerOutputs(source)
    if isinstance(source, tf.keras.Model):
        return tf.function(
            lambda batch: source(batch, training=False),
            autograph=False,
            reduce_retracing=True,
        )
    return source


def _column(row: str, name: str, batch: Batch) -> tf.Tensor:
    if name not in batch:
        raise KeyError(
            f"rankings[{row!r}]: the batch has no column {name!r}; "
            f"{nearest(name, batch)}"
        )
    return batch[name]


class _PreRankerOutputs:
    """A pre-ranker as a graph that is traced once for all shapes of batches."""

    def __init__(self, model: PreRanker) -> None:
        self._model = model
        self._function: Callable[[Batch], Any] | None = None

    def __call__(self, batch: Batch) -> Any:
        # Other columns may be there for other rankings: the model would refuse them.
        columns = self._model.schema.columns()
        own = {
            name: tensor
            for name, tensor in batch.items()
            if name in columns or name in ("doc_ids", "mask")
        }
        # Here and not within the graph, where an error's message has many lines.
        check_batch(self._model.schema, own)
        if self._function is None:
            spec = {}
            for name, tensor in own.items():
                shape: list[int | None] = [None] * tensor.shape.rank
                if name in columns and columns[name].length is not None:
                    shape[-1] = columns[name].length
                spec[name] = tf.TensorSpec(shape, tensor.dtype, name)
            self._function = tf.function(
                lambda batch: self._model(batch, training=False),
                autograph=False,
                input_signature=[spec],
            )
        return self._function(own)
