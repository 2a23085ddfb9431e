"""One self-contained HTML page: what a person would rather look at than read."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tfrs_prerank
from tfrs_prerank.evaluation import page
from tfrs_prerank.evaluation.collecting import Collector, catalogue
from tfrs_prerank.evaluation.curves import Curves
from tfrs_prerank.evaluation.measure import Measurement, warn_of_absent
from tfrs_prerank.evaluation.rankings import Batch, Ranking, columns_for
from tfrs_prerank.evaluation.results import Evaluation
from tfrs_prerank.models import PreRanker, Ranker
from tfrs_prerank.serving.exporter import fingerprint
from tfrs_prerank.serving.version_directory import MANIFEST

_WEIGHED_REQUESTS = 1000
"""Requests that field weights are a mean over: enough, and little to keep."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a report says.

    Attributes:
        title: its title.
        evaluation: the tables.
        curves: what is drawn.
        field_weights: by row and tower, for models with a gate.
        rows: names of the rankings, the first one first.
        measured: what was measured, with what, when.
    """

    title: str
    evaluation: Evaluation
    curves: Curves
    field_weights: Mapping[str, Mapping[str, Mapping[str, float]]]
    rows: Sequence[str]
    measured: Mapping[str, str]


def report(
    rankings: Mapping[str, Any],
    data: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    k: int = 100,
    m: int = 10,
    doc_ids: Any = None,
    popularity: str | None = None,
    title: str = "Pre-ranking report",
    about: Mapping[str, str] | None = None,
    metrics: Sequence[Any] | None = None,
    tasks: str | Sequence[str] | None = None,
    groups: str | None = "group_id",
    slices: Mapping[str, Any] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measures rankings as `evaluate` does, and writes a page with tables and plots.

    The page holds the table on both axes with intervals, the hit rate against k, which
    documents of each stage survive a cut at k, calibration, the Lorenz curve of
    forwarded documents, the hit rate by popularity, the weights of the fields of models
    with a gate, the slices, what could not be used and why, and what was measured. It
    is one file that asks for nothing else and runs no script; it reads well on a phone,
    in print, and on a dark screen. The same data and seed give the same file, but for
    the date.

    The curves, for a document of which `a` others have a better score and `t - 1` the
    same, take as the probability to be among the k best

        min(max((k - a) / t, 0), 1),

    so ties stand for all their orders, as in the metrics. The hit rate of positives is
    that of `InSceneHitRate`, all candidates compete; that of the ranker's m best is
    `RankerHitRate`, among the candidates that the ranker has scored.

    The data is gone through once, and memory is bounded by the batch, the catalogue and
    the sums of each list.

    Args:
        rankings: see `evaluate`. Give the model first, then what runs in production,
            the popularity, `"random"` and, as the oracle, `"teacher/<task>"`.
        data: see `evaluate`.
        path: the file, such as `"report.html"`; an earlier one is replaced.
        k: size of the set that is forwarded.
        m: how many of the ranker's best count.
        doc_ids: all ids of the catalogue, for the Lorenz curve, which leaves out and
            counts other candidates; without them it is that of the candidates that
            occur, which flatters.
        popularity: a numeric batch column `[B, L]` of how popular documents were;
            without it there is no hit rate by popularity.
        title: of the page.
        about: further lines for "what was measured", such as the name of the data.
        metrics: see `evaluate`.
        tasks: see `evaluate`.
        groups: see `evaluate`.
        slices: see `evaluate`.
        samples: see `evaluate`.
        seed: see `evaluate`.

    Returns:
        The evaluation.

    Raises:
        ImportError: Matplotlib or Jinja is not installed.
        IsADirectoryError: the path is a folder.
        KeyError: as `evaluate`, or there is no column of popularity.
        ValueError: as `evaluate`, k or m is not positive, `doc_ids` is empty or holds
            an id twice, or the column of popularity is not numeric `[B, L]`.
        TypeError: as `evaluate`, or `doc_ids` is no list of strings or integers.

    Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> batch = {
    ...     "mask": np.ones([2, 2], bool),
    ...     "doc_ids": np.array([["a", "b"], ["b", "c"]]),
    ...     "label/click": np.array([[1.0, 0.0], [1.0, 0.0]]),
    ...     "popularity": np.array([[9.0, 2.0], [4.0, 1.0]]),
    ... }
    >>> rows = {"popularity": "popularity", "random": "random"}
    >>> path = pathlib.Path(tempfile.mkdtemp(), "report.html")
    >>> evaluation = report(rows, [batch], path, k=1, groups=None)
    >>> "<svg" in path.read_text()
    True
    """
    _check_installed()
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it, report.html")
    for name, value in (("k", k), ("m", m)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r}: give a positive number of documents")
    if doc_ids is not None:
        doc_ids = catalogue(doc_ids)
    measurement = Measurement(rankings, metrics, tasks, groups, slices, samples, seed)
    rows = [ranking.row for ranking in measurement.rankings]
    collector = None
    kept: list[Batch] = []
    requests = 0
    for batch, outputs in measurement.scored(data):
        measurement.add(batch, outputs)
        if collector is None:
            collector = Collector(rows, measurement.tasks, k, m, doc_ids, popularity)
        collector.add(batch, outputs)
        if requests < _WEIGHED_REQUESTS:
            kept.append(batch)
        requests += len(batch["mask"])
    evaluation = measurement.result()  # which says so where there was no batch
    warn_of_absent(measurement.series, evaluation)
    assert collector is not None
    contents = Contents(
        title,
        evaluation,
        collector.result(),
        _field_weights(measurement.rankings, kept),
        rows,
        {
            **(about or {}),
            "requests": f"{requests:,}",
            "tasks": ", ".join(measurement.tasks),
            **_models(measurement.rankings),
            "k, m": f"{k} forwarded, the ranker's {m} best",
            "intervals": f"95%, {samples} resamples, seed {seed}",
            "versions": _versions(),
            "made on": _today(),
        },
    )
    _write(path, _rendered(contents))
    return evaluation


def _rendered(contents: Contents) -> str:
    """Fills the template."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = page.parts(contents)
    return environment.get_template("template.html").render(**parts)


def _write(path: Path, text: str) -> None:
    """Writes a file under another name first: nobody sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_installed() -> None:
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise ImportError(
                f"a report needs {name}: pip install 'tfrs_prerank[report]'"
            ) from None


def _field_weights(
    rankings: Sequence[Ranking], batches: Sequence[Batch]
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the field weights of every model with a gate."""
    found = {}
    for ranking in rankings:
        model = ranking.source
        if isinstance(model, PreRanker) and _has_gate(model):
            own = [columns_for(model, batch) for batch in batches]
            found[ranking.row] = model.field_weights(own)
    return found


def _has_gate(model: PreRanker) -> bool:
    parts = model.declarations
    towers = (parts.query_tower, parts.doc_tower, parts.cross_tower)
    return any(tower is not None and tower.gate is not None for tower in towers)


def _models(rankings: Sequence[Ranking]) -> dict[str, str]:
    """Says of every row what it is, and of models by which weights."""
    found = {}
    for ranking in rankings:
        source = ranking.source
        if isinstance(source, PreRanker):
            what = f"model, weights {fingerprint(source)[:16]}"
        elif isinstance(source, Ranker):
            what = "ranker"
        elif ranking.version is not None:
            digest = _exported(ranking.version)[:16]
            what = f"export {ranking.version}, weights {digest}"
        elif source == "random":
            what = "the expectation over random orders"
        elif isinstance(source, str):
            what = f"column {source}"
        else:
            what = type(source).__name__
        found[f"row {ranking.row}"] = what
    return found


def _exported(version: Path) -> str:
    """Returns the fingerprint that an export's manifest holds."""
    try:
        manifest = json.loads((version / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        return "unknown"
    return str(manifest["fingerprint"])


def _versions() -> str:
    packages = ("tensorflow", "tf-keras", "numpy")
    own = [f"tfrs_prerank {tfrs_prerank.__version__}"]
    others = [f"{name} {metadata.version(name)}" for name in packages]
    return ", ".join([*own, *others, f"Python {platform.python_version()}"])


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
