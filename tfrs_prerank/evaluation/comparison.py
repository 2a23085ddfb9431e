"""Paired differences between any two rankings of an evaluation."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from tfrs_prerank.declaration import nearest
from tfrs_prerank.evaluation.results import Difference, Evaluation, Record
from tfrs_prerank.evaluation.series import difference
from tfrs_prerank.evaluation.tables import Grid, aligned, heading, interval_text


def compare(evaluation: Evaluation, *rows: str) -> Comparison:
    """Compares every pair of rankings of an evaluation, on the same lists.

    For rankings a and b the difference is `value(a) - value(b)`, and its 95% interval
    comes from the resamples of the evaluation: both were measured on the same draws, so
    what makes a draw hard for both cancels. Two intervals of values that overlap say
    little; an interval of the difference without 0 says that one is better.

    With many pairs some intervals miss 0 by chance: one in twenty of equal rankings.

    Args:
        evaluation: what `evaluate` returned, or one of its slices.
        *rows: names of rankings; all where none are given.

    Returns:
        The differences; print them for a table.

    Raises:
        KeyError: there is no such ranking.
        ValueError: there are less than two.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13, for
        the percentile interval.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.evaluation import evaluate
    >>> from tfrs_prerank.metrics import MRR
    >>> batch = {
    ...     "mask": np.ones([2, 2], bool),
    ...     "label/click": np.array([[1.0, 0.0], [1.0, 0.0]]),
    ...     "new": np.array([[9.0, 2.0], [4.0, 1.0]]),
    ...     "old": np.array([[1.0, 2.0], [4.0, 1.0]]),
    ... }
    >>> rows = {"old": "old", "new": "new", "random": "random"}
    >>> evaluation = evaluate(rows, [batch], metrics=[MRR()], groups=None)
    >>> print(compare(evaluation))
    metric  ranking  minus      diff  95% interval
    click
      mrr   old      new     -0.2500  [-0.5000, +0.0000]
            old      random  +0.0000  [-0.2500, +0.2500]
            new      random  +0.2500  [+0.2500, +0.2500]
    """
    names = list(dict.fromkeys(record.row for record in evaluation.records))
    for row in rows:
        if row not in names:
            raise KeyError(
                f"the evaluation has no ranking {row!r}; {nearest(row, names)}"
            )
    wanted = [name for name in names if name in (rows or names)]
    if len(wanted) < 2:
        raise ValueError(
            f"compare needs two rankings. Received: {', '.join(wanted) or 'none'}"
        )
    cells: dict[tuple[str | None, str], list[Record]] = {}
    for record in evaluation.records:
        if record.row in wanted:
            cells.setdefault((record.task, record.metric), []).append(record)
    return Comparison(
        tuple(
            difference(first, second, evaluation.resampled)
            for records in cells.values()
            for first, second in itertools.combinations(records, 2)
        )
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences between pairs of rankings. `str(comparison)` is a plain table.

    Attributes:
        differences: in the order of tasks, metrics and pairs.
    """

    differences: tuple[Difference, ...]

    def difference(
        self, task: str | None, metric: str, row: str, other: str
    ) -> Difference:
        """Returns the difference of one ranking from another, in either order.

        Args:
            task: as in `Evaluation.record`.
            metric: the metric's name.
            row: a ranking.
            other: the ranking whose value is taken away.

        Raises:
            KeyError: there is none.
        """
        for found in self.differences:
            if (found.task, found.metric) == (task, metric):
                if (found.row, found.other) == (row, other):
                    return found
                if (found.row, found.other) == (other, row):
                    return _turned(found)
        raise KeyError(
            f"no difference of {metric!r} (task {task!r}) between {row!r} and {other!r}"
        )

    def __str__(self) -> str:
        return "\n".join(aligned(self._grid()))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shows the table as the value of a notebook's cell."""
        printer.text(str(self))

    def _grid(self) -> Grid:
        headers = ["metric", "ranking", "minus", "diff", "95% interval"]
        lines: list[list[str]] = []
        title = metric = None
        for item in self.differences:
            own = heading(item.task, "outcome")
            if own != title:
                lines.append([own, "", "", "", ""])
                metric = None
            name = f"  {item.metric}" if item.metric != metric else ""
            gap = f"{item.value:+.4f}", interval_text(item, "+")
            lines.append([name, item.row, item.other, *gap])
            title, metric = own, item.metric
        return headers, [False, False, False, True, False], lines


def _turned(item: Difference) -> Difference:
    low = None if item.high is None else -item.high
    high = None if item.low is None else -item.low
    row, other = item.other, item.row
    return Difference(item.task, item.metric, row, other, -item.value, low, high)
