"""One metric of one task for every ranking: its sums by list, and what they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.evaluation.bootstrap import group_sums, interval, resampled_sums
from tfrs_prerank.evaluation.rankings import Outputs
from tfrs_prerank.evaluation.results import Difference, Record
from tfrs_prerank.evaluation.tables import AXES
from tfrs_prerank.metrics import ECE
from tfrs_prerank.metrics._document_metric import DocumentMetric
from tfrs_prerank.metrics._kept_share import KeptShare

_CALIBRATION = (DocumentMetric, ECE)


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """A metric and the rankings that it is measured for.

    Attributes:
        task: whose columns it reads; None where it reads no task's.
        metric: the metric.
        rows: names of the rankings.
        places: their places among all rankings.
    """

    task: str | None
    metric: Any
    rows: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def name(self) -> str:
        """The metric's name, with the task's before it where there is one."""
        name = self.metric.name
        return name if self.task is None else f"{self.task}/{name}"

    @property
    def columns(self) -> list[str]:
        """The batch columns that the metric reads, its labels first."""
        columns = self.metric.columns
        names = [columns["labels"], *(columns[name] for name in sorted(columns))]
        return list(dict.fromkeys(name.format(task=self.task) for name in names))

    @property
    def axis(self) -> str:
        """What the metric says something about, one of `AXES`."""
        kind = self.metric.columns["labels"].split("/")[0]
        return {"label": "outcome", "teacher": "imitation"}.get(kind, "forwarded")

    def scores(self, outputs: Sequence[Outputs]) -> list[tf.Tensor]:
        """Returns what the metric reads of each of its rows, `[B, L]`."""
        reads = self.metric.reads
        return [outputs[place].read(reads, self.task) for place in self.places]


def series_of(
    metrics: Sequence[Any], tasks: Sequence[str], outputs: Sequence[Outputs]
) -> list[Series]:
    """Lists what there is to measure: by task, then by axis, then as metrics are given.

    Args:
        metrics: the metrics.
        tasks: the tasks.
        outputs: what the rankings give for a batch.
    """
    found = []
    for task in (*tasks, None):
        for metric in metrics:
            of_task = metric.reads == "logits" or any(
                "{task}" in column for column in metric.columns.values()
            )
            if of_task == (task is None):
                continue
            # An order is no probability.
            needs_logits = isinstance(metric, _CALIBRATION)
            places = tuple(
                place
                for place, output in enumerate(outputs)
                if output.logits is not None or not needs_logits
            )
            rows = tuple(outputs[place].row for place in places)
            found.append(Series(task, metric, rows, places))
    names = [*tasks, None]
    return sorted(found, key=lambda s: (names.index(s.task), AXES.index(s.axis)))


class Sums:
    """The `list_sums` of series, batch by batch."""

    def __init__(self) -> None:
        self._parts: dict[Series, dict[int, np.ndarray]] = {}

    def add(
        self,
        batch: int,
        series: Series,
        columns: Mapping[str, tf.Tensor],
        scores: Sequence[tf.Tensor],
        mask: tf.Tensor,
    ) -> None:
        """Adds a batch.

        Args:
            batch: its number.
            series: the series.
            columns: the metric's arguments `[B, L]`.
            scores: of each of its rows, `[B, L]`.
            mask: `[B, L]`.
        """
        if not scores:
            return
        rows = len(scores)
        # All rows at once, one below the other.
        sums = series.metric.list_sums(
            scores=tf.concat(scores, axis=0),
            where=tf.tile(mask, [rows, 1]),
            **{name: tf.tile(column, [rows, 1]) for name, column in columns.items()},
        )
        by_row = sums.numpy().reshape(rows, len(mask), sums.shape[-1])
        self._parts.setdefault(series, {})[batch] = by_row.transpose(1, 0, 2)

    def joined(self, lists: Sequence[int]) -> dict[Series, np.ndarray]:
        """Returns the sums of all lists, `[n, rows, S]`, 0 for batches without any.

        Args:
            lists: number of lists of every batch.
        """
        joined = {}
        for series, parts in self._parts.items():
            shape = next(iter(parts.values())).shape[1:]
            joined[series] = np.concatenate(
                [
                    parts[batch] if batch in parts else np.zeros((size, *shape))
                    for batch, size in enumerate(lists)
                ]
            )
        return joined


class Copies:
    """A metric that is no sum over lists: one with its own state for each row.

    Args:
        series: the series.

    Attributes:
        metrics: one for each row.
    """

    def __init__(self, series: Series) -> None:
        kind, config = type(series.metric), series.metric.get_config()
        self.metrics = [kind.from_config(config) for _ in series.rows]
        self._used: list[np.ndarray] = []

    def add(
        self,
        columns: Mapping[str, tf.Tensor],
        scores: Sequence[tf.Tensor],
        mask: tf.Tensor,
    ) -> None:
        """Adds a batch; see `Sums.add`."""
        known = mask
        if columns["labels"].dtype.is_floating:
            known &= ~tf.math.is_nan(columns["labels"])
        self._used.append(tf.reduce_any(known, axis=1).numpy())
        for metric, own in zip(self.metrics, scores, strict=True):
            metric.update_state(scores=own, where=mask, **columns)

    @property
    def used(self) -> np.ndarray:
        """Which lists hold a document that the metric reads, bool `[n]`."""
        return np.concatenate(self._used)

    @property
    def values(self) -> np.ndarray:
        """The value of every row, NaN for none."""
        return np.array([float(metric.result()) for metric in self.metrics])


def sliced_by_document(metric: Any) -> bool:
    """Says whether a metric can be taken apart by documents; see `Slice`."""
    reads_labels = metric.columns["labels"].startswith("label/")
    return reads_labels and isinstance(metric, (KeptShare, DocumentMetric))


def restricted(
    metric: Any, columns: Mapping[str, tf.Tensor], inside: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Changes labels so that the positives, or documents, of a bucket alone count.

    Args:
        metric: one that `sliced_by_document` allows.
        columns: its arguments.
        inside: bool `[B, L]`, the documents of the bucket.

    Returns:
        The arguments.
    """
    labels = columns["labels"]
    if isinstance(metric, KeptShare):
        # Positives of other buckets compete on, as documents that nobody looks for.
        labels = tf.where(inside | ~(labels > 0), labels, tf.zeros_like(labels))
    else:
        nan = tf.constant(float("nan"), labels.dtype)
        labels = tf.where(inside, labels, nan)
    return {**columns, "labels": labels}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What sums make.

    Attributes:
        records: values with intervals.
        differences: from the first ranking.
        resampled: the values of every resample by task, metric and row, `[samples]`.
    """

    records: tuple[Record, ...]
    differences: tuple[Difference, ...]
    resampled: Mapping[tuple[str | None, str, str], np.ndarray]


def summary(
    series: Sequence[Series],
    sums: Mapping[Series, np.ndarray],
    copies: Mapping[Series, Copies],
    groups: np.ndarray,
    first: str,
    samples: int,
    seed: int,
) -> Summary:
    """Makes values, intervals and differences.

    Args:
        series: in the order of the records.
        sums: of the additive ones that are wanted, `[n, rows, S]`.
        copies: of the others that are wanted.
        groups: the group of every list, int `[n]`.
        first: the ranking that differences are taken from.
        samples: number of resamples.
        seed: of the resamples.
    """
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    by_group = _by_group(sums, groups)
    drawn = _drawn(by_group, samples, seed)
    records: list[Record] = []
    differences: list[Difference] = []
    resampled = {}
    for one in series:
        task, metric = one.task, one.metric.name
        if one in by_group:
            own = by_group[one]
            values = one.metric.value_of(own.sum(axis=0)).numpy()
            again = one.metric.value_of(drawn[one]).numpy()
            # The last of the sums is the weight of a list.
            lists = np.count_nonzero(sums[one][:, :, -1], axis=0)
            members = np.count_nonzero(own[:, :, -1], axis=0)
        elif one in copies:
            values, again = copies[one].values, None
            used = copies[one].used
            lists = np.full(len(values), used.sum())
            members = np.full(len(values), len(np.unique(groups[used])))
        else:
            continue
        by_row = {}
        for place, row in enumerate(one.rows):
            if not lists[place] or np.isnan(values[place]):
                continue
            # One group would be drawn every time: its interval says nothing.
            if again is not None and members[place] > 1:
                resampled[task, metric, row] = again[:, place]
            bounds = _bounds(resampled.get((task, metric, row)))
            counts = int(lists[place]), int(members[place])
            record = Record(
                task, metric, row, float(values[place]), *bounds, *counts, one.axis
            )
            records.append(record)
            by_row[row] = record
        differences += [
            difference(by_row[first], record, resampled)
            for row, record in by_row.items()
            if first in by_row and row != first
        ]
    return Summary(tuple(records), tuple(differences), resampled)


def difference(
    record: Record,
    other: Record,
    resampled: Mapping[tuple[str | None, str, str], np.ndarray],
) -> Difference:
    """Takes one record from another, with the interval of the paired resamples.

    Args:
        record: of a row.
        other: of another row, for the same task and metric.
        resampled: see `Summary`.
    """
    task, metric = record.task, record.metric
    drawn = [resampled.get((task, metric, row)) for row in (record.row, other.row)]
    gap = None if drawn[0] is None or drawn[1] is None else drawn[0] - drawn[1]
    value = record.value - other.value
    return Difference(task, metric, record.row, other.row, value, *_bounds(gap))


def _bounds(drawn: np.ndarray | None) -> tuple[float | None, float | None]:
    if drawn is None:
        return None, None
    return interval(drawn) or (None, None)


def _by_group(
    sums: Mapping[Series, np.ndarray], groups: np.ndarray
) -> dict[Series, np.ndarray]:
    """Adds up lists by group, `[G, rows, S]`."""
    return {
        one: group_sums(groups, own.reshape(len(own), -1)).reshape(-1, *own.shape[1:])
        for one, own in sums.items()
    }


def _drawn(
    by_group: Mapping[Series, np.ndarray], samples: int, seed: int
) -> dict[Series, np.ndarray]:
    """Adds up the groups of every resample, `[samples, rows, S]`."""
    if not by_group:
        return {}
    flat = [own.reshape(len(own), -1) for own in by_group.values()]
    # At once, so that all have the same draws and equal rankings the same results.
    drawn = resampled_sums(np.concatenate(flat, axis=1), samples, seed)
    ends = np.cumsum([own.shape[1] for own in flat])[:-1]
    return {
        one: part.reshape(samples, *own.shape[1:])
        for (one, own), part in zip(
            by_group.items(), np.split(drawn, ends, axis=1), strict=True
        )
    }
