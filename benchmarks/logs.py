"""Logs at size: 10,000,000 shuffled rows of Parquet made a prepared directory.

A log of 25,000 requests with 400 candidates each is drawn from a seed, its rows are
shuffled over several files, and `datasets.logs.convert` runs on it, on two cores and in
a fresh process each time:

1. lists as they were logged;
2. the same, killed (`SIGKILL`) when its first lists are made, and started again;
3. training lists sampled from all stages and the catalogue;
4. a log of 20,000 rows.

It needs 3 GB of temporary files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import significant

from tfrs_prerank import Categorical, Numeric, Schema, Sequence, Task, Text
from tfrs_prerank.datasets.log_config import LogColumns, LogsConfig
from tfrs_prerank.sampling.mixture import Mixture

SEED = 11
CANDIDATES = 400
CORES = 2
DOCUMENTS = 50_021  # a prime: every stride through them meets each one once
FILES = 8
ROWS_OF_A_GROUP = 250_000
_SCRIPT = "import logs, sys; logs.convert(*sys.argv[1:])"

SCHEMA = Schema(
    features=[
        Categorical("user_id", "query"),
        Text("query", "query"),
        Numeric("hour", "query", dtype="int64", buckets=8),
        Sequence("history", shares="movie", max_length=20),
        Categorical("movie", "doc"),
        Categorical("genre", "doc"),
        Numeric("clicks", "doc", point_in_time=True, standardize=True, log1p=True),
        Numeric("bm25", "cross", standardize=True, missing=-1.0),
    ],
    tasks=[Task("click"), Task("like")],
)
MIXTURES = {"whole": None, "sampled": Mixture(catalog=20)}


REST = "what is left after a kill"


@dataclasses.dataclass(frozen=True)
class Run:
    """A conversion.

    Attributes:
        rows: rows of the log.
        seconds: without starting the process and importing packages.
        work: seconds that its threads had a core, together.
        peak: the most memory of the process, MiB.
        imports: its memory when the packages were imported, MiB.
        files: the most bytes of temporary files.
    """

    rows: int
    seconds: float
    work: float
    peak: float
    imports: float
    files: int


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "logs").parse_args()
    requests = 25_000 if not options.small else 50
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for log, count in (("log", requests), ("few", 50)):
            measuring.note(f"writing a log of {count * CANDIDATES:,} rows")
            (folder / log).mkdir()
            write_log(folder / log, count)
        runs = {
            "lists as logged": converted(folder / "log", folder / "whole"),
            REST: resumed(folder),
            "sampled training lists": converted(folder / "log", folder / "sampled"),
            "a short log": converted(folder / "few", folder / "few-whole"),
        }
        check(folder, requests)
    tables = {"conversion": table(runs), "targets": targets(runs)}
    measuring.report("logs", options, tables)


# The log.


def write_log(folder: Path, requests: int) -> None:
    """Writes a documents file and a log, whose rows lie anywhere in eight files."""
    rng = np.random.default_rng(SEED)
    number = np.arange(DOCUMENTS)
    ids = pa.array([f"doc{place:06}" for place in number])
    documents = {
        "doc_id": ids,
        "movie": ids,
        "genre": pa.array([f"genre{place % 40}" for place in number]),
        "clicks": pa.array(number % 97 + 1_000.0),
    }
    pq.write_table(pa.table(documents), folder / "documents.parquet")
    of_request = request_columns(ids, requests, rng)
    start = rng.integers(0, DOCUMENTS, requests)
    stride = rng.integers(1, DOCUMENTS, requests)
    shuffled = rng.permutation(requests * CANDIDATES)
    for part, rows in enumerate(np.array_split(shuffled, FILES)):
        tables = (
            candidates(some, of_request, ids, start, stride, rng)
            for some in np.array_split(rows, -(-len(rows) // ROWS_OF_A_GROUP))
        )
        first = next(tables)
        path = folder / f"log-{part}.parquet"
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            for some in tables:
                writer.write_table(some)


def request_columns(ids: pa.Array, requests: int, rng: np.random.Generator) -> pa.Table:
    """Draws what all rows of a request have in common."""
    words = np.array([f"word{place}" for place in range(2_000)], object)
    texts = words[rng.integers(0, len(words), (requests, 3))]
    history = ids.take(pa.array(rng.integers(0, DOCUMENTS, requests * 20)))
    seconds = np.sort(rng.integers(0, 864_000, requests))
    users = rng.integers(0, 10_000, requests)
    columns = {
        "request_id": pa.array([f"r{number:012x}" for number in range(requests)]),
        "user_id": pa.array([f"user{user}" for user in users]),
        "time": pa.array(1_700_000_000 + seconds),
        "query": pa.array([" ".join(text) for text in texts]),
        "hour": pa.array(rng.integers(0, 24, requests)),
        "history": pa.ListArray.from_arrays(
            pa.array(np.arange(0, len(history) + 1, 20, dtype=np.int32)), history
        ),
    }
    return pa.table(columns)


def candidates(
    rows: np.ndarray,
    of_request: pa.Table,
    ids: pa.Array,
    start: np.ndarray,
    stride: np.ndarray,
    rng: np.random.Generator,
) -> pa.Table:
    """Draws candidates by their number in the log before it was shuffled."""
    request, place = np.divmod(rows, CANDIDATES)
    document = (start[request] + place * stride[request]) % DOCUMENTS
    exposed, ranked = place < 10, place < 100
    table = of_request.take(pa.array(request))

    def drawn(values: np.ndarray, known: np.ndarray) -> pa.Array:
        return pa.array(values.astype(np.float32), mask=~known)

    columns = {
        "doc_id": ids.take(pa.array(document)),
        "stage": pa.DictionaryArray.from_arrays(
            pa.array(2 - exposed - ranked.astype(np.int8)),
            pa.array(["exposed", "ranked", "preranked_out"]),
        ),
        "position": pa.array(place, mask=~exposed),
        "click": drawn(rng.random(len(rows)) < 0.1, exposed),
        "like": drawn(rng.random(len(rows)) < 0.02, exposed),
        "teacher": drawn(rng.normal(size=len(rows)), ranked),
        # It grows with time, as a counter does.
        "clicks": pa.array((document % 97 + request // 100).astype(np.float64)),
        "bm25": pa.array(rng.gamma(2.0, size=len(rows)).astype(np.float32)),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


# Conversions, each in a process of its own.


def convert(log: str, output: str, kind: str) -> None:
    """Converts a log, and prints what it took; what the other process runs."""
    from tfrs_prerank.datasets import logs

    config = LogsConfig(
        requests=f"{log}/log-*.parquet",
        documents=f"{log}/documents.parquet",
        columns=LogColumns(group_id="user_id", teachers={"click": "teacher"}),
        shards=8,
        mixture=MIXTURES[kind],
    )
    imports = measuring.resident_mib()
    measuring.forget_peak()
    started, worked = time.perf_counter(), time.process_time()
    report = logs.convert(config, SCHEMA, output)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    peak = measuring.resident_mib("VmHWM")
    numbers = {"rows": report.rows_read, "seconds": seconds, "work": work}
    print(json.dumps({**numbers, "peak": peak, "imports": imports}))


def started(log: Path, output: Path) -> subprocess.Popen[str]:
    """Starts a conversion on two cores; what is sampled is called so."""
    kind = "sampled" if output.name == "sampled" else "whole"
    cores = set(sorted(os.sched_getaffinity(0))[:CORES])
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(log), str(output), kind],
        cwd=Path(__file__).parent,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def converted(log: Path, output: Path) -> Run:
    """Converts a log and watches its temporary files."""
    measuring.note(f"converting {log.name} to {output.name}")
    process = started(log, output)
    files = 0
    while process.poll() is None:
        files = max(files, size_of(output.with_name(f".tmp-{output.name}-log")))
        time.sleep(0.2)
    printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"converting {log} failed with {process.returncode}")
    run = Run(**json.loads(printed), files=files)
    measuring.note(f"  {run.seconds:.0f} s, {run.work:.0f} of work, {run.peak:.0f} MiB")
    return run


def resumed(folder: Path) -> Run:
    """Kills a conversion when its first lists are made, and goes on with it."""
    output = folder / "resumed"
    process = started(folder / "log", output)
    while not list(folder.glob(f".tmp-{output.name}-log/lists/*.json")):
        if process.poll() is not None:
            raise RuntimeError("the conversion ended before it could be killed")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if output.exists():
        raise RuntimeError(f"{output} is there, half-written")
    return converted(folder / "log", output)


def size_of(folder: Path) -> int:
    """Returns the bytes of the files in a folder that others remove files from."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total


def check(folder: Path, requests: int) -> None:
    """Raises unless all rows are there, and a kill has changed nothing."""
    report = json.loads((folder / "whole" / "report.json").read_text())
    if report["rows_written"] != requests * CANDIDATES:
        raise RuntimeError(f"rows were lost: {report}")
    if sum(report["requests_written"].values()) != requests:
        raise RuntimeError(f"requests were lost: {report}")
    whole, again = (dict(contents(folder / name)) for name in ("whole", "resumed"))
    if whole != again:
        raise RuntimeError("after a kill the files are others")


def contents(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields the name of each file and what it holds, of records but the bytes.

    Statistics are those of all values in their order. Records have their columns in
    another order in each process.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        is_record = path.suffix == ".tfrecord"
        holds = path.stat().st_size if is_record else path.read_bytes()
        yield str(path.relative_to(folder)), holds


# What is printed.


def table(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Returns what each conversion took."""
    return [
        {
            "conversion": name,
            "rows": run.rows,
            "seconds": significant(run.seconds),
            "of work": significant(run.work),
            # What was read before the kill would count.
            "rows per second": "-"
            if name == REST
            else significant(run.rows / run.seconds),
            "peak memory, MiB": significant(run.peak),
            "of it imports, MiB": significant(run.imports),
            "temporary files, MiB": significant(run.files / 2**20),
        }
        for name, run in runs.items()
    ]


def targets(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    long = [run for name, run in runs.items() if name != "a short log"]
    seconds = max(run.seconds for run in long)
    peak = max(run.peak for run in long)
    rows = f"{long[0].rows:,} rows"
    return [
        measuring.target(f"{rows}: seconds", seconds, 180.0, True),
        measuring.target(f"{rows}: peak memory, MiB", peak, 2048.0, True),
    ]


if __name__ == "__main__":
    main()
