"""MovieLens as search requests: real people and ratings, derived queries.

MovieLens holds no searches. This module makes them from its ratings, by the way
product-search research (HEM, ZAM) makes queries out of the categories of what was
bought.

* Real: the people, the movies, the ratings and their times, hence every label,
  history and statistic.
* Derived: the queries (genres and decade of a movie that the user then liked) and
  the candidate lists (the movies that match the query).

Numbers measured here say how well a model orders matching movies for a person. They
do not say how well it answers words that people really typed.

The query gives part of the answer away. It is made of exactly the genres and the
decade of a movie that the user liked, while a candidate only has to have its genres. So
"the decade agrees" and "the genres are exactly those of the query" are facts about the
label, and a model may read them. On the test part of MovieLens-100K a list's share of
likes is .26 among the movies of the query's decade and .086 among the others. Without
any training, co-likes x (1 + the decade agrees) x (1 + the genres are equal) reaches an
NDCG@10 of .622 there, where co-likes alone has .560 (validation: .632 and .565).
`query_hint` is this score: measure a model beside it.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrs_prerank.datasets import _movielens_files as files
from tfrs_prerank.progress import track

if TYPE_CHECKING:
    from tfrs_prerank.features.documents import DocumentTable

SESSION_GAP = 30 * 60  # seconds; a longer pause starts a new session
LIKED = 4  # stars from which a rating is a like
SHORTEST_LIST = 5
POINT_IN_TIME_COLUMNS = ("popularity", "click_count", "like_rate")

_CLICK, _LIKE = 1, 2


@dataclass(frozen=True)
class MovieLensRequests:
    """Search requests in three parts, the movies they rank, and how they came about.

    Attributes:
        train: The first 80% of the requests, in time order, one dict each, but for
            those whose labels reach into the validation part.
        validation: The next 10%.
        test: The last 10%.
        documents: Every movie, with the point-in-time columns as they stood at the
            end of the training window: what an export uses.
        report: Counts, as plain numbers: requests made, kept and dropped by reason,
            sizes of the parts, mean list, share of new users in the test part.
    """

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]
    documents: "DocumentTable"
    report: dict[str, Any]


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    seed: int = 7,
    history: int = 50,
    max_candidates: int = 200,
    download: bool = False,
) -> MovieLensRequests:
    r"""Makes search requests out of MovieLens ratings.

    The people, movies, ratings and times are real. The queries and the candidate
    lists are derived from them.

    A request is one distinct (user, second, query) at which the user liked a movie,
    that is, rated it 4 or 5. Its parts:

    * `query`: that movie's genres and decade, such as `"comedy drama 1990s"`. Never
      its title.
    * Candidates: the movies that match, less those the user rated before that second.
      A movie matches when it has every genre of the query. The decade does not
      filter: it says what the user leaned to and is the model's to weigh, and so
      tells of the label; see `query_hint`. (On MovieLens-100K this puts the NDCG@10 of
      the likes near .22 for a random order, .48 for popularity, .56 for co-likes and
      .62 for the hint.)
    * `label/like` and `label/click`: rated 4-5, and rated at all, at that second or
      later in the same session. A session is a run of the user's ratings with pauses
      of at most 30 minutes.
    * `history`: what the user liked strictly before that second, the last first.
      Ratings of the same second count as future: labels perhaps, never history.

    Lists longer than `max_candidates` keep their likes, then their clicks, then a
    seeded random choice of the others; the order of every list is random. Lists under
    5 are dropped, as are lists without a like, and `report` counts both.

    Requests are split by one global time, 80/10/10. The training window ends with the
    first second of the validation part; a training list whose session runs on into
    that part is dropped and counted, since its labels do too. For a movie d and a
    request at t, with all counts over ratings made strictly before t and inside the
    training window:

    $$popularity = likes(d), \quad click\_count = ratings(d)$$
    $$like\_rate = (likes(d) + 1) / (ratings(d) + 2)$$
    $$co\_likes = \sum_{h \in history} n_{hd} / \sqrt{n_h n_d}$$

    where $n_{hd}$ is how many users liked both and $n_h$ how many liked h. A training
    row therefore never sees its own like or a later one, no label of the training part
    was made after its window, and validation and test rows see the counts that an
    export made after training would hold.

    MovieLens-100K takes about 5 seconds and 0.5 GB, 1M about a minute and 5 GB.

    Args:
        path: Folder with `u.data`, `u.item`, `u.user` (MovieLens-100K), with
            `ratings.dat`, `movies.dat`, `users.dat` (MovieLens-1M, Latin-1 or UTF-8),
            or with `ml-100k.inter`, `.item`, `.user` (as the package `recbole` has
            them). `None` tries the environment variable `TFRS_PRERANK_MOVIELENS`, the
            installed package `recbole`, and an earlier download, in this order.
        seed: Of the order of the candidates and the choice of those that stay.
        history: Most liked movies in a history.
        max_candidates: Longest list.
        download: Whether to fetch MovieLens-100K from GroupLens (5 MB) when no other
            source is there. Its terms allow research use and no redistribution.

    Returns:
        The requests. Each is a dict of `request_id`, `group_id` and `user_id` (both
        the user), `query`, `age` (bucket), `gender`, `occupation` (a code in 1M):
        strings; `time`: seconds; `history`: list of movie ids; and arrays of the
        list's length L: `doc_ids`, `popularity`, `click_count`, `like_rate`,
        `co_likes`, `label/click`, `label/like` (float32), `stage` (0) and `position`
        (-1, int32).

    Raises:
        FileNotFoundError: when there is no MovieLens; names the ways to get it.
        ConnectionError: when the download fails.
        ValueError: when an argument or a line of a file cannot be used, or there are
            too few requests to split.

    References:
        Ai et al., "Learning a Hierarchical Embedding Model for Personalized Product
        Search", SIGIR 2017 (HEM), section 4.1.
        Ai et al., "A Zero Attention Model for Personalized Product Search", CIKM 2019
        (ZAM).

    >>> import pathlib, tempfile
    >>> from tfrs_prerank.datasets import movielens
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> movies = range(1, 17)
    >>> comedy = "|".join("0000010000000000000")
    >>> item = "".join(f"{m}|Film {m} (1995)||||{comedy}\n" for m in movies)
    >>> data = "".join(f"1\t{m}\t5\t{3600 * m}\n" for m in movies)
    >>> _ = (folder / "u.item").write_text(item)
    >>> _ = (folder / "u.user").write_text("1|24|M|writer|00000\n")
    >>> _ = (folder / "u.data").write_text(data)
    >>> requests = movielens.load(folder)
    >>> requests.train[2]["query"], requests.train[2]["history"]
    ('comedy 1990s', ['2', '1'])
    >>> len(requests.train[0]["doc_ids"]), len(requests.train[2]["doc_ids"])
    (16, 14)
    >>> requests.report["requests_dropped"]
    {'under_5_candidates': 4, 'no_like': 0, 'labels_past_the_split': 0}
    """
    if max_candidates < SHORTEST_LIST:
        raise ValueError(
            f"max_candidates={max_candidates}: give at least {SHORTEST_LIST}, as "
            "shorter lists are dropped"
        )
    if history < 1:
        raise ValueError(f"history={history}: give at least 1")
    raw = files.read(path, download=download)
    return _build(raw, seed=seed, history=history, max_candidates=max_candidates)


def query_hint(batch: Mapping[str, Any]) -> np.ndarray:
    r"""Scores candidates by what the query tells of the label, without any training.

    $$co\_likes \cdot (1 + [decade \in query]) \cdot (1 + [genres = query's\ genres])$$

    Queries are made of a liked movie's own genres and decade, so this baseline profits
    from how they were made, as any model that reads both does. What a model gains over
    co-likes alone is in part this hint; what it gains over the hint is its own.

    Args:
        batch: `query` `[B]`, `decade` `[B, L]`, `genres` `[B, L, T]` (all of a movie's,
            filled up with `""`; six on MovieLens) and `co_likes` `[B, L]`: tensors or
            arrays.

    Returns:
        Scores float32 `[B, L]`, 0 for a candidate without co-likes and for padding.

    Raises:
        KeyError: the batch lacks a column.
        ValueError: `genres` holds one value for each candidate only.

    >>> import numpy as np
    >>> from tfrs_prerank.datasets import movielens
    >>> batch = {
    ...     "query": np.array(["comedy 1990s"]),
    ...     "decade": np.array([["1990s", "1980s", "1990s"]]),
    ...     "genres": np.array([[["comedy", ""], ["comedy", ""], ["comedy", "war"]]]),
    ...     "co_likes": np.array([[0.5, 0.5, 0.25]]),
    ... }
    >>> movielens.query_hint(batch).tolist()
    [[2.0, 1.0, 0.5]]
    """
    for name in ("query", "decade", "genres", "co_likes"):
        if name not in batch:
            raise KeyError(
                f"the batch has no column {name!r}, which query_hint reads; declare it "
                "in the schema"
            )
    queries, decades, genres = (
        np.asarray(batch[name]) for name in ("query", "decade", "genres")
    )
    if genres.ndim != 3:
        raise ValueError(
            f"genres has shape {genres.shape}, query_hint compares sets [B, L, T]; "
            "declare it with max_values=6"
        )
    scores = np.array(batch["co_likes"], np.float32)
    for row, query in enumerate(queries.tolist()):
        words = set(_text(query).split())
        agrees = [_text(decade) in words for decade in decades[row].tolist()]
        equal = [
            # The query is the genres and a decade, of any movie.
            len(words) == len(own) + 1 and own < words
            for own in (
                {_text(genre) for genre in some} - {""} for some in genres[row].tolist()
            )
        ]
        scores[row] *= (1 + np.array(agrees)) * (1 + np.array(equal))
    return scores


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True)
class _Query:
    text: str
    genres: tuple[str, ...]


@dataclass(frozen=True)
class _List:
    """A request before statistics; users and movies as row numbers."""

    time: int
    user: int
    number: int  # among the lists of the same user and second
    query: _Query
    candidates: np.ndarray  # [L] int32
    labels: np.ndarray  # [L] int8: 0, _CLICK or _LIKE
    history: np.ndarray  # [H] int32, most recent first
    last_label_time: int  # last rating of the session
    matches: int  # candidates, clicks and likes before the list was cut
    clicks: int
    likes: int


def _build(
    raw: files.RawMovieLens, *, seed: int, history: int, max_candidates: int
) -> MovieLensRequests:
    counts: Counter[str] = Counter()
    rng = np.random.default_rng(seed)
    lists = sorted(
        _lists(raw, rng, counts, history=history, max_candidates=max_candidates),
        key=lambda made: (made.time, made.user, made.number),
    )
    window_end, test_start = _split_times(raw.source, lists)
    lists = _without_late_labels(raw.source, lists, window_end, counts)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    statistics = _Statistics(raw, window_end)
    for made in track(lists, "MovieLens: statistics at each request"):
        if made.time < window_end:
            part = "train"
        else:
            part = "validation" if made.time < test_start else "test"
        statistics.advance(made.time)
        parts[part].append(_record(raw, made, statistics))
    return MovieLensRequests(
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        documents=_documents(raw, statistics),
        report=_report(raw, lists, counts, window_end, test_start),
    )


def _decade(year: int) -> str:
    return f"{year // 10 * 10}s" if year >= 0 else ""


def _queries(raw: files.RawMovieLens) -> list[_Query | None]:
    """The query that each movie makes; none without a genre or a year."""
    return [
        _Query(" ".join((*genres, _decade(year))), genres)
        if genres and year >= 0
        else None
        for genres, year in zip(raw.genres, raw.years.tolist(), strict=True)
    ]


def _matches(wanted: set[str], own: set[str]) -> bool:
    """Whether a movie has every genre of a query; see `load` on the decade."""
    return wanted <= own


def _lists(
    raw: files.RawMovieLens,
    rng: np.random.Generator,
    counts: Counter[str],
    *,
    history: int,
    max_candidates: int,
) -> Iterator[_List]:
    """Yields the kept lists user by user, and counts what was dropped or cut."""
    queries = _queries(raw)
    genre_sets = [set(genres) for genres in raw.genres]

    @cache
    def matching(genres: tuple[str, ...]) -> np.ndarray:
        wanted = set(genres)
        return np.array([_matches(wanted, own) for own in genre_sets])

    # Rows are in time order, so a stable sort by user keeps each user's own order.
    by_user = np.argsort(raw.rating_user, kind="stable")
    starts = np.searchsorted(
        raw.rating_user[by_user], np.arange(len(raw.user_ids) + 1), side="left"
    )
    labels = np.zeros(len(raw.movie_ids), np.int8)
    for user in track(range(len(raw.user_ids)), "MovieLens: candidate lists"):
        rows = by_user[starts[user] : starts[user + 1]]
        times = raw.rating_time[rows]
        movies = raw.rating_movie[rows].astype(np.int32)
        liked = raw.rating_stars[rows] >= LIKED
        session = np.cumsum(np.diff(times, prepend=times[:1]) > SESSION_GAP)
        made: set[tuple[int, _Query]] = set()
        numbers: Counter[int] = Counter()
        for row in np.flatnonzero(liked):
            time, query = int(times[row]), queries[movies[row]]
            if query is None:
                counts["likes_without_query"] += 1
                continue
            if (time, query) in made:
                continue
            made.add((time, query))
            counts["requests_made"] += 1
            now = int(np.searchsorted(times, time, side="left"))
            end = int(np.searchsorted(session, session[row], side="right"))
            candidate = matching(query.genres).copy()
            candidate[movies[:now]] = False
            candidates = np.flatnonzero(candidate).astype(np.int32)
            labels[movies[now:end]] = np.where(liked[now:end], _LIKE, _CLICK)
            # Movie ids follow popularity, so a list in their order would tell.
            candidates = rng.permutation(candidates)
            own = labels[candidates]
            labels[movies[now:end]] = 0
            if len(candidates) < SHORTEST_LIST:
                counts["under_5_candidates"] += 1
                continue
            # The liked movie matches its own query, so this counts 0 unless matching
            # changes; a list that teaches nothing must not slip through then.
            clicks, likes = int((own > 0).sum()), int((own == _LIKE).sum())
            if likes == 0:
                counts["no_like"] += 1
                continue
            matches = len(candidates)
            if matches > max_candidates:
                best = np.argsort(-own, kind="stable")[:max_candidates]
                # A new order: in the old one the others that stay come first.
                best = rng.permutation(best)
                candidates, own = candidates[best], own[best]
            before = movies[:now][liked[:now]]
            yield _List(
                time=time,
                user=user,
                number=numbers[time],
                query=query,
                candidates=candidates,
                labels=own,
                history=before[::-1][:history].copy(),
                last_label_time=int(times[end - 1]),
                matches=matches,
                clicks=clicks,
                likes=likes,
            )
            numbers[time] += 1


def _split_times(source: str, lists: Sequence[_List]) -> tuple[int, int]:
    """First second of the validation part and first second of the test part.

    Requests of one second stay together, so that "before" means the same to all.
    """
    if lists:
        first = lists[0].time
        window_end = lists[len(lists) * 8 // 10].time
        test_start = lists[len(lists) * 9 // 10].time
        if first < window_end < test_start:
            return window_end, test_start
    raise ValueError(
        f"{source}: {len(lists)} usable requests cannot be split by time into "
        "80/10/10; give more ratings"
    )


def _without_late_labels(
    source: str, lists: Sequence[_List], window_end: int, counts: Counter[str]
) -> list[_List]:
    """Drops training lists whose session, and so whose labels, pass the window's end.

    The borders stay where they were: they depend on times, not on labels.
    """
    kept = [
        made
        for made in lists
        if made.time >= window_end or made.last_label_time < window_end
    ]
    counts["labels_past_the_split"] = len(lists) - len(kept)
    if kept[0].time >= window_end:
        raise ValueError(
            f"{source}: no training request is left, as the sessions of all "
            f"{len(lists) - len(kept)} run on into the validation part; give ratings "
            "over a longer time"
        )
    return kept


class _Statistics:
    """Counts over the ratings made before a moment and inside the training window."""

    def __init__(self, raw: files.RawMovieLens, window_end: int):
        movies = len(raw.movie_ids)
        self._raw = raw
        self._window_end = window_end
        self._next = 0
        self._liked_by = [np.zeros(0, np.int64)] * len(raw.user_ids)
        self.clicks = np.zeros(movies, np.int64)
        self.likes = np.zeros(movies, np.int64)
        self._pairs = np.zeros((movies, movies), np.int32)  # users who liked both

    def advance(self, time: int) -> None:
        """Adds every rating made strictly before `time`."""
        raw = self._raw
        stop = int(
            np.searchsorted(raw.rating_time, min(time, self._window_end), side="left")
        )
        for row in range(self._next, stop):
            movie = raw.rating_movie[row]
            self.clicks[movie] += 1
            if raw.rating_stars[row] < LIKED:
                continue
            self.likes[movie] += 1
            user = raw.rating_user[row]
            others = self._liked_by[user]
            # A user's liked movies are distinct, so plain indexed adds are safe.
            self._pairs[movie, others] += 1
            self._pairs[others, movie] += 1
            self._liked_by[user] = np.append(others, movie)
        self._next = max(self._next, stop)

    def like_rate(self, movies: np.ndarray) -> np.ndarray:
        """Share of likes among ratings, pulled to one half where there are few."""
        return (self.likes[movies] + 1.0) / (self.clicks[movies] + 2.0)

    def co_likes(self, history: np.ndarray, movies: np.ndarray) -> np.ndarray:
        """Cosine-normalised pair counts with the history, summed over it."""
        together = self._pairs[np.ix_(history, movies)]
        # No likes means no pairs either: dividing by 1 leaves 0.
        left = 1.0 / np.sqrt(np.maximum(self.likes[history], 1))
        right = 1.0 / np.sqrt(np.maximum(self.likes[movies], 1))
        return (left @ together) * right

    def columns(self, movies: np.ndarray) -> dict[str, np.ndarray]:
        """The point-in-time columns of `movies` as they stand now."""
        values = (self.likes[movies], self.clicks[movies], self.like_rate(movies))
        return {
            name: value.astype(np.float32)
            for name, value in zip(POINT_IN_TIME_COLUMNS, values, strict=True)
        }


@cache
def _constant(value: int, length: int) -> np.ndarray:
    """One read-only array for all lists of a length."""
    array = np.full(length, value, np.int32)
    array.flags.writeable = False
    return array


def _record(
    raw: files.RawMovieLens, made: _List, statistics: _Statistics
) -> dict[str, Any]:
    movies, length = made.candidates, len(made.candidates)
    user = raw.user_ids[made.user]
    return {
        "request_id": f"{user}-{made.time}-{made.number}",
        "group_id": user,
        "time": made.time,
        "user_id": user,
        "query": made.query.text,
        "age": raw.ages[made.user],
        "gender": raw.genders[made.user],
        "occupation": raw.occupations[made.user],
        "history": raw.movie_ids[made.history].tolist(),
        "doc_ids": raw.movie_ids[movies],
        **statistics.columns(movies),
        "co_likes": statistics.co_likes(made.history, movies).astype(np.float32),
        "label/click": (made.labels > 0).astype(np.float32),
        "label/like": (made.labels == _LIKE).astype(np.float32),
        "stage": _constant(0, length),
        "position": _constant(-1, length),
    }


def _documents(raw: files.RawMovieLens, statistics: _Statistics) -> "DocumentTable":
    from tfrs_prerank.features.documents import DocumentTable

    return DocumentTable(
        ids=raw.movie_ids,
        columns={
            "movie_id": raw.movie_ids,
            "title": raw.titles,
            "genres": [list(genres) for genres in raw.genres],
            "year": raw.years,
            "decade": [_decade(year) for year in raw.years.tolist()],
            **statistics.columns(np.arange(len(raw.movie_ids))),
        },
    )


def _report(
    raw: files.RawMovieLens,
    lists: Sequence[_List],
    counts: Counter[str],
    window_end: int,
    test_start: int,
) -> dict[str, Any]:
    times = np.array([made.time for made in lists])
    users = np.array([made.user for made in lists])
    in_test = times >= test_start
    test_users = set(users[in_test].tolist())
    new = test_users - set(users[times < window_end].tolist())
    return {
        "source": raw.source,
        "users": len(raw.user_ids),
        "movies": len(raw.movie_ids),
        "ratings": len(raw.rating_time),
        "likes": int((raw.rating_stars >= LIKED).sum()),
        # The movie has no genre or no year.
        "likes_without_query": counts["likes_without_query"],
        "requests_made": counts["requests_made"],
        "requests_kept": len(lists),
        # The last: training lists with a session that runs on into validation.
        "requests_dropped": {
            reason: counts[reason]
            for reason in ("under_5_candidates", "no_like", "labels_past_the_split")
        },
        "splits": {
            "train": int((times < window_end).sum()),
            "validation": int(((times >= window_end) & ~in_test).sum()),
            "test": int(in_test.sum()),
        },
        "validation_starts": window_end,
        "test_starts": test_start,
        "mean_candidates": float(np.mean([len(made.labels) for made in lists])),
        "mean_likes": float(np.mean([(made.labels == _LIKE).sum() for made in lists])),
        "mean_clicks": float(np.mean([(made.labels > 0).sum() for made in lists])),
        "lists_cut": sum(made.matches > len(made.labels) for made in lists),
        "lists_with_clicks_cut": sum(made.clicks > len(made.labels) for made in lists),
        "lists_with_likes_cut": sum(made.likes > len(made.labels) for made in lists),
        "test_users": len(test_users),
        # Share of the test users without a request in the training part.
        "new_test_user_share": len(new) / len(test_users),
    }
