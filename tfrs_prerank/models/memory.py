"""What a model takes of memory, told before its first step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.models.columns import columns_of, example_of, flatten_rows
from tfrs_prerank.models.embedding_tables import embedding_tables, readers_of
from tfrs_prerank.models.network import Network
from tfrs_prerank.optimizers import slots_of

if TYPE_CHECKING:
    from tfrs_prerank.models.request_model import RequestModel

_MIB = 2**20
_SLOTS_OF_ADAM = 2
_OF_TABLES = "table", "rows", "size", "dtype", "weights MiB", "slots MiB", "read by"
_OF_PARTS = "part", "parameters", "weights MiB", "slots MiB"


@dataclasses.dataclass(frozen=True)
class TableMemory:
    """What an embedding table takes.

    Attributes:
        name: the feature that owns it.
        features: the features that read it.
        rows: number of rows.
        size: numbers in a row.
        dtype: of the numbers.
        weights: bytes of the table.
        slots: bytes of what the optimiser keeps of it.
    """

    name: str
    features: tuple[str, ...]
    rows: int
    size: int
    dtype: str
    weights: int
    slots: int


@dataclasses.dataclass(frozen=True)
class PartMemory:
    """What a part of a model takes beside the embedding tables.

    Attributes:
        name: the part, such as `query_tower`.
        parameters: how many numbers its variables hold, trained or not.
        weights: bytes of the variables.
        slots: bytes of what the optimiser keeps of them.
    """

    name: str
    parameters: int
    weights: int
    slots: int


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """What the variables of a model take; printed, it is a table.

    Each replica of a distributed training takes as much; parameter servers share it.
    A step of training takes more for a while: the activations, and a gradient as large
    as all weights but the tables, of which it has the rows of the batch only.

    Attributes:
        tables: the embedding tables.
        parts: everything else, part by part.
        documents: number of documents of an export; None where none was asked for.
        of_documents: bytes of their vectors and match keys in an export. Their ids take
            a hash table beside them.
        served: bytes of the weights in an export.
    """

    tables: tuple[TableMemory, ...]
    parts: tuple[PartMemory, ...]
    documents: int | None = None
    of_documents: int = 0
    served: int = 0

    @property
    def parameters(self) -> int:
        """How many numbers all variables hold, slots left out."""
        of_tables = sum(table.rows * table.size for table in self.tables)
        return of_tables + sum(part.parameters for part in self.parts)

    @property
    def _items(self) -> tuple[TableMemory | PartMemory, ...]:
        return (*self.tables, *self.parts)

    @property
    def weights(self) -> int:
        """Bytes of all variables, slots left out."""
        return sum(item.weights for item in self._items)

    @property
    def slots(self) -> int:
        """Bytes of what the optimiser keeps."""
        return sum(item.slots for item in self._items)

    @property
    def swap(self) -> int:
        """Bytes that a server needs while it swaps one export for the next."""
        return 2 * (self.of_documents + self.served)

    @property
    def total(self) -> str:
        """The line of the totals."""
        return (
            f"{self.parameters:,} parameters: {_mib(self.weights)} MiB of weights and "
            f"{_mib(self.slots)} MiB of optimiser slots"
        )

    def __str__(self) -> str:
        of_tables = [
            [
                table.name,
                f"{table.rows:,}",
                f"{table.size}",
                table.dtype,
                _mib(table.weights),
                _mib(table.slots),
                ", ".join(table.features),
            ]
            for table in self.tables
        ]
        of_parts = [
            [part.name, f"{part.parameters:,}", _mib(part.weights), _mib(part.slots)]
            for part in self.parts
        ]
        lines = [
            *_aligned([_OF_TABLES, *of_tables], numbers=(1, 2, 4, 5)),
            "",
            *_aligned([_OF_PARTS, *of_parts], numbers=(1, 2, 3)),
            "",
            self.total,
        ]
        if self.documents is not None:
            lines.append(
                f"an export of {self.documents:,} documents: "
                f"{_mib(self.of_documents)} MiB of vectors and match keys and "
                f"{_mib(self.served)} MiB of weights; {_mib(self.swap)} MiB while a "
                "server swaps versions"
            )
        return "\n".join(lines)


def memory_report(model: RequestModel, documents: int | None = None) -> MemoryReport:
    """Adds up what a model's variables take; see `RequestModel.memory_report`."""
    if documents is not None and documents < 0:
        raise ValueError(f"documents must not be negative. Received: {documents}")
    slots = _slot_bytes(model)
    tables = embedding_tables(model)
    seen = {id(table.embeddings) for table in tables.values()}
    parts = []
    for name, variables in _parts(model):
        own = [v for v in _distinct(variables) if id(v) not in seen]
        seen |= {id(variable) for variable in own}
        if own:
            parts.append(
                PartMemory(
                    name,
                    sum(_count(variable) for variable in own),
                    sum(_bytes(variable) for variable in own),
                    sum(slots.get(id(variable), 0) for variable in own),
                )
            )
    of_tables = tuple(
        TableMemory(
            name,
            readers_of(model.schema, name),
            rows=int(table.embeddings.shape[0]),
            size=table.size,
            dtype=tf.as_dtype(table.embeddings.dtype).name,
            weights=_bytes(table.embeddings),
            slots=slots.get(id(table.embeddings), 0),
        )
        for name, table in tables.items()
    )
    report = MemoryReport(of_tables, tuple(parts), documents)
    if documents is None:
        return report
    if not isinstance(model.network, Network):
        raise ConfigurationError(
            "memory_report: a ranker is not exported; leave documents out"
        )
    return dataclasses.replace(
        report,
        of_documents=documents * _bytes_of_document(model.network),
        served=sum(_bytes(v) for v in _served(model.network)),
    )


def _parts(model: RequestModel) -> Iterable[tuple[str, Iterable[Any]]]:
    """Yields the parts of a model and their variables, the rest of a model last."""
    for network in (model.network, getattr(model, "ranker", None)):
        if network is None:
            continue
        prefix = "" if network is model.network else "ranker "
        for name, part in vars(network).items():
            if isinstance(part, tf.keras.layers.Layer):
                yield prefix + name, part.variables
    for name in ("uncertainty", "frequency"):
        part = getattr(model, name, None)
        if part is not None:
            yield name, part.variables


def _served(network: Network) -> list[tf.Variable]:
    """Returns the variables that an export holds."""
    towers = [network.query_tower, network.doc_tower, network.cross_tower]
    layers = [*towers, network.scorer, network.fusion]
    return _distinct(
        v for layer in layers if layer is not None for v in layer.variables
    )


def _bytes_of_document(network: Network) -> int:
    """Returns what the vectors and match keys of one document take."""
    schema = network.schema
    columns = columns_of(schema, example_of(schema), "doc")
    columns = {name: flatten_rows(column) for name, column in columns.items()}
    vector = network.encode_docs(columns)
    return sum(map(_bytes, [vector, *network.matches.keys_of(columns, "doc").values()]))


def _slot_bytes(model: RequestModel) -> dict[int, int]:
    """Returns what an optimiser keeps of each trained variable, by the variable's id.

    Before `compile` that is what `LazyAdam`, the default, would keep.
    """
    variables = model.trainable_variables
    if model.optimizer is None:
        return {id(v): _SLOTS_OF_ADAM * _bytes(v) for v in variables}
    by_variable = zip(*slots_of(model.optimizer).values(), strict=True)
    return {
        id(variable): sum(map(_bytes, slots))
        for variable, slots in zip(variables, by_variable, strict=False)
    }


def _distinct(variables: Iterable[tf.Variable]) -> list[tf.Variable]:
    return list({id(variable): variable for variable in variables}.values())


def _count(values: tf.Variable | tf.Tensor) -> int:
    return math.prod(values.shape.as_list())


def _bytes(values: tf.Variable | tf.Tensor) -> int:
    size: int = tf.as_dtype(values.dtype).size
    return _count(values) * size


def _mib(size: int) -> str:
    return f"{size / _MIB:,.1f}"


def _aligned(lines: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[str]:
    """Returns the lines of a monospaced table, columns of numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
