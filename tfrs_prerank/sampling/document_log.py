"""What the training log says of every document: exposures, and its columns over time.

What belongs here: one pass over the training requests. What does not: choosing samples,
which is in `sampler.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfrs_prerank.features.declarations import STAGES, Numeric
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Column, Schema


class DocumentLog:
    """Counts of the training log by document, and its point-in-time columns.

    The values of a document at a time t are those of the last request at or before t
    that had it among its candidates, in whatever stage; of several in one second, those
    of the request whose id comes last. What was logged later is never looked at: it
    may know how the request ended. A document that was not logged until then has
    `Numeric(missing=...)` or the pad: 0 for floats, -1 for integers, `""`, no values,
    the zero vector. (The snapshot of the documents table will not do: it is from after
    the log.)

    Memory: two numbers for each document, and where values are kept two numbers and the
    values for each row of the log.

    Args:
        requests: training requests, as `tfrs_prerank.datasets.write` takes them. A
            request without `stage` counts as exposed throughout.
        documents: the documents table.
        schema: the features and tasks.
        with_values: whether to keep the point-in-time columns, which draws from the
            catalogue need.

    Attributes:
        documents: the documents table.
        exposures: int64 `[M]`, requests that exposed the document.
        engagements: int64 `[M]`, those of them with a positive label of any task.

    Raises:
        KeyError: a request lacks a column.
        ValueError: a document is not in the table, or values are wanted of a request
            without `request_id` and `time`.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank import Categorical, Numeric, Schema, Task
    >>> from tfrs_prerank.features import DocumentTable
    >>> from tfrs_prerank.sampling import DocumentLog
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("user_id", "query", buckets=9),
    ...         Numeric("clicks", "doc", point_in_time=True),
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> documents = DocumentTable(np.array(["a", "b"]), {"clicks": [9.0, 9.0]})
    >>> requests = [
    ...     {"request_id": "r1", "time": 10, "doc_ids": ["a", "b"],
    ...      "clicks": [0.0, 4.0], "label/click": [1, 0]},
    ...     {"request_id": "r2", "time": 20, "doc_ids": ["a"],
    ...      "clicks": [1.0], "label/click": [0]},
    ... ]
    >>> log = DocumentLog(requests, documents, schema)
    >>> log.exposures.tolist(), log.engagements.tolist()
    ([2, 1], [1, 0])
    >>> log.values(rows=np.array([0, 1]), time=19)["clicks"].tolist()
    [0.0, 4.0]
    """

    def __init__(
        self,
        requests: Iterable[Mapping[str, Any]],
        documents: DocumentTable,
        schema: Schema,
        *,
        with_values: bool = True,
    ) -> None:
        self.documents = documents
        self._row_of = {name: row for row, name in enumerate(plain_ids(documents.ids))}
        self.exposures = np.zeros(len(documents), np.int64)
        self.engagements = np.zeros(len(documents), np.int64)
        self._defaults = missing_values(schema) if with_values else {}
        columns = {
            name: column
            for name, column in schema.columns("doc").items()
            if not column.static and not column.training_only
        }
        self._columns = columns if with_values else {}
        rows, names, times = [], [], []
        values: dict[str, list[Any]] = {name: [] for name in self._columns}
        for request in requests:
            own = self.rows(request["doc_ids"])
            exposed = stages(request, len(own)) == STAGES["exposed"]
            positive = positives(request, schema)
            self.exposures[own[exposed]] += 1  # a list has a document once
            self.engagements[own[exposed & positive]] += 1
            if self._columns:
                rows.append(own.astype(np.int32))
                names.append(request_id(request))
                times.append(request_time(request))
                for name, parts in values.items():
                    parts.append(_kept(request[name], self._columns[name]))
        if self._columns:
            self._sort(rows, np.array(names, object), np.array(times, np.int64), values)

    @property
    def has_values(self) -> bool:
        """Whether there are point-in-time columns, which differ from time to time."""
        return bool(self._columns)

    def rows(self, ids: Any) -> np.ndarray:
        """Returns the rows of documents in the table.

        Args:
            ids: `[L]` document ids.

        Returns:
            int64 `[L]`.

        Raises:
            ValueError: a document is not in the table.
        """
        names = plain_ids(ids)
        try:
            found = map(self._row_of.__getitem__, names)
            return np.fromiter(found, np.int64, len(names))
        except KeyError as error:
            raise ValueError(
                f"document {error.args[0]!r} is not in the documents table; add it "
                "there or leave it out of the request"
            ) from None

    def values(self, rows: np.ndarray, time: int) -> dict[str, Any]:
        """Returns the point-in-time columns of documents as they were at a time.

        Args:
            rows: int `[k]`, of the documents table.
            time: in seconds.

        Returns:
            By column: an array `[k]` or, for vectors, `[k, T]`; a list of k lists for
            several values.
        """
        if not self._columns:
            return {}
        # Key = document, then the number of logged seconds up to the entry's own. The
        # last entry whose key is not above (document, seconds up to `time`) is it.
        seconds = np.searchsorted(self._seconds, time, "right")
        wanted = rows * (len(self._seconds) + 1) + seconds
        entry = np.searchsorted(self._keys, wanted, "right") - 1
        known = entry >= 0
        known[known] = (
            self._keys[entry[known]] // (len(self._seconds) + 1) == rows[known]
        )
        found: dict[str, Any] = {}
        for name, column in self._columns.items():
            logged, default = self._values[name], self._defaults[name]
            if is_listed(column):
                found[name] = [
                    logged[place] if there else []
                    for place, there in zip(entry.tolist(), known.tolist(), strict=True)
                ]
                continue
            shape = (len(rows), *np.shape(default))
            found[name] = np.full(shape, default, logged.dtype)
            found[name][known] = logged[entry[known]]
        return found

    def _sort(
        self,
        rows: list[np.ndarray],
        names: np.ndarray,
        times: np.ndarray,
        values: dict[str, list[Any]],
    ) -> None:
        """Orders what was logged by document, then time, then request."""
        by_name = np.argsort(np.argsort(names, kind="stable"))
        request = np.repeat(
            np.arange(len(rows), dtype=np.int32), [len(part) for part in rows]
        )
        joined = np.concatenate([np.zeros(0, np.int32), *rows])
        order = np.lexsort([by_name[request], times[request], joined])
        self._seconds, second = np.unique(times, return_inverse=True)
        keys = joined[order].astype(np.int64) * (len(self._seconds) + 1)
        self._keys = keys + second[request[order]] + 1
        self._values: dict[str, Any] = {}
        for name, column in self._columns.items():
            parts = values.pop(name)
            if is_listed(column):
                flat = list(itertools.chain.from_iterable(parts))
                self._values[name] = [flat[place] for place in order.tolist()]
                continue
            self._values[name] = np.concatenate([_kept([], column), *parts])[order]


def _kept(values: Any, column: Column) -> Any:
    """Returns a column's values in memory of their own, free of the request's."""
    if is_listed(column):
        return [list(row) for row in values]
    dtype = object if column.dtype == "string" else column.dtype
    shape = (-1,) if column.length is None else (-1, column.length)
    return np.array(values, dtype).reshape(shape)


# What requests and schemas say, in one form.


def plain_ids(ids: Any) -> list[Any]:
    """Returns ids as Python strings or integers, `[L]`."""
    values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if any(isinstance(value, bytes) for value in values):
        return [v.decode("utf-8") if isinstance(v, bytes) else v for v in values]
    return values


def stages(request: Mapping[str, Any], count: int) -> np.ndarray:
    """Returns the stage codes of a request's documents, int32 `[count]`."""
    stage = request.get("stage")
    if stage is None:
        return np.full(count, STAGES["exposed"], np.int32)
    return np.asarray(stage, np.int32)


def positives(request: Mapping[str, Any], schema: Schema) -> np.ndarray:
    """Says which of a request's documents have a positive label of any task."""
    found = np.zeros(len(request["doc_ids"]), bool)
    for task in schema.task_names:
        found |= np.asarray(request[f"label/{task}"], np.float32) > 0
    return found


def request_id(request: Mapping[str, Any]) -> str:
    """Returns a request's id; ValueError where it has none."""
    name = request.get("request_id")
    if name in (None, "", b""):
        raise ValueError(
            "a request has no request_id, from which its random numbers come; give "
            "each request one"
        )
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def request_time(request: Mapping[str, Any]) -> int:
    """Returns a request's time in seconds; ValueError where it has none."""
    if request.get("time") is None:
        raise ValueError(
            f"request {request_id(request)!r} has no time, up to which the point-in-"
            "time columns of drawn documents are looked up; give each request one"
        )
    return int(request["time"])


def missing_values(schema: Schema) -> dict[str, Any]:
    """Returns what a column has of a document that nothing is known of, by name."""
    found: dict[str, Any] = {}
    for feature in schema.features:
        column = schema.columns().get(feature.name)
        if column is None or column.owner == "query":
            continue
        if isinstance(feature, Numeric) and feature.missing is not None:
            found[feature.name] = feature.missing
        elif is_listed(column):
            found[feature.name] = []
        elif column.length is not None:
            found[feature.name] = np.zeros(column.length, np.float32)
        else:
            found[feature.name] = column.pad
    return found


def is_listed(column: Column) -> bool:
    """Says whether a column has a list of any length for each document."""
    return column.length is not None and column.dtype != "float32"
