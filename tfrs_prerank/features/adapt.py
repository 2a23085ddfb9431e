"""Collecting vocabularies and statistics from training data."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfrs_prerank.features.declarations import (
    Categorical,
    Numeric,
    Sequence,
    Text,
)
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Schema, column_of, write_statistics

_TOKENISE_AT_ONCE = 10_000


def adapt(
    schema: Schema,
    requests: Iterable[Mapping[str, Any]],
    documents: DocumentTable,
    directory: str | Path,
) -> Schema:
    """Collects the vocabularies and statistics that a schema still lacks.

    Vocabularies are ordered by count, then by value, and cut at `min_count` and
    `max_vocabulary`. A feature that shares a table adds nothing to it. Static document
    columns are counted once a document, all others once a value in the training
    requests. Values that mean missing are left out of means, deviations and quantiles.
    Means and deviations are taken after `log1p`; quantiles are numbers of the column's
    own type.

    >>> import tempfile
    >>> import numpy as np
    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> from tfrs_prerank.features import DocumentTable, adapt
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("city", "query"),
    ...         Categorical("movie_id", "doc", buckets=10),
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> requests = [{"city": "oslo"}, {"city": "rome"}, {"city": "rome"}]
    >>> documents = DocumentTable(np.array(["m"]), {"movie_id": ["m"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adapted = adapt(schema, requests, documents, folder)
    ...     print(open(adapted["city"].vocabulary).read().split())
    ['rome', 'oslo']

    Args:
        schema: declarations; those with a vocabulary, buckets or statistics are kept.
        requests: training requests only, so that nothing of the test data leaks.
        documents: the documents table.
        directory: where `vocabularies/` and `statistics.json` are written.

    Returns:
        The schema with paths filled in.

    Raises:
        KeyError: a request lacks a column.
        TypeError: a value is of another type than declared.
        ValueError: no value of a feature was seen, one holds a newline or is not UTF-8,
            or a number is NaN or infinite.
    """
    directory = Path(directory)
    counted = [f for f in schema.features if _lacks_vocabulary(f)]
    measured = [
        f
        for f in schema.features
        if isinstance(f, Numeric) and f.needs_statistics and f.statistics is None
    ]
    counts: dict[str, collections.Counter[Any]] = {
        feature.name: collections.Counter() for feature in counted
    }
    numbers: dict[str, list[np.ndarray]] = {feature.name: [] for feature in measured}
    static = {f.name for f in (*counted, *measured) if column_of(f).static}
    for feature in counted:
        if feature.name in static:
            counts[feature.name].update(_values_of(documents.columns, feature))
    for feature in measured:
        if feature.name in static:
            numbers[feature.name].append(_floats(documents.columns, feature.name))
    counted_in_requests = [f for f in counted if f.name not in static]
    measured_in_requests = [f for f in measured if f.name not in static]
    if counted_in_requests or measured_in_requests:
        for request in requests:
            for feature in counted_in_requests:
                counts[feature.name].update(_values_of(request, feature))
            for feature in measured_in_requests:
                numbers[feature.name].append(_floats(request, feature.name))

    # Everything is computed and checked before the first file is written.
    vocabularies = {f.name: _vocabulary(f, counts[f.name]) for f in counted}
    statistics = {f.name: _statistics(f, numbers[f.name]) for f in measured}
    folder = directory / "vocabularies" if vocabularies else directory
    if vocabularies or statistics:
        folder.mkdir(parents=True, exist_ok=True)
    features: dict[str, Any] = {f.name: f for f in schema.features}
    for name, values in vocabularies.items():
        path = folder / f"{name}.txt"
        text = "".join(f"{value}\n" for value in values)
        path.write_bytes(text.encode("utf-8"))
        features[name] = dataclasses.replace(features[name], vocabulary=str(path))
    if statistics:
        path = directory / "statistics.json"
        write_statistics(path, statistics)
        for name in statistics:
            features[name] = dataclasses.replace(features[name], statistics=str(path))
    adapted: Schema = dataclasses.replace(schema, features=tuple(features.values()))
    return adapted


def _lacks_vocabulary(feature: Any) -> bool:
    if not isinstance(feature, Categorical | Text | Sequence):
        return False
    shares = getattr(feature, "shares", None)
    return feature.vocabulary is None and feature.buckets is None and shares is None


def _values_of(columns: Mapping[str, Any], feature: Any) -> list[Any]:
    """Returns all values of a column, lists within it joined, pads left out."""
    values = _column(columns, feature.name)
    if isinstance(values, str | bytes) or not np.iterable(values):
        values = [values]
    several = column_of(feature).length is not None
    flat: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            flat.extend(value)
        elif value is not None or not several:
            flat.append(value)
    return [value for value in flat if value not in ("", b"", -1)]


def _checked(value: Any, feature: Any, dtype: str) -> Any:
    """Returns a value in the declared type, or says what is wrong with it."""
    wanted = (str, bytes) if dtype == "string" else (int, np.integer)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(
            f"{feature.name}: dtype={dtype!r} is declared. "
            f"Received: {value!r} of type {type(value).__name__}"
        )
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        if isinstance(feature, Text):
            return value.decode("utf-8", errors="replace")
        raise ValueError(
            f"{feature.name}: {value!r} is not UTF-8; a vocabulary cannot hold it, use "
            "buckets"
        ) from None


def _floats(columns: Mapping[str, Any], name: str) -> np.ndarray:
    values = np.asarray(_column(columns, name))
    if values.size and values.dtype.kind not in "iufb":
        raise TypeError(
            f"{name}: numbers are declared. Received: {values.reshape(-1)[0].item()!r} "
            f"among values of type {values.dtype}"
        )
    return values.astype(np.float64).reshape(-1)


def _column(columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
        raise KeyError(f"no column {name!r} in the data; it is declared in the schema")
    return columns[name]


def _vocabulary(feature: Any, counts: collections.Counter[Any]) -> list[Any]:
    raw, counts = counts, collections.Counter()
    dtype = column_of(feature).dtype
    for value, count in raw.items():
        counts[_checked(value, feature, dtype)] += count
    if isinstance(feature, Text):
        counts = _count_tokens(feature, counts)
    kept = [value for value, count in counts.items() if count >= feature.min_count]
    kept.sort(key=lambda value: (-counts[value], value))
    kept = kept[: feature.max_vocabulary]
    if not kept:
        raise ValueError(
            f"{feature.name}: no value was seen {feature.min_count} times in "
            f"{len(counts)} distinct ones; lower min_count or check the column"
        )
    for value in kept:
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            raise ValueError(f"{feature.name}: {value!r} holds a newline; remove it")
    return kept


def _count_tokens(
    feature: Text, texts: collections.Counter[str]
) -> collections.Counter[str]:
    import tensorflow as tf

    from tfrs_prerank.features.tokens import words

    tokens: collections.Counter[str] = collections.Counter()
    distinct = list(texts)
    for start in range(0, len(distinct), _TOKENISE_AT_ONCE):
        chunk = distinct[start : start + _TOKENISE_AT_ONCE]
        rows = words(tf.constant(chunk), feature.max_tokens).numpy()
        for text, row in zip(chunk, rows, strict=True):
            for token in row[row != b""]:
                tokens[token.decode("utf-8")] += texts[text]
    return tokens


def _statistics(feature: Numeric, parts: list[np.ndarray]) -> dict[str, Any]:
    values = np.concatenate(parts) if parts else np.zeros(0)
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise ValueError(
            f"{feature.name}: {bad} in the training data; replace missing numbers by a "
            "sentinel and declare it as Numeric(missing=...)"
        )
    # The model compares in the column's own type, where 0.1 is another number.
    own = np.dtype(feature.dtype)
    if feature.missing is not None:
        values = values[values.astype(own) != own.type(feature.missing)]
    if len(values) == 0:
        raise ValueError(f"{feature.name}: no value was seen in the training data")
    if feature.buckets is not None:
        shares = np.arange(1, feature.buckets) / feature.buckets
        quantiles = np.quantile(values.astype(own).astype(np.float64), shares)
        if own == np.float32:
            quantiles = quantiles.astype(own)
        boundaries = np.unique(quantiles).tolist()
        return {"boundaries": boundaries, "buckets": feature.buckets}
    if feature.log1p:
        values = np.sign(values) * np.log1p(np.abs(values))
    # A constant column carries nothing; dividing by 1 keeps it finite. The deviation
    # of equal numbers need not be 0: it is 1e-17 for three times 0.1.
    deviation = float(values.std()) if values.min() < values.max() else 1.0
    mean = float(values.mean())
    return {"mean": mean, "std": deviation, "log1p": feature.log1p}
