"""Time of one request to an export, its graph's size, and the memory of exporting.

One request with N candidates out of a table of documents (64 numbers each) goes
through `serving_default` of a loaded SavedModel: ids in, query tower, lookup, scores
out. In the same process and the same minute, beside it:

* the numpy floor: given the rows, `table.take(rows, axis=0) @ vector`, one BLAS
  thread. No ids, no query tower, no probabilities, no framework.
* the document tower online: the same query tower, and the document tower (eight
  categorical fields of 16, MLP 256-128, output 64) over the N documents' columns, in
  one `tf.function`. The columns are ready tensors; fetching them is not counted.
* the same by id: it gets the ids, as the export does, and takes the columns out of
  tensors in memory.

Every call has fresh random candidates. A run is the median of at least 50 calls, and
runs are repeated until two in turn agree within 10%. The ids are tensors already.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catalogue
import measuring
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 - the export's ops
from measuring import Timing, significant
from threadpoolctl import threadpool_limits

from tfrs_prerank import PreRanker

KINDS = ("int64", "string")


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "serving").parse_args()
    small = options.small
    documents = [1_000_000, 10_000, 10] if not small else [500, 10]
    lengths = [1_000, 10_000] if not small else [50, 200]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = run_exports(folder, documents, small)
        paths = {
            fact["ids"]: fact["path"]
            for fact in facts
            if fact["documents"] == documents[0]
        }
        request = Request(folder, paths, documents[0])
        request.check()
        timings = {}
        for length in lengths:
            measuring.note(f"timing {length} candidates")
            subjects = request.subjects(length, calls=60 if not small else 10)
            timings[length] = measuring.settle(subjects, rounds=20 if not small else 2)
    tables = {
        "latency": latency_table(timings),
        "memory": memory_table(facts),
        "graph": graph_table(facts),
        "targets": target_table(timings, facts),
    }
    measuring.report("serving", options, tables)


def run_exports(
    folder: Path, documents: list[int], small: bool
) -> list[dict[str, Any]]:
    """Exports in fresh processes, one for each type of ids.

    Args:
        folder: where the exports go.
        documents: numbers of documents, the one whose memory is measured first.
        small: one process for all, since its memory says nothing anyway.

    Returns:
        What `exports.py` printed.
    """
    vocabularies = [10, 1_000_000] if not small else [10]
    facts = []
    for kinds in [KINDS] if small else [(kind,) for kind in KINDS]:
        measuring.note(f"exporting, {' and '.join(kinds)} ids")
        command = [sys.executable, str(Path(__file__).with_name("exports.py"))]
        command += ["--directory", str(folder), "--ids", *kinds]
        command += ["--documents", *map(str, documents)]
        if kinds[0] == KINDS[0]:
            command += ["--vocabularies", *map(str, vocabularies)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        facts += [json.loads(line) for line in done.stdout.splitlines()]
    return facts


class Request:
    """One query, and all ways to score its candidates.

    Args:
        folder: for the vocabularies.
        paths: an export by type of ids.
        documents: number of documents in each.
    """

    def __init__(self, folder: Path, paths: dict[str, str], documents: int) -> None:
        self._rng = np.random.default_rng(1)
        self._documents = documents
        query = catalogue.query(self._rng)
        self._query = {name: tf.constant([value]) for name, value in query.items()}
        self._exports = {kind: tf.saved_model.load(paths[kind]) for kind in paths}
        first = next(iter(self._exports.values()))
        self._table = first.table.vectors.numpy()
        encoded = first.signatures["encode_query"](**self._query)["query_vector"]
        self._vector = encoded.numpy()[0]
        self._ids = {
            kind: export.table.ids.numpy() for kind, export in self._exports.items()
        }
        model = catalogue.model(folder, KINDS[0])
        self._columns = catalogue.documents(documents, KINDS[0]).arrays(model.schema)
        self._tower = online(model)
        self._by_id = online_by_id(self._tower, self._ids[KINDS[0]], self._columns)

    def subjects(self, length: int, calls: int) -> dict[str, Callable[[], float]]:
        """Returns what is timed, each a run of so many calls of so many candidates."""

        def rows() -> list[np.ndarray]:
            return [
                self._rng.integers(0, self._documents, length) for _ in range(calls)
            ]

        def floor() -> float:
            with threadpool_limits(1, "blas"):
                return measuring.median_seconds(
                    lambda chosen: self._table.take(chosen, axis=0) @ self._vector,
                    rows(),
                )

        def exported(kind: str) -> float:
            ids = [tf.constant(self._ids[kind][chosen][None]) for chosen in rows()]
            return measuring.median_seconds(
                lambda listed: self.from_export(kind, listed), ids
            )

        def tower() -> float:
            columns = [self.columns(chosen) for chosen in rows()]
            return measuring.median_seconds(self.from_tower, columns)

        def by_id() -> float:
            ids = [tf.constant(self._ids[KINDS[0]][chosen]) for chosen in rows()]
            return measuring.median_seconds(
                lambda listed: self._by_id(self._query, listed).numpy(), ids
            )

        return {
            "floor": floor,
            **{kind: lambda kind=kind: exported(kind) for kind in self._exports},
            "online": tower,
            "by id": by_id,
        }

    def check(self) -> None:
        """Raises unless all ways give the same scores: like is compared with like."""
        rows = self._rng.integers(0, self._documents, 50)
        want = self.from_tower(self.columns(rows))
        for kind, ids in self._ids.items():
            got = self.from_export(kind, tf.constant(ids[rows][None]))
            np.testing.assert_allclose(got, want, atol=1e-4)
        got = self._by_id(self._query, tf.constant(self._ids[KINDS[0]][rows]))
        np.testing.assert_allclose(got, want, atol=1e-4)

    def from_export(self, kind: str, ids: tf.Tensor) -> np.ndarray:
        """Returns the scores of candidates `[1, N]` out of an export."""
        call = self._exports[kind].signatures["serving_default"]
        scores: np.ndarray = call(doc_ids=ids, **self._query)["scores"].numpy()
        return scores

    def from_tower(self, columns: dict[str, tf.Tensor]) -> np.ndarray:
        """Returns the scores `[1, N]` of documents given by their columns."""
        scores: np.ndarray = self._tower(self._query, columns).numpy()
        return scores

    def columns(self, rows: np.ndarray) -> dict[str, tf.Tensor]:
        """Returns the columns of documents as tensors."""
        return {name: tf.constant(c[rows]) for name, c in self._columns.items()}


def online(model: PreRanker) -> Callable[..., tf.Tensor]:
    """Returns a function from query and documents' columns to scores `[1, N]`."""
    network = model.network

    @tf.function(autograph=False, reduce_retracing=True)
    def score(query: dict[str, tf.Tensor], columns: dict[str, tf.Tensor]) -> tf.Tensor:
        queries = network.encode_query(query)  # [1, d]
        vectors = network.encode_docs(columns)[tf.newaxis]  # [1, N, d]
        return network.scores(network.compare(queries, vectors))

    return score


def online_by_id(
    score: Callable[..., tf.Tensor], ids: np.ndarray, columns: dict[str, np.ndarray]
) -> Callable[..., tf.Tensor]:
    """Returns a function from query and document ids `[N]` to scores `[1, N]`.

    Args:
        score: from query and documents' columns to scores.
        ids: the int64 ids of all documents.
        columns: their columns.
    """
    table = {name: tf.constant(column) for name, column in columns.items()}
    rows = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(ids), tf.range(len(ids), dtype=tf.int64)
        ),
        default_value=-1,
    )

    @tf.function(autograph=False, reduce_retracing=True)
    def by_id(query: dict[str, tf.Tensor], listed: tf.Tensor) -> tf.Tensor:
        found = rows.lookup(listed)
        return score(query, {name: tf.gather(c, found) for name, c in table.items()})

    return by_id


def latency_table(timings: dict[int, dict[str, Timing]]) -> list[dict[str, Any]]:
    """Returns times and ratios by length of the list."""
    titles = {
        "floor": "numpy floor",
        "int64": "export, int64 ids",
        "string": "export, string ids",
        "online": "document tower online",
        "by id": "document tower online, by id",
    }
    return [
        {
            "candidates": length,
            "what": titles[name],
            "ms": significant(1000 * timing.seconds),
            "times the floor": significant(timing.seconds / of["floor"].seconds),
            "faster than online": significant(of["online"].seconds / timing.seconds),
            "two runs within 10%": "yes" if timing.settled else "no",
        }
        for length, of in timings.items()
        for name, timing in of.items()
    ]


def memory_table(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the peak of every export that had a fresh process."""
    return [
        {
            "ids": fact["ids"],
            "documents": fact["documents"],
            "matrix MiB": significant(matrix_mib(fact)),
            "process before, MiB": significant(fact["base_mib"]),
            "peak above, MiB": significant(fact["mib"]),
            "times the matrix": significant(fact["mib"] / matrix_mib(fact)),
            "seconds": significant(fact["seconds"]),
        }
        for fact in facts
        if fact["cold"]
    ]


def graph_table(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the size of every export's graph."""
    return [
        {
            "ids": fact["ids"],
            "documents": fact["documents"],
            "largest vocabulary": fact["vocabulary"],
            "saved_model.pb, bytes": fact["pb_bytes"],
        }
        for fact in facts
    ]


def target_table(
    timings: dict[int, dict[str, Timing]], facts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    short, long = (timings[length] for length in sorted(timings))
    few, many = sorted(timings)
    floor, online_seconds = long["floor"].seconds, long["online"].seconds
    limits = {"int64": 4.0, "string": 5.0}
    rows = []
    for kind, limit in limits.items():
        seconds = long[kind].seconds
        ids = f"N = {many:,}, {kind} ids"
        rows += [
            measuring.target(f"{ids}: times the floor", seconds / floor, limit, True),
            measuring.target(
                f"{ids}: faster than online", online_seconds / seconds, 6.0, False
            ),
            measuring.target(
                f"N = {few:,}, {kind} ids: ms", 1000 * short[kind].seconds, 1.0, True
            ),
        ]
    for fact in facts:
        if fact["cold"]:
            what = f"export, {fact['ids']} ids: peak, times the matrix"
            ratio = fact["mib"] / matrix_mib(fact)
            rows.append(measuring.target(what, ratio, 1.6, True))
    sizes = [fact["pb_bytes"] for fact in facts]
    growth = max(sizes) / min(sizes)
    rows.append(
        measuring.target("saved_model.pb: largest / smallest", growth, 1.001, True)
    )
    return rows


def matrix_mib(fact: dict[str, Any]) -> float:
    """Returns the size of the vectors: 64 float32 numbers for each document."""
    size: float = fact["documents"] * 64 * 4 / 2**20
    return size


if __name__ == "__main__":
    main()
