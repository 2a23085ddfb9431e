"""Rows of Parquet and CSV logs in one form: named, typed, with a reason to drop them.

What belongs here: reading files in chunks and casting columns. What does not: parts of
the log, which `_log_parts.py` makes, and lists of rows (`_log_lists.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tfrs_prerank.declaration import nearest, on_one_line
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.features.schema import Column

DROPPED = "__dropped"
"""Column with the index of the reason in `REASONS`."""

REASONS = (
    "",
    "no_request_id",
    "no_document_id",
    "no_time",
    "unknown_document",
    "unknown_stage",
    "missing_or_not_finite",
    "wrong_vector_length",
    "duplicate",
    "of_a_dropped_request",
)
"""Why a row is dropped; the first one that holds counts."""

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_BYTES_PER_ROW = 200  # of a CSV, roughly; it only sizes the blocks that are read


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a file that is read at once, by one thread.

    Attributes:
        file: Parquet or CSV.
        row_groups: of a Parquet file; None for a whole CSV.
        rows: how many, exact for Parquet and a guess for CSV.
    """

    file: Path
    row_groups: tuple[int, ...] | None
    rows: int


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A column to read.

    Attributes:
        column: its name and type in a request.
        source: its name in the file.
        role: `"feature"`, or what the column is, such as `"request_id"` or `"label"`.
        is_number: whether a row without a value must be dropped, since a number has no
            pad that would mean missing.
        missing: the number that stands for a missing value, None where there is none.
    """

    column: Column
    source: str
    role: str = "feature"
    is_number: bool = False
    missing: float | None = None


def find_files(paths: str | Iterable[str], what: str) -> list[Path]:
    """Returns the files of paths and patterns, sorted.

    What is there by its very name is taken by it, be it the file or the first folders
    of a pattern: `exp[1]/*.csv` reads a folder `exp[1]` where there is one.

    Args:
        paths: one or more.
        what: what errors call them.

    Returns:
        The files.

    Raises:
        FileNotFoundError: a path or pattern names no file.
        ValueError: a file is neither Parquet nor CSV.
    """
    found: list[Path] = []
    for pattern in [paths] if isinstance(paths, str) else paths:
        files = _literal_or_matching(Path(pattern))
        if not files:
            raise FileNotFoundError(f"{what}: no file at {pattern}")
        found.extend(file for file in files if file not in found)
    for file in found:
        if not file.name.endswith(_PARQUET + _CSV):
            raise ValueError(
                f"{what}: {file} is neither Parquet nor CSV by its name; "
                f"known endings: {', '.join(_PARQUET + _CSV)}"
            )
    return found


def _literal_or_matching(pattern: Path) -> list[Path]:
    if pattern.exists():
        return [pattern]
    folder = next(parent for parent in pattern.parents if parent.exists())
    rest = str(pattern.relative_to(folder))
    names = glob.glob(rest, root_dir=folder, recursive=True)
    return sorted(folder / name for name in names)


def names_in(file: Path) -> list[str]:
    """Returns the names of a file's columns."""
    with _one_line_errors(file):
        if file.name.endswith(_PARQUET):
            return list(pq.read_schema(file).names)
        with _open_csv(file, None, 1_000) as reader:
            return list(reader.schema.names)


def check_names(file: Path, wanted: Iterable[Wanted]) -> None:
    """Raises ValueError where a file lacks a column."""
    names = names_in(file)
    for item in wanted:
        if item.source not in names:
            raise ValueError(
                f"{file} has no column {item.source!r} (for {item.column.name}); "
                f"{nearest(item.source, names)}"
            )


def pieces(file: Path, rows: int) -> list[Piece]:
    """Divides a file into pieces.

    Args:
        file: Parquet or CSV.
        rows: a piece ends with the row group that brings it to as many. A CSV, whose
            rows begin nobody knows where, is one piece.

    Returns:
        The pieces, together the whole file.
    """
    if not file.name.endswith(_PARQUET):
        size = file.stat().st_size * (8 if file.name.endswith(".gz") else 1)
        return [Piece(file, None, size // _BYTES_PER_ROW)]
    with _one_line_errors(file):
        metadata = pq.read_metadata(file)
        groups = range(metadata.num_row_groups)
        lengths = [metadata.row_group(group).num_rows for group in groups]
    made: list[Piece] = []
    first = total = 0
    for group, length in enumerate(lengths):
        total += length
        if total >= rows or group == len(lengths) - 1:
            made.append(Piece(file, tuple(groups[first : group + 1]), total))
            first, total = group + 1, 0
    return made


def read_rows(
    file: Path, wanted: list[Wanted], separator: str, chunk_rows: int
) -> Iterator[pa.Table]:
    """Yields a file's rows with the wanted columns, typed, and `DROPPED`.

    Args:
        file: Parquet or CSV.
        wanted: the columns.
        separator: stands between several values in a string.
        chunk_rows: rows read at once.

    Yields:
        Tables of some thousand rows.

    Raises:
        TypeError: a column has another type than declared.
        ValueError: a cell cannot be read, or the file is damaged.
    """
    for chunk in read_chunks(Piece(file, None, 0), wanted, chunk_rows):
        yield typed(chunk, wanted, separator, file)


def read_chunks(
    piece: Piece, wanted: list[Wanted], chunk_rows: int
) -> Iterator[pa.Table]:
    """Yields rows with the wanted columns as the file has them.

    Args:
        piece: what to read; all of a Parquet file where it names no row groups.
        wanted: the columns.
        chunk_rows: rows read at once.

    Yields:
        Tables of at least one row.

    Raises:
        ValueError: the file is damaged.
    """
    sources = sorted({item.source for item in wanted})
    with _one_line_errors(piece.file):
        for chunk in _chunks(piece, sources, chunk_rows):
            if len(chunk):
                yield chunk


def typed(
    table: pa.Table, wanted: list[Wanted], separator: str, file: Path
) -> pa.Table:
    """Casts the wanted columns of a table; see `read_rows`."""
    text = file.name.endswith(_CSV)
    columns = {}
    dropped = np.zeros(len(table), np.int8)
    for item in wanted:
        where = f"{file}: column {item.source!r}"
        array = one_array(table.column(item.source))
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        array, bad = _column(array, item, separator, text, where)
        columns[item.column.name] = array
        for reason, rows in bad.items():
            code = REASONS.index(reason)
            dropped[rows & ((dropped == 0) | (dropped > code))] = code
    columns[DROPPED] = pa.array(dropped)
    return pa.table(columns)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Returns a column in one piece."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a type of several buffers
        array = pa.concat_arrays(array.chunks)
    return array


def _chunks(piece: Piece, sources: list[str], chunk_rows: int) -> Iterator[pa.Table]:
    if piece.file.name.endswith(_PARQUET):
        with pq.ParquetFile(piece.file) as parquet:
            for batch in parquet.iter_batches(
                chunk_rows, row_groups=piece.row_groups, columns=sources
            ):
                yield pa.Table.from_batches([batch])
        return
    with _open_csv(piece.file, sources, chunk_rows) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _open_csv(file: Path, sources: list[str] | None, chunk_rows: int) -> Any:
    """Opens a CSV with every cell a string, so that errors can name the column."""
    return pa_csv.open_csv(
        file,
        read_options=pa_csv.ReadOptions(
            block_size=max(chunk_rows * _BYTES_PER_ROW, 1 << 20)
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter="\t" if ".tsv" in file.suffixes else ",", newlines_in_values=True
        ),
        convert_options=pa_csv.ConvertOptions(
            include_columns=sources,
            column_types={name: pa.string() for name in sources or ()},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _column(
    array: pa.Array, item: Wanted, separator: str, text: bool, where: str
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Returns a column in its type, and which rows must be dropped by reason."""
    role, column = item.role, item.column
    if role == "group_id":
        return _cast(array, "text", text, where).fill_null(""), {}
    if role == "request_id":
        filled = _cast(array, "text", text, where).fill_null("")
        return filled, {"no_request_id": _numpy(pc.equal(filled, ""))}
    if role == "doc_id":
        filled = _cast(array, column.dtype, text, where).fill_null(column.pad)
        return filled, {"no_document_id": _numpy(pc.equal(filled, column.pad))}
    if role == "time":
        seconds = _seconds(array, text, where)
        return seconds.fill_null(-1), {"no_time": _numpy(seconds.is_null())}
    if role == "stage":
        codes = _stages(array, text, where)
        return pa.array(codes, pa.int32()), {"unknown_stage": codes < 0}
    if role == "position":
        return _positions(_cast(array, "int64", text, where), where), {}
    if role in ("label", "weight", "teacher", "log_q"):
        numbers = _numpy(_cast(array, "float32", text, where).fill_null(np.nan))
        if role == "log_q":
            numbers[np.isnan(numbers)] = 0.0
        bad = np.isinf(numbers)
        if role == "weight":
            bad |= numbers < 0
        return pa.array(numbers, pa.float32()), {"missing_or_not_finite": bad}
    if column.length is not None:
        return _lists(array, item, separator, text, where)
    values = _cast(array, column.dtype, text, where)
    if item.missing is not None:
        values = values.fill_null(pa.scalar(item.missing).cast(values.type))
    bad = _numpy(values.is_null()) if item.is_number else np.zeros(len(values), bool)
    values = values.fill_null(column.pad)
    if column.dtype == "float32":
        bad |= ~np.isfinite(_numpy(values))
    return values, {"missing_or_not_finite": bad}


def _lists(
    array: pa.Array, item: Wanted, separator: str, text: bool, where: str
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    column = item.column
    if pa.types.is_null(array.type):
        array = array.cast(pa.string())
    if is_string(array.type):
        array = array.cast(pa.string())
        # An empty string is no value, not one empty value.
        empty = pc.equal(array, "").fill_null(True)
        array = pc.if_else(empty, pa.scalar(None, pa.string()), array)
        array = pc.split_pattern(array, separator)
        text = True
    elif pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    elif not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise TypeError(
            f"{where}: lists are declared for {column.name}, or strings with "
            f"{separator!r} between the values. Received: {array.type}"
        )
    lengths = _numpy(pc.list_value_length(array).fill_null(0))
    flat = array.flatten()
    if pa.types.is_dictionary(flat.type):
        flat = flat.dictionary_decode()
    flat = _cast(flat, column.dtype, text, where)
    if column.dtype != "float32":
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        return pa.ListArray.from_arrays(offsets, flat.fill_null(column.pad)), {}
    # A vector: nothing at all is the zero vector, which means missing.
    assert column.length is not None
    right = lengths == column.length
    rows = np.zeros((len(array), column.length), np.float32)
    numbers = _numpy(flat.fill_null(np.nan))[np.repeat(right, lengths)]
    rows[right] = numbers.reshape(-1, column.length)
    not_finite = ~np.isfinite(rows).all(axis=1)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), column.length)
    return vectors, {
        "missing_or_not_finite": not_finite,
        "wrong_vector_length": ~right & (lengths > 0),
    }


def _cast(array: pa.Array, dtype: str, text: bool, where: str) -> pa.Array:
    """Casts to `"string"`, `"int64"`, `"float32"`, or any scalar to `"text"`."""
    kind = array.type
    types = pa.types
    if types.is_null(kind):
        fits = True
    elif dtype == "text":
        fits = is_string(kind) or types.is_integer(kind)
    elif dtype == "string":
        fits = is_string(kind)
    else:
        fits = (
            types.is_integer(kind)
            or types.is_floating(kind)
            or types.is_boolean(kind)
            or types.is_decimal(kind)
            or (text and is_string(kind))
        )
    wanted = "strings" if dtype in ("string", "text") else f"{dtype} numbers"
    if not fits:
        raise TypeError(
            f"{where}: {wanted} are declared. Received: {kind}, such as "
            f"{_first(array)!r}; change the column or the declaration"
        )
    try:
        if dtype in ("string", "text"):
            return array.cast(pa.string())
        if dtype == "int64":
            return _integers(array)
        numbers = array.cast(pa.float64()).cast(pa.float32(), safe=False)
        # -0.0 becomes 0.0: equal numbers are compared, and written, by their bits.
        return pc.add(numbers, pa.scalar(0.0, pa.float32()))
    except pa.ArrowInvalid as error:
        reason = on_one_line(error)
        raise ValueError(
            f"{where}: {wanted} are declared. {reason}; correct the cell"
        ) from None


def _integers(array: pa.Array) -> pa.Array:
    """Casts to int64, also from 7.0: columns with empty cells are often floats."""
    if is_string(array.type):
        try:
            return array.cast(pa.int64())
        except pa.ArrowInvalid:
            array = array.cast(pa.float64())
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array.cast(pa.int64())  # refuses 7.5


def _seconds(array: pa.Array, text: bool, where: str) -> pa.Array:
    kind = array.type
    try:
        if text and is_string(kind):
            try:
                return array.cast(pa.int64())
            except pa.ArrowInvalid:
                return array.cast(pa.timestamp("s")).cast(pa.int64())
        if pa.types.is_timestamp(kind):
            return array.cast(pa.timestamp("s", kind.tz), safe=False).cast(pa.int64())
        if pa.types.is_integer(kind) or pa.types.is_null(kind):
            return array.cast(pa.int64())
        if pa.types.is_floating(kind):
            known = pc.is_finite(array)
            array = pc.if_else(known, array, pa.scalar(None, kind))
            return pc.floor(array).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{where}: a time in seconds or as 2026-01-31 12:00:00 is wanted. "
            f"{' '.join(str(error).split())}"
        ) from None
    raise TypeError(
        f"{where}: a time in seconds or a timestamp is wanted. Received: {kind}"
    )


def _positions(array: pa.Array, where: str) -> pa.Array:
    """Returns int32 places, -1 for none."""
    highest = pc.max(array).as_py()
    most = np.iinfo(np.int32).max
    if highest is not None and highest > most:
        raise ValueError(
            f"{where}: places up to {most} are wanted. Received: {highest}; correct "
            "the cell"
        )
    return pc.max_element_wise(array.fill_null(-1), -1).cast(pa.int32())


def _stages(array: pa.Array, text: bool, where: str) -> np.ndarray:
    """Returns codes; -2 for what is neither a name nor a code of a stage."""
    if is_string(array.type):
        code_of = {**STAGES, **{str(code): code for code in STAGES.values()}}
        names = np.array(array.fill_null("").to_pylist(), object)
        return np.array([code_of.get(name, -2) for name in names], np.int32)
    codes = _numpy(_cast(array, "int64", text, where).fill_null(-2))
    return np.where((codes >= 0) & (codes < len(STAGES)), codes, -2).astype(np.int32)


def is_string(kind: pa.DataType) -> bool:
    """Says whether an Arrow type is one of strings."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    )


def _first(array: pa.Array) -> Any:
    known = array.drop_null()
    return known[0].as_py() if len(known) else None


def _numpy(array: pa.Array) -> np.ndarray:
    # A copy: Arrow's own memory is read-only.
    return np.array(array.to_numpy(zero_copy_only=False))


@contextlib.contextmanager
def _one_line_errors(file: Path) -> Iterator[None]:
    """Turns Arrow's errors about a file into one line that names it."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        text = on_one_line(error)
        raise ValueError(f"{file} cannot be read: {text}") from None
