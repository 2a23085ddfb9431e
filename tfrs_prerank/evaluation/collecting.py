"""Adds up, batch by batch, the curves of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.evaluation.batches import OUT_OF_SCENE
from tfrs_prerank.evaluation.curves import (
    ByPopularity,
    Calibration,
    Curves,
    Funnel,
    HitCurve,
    Lorenz,
)
from tfrs_prerank.evaluation.rankings import Batch, Outputs
from tfrs_prerank.evaluation.slices import quantiles
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.metrics._ties import tie_groups, top

SHOWN = "(shown in the log)"
"""The row of the log's own exposures; no ranking."""

_CUTS = (
    *(1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000),
    *(1500, 2000, 3000, 5000, 7000, 10_000),
)
_CELLS, _PER_UNIT = 4096, 128.0
"""Cells of the logit, as `metrics.ECE` has them: memory does not grow."""
_BINS = 10
_PARTS = 10
_POINTS = 201


class Places(NamedTuple):
    """Where documents stand in a ranking, with ties.

    Attributes:
        ahead: better documents, float64 `[B, L]`.
        tied: documents with the same score, itself included, float64 `[B, L]`.
    """

    ahead: np.ndarray
    tied: np.ndarray

    @classmethod
    def of(cls, scores: tf.Tensor, valid: tf.Tensor) -> Places:
        """Ranks the valid documents of every list; the others' numbers mean nothing."""
        groups = tie_groups(scores, valid)
        ahead, tied = (
            tf.gather(values, groups.place, batch_dims=1).numpy()
            for values in (groups.ahead, groups.size)
        )
        return cls(ahead, np.maximum(tied, 1.0))

    def kept(self, k: int | np.ndarray) -> np.ndarray:
        """Returns the probability that a document is among the k best."""
        return np.clip((k - self.ahead) / self.tied, 0.0, 1.0)


class Collector:
    """Adds up curves over batches.

    Args:
        rows: names of the rankings.
        tasks: the tasks.
        k: size of the forwarded set.
        m: how many of the ranker's best count.
        doc_ids: all ids of the catalogue, as `catalogue` returns them; None takes the
            candidates that occur.
        popularity: a numeric column `[B, L]`, None for none.
    """

    def __init__(
        self,
        rows: Sequence[str],
        tasks: Sequence[str],
        k: int,
        m: int,
        doc_ids: tf.Tensor | None,
        popularity: str | None,
    ) -> None:
        self._rows, self._tasks, self._k, self._m = rows, tasks, k, m
        self._popularity = popularity
        self._hits: dict[str, _Hits] = {}
        self._funnel = _FunnelCounts(rows, k)
        self._calibration: dict[tuple[str, str], np.ndarray] = {}
        self._forwarded = _Forwarded([*rows, SHOWN], doc_ids)
        self._positives: dict[str, list[np.ndarray]] = {task: [] for task in tasks}

    def add(self, batch: Batch, outputs: Sequence[Outputs]) -> None:
        """Adds a batch.

        Args:
            batch: the batch.
            outputs: of every ranking.

        Raises:
            KeyError: the batch has no ids, or no such column of popularity.
            ValueError: that column is not numeric `[B, L]`.
            TypeError: the batch's ids are of another type than the catalogue's.
        """
        if "doc_ids" not in batch:
            raise KeyError("the batch has no 'doc_ids', which a report counts by")
        mask = batch["mask"]
        real = mask.numpy()
        places = [Places.of(output.scores, mask) for output in outputs]
        kept = np.stack([place.kept(self._k) for place in places]) * real
        kinds = {"all candidates": real.astype(np.float64)}
        for task in self._tasks:
            if f"label/{task}" not in batch:
                continue
            wanted = _positives(batch, f"label/{task}")
            kinds[f"positives of {task}"] = wanted
            self._add_hits(f"positives of {task}", wanted, places)
            self._add_popularity(task, batch, wanted, kept)
            self._add_calibration(task, batch, outputs)
        if f"label/{OUT_OF_SCENE}" in batch:
            kinds["liked elsewhere"] = _positives(batch, f"label/{OUT_OF_SCENE}")
            self._add_hits("liked elsewhere", kinds["liked elsewhere"], places)
        for task in self._tasks:
            if f"teacher/{task}" in batch:
                best = self._add_imitation(task, batch, outputs)
                kinds[f"the ranker's {self._m} best for {task}"] = best
        if "stage" in batch:
            stage = batch["stage"].numpy()
            self._funnel.add(stage, kinds, kept, real)
            shown = real & (stage == STAGES["exposed"])
        else:
            shown = np.zeros_like(real)
        self._forwarded.add(batch["doc_ids"], [*kept, shown], real)

    def result(self) -> Curves:
        """Returns the curves of what was added."""
        funnel = self._funnel.result()
        # A log without stages does not say what was shown.
        rows = [*self._rows, *([] if funnel is None else [SHOWN])]
        return Curves(
            hits=tuple(
                hits.result(title, self._rows)
                for title, hits in self._hits.items()
                if hits.lists
            ),
            funnel=funnel,
            calibration=tuple(
                _calibration(task, row, cells)
                for (task, row), cells in self._calibration.items()
                if cells[:, 0].any()
            ),
            lorenz=self._forwarded.result(self._k, rows),
            popularity=tuple(
                self._by_popularity(task, np.concatenate(parts, axis=1))
                for task, parts in self._positives.items()
                if parts and sum(part.shape[1] for part in parts)
            ),
        )

    def _add_hits(self, title: str, wanted: np.ndarray, places: list[Places]) -> None:
        cuts = sorted({*_CUTS, self._k})
        hits = self._hits.setdefault(title, _Hits(cuts, len(self._rows)))
        hits.add(wanted, places)

    def _add_imitation(
        self, task: str, batch: Batch, outputs: Sequence[Outputs]
    ) -> np.ndarray:
        """Adds the ranker's best; as `RankerHitRate`, among what the ranker scored."""
        teacher = tf.cast(batch[f"teacher/{task}"], tf.float64)
        scored = batch["mask"] & ~tf.math.is_nan(teacher)
        best = top(teacher, scored, self._m).probability.numpy()
        places = [Places.of(output.scores, scored) for output in outputs]
        self._add_hits(f"the ranker's {self._m} best for {task}", best, places)
        return best

    def _add_popularity(
        self, task: str, batch: Batch, wanted: np.ndarray, kept: np.ndarray
    ) -> None:
        name = self._popularity
        if name is None:
            return
        if name not in batch:
            raise KeyError(
                f"popularity={name!r}: the batch has no such column; "
                f"{nearest(name, batch)}"
            )
        column = batch[name]
        is_number = column.dtype.is_floating or column.dtype.is_integer
        if not is_number or column.shape != wanted.shape:
            raise ValueError(
                f"popularity={name!r}: the column is {_kind(column)}: name one of "
                f"numbers per document, {wanted.shape}"
            )
        popularity = column.numpy().astype(np.float64)
        those = (wanted > 0) & ~np.isnan(popularity)
        self._positives[task].append(np.stack([popularity[those], *kept[:, those]]))

    def _add_calibration(
        self, task: str, batch: Batch, outputs: Sequence[Outputs]
    ) -> None:
        labels = batch[f"label/{task}"].numpy().astype(np.float64)
        known = batch["mask"].numpy() & ~np.isnan(labels)
        for output in outputs:
            if output.logits is None or task not in output.logits:
                continue
            logits = output.logits[task].numpy()[known]
            key = task, output.row
            cells = self._calibration.setdefault(key, np.zeros((_CELLS, 3)))
            place = np.floor((logits + _CELLS / _PER_UNIT / 2) * _PER_UNIT)
            place = np.clip(place, 0, _CELLS - 1).astype(np.int64)
            predicted = tf.sigmoid(logits).numpy()
            for column, values in enumerate((None, predicted, labels[known])):
                cells[:, column] += np.bincount(place, values, _CELLS)

    def _by_popularity(self, task: str, positives: np.ndarray) -> ByPopularity:
        popularity, kept = positives[0], positives[1:]
        edges = quantiles(popularity, _PARTS)
        part = np.searchsorted(edges, popularity, side="right")
        count = np.bincount(part, minlength=len(edges) + 1)
        sums = [np.bincount(part, own, len(edges) + 1) for own in kept]
        values = {row: own / count for row, own in zip(self._rows, sums, strict=True)}
        return ByPopularity(task, self._k, str(self._popularity), edges, count, values)


def catalogue(doc_ids: Any) -> tf.Tensor:
    """Returns all ids of a catalogue as a tensor.

    Args:
        doc_ids: strings or integers.

    Raises:
        ValueError: there is none, or one is there twice.
        TypeError: it is no list of strings or integers.
    """
    ids = tf.convert_to_tensor(doc_ids)
    if not tf.size(ids):
        raise ValueError("doc_ids is empty: give all ids of the catalogue, or None")
    if ids.shape.rank != 1 or not (ids.dtype == tf.string or ids.dtype.is_integer):
        raise TypeError(
            f"doc_ids is {_kind(ids)}: give a list of ids, strings or integers"
        )
    distinct, counts = np.unique(ids.numpy(), return_counts=True)
    if len(distinct) < len(ids):
        twice = distinct[counts > 1].tolist()[0]
        twice = twice.decode("utf-8", "replace") if isinstance(twice, bytes) else twice
        raise ValueError(f"doc_ids holds {twice!r} twice: give every id once")
    return ids


class _Hits:
    """Sums of the shares that cuts keep."""

    def __init__(self, cuts: Sequence[int], rows: int) -> None:
        self._cuts = np.asarray(cuts)
        self._sums = np.zeros((rows, len(cuts)))
        self._longest = 0
        self.lists = 0

    def add(self, wanted: np.ndarray, places: Sequence[Places]) -> None:
        """Adds a batch: how much each document is wanted `[B, L]`, and its places."""
        total = wanted.sum(axis=1)
        rows, columns = np.nonzero(wanted)
        share = wanted[rows, columns] / total[rows]
        self.lists += int((total > 0).sum())
        for place, own in enumerate(places):
            those = Places(*(part[rows, columns, np.newaxis] for part in own))
            self._sums[place] += share @ those.kept(self._cuts)
        self._longest = max(self._longest, wanted.shape[1])

    def result(self, title: str, rows: Sequence[str]) -> HitCurve:
        """Returns the means; a cut as long as the longest list keeps all."""
        inner = self._cuts < self._longest
        cuts = np.append(self._cuts[inner], self._longest)
        values = np.append(
            self._sums[:, inner] / self.lists, np.ones((len(rows), 1)), axis=1
        )
        # Rounding can put the sum of all shares a hair above 1.
        values = np.minimum(values, 1.0)
        return HitCurve(title, self.lists, cuts, dict(zip(rows, values, strict=True)))


class _FunnelCounts:
    """Documents of every kind by stage, and how many of them a cut keeps."""

    def __init__(self, rows: Sequence[str], k: int) -> None:
        self._rows, self._k = rows, k
        self._sums: dict[str, np.ndarray] = {}
        self._requests = 0

    def add(
        self,
        stage: np.ndarray,
        kinds: Mapping[str, np.ndarray],
        kept: np.ndarray,
        real: np.ndarray,
    ) -> None:
        """Adds a batch: stages and kinds `[B, L]`, kept `[rows, B, L]`."""
        self._requests += len(stage)
        codes = np.where(real, stage, -1)
        for kind, wanted in kinds.items():
            size = (1 + len(self._rows), len(STAGES))
            sums = self._sums.setdefault(kind, np.zeros(size))
            for place, values in enumerate((wanted, *(wanted * kept))):
                for code in range(len(STAGES)):
                    sums[place, code] += values[codes == code].sum()

    def result(self) -> Funnel | None:
        """Returns the counts of the stages that occur; None for a single one."""
        if not self._sums:
            return None
        occurs = self._sums["all candidates"][0] > 0
        if occurs.sum() < 2:
            return None
        names = [name for name, code in STAGES.items() if occurs[code]]
        kinds = {
            kind: sums[:, occurs] for kind, sums in self._sums.items() if sums[0].any()
        }
        return Funnel(
            self._k,
            self._requests,
            tuple(names),
            {kind: sums[0] for kind, sums in kinds.items()},
            {
                kind: dict(zip(self._rows, sums[1:], strict=True))
                for kind, sums in kinds.items()
            },
        )


class _Forwarded:
    """How often each document was forwarded."""

    def __init__(self, rows: Sequence[str], doc_ids: tf.Tensor | None) -> None:
        self._rows = rows
        self._catalogue = doc_ids
        known = [] if doc_ids is None else doc_ids.numpy().tolist()
        self._places = {doc_id: place for place, doc_id in enumerate(known)}
        self._sums = np.zeros((len(rows), len(known)))
        self._outside = 0

    def add(self, ids: tf.Tensor, kept: Sequence[np.ndarray], real: np.ndarray) -> None:
        """Adds a batch: ids `[B, L]` and the probability of being forwarded."""
        distinct, place = np.unique(ids.numpy()[real], return_inverse=True)
        if self._catalogue is None:
            for doc_id in distinct.tolist():
                self._places.setdefault(doc_id, len(self._places))
            new = len(self._places) - self._sums.shape[1]
            self._sums = np.pad(self._sums, [(0, 0), (0, new)])
        elif (ids.dtype == tf.string) != (self._catalogue.dtype == tf.string):
            raise TypeError(
                f"doc_ids is {self._catalogue.dtype.name} and the batch's 'doc_ids' "
                f"{ids.dtype.name}: give the catalogue's ids as the batch has them"
            )
        found = [self._places.get(doc_id, -1) for doc_id in distinct.tolist()]
        places = np.array(found, np.int64)
        known = places >= 0
        place = place.reshape(-1)
        self._outside += int((~known[place]).sum())
        for row, own in enumerate(kept):
            sums = np.bincount(place, own[real], len(distinct))
            self._sums[row, places[known]] += sums[known]

    def result(self, k: int, rows: Sequence[str]) -> Lorenz:
        """Returns the curves of rows, where they forwarded anything."""
        shares, gini = {}, {}
        for row, counts in zip(self._rows, np.sort(self._sums, axis=1), strict=True):
            if row in rows and counts.any():
                total = np.append(0.0, np.cumsum(counts)) / counts.sum()
                first = np.linspace(0.0, 1.0, _POINTS)
                of_all = np.linspace(0.0, 1.0, len(total))
                shares[row] = np.minimum(np.interp(first, of_all, total), 1.0)
                n = len(counts)
                spread = (2.0 * np.arange(1, n + 1) - n - 1) @ counts
                gini[row] = float(spread / (n * counts.sum()))
        whole = self._catalogue is not None
        return Lorenz(k, len(self._places), whole, self._outside, shares, gini)


def _kind(tensor: tf.Tensor) -> str:
    return f"{tensor.dtype.name} of shape {tuple(tensor.shape)}"


def _positives(batch: Batch, column: str) -> np.ndarray:
    """Returns 1.0 for real documents with a label above 0, `[B, L]`."""
    positive = batch["mask"].numpy() & (batch[column].numpy() > 0)
    return positive.astype(np.float64)


def _calibration(task: str, row: str, cells: np.ndarray) -> Calibration:
    """Makes bins of whole cells; a cell belongs to the bin of its middle document."""
    documents = cells[:, 0]
    middle = np.cumsum(documents) - documents / 2
    place = np.floor(_BINS * middle / documents.sum()).astype(np.int64)
    place = np.minimum(place, _BINS - 1)
    count, predicted, observed = (
        np.bincount(place, column, _BINS) for column in cells.T
    )
    there = count > 0
    return Calibration(
        task,
        row,
        count[there],
        predicted[there] / count[there],
        observed[there] / count[there],
    )
