"""Seconds of a refresh beside those of a whole export, by the share that changed.

An export of a table of documents, and the next version of it with some of them changed:
none, one in a hundred, all. The whole export traces its signatures and encodes every
document; a refresh reads the export, hashes the columns, encodes what changed, and
writes the table again. Both replay the warm-up requests.
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import catalogue
import measuring
import numpy as np
import tensorflow as tf
from measuring import significant

from tfrs_prerank import export, refresh_documents
from tfrs_prerank.features import DocumentTable

KINDS = ("int64", "string")
SHARES = (0.0, 0.01, 1.0)


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "refresh").parse_args()
    count = 500 if options.small else 1_000_000
    rounds = 1 if options.small else 3
    # Every export traces its functions anew, which is no fault here.
    tf.get_logger().setLevel("ERROR")
    seconds = {kind: measured(kind, count, rounds) for kind in KINDS}
    tables = {"seconds": seconds_table(seconds, count), "targets": targets(seconds)}
    measuring.report("refresh", options, tables)


def measured(kind: str, count: int, rounds: int) -> dict[Any, float]:
    """Measures one type of ids.

    Args:
        kind: type of the document ids.
        count: number of documents.
        rounds: runs of each; the fastest counts, as others only add to it.

    Returns:
        Seconds of `"export"`, and of a refresh by the share of documents that changed.
    """
    seconds: dict[Any, float] = {}

    def keep(name: Any, taken: float) -> None:
        seconds[name] = min(taken, seconds.get(name, np.inf))

    with tempfile.TemporaryDirectory() as folder:
        model = catalogue.model(Path(folder), kind)
        table = catalogue.documents(count, kind)
        changed = {share: with_changes(table, share) for share in SHARES}
        for number in range(rounds):
            measuring.note(f"{kind} ids, round {number + 1} of {rounds}")
            directory = Path(folder) / f"round-{number}"
            started = time.perf_counter()
            export(model, table, directory)
            keep("export", time.perf_counter() - started)
            for share, documents in changed.items():
                gc.collect()
                started = time.perf_counter()
                done = refresh_documents(directory, documents, previous=1)
                keep(share, time.perf_counter() - started)
                assert done.changed == round(share * count), done
    return seconds


def with_changes(table: DocumentTable, share: float) -> DocumentTable:
    """Returns a table of which a share of the documents has another first column."""
    name = next(iter(table.columns))
    column = np.array(table.columns[name])
    rows = np.random.default_rng(1).permutation(len(column))
    rows = rows[: round(share * len(column))]
    # Another value of the same column; `roll` might find an equal one.
    column[rows] = np.where(column[rows] == column[0], column[1], column[0])
    return dataclasses.replace(table, columns={**table.columns, name: column})


def seconds_table(
    seconds: dict[str, dict[Any, float]], count: int
) -> list[dict[str, Any]]:
    """Returns the seconds, and how they compare with a whole export."""
    return [
        {
            "ids": kind,
            "documents": count,
            "what": "export" if what == "export" else f"refresh, {what:.0%} changed",
            "seconds": significant(taken),
            "of the export": significant(taken / of["export"]),
        }
        for kind, of in seconds.items()
        for what, taken in of.items()
    ]


def targets(seconds: dict[str, dict[Any, float]]) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    return [
        measuring.target(
            f"{kind} ids: refresh with 1% changed, seconds",
            of[0.01],
            round(0.1 * of["export"] + 5.0, 2),
            True,
        )
        for kind, of in seconds.items()
    ]


if __name__ == "__main__":
    main()
