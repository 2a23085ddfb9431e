"""The simulated world: documents, users and queries, and how useful each is to whom.

What belongs here: what exists before anyone searches, and the utility, which depends
on nothing that the cascade does. What does not: the cascade, in `_funnel_cascade.py`.
"""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from tfrs_prerank.datasets._funnel_settings import Settings
from tfrs_prerank.datasets._funnel_words import COMMON_WORDS, TOPICS, VOCABULARY

START = 1_704_067_200  # 2024-01-01, the log's first second
DAY = 86_400

BEHAVIOURS = (
    "click",
    "like",
    "collect",
    "share",
    "comment",
    "follow",
    "screenshot",
    "purchase",
)
"""What a user may do with a shown document; all others follow a click."""

VECTOR_SIZE = 16
_STYLES = 4  # dimensions of taste that no topic explains
_TITLE_WORDS = 6
_RETURN = 12.0  # how soon relevance saturates as intents and topics agree
_CLICK_OFFSET = 6.8  # utility at which half of those who look click

# By behaviour after the click: log-odds at that utility.
_OFFSETS = np.array([-1.2, -1.6, -2.2, -2.4, -2.6, -2.6, -1.0], np.float32)
_SLOPE = 0.6


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
    """The M documents in the order of their publication.

    Attributes:
        topics: `[M, K]` shares that add up to 1.
        style: `[M, S]`.
        quality: `[M]`, from 0.
        created: `[M]` seconds, ascending.
        life: `[M]` days in which newness falls by the factor e.
        author: `[M]` row of the author.
        category: `[M]` topic that the catalogue files it under, wrong for one in 20.
        price: `[M]`, 0 for what cannot be bought.
        appeal: `[M, 7]` log-odds of each behaviour after a click.
        words: `[M, 6]` of the title, rows of the vocabulary.
        vector: `[M, V]` what an image and text encoder makes of topics and style.
        seen_quality: `[M]` what a quality model makes of the quality.
    """

    topics: np.ndarray
    style: np.ndarray
    quality: np.ndarray
    created: np.ndarray
    life: np.ndarray
    author: np.ndarray
    category: np.ndarray
    price: np.ndarray
    appeal: np.ndarray
    words: np.ndarray
    vector: np.ndarray
    seen_quality: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Users:
    """The U users.

    Attributes:
        interests: `[U, K]`, the strongest is 1.
        style: `[U, S]`.
        activity: `[U]` shares of the requests.
        budget: `[U]` log of the price that suits.
        declared: `[U, 3]` topics that the profile names.
        seen_style: `[U, S]` what production makes of the style.
        gender: `[U]` 0 or 1.
        age_group: `[U]` 0 to 4.
        city: `[U]` 0 to 15.
        spending: `[U]` 1 to 5.
    """

    interests: np.ndarray
    style: np.ndarray
    activity: np.ndarray
    budget: np.ndarray
    declared: np.ndarray
    seen_style: np.ndarray
    gender: np.ndarray
    age_group: np.ndarray
    city: np.ndarray
    spending: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """The Q queries, the most frequent first.

    Attributes:
        intents: `[Q, K]` shares that add up to 1.
        ordered: `[Q, 3]` topics of the main and the two secondary intents.
        words: `[Q, 3]` rows of the vocabulary, padded with -1.
        popularity: `[Q]` shares of the requests.
        vector: `[Q, V]`, comparable with that of documents.
    """

    intents: np.ndarray
    ordered: np.ndarray
    words: np.ndarray
    popularity: np.ndarray
    vector: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """All that exists before the first search; see the module `funnel` for formulas.

    Attributes:
        documents: see `Documents`.
        users: see `Users`.
        queries: see `Queries`.
    """

    documents: Documents
    users: Users
    queries: Queries

    def utility(
        self,
        users: np.ndarray,
        queries: np.ndarray,
        time: np.ndarray,
        documents: np.ndarray,
    ) -> np.ndarray:
        """Returns the true utility of documents to searches.

        Args:
            users: `[B]` rows of the users.
            queries: `[B]` rows of the queries.
            time: `[B]` seconds.
            documents: `[B, N]` rows of the documents.

        Returns:
            float32 `[B, N]`.
        """
        docs, who = self.documents, self.users
        intents = self.queries.intents[queries]
        answered, liked = np.zeros((2, *documents.shape), np.float32)
        for topic in self.queries.ordered[queries].T:  # all others have no intent
            asked = np.take_along_axis(intents, topic[:, None], 1)
            part = _RETURN * asked * docs.topics[documents, topic[:, None]]
            answered += part
            liked += (1 - np.exp(-part)) * who.interests[users, topic][:, None]
        relevance, taste = 1 - np.exp(-answered), np.tanh(liked)
        apart = docs.style[documents] - who.style[users][:, None]
        style = np.exp(-np.square(apart).sum(-1) / 3)
        urgency = intents @ np.array([t.urgency for t in TOPICS], np.float32)
        newness = self.newness(time, documents)
        worth = 1 - np.exp(-(urgency[:, None] * newness + docs.quality[documents]))
        total = 3.5 * relevance + 2 * taste + 2.5 * relevance * style + 1.5 * worth
        return np.asarray(total, np.float32)

    def newness(self, time: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Returns `exp(-age / life)`, 1 for a document of this second, `[B, N]`."""
        age = self.age(time, documents)
        return np.exp(-age / self.documents.life[documents])

    def age(self, time: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """Returns the age in days, float32 `[B, N]`."""
        seconds = time[:, None] - self.documents.created[documents]
        return (seconds / DAY).astype(np.float32)

    def click_probability(self, utility: np.ndarray) -> np.ndarray:
        """Returns the probability that a user who looks at a document clicks it."""
        return _sigmoid(utility - _CLICK_OFFSET)

    def behaviour_probabilities(
        self, utility: np.ndarray, users: np.ndarray, documents: np.ndarray
    ) -> np.ndarray:
        """Returns the probability of each behaviour but the click, given the click.

        Args:
            utility: `[B, N]`.
            users: `[B]` rows of the users.
            documents: `[B, N]` rows of the documents.

        Returns:
            `[B, N, 7]`, in the order of `BEHAVIOURS[1:]`.
        """
        price = self.documents.price[documents]
        logits = (
            _OFFSETS
            + _SLOPE * (utility - _CLICK_OFFSET)[..., None]
            + self.documents.appeal[documents]
        )
        distance = np.abs(np.log1p(price) - self.users.budget[users][:, None])
        logits[..., -1] -= distance
        probabilities = _sigmoid(logits)
        probabilities[..., -1] *= price > 0
        return probabilities


def generator(seed: int, part: str, block: int = 0) -> np.random.Generator:
    """Returns the random numbers of one part, apart from those of every other.

    Args:
        seed: of everything.
        part: what they are for.
        block: number of the block of requests.

    Returns:
        The generator.
    """
    return np.random.default_rng([seed, zlib.crc32(part.encode()), block])


def make_world(settings: Settings) -> World:
    """Returns the world of a seed.

    Args:
        settings: the sizes.

    Returns:
        The world; equal settings make the same one.
    """
    encoder = generator(settings.seed, "encoder").normal(
        size=(len(TOPICS) + _STYLES, VECTOR_SIZE)
    )
    return World(
        documents=_documents(settings, encoder),
        users=_users(settings),
        queries=_queries(settings, encoder),
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # tanh saturates where exp would overflow.
    return (np.tanh(logits / 2) + 1) / 2


def _topic_words() -> np.ndarray:
    """Returns `[K, W]` rows of the vocabulary."""
    row = {word: number for number, word in enumerate(VOCABULARY)}
    return np.array([[row[word] for word in topic.words] for topic in TOPICS])


def _related() -> np.ndarray:
    """Returns `[K, 3]`, for each topic the others that share most words with it."""
    words = [set(topic.words) for topic in TOPICS]
    shared = np.array([[len(one & other) for other in words] for one in words])
    np.fill_diagonal(shared, -1)
    return np.argsort(-shared, axis=1, kind="stable")[:, :3]


def _rows(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns `[N, K]` with `share` in column `first` and the rest in `second`."""
    rows = np.zeros((len(first), len(TOPICS)), np.float32)
    number = np.arange(len(first))
    rows[number, first] = share
    rows[number, second] += 1 - share
    return rows


def _encode(
    topics: np.ndarray, style: np.ndarray, noise: np.ndarray, encoder: np.ndarray
) -> np.ndarray:
    vectors = np.concatenate([2 * topics, 0.5 * style], axis=1) @ encoder + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _documents(settings: Settings, encoder: np.ndarray) -> Documents:
    rng = generator(settings.seed, "documents")
    count, kinds = settings.documents, len(TOPICS)

    author_topic = rng.integers(kinds, size=settings.authors)
    author_skill = rng.normal(size=settings.authors)
    # A few authors write most documents.
    share = 1 / (1 + rng.permutation(settings.authors)) ** 0.7
    author = rng.choice(settings.authors, size=count, p=share / share.sum())

    at_home = rng.random(count) < 0.7
    main = np.where(at_home, author_topic[author], rng.integers(kinds, size=count))
    second = _related()[main, rng.integers(3, size=count)]
    topics = _rows(main, second, rng.uniform(0.55, 0.95, count))
    style = rng.normal(size=(count, _STYLES)).astype(np.float32)
    skill = 0.6 * author_skill[author] + 0.8 * rng.normal(size=count) - 0.5
    quality = np.log1p(np.exp(skill)).astype(np.float32)

    old = np.sort(rng.exponential(60 * DAY, settings.published))[::-1]
    new = np.sort(rng.uniform(0, settings.days * DAY, count - settings.published))
    created = START + np.concatenate([-old, new]).astype(np.int64)

    half_life = np.array([topic.half_life for topic in TOPICS])
    for_sale = rng.random(count) < np.array([t.for_sale for t in TOPICS])[main]
    price = np.where(for_sale, np.round(rng.lognormal(3, 1, count), 2), 0.0)

    appeal = (
        0.7 * rng.normal(size=(kinds, len(_OFFSETS)))[main]
        + 0.7 * rng.normal(size=(count, len(_OFFSETS)))
    )  # fmt: skip
    follow = BEHAVIOURS.index("follow") - 1
    appeal[:, follow] = author_skill[author]  # one follows the author, not the text

    topic_words = _topic_words()
    shape = (count, _TITLE_WORDS)
    of_second = rng.random(shape) > topics[np.arange(count), main][:, None]
    of_topic = np.where(of_second, second[:, None], main[:, None])
    frequency = 1 / (3 + np.arange(topic_words.shape[1]))
    place = rng.choice(len(frequency), size=shape, p=frequency / frequency.sum())
    words = topic_words[of_topic, place]
    common = len(VOCABULARY) - 1 - rng.integers(len(COMMON_WORDS), size=shape)
    words = np.where(rng.random(shape) < 0.2, common, words)

    noise = 0.5 * rng.normal(size=(count, VECTOR_SIZE))
    wrong = rng.random(count) < 0.05
    return Documents(
        topics=topics,
        style=style,
        quality=quality,
        created=created,
        life=(half_life[main] / np.log(2)).astype(np.float32),
        author=author.astype(np.int32),
        category=np.where(wrong, rng.integers(kinds, size=count), main),
        price=price.astype(np.float32),
        appeal=appeal.astype(np.float32),
        words=words,
        vector=_encode(topics, style, noise, encoder),
        seen_quality=(quality + 0.4 * rng.normal(size=count)).astype(np.float32),
    )


def _users(settings: Settings) -> Users:
    rng = generator(settings.seed, "users")
    count, kinds = settings.users, len(TOPICS)
    interests = rng.dirichlet(np.full(kinds, 0.25), count)
    interests = (interests / interests.max(axis=1, keepdims=True)).astype(np.float32)
    style = rng.normal(size=(count, _STYLES)).astype(np.float32)
    activity = rng.lognormal(0, 1, count)
    budget = rng.normal(3, 0.8, count).astype(np.float32)

    # A profile names the two strongest interests and something that is none.
    strongest = np.argsort(-interests, axis=1)[:, :2]
    other = np.argsort(-interests, axis=1)[
        np.arange(count), rng.integers(2, kinds, size=count)
    ]
    half = np.array([-0.7, 0, 0.7])  # quarters of a normal distribution, nearly
    east = np.searchsorted(half, style[:, 2])
    north = np.searchsorted(half, style[:, 3])
    lies = rng.random(count) < 0.1
    return Users(
        interests=interests,
        style=style,
        activity=activity / activity.sum(),
        budget=budget,
        declared=np.column_stack([strongest, other]),
        seen_style=(style + 0.7 * rng.normal(size=style.shape)).astype(np.float32),
        gender=((style[:, 1] > 0) ^ lies).astype(np.int64),
        age_group=np.searchsorted([-0.85, -0.25, 0.25, 0.85], style[:, 0]),
        city=4 * east + north,
        spending=1 + np.searchsorted([2.3, 2.8, 3.2, 3.7], budget),
    )


def _queries(settings: Settings, encoder: np.ndarray) -> Queries:
    rng = generator(settings.seed, "queries")
    kinds, topic_words = len(TOPICS), _topic_words()
    drawn = 8 * settings.queries + 1_000  # many are equal

    main = rng.integers(kinds, size=drawn)
    others = _related()[main]
    turned = rng.random(drawn) < 0.4
    others = np.where(turned[:, None], others[:, [1, 2, 0]], others)[:, :2]
    length = rng.choice([1, 2, 3], size=drawn, p=[0.15, 0.45, 0.4])
    places = np.argsort(rng.random((drawn, topic_words.shape[1])), axis=1)[:, :3]
    words = topic_words[main[:, None], places]
    # The last word may belong to the secondary intent.
    number = np.arange(drawn)
    last = topic_words[others[:, 0], places[:, 0]]
    mixed = (rng.random(drawn) < 0.25) & (length > 1)
    mixed &= (words != last[:, None]).all(axis=1)
    words[number, length - 1] = np.where(mixed, last, words[number, length - 1])
    words[np.arange(3) >= length[:, None]] = -1
    share = 0.4 + 0.15 * length - 0.1 * mixed + rng.uniform(-0.05, 0.05, drawn)

    _, first = np.unique(np.sort(words, axis=1), axis=0, return_index=True)
    kept = np.sort(first)[: settings.queries]
    main, others, share = main[kept], others[kept], share[kept].astype(np.float32)
    intents = 0.7 * _rows(main, others[:, 0], share)
    intents += 0.3 * _rows(main, others[:, 1], share)
    popularity = 1 / (3 + np.arange(len(kept))) ** 0.9
    noise = 0.3 * rng.normal(size=(len(kept), VECTOR_SIZE))
    return Queries(
        intents=intents,
        ordered=np.column_stack([main, others]),
        words=words[kept],
        popularity=popularity / popularity.sum(),
        vector=_encode(intents, np.zeros((len(kept), _STYLES)), noise, encoder),
    )
