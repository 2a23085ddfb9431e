"""Daily retraining: a model begins with the weights of the one before it."""

from __future__ import annotations

import dataclasses
import filecmp
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features.lookups import HashLookup
from tfrs_prerank.features.strings import StringEncoder
from tfrs_prerank.features.tables import EmbeddingTable
from tfrs_prerank.models import run_directory
from tfrs_prerank.models.embedding_tables import embedding_tables, values_of
from tfrs_prerank.objectives.uncertainty import UncertaintyWeights
from tfrs_prerank.optimizers import slots_of
from tfrs_prerank.sampling.streaming import StreamingFrequency

if TYPE_CHECKING:
    from tfrs_prerank.models.request_model import RequestModel

_EXAMPLES = 3
_OF_NETWORK = (
    "query_tower",
    "doc_tower",
    "cross_tower",
    "tower",
    "scorer",
    "bias_model",
)
"""What learns in a network. The weights of the fusion are configured."""


@dataclasses.dataclass(frozen=True)
class TableStart:
    """What a table took over.

    Attributes:
        name: the feature that owns it.
        kept: values, or buckets, that have the row of the previous model.
        new: those that begin anew.
        dropped: those that the model has no more.
        new_examples: the first of the new values in the vocabulary.
        dropped_examples: the first of the dropped ones.
        anew: why no row was kept; None where rows were matched.
    """

    name: str
    kept: int
    new: int
    dropped: int = 0
    new_examples: tuple[str, ...] = ()
    dropped_examples: tuple[str, ...] = ()
    anew: str | None = None

    def __str__(self) -> str:
        if self.anew is not None:
            return f"{self.new:,} rows anew: {self.anew}"
        told = f"{self.kept:,} rows kept"
        for what, count, examples in (
            ("new", self.new, self.new_examples),
            ("dropped", self.dropped, self.dropped_examples),
        ):
            named = f" ({_some(examples, count)})" if examples else ""
            told += f", {count:,} {what}{named}"
        return told


@dataclasses.dataclass(frozen=True)
class PartStart:
    """What a part of a model took over beside the embedding tables.

    Attributes:
        name: the part, such as `query_tower`.
        copied: number of its variables that were copied.
        anew: why others begin anew, by their place in the part; the place is `""`
            where that holds for the whole part.
    """

    name: str
    copied: int
    anew: Mapping[str, str]

    def __str__(self) -> str:
        if "" in self.anew:
            return f"anew: {self.anew['']}"
        told = f"{self.copied} variables copied"
        for why in dict.fromkeys(self.anew.values()):
            paths = [path for path in self.anew if self.anew[path] == why]
            named = _some(paths[:_EXAMPLES], len(paths))
            told += f"; {len(paths)} anew ({named}): {why}"
        return told


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What a model took over from a previous one; printed, it is a table.

    Attributes:
        previous: the run directory.
        tables: by embedding table.
        parts: by part of the model.
        steps: the optimiser's step that training goes on from.
        slots_anew: why the optimiser begins anew; None where it goes on.
    """

    previous: str
    tables: tuple[TableStart, ...]
    parts: tuple[PartStart, ...]
    steps: int
    slots_anew: str | None

    def __str__(self) -> str:
        items: tuple[TableStart | PartStart, ...] = (*self.tables, *self.parts)
        width = max(len(item.name) for item in items)
        optimizer = (
            f"goes on at step {self.steps:,}"
            if self.slots_anew is None
            else f"begins anew: {self.slots_anew}"
        )
        return "\n".join(
            [
                f"warm start from {self.previous}",
                *(f"  {item.name.ljust(width)}  {item}" for item in items),
                f"  {'optimizer'.ljust(width)}  {optimizer}",
            ]
        )


@dataclasses.dataclass(frozen=True)
class _Move:
    """What a variable takes over from that of the previous model.

    Attributes:
        name: what errors call it.
        new: the variable.
        old: that of the previous model.
        to: the rows of the new one that get values; None for all, as they are.
        of: the rows of the old one that they get.
    """

    name: str
    new: tf.Variable
    old: tf.Variable
    to: np.ndarray | None = None
    of: np.ndarray | None = None

    def apply(self) -> None:
        """Assigns the values."""
        if self.to is None:
            self.new.assign(self.old.numpy())
            return
        values = self.new.numpy()
        values[self.to] = self.old.numpy()[self.of]
        self.new.assign(values)


def warm_start(model: RequestModel, previous: str | Path) -> WarmStart:
    """Takes over the weights of a run directory; see `RequestModel.warm_start`."""
    servers = tf.distribute.ParameterServerStrategy
    if isinstance(model.distribute_strategy, servers):
        raise ConfigurationError(
            "warm_start: parameter servers cut tables apart; start without a strategy, "
            "save, and load that run directory under it"
        )
    old = run_directory.load(type(model), previous)
    tables, of_tables = _tables(model, old)
    parts, of_parts = _parts(model, old)
    learned = any(table.kept for table in tables) or any(
        part.copied for part in parts if part.name.endswith("tower")
    )
    if not learned:
        raise ConfigurationError(
            f"warm_start: nothing of {previous} fits the model; train it without"
        )
    moves = of_tables + of_parts
    slots_anew = _other_optimizer(model, old)
    if slots_anew is None:
        moves += _of_slots(model, old, moves)
    for move in moves:
        if move.old.dtype.is_floating and not np.isfinite(move.old.numpy()).all():
            raise ConfigurationError(
                f"warm_start: {move.name} of {previous} holds NaN or infinity; start "
                "from a run before it"
            )
    for move in moves:
        move.apply()
    steps = 0
    if slots_anew is None:
        steps = int(_inner(old).iterations)
        _inner(model).iterations.assign(steps)
    return WarmStart(str(previous), tuple(tables), tuple(parts), steps, slots_anew)


# Tables, by value.


def _tables(
    model: RequestModel, old: RequestModel
) -> tuple[list[TableStart], list[_Move]]:
    before = embedding_tables(old)
    starts, moves = [], []
    for name, table in embedding_tables(model).items():
        was = before.pop(name, None)
        rows = int(table.embeddings.shape[0])
        anew = "it is new" if was is None else _other_rows(table, was)
        if was is None or anew is not None:
            starts.append(TableStart(name, 0, rows, anew=anew))
            continue
        start, to, of = _matched(name, table, was)
        starts.append(start)
        moves.append(_Move(name, table.embeddings, was.embeddings, to, of))
    for name, was in before.items():
        starts.append(TableStart(name, 0, 0, dropped=int(was.embeddings.shape[0])))
    return starts, moves


def _other_rows(new: EmbeddingTable, old: EmbeddingTable) -> str | None:
    """Says why the rows of two tables of one name stand for different things."""
    told = [(_meaning(table), table.size) for table in (new, old)]
    (now, size), (then, old_size) = told
    if now != then:
        return f"{now}, before {then}"
    if size != old_size:
        return f"dimension {size}, before {old_size}"
    if new.lookup is None and not np.array_equal(new.boundaries, old.boundaries):
        return "the boundaries of the buckets differ"
    return None


def _meaning(table: EmbeddingTable) -> str:
    """Says what the rows of a table stand for."""
    if table.lookup is None:
        return f"{table.boundaries.size + 1} buckets of numbers"
    of = f"{getattr(table.feature, 'tokenizer', table.lookup.dtype.name)} values"
    if isinstance(table.lookup, HashLookup):
        return f"{of} in {table.lookup.rows - 1:,} buckets, hashes={table.hashes}"
    return f"{of} of a vocabulary"


def _matched(
    name: str, new: EmbeddingTable, old: EmbeddingTable
) -> tuple[TableStart, np.ndarray | None, np.ndarray | None]:
    """Returns what a table keeps: rows of the new one, and those of the old one."""
    now, then = values_of(new), values_of(old)
    if now is None or then is None:
        return TableStart(name, int(new.embeddings.shape[0]), 0), None, None
    places = {value: place for place, value in enumerate(then)}
    place = np.array([places.get(value, -1) for value in now])
    (kept,), (fresh,) = np.nonzero(place >= 0), np.nonzero(place < 0)
    gone = np.setdiff1d(np.arange(len(then)), place[kept])
    start = TableStart(
        name,
        len(kept),
        len(fresh),
        len(gone),
        tuple(str(now[row]) for row in fresh[:_EXAMPLES]),
        tuple(str(then[row]) for row in gone[:_EXAMPLES]),
    )
    # Row 0 is that of unknown values, and line n of a file is row n + 1.
    to, of = np.append(0, kept + 1), np.append(0, place[kept] + 1)
    return start, to, of


# Everything else, by its place in the model.


def _parts(
    model: RequestModel, old: RequestModel
) -> tuple[list[PartStart], list[_Move]]:
    before = _layers(old)
    others = _other_bert(model, old)
    skipped = {id(table.embeddings) for table in embedding_tables(model).values()}
    starts, moves = [], []
    for name, part in _layers(model).items():
        anew = _other_inputs(part, before.get(name), model, old)
        if anew is not None:
            starts.append(PartStart(name, 0, {"": anew}))
            continue
        reasons, copied = {}, 0
        for path, variable, was in _side_by_side(part, before[name]):
            if id(variable) in skipped:
                continue
            skipped.add(id(variable))  # Several parts may read it.
            why = others.get(id(variable)) or _other_shape(variable, was)
            if why is not None:
                reasons[path] = why
            elif was is not None:
                copied += 1
                moves.append(_Move(f"{name}/{path}", variable, was))
        starts.append(PartStart(name, copied, reasons))
    return starts, moves


def _layers(model: RequestModel) -> dict[str, Any]:
    """Returns the parts of a model that learn, by name."""
    parts: dict[str, Any] = {}
    networks = {"": model.network, "ranker ": getattr(model, "ranker", None)}
    for prefix, network in networks.items():
        for name in _OF_NETWORK:
            parts[prefix + name] = getattr(network, name, None)
    for name in ("uncertainty", "frequency"):
        parts[name] = getattr(model, name, None)
    return {name: part for name, part in parts.items() if part is not None}


def _other_inputs(
    new: Any, old: Any, model: RequestModel, of: RequestModel
) -> str | None:
    """Says why weights of one shape and place would mean something else."""
    if old is None:
        return "it is new"
    if isinstance(new, StreamingFrequency):
        return None
    told = [("tasks", model.schema.task_names, of.schema.task_names)]
    if isinstance(new, UncertaintyWeights):
        told.append(("terms", new.names, old.names))
    fields = getattr(new, "fields", None)
    if fields is not None:
        told.append(("fields", fields.field_names, old.fields.field_names))
    for what, now, then in told:
        if list(now) != list(then):
            return f"its {what} are {', '.join(now)}, before {', '.join(then)}"
    for name in [] if fields is None else fields.field_names:
        if _scale(model.schema[name]) != _scale(of.schema[name]):
            return f"its field {name!r} is declared otherwise"
    return None


def _scale(feature: Any) -> list[Any]:
    """Returns what decides on the meaning and the scale of a field's values."""
    of_numbers = ("log1p", "standardize", "missing", "per", "smoothing")
    of_others = ("op", "left", "right", "encoder", "pooling", "tokenizer", "ngrams")
    names = ("kind", *of_numbers, *of_others)
    return [getattr(feature, name, None) for name in names]


def _other_shape(new: tf.Variable, old: tf.Variable | None) -> str | None:
    if old is None:
        return "it is new"
    now, then = new.shape.as_list(), old.shape.as_list()
    return None if now == then else f"{now}, before {then}"


def _other_bert(model: RequestModel, old: RequestModel) -> dict[int, str]:
    """Returns the variables of BERTs that were made of other files, and says so."""
    before = {part.feature.name: part.feature for part in _strings(old)}
    others: dict[int, str] = {}
    for part in _strings(model):
        was = before.get(part.feature.name)
        if part.bert is None or was is None or part.feature.pretrained is None:
            continue
        if was.pretrained is None or not _same_files(part.feature, was):
            why = "the pretrained BERT is another one"
            others |= {id(variable): why for variable in part.bert.variables}
    return others


def _strings(model: RequestModel) -> list[StringEncoder]:
    return [part for part in model.submodules if isinstance(part, StringEncoder)]


def _same_files(new: Any, old: Any) -> bool:
    files, before = (
        {
            path.relative_to(folder): path
            for path in Path(folder).rglob("*")
            if path.name in ("vocab.txt", "model.safetensors")
        }
        for folder in (new.pretrained, old.pretrained)
    )
    return files.keys() == before.keys() and all(
        filecmp.cmp(file, before[name], shallow=False) for name, file in files.items()
    )


def _side_by_side(
    new: Any, old: Any
) -> Iterator[tuple[str, tf.Variable, tf.Variable | None]]:
    """Yields the variables of an object, each with that of another in its place.

    A place is a path of attributes, as checkpoints use them: Keras numbers the names of
    layers as they are made, in a process.
    """
    waiting = deque([("", new, old)])
    paired: set[int] = set()
    lonely: dict[int, tuple[str, Any]] = {}
    while waiting:
        path, one, other = waiting.popleft()
        # What has several places is taken where the other has one too.
        if id(one) in paired or (other is None and id(one) in lonely):
            continue
        if other is None:
            lonely[id(one)] = path, one
        else:
            paired.add(id(one))
        if isinstance(one, tf.Variable):
            if other is not None:
                yield path, one, other if isinstance(other, tf.Variable) else None
            continue
        theirs = {} if other is None else _children(other)
        for name, child in _children(one).items():
            place = f"{path}/{name}" if path else name
            waiting.append((place, child, theirs.get(name)))
    for key, (path, one) in lonely.items():
        if key not in paired and isinstance(one, tf.Variable):
            yield path, one, None


def _children(part: Any) -> Mapping[str, Any]:
    children: Mapping[str, Any] = tf.train.TrackableView(part).children(part)
    return children


# What the optimiser keeps.


def _inner(model: RequestModel) -> Any:
    """Returns a model's optimiser without its scaling of losses, or None."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _other_optimizer(model: RequestModel, old: RequestModel) -> str | None:
    """Says why an optimiser cannot go on from where another one was."""
    new, then = _inner(model), _inner(old)
    for optimizer, whose in ((new, "the model"), (then, "the previous model")):
        if optimizer is None:
            return f"{whose} is not compiled"
    if type(new) is not type(then):
        return f"{type(new).__name__}, before {type(then).__name__}"
    return None


def _of_slots(
    model: RequestModel, old: RequestModel, moves: list[_Move]
) -> list[_Move]:
    """Returns the moves of the slots that belong to moved variables."""
    new, before = _slots_by_variable(model), _slots_by_variable(old)
    return [
        dataclasses.replace(move, name=f"{kind} of {move.name}", new=slot, old=was)
        for move in moves
        for kind, slot in new.get(id(move.new), {}).items()
        for was in [before.get(id(move.old), {}).get(kind)]
        # Adafactor keeps slots of other shapes, which are not moved.
        if was is not None
        and slot.shape == move.new.shape
        and was.shape == move.old.shape
    ]


def _slots_by_variable(model: RequestModel) -> dict[int, dict[str, tf.Variable]]:
    kinds = slots_of(model.optimizer)
    return {
        id(variable): {kind: slots[place] for kind, slots in kinds.items()}
        for place, variable in enumerate(model.trainable_variables)
    }


def _some(examples: Sequence[str], count: int) -> str:
    return ", ".join([*examples, *(["..."] * (count > len(examples)))])
