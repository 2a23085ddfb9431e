"""How an evaluation is shown as lines of text. What belongs here: no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfrs_prerank.evaluation.results import Difference, Evaluation, Record

AXES = ("outcome", "imitation", "forwarded")
"""What metrics say something about, in the order of tables."""

_OF_AXIS = {
    "outcome": "",
    "imitation": "imitation of the ranker",
    "forwarded": "what is forwarded",
}

Grid = tuple[list[str], list[bool], list[list[str]]]
"""Headers, which columns are numbers, and lines of cells."""


def heading(task: str | None, axis: str) -> str:
    """Returns the title of a group of metrics.

    Args:
        task: the task, None for metrics that read no task's column.
        axis: one of `AXES`.

    Example:
    >>> heading("click", "imitation")
    'click: imitation of the ranker'
    """
    what = _OF_AXIS[axis]
    if task is None:
        return what or "all tasks"
    return f"{task}: {what}" if what else task


def aligned(grid: Grid) -> list[str]:
    """Returns the lines of a monospaced table.

    Args:
        grid: headers and cells.
    """
    headers, numeric, lines = grid
    widths = [max(map(len, column)) for column in zip(headers, *lines, strict=True)]
    text = []
    for line in [headers, *lines]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        text.append("  ".join(cells).rstrip())
    return text


def main_grid(evaluation: Evaluation) -> Grid:
    """Lays out values, intervals and differences from the first ranking.

    Args:
        evaluation: the evaluation.
    """
    headers = ["metric", "ranking", "value", "95% interval"]
    numeric = [False, False, True, False]
    if evaluation.differences:
        headers += ["diff", "95% interval"]
        numeric += [True, False]
    gaps = {(d.task, d.metric, d.other): d for d in evaluation.differences}
    lines: list[list[str]] = []
    for first, title, record in _grouped(evaluation.records):
        if title is not None:
            lines.append([title])
        name = f"  {record.metric}" if first else ""
        line = [name, record.row, f"{record.value:.4f}"]
        line += [interval_text(record)]
        gap = gaps.get((record.task, record.metric, record.row))
        if gap is not None:
            line += [f"{gap.value:+.4f}", interval_text(gap, "+")]
        lines.append(line)
    return headers, numeric, _filled(lines, len(headers))


def slice_grid(name: str, buckets: Mapping[str, Evaluation]) -> Grid:
    """Lays out the values of a slice, a column for each bucket.

    Args:
        name: the slice's name.
        buckets: the evaluations of its buckets.
    """
    headers = [f"by {name}", "ranking", *buckets]
    values = {
        (r.task, r.metric, r.row, bucket): f"{r.value:.4f}"
        for bucket, part in buckets.items()
        for r in part.records
    }
    records = {
        (r.task, r.metric, r.row): r for part in buckets.values() for r in part.records
    }
    order = sorted(
        records.values(),
        key=lambda r: _places(records.values(), r),
    )
    lines: list[list[str]] = []
    counts = [f"{part.requests:,}" for part in buckets.values()]
    if len(set(counts)) > 1:  # parts of the lists, not of the positives
        lines.append(["  lists", "", *counts])
    for first, title, record in _grouped(order):
        if title is not None:
            lines.append([title])
        key = record.task, record.metric, record.row
        cells = [values.get((*key, bucket), "-") for bucket in buckets]
        lines.append([f"  {record.metric}" if first else "", record.row, *cells])
    numeric = [False, False, *(True for _ in buckets)]
    return headers, numeric, _filled(lines, len(headers))


def interval_text(item: Record | Difference, sign: str = "") -> str:
    """Returns an interval as `[low, high]`, empty where there is none.

    Args:
        item: a record or a difference.
        sign: `"+"` shows the sign of positive numbers.
    """
    if item.low is None or item.high is None:
        return ""
    return f"[{item.low:{sign}.4f}, {item.high:{sign}.4f}]"


def notes(evaluation: Evaluation) -> list[str]:
    """Returns the lines below a table.

    Args:
        evaluation: the evaluation.
    """
    records = evaluation.records
    lines = []
    for task in dict.fromkeys(record.task for record in records):
        metrics: dict[tuple[int, int], list[str]] = {}
        for record in records:
            if record.task == task:
                names = metrics.setdefault((record.lists, record.groups), [])
                names += [record.metric] * (record.metric not in names)
        title = heading(task, "outcome")
        for (lists, groups), names in metrics.items():
            of_what = f" ({', '.join(names)})" if len(metrics) > 1 else ""
            lines.append(f"{title}{of_what}: {lists} lists of {groups} groups")
    lines += map(str, evaluation.findings)
    if evaluation.differences:
        lines.append(f"diff: {evaluation.differences[0].row} minus the ranking")
    what = "requests"
    if evaluation.groups is not None:
        what = f"the groups of {evaluation.groups!r}"
    if any(record.low is not None for record in records):
        lines.append(f"95% intervals: {evaluation.samples} resamples of {what}")
    if any(record.low is None and record.groups < 2 for record in records):
        lines.append("no interval where all lists are of one group")
    unbounded = [r.metric for r in records if r.low is None and r.groups > 1]
    if unbounded:
        joined = ", ".join(dict.fromkeys(unbounded))
        lines.append(f"no interval for {joined}: no sum over lists")
    return lines or ["no metric had a list that it can use"]


def slices_text(evaluation: Evaluation) -> list[str]:
    """Returns the tables of all slices, an empty line before each.

    Args:
        evaluation: the evaluation.
    """
    lines = []
    for name, buckets in evaluation.slices.items():
        lines += ["", *aligned(slice_grid(name, buckets))]
    return lines


def _grouped(records: Sequence[Any]) -> list[tuple[bool, str | None, Any]]:
    """Says of each record whether it is its metric's first, and the title before it."""
    found: list[tuple[bool, str | None, Any]] = []
    title = metric = None
    for record in records:
        own = heading(record.task, record.axis)
        new = own if own != title else None
        first = new is not None or record.metric != metric
        title, metric = own, record.metric
        found.append((first, new, record))
    return found


def _places(records: Any, record: Record) -> tuple[int, ...]:
    """Sorts records of several buckets as one evaluation would."""
    tasks = list(dict.fromkeys(r.task for r in records if r.task is not None))
    metrics = list(dict.fromkeys(r.metric for r in records))
    rows = list(dict.fromkeys(r.row for r in records))
    return (
        len(tasks) if record.task is None else tasks.index(record.task),
        AXES.index(record.axis),
        metrics.index(record.metric),
        rows.index(record.row),
    )


def _filled(lines: list[list[str]], length: int) -> list[list[str]]:
    return [line + [""] * (length - len(line)) for line in lines]
