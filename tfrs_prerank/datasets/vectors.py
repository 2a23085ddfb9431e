"""Vectors of documents or ids as a Parquet file."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_prerank.datasets._log_rows import is_string
from tfrs_prerank.declaration import nearest, on_one_line

_ROWS = 65_536  # of a row group


class VectorTable(NamedTuple):
    """Vectors by id, one row each.

    Attributes:
        ids: `[M]` strings or int64, each once.
        vectors: float32 `[M, d]`; an all-zero one means missing.
    """

    ids: np.ndarray
    vectors: np.ndarray


def write_vectors(table: VectorTable, path: str | Path) -> None:
    """Writes vectors as Parquet with the columns `id` and `vector`.

    Args:
        table: ids `[M]` and vectors `[M, d]`.
        path: the file, written to a temporary name and renamed.

    Raises:
        TypeError: an id is neither a string nor an integer.
        ValueError: an id is there twice, numbers are not finite, or the shapes differ.

    Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from tfrs_prerank.datasets.vectors import VectorTable
    >>> path = pathlib.Path(tempfile.mkdtemp(), "vectors.parquet")
    >>> table = VectorTable(np.array(["a", "b"]), np.array([[1.0, 2.0], [0.0, 3.0]]))
    >>> write_vectors(table, path)
    >>> read_vectors(path).vectors.tolist()
    [[1.0, 2.0], [0.0, 3.0]]
    """
    path = Path(path)
    ids, vectors = check_vectors(table, str(path))
    schema = pa.schema([("id", _id_type(ids)), ("vector", pa.list_(pa.float32()))])
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with pq.ParquetWriter(temporary, schema) as writer:
            for start in range(0, len(ids), _ROWS):
                part = slice(start, start + _ROWS)
                columns = [pa.array(ids[part], schema.field("id").type)]
                columns.append(_lists(vectors[part]))
                writer.write_table(pa.table(columns, schema=schema))
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_vectors(path: str | Path) -> VectorTable:
    """Reads vectors from Parquet with the columns `id` and `vector`.

    Row group by row group, so that memory holds little more than the vectors. Other
    columns are ignored; float64 numbers become float32.

    Args:
        path: the file.

    Returns:
        Ids and vectors, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: a column is of another type.
        ValueError: it is no Parquet file, a column or a value is missing, an id is
            there twice, a vector has another length or a number that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vectors at {path}")
    ids: list[np.ndarray] = []
    vectors: np.ndarray | None = None
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(file.schema_arrow, path)
            for batch in file.iter_batches(_ROWS, columns=["id", "vector"]):
                part = _vectors_of(batch.column("vector"), vectors, start, path)
                if vectors is None:
                    rows = file.metadata.num_rows
                    vectors = np.empty((rows, part.shape[1]), np.float32)
                vectors[start : start + len(part)] = part
                ids.append(_ids_of(batch.column("id"), start, path))
                start += len(part)
    except pa.ArrowInvalid as error:
        text = on_one_line(error)
        raise ValueError(f"{path} is no whole Parquet file: {text}") from None
    if vectors is None:
        raise ValueError(f"{path} holds no vectors; give at least one")
    return check_vectors(VectorTable(np.concatenate(ids), vectors), str(path))


def check_vectors(table: VectorTable, where: str) -> VectorTable:
    """Returns ids and float32 vectors, or says what is wrong with them.

    Args:
        table: ids `[M]` and vectors `[M, d]`.
        where: what errors call them.
    """
    ids = np.asarray(table.ids)
    vectors = np.asarray(table.vectors, np.float32)
    if ids.ndim != 1 or vectors.ndim != 2 or len(ids) != len(vectors):
        raise ValueError(
            f"{where}: ids [M] and vectors [M, d] are wanted. Received: shapes "
            f"{ids.shape} and {vectors.shape}"
        )
    if ids.dtype.kind == "O":
        for value in ids:
            if not isinstance(value, str):
                raise TypeError(
                    f"{where}: ids are strings or integers. Received: {value!r} of "
                    f"type {type(value).__name__}"
                )
    elif ids.dtype.kind not in "Uiu":
        raise TypeError(f"{where}: ids are strings or integers. Received: {ids.dtype}")
    if ids.dtype.kind == "u" and (ids > np.iinfo(np.int64).max).any():
        raise ValueError(
            f"{where}: id {ids.max()} does not fit int64; make it a string"
        )
    ids = ids.astype(np.int64 if ids.dtype.kind in "iu" else object)
    if len(set(ids.tolist())) < len(ids):
        twice, count = collections.Counter(ids.tolist()).most_common(1)[0]
        raise ValueError(
            f"{where}: id {twice!r} is there {count} times; keep one vector of it"
        )
    check_finite(vectors, where)
    return VectorTable(ids, vectors)


def check_finite(vectors: np.ndarray, where: str) -> None:
    """Raises ValueError where vectors `[M, d]` hold NaN or infinity."""
    # Without a mask of all numbers, which may be gigabytes.
    sums = vectors.sum(axis=1, dtype=np.float64)
    if not np.isfinite(sums).all():
        row = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise ValueError(
            f"{where}: NaN or infinity in row {row}; a vector of zeros means missing"
        )


def _id_type(ids: np.ndarray) -> pa.DataType:
    return pa.int64() if ids.dtype == np.int64 else pa.string()


def _lists(vectors: np.ndarray) -> pa.Array:
    rows, size = vectors.shape
    offsets = pa.array(np.arange(rows + 1) * size, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))


def _check_columns(schema: pa.Schema, path: Path) -> None:
    for name in ("id", "vector"):
        if name not in schema.names:
            raise ValueError(
                f"{path} has no column {name!r}; {nearest(name, schema.names)}"
            )
    kind = schema.field("id").type
    if not (is_string(kind) or _is_integer(kind)):
        raise TypeError(
            f"{path}: column 'id' holds strings or integers. Received: {kind}"
        )
    kind = schema.field("vector").type
    is_list = (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or _is_fixed_size_list(kind)
    )
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise TypeError(
            f"{path}: column 'vector' holds lists of floats. Received: {kind}"
        )


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind))


def _is_fixed_size_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _vectors_of(
    column: pa.Array, before: np.ndarray | None, start: int, path: Path
) -> np.ndarray:
    """Returns float32 `[rows, d]`, with the d of the vectors before."""
    if _is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    lengths = column.value_lengths().fill_null(0).to_numpy()
    size = lengths[0] if before is None else before.shape[1]
    flat = column.flatten()
    if (lengths != size).any() or size == 0:
        row = int(np.flatnonzero((lengths != size) | (lengths == 0))[0])
        raise ValueError(
            f"{path}: the vector of row {start + row} has {lengths[row]} numbers and "
            f"that of row 0 has {size}; all need as many, at least one"
        )
    if flat.null_count:
        row = int(np.flatnonzero(flat.is_null().to_numpy(False))[0]) // int(size)
        raise ValueError(f"{path}: a number is missing in row {start + row}")
    numbers = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers.reshape(-1, size)


def _ids_of(column: pa.Array, start: int, path: Path) -> np.ndarray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(False))[0])
        raise ValueError(f"{path}: no id in row {start + row}")
    if _is_integer(column.type):
        return column.cast(pa.int64()).to_numpy()
    return column.to_numpy(zero_copy_only=False)
