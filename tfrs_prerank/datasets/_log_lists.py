"""From rows that lie anywhere in a log to lists: one request after another.

Rows are first dealt out to parts by the request's id, so that a part holds whole
requests and fits into memory; then each part is grouped on its own.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tfrs_prerank.datasets._log_rows import DROPPED, REASONS
from tfrs_prerank.datasets.documents_file import to_values
from tfrs_prerank.features.schema import Column
from tfrs_prerank.sampling import Sampler

RANK = "production rank"
"""Column that sampling reads and no record has; no feature can be called like it."""

_LAST = np.iinfo(np.int32).max
_MOST_FILES = 256  # open at once


@dataclasses.dataclass
class Counts:
    """What became of rows and requests.

    Attributes:
        rows_read: rows of the log.
        rows: dropped rows by reason.
        requests: dropped requests by reason.
    """

    rows_read: int = 0
    rows: Counter[str] = dataclasses.field(default_factory=Counter)
    requests: Counter[str] = dataclasses.field(default_factory=Counter)


def deal_out(
    chunks: Iterable[pa.Table],
    folder: Path,
    counts: Counts,
    *,
    expected: int,
    rows: int,
) -> list[Path]:
    """Writes rows to files by the hash of their request's id.

    A file that gets more than twice the wanted rows, because the log is longer than
    expected or very long, is dealt out again. So only a single request can be longer.

    Args:
        chunks: typed rows; see `_log_rows.read_rows`.
        folder: where the files go.
        counts: takes in the rows read, and those without a request's id.
        expected: rows of the log, a guess.
        rows: wanted rows of a file.

    Returns:
        The files that hold rows, Arrow streams.
    """
    return _divide(_named(chunks, counts), str(folder / "part"), expected, rows, 1)


def _named(chunks: Iterable[pa.Table], counts: Counts) -> Iterator[pa.Table]:
    """Yields the rows that have a request's id, and counts all."""
    for chunk in chunks:
        counts.rows_read += len(chunk)
        named = chunk.column(DROPPED).to_numpy() != REASONS.index("no_request_id")
        counts.rows["no_request_id"] += int((~named).sum())
        yield chunk.filter(pa.array(named))


def _divide(
    chunks: Iterable[pa.Table], prefix: str, expected: int, rows: int, divisor: int
) -> list[Path]:
    """Deals rows out; those of all chunks have the same hash modulo `divisor`."""
    parts = min(max(1, -(-expected // rows)), _MOST_FILES)
    paths = [Path(f"{prefix}-{part:05d}.arrow") for part in range(parts)]
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    length = [0] * parts
    requests: list[set[int]] = [set() for _ in range(parts)]
    try:
        for chunk in chunks:
            hashes = _hashes(chunk.column("request_id"))
            part_of = hashes // np.uint64(divisor) % np.uint64(parts)
            order = np.argsort(part_of, kind="stable")
            chunk, hashes = chunk.take(pa.array(order)), hashes[order]
            starts = np.searchsorted(part_of[order], np.arange(parts + 1))
            for part in np.flatnonzero(np.diff(starts)).tolist():
                start, stop = starts[part], starts[part + 1]
                dealt = chunk.slice(start, stop - start)
                if part not in writers:
                    writers[part] = pa.ipc.new_stream(str(paths[part]), dealt.schema)
                writers[part].write_table(dealt)
                length[part] += len(dealt)
                # Two are enough to know that the part can be divided.
                requests[part].update(np.unique(hashes[start:stop])[:2].tolist())
    finally:
        for writer in writers.values():
            writer.close()
    made: list[Path] = []
    for part in sorted(writers):
        path = paths[part]
        if length[part] <= 2 * rows or len(requests[part]) == 1:
            made.append(path)
            continue
        finer = str(path.with_suffix(""))
        made += _divide(_batches(path), finer, length[part], rows, divisor * parts)
        path.unlink()
    return made


def _batches(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def group(
    path: Path, columns: Mapping[str, Column], min_documents: int, counts: Counts
) -> np.ndarray:
    """Puts a part's rows in order by request, and leaves out what cannot be used.

    The result does not depend on the order of the rows: requests are ordered by time
    and id, and the documents of a list by a hash, so that neither the log's order nor
    an order of ids tells a model anything.

    Args:
        path: a part of `deal_out`; it is written anew.
        columns: the columns of a request; those of the query must agree in all its
            rows.
        min_documents: shorter lists are dropped.
        counts: takes in the rows and requests that are dropped.

    Returns:
        The time of each request that is left, ascending.
    """
    table = _read(path)
    names, request = np.unique(_objects(table, "request_id"), return_inverse=True)
    dropped = table.column(DROPPED).to_numpy()
    for code in np.unique(dropped[dropped > 0]):
        counts.rows[REASONS[code]] += int((dropped == code).sum())
    kept = np.flatnonzero(dropped == 0)
    table, request = table.take(pa.array(kept)), request[kept]

    document = np.unique(_objects(table, "doc_id"), return_inverse=True)[1]
    pair = request * (document.max(initial=0) + 1) + document
    first = _first_of_pairs(table, pair)
    counts.rows["duplicate"] += int(len(table) - len(first))
    table, request = table.take(pa.array(first)), request[first]

    mixed = _hashes(table.column("request_id")) ^ _hashes(table.column("doc_id"))
    order = np.lexsort([pd.util.hash_array(mixed), request])
    table, request = table.take(pa.array(order)), request[order]

    agrees = np.ones(len(names), bool)
    same = request[1:] == request[:-1]
    for name, column in columns.items():
        if column.owner == "query" and name in table.column_names:
            agrees[request[1:][same & _changes(table, name)]] = False
    size = np.bincount(request, minlength=len(names))
    counts.requests["no_usable_row"] += int((size == 0).sum())
    counts.requests["rows_disagree"] += int(((size > 0) & ~agrees).sum())
    short = agrees & (size > 0) & (size < min_documents)
    counts.requests["under_min_documents"] += int(short.sum())
    good = agrees & (size > 0) & ~short
    counts.rows["of_a_dropped_request"] += int(size[~good].sum())

    time = table.column("time").to_numpy()
    start = np.cumsum(size) - size
    left = np.flatnonzero(good)
    times = time[start[left]]
    left = left[np.lexsort([left, times])]  # names are sorted: by time, then by id
    rows = _ranges(start[left], size[left])
    table = table.take(pa.array(rows)).drop_columns([DROPPED])
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    return np.sort(times)


@dataclasses.dataclass(frozen=True)
class Requests:
    """The grouped requests of a time span, read from the parts at each iteration.

    Attributes:
        parts: files that `group` has put in order.
        columns: the columns of a request by name.
        start: first second.
        stop: the second after the last.
    """

    parts: tuple[Path, ...]
    columns: Mapping[str, Column]
    start: int
    stop: int

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields dicts as `requests.write` takes them."""
        for path in self.parts:
            table = _read(path)
            time = table.column("time").to_numpy()
            # Requests are in time order.
            low, high = np.searchsorted(time, [self.start, self.stop])
            yield from self._requests(table.slice(low, high - low))

    def _requests(self, table: pa.Table) -> Iterator[dict[str, Any]]:
        if len(table) == 0:
            return
        values = {
            name: to_values(table.column(source))
            for name, source in (
                (name, "doc_id" if name == "doc_ids" else name) for name in self.columns
            )
            if source in table.column_names
        }
        ids = values["request_id"]
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield {
                name: column[start]
                if self.columns[name].owner == "query"
                else column[start:stop]
                for name, column in values.items()
            }


@dataclasses.dataclass
class Samples:
    """What became of the documents of the training requests.

    Attributes:
        taken: documents by where they come from; see `sampling.Sample`.
        left_out: documents of the log by reason.
        requests: how many requests have none left.
    """

    taken: Counter[str] = dataclasses.field(default_factory=Counter)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    requests: int = 0


@dataclasses.dataclass(frozen=True)
class SampledRequests:
    """Training lists, drawn anew at each iteration and always the same.

    Attributes:
        requests: whole candidate lists.
        sampler: draws from them.
        report: is called at the end of each iteration with what was counted in it.
    """

    requests: Requests
    sampler: Sampler
    report: Callable[[Samples], None]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields dicts as `requests.write` takes them."""
        counts = Samples()
        for request in self.requests:
            ranks = request.pop(RANK, None)
            sample = self.sampler.sample(request, ranks)
            counts.taken += sample.taken
            counts.left_out += sample.left_out
            if sample.request is None:
                counts.requests += 1
            else:
                yield sample.request
        self.report(counts)


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def _first_of_pairs(table: pa.Table, pair: np.ndarray) -> np.ndarray:
    """Returns one row of each (request, document).

    Of several, the one with the lowest stage, then the lowest position, then the
    highest labels; then any, but the same one in whatever order the rows are.
    """
    inverse, count = np.unique(pair, return_inverse=True, return_counts=True)[1:]
    twice = np.flatnonzero(count[inverse] > 1)
    once = np.flatnonzero(count[inverse] == 1)
    if len(twice) == 0:
        return once
    rows = table.take(pa.array(twice))
    keys = [np.array([repr(row) for row in rows.to_pylist()])]
    labels = [name for name in table.column_names if name.startswith("label/")]
    total = sum(np.nan_to_num(rows.column(name).to_numpy()) for name in labels)
    keys.append(-np.asarray(total))
    if "position" in table.column_names:
        position = rows.column("position").to_numpy()
        keys.append(np.where(position < 0, _LAST, position))
    if "stage" in table.column_names:
        keys.append(rows.column("stage").to_numpy())
    keys.append(inverse[twice])
    order = np.lexsort(keys)
    pairs = inverse[twice][order]
    leads = np.concatenate([[True], pairs[1:] != pairs[:-1]])
    return np.sort(np.concatenate([once, twice[order[leads]]]))


def _changes(table: pa.Table, name: str) -> np.ndarray:
    """Says for each row but the first whether it differs from the row before."""
    values = to_values(table.column(name))
    if isinstance(values, list):
        pairs = zip(values[1:], values[:-1], strict=True)
        return np.array([new != old for new, old in pairs], bool)
    changes = values[1:] != values[:-1]
    return changes if changes.ndim == 1 else changes.any(axis=1)


def _hashes(column: pa.ChunkedArray) -> np.ndarray:
    """Returns 64-bit hashes that are the same in every process."""
    values = column.to_numpy()
    codes, distinct = pd.factorize(values)
    return pd.util.hash_array(distinct, categorize=False)[codes]


def _objects(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy()


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns `starts[0], starts[0] + 1, ...` of each range, joined."""
    total = int(sizes.sum())
    begins = np.cumsum(sizes) - sizes
    return np.arange(total) - np.repeat(begins, sizes) + np.repeat(starts, sizes)
