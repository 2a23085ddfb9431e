"""From parts of a log to lists: one request after another.

A part holds whole requests in no order; see `_log_parts.py`.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfrs_prerank.datasets import _log_parts as log_parts
from tfrs_prerank.datasets._log_parts import DOCUMENT, REQUEST, Split
from tfrs_prerank.datasets._log_rows import DROPPED, REASONS, one_array
from tfrs_prerank.datasets.documents_file import to_values
from tfrs_prerank.features.schema import Column
from tfrs_prerank.sampling import Sampler

RANK = "production rank"
"""Column that sampling reads and no record has; no feature can be called like it."""

_LAST = np.iinfo(np.int32).max
_ROWS_OF_A_BATCH = 10_000  # held in memory of each part while lists are written


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


def total(counts: Iterable[Mapping[str, Any]]) -> Counts:
    """Adds counts, given as mappings with the attributes of `Counts`."""
    added = Counts()
    for one in counts:
        added.rows_read += one["rows_read"]
        added.rows.update(one["rows"])
        added.requests.update(one["requests"])
    return added


def group(
    chunks: Iterable[Split],
    hashes: np.ndarray,
    min_documents: int,
    path: Path,
) -> Counts:
    """Makes lists of a part's rows, and leaves out what cannot be used.

    The result does not depend on the order of the rows: requests are ordered by time
    and id, and the documents of a list by a hash, so that neither the log's order nor
    an order of ids tells a model anything.

    Args:
        chunks: the part. The columns of requests must agree in all rows of a request.
        hashes: uint64 `[M]`, of the ids in the documents table.
        min_documents: shorter lists are dropped.
        path: the Arrow file to write: a row for each request, with its documents'
            columns as lists.

    Returns:
        The rows and requests that are dropped.
    """
    counts = Counts()
    requests, rows = _joined(chunks)
    encoded = one_array(requests.column("request_id")).dictionary_encode()
    names, rank = np.unique(encoded.dictionary.to_numpy(False), return_inverse=True)
    name_of = rank[encoded.indices.to_numpy()]
    source = rows.column(REQUEST).to_numpy()
    document = rows.column(DOCUMENT).to_numpy().astype(np.int64)
    dropped = rows.column(DROPPED).to_numpy()
    for code, number in enumerate(np.bincount(dropped).tolist()):
        if code and number:
            counts.rows[REASONS[code]] += number

    left = np.flatnonzero(dropped == 0)
    pair = name_of[source[left]] * len(hashes) + document[left]
    first = left[_first_of_pairs(rows, requests, left, pair)]
    counts.rows["duplicate"] += len(left) - len(first)
    name = name_of[source[first]]
    mixed = log_parts.hashes(names)[name] ^ hashes[document[first]]
    order = np.lexsort([log_parts.hashes(mixed), name])
    left, name = first[order], name[order]

    agrees = np.ones(len(names), bool)
    agrees[_disagreeing(requests, np.unique(source[left]), name_of)] = False
    size = np.bincount(name, minlength=len(names))
    counts.requests["no_usable_row"] += int((size == 0).sum())
    counts.requests["rows_disagree"] += int(((size > 0) & ~agrees).sum())
    short = agrees & (size > 0) & (size < min_documents)
    counts.requests["under_min_documents"] += int(short.sum())
    good = agrees & (size > 0) & ~short
    counts.rows["of_a_dropped_request"] += int(size[~good].sum())

    start = np.cumsum(size) - size
    kept = np.flatnonzero(good)
    leading = source[left[start[kept]]]
    time = requests.column("time").to_numpy()[leading]
    order = np.lexsort([kept, time])  # names are sorted: by time, then by id
    kept, leading = kept[order], leading[order]
    _write(
        requests.take(pa.array(leading)),
        rows.drop_columns([REQUEST, DROPPED]).take(
            pa.array(left[log_parts.ranges(start[kept], size[kept])])
        ),
        size[kept],
        path,
    )
    return counts


def _joined(chunks: Iterable[Split]) -> tuple[pa.Table, pa.Table]:
    """Joins the chunks of a part; `REQUEST` counts through all of them."""
    parts = list(chunks)
    offsets = np.cumsum([0, *(len(part.requests) for part in parts[:-1])])
    sizes = [len(part.rows) for part in parts]
    requests = pa.Table.from_batches([part.requests for part in parts])
    rows = pa.Table.from_batches([part.rows for part in parts]).combine_chunks()
    at = rows.schema.get_field_index(REQUEST)
    place = rows.column(REQUEST).to_numpy() + np.repeat(offsets, sizes)
    return requests.combine_chunks(), rows.set_column(at, REQUEST, pa.array(place))


def _first_of_pairs(
    rows: pa.Table, requests: pa.Table, left: np.ndarray, pair: np.ndarray
) -> np.ndarray:
    """Returns one place of each (request, document).

    Of several, the one with the lowest stage, then the lowest position, then the
    highest labels; then any, but the same one in whatever order the rows are.
    """
    inverse, count = np.unique(pair, return_inverse=True, return_counts=True)[1:]
    twice = np.flatnonzero(count[inverse] > 1)
    once = np.flatnonzero(count[inverse] == 1)
    if len(twice) == 0:
        return once
    several = rows.take(pa.array(left[twice]))
    used, request = np.unique(several.column(REQUEST).to_numpy(), return_inverse=True)
    used = requests.take(pa.array(used))
    keys = [_ranks(column)[request] for column in used.columns]
    keys += [_ranks(column) for column in several.drop_columns([REQUEST]).columns]
    labels = [name for name in several.column_names if name.startswith("label/")]
    total = sum(np.nan_to_num(several.column(name).to_numpy()) for name in labels)
    keys.append(-np.asarray(total))
    if "position" in several.column_names:
        position = several.column("position").to_numpy()
        keys.append(np.where(position < 0, _LAST, position))
    if "stage" in several.column_names:
        keys.append(several.column("stage").to_numpy())
    keys.append(inverse[twice])
    order = np.lexsort(keys)
    pairs = inverse[twice][order]
    leads = np.concatenate([[True], pairs[1:] != pairs[:-1]])
    return np.sort(np.concatenate([once, twice[order[leads]]]))


def _ranks(column: pa.ChunkedArray) -> np.ndarray:
    """Returns numbers that are ordered as the values are, in some order of lists."""
    array = one_array(column)
    if pa.types.is_nested(array.type):
        values = np.array([repr(value) for value in array.to_pylist()], object)
        return np.unique(values, return_inverse=True)[1]
    encoded = array.dictionary_encode()
    values = encoded.dictionary.to_numpy(zero_copy_only=False)
    return np.unique(values, return_inverse=True)[1][encoded.indices.to_numpy()]


def _disagreeing(
    requests: pa.Table, used: np.ndarray, name_of: np.ndarray
) -> np.ndarray:
    """Returns the names of requests whose columns are not always the same.

    Args:
        requests: the columns.
        used: int `[n]`, the rows to look at.
        name_of: the name of each row.
    """
    used = used[np.argsort(name_of[used], kind="stable")]
    same = np.flatnonzero(name_of[used[1:]] == name_of[used[:-1]])
    before, after = used[same], used[same + 1]
    found = np.zeros(len(same), bool)
    for column in requests.drop_columns(["request_id"]).columns:
        found |= log_parts.differs(one_array(column), before, after)
    return name_of[before[found]]


def _write(requests: pa.Table, rows: pa.Table, sizes: np.ndarray, path: Path) -> None:
    """Writes lists, in batches of some thousand rows."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    for name in rows.column_names:
        values = one_array(rows.column(name))
        lists = pa.ListArray.from_arrays(offsets, values)
        requests = requests.append_column(name, lists)
    step = max(1, _ROWS_OF_A_BATCH * len(requests) // max(1, len(rows)))
    with pa.ipc.new_file(str(path), requests.schema) as writer:
        writer.write_table(requests, max_chunksize=step)


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yields what `group` wrote, in the order of time and id.

    The file is open only while a batch is read: there may be thousands of parts.
    """
    place, number = 0, 1
    while place < number:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            number = reader.num_record_batches
            batch = reader.get_batch(place) if number else None
        if batch is not None:
            yield batch
        place += 1


def times(path: Path) -> np.ndarray:
    """Returns the time of each request of a file that `group` wrote."""
    with pa.OSFile(str(path)) as file:
        with pa.ipc.open_file(file) as reader:
            place = reader.schema.get_field_index("time")
        options = pa.ipc.IpcReadOptions(included_fields=[place])
        with pa.ipc.open_file(file, options=options) as reader:
            return np.asarray(reader.read_all().column("time").to_numpy())


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests of a time span, by time and id, read anew at each iteration.

    Attributes:
        files: what `group` wrote.
        columns: the columns of a request by name.
        ids: the ids of the documents table.
        start: first second.
        stop: the second after the last.
    """

    files: tuple[Path, ...]
    columns: Mapping[str, Column]
    ids: np.ndarray
    start: int
    stop: int

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields dicts as `requests.write` takes them."""
        streams = [self._of_file(path) for path in self.files]
        return heapq.merge(*streams, key=lambda r: (r["time"], r["request_id"]))

    def _of_file(self, path: Path) -> Iterator[dict[str, Any]]:
        for batch in batches(path):
            time = batch.column("time").to_numpy()
            low, high = np.searchsorted(time, [self.start, self.stop])
            if low == len(time):
                continue
            if high == 0:
                return
            yield from self._of_batch(batch, range(low, high))

    def _of_batch(
        self, batch: pa.RecordBatch, places: range
    ) -> Iterator[dict[str, Any]]:
        columns = {}
        for name, column in self.columns.items():
            if column.owner == "query":
                columns[name] = (False, _values(batch.column(name)))
            elif name == "doc_ids":
                rows = batch.column(DOCUMENT).flatten().to_numpy()
                columns[name] = (True, self.ids[rows])
            else:
                columns[name] = (True, _values(batch.column(name).flatten()))
        ends = np.cumsum(batch.column(DOCUMENT).value_lengths().to_numpy())
        starts = np.concatenate([[0], ends[:-1]])
        for place in places:
            start, end = starts[place], ends[place]
            yield {
                name: values[start:end] if is_list else values[place]
                for name, (is_list, values) in columns.items()
            }


def _values(array: pa.Array) -> Any:
    return to_values(pa.chunked_array([array]))


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
