"""MovieLens-1M as a cascade: what users rated next, among movies they never rated.

The events of a user are in order, but there is no common time. The first 80% of each
user's events are the past, and all training uses those of all users. The last 20% are
what comes next: one request per user holds them, at most 100 by a seed, and is filled
up to 200 candidates with movies that the user never rated, drawn uniformly from all
movies. 4 or 5 stars are positive, fewer are not; a rating that is not known is an
absent label. The requests of a tenth of the users, by a seed, are for validation, those
of all others are the test: no event is in two parts.

Training requests are made of the past alone. 20 events in a row are one list of
exposed documents, before which the user liked some movies, and `sampling` adds movies
from the catalogue: uniformly, as in the requests of the test. So a movie that the user
rated at another time may be drawn as a negative, also one that is to come; nobody who
trains on a log can know better.

Every pair also has two privileged features: how well the movie goes with all that the
user liked before, by the likes of other users, and the same of all that was rated
(`co_occurrence.py`).

A movie's id is its place among the movies, as a user's is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ratings
from co_occurrence import CoOccurrence

from tfrs_prerank import Categorical, Numeric, Schema, Sequence, Task
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.sampling import Catalog, DocumentLog, Mixture, Sampler

TASK = "like"
PAIR_FEATURES = ("co_likes", "co_ratings")
SEED = 20221018
CANDIDATES, MOST_HELD_OUT = 200, 100
EVENTS, NEGATIVES = 20, 20
HISTORY = 50
NEXT = "next"
_LIKED = 2
_LABELS = {_LIKED: 1.0, 1: 0.0, 0: 0.0, -1: np.nan}

Request = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Events:
    """What one user rated, in order.

    Attributes:
        movies: int64 `[E]`.
        labels: float32 `[E]`, 1 = liked, 0 = not, NaN = not known.
    """

    movies: np.ndarray
    labels: np.ndarray

    @property
    def past(self) -> int:
        """How many of them are the past: all but the last fifth."""
        return len(self.movies) - len(self.movies) // 5

    def liked_before(self, place: int) -> list[int]:
        """Returns the movies liked before an event, the last one first."""
        return [int(movie) for movie in self.likes(place)[::-1][:HISTORY]]

    def likes(self, place: int) -> np.ndarray:
        """Returns all movies liked before an event, in order."""
        return self.movies[:place][self.labels[:place] > 0]


@dataclasses.dataclass(frozen=True)
class Cascade:
    """The requests of all parts, as `tfrs_prerank.datasets` takes them.

    Attributes:
        train: lists of exposed movies and draws from the catalogue.
        validation: requests of a tenth of the users.
        test: requests of all others.
        documents: all movies.
        popularity: int64 `[M]`, how often each was rated in the past of all users.
    """

    train: list[Request]
    validation: list[Request]
    test: list[Request]
    documents: DocumentTable
    popularity: np.ndarray


def make_schema() -> Schema:
    """Declares the features; the vocabularies come from the training requests."""
    ids: dict[str, Any] = {"dtype": "int64", "dimension": 32}
    return Schema(
        features=(
            *(
                Categorical(name, "query", **ids)
                for name in ("user_id", "gender", "age", "occupation")
            ),
            Sequence("history", shares="movie_id", dtype="int64", max_length=HISTORY),
            Categorical("movie_id", "doc", **ids),
            Categorical("genres", "doc", max_values=6, **ids),
            *(
                Numeric(name, "cross", dimension=32, standardize=True, privileged=True)
                for name in PAIR_FEATURES
            ),
        ),
        tasks=(Task(TASK),),
        doc_id="int64",
    )


def read(folder: Path, users: int | None = None) -> Cascade:
    """Reads MovieLens-1M and makes the requests of all parts.

    Args:
        folder: see `ratings.read`; `events.csv.gz` has `seq` too, an event's place
            among those of its user.
        users: only so many of them, for a quick check; default all.

    Raises:
        FileNotFoundError: the data are not there.
    """
    known = ratings.read(folder)
    events = read_events(folder)[:users]
    movies = known.movies["movie_id"]
    documents = DocumentTable(movies, known.movies)
    past = [own.movies[: own.past] for own in events]
    people = [
        {name: int(column[user]) for name, column in known.users.items()}
        for user in range(len(events))
    ]
    logged = [
        request
        for own, person in zip(events, people, strict=True)
        for request in training_requests(own, person)
    ]
    requests = [
        held_out_request(own, person, len(movies))
        for own, person in zip(events, people, strict=True)
    ]
    train = list(with_negatives(logged, documents))
    models = co_occurrences(events, len(movies))
    add_pair_features([*train, *requests], events, models)
    chosen = np.random.default_rng(SEED).permutation(len(events)) < len(events) // 10
    return Cascade(
        train=train,
        validation=[requests[user] for user in np.flatnonzero(chosen)],
        test=[requests[user] for user in np.flatnonzero(~chosen)],
        documents=documents,
        popularity=np.bincount(np.concatenate(past), minlength=len(movies)),
    )


def read_events(folder: Path) -> list[Events]:
    """Returns the events of every user, in the order of the users' ids."""
    frame = pd.read_csv(folder / "events.csv.gz").sort_values(["user_id", "seq"])
    places = np.searchsorted(_ids(folder / "movies.dat"), frame["movie_id"])
    labels = frame["rating_band"].map(_LABELS).to_numpy(np.float32)
    counts = frame["user_id"].value_counts().reindex(_ids(folder / "users.dat"))
    bounds = np.cumsum(counts.to_numpy())[:-1]
    return [
        Events(own, of_own)
        for own, of_own in zip(
            np.split(places.astype(np.int64), bounds),
            np.split(labels, bounds),
            strict=True,
        )
    ]


def training_requests(events: Events, person: dict[str, int]) -> Iterator[Request]:
    """Yields a user's past as lists of exposed movies.

    Args:
        events: of the user.
        person: the user's columns.
    """
    for start in range(0, events.past, EVENTS):
        shown = slice(start, min(start + EVENTS, events.past))
        yield _request(
            f"{person['user_id']}/{start}",
            person,
            events.liked_before(start),
            events.movies[shown],
            events.labels[shown],
            np.full(shown.stop - start, STAGES["exposed"]),
        )


def held_out_request(events: Events, person: dict[str, int], movies: int) -> Request:
    """Returns a user's next events among movies that the user never rated.

    Args:
        events: of the user.
        person: the user's columns.
        movies: how many there are.
    """
    random = np.random.default_rng([SEED, person["user_id"]])
    places = np.arange(events.past, len(events.movies))
    if len(places) > MOST_HELD_OUT:
        places = np.sort(random.choice(places, MOST_HELD_OUT, replace=False))
    never = np.setdiff1d(np.arange(movies), events.movies)
    filled = random.choice(
        never, min(CANDIDATES - len(places), len(never)), replace=False
    )
    ids = np.concatenate([events.movies[places], filled])
    labels = np.concatenate([events.labels[places], np.zeros(len(filled))])
    stage = np.where(
        np.arange(len(ids)) < len(places), STAGES["exposed"], STAGES["catalog"]
    )
    order = np.argsort(ids)  # the order says nothing of where a movie comes from
    history = events.liked_before(events.past)
    name = f"{person['user_id']}/{NEXT}"
    return _request(name, person, history, ids[order], labels[order], stage[order])


def with_negatives(
    requests: list[Request], documents: DocumentTable
) -> Iterator[Request]:
    """Yields training lists: the exposed movies and draws from the catalogue."""
    # The features of pairs are computed for what was drawn, not logged.
    schema = without_pairs(make_schema())
    mixture = Mixture(catalog=Catalog(NEGATIVES, by=()), seed=SEED)
    sampler = Sampler(mixture, schema, DocumentLog(requests, documents, schema))
    for request in requests:
        made = sampler.sample(request).request
        assert made is not None  # a list has an exposed movie at least
        yield made


def co_occurrences(events: list[Events], movies: int) -> tuple[CoOccurrence, ...]:
    """Returns the models of the features of pairs, fitted to the past of all users."""
    liked = [own.likes(own.past) for own in events]
    rated = [own.movies[: own.past] for own in events]
    return CoOccurrence(liked, movies), CoOccurrence(rated, movies)


def add_pair_features(
    requests: list[Request], events: list[Events], models: tuple[CoOccurrence, ...]
) -> None:
    """Adds the privileged features, as of the request's place in its user's events.

    Args:
        requests: each changed in place.
        events: of all users.
        models: from `co_occurrences`.
    """
    for request in requests:
        user, ids = request["user_id"], request["doc_ids"]
        own = events[user]
        after = request["request_id"].partition("/")[2]
        place = own.past if after == NEXT else int(after)
        histories = (own.likes(place), own.movies[:place])
        for name, model, history in zip(PAIR_FEATURES, models, histories, strict=True):
            request[name] = model.scores(user, history, ids)


def without_pairs(schema: Schema) -> Schema:
    """Returns a schema without the features of pairs."""
    features = tuple(f for f in schema.features if f.owner != "cross")
    changed: Schema = dataclasses.replace(schema, features=features)
    return changed


def _request(
    name: str,
    person: dict[str, int],
    history: list[int],
    ids: np.ndarray,
    labels: np.ndarray,
    stage: np.ndarray,
) -> Request:
    return {
        "request_id": name,
        "group_id": str(person["user_id"]),
        **person,
        "history": history,
        "doc_ids": ids,
        f"label/{TASK}": labels.astype(np.float32),
        "stage": stage.astype(np.int32),
    }


def _ids(path: Path) -> np.ndarray:
    """Returns the ids of a file of GroupLens in order, an id's place among them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return np.sort([int(line.split("::", 1)[0]) for line in lines])
