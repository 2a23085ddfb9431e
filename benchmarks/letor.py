"""Reads the files of LETOR: queries with the features and the grades of documents.

A line is `<grade> qid:<query> 1:<value> 2:<value> ... # <comment>`. Features count from
1, and one that a line leaves out is 0. The lines of a query follow each other.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

Line = tuple[str, float, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries that have a relevant document, and their lists.

    Attributes:
        features: float32 `[Q, L, F]`, 0 where a list has ended.
        grades: float32 `[Q, L]`, NaN where a list has ended.
        left_out: how many other queries there were.
    """

    features: np.ndarray
    grades: np.ndarray
    left_out: int

    @property
    def real(self) -> np.ndarray:
        """Where there is a document, bool `[Q, L]`."""
        return ~np.isnan(self.grades)

    @property
    def sizes(self) -> np.ndarray:
        """How many documents each query has, int64 `[Q]`."""
        return self.real.sum(axis=1)

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The features `[N, F]` and grades `[N]` of all documents, query by query."""
        return self.features[self.real], self.grades[self.real]


def read(paths: Sequence[Path], features: int) -> Queries:
    """Reads the queries of some files that are packed with gzip.

    Args:
        paths: of the files; a query is in one of them.
        features: how many there are.

    Raises:
        ValueError: a line is not of that form, has another feature, or comes back to
            an earlier query; or no query has a relevant document.
    """
    lists, seen, left_out = [], set(), 0
    lines = itertools.chain.from_iterable(_lines(path, features) for path in paths)
    for query, own in itertools.groupby(lines, key=lambda line: line[0]):
        if query in seen:
            raise ValueError(
                f"the lines of query {query!r} do not follow each other; sort them"
            )
        seen.add(query)
        _, grades, values = zip(*own, strict=True)
        if max(grades) > 0:
            lists.append((grades, values))
        else:
            left_out += 1
    if not lists:
        raise ValueError(
            f"no query has a grade above 0 in {', '.join(map(str, paths))}"
        )
    shape = len(lists), max(len(grades) for grades, _ in lists)
    padded = np.zeros([*shape, features], np.float32)
    known = np.full(shape, np.nan, np.float32)
    for place, (grades, values) in enumerate(lists):
        padded[place, : len(grades)] = values
        known[place, : len(grades)] = grades
    return Queries(padded, known, left_out)


def _lines(path: Path, features: int) -> Iterator[Line]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _parsed(line, features)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: must be '<grade> qid:<query> 1:<value> "
                    f"...' with features from 1 to {features}. Received: {line[:40]!r}"
                ) from error


def _parsed(line: str, features: int) -> Line:
    grade, query, *pairs = line.partition("#")[0].split()
    name, _, query = query.partition(":")
    if name != "qid":
        raise ValueError(name)
    values = np.zeros(features, np.float32)
    for pair in pairs:
        feature, _, value = pair.partition(":")
        if not 1 <= int(feature) <= features:
            raise ValueError(feature)
        values[int(feature) - 1] = float(value)
    return query, float(grade), values
