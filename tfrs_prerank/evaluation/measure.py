"""Metrics of several rankings over the same logged lists."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.evaluation.bootstrap import (
    group_sums,
    interval,
    number_groups,
    resampled_sums,
)
from tfrs_prerank.evaluation.rankings import Ranking
from tfrs_prerank.evaluation.results import Difference, Evaluation, Record
from tfrs_prerank.metrics import GAUC, MRR, NDCG, HitRate
from tfrs_prerank.objectives.terms import label_of, usable
from tfrs_prerank.progress import track


def evaluate(
    rankings: Mapping[str, Any],
    data: Iterable[Mapping[str, Any]],
    *,
    metrics: Sequence[Any] | None = None,
    tasks: str | Sequence[str] | None = None,
    groups: str | None = "group_id",
    samples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measures a model and other rankings on the same lists, in one pass.

    With `v_i` and `w_i` the metric's value and weight of list `i`,

        value = sum_i w_i v_i / sum_i w_i

    over the lists that the metric can use. The 95% interval comes from a bootstrap
    over groups, as the lists of one user are not independent: G of the G groups are
    drawn with replacement, with all their lists, `samples` times, and the interval
    reaches from the 2.5th to the 97.5th percentile of the values. The same draws serve
    all rankings, so the intervals of the differences (the first ranking minus another)
    are paired. With few groups such intervals are too narrow.

    A metric without one usable list is left out, with a warning.

    Args:
        rankings: what ranks, by the name of its row; differences are taken from the
            first. A `PreRanker` or another Keras model, read as `model(batch)`; the
            name of a batch column `[B, L]`, such as `"popularity"`; `"random"`, the
            exact expectation over random orders (constant scores: the metrics average
            over ties, so nothing is drawn); or a function from a batch to scores
            `[B, L]` or to a dict like a model's.
        data: batches of requests, as `datasets` reads them; gone through once.
        metrics: list metrics; default `NDCG(10)`, `MRR()`, `HitRate(10)`, `GAUC()`.
            They rank by `scores`, or by the task's logits where `reads` says so. Their
            state is not touched.
        tasks: which labels; default the tasks of the first model, or without one all
            `label/<task>` columns but `out_of_scene`.
        groups: a batch column `[B]` of strings or integers; pads (`""`, -1) make a
            request a group of its own. None does so for all requests.
        samples: number of resamples.
        seed: of the resamples: the same seed gives the same intervals.

    Returns:
        The values, differences and their intervals; print it for a table.

    Raises:
        KeyError: a column or an output that is needed is missing.
        ValueError: there is no batch, metrics share a name, scores have the wrong
            shape or are NaN, or an argument is out of range.
        TypeError: an argument or a batch is of the wrong type.

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
    rows = _rows(rankings)
    metrics = (
        [NDCG(10), MRR(), HitRate(10), GAUC()] if metrics is None else list(metrics)
    )
    _check_metrics(metrics)
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"samples={samples!r}: give a positive number of resamples")
    names: list[str] | None = [tasks] if isinstance(tasks, str) else None
    if tasks is not None and names is None:
        names = list(tasks)
    if names is not None and not names:
        raise ValueError("tasks is empty: name a task, or leave it out for all")

    values, weights, keys, ids = [], [], [], []
    for batch in track(_batches(data), "evaluating", _length(data)):
        if names is None:
            names = _tasks_of(rankings, batch)
        value, weight = _measure(rows, batch, names, metrics)
        values.append(value)
        weights.append(weight)
        keys.append(_keys(batch, groups, len(value)))
        ids.append(_keys(batch, "request_id", len(value), needed=False))
    if names is None or not values:
        raise ValueError("the data holds no batch; give requests to evaluate on")

    cells = [
        (task, metric.name, ranking.row)
        for task in names
        for metric in metrics
        for ranking in rows
    ]
    numbers = number_groups(np.concatenate(keys), np.concatenate(ids))
    records, differences = _summary(
        cells, np.concatenate(values), np.concatenate(weights), numbers, samples, seed
    )
    _warn_of_absent(cells, records)
    return Evaluation(
        records=records,
        differences=differences,
        groups=groups,
        samples=samples,
        seed=seed,
    )


def _summary(
    cells: list[tuple[str, str, str]],
    values: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray,
    samples: int,
    seed: int,
) -> tuple[tuple[Record, ...], tuple[Difference, ...]]:
    """Makes records of values and weights `[n, cells]` of lists."""
    sums = group_sums(groups, np.concatenate([values * weights, weights], axis=1))
    point = _ratios(sums.sum(axis=0, keepdims=True))[0]
    drawn = _ratios(resampled_sums(sums, samples, seed))
    lists = np.count_nonzero(weights, axis=0)
    members = np.count_nonzero(sums[:, len(cells) :], axis=0)

    def bounds(resampled: np.ndarray, *places: int) -> tuple[Any, Any]:
        # One group would be drawn every time: its interval says nothing.
        enough = all(members[place] > 1 for place in places)
        return (interval(resampled) if enough else None) or (None, None)

    records, differences = [], []
    first_row = cells[0][2]
    first = 0
    for place, (task, metric, row) in enumerate(cells):
        if row == first_row:
            first = place
        if lists[place] == 0:
            continue
        low, high = bounds(drawn[:, place], place)
        counts = int(lists[place]), int(members[place])
        records.append(
            Record(task, metric, row, float(point[place]), low, high, *counts)
        )
        if place == first or lists[first] == 0:
            continue
        low, high = bounds(drawn[:, first] - drawn[:, place], first, place)
        gap = float(point[first] - point[place])
        differences.append(Difference(task, metric, first_row, row, gap, low, high))
    return tuple(records), tuple(differences)


def _ratios(sums: np.ndarray) -> np.ndarray:
    """Divides the first half of the columns by the second; NaN where that is 0."""
    total, weight = np.split(sums, 2, axis=1)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _measure(
    rows: list[Ranking],
    batch: Mapping[str, tf.Tensor],
    tasks: list[str],
    metrics: list[Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns values and weights of a batch's lists, float64 `[B, cells]`."""
    reads = {metric.reads for metric in metrics}
    kinds = ["scores"] * ("scores" in reads) + tasks * ("logits" in reads)
    outputs = [ranking(batch, kinds) for ranking in rows]
    values, weights = [], []
    for task in tasks:
        labels = tf.cast(label_of(batch, task), tf.float64)
        where = usable(batch, labels, None)
        # All rows at once, one below the other.
        labels = tf.tile(labels, [len(rows), 1])
        where = tf.tile(where, [len(rows), 1])
        for metric in metrics:
            kind = task if metric.reads == "logits" else "scores"
            scores = tf.concat([output[kind] for output in outputs], axis=0)
            value, weight = metric.per_list(labels, scores, where=where)
            value = value.numpy().reshape(len(rows), -1)
            weight = weight.numpy().reshape(len(rows), -1)
            for ranking, broken in zip(rows, np.isnan(value).any(axis=1), strict=True):
                if broken:
                    raise ValueError(
                        f"rankings[{ranking.row!r}] scores a document NaN "
                        f"({task}/{metric.name}); a model that gives NaN has diverged"
                    )
            values.extend(value)
            weights.extend(weight)
    return np.stack(values, axis=1), np.stack(weights, axis=1)


def _rows(rankings: Mapping[str, Any]) -> list[Ranking]:
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


def _batches(data: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, tf.Tensor]]:
    for batch in data:
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"data yields {type(batch).__name__}: give batches as dicts; a single "
                "batch goes into a list"
            )
        if "mask" not in batch:
            raise KeyError("the batch has no 'mask', true where a document is real")
        tensors = {name: tf.convert_to_tensor(column) for name, column in batch.items()}
        mask = tensors["mask"]
        if mask.dtype != tf.bool or mask.shape.rank != 2:
            raise ValueError(
                f"'mask' is {mask.dtype.name} of shape {tuple(mask.shape)}: give bool "
                "[B, L], true where a document is real"
            )
        yield tensors


def _length(data: Any) -> int | None:
    if isinstance(data, tf.data.Dataset):
        length = int(data.cardinality())
        if length == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the data has no end: leave out repeat() or add take()")
        return length if length >= 0 else None
    return len(data) if hasattr(data, "__len__") else None


def _tasks_of(rankings: Mapping[str, Any], batch: Mapping[str, Any]) -> list[str]:
    for source in rankings.values():
        schema = getattr(source, "schema", None)
        if schema is not None:
            return list(schema.task_names)
    columns = [name for name in batch if name.startswith("label/")]
    names = [name.removeprefix("label/") for name in columns]
    names = [name for name in names if name != "out_of_scene"]
    if not names:
        raise KeyError("the batch has no 'label/<task>' column; add the labels")
    return names


def _keys(
    batch: Mapping[str, tf.Tensor], name: str | None, size: int, needed: bool = True
) -> np.ndarray:
    """Returns a column of keys `[B]`, bytes or integers; "" where there is none."""
    if name is None or (name not in batch and not needed):
        return np.full(size, b"", object)
    if name not in batch:
        raise KeyError(
            f"groups={name!r}: the batch has no such column; {nearest(name, batch)}; "
            "groups=None takes requests one by one"
        )
    keys = batch[name]
    if keys.shape.rank != 1 or not (keys.dtype == tf.string or keys.dtype.is_integer):
        raise ValueError(
            f"{name!r} is {keys.dtype.name} of shape {tuple(keys.shape)}: a key is one "
            "string or integer per request"
        )
    return keys.numpy()


def _warn_of_absent(
    cells: list[tuple[str, str, str]], records: tuple[Record, ...]
) -> None:
    there = {(record.task, record.metric, record.row) for record in records}
    absent: dict[str, list[str]] = {}
    for task, metric, row in cells:
        if (task, metric, row) not in there:
            absent.setdefault(f"{task}/{metric}", []).append(row)
    for name, rows in absent.items():
        warnings.warn(
            f"{name} is left out for {', '.join(rows)}: no list had a label that it "
            "can use",
            stacklevel=3,
        )
