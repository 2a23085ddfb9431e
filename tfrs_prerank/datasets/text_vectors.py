"""Vectors of a documents table's texts, made once and stored beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tfrs_prerank.datasets._log_rows import find_files, is_string
from tfrs_prerank.datasets.vectors import check_finite
from tfrs_prerank.declaration import nearest, on_one_line
from tfrs_prerank.features.declarations import check_name
from tfrs_prerank.progress import track

_ROWS = 8_192  # sorted by length, and in memory, at once


def embed_texts(
    encoder: Callable[[Any], Any],
    documents: str | Path,
    output: str | Path,
    *,
    columns: Sequence[str],
    into: str,
    batch_size: int = 32,
) -> int:
    r"""Writes a copy of a documents table with a column of vectors of its texts.

    For a `Dense` feature: an encoder that is too costly for the document tower, such as
    a frozen `layers.SentenceBert`, then runs once for each document and never in
    training.

    A document's text is its values in `columns`, with a space between them. Where all
    of them are empty, its vector is all-zero, which means missing. 8,192 documents at a
    time are in memory, sorted by the length of their texts, so that a batch has texts
    of about one length and little padding. Every other column is copied as it is; the
    types of a CSV's columns are those that Arrow finds in its first megabyte.

    Args:
        encoder: strings `[B]` to vectors `[B, d]`.
        documents: the table, Parquet or CSV, one row for each document.
        output: the Parquet file to make, written to a temporary name and renamed.
        columns: the columns of texts.
        into: the new column, a list of d float32 numbers a row.
        batch_size: texts that the encoder gets at once.

    Returns:
        The number of documents.

    Raises:
        FileExistsError: the output exists.
        FileNotFoundError: there is no such table.
        TypeError: a column does not hold strings.
        ValueError: a column is missing, `into` is there or no name of a feature, there
            is no document, or the encoder gives another shape, NaN or infinity.

    Example:
    >>> import pathlib, tempfile
    >>> import pyarrow.parquet as pq
    >>> import tensorflow as tf
    >>> from tfrs_prerank.datasets import embed_texts
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "docs.csv").write_text("doc_id,title\na,red hat\nb,hat\n")
    >>> def length(texts):
    ...     return tf.cast(tf.strings.length(texts), tf.float32)[:, tf.newaxis]
    >>> embed_texts(
    ...     length, folder / "docs.csv", folder / "docs.parquet",
    ...     columns=["title"], into="title_vector",
    ... )
    2
    >>> pq.read_table(folder / "docs.parquet").column("title_vector").to_pylist()
    [[7.0], [3.0]]
    """
    documents, output = Path(documents), Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists; remove it or choose another file")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size}")
    if not columns:
        raise ValueError("columns names no column of texts. Received: none")
    check_name(into)
    files = find_files(str(documents), "documents")
    temporary = output.with_name(f".tmp-{output.name}")
    try:
        rows = _write(encoder, files, temporary, list(columns), into, batch_size)
        if not rows:
            raise ValueError(f"{documents} holds no documents; give at least one")
        temporary.rename(output)
    except pa.ArrowInvalid as error:
        text = on_one_line(error)
        raise ValueError(f"{documents} cannot be read: {text}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _write(
    encoder: Callable[[Any], Any],
    files: list[Path],
    path: Path,
    columns: list[str],
    into: str,
    batch_size: int,
) -> int:
    writer: pq.ParquetWriter | None = None
    total, rows = _row_count(files), 0
    try:
        for table in track(_tables(files), "embedding documents", total):
            _check(table.schema, columns, into)
            vectors = _encode(encoder, _texts(table, columns), batch_size)
            size = vectors.shape[1]
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size)
            # The schema keeps what pandas wrote about the other columns.
            schema = table.schema.append(pa.field(into, column.type))
            if writer is None:
                writer = pq.ParquetWriter(path, schema)
            elif not schema.equals(writer.schema):
                raise ValueError(
                    "the documents files have different columns, or the encoder gives "
                    f"vectors of different sizes, such as {size}"
                )
            writer.write_table(pa.table([*table.columns, column], schema=schema))
            rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    return rows


def _tables(files: list[Path]) -> Iterator[pa.Table]:
    """Yields the documents, some thousand at a time."""
    for file in files:
        if file.suffix in (".parquet", ".pq"):
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(_ROWS):
                    yield pa.Table.from_batches([batch])
            continue
        tabs = ".tsv" in file.suffixes
        options = pa_csv.ParseOptions(
            delimiter="\t" if tabs else ",", newlines_in_values=True
        )
        with pa_csv.open_csv(file, parse_options=options) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                for start in range(0, len(table), _ROWS):
                    yield table.slice(start, _ROWS)


def _row_count(files: list[Path]) -> int | None:
    """Returns the number of tables that `_tables` yields, None where nobody knows."""
    if any(file.suffix not in (".parquet", ".pq") for file in files):
        return None
    return sum(-(-pq.read_metadata(file).num_rows // _ROWS) for file in files)


def _check(schema: pa.Schema, columns: list[str], into: str) -> None:
    if into in schema.names:
        raise ValueError(f"the documents have a column {into!r}; choose another name")
    for name in columns:
        if name not in schema.names:
            raise ValueError(
                f"the documents have no column {name!r}; {nearest(name, schema.names)}"
            )
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (is_string(kind) or pa.types.is_null(kind)):
            raise TypeError(
                f"the documents' column {name!r} holds no texts. Received: {kind}"
            )


def _texts(table: pa.Table, columns: list[str]) -> list[str]:
    parts = [table.column(name).to_pylist() for name in columns]
    return [" ".join(text for text in row if text) for row in zip(*parts, strict=True)]


def _encode(
    encoder: Callable[[Any], Any], texts: list[str], batch_size: int
) -> np.ndarray:
    """Returns float32 `[M, d]`, zeros where a text is empty."""
    import tensorflow as tf

    # The longest first: what does not fit into memory fails at once.
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    given = [row for row in order if texts[row]]
    vectors: np.ndarray | None = None
    # One batch at least, of an empty text, says how long the vectors are.
    for start in range(0, max(len(given), 1), batch_size):
        rows = given[start : start + batch_size]
        batch = tf.constant([texts[row] for row in rows] or [""])
        encoded = np.asarray(encoder(batch), np.float32)
        if encoded.ndim != 2 or len(encoded) != len(batch):
            raise ValueError(
                f"the encoder must give vectors [{len(batch)}, d] of {len(batch)} "
                f"strings. Received: shape {encoded.shape}"
            )
        check_finite(encoded, "the encoder's vectors")
        if vectors is None:
            vectors = np.zeros((len(texts), encoded.shape[1]), np.float32)
        vectors[rows] = encoded[: len(rows)]
    assert vectors is not None
    return vectors
