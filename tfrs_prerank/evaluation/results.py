"""What an evaluation found: records to look up, print and store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrs_prerank.declaration import nearest
from tfrs_prerank.evaluation.tables import aligned, main_grid, notes, slices_text

if TYPE_CHECKING:
    from rich.table import Table


_Key = tuple[str | None, str, str]


@dataclasses.dataclass(frozen=True)
class Record:
    """The value of one metric for one ranking and one task.

    Attributes:
        task: whose columns; None where the metric reads no task's.
        metric: the metric's name.
        row: the ranking's name.
        value: the mean over usable lists, weighted as the metric says.
        low: lower end of the 95% interval; None where all usable lists are of one
            group, or the metric is no sum over lists.
        high: its upper end.
        lists: number of usable lists.
        groups: number of groups that they come from.
        axis: what the metric says something about: `"outcome"` for users (it reads
            labels), `"imitation"` of the ranker (it reads the ranker's scores), or what
            is `"forwarded"` (it reads neither).
    """

    task: str | None
    metric: str
    row: str
    value: float
    low: float | None
    high: float | None
    lists: int
    groups: int
    axis: str = "outcome"


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much one ranking's value is above another's on the same lists.

    Attributes:
        task: as in `Record`.
        metric: the metric's name.
        row: a ranking; in an evaluation the first one.
        other: the ranking whose value is taken away.
        value: `row`'s value minus `other`'s.
        low: lower end of the paired 95% interval; None as in `Record`.
        high: its upper end.
    """

    task: str | None
    metric: str
    row: str
    other: str
    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Finding:
    """How many lists, documents or metrics are of little or no use, and why.

    Attributes:
        count: how many.
        total: out of how many.
        unit: `"lists"`, `"documents"` or `"metrics"`.
        what: the end of the sentence.

    Example:
    >>> print(Finding(3, 10, "lists", "have no positive in label/click"))
    3 of 10 lists have no positive in label/click
    """

    count: int
    total: int
    unit: str
    what: str

    def __str__(self) -> str:
        return f"{self.count:,} of {self.total:,} {self.unit} {self.what}"


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
        requests: number of lists in the data.
        findings: what is of little or no use, and why.
        slices: by the slice's name and the bucket's, an evaluation of that part alone.
        resampled: the values of every resample by task, metric and row, for `compare`.

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
    requests: int = 0
    findings: tuple[Finding, ...] = ()
    slices: Mapping[str, Mapping[str, Evaluation]] = dataclasses.field(
        default_factory=dict
    )
    resampled: Mapping[_Key, np.ndarray] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def record(self, task: str | None, metric: str, row: str) -> Record:
        """Returns a record.

        Args:
            task: the task's name; None for a metric that reads no task's column.
            metric: the metric's name, such as `"ndcg@10"`.
            row: the ranking's name.

        Raises:
            KeyError: there is none; the metric may have been left out.
        """
        known = {_key(r.task, r.metric, r.row): r for r in self.records}
        return _found(_key(task, metric, row), known)

    def value(self, task: str | None, metric: str, row: str) -> float:
        """Returns the value of a record; see `record`."""
        return self.record(task, metric, row).value

    def difference(self, task: str | None, metric: str, other: str) -> Difference:
        """Returns the first ranking's difference from another.

        Args:
            task: as in `record`.
            metric: the metric's name.
            other: the other ranking's name.

        Raises:
            KeyError: there is none.
        """
        known = {_key(d.task, d.metric, d.other): d for d in self.differences}
        return _found(_key(task, metric, other), known)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, dicts, strings and numbers."""
        return {
            "records": [dataclasses.asdict(record) for record in self.records],
            "differences": [dataclasses.asdict(item) for item in self.differences],
            "groups": self.groups,
            "samples": self.samples,
            "seed": self.seed,
            "requests": self.requests,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "slices": {
                name: {bucket: part.to_dict() for bucket, part in buckets.items()}
                for name, buckets in self.slices.items()
            },
        }

    def to_json(self) -> str:
        """Returns `to_dict` as JSON; None is null, and there is no NaN."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def table(self) -> Table:
        """Returns the table for a `rich` console."""
        from rich.table import Table
        from rich.text import Text

        headers, numeric, lines = main_grid(self)
        below = [*notes(self), *slices_text(self)]
        # As Text: rich would take an interval's brackets for markup.
        caption = Text("\n".join(below))
        table = Table(box=None, caption=caption, caption_justify="left")
        for header, right in zip(headers, numeric, strict=True):
            table.add_column(Text(header), justify="right" if right else "left")
        for line in lines:
            table.add_row(*(Text(cell) for cell in line))
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        text = [*aligned(main_grid(self)), "", *notes(self), *slices_text(self)]
        return "\n".join(text)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shows the table as the value of a notebook's cell."""
        printer.text(str(self))


def _key(task: str | None, metric: str, row: str) -> str:
    return "/".join(part for part in (task, metric, row) if part is not None)


def _found(key: str, known: dict[str, Any]) -> Any:
    if key not in known:
        raise KeyError(f"the evaluation has no {key!r}; {nearest(key, known)}")
    return known[key]
