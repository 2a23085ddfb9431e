"""What is wrong with data, or of no use to a metric: counted, never hidden."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfrs_prerank.evaluation.rankings import Outputs
from tfrs_prerank.evaluation.results import Finding
from tfrs_prerank.evaluation.series import Copies, Series, sliced_by_document
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.metrics import ScoreRecall
from tfrs_prerank.metrics._catalog_metric import CatalogMetric
from tfrs_prerank.metrics._kept_share import KeptShare


class Census:
    """Counts findings over batches.

    Args:
        series: what is measured.
    """

    def __init__(self, series: Sequence[Series]) -> None:
        columns = [column for one in series for column in one.columns]
        read = [c for c in columns if c.startswith(("label/", "teacher/"))]
        self._columns = list(dict.fromkeys(read))
        # Metrics that are 1 where the cut keeps all that they compare.
        kinds = (KeptShare, ScoreRecall)
        self._cut = [one for one in series if isinstance(one.metric, kinds)]
        self._lists: Counter[str] = Counter()
        self._kept_whole: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()
        self._positions = 0
        self.lists = 0
        self.documents = 0

    def add(self, batch: Mapping[str, tf.Tensor], outputs: Sequence[Outputs]) -> None:
        """Counts a batch.

        Args:
            batch: the batch.
            outputs: what the rankings say about it.
        """
        mask = batch["mask"].numpy()
        lengths = mask.sum(axis=1)
        self.lists += len(mask)
        self.documents += int(lengths.sum())
        found = self._lists
        found["have no candidate"] += int((lengths == 0).sum())
        found["have one candidate"] += int((lengths == 1).sum())
        for column in self._columns:
            self._add_column(column, batch[column].numpy(), mask)
        for one in self._cut:
            compared = lengths
            if not one.metric._unlabelled_compete:
                compared = (mask & ~np.isnan(batch[one.columns[0]])).sum(axis=1)
            whole = (compared > 0) & (compared <= one.metric.k)
            self._kept_whole[one.name] += int(whole.sum())
        if "stage" in batch and "position" in batch:
            self._add_positions(batch["stage"].numpy(), batch["position"].numpy(), mask)
        for output in outputs:
            unknown = int(output.unknown.numpy().sum())
            what = f"have no score in {output.row!r}: they rank last"
            self._documents[what] += unknown

    def result(self) -> tuple[Finding, ...]:
        """Returns what was found; nothing is said of what was not."""
        lists, documents = self._lists.copy(), self._documents.copy()
        for count in dict.fromkeys(self._kept_whole.values()):
            names = [n for n, own in self._kept_whole.items() if own == count]
            lists[f"are kept whole by the cut of {', '.join(names)}"] = count
        shown = documents.pop(_NOT_SHOWN, 0)
        if self._positions:  # else the log holds none
            documents[_CONTRADICTION] += shown
        counts = [(c, self.lists, "lists", w) for w, c in lists.items()]
        counts += [(c, self.documents, "documents", w) for w, c in documents.items()]
        return tuple(Finding(*count) for count in counts if count[0])

    def _add_column(self, column: str, values: np.ndarray, mask: np.ndarray) -> None:
        known = mask & ~np.isnan(values)
        some = known.any(axis=1)
        found = self._lists
        found[f"have no {column}"] += int((mask.any(axis=1) & ~some).sum())
        if column.startswith("teacher/"):
            part = some & (known.sum(axis=1) < mask.sum(axis=1))
            what = f"have {column} for some candidates only, which alone are compared"
            found[what] += int(part.sum())
            return
        positive = known & (values > 0)
        none = some & ~positive.any(axis=1)
        found[f"have no positive in {column}"] += int(none.sum())
        only = some & (positive.sum(axis=1) == known.sum(axis=1))
        found[f"have positives only in {column}"] += int(only.sum())

    def _add_positions(
        self, stage: np.ndarray, position: np.ndarray, mask: np.ndarray
    ) -> None:
        shown = position >= 0
        exposed = stage == STAGES["exposed"]
        self._positions += int((mask & shown).sum())
        self._documents[_CONTRADICTION] += int((mask & shown & ~exposed).sum())
        self._documents[_NOT_SHOWN] += int((mask & exposed & ~shown).sum())


def of_catalogues(
    copies: Mapping[Series, Copies], documents: int
) -> tuple[Finding, ...]:
    """Counts forwarded documents that a metric's catalogue lacks.

    Args:
        copies: the metrics that are no sums over lists.
        documents: how many candidates there are.

    Returns:
        A finding for each ranking with some. A tie at the cut counts as the chance to
        be kept, and their sum is rounded, but not to 0.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for series, own in copies.items():
        if not isinstance(series.metric, CatalogMetric):
            continue
        for row, metric in zip(series.rows, own.metrics, strict=True):
            unknown = float(metric.unknown_documents)
            if unknown > 0:
                names = found.setdefault((row, round(unknown) or 1), [])
                names.append(series.name)
    return tuple(
        Finding(
            count,
            documents,
            "documents",
            f"are forwarded by {row!r} and not in the catalogue of {', '.join(names)}",
        )
        for (row, count), names in found.items()
    )


def of_slices(
    series: Sequence[Series], requests: Iterable[str], documents: Iterable[str]
) -> tuple[Finding, ...]:
    """Names the metrics that slices leave out.

    Args:
        series: what is measured.
        requests: the slices that take lists apart.
        documents: those that take positives apart.
    """
    measured = [one for one in series if one.rows]
    no_sums = [one.name for one in measured if not one.metric.additive]
    whole = [
        one.name
        for one in measured
        if one.metric.additive and not sliced_by_document(one.metric)
    ]
    documents = list(documents)
    lines = [(no_sums, "are in no slice, since they are no sums over lists")]
    lines += [
        (whole, f"are not in the slice {name!r}, which takes positives apart")
        for name in documents
    ]
    return tuple(
        Finding(len(names), len(measured), "metrics", f"{what}: {', '.join(names)}")
        for names, what in lines
        if names and (documents or list(requests))
    )


_CONTRADICTION = "have a stage that contradicts their position"
_NOT_SHOWN = "are exposed without a position"
