"""The documents table as a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_prerank.datasets.log_config import ID_COLUMN
from tfrs_prerank.declaration import on_one_line
from tfrs_prerank.features.documents import DocumentTable


def write_documents(documents: DocumentTable, path: str | Path) -> None:
    """Writes a documents table as Parquet, with the ids in the column `doc_id`.

    Args:
        documents: the table; every column is written, also those no feature reads.
        path: the file, written to a temporary name and renamed.

    Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from tfrs_prerank.features import DocumentTable
    >>> path = pathlib.Path(tempfile.mkdtemp(), "documents.parquet")
    >>> table = DocumentTable(np.array(["a", "b"]), {"genres": [["War"], []]})
    >>> write_documents(table, path)
    >>> read_documents(path).columns["genres"]
    [['War'], []]
    """
    path = Path(path)
    columns = {ID_COLUMN: to_arrow(documents.ids, ID_COLUMN)}
    for name, values in documents.columns.items():
        columns[name] = to_arrow(values, name)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        pq.write_table(pa.table(columns), temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_documents(path: str | Path) -> DocumentTable:
    """Reads a documents table that `write_documents` wrote.

    Args:
        path: the file.

    Returns:
        The table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Parquet file, has no column `doc_id`, or lacks a value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no documents table at {path}")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        text = on_one_line(error)
        raise ValueError(f"{path} is no whole Parquet file: {text}") from None
    if ID_COLUMN not in table.column_names:
        raise ValueError(
            f"{path} has no column {ID_COLUMN!r}; it has: "
            f"{', '.join(table.column_names)}"
        )
    return from_arrow(table, str(path))


def from_arrow(table: pa.Table, where: str) -> DocumentTable:
    """Makes a documents table of an Arrow table with the ids in `doc_id`.

    Args:
        table: the columns.
        where: what errors call the whole.

    Returns:
        The table.

    Raises:
        ValueError: a value is missing.
    """
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            document = table.column(ID_COLUMN)[row].as_py()
            raise ValueError(
                f"{where}: column {name!r} has no value for document {document!r} "
                f"(row {row}); fill it in or declare Numeric(missing=...)"
            )
        columns[name] = to_values(column)
    return DocumentTable(columns.pop(ID_COLUMN), columns)


def to_arrow(values: Any, name: str) -> pa.Array:
    """Returns values `[M]`, an array `[M, T]` or M lists as an Arrow array.

    Args:
        values: the values.
        name: what errors call them.

    Returns:
        Strings, numbers, or lists of them.

    Raises:
        TypeError: values of different types are mixed.
    """
    try:
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = to_arrow(values.reshape(-1), name)
            return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        if isinstance(values, np.ndarray) and values.dtype.kind in "OSU":
            values = values.tolist()
        if isinstance(values, list):
            values = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        text = on_one_line(error)
        raise TypeError(f"documents column {name!r}: {text}") from None
    if pa.types.is_binary(array.type):
        return array.cast(pa.string())
    if pa.types.is_list(array.type) and pa.types.is_binary(array.type.value_type):
        return array.cast(pa.list_(pa.string()))
    return array


def to_values(column: pa.ChunkedArray) -> Any:
    """Returns an Arrow column as a NumPy array, or as lists where lengths differ.

    Args:
        column: a column without missing values.

    Returns:
        `[M]` values (strings as objects), `[M, T]` numbers, or M lists.
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.to_pylist()
    if pa.types.is_fixed_size_list(kind):
        array = column.combine_chunks()
        flat = array.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(array), kind.list_size)
    return column.to_numpy()
