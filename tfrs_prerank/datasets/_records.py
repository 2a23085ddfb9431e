"""What one request's record holds, and the checks before it is written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.declarations import STAGES, Sequence
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import BATCH_OWN_COLUMNS, Column, Schema

OUT_OF_SCENE = "label/out_of_scene"
"""Labels from outside the search scene, which a metric reads; never a task's."""


class Values(NamedTuple):
    """One column of a record, flat.

    Attributes:
        flat: a list of bytes, or an array of int64 or float32.
        lengths: int64, values of each document where a document has several; else None.
    """

    flat: list[bytes] | np.ndarray
    lengths: np.ndarray | None


def required_columns(schema: Schema) -> dict[str, Column]:
    """Returns the columns that every record of a schema must have, by name.

    Args:
        schema: the features and tasks.

    Returns:
        Features that do not come from the documents table, `doc_ids`, each task's
        label, the times of sequences that have some, and `position` or `time` where a
        feature reads them.
    """
    columns = {name: c for name, c in schema.columns().items() if not c.static}
    columns["doc_ids"] = Column("doc_ids", schema.doc_id, None, "doc")
    for task in schema.task_names:
        columns[f"label/{task}"] = Column(f"label/{task}", "float32", None, "doc")
    for feature in schema.training_only:
        if feature.name in BATCH_OWN_COLUMNS:
            columns[feature.name] = BATCH_OWN_COLUMNS[feature.name]
    return columns


def optional_columns(schema: Schema) -> dict[str, Column]:
    """Returns the columns that a record of a schema may have beyond the required.

    Args:
        schema: the features and tasks.

    Returns:
        Columns by name.
    """
    columns = dict(BATCH_OWN_COLUMNS)
    for task in schema.task_names:
        for kind in ("weight", "teacher"):
            name = f"{kind}/{task}"
            columns[name] = Column(name, "float32", None, "doc")
    columns[OUT_OF_SCENE] = Column(OUT_OF_SCENE, "float32", None, "doc")
    required = required_columns(schema)
    return {name: c for name, c in columns.items() if name not in required}


class RecordFormat:
    """Checks requests and makes them flat columns.

    Args:
        schema: the features and tasks.
        documents: where given, every candidate must be in it.
    """

    def __init__(self, schema: Schema, documents: DocumentTable | None = None) -> None:
        self.schema = schema
        self.required = required_columns(schema)
        self.optional = optional_columns(schema)
        self.columns = {**self.required, **self.optional}
        self._known = None if documents is None else set(_ids(documents))
        self._features = set(schema.columns())
        self._times = [
            (feature.name, feature.times)
            for feature in schema.features
            if isinstance(feature, Sequence) and feature.times is not None
        ]
        self._present: set[str] | None = None

    def flatten(self, request: Mapping[str, Any], number: int) -> dict[str, Values]:
        """Checks one request and returns its columns.

        Args:
            request: values by column name.
            number: what errors call a request without a `request_id`.

        Returns:
            Flat columns by name.

        Raises:
            ValueError: a column is missing or unknown, a list is empty or of another
                length, or a value cannot be used; the message is one line.
            TypeError: a value has another type than declared.
        """
        try:
            return self._flatten(request)
        except (TypeError, ValueError) as error:
            given = request.get("request_id")
            called = f"number {number}" if given in (None, "", b"") else repr(given)
            raise type(error)(f"request {called}: {error}") from None

    def _flatten(self, request: Mapping[str, Any]) -> dict[str, Values]:
        self._check_names(request)
        columns = {}
        for name in request:
            column = self.columns[name]
            try:
                columns[name] = _flat(request[name], column)
            except (TypeError, ValueError) as error:
                raise type(error)(f"column {name!r}: {error}") from None
        count = len(columns["doc_ids"].flat)
        if count == 0:
            raise ValueError(
                "column 'doc_ids' is empty: a request needs at least one document; "
                "leave the request out"
            )
        for name, values in columns.items():
            if self.columns[name].owner != "query":
                rows = values.flat if values.lengths is None else values.lengths
                if len(rows) != count:
                    raise ValueError(
                        f"column {name!r} has {len(rows)} values, but 'doc_ids' has "
                        f"{count}; give one for each document"
                    )
        self._check_times(columns)
        self._check_documents(columns["doc_ids"].flat)
        for name, values in columns.items():
            self._check_values(name, values.flat)
        return columns

    def _check_names(self, request: Mapping[str, Any]) -> None:
        for name in self.required:
            if name not in request:
                raise ValueError(
                    f"column {name!r} is missing; {nearest(name, request)}"
                )
        for name in request:
            if name in self.columns:
                continue
            if name in self._features:
                raise ValueError(
                    f"column {name!r} is a static document column, which comes from "
                    "the documents table; remove it here or declare it point_in_time"
                )
            raise ValueError(
                f"column {name!r} is not in the schema; {nearest(name, self.columns)}"
            )
        present = set(request)
        if self._present is None:
            self._present = present
        if present != self._present:
            name = min(present ^ self._present)
            has, had = ("has", "lack") if name in present else ("lacks", "have")
            raise ValueError(
                f"{has} column {name!r}, which the requests before it {had}; give it "
                "in all requests of a split or in none"
            )

    def _check_times(self, columns: Mapping[str, Values]) -> None:
        for name, times in self._times:
            wanted, count = len(columns[name].flat), len(columns[times].flat)
            if count != wanted:
                raise ValueError(
                    f"column {times!r} has {count} values, but {name!r} has {wanted}; "
                    "give one for each behaviour, -1 where it is not known"
                )

    def _check_documents(self, flat: Any) -> None:
        ids = flat if isinstance(flat, list) else flat.tolist()
        pad = b"" if self.schema.doc_id == "string" else -1
        seen = set(ids)
        if pad in seen:
            raise ValueError(
                f"column 'doc_ids' holds {_plain(pad)!r}, the pad value; "
                "remove the document or give it another id"
            )
        if len(seen) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(
                f"column 'doc_ids' holds {_plain(twice)!r} {ids.count(twice)} times; "
                "keep a document once in a list"
            )
        if self._known is not None and not seen <= self._known:
            unknown = next(i for i in ids if i not in self._known)
            raise ValueError(
                f"column 'doc_ids': document {_plain(unknown)!r} is not in the "
                "documents table; add it there or leave it out of the request"
            )

    def _check_values(self, name: str, flat: Any) -> None:
        if name == "stage":
            bad = (flat < 0) | (flat >= len(STAGES))
            fix = f"use a code of {STAGES}"
        elif name == "position":
            bad, fix = flat < -1, "positions start at 0, and -1 means none"
        elif name.startswith("weight/"):
            bad = np.isinf(flat) | (flat < 0)
            fix = "a weight is finite and not negative, or NaN for none"
        elif name.startswith(("label/", "teacher/")):
            bad, fix = np.isinf(flat), "give a finite number, or NaN where it is absent"
        elif isinstance(flat, np.ndarray) and flat.dtype == np.float32:
            bad = ~np.isfinite(flat)
            fix = (
                "replace missing numbers by a sentinel and declare it as "
                "Numeric(missing=...)"
                if name in self._features
                else "give a finite number"
            )
        else:
            return
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            raise ValueError(f"column {name!r} holds {flat[place]} at {place}; {fix}")


def id_array(documents: DocumentTable, schema: Schema) -> np.ndarray:
    """Returns a table's ids in the schema's type, bytes objects or int64.

    Args:
        documents: the table.
        schema: says of which type the ids are.

    Returns:
        `[M]` ids.

    Raises:
        TypeError: the ids are of the other type.
    """
    is_integer = np.asarray(documents.ids).dtype.kind in "iu"
    if is_integer != (schema.doc_id == "int64"):
        received = "int64" if is_integer else "string"
        raise TypeError(
            f"the schema declares doc_id={schema.doc_id!r}. Received: a documents "
            f"table with {received} ids, such as {_plain(documents.ids[0])!r}"
        )
    if is_integer:
        return np.asarray(documents.ids).astype(np.int64)
    return np.array(_ids(documents), object)


def _ids(documents: DocumentTable) -> list[Any]:
    ids = np.asarray(documents.ids).tolist()
    return [i.encode("utf-8") if isinstance(i, str) else i for i in ids]


def _flat(value: Any, column: Column) -> Values:
    if column.owner == "query":
        if column.length is None:
            if isinstance(value, np.ndarray) and value.ndim == 0:
                value = value.item()
            if isinstance(value, list | tuple | np.ndarray):
                raise TypeError(
                    f"one value is declared (max_values=1). Received: {value!r}"
                )
            return Values(_typed([value], column), None)
        row = _row(value, column)
        _check_vector(np.array([len(row)]), column)
        return Values(_typed(row, column), None)
    rows = _row(value, column)
    if column.length is None:
        return Values(_typed(rows, column), None)
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        lengths = np.full(len(rows), rows.shape[1], np.int64)
        flat: Any = rows.reshape(-1)
    else:
        parts = [_row(row, column) for row in rows]
        lengths = np.array([len(part) for part in parts], np.int64)
        flat = list(itertools.chain.from_iterable(parts))
    _check_vector(lengths, column)
    return Values(_typed(flat, column), lengths)


def _row(value: Any, column: Column) -> Any:
    """Returns a list or an array; a string must not pass as a list of letters."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return value
    raise TypeError(
        "a list is declared. Received: "
        f"{_plain(value)!r} of type {type(value).__name__}"
    )


def _check_vector(lengths: np.ndarray, column: Column) -> None:
    # Only a vector has several floats; its length never varies.
    if column.dtype == "float32" and (lengths != column.length).any():
        wrong = int(lengths[lengths != column.length][0])
        raise ValueError(
            f"vectors of {column.length} are declared. Received: one of {wrong}"
        )


def _typed(values: Any, column: Column) -> list[bytes] | np.ndarray:
    """Returns flat values in the declared type, or says what is wrong with them."""
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise TypeError(
            f"one value for each document is declared. Received: shape {values.shape}"
        )
    if column.dtype == "string":
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        for value in plain:
            if not isinstance(value, str | bytes):
                raise _wrong(value, column, "strings")
        return [v.encode("utf-8") if isinstance(v, str) else v for v in plain]
    wanted, kinds = ("integers", "iu") if "int" in column.dtype else ("numbers", "iufb")
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        array = values
    else:
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        types = (
            (int, np.integer) if kinds == "iu" else (int, float, np.number, np.bool_)
        )
        for value in plain:
            if not isinstance(value, types) or (
                kinds == "iu" and isinstance(value, bool)
            ):
                raise _wrong(value, column, wanted)
        try:
            array = np.array(plain, None if plain else column.dtype)
            # Mixed signs beyond int64 would become floats, and lose digits.
            fits = kinds != "iu" or array.dtype.kind in kinds
        except OverflowError:
            fits = False
        if not fits:
            raise ValueError(f"{max(plain, key=abs)} does not fit into int64")
    if array.dtype.kind not in kinds:
        raise _wrong(array[0] if len(array) else array, column, wanted)
    if kinds == "iu":
        if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
            raise ValueError(f"{array.max()} does not fit into int64")
        return array.astype(np.int64)
    with np.errstate(over="ignore"):  # infinity is refused with a better message
        return array.astype(np.float32)


def _wrong(value: Any, column: Column, wanted: str) -> TypeError:
    dtype = "int64" if column.dtype == "int32" else column.dtype
    return TypeError(
        f"{wanted} are declared (dtype={dtype!r}). "
        f"Received: {_plain(value)!r} of type {type(value).__name__}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.item() if isinstance(value, np.generic) else value
