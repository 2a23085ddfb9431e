"""The documents table: every document once, with its columns."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.schema import Column, Schema


@dataclasses.dataclass(frozen=True)
class DocumentTable:
    """All documents with the columns that features read, one row each.

    Attributes:
        ids: the document ids, `[M]`, strings or integers, each once.
        columns: column by name; `[M]` values, `[M, T]` padded values, or a list of M
            lists for several values.

    Raises:
        TypeError: an id is neither a string nor an integer.
        ValueError: an id is given twice, is a pad (`""` or -1), is not UTF-8 or holds
            a tab or a newline, or a column has another number of rows.

    >>> import numpy as np
    >>> from tfrs_prerank.features import DocumentTable
    >>> table = DocumentTable(np.array(["a", "b"]), {"genres": [["War"], []]})
    >>> len(table)
    2
    """

    ids: np.ndarray
    columns: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_document_ids(self.ids)
        for name, values in self.columns.items():
            if len(values) != len(self.ids):
                raise ValueError(
                    f"documents column {name!r} has {len(values)} rows, "
                    f"but there are {len(self.ids)} document ids"
                )

    def __len__(self) -> int:
        """Returns the number of documents."""
        return len(self.ids)

    def arrays(self, schema: Schema) -> dict[str, np.ndarray]:
        """Returns the document columns of a schema as padded, checked arrays.

        Args:
            schema: says which columns, of which type and length.

        Returns:
            `[M]` or `[M, T]` arrays by name: strings as objects, int64, float32.

        Raises:
            KeyError: a column is missing; the nearest one is named.
            TypeError: a column is of another type than declared.
            ValueError: a number is NaN or infinite.
        """
        arrays = {}
        for name, column in schema.columns("doc").items():
            if column.training_only:
                continue
            if name not in self.columns:
                raise KeyError(
                    f"the documents table has no column {name!r}; "
                    f"{nearest(name, self.columns)}"
                )
            arrays[name] = as_array(self.columns[name], column)
        return arrays


def check_document_ids(ids: np.ndarray) -> None:
    """Checks that an export can hold the ids of a documents table.

    Args:
        ids: `[M]` strings or integers.

    Raises:
        TypeError: an id is neither a string nor an integer.
        ValueError: there is none, an id is given twice or is a pad, is not UTF-8, or
            holds a tab or a newline.
    """
    if len(ids) == 0:
        raise ValueError("the documents table is empty; it needs at least one document")
    values = [_plain_id(value) for value in np.asarray(ids)]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError(
                "document ids are strings or integers. "
                f"Received: {value!r} of type {type(value).__name__}"
            )
        if value == -1:
            raise ValueError("document id -1 is the pad value; give it another id")
        if value == "" or (
            isinstance(value, str) and any(sign in value for sign in "\t\n\r")
        ):
            raise ValueError(
                f"document id {value!r} is empty or holds a tab or a newline; "
                "ids are lines of a file in the export"
            )
    if len(set(values)) < len(values):
        twice, count = collections.Counter(values).most_common(1)[0]
        raise ValueError(
            f"document id {twice!r} is in the table {count} times; "
            "keep one row for each document"
        )


def _plain_id(value: Any) -> Any:
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8")
        if isinstance(value, str):
            value.encode("utf-8")  # half of a surrogate pair is none
    except UnicodeError:
        raise ValueError(
            f"document id {_bare(value)!r} is not UTF-8; ids are lines of a "
            "file in the export"
        ) from None
    return _bare(value)


def as_array(values: Any, column: Column) -> np.ndarray:
    """Checks one column against its declaration and pads it.

    Args:
        values: `[R]` values, or R lists (or a padded `[R, T]` array) where the column
            has several values.
        column: what is declared.

    Returns:
        An array `[R]` or `[R, column.length]`; longer lists are cut.

    Raises:
        TypeError: the values are of another type than declared.
        ValueError: a number is NaN or infinite, or a vector has another length.
    """
    if column.length is None:
        # NumPy's own strings would all take the room of the longest.
        array = np.asarray(values, object if column.dtype == "string" else None)
        if array.ndim != 1:
            raise TypeError(
                f"{column.name}: one value a row is declared (max_values=1). "
                f"Received: shape {array.shape}"
            )
        return _checked(array, column)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        lengths = np.full(len(values), values.shape[1])
        flat = values.reshape(-1)
    else:
        rows = [_listed(row, column) for row in values]
        lengths = np.array([len(row) for row in rows], np.int64)
        flat = np.array([value for row in rows for value in row], dtype=object)
    is_vector = column.dtype == "float32"
    if is_vector and (lengths != column.length).any():
        wrong = int(lengths[lengths != column.length][0])
        raise ValueError(
            f"{column.name}: vectors of {column.length} are declared. "
            f"Received: one of {wrong}"
        )
    flat = _checked(flat, column)
    padded = np.full((len(lengths), column.length), column.pad, dtype=flat.dtype)
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = place < column.length
    padded[row[kept], place[kept]] = flat[kept]
    return padded


def _checked(array: np.ndarray, column: Column) -> np.ndarray:
    """Returns a flat array in the declared type, or says what is wrong with it."""
    if column.dtype == "string":
        if len(array) and array.dtype.kind not in "SU" and not _all_strings(array):
            for value in array:
                if not isinstance(value, str | bytes):
                    raise _wrong_type(value, column, "strings")
        return array.astype(object)
    if len(array) == 0:
        return array.astype(column.dtype)
    wanted, kinds = (
        ("integers", "iu") if column.dtype == "int64" else ("numbers", "iufb")
    )
    if array.dtype.kind == "O":
        for value in array:
            if np.asarray(value).dtype.kind not in kinds:
                raise _wrong_type(value, column, wanted)
        array = np.array(array.tolist())
    if array.dtype.kind not in kinds:
        raise _wrong_type(array[0], column, wanted)
    if column.dtype == "int64":
        if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
            raise ValueError(
                f"{column.name}: {array.max()} does not fit int64; declare "
                "dtype='string'"
            )
        return array.astype(np.int64)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(
            f"{column.name}: {array[row]} at value {row}; replace missing numbers by "
            "a sentinel and declare it as Numeric(missing=...)"
        )
    return array


def _all_strings(array: np.ndarray) -> bool:
    """Says whether all are strings, or all bytes, without a loop in Python."""
    import pandas as pd  # costs a third of a second, and not every command reads tables

    return pd.api.types.infer_dtype(array, skipna=False) in ("string", "bytes")


def _listed(row: Any, column: Column) -> list[Any]:
    if row is None:
        return []
    if isinstance(row, str | bytes) or not np.iterable(row):
        raise TypeError(
            f"{column.name}: a list a row is declared ({column.length} values). "
            f"Received: {row!r} of type {type(row).__name__}"
        )
    return list(row)


def _wrong_type(value: Any, column: Column, wanted: str) -> TypeError:
    value = _plain(value)
    return TypeError(
        f"{column.name}: {wanted} are declared (dtype={column.dtype!r}). "
        f"Received: {value!r} of type {type(value).__name__}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return _bare(value)


def _bare(value: Any) -> Any:
    """Returns a NumPy scalar as Python's own type, which errors show."""
    return value.item() if isinstance(value, np.generic) else value
