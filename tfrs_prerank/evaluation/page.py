"""The parts of a report's page: what the template puts one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfrs_prerank.evaluation import plots
from tfrs_prerank.evaluation.collecting import SHOWN
from tfrs_prerank.evaluation.curves import Calibration, Funnel
from tfrs_prerank.evaluation.results import Difference, Evaluation, Record
from tfrs_prerank.evaluation.tables import (
    Grid,
    heading,
    interval_text,
    notes,
    slice_grid,
)

if TYPE_CHECKING:
    from tfrs_prerank.evaluation.report import Contents


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing with what it shows.

    Attributes:
        title: above it.
        svg: the drawing.
        caption: below it, how to read it.
    """

    title: str
    svg: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: its anchor.
        title: its title.
        figures: what it shows.
        tables: the numbers.
        empty: said where there is nothing to show.
    """

    name: str
    title: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Grid] = ()
    empty: str = ""


def parts(contents: Contents) -> dict[str, Any]:
    """Returns what the template needs.

    Args:
        contents: all that the report says.
    """
    evaluation = contents.evaluation
    return {
        "title": contents.title,
        "values": values(evaluation),
        "first": contents.rows[0],
        "notes": notes(evaluation),
        "findings": [str(finding) for finding in evaluation.findings],
        "requests": evaluation.requests,
        "sections": sections(contents),
        "measured": contents.measured,
    }


@dataclasses.dataclass(frozen=True)
class Value:
    """A line of the table of values.

    Attributes:
        metric: the metric's name, empty where it is that of the line above.
        row: the ranking.
        value: its value.
        interval: its interval.
        gap: the first ranking minus this one.
        gap_interval: its interval.
        clear: whether the interval of the difference is on one side of 0.
    """

    metric: str
    row: str
    value: str
    interval: str
    gap: str = ""
    gap_interval: str = ""
    clear: bool = False


def values(evaluation: Evaluation) -> dict[str, list[Value]]:
    """Returns the table of values by the title of each group of metrics.

    Args:
        evaluation: the evaluation.
    """
    gaps = {(d.task, d.metric, d.other): d for d in evaluation.differences}
    groups: dict[str, list[Value]] = {}
    before: Record | None = None
    for record in evaluation.records:
        lines = groups.setdefault(heading(record.task, record.axis), [])
        same = lines and before is not None and before.metric == record.metric
        value = Value(
            "" if same else record.metric,
            record.row,
            f"{record.value:.4f}",
            interval_text(record),
        )
        gap = gaps.get((record.task, record.metric, record.row))
        if gap is not None:
            value = dataclasses.replace(
                value,
                gap=f"{gap.value:+.4f}",
                gap_interval=interval_text(gap, "+"),
                clear=_is_clear(gap),
            )
        lines.append(value)
        before = record
    return groups


def _is_clear(gap: Difference) -> bool:
    return gap.low is not None and gap.high is not None and gap.low * gap.high > 0


def sections(contents: Contents) -> list[Section]:
    """Returns the drawn parts of the page in their order.

    Args:
        contents: all that the report says.
    """
    curves = contents.curves
    lorenz, k = curves.lorenz, curves.lorenz.k
    whole = "the catalogue" if lorenz.whole else "all candidates that occur"
    if lorenz.outside:
        whole += f"; {lorenz.outside:,} candidates that it lacks are left out"
    hits = [
        Figure(
            f"{curve.title}, kept by the k best",
            plots.hit_curve(curve, k),
            f"Mean over {curve.lists:,} lists that hold any, among all candidates that "
            "can be compared. Read off the k that keeps enough.",
        )
        for curve in curves.hits
    ]
    popularity = [
        Figure(
            f"positives of {item.task}, by popularity of the document",
            plots.by_popularity(item),
            f"About {item.positives.mean():,.0f} positives in each part. A line that "
            "rises to the right loses what few people have found so far.",
        )
        for item in curves.popularity
    ]
    return [
        Section("hits", "Hit rate against k", hits, empty="No list has a positive."),
        _funnel(curves.funnel, contents.rows),
        Section(
            "calibration",
            "Calibration",
            _calibration(curves.calibration),
            empty="No ranking gives logits of a task with labels.",
        ),
        Section(
            "exposure",
            "What is forwarded: Lorenz curve",
            [
                Figure(
                    f"places of the {k} best, shared among {lorenz.documents:,} "
                    "documents",
                    plots.lorenz(lorenz),
                    f"Over {whole}. On the dotted line all documents are forwarded "
                    "equally often; the further below, the fewer share the places"
                    + (
                        f". {SHOWN} is what users saw." if SHOWN in lorenz.gini else "."
                    ),
                )
            ],
        ),
        Section(
            "popularity",
            "Hit rate by popularity",
            popularity,
            empty="No column of popularity was named, or no list has a positive.",
        ),
        Section(
            "fields",
            "Field weights",
            [
                Figure(
                    f"gates of {row}",
                    plots.field_weights(row, towers),
                    "How much the gate lets each field count, mean over the first "
                    "requests.",
                )
                for row, towers in contents.field_weights.items()
            ],
            empty="No ranking is a model with a gate.",
        ),
        _slices(contents.evaluation),
    ]


def _funnel(funnel: Funnel | None, rows: Sequence[str]) -> Section:
    title = "The funnel by stage"
    if funnel is None:
        empty = "The log has one stage only, or none."
        return Section("funnel", title, empty=empty)
    figure = Figure(
        f"documents per request, and how many {rows[0]} keeps at k = {funnel.k}",
        plots.funnel(funnel, rows[0]),
        "Stages are how far a document came in the logged cascade. Light bars: all. "
        "Solid bars: among the k best, with ties as expected numbers.",
    )
    lines = []
    for kind, there in funnel.there.items():
        lines.append([kind])
        lines.append(["  per request", *(f"{n / funnel.requests:.4g}" for n in there)])
        for row in rows:
            kept = funnel.kept[kind][row]
            shares = [
                f"{some / all_:.1%}" if all_ else "-"
                for some, all_ in zip(kept, there, strict=True)
            ]
            lines.append([f"  kept by {row}", *shares])
    headers = ["", *(stage.replace("_", " ") for stage in funnel.stages)]
    lines = [line + [""] * (len(headers) - len(line)) for line in lines]
    numeric = [False, *(True for _ in funnel.stages)]
    return Section("funnel", title, [figure], [(headers, numeric, lines)])


def _calibration(curves: Sequence[Calibration]) -> list[Figure]:
    by_task: dict[str, list[Calibration]] = {}
    for curve in curves:
        by_task.setdefault(curve.task, []).append(curve)
    return [
        Figure(
            f"probability of {task}",
            plots.calibration(own),
            f"{own[0].documents.sum():,.0f} documents with a label, in bins of similar "
            "size. Above the dotted line a model promises too little. PCOC: predicted "
            "over observed, 1 is right; ECE: mean gap of a bin.",
        )
        for task, own in by_task.items()
    ]


def _slices(evaluation: Evaluation) -> Section:
    figures, tables = [], []
    for name, buckets in evaluation.slices.items():
        tables.append(slice_grid(name, buckets))
        for task, metric in _shown(buckets):
            of_task = metric if task is None else f"{task}, {metric}"
            figures.append(
                Figure(
                    f"{of_task} by {name}",
                    plots.slice_plot(name, buckets, task, metric),
                    "With 95% intervals, which few groups make too narrow.",
                )
            )
    return Section(
        "slices", "Slices", figures, tables, empty="No slices were asked for."
    )


def _shown(buckets: Mapping[str, Evaluation]) -> list[tuple[str | None, str]]:
    """Returns the first metric of every axis: more drawings are not looked at."""
    first: dict[str, tuple[str | None, str]] = {}
    for part in buckets.values():
        for record in part.records:
            first.setdefault(record.axis, (record.task, record.metric))
    return list(first.values())
