"""Curves drawn as SVG, for light and dark pages. What belongs here: no arithmetic."""

from __future__ import annotations

import html
import io
import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfrs_prerank.evaluation.curves import (
    ByPopularity,
    Calibration,
    Funnel,
    HitCurve,
    Lorenz,
)
from tfrs_prerank.evaluation.slices import interval_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tfrs_prerank.evaluation.results import Evaluation

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"
_INK = "#010203"
"""Stands for the colour of the page's text, which the browser fills in."""
_WIDTH = 5.6  # inches
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    **dict.fromkeys(
        (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "axes.titlecolor",
            "xtick.color",
            "ytick.color",
            "grid.color",
        ),
        _INK,
    ),
}


def hit_curve(curve: HitCurve, k: int) -> str:
    """Draws the share that the k best keep, against k.

    Args:
        curve: the numbers.
        k: the cut that is marked.

    Returns:
        SVG.
    """

    def draw(axes: Axes) -> None:
        for row, style in _styles(curve.values):
            axes.plot(curve.cuts, curve.values[row], label=_label(row), **style)
        axes.axvline(k, color=_INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"k = {k}",
            (k, 0.02),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set(
            xscale="log",
            ylim=(0, 1.02),
            xlabel="k, documents that are forwarded",
            ylabel="share kept among the k best",
        )
        _plain_ticks(axes.xaxis)
        _legend(axes)

    values = ", ".join(
        f"{row} {_at(curve, row, k):.3f}" for row in curve.values if k <= curve.cuts[-1]
    )
    alt = f"Share of {curve.title} kept, against k. At k = {k}: {values or 'all'}."
    return _svg(f"hits-{curve.title}", alt, [draw])


def funnel(data: Funnel, row: str) -> str:
    """Draws where documents of each kind sit, and which of them a ranking keeps.

    Args:
        data: the numbers.
        row: the ranking.

    Returns:
        SVG.
    """
    stages = [stage.replace("_", " ") for stage in data.stages]

    def panel(kind: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            there = data.there[kind] / data.requests
            kept = data.kept[kind][row] / data.requests
            axes.barh(stages, there, height=0.7, color=_INK, alpha=0.15)
            axes.barh(stages, kept, height=0.4, color=_PALETTE[0])
            for place, (some, whole) in enumerate(zip(kept, there, strict=True)):
                share = f" ({some / whole:.0%})" if whole else ""
                axes.annotate(
                    f"{some:.3g} of {whole:.3g}{share}",
                    (whole, place),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
            axes.set_xlim(0, 1.6 * max(there.max(), 1e-9))
            axes.set_title(kind, loc="left")
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)

        return draw

    panels = [panel(kind) for kind in data.there]
    alt = f"Documents per request by stage, and how many {row} keeps at k = {data.k}."
    return _svg(
        "funnel",
        alt,
        panels,
        height=0.55 + 0.32 * len(stages),
        xlabel="documents per request (solid: kept)",
    )


def calibration(curves: Sequence[Calibration]) -> str:
    """Draws predicted against observed rates of one task.

    Args:
        curves: of each ranking with logits.

    Returns:
        SVG.
    """
    values = [v for c in curves for v in (*c.predicted, *c.observed)]
    log = min(values) > 0 and max(values) / min(values) > 20

    def draw(axes: Axes) -> None:
        ends = [min(values), max(values)] if log else [0.0, max(values)]
        axes.plot(ends, ends, color=_INK, linewidth=0.8, linestyle=":")
        for curve, (_, style) in zip(
            curves, _styles([c.row for c in curves], marker=True), strict=True
        ):
            axes.plot(
                curve.predicted,
                curve.observed,
                label=_label(f"{curve.row} ({_calibration_text(curve)})"),
                **style,
            )
        axes.set(xlabel="predicted probability", ylabel="observed share of positives")
        if log:
            axes.set(xscale="log", yscale="log")
            _plain_ticks(axes.xaxis)
            _plain_ticks(axes.yaxis)
        _legend(axes)

    task = curves[0].task
    each = "; ".join(f"{curve.row}: {_calibration_text(curve)}" for curve in curves)
    alt = f"Predicted against observed rates of {task}. {each}."
    return _svg(f"calibration-{task}", alt, [draw])


def lorenz(data: Lorenz) -> str:
    """Draws how forwarded places are shared among the documents.

    Args:
        data: the numbers.

    Returns:
        SVG.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        for row, style in _styles(data.shares):
            share = data.shares[row]
            first = [place / (len(share) - 1) for place in range(len(share))]
            label = _label(f"{row} (Gini {data.gini[row]:.3f})")
            axes.plot(first, share, label=label, **style)
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="share of documents, least forwarded first",
            ylabel="their share of all places",
        )
        _legend(axes)

    each = ", ".join(f"{row} {gini:.3f}" for row, gini in data.gini.items())
    alt = f"Lorenz curves of forwarded documents at k = {data.k}. Gini: {each}."
    return _svg("lorenz", alt, [draw])


def by_popularity(data: ByPopularity) -> str:
    """Draws the hit rate of positives by their documents' popularity.

    Args:
        data: the numbers.

    Returns:
        SVG.
    """
    names = interval_names(data.edges)

    def draw(axes: Axes) -> None:
        for row, style in _styles(data.values, marker=True):
            axes.plot(range(len(names)), data.values[row], label=_label(row), **style)
        axes.set(
            ylim=(0, 1.05),
            xlabel=f"{data.column} of the document (equal numbers of positives)",
            ylabel=f"share kept among the {data.k} best",
        )
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
        _legend(axes)

    each = "; ".join(
        f"{row}: from {values[0]:.3f} to {values[-1]:.3f}"
        for row, values in data.values.items()
    )
    alt = (
        f"Share of positives of {data.task} kept, from the least to the most popular "
        f"documents. {each}."
    )
    return _svg(f"popularity-{data.task}", alt, [draw], height=3.6)


def field_weights(row: str, weights: Mapping[str, Mapping[str, float]]) -> str:
    """Draws how much a model's gates let each field count.

    Args:
        row: the model's row.
        weights: by tower, the weight of each field.

    Returns:
        SVG.
    """

    def panel(tower: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            ordered = sorted(weights[tower].items(), key=lambda item: -item[1])
            names = [name for name, _ in ordered]
            values = [value for _, value in ordered]
            axes.barh(names, values, color=_PALETTE[0], height=0.7)
            for place, value in enumerate(values):
                axes.annotate(
                    f"{value:.3f}",
                    (value, place),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
            axes.set_xlim(right=1.15 * max(max(values), 1e-9))
            axes.set_title(f"{tower} tower", loc="left")
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)

        return draw

    longest = max(len(fields) for fields in weights.values())
    best = "; ".join(
        f"{tower} tower: most {max(fields, key=lambda name: fields[name])}"
        for tower, fields in weights.items()
    )
    alt = f"Mean weight of each field in the gates of {row}. {best}."
    return _svg(
        f"fields-{row}",
        alt,
        [panel(tower) for tower in weights],
        height=0.6 + 0.22 * longest,
        xlabel="mean weight of the field",
    )


def slice_plot(
    name: str, buckets: Mapping[str, Evaluation], task: str | None, metric: str
) -> str:
    """Draws a metric with its intervals in every bucket of a slice.

    Args:
        name: the slice's name.
        buckets: the evaluations of its buckets.
        task: the metric's task.
        metric: the metric's name.

    Returns:
        SVG.
    """
    found = {
        (record.row, bucket): record
        for bucket, part in buckets.items()
        for record in part.records
        if (record.task, record.metric) == (task, metric)
    }
    rows = list(dict.fromkeys(row for row, _ in found))
    names = [bucket for bucket in buckets if any(b == bucket for _, b in found)]

    def draw(axes: Axes) -> None:
        step = 0.6 / max(len(rows), 1)
        for place, (row, style) in enumerate(_styles(rows, marker=True)):
            there = [i for i, bucket in enumerate(names) if (row, bucket) in found]
            records = [found[row, names[i]] for i in there]
            low = [r.value - (r.value if r.low is None else r.low) for r in records]
            high = [(r.value if r.high is None else r.high) - r.value for r in records]
            axes.errorbar(
                [i + (place - (len(rows) - 1) / 2) * step for i in there],
                [record.value for record in records],
                # The percentile interval need not hold the value itself.
                yerr=[[max(0.0, x) for x in low], [max(0.0, x) for x in high]],
                label=_label(row),
                **{**style, "linestyle": "none"},
            )
        rotation = 0 if sum(map(len, names)) < 50 else 35
        align = "center" if rotation == 0 else "right"
        axes.set_xticks(range(len(names)), names, rotation=rotation, ha=align)
        axes.set(xlabel=_label(name), ylabel=metric)
        _legend(axes)

    of_task = metric if task is None else f"{task}, {metric}"
    alt = f"{of_task} by {name}, in {len(names)} parts, with 95% intervals."
    return _svg(f"slice-{name}-{task}-{metric}", alt, [draw], height=3.4)


def _svg(
    name: str,
    alt: str,
    panels: Sequence[Callable[[Any], None]],
    *,
    height: float = 3.2,
    xlabel: str = "",
) -> str:
    """Draws panels one below the other; equal input gives equal text."""
    from matplotlib import style
    from matplotlib.figure import Figure

    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    text = io.StringIO()
    # After a reset: what a notebook has set is for its own drawings.
    with style.context({**_STYLE, "svg.hashsalt": name}, after_reset=True):
        figure = Figure(figsize=(_WIDTH, height * len(panels)), layout="constrained")
        for draw, axes in zip(
            panels, figure.subplots(len(panels), squeeze=False)[:, 0], strict=True
        ):
            draw(axes)
        if xlabel:
            figure.supxlabel(xlabel, fontsize=9.5)
        with warnings.catch_warnings():
            # The browser has the glyphs that Matplotlib's own font lacks.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Several drawings share the page, so their names must not meet.
    svg = re.sub(r'\bid="', f'id="{slug}-', svg)
    svg = re.sub(r'href="#', f'href="#{slug}-', svg)
    svg = re.sub(r"url\(#", f"url(#{slug}-", svg)
    label = html.escape(alt, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _styles(
    rows: Sequence[str] | Mapping[str, Any], marker: bool = False
) -> list[tuple[str, dict[str, Any]]]:
    """Gives every row a colour and a second sign, for those who see no colours."""
    looks = zip(
        rows,
        itertools.cycle(_PALETTE),
        itertools.cycle(_DASHES),
        itertools.cycle(_MARKERS),
        strict=False,
    )
    return [
        (
            row,
            {
                "color": color,
                "linestyle": dash,
                "linewidth": 1.8,
                **({"marker": sign, "markersize": 4.5} if marker else {}),
            },
        )
        for row, color, dash, sign in looks
    ]


def _legend(axes: Axes) -> None:
    """Puts the legend below the drawing, in as many columns as its words leave."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = 3 if longest < 22 else 2 if longest < 36 else 1
    figure: Any = axes.figure
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _label(text: str) -> str:
    """Returns a label that Matplotlib does not hide: it hides those that begin so."""
    return f" {text}" if text.startswith("_") else text


def _at(curve: HitCurve, row: str, k: int) -> float:
    place = max(i for i, cut in enumerate(curve.cuts) if cut <= k)
    return float(curve.values[row][place])


def _calibration_text(curve: Calibration) -> str:
    pcoc = "none" if curve.pcoc is None else f"{curve.pcoc:.3f}"
    return f"PCOC {pcoc}, ECE {curve.ece:.4f}"
