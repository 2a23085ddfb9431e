"""A simulated cascade as the Parquet files that `datasets.logs` reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_prerank.datasets._funnel_cascade import CHANNELS
from tfrs_prerank.datasets.documents_file import write_documents
from tfrs_prerank.progress import track

if TYPE_CHECKING:
    from tfrs_prerank.datasets.funnel import Funnel

_ROWS_AT_ONCE = 100_000
_SEPARATOR = "|"  # between several values; what `LogsConfig` takes unless told


def write(made: Funnel, directory: Path, *, truth: bool) -> None:
    """Writes the log and the documents; see `Funnel.write`."""
    if directory.exists():
        raise FileExistsError(
            f"{directory} exists; remove it or choose another directory"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        write_documents(made.documents, temporary / "documents.parquet")
        writer = None
        try:
            for table in log_tables(made, truth=truth):
                if writer is None:
                    writer = pq.ParquetWriter(temporary / "log.parquet", table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def log_tables(made: Funnel, *, truth: bool) -> Iterator[pa.Table]:
    """Yields the log in parts of whole requests, a row for each candidate."""
    requests = made.requests
    count, length = requests.candidates.shape
    step = max(1, _ROWS_AT_ONCE // length)
    profiles = {
        name: _joined(values)
        for name, values in made.users.items()
        if name != "user_id"
    }  # fmt: skip
    document_ids = pa.array(made.documents.ids.tolist())
    width = len(str(count - 1))
    for start in track(range(0, count, step), "writing the log"):
        rows = slice(start, min(start + step, count))
        user, query = requests.user[rows], requests.query[rows]
        of_request = {
            "request_id": np.array(
                [f"r{row:0{width}}" for row in range(rows.start, rows.stop)], object
            ),
            "user_id": made.users["user_id"][user],
            **{name: values[user] for name, values in profiles.items()},
            "query": made.queries["query"][query],
            "frequency": made.queries["frequency"][query],
            "intent": made.queries["intents"][query, 0],
            "history": _joined(_looked_up(made.documents.ids, requests.history[rows])),
            "searches": _joined(
                _looked_up(made.queries["query"], requests.searches[rows])
            ),
        }
        columns = {
            name: _repeated(values, length) for name, values in of_request.items()
        }
        columns["time"] = pa.array(np.repeat(requests.time[rows], length))
        for name, codes, names in (
            ("doc_id", requests.candidates, document_ids),
            ("channel", requests.channel, list(CHANNELS)),
        ):
            flat = pa.array(codes[rows].ravel())
            columns[name] = pa.DictionaryArray.from_arrays(flat, names)
        of_candidate = {
            "stage": requests.stage,
            "position": requests.position,
            "preranker_score": requests.preranker_score,
            "ranker_score": requests.ranker_score,
            **requests.labels,
            "out_of_scene": requests.out_of_scene,
            "age_days": requests.age_days,
            **requests.counters,
        }
        if truth:
            of_candidate["true_utility"] = made.truth.utility
        for name, values in of_candidate.items():
            columns[name] = pa.array(values[rows].ravel())
        yield pa.table(columns)


def _looked_up(names: np.ndarray, rows: np.ndarray) -> list[list[str]]:
    """Returns the names of rows `[B, T]` as lists, without the pads."""
    found = names[rows].tolist()
    lengths = (rows >= 0).sum(axis=1).tolist()
    return [some[:length] for some, length in zip(found, lengths, strict=True)]


def _joined(values: np.ndarray | list[list[str]]) -> np.ndarray:
    """Returns single strings as they are, and lists of them joined."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values
    return np.array([_SEPARATOR.join(some) for some in values], object)


def _repeated(values: np.ndarray, times: int) -> pa.DictionaryArray:
    """Returns each string `times` times; it is stored once."""
    distinct, code = np.unique(values.astype(str), return_inverse=True)
    codes = pa.array(np.repeat(code.astype(np.int32), times))
    return pa.DictionaryArray.from_arrays(codes, pa.array(distinct.tolist()))
