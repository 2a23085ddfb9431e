"""What the benchmarks of text search share: BM25, folds, and paired intervals.

BM25 here is the slow, plain form that the package's `Match(op="bm25")` is compared
with: an inverted index over the tokens that the package itself makes of the texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from tfrs_prerank import LazyAdam, PreRanker, Text

# isort: split
import tensorflow as tf

from tfrs_prerank.evaluation.bootstrap import interval, resampled_sums
from tfrs_prerank.features.tokens import split

_AT_ONCE = 500
_SAMPLES = 10_000
K1, B = 1.2, 0.75


def tokens_of(feature: Text, texts: np.ndarray) -> list[list[str]]:
    """Splits texts as a feature declares it.

    Args:
        feature: the declaration.
        texts: the texts, `[n]`.
    """
    found = []
    for start in range(0, len(texts), _AT_ONCE):
        rows = split(feature, tf.constant(texts[start : start + _AT_ONCE])).numpy()
        found += [[token.decode() for token in row[row != b""]] for row in rows]
    return found


@dataclasses.dataclass(frozen=True)
class Index:
    """An inverted index of documents, weighted by BM25.

    Attributes:
        places: of the tokens.
        weights: `[T, M]`, what each token adds to the score of each document.
    """

    places: Mapping[str, int]
    weights: scipy.sparse.csr_matrix

    @classmethod
    def of(cls, documents: Sequence[Sequence[str]]) -> Index:
        """Makes the index of tokenised documents, M of them.

        A token that is f times in a document of n tokens, and in m documents, adds

            log(1 + (M - m + 1/2) / (m + 1/2))
            * f (k1 + 1) / (f + k1 (1 - b + b n / mean))
        """
        places: dict[str, int] = {}
        columns = [
            places.setdefault(token, len(places)) for own in documents for token in own
        ]
        lengths = np.array([len(own) for own in documents])
        rows = np.repeat(np.arange(len(documents)), lengths)
        counts = scipy.sparse.coo_matrix(
            (np.ones(len(rows)), (columns, rows)), (len(places), len(documents))
        ).tocsr()  # adds up what is there several times
        holding = np.diff(counts.indptr)
        idf = np.log1p((len(documents) - holding + 0.5) / (holding + 0.5))
        slowed = K1 * (1 - B + B * lengths / lengths.mean())
        found = counts.data
        saturated = found * (K1 + 1) / (found + slowed[counts.indices])
        weights = np.repeat(idf, holding) * saturated
        return cls(
            places,
            scipy.sparse.csr_matrix(
                (weights, counts.indices, counts.indptr), counts.shape
            ),
        )

    def scores(self, queries: Sequence[Sequence[str]]) -> np.ndarray:
        """Returns the BM25 of tokenised queries and all documents, `[Q, M]`."""
        known = [[self.places[t] for t in own if t in self.places] for own in queries]
        rows = np.repeat(np.arange(len(known)), [len(own) for own in known])
        columns = [place for own in known for place in own]
        counts = scipy.sparse.coo_matrix(
            (np.ones(len(rows)), (rows, columns)), (len(known), len(self.places))
        ).tocsr()
        scores: np.ndarray = (counts @ self.weights).toarray()
        return scores


def first(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of each row's highest scores, the best first.

    Equal ones are in the order of their places.
    """
    order: np.ndarray = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return order


def z_scores(scores: np.ndarray) -> np.ndarray:
    """Returns scores `[Q, L]` less their mean, over their deviation, row by row."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    return centred / np.maximum(scores.std(axis=1, keepdims=True), 1e-12)


# Folds ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fold:
    """The queries of one fold.

    Attributes:
        train: what is learned from.
        validation: what epochs and settings are chosen by; a part of what is not test.
        test: what is measured, in this fold alone.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def folds(queries: int, count: int, seed: int) -> list[Fold]:
    """Splits queries into folds; a fifth of what is not test is for validation.

    Args:
        queries: how many there are.
        count: of folds.
        seed: of the split.
    """
    random = np.random.default_rng(seed)
    parts = np.array_split(random.permutation(queries), count)
    found = []
    for place, test in enumerate(parts):
        others = np.concatenate([p for n, p in enumerate(parts) if n != place])
        random.shuffle(others)
        cut = len(others) // 5
        found.append(Fold(others[cut:], others[:cut], test))
    return found


# Training ---------------------------------------------------------------------------


def fit(
    model: PreRanker,
    data: tf.data.Dataset,
    value: Callable[[], float],
    rate: float,
    epochs: int,
    patience: int,
) -> tuple[int, float]:
    """Trains a model and leaves the weights of its best epoch.

    The weights that it comes with count as epoch 0.

    Args:
        model: the model.
        data: batches of an epoch.
        value: what is highest for the best epoch, of the validation queries.
        rate: learning rate.
        epochs: the most epochs.
        patience: epochs without a better one after which it ends.

    Returns:
        The best epoch and its value.
    """
    model.compile(LazyAdam(rate))
    best, chosen, weights = value(), 0, model.get_weights()
    for epoch in range(1, epochs + 1):
        model.fit(data, verbose=0)
        reached = value()
        if reached > best:
            best, chosen, weights = reached, epoch, model.get_weights()
        elif epoch - chosen == patience:
            break
    model.set_weights(weights)
    return chosen, best


# What was found ---------------------------------------------------------------------


def difference(
    values: np.ndarray, others: np.ndarray, seed: int = 0
) -> tuple[float, float, float]:
    """Returns a mean difference with its 95% interval over queries.

    Args:
        values: `[Q]`, or `[S, Q]` for S seeds, whose mean a query counts with.
        others: of the same queries.
        seed: of the resamples.

    Returns:
        The mean of `values - others` and the ends of the paired bootstrap interval.
    """
    gaps = np.atleast_2d(values).mean(axis=0) - np.atleast_2d(others).mean(axis=0)
    means = resampled_sums(gaps[:, np.newaxis], _SAMPLES, seed)[:, 0] / len(gaps)
    ends = interval(means)
    assert ends is not None
    return float(gaps.mean()), *ends


def difference_row(
    what: str, metric: str, values: np.ndarray, others: np.ndarray
) -> dict[str, Any]:
    """Returns a row of a table of differences.

    Args:
        what: both names.
        metric: what was measured.
        values: as `difference` takes them.
        others: likewise.
    """
    value, low, high = difference(values, others)
    return {
        "difference": what,
        "metric": metric,
        "value": round(value, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "interval": "above 0" if low > 0 else "below 0" if high < 0 else "holds 0",
    }
