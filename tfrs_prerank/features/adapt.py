"""Collecting vocabularies and statistics from training data."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfrs_prerank.features.corpus import (
    CorpusCounts,
    document_column,
    made_for,
    write_frequencies,
)
from tfrs_prerank.features.counting import ValueCounts, most_frequent
from tfrs_prerank.features.declarations import (
    Categorical,
    Match,
    Numeric,
    Sequence,
    Text,
)
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import (
    Schema,
    column_of,
    text_of,
    write_statistics,
)

_TOKENISE_AT_ONCE = 10_000
_IN_MEMORY = 1_000_000  # distinct values, of all vocabularies together


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
    Means and deviations are taken after `log1p`, or of the log rates where there is
    `per`; quantiles are numbers of the column's own type. Statistics of a BM25 `Match`
    are those of the texts in its document's column.

    Memory holds the vocabularies, the numbers that statistics are made of and a million
    distinct values; counts of further ones go to sorted files, in a temporary folder
    beside the output, until they are merged.

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
    ranked = [
        f
        for f in schema.features
        if isinstance(f, Match)
        and f.op == "bm25"
        and (f.vocabulary is None or f.statistics is None)
    ]
    if not counted and not measured and not ranked:
        return schema
    # Everything is computed and checked before the first file is written.
    with tempfile.TemporaryDirectory(
        prefix=".tmp-counts-", dir=_nearest_folder(directory)
    ) as runs:
        data = _Data(schema, counted, measured, ranked, runs)
        data.read(documents.columns, static=True)
        if data.reads_requests:
            for request in requests:
                data.read(request, static=False)
        vocabularies = {f.name: _vocabulary(f, data.counts[f.name]) for f in counted}
        frequencies = {f.name: data.corpora[f.name].frequencies() for f in ranked}
    statistics = {f.name: _statistics(f, data.numbers) for f in measured}
    statistics |= {
        f.name: _corpus_statistics(schema, f, data.corpora[f.name]) for f in ranked
    }
    folder = directory / "vocabularies" if vocabularies or frequencies else directory
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
            files = {"statistics": str(path)}
            if name in frequencies:
                tokens = folder / f"{name}.txt"
                write_frequencies(tokens, frequencies[name])
                files["vocabulary"] = str(tokens)
            features[name] = dataclasses.replace(features[name], **files)
    adapted: Schema = dataclasses.replace(schema, features=tuple(features.values()))
    return adapted


class _Data:
    """What vocabularies and statistics are made of.

    Attributes:
        counts: of the values, by feature.
        numbers: parts of the numbers, float64, by column.
        corpora: of BM25 matches, by match.
        reads_requests: whether the documents table alone does not do.
    """

    def __init__(
        self,
        schema: Schema,
        counted: list[Any],
        measured: list[Numeric],
        ranked: list[Match],
        runs: str,
    ) -> None:
        capacity = _IN_MEMORY // max(len(counted) + len(ranked), 1)
        self.counts = {
            feature.name: ValueCounts(
                runs, capacity, functools.partial(_checked, feature)
            )
            for feature in counted
        }
        self.numbers: dict[str, list[np.ndarray]] = {
            name: [] for feature in measured for name in _number_columns(feature)
        }
        self._static = {n for n, column in schema.columns().items() if column.static}
        self._counted = counted
        self.corpora: dict[str, CorpusCounts] = {}
        self._corpus_columns: dict[str, Any] = {}
        for match in ranked:
            column = document_column(schema, match)
            text = text_of(schema, column)
            assert text is not None
            self.corpora[match.name] = CorpusCounts(text, runs, capacity)
            self._corpus_columns[match.name] = schema[column]
        names = [f.name for f in self._corpus_columns.values()]
        self.reads_requests = not self._static.issuperset(
            [*self.counts, *self.numbers, *names]
        )

    def read(self, columns: Mapping[str, Any], static: bool) -> None:
        """Takes in the columns of the documents, or of a request."""
        for feature in self._counted:
            if (feature.name in self._static) == static:
                self.counts[feature.name].update(_values_of(columns, feature))
        for name, feature in self._corpus_columns.items():
            if (feature.name in self._static) == static:
                self.corpora[name].update(_texts_of(columns, feature))
        for name, parts in self.numbers.items():
            if (name in self._static) == static:
                parts.append(_floats(columns, name))


def _nearest_folder(path: Path) -> Path:
    """Returns the folder at a path, or what is there of those above it."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _number_columns(feature: Numeric) -> list[str]:
    return [feature.name] if feature.per is None else [feature.name, feature.per]


def _lacks_vocabulary(feature: Any) -> bool:
    if not isinstance(feature, Categorical | Text | Sequence):
        return False
    shares = getattr(feature, "shares", None)
    if feature.vocabulary or feature.buckets or shares:
        return False
    # A text for matches alone has no table, a BERT its own vocabulary.
    return not isinstance(feature, Text) or feature.encoder in ("mean", "cnn")


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


def _texts_of(columns: Mapping[str, Any], feature: Any) -> Iterator[list[str]]:
    """Yields the strings of each document of a column, pads left out."""
    if feature.owner == "query":
        yield [_checked(feature, value) for value in _values_of(columns, feature)]
        return
    for row in _column(columns, feature.name):
        values = _values_of({feature.name: row}, feature)
        yield [_checked(feature, value) for value in values]


def _corpus_statistics(
    schema: Schema, match: Match, counts: CorpusCounts
) -> dict[str, Any]:
    found = dataclasses.asdict(counts.statistics())
    if not found["documents"]:
        raise ValueError(
            f"{match.name}: no text of {document_column(schema, match)!r} in the data "
            "has a token; check the column"
        )
    return {**found, **made_for(schema, match)}


def _checked(feature: Any, value: Any) -> Any:
    """Returns a value in the declared type, or says what is wrong with it."""
    dtype = column_of(feature).dtype
    wanted = (str, bytes) if dtype == "string" else (int, np.integer)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(
            f"{feature.name}: dtype={dtype!r} is declared. "
            f"Received: {value!r} of type {type(value).__name__}"
        )
    if not isinstance(value, bytes):
        return value if isinstance(value, str) else int(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        # A sequence is here only as one of texts.
        if isinstance(feature, Text) or getattr(feature, "shares", None):
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


def _vocabulary(feature: Any, counts: ValueCounts) -> list[Any]:
    if isinstance(feature, Text):
        counts = _count_tokens(feature, counts)
    kept = most_frequent(counts.items(), feature.min_count, feature.max_vocabulary)
    if not kept:
        raise ValueError(
            f"{feature.name}: no value was seen {feature.min_count} times in "
            f"{sum(1 for _ in counts.items())} distinct ones; lower min_count or check "
            "the column"
        )
    for value in kept:
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            raise ValueError(f"{feature.name}: {value!r} holds a newline; remove it")
    return kept


def _count_tokens(feature: Text, texts: ValueCounts) -> ValueCounts:
    import tensorflow as tf

    from tfrs_prerank.features.tokens import split

    tokens = ValueCounts(texts.folder, texts.capacity)
    distinct = texts.items()
    while chunk := list(itertools.islice(distinct, _TOKENISE_AT_ONCE)):
        rows = split(feature, tf.constant([text for text, _ in chunk])).numpy()
        for (_, count), row in zip(chunk, rows, strict=True):
            tokens.update((token.decode() for token in row[row != b""]), times=count)
    return tokens


def _statistics(
    feature: Numeric, numbers: Mapping[str, list[np.ndarray]]
) -> dict[str, Any]:
    columns = {
        name: np.concatenate(numbers[name]) if numbers[name] else np.zeros(0)
        for name in _number_columns(feature)
    }
    for values in columns.values():
        _check_finite(feature, values)
    if feature.per is not None:
        return _rate_statistics(feature, *columns.values())
    values = columns[feature.name]
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
    return {**_moments(values), "log1p": feature.log1p}


def _rate_statistics(
    feature: Numeric, counts: np.ndarray, totals: np.ndarray
) -> dict[str, Any]:
    """Returns the rate of all counts, and the moments of the smoothed log rates."""
    if len(counts) != len(totals):
        raise ValueError(
            f"{feature.name}: {len(counts)} values in the training data, but "
            f"{len(totals)} of {feature.per!r}; give as many"
        )
    if feature.missing is not None:
        sentinel = np.float32(feature.missing)
        known = (counts.astype(np.float32) != sentinel) | (
            totals.astype(np.float32) != sentinel
        )
        counts, totals = counts[known], totals[known]
    for name, values in ((feature.name, counts), (feature.per, totals)):
        if (values < 0).any():
            raise ValueError(
                f"{name}: {values[values < 0][0]} in the training data; a count is "
                "from 0, or the sentinel Numeric(missing=...) in both columns"
            )
    if not (counts.sum() > 0 and totals.sum() > 0):
        raise ValueError(
            f"{feature.name}: the totals are {counts.sum():g} and, of "
            f"{feature.per!r}, {totals.sum():g} in the training data; a rate needs "
            "both above 0"
        )
    rate = float(counts.sum() / totals.sum())
    found = {"rate": rate, "per": feature.per}
    if not feature.standardize:
        return found
    logs = np.log1p(counts / (feature.smoothing * rate)) - np.log1p(
        totals / feature.smoothing
    )
    return {**found, **_moments(logs), "smoothing": feature.smoothing}


def _check_finite(feature: Numeric, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise ValueError(
            f"{feature.name}: {bad} in the training data; replace missing numbers by a "
            "sentinel and declare it as Numeric(missing=...)"
        )


def _moments(values: np.ndarray) -> dict[str, float]:
    # A constant column carries nothing; dividing by 1 keeps it finite. The deviation
    # of equal numbers need not be 0: it is 1e-17 for three times 0.1.
    deviation = float(values.std()) if values.min() < values.max() else 1.0
    return {"mean": float(values.mean()), "std": deviation}
