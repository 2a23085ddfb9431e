"""Exact counts of values in bounded memory, for vocabularies of long logs."""

from __future__ import annotations

import collections
import heapq
import itertools
import json
import operator
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Counted = tuple[Any, int]
"""A value and how often it was seen."""

_AT_ONCE = 1_000  # values counted, or written to a run, at once
_FAN_IN = 64  # runs that are merged at once, each of them an open file


class ValueCounts:
    """Counts strings or integers, with the surplus of distinct ones on disk.

    Once so many distinct values are in memory, they are written to a file as a sorted
    run (an external merge sort). Of n runs at most 64 log(n) / log(64) are left: 64 of
    one size become one of the next.

    Args:
        folder: where runs are written; who made it removes it.
        capacity: distinct values in memory, up to a thousand more for a moment.
        clean: gives the value that is counted, such as a string for bytes, or raises;
            called once for each distinct value of a run.

    Example:
    >>> import tempfile
    >>> from tfrs_prerank.features.counting import ValueCounts
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     counts = ValueCounts(folder, capacity=2)
    ...     counts.update(["rome", "oslo", "rome", "bern", "rome"])
    ...     list(counts.items())
    [('bern', 1), ('oslo', 1), ('rome', 3)]
    """

    def __init__(
        self,
        folder: str | Path,
        capacity: int,
        clean: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.folder = folder
        self.capacity = capacity
        self._clean = clean
        self._in_memory: collections.Counter[Any] = collections.Counter()
        self._levels: list[list[Path]] = []

    def update(self, values: Iterable[Any], times: int = 1) -> None:
        """Counts each of the values `times` times."""
        rest = iter(values)
        while part := list(itertools.islice(rest, _AT_ONCE)):
            if times == 1:
                self._in_memory.update(part)
            else:
                for value in part:
                    self._in_memory[value] += times
            if len(self._in_memory) >= self.capacity:
                self._add_run(self._sorted(), 0)
                self._in_memory.clear()

    def items(self) -> Iterator[Counted]:
        """Yields each distinct value with its count, in the values' order."""
        runs = [_read(run) for level in self._levels for run in level]
        return _merged([*runs, iter(self._sorted())])

    def _sorted(self) -> list[Counted]:
        cleaned: collections.Counter[Any] = collections.Counter()
        for value, count in self._in_memory.items():
            cleaned[self._clean(value)] += count
        return sorted(cleaned.items())

    def _add_run(self, items: Iterable[Counted], level: int) -> None:
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(self._write(items))
        if len(runs) == _FAN_IN:
            self._add_run(_merged([_read(run) for run in runs]), level + 1)
            for run in runs:
                run.unlink()
            runs.clear()

    def _write(self, items: Iterable[Counted]) -> Path:
        rest = iter(items)
        with tempfile.NamedTemporaryFile(
            "w", encoding="ascii", dir=self.folder, delete=False
        ) as file:
            while part := list(itertools.islice(rest, _AT_ONCE)):
                file.write(json.dumps(part) + "\n")
        return Path(file.name)


def most_frequent(
    items: Iterable[Counted], min_count: int = 1, most: int | None = None
) -> list[Any]:
    """Returns the values that were seen most, ties in the order of `items`.

    Args:
        items: values with counts; only those that are kept are held in memory.
        min_count: values seen less often are left out.
        most: how many are kept; None for all.

    Example:
    >>> from tfrs_prerank.features.counting import most_frequent
    >>> most_frequent([("bern", 1), ("oslo", 2), ("rome", 2)], most=2)
    ['oslo', 'rome']
    """
    kept = (item for item in items if item[1] >= min_count)

    def rank(item: Counted) -> int:
        return -item[1]

    # Both keep the order of equals.
    ranked = (
        sorted(kept, key=rank) if most is None else heapq.nsmallest(most, kept, rank)
    )
    return [value for value, _ in ranked]


def _merged(runs: list[Iterator[Counted]]) -> Iterator[Counted]:
    """Merges sorted runs and adds the counts of equal values up."""
    for value, equals in itertools.groupby(heapq.merge(*runs), operator.itemgetter(0)):
        yield value, sum(count for _, count in equals)


def _read(run: Path) -> Iterator[Counted]:
    with run.open(encoding="ascii") as file:
        for line in file:
            yield from map(tuple, json.loads(line))
