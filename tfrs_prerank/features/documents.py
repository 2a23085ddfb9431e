"""The documents table: every document once, with its columns."""

from __future__ import annotations

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
        ValueError: an id is given twice, is a pad (`""` or -1) or holds a tab or a
            newline, or a column has another number of rows.

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
    """Raises ValueError for ids that an export could not hold.

    Args:
        ids: `[M]` strings or integers.
    """
    if len(ids) == 0:
        raise ValueError("the documents table is empty; it needs at least one document")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[counts > 1][0]
        raise ValueError(
            f"document id {_plain(twice)!r} is in the table {counts.max()} times; "
            "keep one row for each document"
        )
    if np.issubdtype(np.asarray(ids).dtype, np.integer):
        if (np.asarray(ids) == -1).any():
            raise ValueError("document id -1 is the pad value; give it another id")
        return
    for value in ids:
        text = value.decode() if isinstance(value, bytes) else value
        if text == "" or any(sign in text for sign in "\t\n\r"):
            raise ValueError(
                f"document id {text!r} is empty or holds a tab or a newline; "
                "ids are lines of a file in the export"
            )


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
        array = np.asarray(values)
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
        rows = [[] if row is None else list(row) for row in values]
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
        if array.dtype.kind not in "OSU" or any(
            not isinstance(value, str | bytes) for value in array[:1000]
        ):
            raise _wrong_type(array, column, "strings")
        return array.astype(object)
    if array.dtype.kind == "O" and len(array):
        array = np.array(array.tolist())
    if len(array) == 0:
        return array.astype(column.dtype)
    if column.dtype == "int64":
        if array.dtype.kind not in "iu":
            raise _wrong_type(array, column, "integers")
        return array.astype(np.int64)
    if array.dtype.kind not in "iufb":
        raise _wrong_type(array, column, "numbers")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(
            f"{column.name}: {array[row]} at value {row}; replace missing numbers by "
            "a sentinel and declare it as Numeric(missing=...)"
        )
    return array


def _wrong_type(array: np.ndarray, column: Column, wanted: str) -> TypeError:
    sample = _plain(array[0]) if len(array) else None
    return TypeError(
        f"{column.name}: {wanted} are declared (dtype={column.dtype!r}). "
        f"Received: {sample!r} of type {type(sample).__name__}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value
