"""From chunks of a log to parts: whole requests, as many as fit into memory.

What all rows of a request share is kept once for each request of a chunk: of a history
of 50 behaviours and 400 candidates one copy is written, not 400.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tfrs_prerank.datasets import _log_rows as log_rows
from tfrs_prerank.datasets._log_rows import DROPPED, REASONS, Wanted

REQUEST = "__request"
"""Column with the place of a row's request in the requests beside it."""

DOCUMENT = "__document"
"""Column with a row's place in the documents table."""


class Split(NamedTuple):
    """Rows in two tables.

    Attributes:
        requests: the columns of requests; a request may be there several times.
        rows: the columns of documents, `REQUEST`, `DOCUMENT` and `DROPPED`.
    """

    requests: pa.RecordBatch
    rows: pa.RecordBatch


def split(
    chunk: pa.Table, wanted: list[Wanted], known: pa.Array, separator: str, file: Path
) -> Split:
    """Splits the rows of a chunk, typed.

    Args:
        chunk: rows as the file has them.
        wanted: the columns, `doc_ids` and `request_id` among them.
        known: ids of the documents table.
        separator: see `_log_rows.typed`.
        file: what errors name.

    Returns:
        All rows, and of the requests one for each run of rows that say the same.

    Raises:
        TypeError: a column has another type than declared.
        ValueError: a cell cannot be read.
    """
    of_request = [item for item in wanted if item.column.owner == "query"]
    of_document = [item for item in wanted if item.column.owner != "query"]
    sources = sorted({item.source for item in of_request})
    leads, request = _runs(chunk, _source(of_request, "request_id"), sources)
    taken = chunk.select(sources).take(pa.array(leads))
    requests = log_rows.typed(taken, of_request, separator, file)
    rows = log_rows.typed(chunk, of_document, separator, file)
    document = pc.index_in(rows.column("doc_ids"), known).fill_null(-1).to_numpy()
    unknown = np.where(document < 0, REASONS.index("unknown_document"), 0)
    dropped = requests.column(DROPPED).to_numpy()[request]
    for codes in (rows.column(DROPPED).to_numpy(), unknown):
        earlier = (codes > 0) & ((dropped == 0) | (codes < dropped))
        dropped[earlier] = codes[earlier]
    rows = rows.drop_columns(["doc_ids", DROPPED])
    for name, values in (
        (REQUEST, request.astype(np.int32)),
        (DOCUMENT, document),
        (DROPPED, dropped),
    ):
        rows = rows.append_column(name, pa.array(values))
    return Split(_batch(requests.drop_columns([DROPPED])), _batch(rows))


def _source(wanted: list[Wanted], name: str) -> str:
    return next(item.source for item in wanted if item.column.name == name)


def _runs(
    chunk: pa.Table, request_id: str, sources: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Finds which rows say the same of the same request.

    Returns:
        The row that stands for each run of equal ones, and the run of each row.
    """
    names = _codes(log_rows.one_array(chunk.column(request_id)))
    order = np.argsort(names, kind="stable")
    new = np.concatenate([[True], names[order[1:]] != names[order[:-1]]])
    for source in sources:
        after = np.flatnonzero(~new)
        array = log_rows.one_array(chunk.column(source))
        new[after] = differs(array, order[after - 1], order[after])
    run = np.empty(len(chunk), np.int64)
    run[order] = np.cumsum(new) - 1
    return order[new], run


def differs(array: pa.Array, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Says whether values of a column differ; two missing ones do not.

    Args:
        array: any values, or lists of them.
        left: int `[n]` rows.
        right: int `[n]` rows, which are compared with these.

    Returns:
        Bool `[n]`. Of values that cannot be compared, such as maps, all differ.
    """
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        codes = _codes(array)
        return codes[left] != codes[right]
    lengths = pc.list_value_length(array).fill_null(0).to_numpy()
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    found = lengths[left] != lengths[right]
    same = np.flatnonzero(~found)
    sizes = lengths[left[same]]
    items = _codes(array.flatten())
    unequal = (
        items[ranges(starts[left[same]], sizes)]
        != items[ranges(starts[right[same]], sizes)]
    )
    found[np.repeat(same, sizes)[unequal]] = True
    return found


def _codes(array: pa.Array) -> np.ndarray:
    """Returns numbers that are equal where the values are."""
    if pa.types.is_floating(array.type):
        # By their bits, in which NaN equals itself; numbers that were read in hold no
        # -0.0, see `_log_rows.typed`.
        array = array.view(f"int{array.type.bit_width}")
    if not pa.types.is_dictionary(array.type):
        try:
            array = array.dictionary_encode(null_encoding="encode")
        except pa.ArrowNotImplementedError:
            return np.arange(len(array))
    codes = array.indices.cast(pa.int32()).fill_null(-1)
    return np.asarray(codes.to_numpy(zero_copy_only=False))


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns `starts[0], starts[0] + 1, ...` of each range, joined."""
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - sizes), sizes)


@dataclasses.dataclass(frozen=True)
class Dealt:
    """Rows in files by the hash of their request's id.

    There are two Arrow files, of requests and of rows. Of each chunk they hold a batch
    for every part, so batch k belongs to part k modulo `parts`.

    Attributes:
        path: the files, but for their endings.
        divisor: all hashes here are the same modulo this.
        lengths: rows in each part.
    """

    path: Path
    divisor: int
    lengths: tuple[int, ...]

    def part(self, number: int) -> Iterator[Split]:
        """Yields the chunks of a part."""
        if not self.lengths[number]:
            return
        with _open(self.path, "requests") as requests, _open(self.path, "rows") as rows:
            for place in range(number, rows.num_record_batches, len(self.lengths)):
                yield Split(requests.get_batch(place), rows.get_batch(place))

    def hashes(self, number: int) -> Iterator[np.ndarray]:
        """Yields the hashes of a part's requests, chunk by chunk."""
        if not self.lengths[number]:
            return
        with _open(self.path, "requests") as requests:
            for place in range(number, requests.num_record_batches, len(self.lengths)):
                names = requests.get_batch(place).column("request_id")
                yield hashes(names.to_numpy(zero_copy_only=False))

    def remove(self) -> None:
        """Removes the files."""
        for kind in ("requests", "rows"):
            _file(self.path, kind).unlink(missing_ok=True)


def deal_out(splits: Iterable[Split], path: Path, divisor: int, parts: int) -> Dealt:
    """Writes rows to files by the hash of their request's id.

    Args:
        splits: the rows; their hashes are the same modulo `divisor`.
        path: the files to write, but for their endings.
        divisor: see `splits`.
        parts: number of parts.

    Returns:
        The files.
    """
    lengths = np.zeros(parts, np.int64)
    with contextlib.ExitStack() as stack:
        writers: list[pa.ipc.RecordBatchFileWriter] = []
        for chunk in splits:
            if not writers:
                writers = [
                    stack.enter_context(
                        pa.ipc.new_file(str(_file(path, kind)), batch.schema)
                    )
                    for kind, batch in zip(Split._fields, chunk, strict=True)
                ]
            for part, dealt in enumerate(_dealt(chunk, divisor, parts)):
                lengths[part] += len(dealt.rows)
                for writer, batch in zip(writers, dealt, strict=True):
                    writer.write_batch(batch)
    return Dealt(path, divisor, tuple(lengths.tolist()))


def _dealt(chunk: Split, divisor: int, parts: int) -> Iterator[Split]:
    """Yields what a chunk has of each part, without rows that name no request."""
    names = chunk.requests.column("request_id").to_numpy(zero_copy_only=False)
    part_of = hashes(names) // np.uint64(divisor) % np.uint64(parts)
    order = np.flatnonzero(names != "")
    order = order[np.argsort(part_of[order], kind="stable")]
    starts = np.searchsorted(part_of[order], np.arange(parts + 1))
    place = np.zeros(len(names), np.int32)
    place[order] = ranges(np.zeros(parts, np.int64), np.diff(starts))
    requests = chunk.requests.take(pa.array(order))

    request = chunk.rows.column(REQUEST).to_numpy()
    dropped = chunk.rows.column(DROPPED).to_numpy()
    order = np.flatnonzero(dropped != REASONS.index("no_request_id"))
    order = order[np.argsort(part_of[request[order]], kind="stable")]
    firsts = np.searchsorted(part_of[request[order]], np.arange(parts + 1))
    rows = chunk.rows.take(pa.array(order))
    at = rows.schema.get_field_index(REQUEST)
    rows = rows.set_column(at, REQUEST, pa.array(place[request[order]]))
    for part in range(parts):
        yield Split(
            requests.slice(starts[part], starts[part + 1] - starts[part]),
            rows.slice(firsts[part], firsts[part + 1] - firsts[part]),
        )


def hashes(values: np.ndarray) -> np.ndarray:
    """Returns 64-bit hashes that are the same in every process."""
    return np.asarray(pd.util.hash_array(values, categorize=False))


def _batch(table: pa.Table) -> pa.RecordBatch:
    arrays = [log_rows.one_array(column) for column in table.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)


def _file(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}.arrow")


@contextlib.contextmanager
def _open(path: Path, kind: str) -> Iterator[pa.ipc.RecordBatchFileReader]:
    with (
        pa.OSFile(str(_file(path, kind))) as file,
        pa.ipc.open_file(file) as reader,
    ):
        yield reader
