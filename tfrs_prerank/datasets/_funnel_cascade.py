"""The simulated cascade: retrieval, pre-ranker, ranker, exposure and behaviours.

What belongs here: what happens to one block of requests after the other, and what the
next block can know of it. What does not: the world, in `_funnel_world.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrs_prerank.datasets._funnel_settings import Settings
from tfrs_prerank.datasets._funnel_words import TOPICS, VOCABULARY
from tfrs_prerank.datasets._funnel_world import (
    BEHAVIOURS,
    DAY,
    START,
    World,
    generator,
)
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.progress import track

CHANNELS = ("text", "vector", "personal", "popular", "fresh")
"""Retrieval channels by their codes."""

DOCUMENT_COUNTERS = ("impressions", "clicks", "engagements")
"""Counters of a document: shown, clicked, and all behaviours that follow a click."""

PAIR_COUNTERS = (
    "query_doc_impressions",
    "query_doc_clicks",
    "user_doc_impressions",
    "user_doc_clicks",
    "user_author_clicks",
)
"""Counters of a query or a user with a document or its author."""

COUNTERS = (*DOCUMENT_COUNTERS, *PAIR_COUNTERS)
"""All counters of a candidate."""

_PIECE = 16  # requests whose scores of all documents stay in the processor's cache

_RELEVANT = 0.1  # match of intents and topics from which a document answers a query

# What production reads of a pair, and the weights it starts from.
_SIGNALS = {
    "bias": (0.0, -3.0),  # name: (weight in the pre-ranker, first one in the ranker)
    "text": (1.0, 1.0),
    "main_intent": (1.0, 1.0),
    "secondary_intent": (0.8, 0.5),
    "vector": (3.0, 1.0),
    "declared_interest": (0.0, 0.5),
    "clicked_category": (0.0, 1.0),
    "style": (0.0, 0.5),
    "quality": (0.2, 0.2),
    "newness": (0.2, 0.2),
    "popularity": (1.5, 1.0),
    "click_rate": (0.0, 1.0),
    "query_clicks": (0.0, 0.5),
    "author_clicks": (0.0, 0.3),
}
_RIDGE = 20.0  # how many exposed documents the first weights weigh as much as


@dataclasses.dataclass(frozen=True, eq=False)
class Requests:
    """R requests in time order, with L candidates each in random order.

    Attributes:
        time: int64 `[R]` seconds, ascending.
        user: int32 `[R]` rows of the users.
        query: int32 `[R]` rows of the queries.
        history: int32 `[R, H]` documents that the user clicked in earlier blocks, the
            last first, padded with -1.
        searches: int32 `[R, S]` the user's queries of earlier blocks, the last first,
            padded with -1.
        candidates: int32 `[R, L]` rows of the documents, each once in a list.
        channel: int8 `[R, L]` codes of `CHANNELS`: which one brought the candidate.
        stage: int8 `[R, L]` 0 exposed, 1 ranked, 2 preranked_out.
        position: int16 `[R, L]` place on the page from 0, -1 for not shown.
        preranker_score: float32 `[R, L]` of production's pre-ranker.
        ranker_score: float32 `[R, L]` click logits of production's ranker, NaN where it
            did not run.
        labels: int8 `[R, L]` by behaviour, 1 only for exposed documents.
        out_of_scene: int8 `[R, L]`, 1 for what the user later liked outside search.
        age_days: float32 `[R, L]` age of the document.
        counters: int32 `[R, L]` by name, events of earlier blocks only.
        elsewhere: int32 `[E, 2]` (request, document) of all that was liked outside
            search, retrieved or not.
    """

    time: np.ndarray
    user: np.ndarray
    query: np.ndarray
    history: np.ndarray
    searches: np.ndarray
    candidates: np.ndarray
    channel: np.ndarray
    stage: np.ndarray
    position: np.ndarray
    preranker_score: np.ndarray
    ranker_score: np.ndarray
    labels: dict[str, np.ndarray]
    out_of_scene: np.ndarray
    age_days: np.ndarray
    counters: dict[str, np.ndarray]
    elsewhere: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """What no log knows; for measuring, never for a feature.

    Attributes:
        world: everything latent, and the utility of any document to any search.
        utility: float32 `[R, L]` of the candidates.
        ranker_score: float32 `[R, L]`, what production's ranker would have said of all
            candidates, also of those that it never saw.
        examination: float64 `[exposed]` probability that a user looks at a position.
    """

    world: World
    utility: np.ndarray
    ranker_score: np.ndarray
    examination: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """The counters after the last request, as an export uses them.

    Attributes:
        time: the last request's second.
        counters: int32 `[M]` by name, the document's own.
    """

    time: int
    counters: dict[str, np.ndarray]


class _Memory:
    """What production remembers; it changes between blocks only."""

    def __init__(self, settings: Settings) -> None:
        documents, users = settings.documents, settings.users
        shapes: dict[str, tuple[int, ...]] = {
            "query_doc_impressions": (settings.queries, documents),
            "query_doc_clicks": (settings.queries, documents),
            "user_doc_impressions": (users, documents),
            "user_doc_clicks": (users, documents),
            "user_author_clicks": (users, settings.authors),
        }
        self.counts = {
            name: np.zeros(shapes.get(name, (documents,)), np.int32)
            for name in COUNTERS
        }
        self.category_clicks = np.zeros((users, len(TOPICS)), np.float32)
        self.met = np.zeros((users, documents), bool)
        self.history = np.full((users, settings.history), -1, np.int32)
        self.searches = np.full((users, settings.searches), -1, np.int32)


class _Ranker:
    """Logistic regression on the clicks of exposed documents, and of no others.

    It takes a click for a judgement, wherever the document stood: what was shown above
    gets better weights than it deserves. Each refit takes Newton steps from the weights
    before, with a ridge towards the first ones.
    """

    def __init__(self, rows: int) -> None:
        self._prior = np.array([start for _, start in _SIGNALS.values()])
        self.weights = self._prior
        self._signals = np.zeros((rows, len(_SIGNALS)), np.float32)
        self._clicks = np.zeros(rows, np.float32)
        self._seen = 0

    def learn(self, signals: np.ndarray, clicks: np.ndarray) -> None:
        """Adds exposed documents, `[N, F]` and `[N]`, and refits."""
        start, stop = self._seen, self._seen + len(clicks)
        self._signals[start:stop], self._clicks[start:stop] = signals, clicks
        self._seen = stop
        rows, labels = self._signals[:stop], self._clicks[:stop]
        for _ in range(2):
            probability = 1 / (1 + np.exp(-(rows @ self.weights.astype(np.float32))))
            gradient = rows.T @ (probability - labels)
            gradient = gradient + _RIDGE * (self.weights - self._prior)
            spread = (probability * (1 - probability))[:, None]
            curvature = rows.T @ (spread * rows) + _RIDGE * np.eye(len(self.weights))
            self.weights = self.weights - np.linalg.solve(curvature, gradient)


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """The searches of one block."""

    number: int
    start: int
    time: np.ndarray
    user: np.ndarray
    query: np.ndarray

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + len(self.time))


def run(settings: Settings, world: World) -> tuple[Requests, Truth, Snapshot]:
    """Runs the cascade over all requests.

    Args:
        settings: sizes and knobs.
        world: what exists.

    Returns:
        The log, what it does not know, and the counters at its end.
    """
    time, user, query = _searches(settings, world)
    requests = _empty(settings, time, user, query)
    shape = (settings.requests, settings.candidates)
    truth = Truth(
        world=world,
        utility=np.zeros(shape, np.float32),
        ranker_score=np.zeros(shape, np.float32),
        examination=(1.0 + np.arange(settings.exposed)) ** -settings.position_bias,
    )
    met: list[np.ndarray] = []
    memory = _Memory(settings)
    ranker = _Ranker(settings.requests * settings.exposed)
    index = _static_index(world)
    for number, start in enumerate(
        track(range(0, settings.requests, settings.block), "simulating the cascade")
    ):
        rows = slice(start, start + settings.block)
        block = _Block(number, start, time[rows], user[rows], query[rows])
        requests.history[rows] = memory.history[block.user]
        requests.searches[rows] = memory.searches[block.user]
        _retrieve(settings, world, memory, index, block, requests)
        signals = _observe(settings, world, memory, index, block, requests)
        shown = _pass_on(settings, ranker, signals, block, requests, truth)
        clicked = _behave(settings, world, shown, block, requests, truth)
        met.append(_meet_elsewhere(settings, world, memory, block, requests))
        ranker.learn(
            np.take_along_axis(signals, shown[..., None], 1).reshape(-1, len(_SIGNALS)),
            clicked.reshape(-1),
        )
        _remember(world, memory, block, requests, shown)
    elsewhere = np.concatenate(met).astype(np.int32)
    counters = {name: memory.counts[name] for name in DOCUMENT_COUNTERS}
    return (
        dataclasses.replace(requests, elsewhere=elsewhere),
        truth,
        Snapshot(int(time[-1]), counters),
    )


def _searches(
    settings: Settings, world: World
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns who searches for what and when; none of it depends on the cascade."""
    rng = generator(settings.seed, "searches")
    time = START + np.sort(rng.integers(settings.days * DAY, size=settings.requests))
    user = rng.choice(settings.users, size=len(time), p=world.users.activity)
    # People search for what they like, and for what all search for.
    liking = world.users.interests @ world.queries.intents.T
    chance = world.queries.popularity * np.exp(2 * liking)
    chance = np.cumsum(chance / chance.sum(axis=1, keepdims=True), axis=1)
    query = np.zeros(len(time), np.int32)
    drawn = rng.random(len(time))
    for start in range(0, len(time), settings.block):
        rows = slice(start, start + settings.block)
        query[rows] = (chance[user[rows]] < drawn[rows, None]).sum(axis=1)
    # Rounding may leave the last sum below 1.
    query = np.minimum(query, settings.queries - 1)
    return time.astype(np.int64), user.astype(np.int32), query


def _empty(
    settings: Settings, time: np.ndarray, user: np.ndarray, query: np.ndarray
) -> Requests:
    count = settings.requests
    shape = (count, settings.candidates)
    return Requests(
        time=time,
        user=user,
        query=query,
        history=np.full((count, settings.history), -1, np.int32),
        searches=np.full((count, settings.searches), -1, np.int32),
        candidates=np.zeros(shape, np.int32),
        channel=np.zeros(shape, np.int8),
        stage=np.full(shape, STAGES["preranked_out"], np.int8),
        position=np.full(shape, -1, np.int16),
        preranker_score=np.zeros(shape, np.float32),
        ranker_score=np.full(shape, np.nan, np.float32),
        labels={name: np.zeros(shape, np.int8) for name in BEHAVIOURS},
        out_of_scene=np.zeros(shape, np.int8),
        age_days=np.zeros(shape, np.float32),
        counters={name: np.zeros(shape, np.int32) for name in COUNTERS},
        elsewhere=np.zeros((0, 2), np.int32),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Index:
    """Scores of every document that depend on the query alone, `[Q, M]`."""

    text: np.ndarray
    vector: np.ndarray
    best: np.ndarray


def _static_index(world: World) -> _Index:
    queries, docs = world.queries, world.documents
    asked = np.zeros((len(queries.words), len(VOCABULARY) + 1), np.float32)
    np.put_along_axis(asked, queries.words, 1.0, axis=1)
    asked[:, -1] = 0  # the pad -1 is the last column
    written = np.zeros((len(docs.words), len(VOCABULARY) + 1), np.float32)
    np.put_along_axis(written, docs.words, 1.0, axis=1)
    text = asked @ written.T / asked.sum(axis=1, keepdims=True)
    vector = queries.vector @ docs.vector.T
    return _Index(text, vector, np.maximum(text, vector))


def _personal(world: World, memory: _Memory, users: np.ndarray) -> np.ndarray:
    """Returns how production sees the users' interests, `[B, K]`."""
    clicks = memory.category_clicks[users]
    liked = clicks / (clicks.sum(axis=1, keepdims=True) + 2)
    declared = world.users.declared[users]
    profile = 0.8 * liked
    np.put_along_axis(
        profile, declared, np.take_along_axis(profile, declared, 1) + 0.6, axis=1
    )
    return profile


def _popular(memory: _Memory) -> np.ndarray:
    clicks = np.log1p(memory.counts["clicks"]).astype(np.float32)
    return clicks / max(float(clicks.max()), 1.0)


def _retrieve(
    settings: Settings,
    world: World,
    memory: _Memory,
    index: _Index,
    block: _Block,
    requests: Requests,
) -> None:
    """Takes the documents that one of the channels scores highest.

    The channels' scores lie on one scale, and noise stands for all that makes real
    indexes approximate.
    """
    rng = generator(settings.seed, "retrieval", block.number)
    docs = world.documents
    # Documents are in the order of publication; the index is built between blocks.
    there = int(np.searchsorted(docs.created, block.time[0], side="right"))
    category = docs.category[:there]
    personal = _personal(world, memory, block.user)
    popular = settings.popularity * _popular(memory)[:there]
    age = (block.time[0] - docs.created[:there]) / DAY
    fresh = 0.8 * np.exp(-age / 3).astype(np.float32)

    for_all = np.maximum(popular, fresh)
    cut = there - settings.candidates
    chosen = np.empty((len(block.time), settings.candidates), np.int32)
    for start in range(0, len(chosen), _PIECE):
        piece = slice(start, start + _PIECE)
        scores = personal[piece][:, category]
        np.maximum(scores, for_all, out=scores)
        np.maximum(scores, index.best[block.query[piece], :there], out=scores)
        scores += np.float32(0.2) * rng.standard_normal(scores.shape, np.float32)
        chosen[piece] = np.argpartition(scores, cut, axis=1)[:, cut:]
    # Partitioning leaves an order that tells of the scores.
    chosen = rng.permuted(chosen, axis=1)

    query, row = block.query[:, None], np.arange(len(chosen))[:, None]
    by_channel = [
        index.text[query, chosen],
        index.vector[query, chosen],
        personal[row, category[chosen]],
        popular[chosen],
        fresh[chosen],
    ]
    requests.candidates[block.rows] = chosen
    requests.channel[block.rows] = np.argmax(by_channel, axis=0)


def _observe(
    settings: Settings,
    world: World,
    memory: _Memory,
    index: _Index,
    block: _Block,
    requests: Requests,
) -> np.ndarray:
    """Writes the counters down and returns what production reads, `[B, L, F]`."""
    rows, docs, users = block.rows, world.documents, world.users
    chosen = requests.candidates[rows]
    query, user = block.query[:, None], block.user[:, None]
    age = world.age(block.time, chosen)
    requests.age_days[rows] = age
    now = {}
    for name in COUNTERS:
        counts = memory.counts[name]
        if name.startswith("query_"):
            now[name] = counts[query, chosen]
        elif name == "user_author_clicks":
            now[name] = counts[user, docs.author[chosen]]
        elif name.startswith("user_"):
            now[name] = counts[user, chosen]
        else:
            now[name] = counts[chosen]
        requests.counters[name][rows] = now[name]

    category = docs.category[chosen]
    intents = world.queries.ordered[block.query]
    declared = users.declared[block.user]
    clicks = memory.category_clicks[block.user]
    liked = clicks / (clicks.sum(axis=1, keepdims=True) + 2)
    apart = docs.style[chosen] - users.seen_style[block.user][:, None]
    values = {
        "bias": np.ones(chosen.shape, np.float32),
        "text": index.text[query, chosen],
        "main_intent": category == intents[:, :1],
        "secondary_intent": (category[..., None] == intents[:, None, 1:]).any(-1),
        "vector": index.vector[query, chosen],
        "declared_interest": (category[..., None] == declared[:, None]).any(-1),
        "clicked_category": np.take_along_axis(liked, category, 1),
        "style": -np.square(apart).sum(-1) / 8,
        "quality": docs.seen_quality[chosen],
        "newness": np.exp(-age / 7),
        "popularity": settings.popularity * _popular(memory)[chosen],
        "click_rate": 5 * (now["clicks"] + 0.5) / (now["impressions"] + 10),
        "query_clicks": np.log1p(now["query_doc_clicks"]),
        "author_clicks": np.log1p(now["user_author_clicks"]),
    }
    signals = np.empty((*chosen.shape, len(_SIGNALS)), np.float32)
    for place, name in enumerate(_SIGNALS):
        signals[..., place] = values[name]
    return signals


def _pass_on(
    settings: Settings,
    ranker: _Ranker,
    signals: np.ndarray,
    block: _Block,
    requests: Requests,
    truth: Truth,
) -> np.ndarray:
    """Scores, cuts twice and shows; returns places of what is shown, `[B, exposed]`."""
    rows = block.rows
    of_preranker = np.array([weight for weight, _ in _SIGNALS.values()], np.float32)
    rng = generator(settings.seed, "preranker", block.number)
    first = signals @ of_preranker
    # Stands for a model that is some versions behind.
    first += np.float32(0.3) * rng.standard_normal(first.shape, np.float32)
    second = signals @ ranker.weights.astype(np.float32)
    passed = np.argsort(-first, axis=1)[:, : settings.ranked]
    passed_score = np.take_along_axis(second, passed, 1)
    best = np.argsort(-passed_score, axis=1)[:, : settings.exposed]
    shown = np.take_along_axis(passed, best, 1)

    requests.preranker_score[rows] = first
    truth.ranker_score[rows] = second
    np.put_along_axis(requests.ranker_score[rows], passed, passed_score, 1)
    np.put_along_axis(requests.stage[rows], passed, STAGES["ranked"], 1)
    np.put_along_axis(requests.stage[rows], shown, STAGES["exposed"], 1)
    positions = np.broadcast_to(np.arange(settings.exposed), shown.shape)
    np.put_along_axis(requests.position[rows], shown, positions, 1)
    return shown


def _behave(
    settings: Settings,
    world: World,
    shown: np.ndarray,
    block: _Block,
    requests: Requests,
    truth: Truth,
) -> np.ndarray:
    """Lets the users act on what they see; returns their clicks, `[B, exposed]`."""
    rng = generator(settings.seed, "behaviours", block.number)
    rows = block.rows
    documents = requests.candidates[rows]
    utility = world.utility(block.user, block.query, block.time, documents)
    truth.utility[rows] = utility
    seen = np.take_along_axis(utility, shown, 1)
    chance = truth.examination * world.click_probability(seen)
    clicked = rng.random(shown.shape) < chance
    others = world.behaviour_probabilities(
        seen, block.user, np.take_along_axis(documents, shown, 1)
    )
    acted = (rng.random(others.shape) < others) & clicked[..., None]
    acted = np.concatenate([clicked[..., None], acted], axis=-1)
    for place, name in enumerate(BEHAVIOURS):
        values = acted[..., place].astype(np.int8)
        np.put_along_axis(requests.labels[name][rows], shown, values, 1)
    return clicked


def _meet_elsewhere(
    settings: Settings,
    world: World,
    memory: _Memory,
    block: _Block,
    requests: Requests,
) -> np.ndarray:
    """Lets the users meet documents outside search; returns what they liked, `[E, 2]`.

    What they meet is drawn evenly from all that is published, so it knows nothing of
    the cascade. Only what answers the query counts for the request, and a document
    counts once for each user.
    """
    rng = generator(settings.seed, "elsewhere", block.number)
    there = int(np.searchsorted(world.documents.created, block.time[0], side="right"))
    shape = (len(block.time), settings.met_elsewhere)
    documents = rng.integers(there, size=shape)
    utility = world.utility(block.user, block.query, block.time, documents)
    liked = rng.random(shape) < world.click_probability(utility)
    intents = world.queries.intents[block.query][..., None]
    match = (world.documents.topics[documents] @ intents)[..., 0]
    liked &= (match >= _RELEVANT) & ~memory.met[block.user[:, None], documents]
    row, place = np.nonzero(liked)
    document = documents[row, place]
    # The first of several in a block is the earliest.
    pair = block.user[row].astype(np.int64) * settings.documents + document
    first = np.sort(np.unique(pair, return_index=True)[1])
    row, document = row[first], document[first]
    memory.met[block.user[row], document] = True
    hits = np.zeros((len(block.time), settings.documents), bool)
    hits[row, document] = True
    requests.out_of_scene[block.rows] = np.take_along_axis(
        hits, requests.candidates[block.rows], 1
    )
    return np.column_stack([block.start + row, document])


def _remember(
    world: World,
    memory: _Memory,
    block: _Block,
    requests: Requests,
    shown: np.ndarray,
) -> None:
    """Adds a block's events to what production remembers."""
    rows = block.rows
    document = np.take_along_axis(requests.candidates[rows], shown, 1)
    acted = {
        name: np.take_along_axis(values[rows], shown, 1).astype(bool)
        for name, values in requests.labels.items()
    }
    user = np.broadcast_to(block.user[:, None], document.shape)
    query = np.broadcast_to(block.query[:, None], document.shape)
    clicked = acted["click"]
    counts = memory.counts
    np.add.at(counts["impressions"], document, 1)
    np.add.at(counts["query_doc_impressions"], (query, document), 1)
    np.add.at(counts["user_doc_impressions"], (user, document), 1)
    engagements = sum(acted[name].astype(np.int32) for name in BEHAVIOURS[1:])
    np.add.at(counts["engagements"], document, engagements)
    user, query, document = user[clicked], query[clicked], document[clicked]
    np.add.at(counts["clicks"], document, 1)
    np.add.at(counts["query_doc_clicks"], (query, document), 1)
    np.add.at(counts["user_doc_clicks"], (user, document), 1)
    docs = world.documents
    np.add.at(counts["user_author_clicks"], (user, docs.author[document]), 1)
    np.add.at(memory.category_clicks, (user, docs.category[document]), 1)
    _push(memory.history, user, document)
    _push(memory.searches, block.user, block.query)


def _push(lists: np.ndarray, users: np.ndarray, items: np.ndarray) -> None:
    """Puts items, the earliest first, in front of the users' lists `[U, T]`."""
    order = np.argsort(users, kind="stable")
    who, counts = np.unique(users, return_counts=True)
    place = np.arange(lists.shape[1])
    newest = np.cumsum(counts)[:, None] - 1 - place
    is_new = place < counts[:, None]
    before = np.maximum(place - counts[:, None], 0)
    lists[who] = np.where(
        is_new,
        items[order][np.maximum(newest, 0)] if len(items) else -1,
        np.take_along_axis(lists[who], before, 1),
    )
