"""The documents of an export as they come in: ids, hashes of their columns, vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from tfrs_prerank.features.declarations import Text
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Schema

CHUNK = 8192
"""Documents that are encoded, hashed or written at once."""

_CHUNK_OF_TEXTS = 128


def chunk_of(schema: Schema) -> int:
    """Returns how many documents are encoded at once.

    A BERT takes megabytes for each text while it runs.

    Args:
        schema: the declarations.
    """
    berts = (f for f in schema.owned_by("doc") if isinstance(f, Text))
    has_bert = any(feature.encoder == "sentence_bert" for feature in berts)
    return _CHUNK_OF_TEXTS if has_bert else CHUNK


def checked_ids(documents: DocumentTable, doc_id: str) -> np.ndarray:
    """Returns the ids of a documents table in the type that a schema declares.

    Args:
        documents: the table.
        doc_id: `"string"` or `"int64"`.

    Raises:
        TypeError: the ids are of another type.
        ValueError: a number does not fit int64.
    """
    ids = np.asarray(documents.ids)
    whole = int | np.integer
    if ids.dtype == object and all(isinstance(value, whole) for value in ids):
        ids = np.array([int(value) for value in ids])
    if ids.dtype.kind == "u" and (ids > np.iinfo(np.int64).max).any():
        raise ValueError(
            f"documents.ids: {ids.max()} does not fit int64; declare doc_id='string'"
        )
    is_integer = np.issubdtype(ids.dtype, np.integer)
    wrong = [value for value in ids[:1] if is_integer != (doc_id == "int64")]
    if not is_integer:
        kind = pd.api.types.infer_dtype(ids, skipna=False)
        if kind not in ("string", "bytes"):
            wrong += [value for value in ids if not isinstance(value, str | bytes)][:1]
    if wrong:
        value = wrong[0].item() if isinstance(wrong[0], np.generic) else wrong[0]
        raise TypeError(
            f"documents.ids: Schema(doc_id={doc_id!r}) is declared. "
            f"Received: {value!r} of type {type(value).__name__}"
        )
    if is_integer:
        return ids.astype(np.int64, copy=False)
    if pd.api.types.infer_dtype(ids, skipna=False) == "string":
        return ids.astype(object)
    texts = (
        value.decode() if isinstance(value, bytes) else str(value) for value in ids
    )
    return np.array(list(texts), object)


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Writes ids as a file with one a line.

    Args:
        path: the file.
        ids: strings or integers.
    """
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, len(ids), CHUNK):
            lines = (f"{value}\n" for value in ids[start : start + CHUNK].tolist())
            file.writelines(lines)


def check_vectors(vectors: tf.Tensor, ids: np.ndarray) -> None:
    """Raises ValueError for a vector that is NaN or infinite, with its document.

    Args:
        vectors: `[n, size]`.
        ids: of their documents.
    """
    finite = tf.reduce_all(tf.math.is_finite(vectors), axis=1).numpy()
    if not finite.all():
        first = ids[~finite].tolist()[0]
        raise ValueError(
            f"the vector of document {first!r} is not finite; one of "
            "its numbers is too large, declare that as Numeric(log1p=True)"
        )


def document_hashes(columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Returns a hash of each document's columns, to tell which ones changed.

    Args:
        columns: `[M]` or `[M, T]` arrays by name.
        count: the number of documents M.

    Returns:
        uint64 `[M]`.
    """
    hashes = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for column in _flat_columns(columns):
            part = pd.util.hash_array(column, categorize=False)
            # An odd factor between the columns: swapping two changes the sum.
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + part
    return hashes


def _flat_columns(columns: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    for name in sorted(columns):
        array = columns[name]
        if array.ndim == 1:
            yield array
        else:
            for place in range(array.shape[1]):
                yield np.ascontiguousarray(array[:, place])
