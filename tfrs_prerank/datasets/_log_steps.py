"""The steps from a log to lists, each in a file of its own that is written once.

Pieces of the log are dealt out to parts, and each part is made lists of. So a
conversion that was killed goes on after the last piece or part, whatever the chunks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfrs_prerank.datasets import _log_lists as lists
from tfrs_prerank.datasets import _log_parts as parts
from tfrs_prerank.datasets import _log_rows as rows
from tfrs_prerank.datasets import _log_work as work
from tfrs_prerank.datasets._log_lists import Counts
from tfrs_prerank.datasets._log_parts import Dealt, Split
from tfrs_prerank.datasets._log_rows import DROPPED, REASONS, Piece, Wanted
from tfrs_prerank.features.documents import DocumentTable

ROWS_OF_A_PART = 500_000
_MOST_PARTS = 256  # of one dealing out; each has a batch of every chunk


@dataclasses.dataclass(frozen=True)
class Log:
    """What is read of a log.

    Attributes:
        files: Parquet or CSV.
        wanted: the columns to read.
        separator: stands between several values in a string.
        documents: the documents table.
        min_documents: shorter lists are dropped.
    """

    files: tuple[Path, ...]
    wanted: list[Wanted]
    separator: str
    documents: DocumentTable
    min_documents: int


def make_lists(log: Log, folder: Path, chunk_rows: int) -> tuple[Counts, list[Path]]:
    """Makes lists of a log, or of what is left of it after an earlier call.

    Args:
        log: the log.
        folder: where files are kept; those of an earlier call are of the same log.
        chunk_rows: rows read at once.

    Returns:
        What became of the rows and requests, and files of lists, as
        `_log_lists.group` writes them.
    """

    def make() -> dict[str, Any]:
        dealt = _deal_out(log, folder / "dealt", chunk_rows)
        return _group(log, dealt, folder / "lists")

    made = work.kept(folder / "lists.json", make)
    shutil.rmtree(folder / "dealt", ignore_errors=True)
    files = [folder / "lists" / name for name in made.pop("files")]
    return lists.total([made]), files


def _deal_out(
    log: Log, folder: Path, chunk_rows: int
) -> tuple[list[Dealt], list[dict[str, Any]]]:
    """Deals the log out piece by piece, beside one another."""
    pieces = [
        piece for file in log.files for piece in rows.pieces(file, ROWS_OF_A_PART)
    ]
    expected = sum(piece.rows for piece in pieces)
    number = _parts_for(expected)
    known = pa.array(log.documents.ids)
    paths = [folder / f"{place:05d}" for place in range(len(pieces))]

    def deal(piece: Piece, path: Path, step: Callable[[], None]) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            counts = Counts()
            splits = _splits(log, piece, known, chunk_rows, counts, step)
            dealt = parts.deal_out(splits, path, divisor=1, parts=number)
            return {**vars(counts), "lengths": dealt.lengths}

        return work.kept(path.with_suffix(".json"), make)

    done = work.in_threads(
        [
            functools.partial(deal, piece, path)
            for piece, path in zip(pieces, paths, strict=True)
        ],
        "reading the log",
        -(-expected // chunk_rows),
    )
    dealt = [
        Dealt(path, 1, tuple(counts["lengths"]))
        for path, counts in zip(paths, done, strict=True)
    ]
    return dealt, done


def _splits(
    log: Log,
    piece: Piece,
    known: pa.Array,
    chunk_rows: int,
    counts: Counts,
    step: Callable[[], None],
) -> Iterator[Split]:
    """Yields a piece's rows, and counts them."""
    for chunk in rows.read_chunks(piece, log.wanted, chunk_rows):
        made = parts.split(chunk, log.wanted, known, log.separator, piece.file)
        dropped = made.rows.column(DROPPED).to_numpy()
        counts.rows_read += len(dropped)
        nameless = int((dropped == REASONS.index("no_request_id")).sum())
        counts.rows["no_request_id"] += nameless
        yield made
        step()


def _group(
    log: Log, dealt: tuple[list[Dealt], list[dict[str, Any]]], folder: Path
) -> dict[str, Any]:
    """Makes lists part by part, beside one another."""
    pieces, of_pieces = dealt
    hashes = parts.hashes(np.asarray(log.documents.ids))
    number = len(pieces[0].lengths) if pieces else 0

    def group(part: int, step: Callable[[], None]) -> dict[str, Any]:
        path = folder / f"{part:05d}"

        def make() -> dict[str, Any]:
            made = list(_lists(pieces, part, path, hashes, log.min_documents))
            counts = lists.total(vars(counts) for _, counts in made)
            files = [file.name for file, _ in made]
            return {**vars(counts), "files": files}

        return work.kept(path.with_suffix(".json"), make)

    done = work.in_threads(
        [functools.partial(group, part) for part in range(number)],
        "grouping requests",
        number,
    )
    counts = lists.total([*of_pieces, *done])
    files = [file for made in done for file in made["files"]]
    return {**vars(counts), "files": files}


def _lists(
    dealt: Sequence[Dealt], part: int, path: Path, hashes: np.ndarray, least: int
) -> Iterator[tuple[Path, Counts]]:
    """Yields the files of a part's lists.

    A part that has more than twice the wanted rows, because the log is longer than
    expected or very long, is dealt out again. So only a single request can be longer.
    """
    length = sum(one.lengths[part] for one in dealt)
    chunks = itertools.chain.from_iterable(one.part(part) for one in dealt)
    if length > 2 * ROWS_OF_A_PART and _has_several(dealt, part):
        divisor = dealt[0].divisor * len(dealt[0].lengths)
        finer = parts.deal_out(chunks, path, divisor, _parts_for(length))
        for place in range(len(finer.lengths)):
            deeper = path.with_name(f"{path.name}-{place:05d}")
            yield from _lists([finer], place, deeper, hashes, least)
        finer.remove()
    elif length:
        file = path.with_name(f"{path.name}.lists.arrow")
        yield file, lists.group(chunks, hashes, least, file)


def _has_several(dealt: Sequence[Dealt], part: int) -> bool:
    """Says whether a part has requests that can be told apart by their hashes."""
    found: set[int] = set()
    for one in dealt:
        for hashes in one.hashes(part):
            found.update(np.unique(hashes)[:2].tolist())
            if len(found) > 1:
                return True
    return False


def _parts_for(length: int) -> int:
    return min(max(1, -(-length // ROWS_OF_A_PART)), _MOST_PARTS)
