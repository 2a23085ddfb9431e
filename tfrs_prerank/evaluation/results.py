"""What an evaluation found: records to look up, print and store."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from tfrs_prerank.declaration import nearest

if TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Record:
    """The value of one metric for one ranking and one task.

    Attributes:
        task: whose labels.
        metric: the metric's name.
        row: the ranking's name.
        value: the mean over usable lists, weighted as the metric says.
        low: lower end of the 95% interval; None where all usable lists are of one
            group.
        high: its upper end.
        lists: number of usable lists.
        groups: number of groups that they come from.
    """

    task: str
    metric: str
    row: str
    value: float
    low: float | None
    high: float | None
    lists: int
    groups: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much one ranking's value is above another's on the same lists.

    Attributes:
        task: whose labels.
        metric: the metric's name.
        row: the first ranking of the evaluation.
        other: the ranking whose value is taken away.
        value: `row`'s value minus `other`'s.
        low: lower end of the paired 95% interval; None as in `Record`.
        high: its upper end.
    """

    task: str
    metric: str
    row: str
    other: str
    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Values of metrics by task and ranking, with intervals and differences.

    `str(evaluation)` is a plain monospaced table, `table()` one for `rich`.

    Attributes:
        records: in the order of tasks, metrics, rankings.
        differences: the first ranking against each other one, in the same order.
        groups: the column that names what was resampled; None: requests.
        samples: number of resamples.
        seed: of the resamples.

    Example:
    >>> record = Record("like", "mrr", "model", 0.5, 0.4, 0.6, lists=10, groups=4)
    >>> evaluation = Evaluation((record,), (), "group_id", samples=1000, seed=0)
    >>> evaluation.value("like", "mrr", "model")
    0.5
    >>> print(evaluation)
    metric  ranking   value  95% interval
    like
      mrr   model    0.5000  [0.4000, 0.6000]
    <BLANKLINE>
    like: 10 lists of 4 groups
    95% intervals: 1000 resamples of the groups of 'group_id'
    """

    records: tuple[Record, ...]
    differences: tuple[Difference, ...]
    groups: str | None
    samples: int
    seed: int

    def record(self, task: str, metric: str, row: str) -> Record:
        """Returns a record.

        Args:
            task: the task's name.
            metric: the metric's name, such as `"ndcg@10"`.
            row: the ranking's name.

        Raises:
            KeyError: there is none; the metric may have been left out.
        """
        known = {f"{r.task}/{r.metric}/{r.row}": r for r in self.records}
        return _found(f"{task}/{metric}/{row}", known)

    def value(self, task: str, metric: str, row: str) -> float:
        """Returns the value of a record; see `record`."""
        return self.record(task, metric, row).value

    def difference(self, task: str, metric: str, other: str) -> Difference:
        """Returns the first ranking's difference from another.

        Args:
            task: the task's name.
            metric: the metric's name.
            other: the other ranking's name.

        Raises:
            KeyError: there is none.
        """
        known = {f"{d.task}/{d.metric}/{d.other}": d for d in self.differences}
        return _found(f"{task}/{metric}/{other}", known)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, dicts, strings and numbers."""
        return {
            "records": [dataclasses.asdict(record) for record in self.records],
            "differences": [dataclasses.asdict(item) for item in self.differences],
            "groups": self.groups,
            "samples": self.samples,
            "seed": self.seed,
        }

    def to_json(self) -> str:
        """Returns `to_dict` as JSON; None is null, and there is no NaN."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def table(self) -> Table:
        """Returns the table for a `rich` console."""
        from rich.table import Table
        from rich.text import Text

        headers, numeric, lines = self._grid()
        # As Text: rich would take an interval's brackets for markup.
        notes = Text("\n".join(self._notes()))
        table = Table(box=None, caption=notes, caption_justify="left")
        for header, right in zip(headers, numeric, strict=True):
            table.add_column(Text(header), justify="right" if right else "left")
        for line in lines:
            table.add_row(*(Text(cell) for cell in line))
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        headers, numeric, lines = self._grid()
        widths = [max(map(len, column)) for column in zip(headers, *lines, strict=True)]
        text = []
        for line in [headers, *lines]:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ]
            text.append("  ".join(cells).rstrip())
        return "\n".join([*text, "", *self._notes()])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shows the table as the value of a notebook's cell."""
        printer.text(str(self))

    def _grid(self) -> tuple[list[str], list[bool], list[list[str]]]:
        """Returns headers, which columns are numbers, and lines of cells."""
        headers = ["metric", "ranking", "value", "95% interval"]
        numeric = [False, False, True, False]
        if self.differences:
            headers += ["diff", "95% interval"]
            numeric += [True, False]
        gaps = {(d.task, d.metric, d.other): d for d in self.differences}
        lines = []
        task = metric = None
        for record in self.records:
            if record.task != task:
                lines.append([record.task])
                metric = None
            name = "" if record.metric == metric else f"  {record.metric}"
            task, metric = record.task, record.metric
            line = [name, record.row, f"{record.value:.4f}"]
            line += [_bounds(record.low, record.high, "")]
            gap = gaps.get((record.task, record.metric, record.row))
            if gap is not None:
                line += [f"{gap.value:+.4f}", _bounds(gap.low, gap.high, "+")]
            lines.append(line)
        lines = [line + [""] * (len(headers) - len(line)) for line in lines]
        return headers, numeric, lines

    def _notes(self) -> list[str]:
        """Returns the lines below the table."""
        notes = []
        for task in dict.fromkeys(record.task for record in self.records):
            metrics: dict[tuple[int, int], list[str]] = {}
            for record in self.records:
                if record.task == task:
                    names = metrics.setdefault((record.lists, record.groups), [])
                    names += [record.metric] * (record.metric not in names)
            for (lists, groups), names in metrics.items():
                of_what = f" ({', '.join(names)})" if len(metrics) > 1 else ""
                notes.append(f"{task}{of_what}: {lists} lists of {groups} groups")
        if self.differences:
            notes.append(f"diff: {self.differences[0].row} minus the ranking")
        what = "requests"
        if self.groups is not None:
            what = f"the groups of {self.groups!r}"
        if any(record.low is not None for record in self.records):
            notes.append(f"95% intervals: {self.samples} resamples of {what}")
        if any(record.low is None for record in self.records):
            notes.append("no interval where all lists are of one group")
        return notes or ["no metric had a list that it can use"]


def _bounds(low: float | None, high: float | None, sign: str) -> str:
    if low is None or high is None:
        return ""
    return f"[{low:{sign}.4f}, {high:{sign}.4f}]"


def _found(key: str, known: dict[str, Any]) -> Any:
    if key not in known:
        raise KeyError(f"the evaluation has no {key!r}; {nearest(key, known)}")
    return known[key]
