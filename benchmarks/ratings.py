"""MovieLens-1M as rows of a user, a movie and a label, split once and for all.

A row is a rating: 4 or 5 stars are label 1, 1 or 2 stars are label 0, and 3 stars are
left out. Rows are sorted by (user, movie) and permuted with a fixed seed; the first 20%
are the test part, the next 5% the validation part, the rest the training part.

Everything else that is known of a user or a movie comes from training rows only, and a
training row never sees itself.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import measuring
import numpy as np
import pandas as pd

import tfrs_prerank  # noqa: F401  (first of all, so that tf.keras is Keras 2)

# isort: split
import tensorflow as tf

SPLIT_SEED = 20221018
PARTS = ("test", "validation", "training")
_FILES = ("events.csv.gz", "users.dat", "movies.dat")
_BAND_OF_LABEL = {0: 0, 2: 1}
_PAD = -1


@dataclasses.dataclass(frozen=True)
class Ratings:
    """The rows of all parts, and the columns of users and movies.

    Attributes:
        user: int64 `[N]`, a row's place among the users.
        movie: int64 `[N]`, its place among the movies.
        label: float32 `[N]`, 1 or 0.
        parts: by the names of `PARTS`, the places of the rows of each part.
        users: columns `[U]` by name; every value is an integer from 0 on.
        movies: columns `[M]` by name; `genres` is `[M, G]`, padded with -1.
    """

    user: np.ndarray
    movie: np.ndarray
    label: np.ndarray
    parts: dict[str, np.ndarray]
    users: dict[str, np.ndarray]
    movies: dict[str, np.ndarray]


def read(folder: Path) -> Ratings:
    """Reads MovieLens-1M.

    Args:
        folder: with `events.csv.gz` (`user_id`, `movie_id` and `rating_band`: 2 for 4
            or 5 stars, 1 for 3 stars, 0 for 1 or 2, -1 where it is not known) and
            GroupLens' `users.dat` and `movies.dat`.

    Raises:
        FileNotFoundError: the data are not there.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {folder / name}. Set TFRS_PRERANK_DATA to the folder that has "
                "ml-1m/ in it"
            )
    events = pd.read_csv(folder / "events.csv.gz")
    events = events[events["rating_band"].isin(_BAND_OF_LABEL)]
    events = events.sort_values(["user_id", "movie_id"])
    people = _table(folder / "users.dat", "user_id", "gender", "age", "occupation")
    films = _table(folder / "movies.dat", "movie_id", "title", "genres")
    users = {
        name: _places(people[name], np.unique(people[name]))
        for name in ("user_id", "gender", "age", "occupation")
    }
    movies = {
        "movie_id": np.arange(len(films)),
        "genres": _padded([str(genres).split("|") for genres in films["genres"]]),
    }
    return Ratings(
        user=_places(events["user_id"], people["user_id"]),
        movie=_places(events["movie_id"], films["movie_id"]),
        label=events["rating_band"].map(_BAND_OF_LABEL).to_numpy(np.float32),
        parts=split(len(events)),
        users=users,
        movies=movies,
    )


def split(rows: int) -> dict[str, np.ndarray]:
    """Returns the places of the rows of every part.

    >>> {name: len(places) for name, places in split(1000).items()}
    {'test': 200, 'validation': 50, 'training': 750}

    Args:
        rows: how many there are, sorted by user and movie.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(rows)
    bounds = [int(0.2 * rows), int(0.25 * rows)]
    return dict(zip(PARTS, np.split(order, bounds), strict=True))


def folder() -> Path:
    """Returns where the data are looked for: `$TFRS_PRERANK_DATA`, `../shared/data`."""
    given = os.environ.get("TFRS_PRERANK_DATA")
    beside = measuring.RESULTS.parents[2] / "shared" / "data"
    return (Path(given) if given else beside) / "ml-1m"


def _table(path: Path, *columns: str) -> pd.DataFrame:
    """Reads a file of GroupLens, sorted by its first column."""
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = [line.split("::")[: len(columns)] for line in lines]
    table = pd.DataFrame(cells, columns=list(columns))
    return table.astype({columns[0]: int}).sort_values(columns[0])


def _places(values: pd.Series, known: pd.Series | np.ndarray) -> np.ndarray:
    return np.searchsorted(np.asarray(known), values.to_numpy()).astype(np.int64)


def _padded(lists: list[list[str]]) -> np.ndarray:
    known = sorted({value for values in lists for value in values})
    width = max(len(values) for values in lists)
    places = np.full((len(lists), width), _PAD, np.int64)
    for row, values in zip(places, lists, strict=True):
        row[: len(values)] = [known.index(value) for value in values]
    return places


class History:
    """The partners that an owner has in some training rows: who liked what.

    A training row gets `length` of the others of its owner, drawn anew each time, of
    which a share is dropped. Without the drop the row's label could be read off: the
    movie is missing in the history of a like and was never in that of a dislike, so a
    model that knows the user by heart would find it by comparison.

    Args:
        owners: int64 `[R]`, the owner of each row, from 0 on.
        partners: int64 `[R]`, what the owner has.
        count: number of owners.
        length: partners that a training row gets at most.
        dropped: share of them that is dropped.
        most: partners that any other row gets at most.
    """

    def __init__(
        self,
        owners: np.ndarray,
        partners: np.ndarray,
        count: int,
        length: int,
        dropped: float,
        most: int,
    ) -> None:
        self.length, self.dropped, self.most = length, dropped, most
        self._owners, self._partners = owners, partners
        counts = np.bincount(owners, minlength=count)
        self._counts = tf.constant(counts, tf.int64)
        self._starts = tf.constant(np.cumsum(counts) - counts, tf.int64)
        # One more, so that an owner without any can be looked up.
        self._sorted = tf.Variable(
            np.full(len(owners) + 1, _PAD), trainable=False, dtype=tf.int64
        )
        self.shuffle(0)

    def shuffle(self, seed: int) -> None:
        """Puts every owner's partners into an order that depends on the seed only."""
        keys = np.random.default_rng(seed).random(len(self._owners))
        order = np.lexsort((keys, self._owners))
        self._sorted.assign(np.append(self._partners[order], _PAD))

    def of_others(self, owners: tf.Tensor) -> tf.Tensor:
        """Returns `[B, most]` partners, padded with -1: for rows not in training."""
        return self._window(owners, tf.zeros_like(owners), self.most)

    def of_training(
        self, owners: tf.Tensor, own: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns `[B, length]` partners, padded with -1, and none is the row's own.

        Args:
            owners: int64 `[B]`.
            own: int64 `[B]`, the partner of each row itself.
            seed: int `[2]`.
        """
        shape = [tf.shape(owners)[0], self.length + 1]
        draws = tf.random.stateless_uniform(shape, seed)
        counts = tf.gather(self._counts, owners)
        # A window of the shuffled partners that starts anywhere.
        starts = tf.cast(draws[:, 0] * tf.cast(counts, tf.float32), tf.int64)
        window = self._window(owners, starts, self.length)
        kept = (window != own[:, tf.newaxis]) & (draws[:, 1:] >= self.dropped)
        return tf.where(kept, window, tf.constant(_PAD, tf.int64))

    def _window(self, owners: tf.Tensor, starts: tf.Tensor, size: int) -> tf.Tensor:
        counts = tf.gather(self._counts, owners)[:, tf.newaxis]
        steps = tf.range(size, dtype=tf.int64)[tf.newaxis]
        places = (starts[:, tf.newaxis] + steps) % tf.maximum(counts, 1)
        places += tf.gather(self._starts, owners)[:, tf.newaxis]
        found = tf.gather(self._sorted, places)
        return tf.where(steps < counts, found, tf.constant(_PAD, tf.int64))
