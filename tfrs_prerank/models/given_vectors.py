"""Embeddings that begin at given vectors."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.models.embedding_tables import (
    embedding_tables,
    readers_of,
    values_of,
)

if TYPE_CHECKING:
    from tfrs_prerank.features.tables import EmbeddingTable
    from tfrs_prerank.models.request_model import RequestModel

_EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class InitializedEmbeddings:
    """What became of given vectors.

    Attributes:
        feature: the feature.
        rows: rows of its table that were set.
        without: values of the vocabulary that had no vector; 0 for hash buckets.
        unknown: ids that are not in the vocabulary.
        unknown_examples: the first of them.
    """

    feature: str
    rows: int
    without: int
    unknown: int
    unknown_examples: tuple[str, ...]

    def __str__(self) -> str:
        told = f"{self.feature}: {self.rows:,} row{'s' * (self.rows != 1)} set"
        if self.without:
            told += f"; {self.without:,} of the vocabulary without a vector"
        if self.unknown:
            told += (
                f"; {self.unknown:,} given ids not in the vocabulary "
                f"({', '.join(self.unknown_examples)})"
            )
        return told


def initialize_embeddings(
    model: RequestModel, feature: str, ids: Any, vectors: Any
) -> InitializedEmbeddings:
    """Sets rows of a table; see `RequestModel.initialize_embeddings`."""
    table = _table_of(model, feature)
    ids = _checked_ids(feature, ids, table)
    vectors = _checked_vectors(feature, vectors, len(ids), table)
    values = values_of(table)
    found = _rows(table, ids, values)
    # A vector of zeros means missing.
    given = (found > 0) & vectors.any(axis=1)
    rows, place = np.unique(found[given], return_inverse=True)
    embeddings = table.embeddings.numpy()
    # Ids that share a hash bucket; of a vocabulary each has a row of its own.
    embeddings[rows] = 0.0
    counts = np.bincount(place, minlength=len(rows)).astype(embeddings.dtype)
    np.add.at(embeddings, found[given], vectors[given] / counts[place, np.newaxis])
    table.embeddings.assign(embeddings)
    unknown = np.flatnonzero(found == 0)
    return InitializedEmbeddings(
        feature,
        rows=len(rows),
        without=0 if values is None else len(values) - len(rows),
        unknown=len(unknown),
        unknown_examples=tuple(str(ids[row]) for row in unknown[:_EXAMPLES]),
    )


def _rows(
    table: EmbeddingTable, ids: list[Any], values: list[Any] | None
) -> np.ndarray:
    """Returns the row of each id, 0 for one that is not among a table's values."""
    if values is None:
        rows: np.ndarray = table.lookup(tf.constant(ids, table.lookup.dtype)).numpy()
        return rows
    places = {value: row for row, value in enumerate(values, start=1)}
    return np.array([places.get(value, 0) for value in ids])


def _table_of(model: RequestModel, feature: str) -> EmbeddingTable:
    declared = model.schema[feature]
    for owner, table in embedding_tables(model).items():
        if feature in readers_of(model.schema, owner) and table.lookup is not None:
            if table.hashes > 1:
                raise ValueError(
                    f"{feature}: with hashes={table.hashes} an embedding is made of "
                    "several rows, so it cannot be set; declare hashes=1 or a "
                    "vocabulary"
                )
            return table
    raise ValueError(
        f"{feature}: a {declared.kind} feature of this model has no embeddings of ids "
        "to set; name one that has"
    )


def _checked_ids(feature: str, ids: Any, table: EmbeddingTable) -> list[Any]:
    given = [
        value.decode() if isinstance(value, bytes) else value
        for value in (ids.tolist() if hasattr(ids, "tolist") else ids)
    ]
    kind, pad = (str, "") if table.lookup.dtype == tf.string else (int, -1)
    for value in given:
        if type(value) is not kind or value == pad:
            raise ValueError(
                f"{feature}: an id is of type {kind.__name__} and not the pad "
                f"{pad!r}. Received: {value!r}"
            )
    if len(set(given)) < len(given):
        ((twice, _),) = collections.Counter(given).most_common(1)
        raise ValueError(
            f"{feature}: {twice!r} is given twice; keep one vector of each id"
        )
    return given


def _checked_vectors(
    feature: str, vectors: Any, count: int, table: EmbeddingTable
) -> np.ndarray:
    with np.errstate(over="ignore"):  # Infinity is refused below.
        given = np.asarray(vectors).astype(np.float32)
    if given.ndim != 2 or len(given) != count or not count:
        raise ValueError(
            f"{feature}: vectors are of shape [n, {table.size}] for n ids, at least "
            f"one. Received: {list(given.shape)} for {count} ids"
        )
    if given.shape[1] != table.size:
        raise ValueError(
            f"{feature}: vectors have the size {table.size} of the embeddings; bring "
            f"them to it with tfrs_prerank.datasets.reduce_vectors, or declare "
            f"dimension={given.shape[1]}. Received: {given.shape[1]}"
        )
    broken = ~np.isfinite(given).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{feature}: the vector in row {int(broken.argmax())} holds NaN or "
            "infinity (of float32); leave it out"
        )
    return given
