"""From a logged request, with all its candidates, to a training list."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrs_prerank.declaration import ConfigurationError, nearest
from tfrs_prerank.features.declarations import STAGES, Numeric
from tfrs_prerank.features.documents import as_array
from tfrs_prerank.features.schema import BATCH_OWN_COLUMNS, Schema
from tfrs_prerank.sampling.document_log import (
    DocumentLog,
    is_listed,
    missing_values,
    plain_ids,
    positives,
    request_id,
    request_time,
    stages,
)
from tfrs_prerank.sampling.mixture import EXPOSURES, Catalog, Mixture
from tfrs_prerank.sampling.randomness import Stream
from tfrs_prerank.sampling.strata import Strata, rounded

_DRAWN_FROM = ("exposed", "ranked", "preranked_out")
_NOT_EXPOSED = ("ranked", "preranked_out")
_PER_TASK = ("label/", "weight/", "teacher/")
_OF_DRAWN = {"stage": STAGES["catalog"], "position": -1, "log_q": 0.0}
"""The batch's own columns of a document that was drawn from the catalogue."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A training list and what it was made from.

    Attributes:
        request: the list, as `tfrs_prerank.datasets.write` takes it; None where none of
            the request's own documents was taken.
        taken: documents by where they come from: stages, and `hard` for those that were
            drawn from the window of ranks.
        left_out: documents of the log that are not in the list, by reason:
            `untrusted_positive`, `exposed_not_drawn`, `ranked_not_drawn` and
            `preranked_out_not_drawn`.
    """

    request: dict[str, Any] | None
    taken: Counter[str]
    left_out: Counter[str]


@dataclasses.dataclass
class _List:
    """A request's documents in the order of their ids, in which all draws are made.

    Attributes:
        order: `[L]` place of each document in the request.
        stage: int32 `[L]`, its stage.
        positive: bool `[L]`, whether a label is above 0.
        candidate: bool `[L]`, false for untrusted positives.
        chance: float64 `[L]`, the probability with which it is in the list.
        taken: bool `[L]`, whether it is.
        hard: bool `[L]`, whether it was drawn as a hard negative.
    """

    order: np.ndarray
    stage: np.ndarray
    positive: np.ndarray
    candidate: np.ndarray
    chance: np.ndarray
    taken: np.ndarray
    hard: np.ndarray

    def negatives(self, stage: str) -> np.ndarray:
        """Returns the places of the negatives of a stage."""
        of_stage = (self.stage == STAGES[stage]) & ~self.positive
        return np.flatnonzero(of_stage & self.candidate)


class Sampler:
    """Draws training lists as a `Mixture` says.

    A list has the request's positives and, of each stage, as many negatives as are
    wanted, drawn uniformly without replacement; with `hard`, some more from a window of
    ranks; with `catalog`, documents that the request did not have (see `Catalog`). Its
    order is random. What is drawn depends on the seed, the request's id and its set of
    documents: not on their order, on other requests, or on the process.

    The list has, beside the columns of the request:

    * `stage`: as logged; 3 for draws from the catalogue.
    * `log_q`: the log of the probability that the document had to be in the list, 0 for
      those that always are. A `log_q` of the log itself is added. It is exact, so
      that the sum of exp(s - log_q) over the list is, in the mean over all draws,
      that of exp(s) over all documents that could have been drawn. The log of that
      sum, as in a softmax, is too small in the mean, and the less so the more is drawn.
    * labels: an absent label of a document that was not exposed becomes 0, and so does
      that of a draw from the catalogue: it is there to be a negative.

    A draw from the catalogue has weights and teachers that are absent, position -1,
    point-in-time columns as the log knew them before the request (see `DocumentLog`),
    and the missing value of every cross column that a client sends. So a model may tell
    such documents by what is missing of them. `Match` features, which are computed from
    stored columns, have their values for every pair.

    Args:
        mixture: what a list is made of.
        schema: the features and tasks.
        log: what the training log says of documents, for `catalog` and `positives`.

    Raises:
        ConfigurationError: the mixture does not fit the schema, or needs a log.

    Example:
    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> from tfrs_prerank.sampling import Mixture, Sampler
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("user_id", "query", buckets=9),
    ...         Categorical("city", "doc", buckets=9),
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> sampler = Sampler(Mixture(ranked=1, preranked_out=0), schema)
    >>> sample = sampler.sample({
    ...     "request_id": "r1", "user_id": "u1", "doc_ids": ["a", "b", "c", "d"],
    ...     "stage": [0, 1, 1, 2], "label/click": [1, 0, 0, 0],
    ... })
    >>> dict(sample.taken), dict(sample.left_out)
    ({'exposed': 1, 'ranked': 1}, {'ranked_not_drawn': 1, 'preranked_out_not_drawn': 1})
    >>> sorted(sample.request["log_q"].round(3).tolist())  # log(1/2) and log 1
    [-0.6930000185966492, 0.0]
    """

    def __init__(
        self, mixture: Mixture, schema: Schema, log: DocumentLog | None = None
    ) -> None:
        check(mixture, schema)
        self.mixture = mixture
        self.schema = schema
        self._known = {**BATCH_OWN_COLUMNS, **schema.columns()}
        self._log = log
        self._strata: Strata | None = None
        self._trusted: np.ndarray | None = None
        for name, wants in (
            ("catalog", mixture.drawn_from_catalog > 0),
            ("positives", mixture.positives is not None),
        ):
            if wants and log is None:
                raise ConfigurationError(
                    f"mixture.{name} needs the training log. Received: log=None; give "
                    "DocumentLog(requests, documents, schema)"
                )
        if log is not None and mixture.drawn_from_catalog:
            self._strata = _strata(mixture.strata, schema, log)
            self._missing = missing_values(schema)
        if log is not None and mixture.positives is not None:
            enough = log.exposures >= mixture.positives.min_exposures
            rate = log.engagements / np.maximum(log.exposures, 1)
            self._trusted = enough & (rate >= mixture.positives.min_rate)

    def sample(self, request: Mapping[str, Any], ranks: Any = None) -> Sample:
        """Draws a training list from a request.

        Args:
            request: as `tfrs_prerank.datasets.write` takes it, with all candidates and
                a `request_id`; `time` too where documents are drawn from the catalogue
                and have point-in-time columns.
            ranks: `[L]` rank of each document in the production order, 1 = best, 0 or
                less for none; needed with `hard`.

        Returns:
            The list, and the counts.

        Raises:
            ValueError: the request lacks what a draw needs, or has a document that is
                not in the documents table.
        """
        name = request_id(request)
        try:
            return self._sample(request, ranks, name)
        except ValueError as error:
            raise ValueError(f"request {name!r}: {error}") from None

    def _sample(self, request: Mapping[str, Any], ranks: Any, name: str) -> Sample:
        seed = self.mixture.seed
        ids = self._checked(request)
        rows = np.zeros(0, np.int64)
        if self._log is not None:
            rows = self._log.rows(ids)
        drawn, log_q_of_drawn = np.zeros(0, np.int64), np.zeros(0)
        if self._strata is not None:
            stream = Stream(seed, name, "catalog")
            drawn, log_q_of_drawn = self._strata.draw(stream, excluded=rows)
        listed = self._list(request, ids, rows)
        hard = {}
        if self.mixture.hard is not None:
            hard = self._hard(listed, ranks, len(drawn), Stream(seed, name, "hard"))
        for stage in _DRAWN_FROM:
            mean, window = hard.get(stage, (0.0, np.zeros(0, np.int64)))
            self._draw(listed, stage, mean, window, Stream(seed, name, stage))
        if not listed.taken.any():
            drawn = drawn[:0]
        counts = self._counts(listed, len(drawn))
        if not listed.taken.any():
            return Sample(None, *counts)

        taken = listed.order[listed.taken]
        log_q = np.log(listed.chance[listed.taken]) + _logged_log_q(request, taken)
        columns = self._columns(request, taken, drawn)
        columns["log_q"] = np.concatenate([log_q, log_q_of_drawn]).astype(np.float32)
        # In the order of the draws, a place would say where a document comes from.
        mixed = Stream(seed, name, "order").uniform(len(taken) + len(drawn))
        order = np.argsort(mixed)
        made = {
            name: values if self._is_query(name) else _take(values, order)
            for name, values in columns.items()
        }
        return Sample(made, *counts)

    def _checked(self, request: Mapping[str, Any]) -> list[Any]:
        """Returns the ids of a request that can be drawn from."""
        for name in request:
            is_known = name in self._known or name == "doc_ids"
            if not is_known and not name.startswith(_PER_TASK):
                raise ValueError(
                    f"column {name!r} is not in the schema; "
                    f"{nearest(name, self._known)}"
                )
        ids = plain_ids(request["doc_ids"])
        if not ids:
            raise ValueError(
                "column 'doc_ids' is empty: a request needs at least one document; "
                "leave the request out"
            )
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(
                f"column 'doc_ids' holds {twice!r} {ids.count(twice)} times; keep a "
                "document once in a list"
            )
        return ids

    def _list(
        self, request: Mapping[str, Any], ids: list[Any], rows: np.ndarray
    ) -> _List:
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
        stage = stages(request, len(ids))[order]
        positive = positives(request, self.schema)[order]
        candidate = np.ones(len(ids), bool)
        if self._trusted is not None:
            exposed = stage == STAGES["exposed"]
            candidate = ~(exposed & positive & ~self._trusted[rows[order]])
        # Positives are always taken, and what was drawn before it was logged.
        always = candidate & (positive | (stage > STAGES[_DRAWN_FROM[-1]]))
        return _List(
            order, stage, positive, candidate,
            chance=np.where(always, 1.0, 0.0),
            taken=always,
            hard=np.zeros(len(ids), bool),
        )  # fmt: skip

    def _hard(
        self, listed: _List, ranks: Any, drawn: int, stream: Stream
    ) -> dict[str, tuple[float, np.ndarray]]:
        """Takes hard negatives; returns their mean number and their pool by stage."""
        settings = self.mixture.hard
        assert settings is not None
        if ranks is None or len(ranks) != len(listed.order):
            received = "none" if ranks is None else f"{len(ranks)} ranks"
            raise ValueError(
                "hard negatives need the rank of each document in the production "
                f"order. Received: {received} for {len(listed.order)} documents"
            )
        rank = np.asarray(ranks, np.int64)[listed.order]
        inside = (rank >= settings.first) & (rank <= settings.last)
        pools = [listed.negatives(stage) for stage in _NOT_EXPOSED]
        quota = self._quota(listed, "preranked_out")
        easy = min(quota, len(pools[1])) + drawn
        pools = [pool[inside[pool]] for pool in pools]
        sizes = np.array([len(pool) for pool in pools])
        wanted = min(easy / settings.easy_per_hard, int(sizes.sum()))
        means = wanted * sizes / max(sizes.sum(), 1)
        numbers = rounded(means, sizes, stream)
        keys = stream.uniform(len(listed.order))
        for pool, number in zip(pools, numbers.tolist(), strict=True):
            chosen = pool[np.argsort(keys[pool])[:number]]
            listed.hard[chosen] = listed.taken[chosen] = True
        return {
            stage: (float(mean), pool)
            for stage, mean, pool in zip(_NOT_EXPOSED, means, pools, strict=True)
        }

    def _draw(
        self,
        listed: _List,
        stage: str,
        mean: float,
        window: np.ndarray,
        stream: Stream,
    ) -> None:
        """Takes negatives of a stage, and sets the chances of all of them.

        Where k hard negatives of the stage were taken before, q of the N - k others
        follow. So with r_k = min(q, N - k) / (N - k) a document outside the window of
        size n is taken with the probability E[r_k], and one within with
        E[k / n + (1 - k / n) r_k], where k is `mean` rounded up or down.
        """
        pool = listed.negatives(stage)
        quota = self._quota(listed, stage)
        for number, share in _roundings(mean):
            others = len(pool) - number
            r = min(quota, others) / others if others else 0.0
            listed.chance[pool] += share * r
            if number:
                first = number / len(window)
                listed.chance[window] += share * first * (1 - r)
        listed.chance[pool] = np.minimum(listed.chance[pool], 1.0)
        keys = stream.uniform(len(listed.order))
        left = pool[~listed.taken[pool]]
        number = int(min(quota, len(left)))
        listed.taken[left[np.argsort(keys[left])[:number]]] = True

    def _quota(self, listed: _List, stage: str) -> float:
        """Returns how many negatives of a stage are wanted."""
        of_stage = listed.stage == STAGES[stage]
        positive = (of_stage & listed.positive & listed.candidate).sum()
        return max(0.0, self.mixture.quota(stage) - float(positive))

    def _counts(self, listed: _List, drawn: int) -> tuple[Counter[str], Counter[str]]:
        taken: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        left_out["untrusted_positive"] = int((~listed.candidate).sum())
        for stage, code in STAGES.items():
            of_stage = (listed.stage == code) & listed.candidate
            taken[stage] = int((of_stage & listed.taken & ~listed.hard).sum())
            if stage in _DRAWN_FROM:
                left_out[f"{stage}_not_drawn"] = int((of_stage & ~listed.taken).sum())
        taken["catalog"] += drawn
        taken["hard"] = int(listed.hard.sum())
        return +taken, +left_out

    # The columns of a list.

    def _is_query(self, name: str) -> bool:
        column = self._known.get(name)
        return column is not None and column.owner == "query"

    def _columns(
        self, request: Mapping[str, Any], taken: np.ndarray, drawn: np.ndarray
    ) -> dict[str, Any]:
        """Returns the request's columns for what was taken, then what was drawn."""
        looked_up: dict[str, Any] = {}
        if len(drawn) and self._log is not None:
            looked_up["doc_ids"] = np.asarray(self._log.documents.ids)[drawn]
            if self._log.has_values:
                looked_up |= self._log.values(drawn, request_time(request))
        logged = dict(request)
        logged["stage"] = stages(request, len(request["doc_ids"]))
        logged["log_q"] = np.zeros(len(logged["stage"]), np.float32)
        columns: dict[str, Any] = {}
        for name, values in logged.items():
            if self._is_query(name):
                columns[name] = values
                continue
            kept = _take(values, taken)
            task = name.removeprefix("label/")
            if name.startswith("label/") and task in self.schema.task_names:
                labels = np.array(kept, np.float32)
                unseen = logged["stage"][taken] != STAGES["exposed"]
                labels[unseen & np.isnan(labels)] = 0.0
                kept = labels
            if len(drawn):
                new = looked_up.get(name)
                if new is None:
                    new = self._unknown(name, len(drawn))
                kept = _joined(kept, new)
            columns[name] = kept
        return columns

    def _unknown(self, name: str, count: int) -> Any:
        """Returns a column of documents that the request knew nothing of."""
        if name.startswith(_PER_TASK):
            is_task = name.removeprefix("label/") in self.schema.task_names
            return np.full(count, 0.0 if is_task else np.nan, np.float32)
        column = self._known[name]
        if is_listed(column):
            return [[] for _ in range(count)]
        value = _OF_DRAWN[name] if name in _OF_DRAWN else self._missing[name]
        dtype = object if column.dtype == "string" else column.dtype
        return np.full((count, *np.shape(value)), value, dtype)


def check(mixture: Mixture, schema: Schema) -> None:
    """Raises ConfigurationError where a mixture does not fit a schema.

    Args:
        mixture: what a list is made of.
        schema: the features and tasks.

    Example:
    >>> from tfrs_prerank import Categorical, Numeric, Schema, Task
    >>> from tfrs_prerank.sampling import Mixture
    >>> from tfrs_prerank.sampling.sampler import check
    >>> features = [
    ...     Categorical("user_id", "query", buckets=9),
    ...     Categorical("city", "doc", buckets=9),
    ...     Numeric("bm25", "cross"),
    ... ]
    >>> check(Mixture(catalog=20), Schema(features, [Task("click")]))
    Traceback (most recent call last):
    tfrs_prerank.declaration.ConfigurationError: mixture.catalog draws documents for \
which the log has no 'bm25'; declare Numeric('bm25', ..., missing=VALUE)
    """
    if mixture.drawn_from_catalog == 0:
        return
    for feature in schema.features:
        column = schema.columns().get(feature.name)
        is_logged = column is not None and (
            column.owner == "cross" or (column.owner == "doc" and column.training_only)
        )
        if is_logged and isinstance(feature, Numeric) and feature.missing is None:
            raise ConfigurationError(
                f"mixture.catalog draws documents for which the log has no "
                f"{feature.name!r}; declare Numeric({feature.name!r}, ..., "
                "missing=VALUE)"
            )
    columns = {
        name: column
        for name, column in schema.columns("doc").items()
        if column.static and column.length is None and column.dtype != "float32"
    }
    for name in mixture.strata.by:
        if name != EXPOSURES and name not in columns:
            raise ConfigurationError(
                f"mixture.catalog.by: no static document column of single ids "
                f"{name!r}; {nearest(name, [EXPOSURES, *columns])}"
            )


def _strata(catalog: Catalog, schema: Schema, log: DocumentLog) -> Strata:
    """Makes the strata of a documents table."""
    codes = np.zeros(len(log.documents), np.int64)
    factor = np.ones(len(log.documents))
    for name in catalog.by:
        if name == EXPOSURES:
            values = np.searchsorted(catalog.bands, log.exposures, "right")
            if catalog.weights is not None:
                factor = np.asarray(catalog.weights, np.float64)[values]
        else:
            column = schema.columns("doc")[name]
            plain = plain_ids(as_array(log.documents.columns[name], column))
            code_of = {value: code for code, value in enumerate(dict.fromkeys(plain))}
            values = np.fromiter(map(code_of.__getitem__, plain), np.int64, len(plain))
        pairs = codes * (int(values.max()) + 1) + values
        codes = np.unique(pairs, return_inverse=True)[1]
    _, first, stratum = np.unique(codes, return_index=True, return_inverse=True)
    sizes = np.bincount(stratum).astype(np.float64)
    return Strata(stratum, factor[first] * sizes**catalog.alpha, catalog.count)


def _roundings(mean: float) -> list[tuple[int, float]]:
    """Returns a mean rounded down and up, with the probability of each."""
    number = int(np.floor(mean))
    up = mean - number
    return [(number, 1 - up), (number + 1, up)] if up > 0 else [(number, 1.0)]


def _logged_log_q(request: Mapping[str, Any], taken: np.ndarray) -> np.ndarray:
    if "log_q" not in request:
        return np.zeros(len(taken))
    return np.asarray(request["log_q"], np.float64)[taken]


def _take(values: Any, places: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[places]
    return [values[place] for place in places.tolist()]


def _joined(kept: Any, drawn: Any) -> Any:
    """Appends drawn values to kept ones, which are an array or a list."""
    if isinstance(drawn, list):  # of lists
        return [*(list(row) for row in kept), *drawn]
    if isinstance(kept, np.ndarray) and kept.dtype.kind in "iuf":
        return np.concatenate([kept, drawn.astype(kept.dtype)])
    return [*(kept.tolist() if isinstance(kept, np.ndarray) else kept), *drawn.tolist()]
