"""Metrics of several rankings over the same logged lists."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.evaluation.batches import (
    batches,
    group_keys,
    request_ids,
    tasks_in,
)
from tfrs_prerank.evaluation.bootstrap import number_groups
from tfrs_prerank.evaluation.findings import Census, of_catalogues, of_slices
from tfrs_prerank.evaluation.rankings import Batch, Outputs, Ranking
from tfrs_prerank.evaluation.results import Evaluation
from tfrs_prerank.evaluation.series import (
    Copies,
    Series,
    Sums,
    restricted,
    series_of,
    sliced_by_document,
    summary,
)
from tfrs_prerank.evaluation.slices import Slice
from tfrs_prerank.metrics import GAUC, MRR, NDCG, HitRate


def evaluate(
    rankings: Mapping[str, Any],
    data: Iterable[Mapping[str, Any]],
    *,
    metrics: Sequence[Any] | None = None,
    tasks: str | Sequence[str] | None = None,
    groups: str | None = "group_id",
    slices: Mapping[str, Any] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measures a model and other rankings on the same lists, in one pass.

    For most metrics, with `v_i` and `w_i` the metric's value and weight of list `i`,

        value = sum_i w_i v_i / sum_i w_i

    over the lists that the metric can use; calibration metrics are a function of sums
    over documents. The 95% interval comes from a bootstrap over groups, as the lists of
    one user are not independent: G of the G groups are drawn with replacement, with all
    their lists, `samples` times, and the interval reaches from the 2.5th to the 97.5th
    percentile of the values. The same draws serve all rankings, so the intervals of the
    differences (the first ranking minus another; `compare` has all pairs) are paired.
    With few groups such intervals are too narrow. `ECE`, `CatalogCoverage` and
    `PopularityGini` are no sums over lists and have a value without an interval.

    Metrics stand on two axes: how well users are served (`NDCG`, `HitRate`, `ASH`, all
    that read labels), and how well the ranker is imitated (`RankerHitRate`, `Overlap`,
    `ScoreRecall`, `KendallTau`, which read `teacher/<task>`). A model that gains on the
    second and loses on the first copies the ranker's bias. Metrics that read neither
    say what is forwarded. A metric that reads no column of a task, such as `ASH`, is
    measured once and has the task None.

    What a metric cannot use is counted in `Evaluation.findings`, and printed: requests
    without a positive or a ranker's score, of one candidate or of no more than k,
    stages that contradict positions, documents without a score, forwarded documents
    that a metric's catalogue lacks, metrics that slices leave out. A metric without one
    usable list is left out, with a warning.

    Args:
        rankings: what ranks, by the name of its row; differences are taken from the
            first. A `PreRanker` or another Keras model, read as `model(batch)`; an
            export, as the `pathlib.Path` of its version or of its model's directory
            (the newest version) or as loaded by `tf.saved_model.load`, whose
            `serving_default` is called; the name of a batch column `[B, L]`, such as
            `"popularity"`, the production score, or `"teacher/click"` for the ranker
            itself, the oracle of imitation, where NaN ranks last; `"random"`, the exact
            expectation over random orders (constant scores: the metrics average over
            ties, so nothing is drawn); or a function from a batch to scores `[B, L]` or
            to a dict like a model's. Calibration metrics need logits, so only models,
            exports and dicts have them.
        data: batches of requests, as `datasets` reads them; gone through once.
        metrics: metrics of `tfrs_prerank.metrics`; default `NDCG(10)`, `MRR()`,
            `HitRate(10)`, `GAUC()`. They rank by `scores`, or by the task's logits
            where `reads` says so. Their state is not touched.
        tasks: which labels; default the tasks of the first model, or without one all
            `label/<task>` columns but `out_of_scene`.
        groups: a batch column `[B]` of strings or integers; pads (`""`, -1) make a
            request a group of its own. None does so for all requests.
        slices: by what the table is also taken apart, by name: a `Slice`, a batch
            column, or a function from a batch to values `[B]` or `[B, L]`.
        samples: number of resamples.
        seed: of the resamples: the same seed gives the same intervals.

    Returns:
        The values, differences and their intervals; print it for a table.

    Raises:
        KeyError: a column or an output that is needed is missing.
        ValueError: there is no batch, metrics share a name, scores have the wrong
            shape or are NaN, a task is named twice, or an argument is out of range.
        TypeError: an argument or a batch is of the wrong type.
        FileNotFoundError: there is no export at a path.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.metrics import MRR
    >>> batch = {
    ...     "mask": np.array([[True, True], [True, True]]),
    ...     "label/click": np.array([[1.0, 0.0], [1.0, 0.0]]),
    ...     "popularity": np.array([[9.0, 2.0], [4.0, 1.0]]),
    ...     "group_id": np.array(["ann", "bob"]),
    ... }
    >>> rows = {"popularity": "popularity", "random": "random"}
    >>> evaluation = evaluate(rows, [batch], metrics=[MRR()])
    >>> evaluation.value("click", "mrr", "popularity")
    1.0
    >>> evaluation.value("click", "mrr", "random")  # (1 + 1/2) / 2
    0.75
    >>> evaluation.difference("click", "mrr", "random").value
    0.25
    """
    measurement = Measurement(rankings, metrics, tasks, groups, slices, samples, seed)
    for batch, outputs in measurement.scored(data):
        measurement.add(batch, outputs)
    evaluation = measurement.result()
    warn_of_absent(measurement.series, evaluation)
    return evaluation


class Measurement:
    """What `evaluate` adds up, batch by batch. Its arguments are those of `evaluate`.

    Attributes:
        rankings: the rows.
        tasks: the tasks, known from the first batch on.
        series: what is measured, known from the first batch on.
    """

    def __init__(
        self,
        rankings: Mapping[str, Any],
        metrics: Sequence[Any] | None,
        tasks: str | Sequence[str] | None,
        groups: str | None,
        slices: Mapping[str, Any] | None,
        samples: int,
        seed: int,
    ) -> None:
        self.rankings = _rankings(rankings)
        self._metrics = (
            [NDCG(10), MRR(), HitRate(10), GAUC()] if metrics is None else list(metrics)
        )
        _check_metrics(self._metrics)
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
            raise ValueError(
                f"samples={samples!r}: give a positive number of resamples"
            )
        self.tasks = [tasks] if isinstance(tasks, str) else list(tasks or ())
        if tasks is not None and not self.tasks:
            raise ValueError("tasks is empty: name a task, or leave it out for all")
        for task in self.tasks:
            if self.tasks.count(task) > 1:
                raise ValueError(f"tasks names {task!r} twice: name every task once")
        self._slices = {
            name: source if isinstance(source, Slice) else Slice(source)
            for name, source in (slices or {}).items()
        }
        self._groups, self._samples, self._seed = groups, samples, seed
        self.series: list[Series] = []
        self._sums = Sums()
        self._keys: list[np.ndarray] = []
        self._ids: list[np.ndarray] = []
        # By slice: the values of requests, or the sums of each bucket of documents.
        self._of_requests: dict[str, list[np.ndarray]] = {}
        self._of_documents: dict[str, dict[str, Sums]] = {}

    def scored(
        self, data: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[Batch, list[Outputs]]]:
        """Yields batches with what every ranking says about them.

        Args:
            data: see `evaluate`.
        """
        for batch in batches(data):
            self.tasks = self.tasks or self._tasks(batch)
            outputs = [ranking(batch, self.tasks) for ranking in self.rankings]
            if not self.series:
                self._begin(outputs)
            yield batch, outputs

    def add(self, batch: Batch, outputs: list[Outputs]) -> None:
        """Adds a batch to all that is measured.

        Args:
            batch: the batch.
            outputs: of every ranking.
        """
        number = len(self._keys)
        self._keys.append(group_keys(batch, self._groups))
        self._ids.append(request_ids(batch))
        mask = batch["mask"]
        members = self._members(batch)
        for series in self.series:
            columns = series.metric.arguments(batch, series.task)
            scores = series.scores(outputs)
            if not series.metric.additive:
                self._copies[series].add(columns, scores, mask)
                continue
            self._sums.add(number, series, columns, scores, mask)
            if sliced_by_document(series.metric):
                for sums, inside in members:
                    own = restricted(series.metric, columns, inside)
                    sums.add(number, series, own, scores, mask)
        self._census.add(batch, outputs)

    def result(self) -> Evaluation:
        """Returns what was measured.

        Raises:
            ValueError: there was no batch.
        """
        lists = [len(keys) for keys in self._keys]
        if not sum(lists):
            raise ValueError("the data holds no batch; give requests to evaluate on")
        groups = number_groups(np.concatenate(self._keys), np.concatenate(self._ids))
        whole = self._sums.joined(lists)
        slices = {
            name: self._by_request(name, source, whole, groups)
            if name in self._of_requests
            else self._by_document(name, source, lists, groups)
            for name, source in self._slices.items()
        }
        return dataclasses.replace(
            self._evaluation(whole, groups, self._copies),
            findings=(
                *self._census.result(),
                *of_catalogues(self._copies, self._census.documents),
                *of_slices(self.series, self._of_requests, self._of_documents),
            ),
            slices=slices,
        )

    def _begin(self, outputs: list[Outputs]) -> None:
        """Sets up what is measured, once it is known what the rankings give."""
        self.series = series_of(self._metrics, self.tasks, outputs)
        self._copies = {s: Copies(s) for s in self.series if not s.metric.additive}
        self._census = Census(self.series)

    def _tasks(self, batch: Batch) -> list[str]:
        known = (ranking.tasks for ranking in self.rankings)
        return next((tasks for tasks in known if tasks), None) or tasks_in(batch)

    def _members(self, batch: Batch) -> list[tuple[Sums, tf.Tensor]]:
        """Keeps the requests' slices; returns the documents', and where they add up."""
        members = []
        for name, source in self._slices.items():
            values = source.values(name, batch)
            if values.ndim == 1:
                self._of_requests.setdefault(name, []).append(values)
                continue
            if not any(sliced_by_document(series.metric) for series in self.series):
                raise ValueError(
                    f"slices[{name!r}] takes positives apart, which hit rates, PCOC "
                    "and NormalizedEntropy can; give one, such as HitRate(100)"
                )
            buckets = self._of_documents.setdefault(name, {})
            inside = source.members(name, values, batch["mask"].numpy())
            for bucket, documents in inside.items():
                sums = buckets.setdefault(bucket, Sums())
                members.append((sums, tf.constant(documents)))
            source.ordered(name, buckets)  # not more than can be told apart
        return members

    def _by_request(
        self,
        name: str,
        source: Slice,
        whole: Mapping[Series, np.ndarray],
        groups: np.ndarray,
    ) -> dict[str, Evaluation]:
        names, places = source.cut(name, np.concatenate(self._of_requests[name]))
        found = {}
        for place, bucket in enumerate(names):
            inside = places == place
            if inside.any():
                sums = {series: own[inside] for series, own in whole.items()}
                found[bucket] = self._evaluation(sums, groups[inside])
        return found

    def _by_document(
        self, name: str, source: Slice, lists: list[int], groups: np.ndarray
    ) -> dict[str, Evaluation]:
        buckets = self._of_documents[name]
        return {
            bucket: self._evaluation(buckets[bucket].joined(lists), groups)
            for bucket in source.ordered(name, buckets)
        }

    def _evaluation(
        self,
        sums: Mapping[Series, np.ndarray],
        groups: np.ndarray,
        copies: Mapping[Series, Copies] | None = None,
    ) -> Evaluation:
        found = summary(
            self.series,
            sums,
            copies or {},
            groups,
            self.rankings[0].row,
            self._samples,
            self._seed,
        )
        return Evaluation(
            records=found.records,
            differences=found.differences,
            groups=self._groups,
            samples=self._samples,
            seed=self._seed,
            requests=len(groups),
            resampled=found.resampled,
        )


def warn_of_absent(series: Sequence[Series], evaluation: Evaluation) -> None:
    """Warns the caller's caller of what has no value.

    Args:
        series: what was measured.
        evaluation: what came out.
    """
    there = {(r.task, r.metric, r.row) for r in evaluation.records}
    for one in series:
        key = one.task, one.metric.name
        rows = [row for row in one.rows if (*key, row) not in there]
        why = None
        if not one.rows:
            why = f"{one.name} is left out: it needs logits, and no ranking gives any"
        elif rows:
            why = (
                f"{one.name} is left out for {', '.join(rows)}: no list has what it "
                f"needs in {', '.join(one.columns)}"
            )
        if why is not None:
            warnings.warn(why, stacklevel=3)


def _rankings(rankings: Mapping[str, Any]) -> list[Ranking]:
    if not isinstance(rankings, Mapping):
        raise TypeError(
            f"rankings is of type {type(rankings).__name__}: give a dict from names to "
            "what ranks, such as {'model': model, 'random': 'random'}"
        )
    if not rankings:
        raise ValueError("rankings is empty: name at least one, {'model': model}")
    return [Ranking(row, source) for row, source in rankings.items()]


def _check_metrics(metrics: list[Any]) -> None:
    if not metrics:
        raise ValueError("metrics is empty: give one, or leave it out for the default")
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two metrics are called {name!r}: give one a name=")
