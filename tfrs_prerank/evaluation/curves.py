"""What a report draws, as numbers; `collecting` makes them, `plots` draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class HitCurve:
    """Which share of what is looked for is among the k best, against k.

    Attributes:
        title: what is looked for.
        lists: number of lists with something to look for.
        cuts: k `[K]`.
        values: by ranking, the mean over these lists `[K]`.
    """

    title: str
    lists: int
    cuts: np.ndarray
    values: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Funnel:
    """Where documents of a kind sit in the logged cascade, and which survive a cut.

    Attributes:
        k: the cut.
        requests: number of requests.
        stages: names of the stages that occur `[S]`.
        there: by kind, number of documents by stage `[S]`.
        kept: by kind and ranking, how many of them are among the k best `[S]`.
    """

    k: int
    requests: int
    stages: tuple[str, ...]
    there: Mapping[str, np.ndarray]
    kept: Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predicted against observed rates, in bins of similar size by prediction.

    Attributes:
        task: whose probability.
        row: the ranking.
        documents: in each bin `[M]`.
        predicted: mean probability of each bin `[M]`.
        observed: mean label of each bin `[M]`.
    """

    task: str
    row: str
    documents: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray

    @property
    def pcoc(self) -> float | None:
        """Predicted over observed positives, as `metrics.PCOC`; None without any."""
        positives = self.documents @ self.observed
        return float(self.documents @ self.predicted / positives) if positives else None

    @property
    def ece(self) -> float:
        """The mean gap of a document's bin, as `metrics.ECE`."""
        gaps = np.abs(self.predicted - self.observed)
        return float(self.documents @ gaps / self.documents.sum())


@dataclasses.dataclass(frozen=True)
class Lorenz:
    """How forwarded places are shared among the documents.

    Attributes:
        k: size of the forwarded set.
        documents: number of documents, those never forwarded included.
        whole: whether these are all of the catalogue, or all candidates that occurred.
        outside: candidates of all lists that the catalogue lacks, which are left out.
        shares: by ranking, the share of all places that the least forwarded documents
            have together `[P]`, for the first 0, 1/(P-1), ... of the documents.
        gini: by ranking, the Gini coefficient, as `metrics.PopularityGini`.
    """

    k: int
    documents: int
    whole: bool
    outside: int
    shares: Mapping[str, np.ndarray]
    gini: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class ByPopularity:
    """Hit rate of positives by how popular their documents are.

    Attributes:
        task: whose positives.
        k: the cut.
        column: the column of the popularity.
        edges: inner edges of the parts `[P - 1]`.
        positives: in each part `[P]`.
        values: by ranking, the share of them that is among the k best `[P]`.
    """

    task: str
    k: int
    column: str
    edges: np.ndarray
    positives: np.ndarray
    values: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Curves:
    """All that is drawn.

    Attributes:
        hits: of each task's positives, of positives elsewhere and of the ranker's best,
            where the data has them.
        funnel: None where the log has one stage only.
        calibration: of each task and ranking with logits.
        lorenz: of the forwarded sets.
        popularity: of each task with positives; empty without a column for it.
    """

    hits: tuple[HitCurve, ...]
    funnel: Funnel | None
    calibration: tuple[Calibration, ...]
    lorenz: Lorenz
    popularity: tuple[ByPopularity, ...]
