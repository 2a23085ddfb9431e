r"""A simulated search cascade whose truth is known.

Public data sets of search show what was clicked. They do not show which documents were
dropped on the way, nor how good those were, so nobody can measure on them what a
pre-ranker loses. This module simulates a search engine from its first day, logs every
candidate of every request with the stage that it reached, and keeps the true utility of
each beside the log.

>>> from tfrs_prerank.datasets import funnel
>>> made = funnel.simulate(funnel.small())
>>> made.requests.candidates.shape
(2000, 120)

**What exists.** Documents have topics, an author, a title of their topics' words, a
category, a style, a quality and a price. Users have interests, a style and a profile
that tells part of both. Queries have a main and two secondary intents; their words may
belong to several topics.

**What happens to a request.** Five channels (text, vector, personal, popular, fresh)
retrieve L candidates. A production pre-ranker, a weighted sum of a few signals, passes
some on. The ranker, a logistic regression, sees more signals and puts the best on the
page. The user looks at position k with probability `(1 + k) ** -position_bias`, clicks
what they look at with the probability below, and may then like, collect, share,
comment, follow, screenshot or purchase. Later they meet documents outside search, drawn
evenly from all that is published, and like some: positives that owe nothing to the
cascade (`label/out_of_scene`).

**The utility** of document d to user u with query q, where $\pi_q$ are the query's
intents and $\theta_d$ the document's topics (shares over topics k), $\gamma_u$ the
user's interests, a and b the styles of user and document:

$$relevance = 1 - \exp(-12 \sum_k \pi_{qk} \theta_{dk})$$
$$taste = \tanh \sum_k (1 - \exp(-12\, \pi_{qk} \theta_{dk}))\, \gamma_{uk}$$
$$style = \exp(-\lVert a_u - b_d \rVert^2 / 3)$$
$$worth = 1 - \exp(-(urgency_q \exp(-age_d / life_d) + quality_d))$$
$$U = 3.5\, relevance + 2\, taste + 2.5\, relevance \cdot style + 1.5\, worth$$
$$P(click \mid look) = \sigma(U - 6.8)$$

No dot product of two vectors equals U, however long they are: taste joins query, user
and document inside an exponential, style is a Gaussian kernel of users and documents,
and worth saturates in a product of both sides.

**Why the log misleads.** The ranker has learned from exposed documents only, and takes
a click for a judgement wherever the document stood. Clicks bring documents back into
retrieval and up the page, so few get most of the exposure and many get none. And nearly
all that is exposed is relevant: who learns from exposed documents alone never learns
that relevance matters, and is wrong about most candidates of a pre-ranker.

**What a request knows.** Requests come in time order and in blocks. Counters,
histories, the index of published documents and the ranker change between blocks only,
so all that is logged with a request was true before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfrs_prerank.datasets import _funnel_cascade as cascade
from tfrs_prerank.datasets import _funnel_world as worlds
from tfrs_prerank.datasets._funnel_cascade import CHANNELS as CHANNELS
from tfrs_prerank.datasets._funnel_cascade import COUNTERS as COUNTERS
from tfrs_prerank.datasets._funnel_cascade import Requests as Requests
from tfrs_prerank.datasets._funnel_cascade import Truth as Truth
from tfrs_prerank.datasets._funnel_settings import Settings as Settings
from tfrs_prerank.datasets._funnel_settings import full as full
from tfrs_prerank.datasets._funnel_settings import small as small
from tfrs_prerank.datasets._funnel_words import TOPICS, VOCABULARY
from tfrs_prerank.datasets._funnel_world import BEHAVIOURS as BEHAVIOURS
from tfrs_prerank.datasets.log_config import LogColumns, LogsConfig
from tfrs_prerank.features.declarations import STAGES

if TYPE_CHECKING:
    from tfrs_prerank.features.documents import DocumentTable
    from tfrs_prerank.features.schema import Schema

_AGE_GROUPS = np.array(["18-24", "25-34", "35-44", "45-54", "55+"], object)
_BANDS = np.array(["head", "middle", "tail"], object)


@dataclasses.dataclass(frozen=True, eq=False)
class Funnel:
    """A simulated log and the truth about it.

    Attributes:
        settings: what it was made from.
        documents: the documents table, with the counters as they stood at the end.
        users: columns `[U]` of the users' profiles: `user_id`, `gender`, `age_group`,
            `city`, `spending`, and `interests` `[U, 3]`.
        queries: columns `[Q]`: `query`, its `frequency` (head, middle or tail, a third
            of the requests each), and `intents` `[Q, 3]`, the main one first.
        requests: the log: who searched for what, and how far each candidate came.
        truth: the utility of each candidate, and all else that no log holds.
    """

    settings: Settings
    documents: DocumentTable
    users: Mapping[str, np.ndarray]
    queries: Mapping[str, np.ndarray]
    requests: Requests
    truth: Truth

    def summary(self) -> Summary:
        """Returns the statistics that describe the log."""
        return _summary(self)

    def write(self, directory: str | Path, *, truth: bool = False) -> None:
        """Writes `log.parquet` and `documents.parquet`, as `datasets.logs` reads them.

        The log has a row for each candidate. Besides what `log_config` and `schema`
        name it holds `channel`, `frequency` and `intent` (the query's main one), for
        slices, and `preranker_score`.

        Args:
            directory: the folder to make.
            truth: whether the log also gets the column `true_utility`, to measure
                against; it must not become a feature.

        Raises:
            FileExistsError: there is something at that path.
        """
        from tfrs_prerank.datasets import _funnel_files as files

        files.write(self, Path(directory), truth=truth)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Statistics of a simulated log.

    Attributes:
        requests: searches.
        candidates: rows of the log.
        click_rate_by_position: clicks by exposures.
        behaviour_rates: of each behaviour, by exposures.
        exposure_gini: Gini coefficient of the documents' exposures, those of none
            included: 0 where all have the same, 1 where one has all.
        never_exposed: share of the documents.
        stages: share of the candidates that ended at each stage.
        utility: mean utility of the candidates of each stage.
        channels: share of the candidates that each channel brought.
        hit_rates: share of the truly best `exposed` candidates that are among the first
            `ranked` of the pre-ranker, of the ranker if it scored all candidates, and
            of a random order.
        liked_elsewhere: documents liked outside search, by request.
        retrieved: share of them that are candidates of the request.
        not_shown: share of those candidates that were not exposed.
    """

    requests: int
    candidates: int
    click_rate_by_position: tuple[float, ...]
    behaviour_rates: Mapping[str, float]
    exposure_gini: float
    never_exposed: float
    stages: Mapping[str, float]
    utility: Mapping[str, float]
    channels: Mapping[str, float]
    hit_rates: Mapping[str, float]
    liked_elsewhere: float
    retrieved: float
    not_shown: float

    def __str__(self) -> str:
        rows: list[tuple[str, float]] = []
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), field.name.replace("_", " ")
            if isinstance(value, tuple):
                value = dict(enumerate(value))
            if isinstance(value, Mapping):
                rows += [(f"{name}: {key}", number) for key, number in value.items()]
            else:
                rows.append((name, value))
        width = max(len(name) for name, _ in rows)
        return "\n".join(
            f"{name:<{width}}  {number:>11,}"
            if isinstance(number, int)
            else f"{name:<{width}}  {number:>11.4f}"
            for name, number in rows
        )


def simulate(settings: Settings | None = None) -> Funnel:
    """Simulates a search cascade; see the module for what happens in it.

    Every part draws its random numbers from a stream of its own, so a change to one
    part leaves the draws of the others as they were. Equal settings give equal arrays.

    On one core the small preset takes about a second and the full one about 12, with
    1.2 GB of memory.

    Args:
        settings: sizes and knobs; `full()` where none are given.

    Returns:
        The log and the truth.

    Example:
    >>> from tfrs_prerank.datasets import funnel
    >>> made = funnel.simulate(funnel.small())
    >>> (made.requests.stage == 0).sum(axis=1).tolist()[:3]
    [10, 10, 10]
    >>> made.truth.utility.shape == made.requests.candidates.shape
    True
    """
    settings = settings or full()
    world = worlds.make_world(settings)
    requests, truth, snapshot = cascade.run(settings, world)
    return Funnel(
        settings=settings,
        documents=_documents(world, snapshot),
        users=_users(world),
        queries=_queries(world),
        requests=requests,
        truth=truth,
    )


def schema(tasks: Iterable[str] = ("click",)) -> Schema:
    """Returns features that a pre-ranker can read from the log, for all three towers.

    Args:
        tasks: the behaviours to predict, among `BEHAVIOURS`.

    Returns:
        The schema.

    Raises:
        ValueError: there is no such behaviour.

    Example:
    >>> from tfrs_prerank.datasets import funnel
    >>> funnel.schema(("click", "purchase")).task_names
    ('click', 'purchase')
    """
    from tfrs_prerank.features.declarations import (
        Categorical,
        Dense,
        Match,
        Numeric,
        Sequence,
        Task,
        Text,
    )
    from tfrs_prerank.features.schema import Schema

    tasks = tuple(tasks)
    for task in tasks:
        if task not in BEHAVIOURS:
            raise ValueError(
                f"tasks are behaviours: {', '.join(BEHAVIOURS)}. Received: {task!r}"
            )
    return Schema(
        features=(
            Categorical("user_id", "query", id_dropout=0.1),
            *(
                Categorical(name, "query", dimension=8)
                for name in ("gender", "age_group", "city", "spending")
            ),
            Categorical("interests", "query", max_values=3),
            Text("query", "query"),
            Sequence("history", shares="document", max_length=20),
            Sequence("searches", shares="query", max_length=10),
            Categorical("document", "doc", id_dropout=0.1),
            Text("title", "doc", shares="query"),
            Categorical("category", "doc"),
            Categorical("author", "doc"),
            Dense("vector", "doc", size=worlds.VECTOR_SIZE),
            Numeric("quality", "doc", standardize=True),
            Numeric("price", "doc", log1p=True, standardize=True),
            Numeric(
                "age_days", "doc", log1p=True, standardize=True, point_in_time=True
            ),
            *(
                Numeric(name, "doc", log1p=True, standardize=True, point_in_time=True)
                for name in cascade.DOCUMENT_COUNTERS
            ),
            *(
                # Most pairs never met, and a document of the catalogue did not.
                Numeric(name, "cross", log1p=True, standardize=True, missing=0.0)
                for name in cascade.PAIR_COUNTERS
            ),
            Match("title_match", left="query", right="title", op="overlap"),
            Match(
                "interest_match", left="interests", right="category", op="contains"
            ),
        ),
        tasks=tuple(Task(name) for name in tasks),
    )  # fmt: skip


def log_config(
    directory: str | Path, *, teacher: str | None = "ranker_score"
) -> LogsConfig:
    """Returns how `datasets.logs` reads what `Funnel.write` wrote.

    Args:
        directory: the folder that was written.
        teacher: column of the teacher's logits for clicks. `"ranker_score"` is known
            for what the ranker saw. `"true_utility"`, which `write(truth=True)` adds,
            puts the truth in the ranker's place. None for a schema that does not
            predict clicks.

    Returns:
        The configuration, for `logs.convert`.

    Example:
    >>> from tfrs_prerank.datasets import funnel
    >>> funnel.log_config("made").columns.teachers
    {'click': 'ranker_score'}
    """
    directory = Path(directory)
    return LogsConfig(
        requests=str(directory / "log.parquet"),
        documents=str(directory / "documents.parquet"),
        columns=LogColumns(
            group_id="user_id",
            stage="stage",
            position="position",
            labels={"out_of_scene": "out_of_scene"},
            teachers={} if teacher is None else {"click": teacher},
        ),
    )


def _ids(letter: str, count: int) -> np.ndarray:
    width = len(str(count - 1))
    return np.array([f"{letter}{row:0{width}}" for row in range(count)], object)


def _texts(words: np.ndarray) -> np.ndarray:
    """Returns one string for each row of words; a word stands once in it."""
    return np.array(
        [
            " ".join(dict.fromkeys(VOCABULARY[word] for word in row if word >= 0))
            for row in words.tolist()
        ],
        object,
    )


def _names(topics: np.ndarray) -> np.ndarray:
    return np.array([topic.name for topic in TOPICS], object)[topics]


def _documents(world: worlds.World, snapshot: cascade.Snapshot) -> DocumentTable:
    from tfrs_prerank.features.documents import DocumentTable

    documents = world.documents
    ids = _ids("d", len(documents.created))
    age = (snapshot.time - documents.created) / worlds.DAY
    return DocumentTable(
        ids=ids,
        columns={
            "document": ids,
            "title": _texts(documents.words),
            "category": _names(documents.category),
            "author": _ids("a", int(documents.author.max()) + 1)[documents.author],
            "vector": documents.vector,
            "quality": documents.seen_quality,
            "price": documents.price,
            # Some are published after the last request.
            "age_days": np.maximum(age, 0).astype(np.float32),
            **{
                name: counts.astype(np.float32)
                for name, counts in snapshot.counters.items()
            },
        },
    )


def _users(world: worlds.World) -> dict[str, np.ndarray]:
    users = world.users
    return {
        "user_id": _ids("u", len(users.activity)),
        "gender": np.array(["f", "m"], object)[users.gender],
        "age_group": _AGE_GROUPS[users.age_group],
        "city": _ids("c", 16)[users.city],
        "spending": users.spending.astype(str).astype(object),
        "interests": _names(users.declared),
    }


def _queries(world: worlds.World) -> dict[str, np.ndarray]:
    queries = world.queries
    # The middle of a query's own share says in which third it lies.
    middle = np.cumsum(queries.popularity) - queries.popularity / 2
    return {
        "query": _texts(queries.words),
        "frequency": _BANDS[np.minimum((3 * middle).astype(int), 2)],
        "intents": _names(queries.ordered),
    }


def _summary(made: Funnel) -> Summary:
    requests, settings, truth = made.requests, made.settings, made.truth
    clicks = requests.labels["click"]
    exposed = requests.stage == STAGES["exposed"]
    exposures = int(exposed.sum())
    shown = np.bincount(requests.candidates[exposed], minlength=settings.documents)
    stages = {name: requests.stage == STAGES[name] for name in list(STAGES)[:3]}
    # A row of random numbers would say the same with noise.
    hits = {"random": settings.ranked / settings.candidates}
    for name, scores in (
        ("pre-ranker", requests.preranker_score),
        ("ranker", truth.ranker_score),
    ):
        hits[name] = _hit_rate(scores, truth.utility, settings.ranked, settings.exposed)
    liked = int(requests.out_of_scene.sum())
    count = len(requests.time)
    return Summary(
        requests=count,
        candidates=clicks.size,
        click_rate_by_position=tuple(
            float(clicks[requests.position == place].mean())
            for place in range(settings.exposed)
        ),
        behaviour_rates={
            name: float(labels.sum() / exposures)
            for name, labels in requests.labels.items()
        },
        exposure_gini=_gini(shown),
        never_exposed=float((shown == 0).mean()),
        stages={name: float(those.mean()) for name, those in stages.items()},
        utility={
            name: float(truth.utility[those].mean(dtype=np.float64))
            if those.any()
            else float("nan")
            for name, those in stages.items()
        },
        channels={
            name: float((requests.channel == code).mean())
            for code, name in enumerate(CHANNELS)
        },
        hit_rates=hits,
        liked_elsewhere=len(requests.elsewhere) / count,
        retrieved=liked / max(len(requests.elsewhere), 1),
        not_shown=float(requests.out_of_scene[~exposed].sum() / max(liked, 1)),
    )  # fmt: skip


def _hit_rate(scores: np.ndarray, truth: np.ndarray, k: int, m: int) -> float:
    """Returns the mean share of the m truly best that are among the k first."""
    best = np.argpartition(-truth, m - 1, axis=1)[:, :m]
    passed = np.zeros(scores.shape, bool)
    np.put_along_axis(passed, np.argpartition(-scores, k - 1, axis=1)[:, :k], True, 1)
    return float(np.take_along_axis(passed, best, 1).mean())


def _gini(counts: np.ndarray) -> float:
    """Returns `sum_i (2i - n - 1) x_i / (n sum_i x_i)` for ascending x."""
    ascending = np.sort(counts).astype(np.float64)
    n = len(ascending)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ascending / (n * ascending.sum()))
