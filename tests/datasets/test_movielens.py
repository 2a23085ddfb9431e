"""Every clause of the MovieLens request protocol, on made-up and on real files."""

import dataclasses
import importlib.util
import math
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.datasets.movielens_files import (
    Movie,
    Rating,
    User,
    write_1m,
    write_100k,
    write_recbole,
)
from tfrs_prerank.datasets import _movielens_files, movielens

USERS = [User(1), User(2)]
COMEDIES = [Movie(m) for m in range(1, 9)]

# A last user likes 20 westerns, an hour apart, long after everything else: each in a
# session of its own. The lists hold 20, 19, ... movies, so 16 are kept: enough for a
# split that leaves the requests under test in the train part, and nothing that touches
# comedies.
LATE, HOUR = 10_000_000, 3600
WESTERNS = [Movie(m, "Western") for m in range(101, 121)]
WESTERN_USER = User(99)
WESTERN_RATINGS = [Rating(99, 100 + n, 5, LATE + HOUR * n) for n in range(1, 21)]


def load(tmp_path, ratings, movies=COMEDIES, users=USERS, **options):
    """Loads the given rows together with the late westerns."""
    folder = write_100k(
        tmp_path / "data",
        [*users, WESTERN_USER],
        [*movies, *WESTERNS],
        [*ratings, *WESTERN_RATINGS],
    )
    return movielens.load(folder, **options)


def of_user(requests, user="1"):
    parts = (*requests.train, *requests.validation, *requests.test)
    return [request for request in parts if request["user_id"] == user]


def labelled(request, label):
    return set(request["doc_ids"][request[label] == 1].tolist())


def test_labels_come_from_the_same_session_at_or_after_the_second(tmp_path):
    requests = load(
        tmp_path,
        [
            Rating(1, 1, 5, 0),
            Rating(1, 2, 4, 1800),  # a pause of exactly 30 minutes: same session
            Rating(1, 3, 2, 1801),
            Rating(1, 4, 5, 3602),  # a pause of 30 minutes and a second: a new one
        ],
    )
    first, second, third = of_user(requests)
    assert [r["time"] for r in (first, second, third)] == [0, 1800, 3602]
    assert labelled(first, "label/click") == {"1", "2", "3"}
    assert labelled(first, "label/like") == {"1", "2"}
    assert labelled(second, "label/click") == {"2", "3"}
    assert labelled(second, "label/like") == {"2"}
    assert labelled(third, "label/click") == labelled(third, "label/like") == {"4"}


def test_movies_rated_earlier_leave_the_candidates_and_liked_ones_are_history(tmp_path):
    requests = load(
        tmp_path,
        [
            Rating(1, 1, 5, 0),
            Rating(1, 2, 3, 100),  # rated, not liked: leaves, but is no history
            Rating(1, 3, 4, 200),
            Rating(1, 4, 5, 300),
        ],
    )
    first, second, third = of_user(requests)
    assert set(first["doc_ids"]) == {"1", "2", "3", "4", "5", "6", "7", "8"}
    assert set(second["doc_ids"]) == {"3", "4", "5", "6", "7", "8"}
    assert set(third["doc_ids"]) == {"4", "5", "6", "7", "8"}
    assert first["history"] == []
    assert second["history"] == ["1"]
    assert third["history"] == ["3", "1"]  # most recent first


def test_history_is_cut_to_the_most_recent(tmp_path):
    ratings = [Rating(1, m, 5, 100 * m) for m in range(1, 5)]
    requests = load(tmp_path, ratings, history=2)
    assert of_user(requests)[3]["history"] == ["3", "2"]


def test_ratings_of_the_same_second_are_future(tmp_path):
    requests = load(
        tmp_path,
        [
            Rating(1, 4, 5, 50),
            Rating(1, 1, 5, 100),
            Rating(1, 2, 4, 100),
            Rating(1, 3, 1, 100),
        ],
    )
    _, tied = of_user(requests)  # movies 1 and 2 make one query: one request
    assert tied["history"] == ["4"]
    assert set(tied["doc_ids"]) == {"1", "2", "3", "5", "6", "7", "8"}
    assert labelled(tied, "label/like") == {"1", "2"}
    assert labelled(tied, "label/click") == {"1", "2", "3"}
    # Nor do they count in each other's statistics: before second 100 only movie 4 was
    # liked, and it has left.
    assert tied["popularity"].sum() == tied["co_likes"].sum() == 0


def test_queries_are_distinct_by_user_second_and_query(tmp_path):
    movies = [
        *COMEDIES,
        *(Movie(m, "Drama|Comedy", 1988) for m in range(11, 17)),
        Movie(17, "Drama", 1988),
    ]
    requests = load(
        tmp_path,
        [
            Rating(1, 1, 5, 100),
            Rating(1, 2, 5, 100),
            Rating(1, 11, 5, 100),
            Rating(1, 3, 5, 101),
            Rating(2, 1, 5, 100),
        ],
        movies,
    )
    made = [(r["time"], r["query"]) for r in of_user(requests)]
    assert sorted(made) == [
        (100, "comedy 1990s"),
        (100, "comedy drama 1980s"),
        (101, "comedy 1990s"),
    ]
    assert [r["query"] for r in of_user(requests, "2")] == ["comedy 1990s"]
    ids = [r["request_id"] for r in of_user(requests)]
    assert len(set(ids)) == 3


def test_candidates_have_every_genre_of_the_query_and_any_decade(tmp_path):
    movies = [
        *(Movie(m, "Comedy|Drama", 1971) for m in range(1, 4)),
        *(Movie(m, "Comedy|Drama|War", 1995) for m in range(4, 7)),
        Movie(7, "Comedy", 1995),
        Movie(8, "Drama|War", 1995),
    ]
    (request,) = of_user(load(tmp_path, [Rating(1, 1, 5, 0)], movies))
    assert request["query"] == "comedy drama 1970s"
    assert set(request["doc_ids"]) == {"1", "2", "3", "4", "5", "6"}


def test_short_lists_and_movies_without_query_are_counted(tmp_path):
    movies = [
        *(Movie(m, "Comedy") for m in range(1, 6)),
        *(Movie(m, "War") for m in range(6, 10)),
        Movie(10, "Comedy", None),
        Movie(11, "unknown", 1995),
    ]
    requests = load(
        tmp_path,
        [
            Rating(1, 1, 5, 0),  # 6 comedies match: kept (movie 10 has no year)
            Rating(1, 2, 5, 1),  # 5 left: kept
            Rating(1, 3, 5, 2),  # 4 left: dropped
            Rating(1, 6, 5, 3),  # 4 war films: dropped
            Rating(1, 10, 5, 4),  # no year: no query
            Rating(1, 11, 5, 5),  # no genre: no query
        ],
        movies,
    )
    assert [len(r["doc_ids"]) for r in of_user(requests)] == [6, 5]
    report = requests.report
    # The westerns make 20 requests, of which the last 4 have under 5 candidates.
    assert report["requests_made"] == 4 + 20
    assert report["requests_kept"] == 2 + 16
    assert report["requests_dropped"] == {
        "under_5_candidates": 2 + 4,
        "no_like": 0,
        "labels_past_the_split": 0,
    }
    assert report["likes_without_query"] == 2


def test_lists_without_a_like_are_dropped_and_counted(tmp_path, monkeypatch):
    # Under the real rule a liked movie matches its own query. Under this one the
    # comedy query finds war films only.
    def matches(wanted, own):
        return own == {"war"} if wanted == {"comedy"} else wanted <= own

    monkeypatch.setattr(movielens, "_matches", matches)
    movies = [*COMEDIES, *(Movie(m, "War") for m in range(11, 17))]
    requests = load(tmp_path, [Rating(1, 1, 5, 0), Rating(1, 11, 2, 1)], movies)
    assert of_user(requests) == []
    assert requests.report["requests_dropped"]["no_like"] == 1


def test_the_cap_keeps_likes_then_clicks_then_a_seeded_choice(tmp_path):
    movies = [Movie(m) for m in range(1, 31)]
    ratings = [Rating(1, m, 5, m) for m in (7, 19, 30)] + [Rating(1, 12, 2, 40)]
    rests, places = set(), []
    for seed in range(60):
        requests = load(tmp_path, ratings, movies, seed=seed, max_candidates=6)
        first = of_user(requests)[0]
        ids = first["doc_ids"].tolist()
        assert len(ids) == len(set(ids)) == 6
        assert labelled(first, "label/like") == {"7", "19", "30"}
        assert labelled(first, "label/click") == {"7", "12", "19", "30"}
        rests.add(frozenset(set(ids) - {"7", "12", "19", "30"}))
        places += [ids.index(liked) for liked in ("7", "19", "30")]
    assert len(rests) > 30  # 60 draws of 2 out of 26
    # Likes stand anywhere in the list, 2.5 on average. The standard error of the mean
    # of 60 lists is under .15.
    assert set(places) == set(range(6))
    assert np.mean(places) == pytest.approx(2.5, abs=0.45)
    again = load(tmp_path, ratings, movies, seed=59, max_candidates=6)
    assert of_user(again)[0]["doc_ids"].tolist() == ids


def test_likes_and_clicks_beyond_the_cap_are_reported(tmp_path):
    ratings = [Rating(1, m, 5, m) for m in range(1, 7)] + [Rating(1, 7, 1, 9)]
    requests = load(tmp_path, ratings, max_candidates=5)
    first = of_user(requests)[0]
    assert first["label/like"].tolist() == [1.0] * 5
    # Of 8 candidates: request 1 holds 6 likes of 7 clicks; request 2 (7 candidates)
    # 5 of 6; requests 3 (6 candidates) and 4 (5) fit their 5 and 4 clicks.
    # Westerns: 15 of the 16 lists hold more than 5 movies, one of them a like.
    assert requests.report["lists_cut"] == 3 + 15
    assert requests.report["lists_with_clicks_cut"] == 2
    assert requests.report["lists_with_likes_cut"] == 1


def test_the_split_is_by_time_and_keeps_a_second_together(tmp_path):
    def hours(part):
        return [(request["time"] - LATE) / HOUR for request in part]

    requests = load(tmp_path, [])
    # 16 requests: 16 * 8 // 10 = 12 and 16 * 9 // 10 = 14 come before the borders.
    assert hours(requests.train) == list(range(1, 13))
    assert hours(requests.validation) == [13, 14]
    assert hours(requests.test) == [15, 16]
    assert requests.report["splits"] == {"train": 12, "validation": 2, "test": 2}
    # With one more request, 13 (17 * 8 // 10) would come before the border, but the
    # 13th and the 14th are of one second: both stay out of the train part.
    tied = load(tmp_path, [Rating(1, 1, 5, LATE + 13 * HOUR)])
    assert tied.report["validation_starts"] == LATE + 13 * HOUR
    assert [r["user_id"] for r in tied.validation] == ["1", "99", "99"]
    assert tied.report["splits"] == {"train": 12, "validation": 3, "test": 2}


@pytest.mark.parametrize(
    ("last", "dropped"),
    [
        (-1, 0),  # the session ends a second before the validation part
        (0, 2),  # it runs on into its first second: the labels of both lists do too
    ],
)
def test_training_lists_with_labels_of_the_validation_part_are_dropped(
    tmp_path, last, dropped
):
    # 18 lists: 18 * 8 // 10 = 14 come before the border, of which 2 are user 1's and
    # 12 westerns, so it is at hour 13. The rating at the end makes no request.
    border = LATE + 13 * HOUR
    ratings = [
        Rating(1, 1, 5, border - 1200),
        Rating(1, 2, 5, border - 600),
        Rating(1, 3, 1, border + last),
        Rating(2, 1, 1, border - 1200),  # nor do sessions without a list count
        Rating(2, 2, 1, border),
    ]
    requests = load(tmp_path, ratings)
    report = requests.report
    assert report["validation_starts"] == border
    assert report["requests_dropped"]["labels_past_the_split"] == dropped
    assert report["requests_kept"] == 18 - dropped
    assert report["splits"] == {"train": 14 - dropped, "validation": 2, "test": 2}
    assert [len(requests.train), len(of_user(requests))] == [14 - dropped, 2 - dropped]
    # A list of 8 and one of 7 candidates, beside lists of 20, 19, ... 5.
    sizes = [*range(5, 21), *([] if dropped else [8, 7])]
    assert report["mean_candidates"] == pytest.approx(np.mean(sizes))


def test_a_session_across_the_second_border_stays(tmp_path):
    # Only training must not see later labels. User 1's session runs from the
    # validation part (hours 13 and 14 of the westerns) into the test part (from 15).
    ratings = [
        Rating(1, 1, 5, LATE + 15 * HOUR - 60),
        Rating(1, 2, 1, LATE + 15 * HOUR + 60),
    ]
    requests = load(tmp_path, ratings)
    assert requests.report["test_starts"] == LATE + 15 * HOUR
    assert requests.validation[-1]["user_id"] == "1"
    assert requests.report["requests_dropped"]["labels_past_the_split"] == 0


def test_without_a_training_list_the_error_says_why(tmp_path):
    ratings = [Rating(99, 100 + n, 5, 60 * n) for n in range(1, 21)]  # one session
    write_100k(tmp_path, [WESTERN_USER], WESTERNS, ratings)
    with pytest.raises(ValueError, match="the sessions of all 12 run on into the"):
        movielens.load(tmp_path)


def test_statistics_stop_at_the_end_of_the_training_window(tmp_path):
    # Validation starts at hour 13 (see the split test). User 2 likes western 120 a
    # second before it, and rates 119 at it and 118 after it, which makes no requests.
    border = LATE + 13 * HOUR
    ratings = [
        Rating(2, 120, 5, border - 1),
        Rating(2, 119, 1, border),
        Rating(2, 118, 1, border + 1),
    ]
    requests = load(tmp_path, ratings)
    assert requests.report["validation_starts"] == border
    # User 99 liked 101 to 112 before; movie 113 is the one liked at the border.
    snapshot = requests.documents
    row = {key: n for n, key in enumerate(snapshot.ids.tolist())}
    for column, movie, value in [
        ("popularity", "112", 1),
        ("popularity", "113", 0),
        ("popularity", "120", 1),
        ("click_count", "119", 0),
        ("like_rate", "112", 2 / 3),  # (1 + 1) / (1 + 2)
        ("like_rate", "113", 1 / 2),  # (0 + 1) / (0 + 2)
    ]:
        assert snapshot.columns[column][row[movie]] == pytest.approx(value), movie
    for request in (*requests.validation, *requests.test):
        rows = [row[key] for key in request["doc_ids"].tolist()]
        for column in movielens.POINT_IN_TIME_COLUMNS:
            np.testing.assert_array_equal(
                request[column], snapshot.columns[column][rows]
            )


def test_co_likes_by_hand(tmp_path):
    requests = load(
        tmp_path,
        [
            Rating(2, 1, 5, 0),
            Rating(2, 2, 5, 1),
            Rating(2, 3, 5, 2),
            Rating(3, 1, 5, 3),
            Rating(3, 3, 5, 4),
            Rating(1, 1, 5, 10),
            Rating(1, 2, 5, 11),
            Rating(1, 4, 5, 12),
        ],
        users=(User(1), User(2), User(3)),
    )
    last = of_user(requests)[-1]
    assert last["history"] == ["2", "1"]
    scores = dict(zip(last["doc_ids"].tolist(), last["co_likes"].tolist(), strict=True))
    # Likes before second 12: movie 1 three (users 1-3), 2 two (1, 2), 3 two (2, 3).
    # Pairs: (1, 3) by users 2 and 3; (2, 3) by user 2.
    assert scores["3"] == pytest.approx(2 / math.sqrt(3 * 2) + 1 / math.sqrt(2 * 2))
    assert scores["4"] == 0  # its only like is this very second


def test_the_hint_of_the_query_by_hand():
    batch = {
        "query": [b"comedy drama 1990s", "war 1980s"],
        # Both agree; only the decade; only the genres; neither.
        "decade": [[b"1990s", b"1990s", b"1970s", b""], ["1980s", "1970s", "", ""]],
        "genres": [
            [
                [b"drama", b"comedy", b""],
                [b"comedy", b"drama", b"war"],
                [b"comedy", b"drama", b""],
                [b"comedy", b"", b""],
            ],
            [["war", "", ""], ["war", "drama", ""], ["", "", ""], ["", "", ""]],
        ],
        "co_likes": [[0.5, 0.5, 0.25, 3.0], [0.0, 1.5, 0.0, 0.0]],
    }
    arrays = {
        name: np.array(value, None if name == "co_likes" else object)
        for name, value in batch.items()
    }
    hint = movielens.query_hint(arrays)
    assert hint.dtype == np.float32
    # 0.5 * 2 * 2, 0.5 * 2, 0.25 * 2, 3; 0 * 2 * 2, 1.5, padding.
    assert hint.tolist() == [[2.0, 1.0, 0.5, 3.0], [0.0, 1.5, 0.0, 0.0]]
    assert arrays["co_likes"].tolist() == batch["co_likes"]  # it is not written over
    tensors = {
        name: tf.constant(value if name == "co_likes" else value.tolist())
        for name, value in arrays.items()
    }
    np.testing.assert_array_equal(movielens.query_hint(tensors), hint)


def test_the_hint_names_what_it_lacks():
    batch = {
        "query": np.array(["war 1980s"]),
        "decade": np.array([["1980s"]]),
        "genres": np.array([["war"]]),
        "co_likes": np.array([[1.0]]),
    }
    with pytest.raises(ValueError, match="declare it with max_values=6"):
        movielens.query_hint(batch)
    del batch["decade"]
    with pytest.raises(KeyError, match="no column 'decade', which query_hint reads"):
        movielens.query_hint(batch)


def random_rows(seed):
    """Busy made-up people: ties, repeats of seconds, sessions of all lengths."""
    rng = random.Random(seed)
    kinds = ["Comedy", "Drama", "Comedy|Drama", "War", "Comedy|War"]
    movies = [Movie(m, rng.choice(kinds), rng.choice([1988, 1995])) for m in range(40)]
    movies[3] = Movie(3, "unknown", None)
    users = [User(u) for u in range(1, 16)]
    ratings = []
    for user in users:
        time = rng.randrange(20_000)
        for movie in rng.sample(range(40), 20):
            time += rng.choice([0, 0, 5, 600, 1800, 1801, 4000])
            ratings.append(Rating(user.id, movie, rng.randint(1, 5), time))
    return users, movies, ratings


@pytest.mark.parametrize("seed", [0, 2])
def test_everything_equals_a_slow_recount(tmp_path, seed):
    users, movies, ratings = random_rows(seed)
    requests = movielens.load(
        write_100k(tmp_path, users, movies, ratings), history=7, max_candidates=200
    )
    genres = {str(m.id): set(m.genres.lower().split("|")) for m in movies}
    window_end = requests.report["validation_starts"]
    expected, kept = set(), {}
    for rating in ratings:
        movie = movies[rating.movie]
        if rating.stars >= 4 and movie.year is not None:
            decade = f"{movie.year // 10 * 10}s"
            query = " ".join([*sorted(genres[str(movie.id)]), decade])
            expected.add((str(rating.user), rating.time, query))
    everything = (*requests.train, *requests.validation, *requests.test)
    for request in everything:
        kept[(request["user_id"], request["time"], request["query"])] = request
    assert len(kept) == len(everything) > 50
    short = late = 0
    for user, time, query in expected:
        mine = [r for r in ratings if str(r.user) == user]
        earlier = {str(r.movie) for r in mine if r.time < time}
        wanted = set(query.split()[:-1])
        candidates = {m for m in genres if wanted <= genres[m]} - earlier
        if len(candidates) < 5:
            short += 1
            assert (user, time, query) not in kept
            continue
        # The session goes on while the next rating is at most 30 minutes away.
        session, last = [], time
        for r in sorted(mine, key=lambda r: r.time):
            if r.time >= time and r.time - last <= 1800:
                session.append(r)
                last = r.time
        if time < window_end <= last:
            late += 1
            assert (user, time, query) not in kept
            continue
        request = kept[(user, time, query)]
        assert set(request["doc_ids"].tolist()) == candidates
        clicks = {str(r.movie) for r in session} & candidates
        likes = {str(r.movie) for r in session if r.stars >= 4} & candidates
        assert labelled(request, "label/click") == clicks
        assert labelled(request, "label/like") == likes
        liked = sorted(
            (r.time, r.movie) for r in mine if r.time < time and r.stars >= 4
        )
        assert request["history"] == [str(m) for _, m in reversed(liked)][:7]
        # Every statistic from the raw rows, one document at a time.
        before = [r for r in ratings if r.time < min(time, window_end)]
        fans = {
            m: {r.user for r in before if str(r.movie) == m and r.stars >= 4}
            for m in genres
        }
        for n, doc in enumerate(request["doc_ids"].tolist()):
            clicked = sum(str(r.movie) == doc for r in before)
            assert request["popularity"][n] == len(fans[doc])
            assert request["click_count"][n] == clicked
            rate = (len(fans[doc]) + 1) / (clicked + 2)
            assert request["like_rate"][n] == pytest.approx(rate)
            score = sum(
                len(fans[h] & fans[doc]) / math.sqrt(len(fans[h]) * len(fans[doc]))
                for h in request["history"]
                if fans[h] and fans[doc]
            )
            assert request["co_likes"][n] == pytest.approx(score, abs=1e-6)
    assert requests.report["requests_dropped"] == {
        "under_5_candidates": short,
        "no_like": 0,
        "labels_past_the_split": late,
    }
    assert min(short, late) > 0
    assert len(expected) == requests.report["requests_made"]


def test_a_record_carries_the_batch_contract(tmp_path):
    user = User(1, age=52, gender="M", occupation="doctor")
    (request,) = of_user(load(tmp_path, [Rating(1, 1, 5, 30)], users=(user,)))
    assert request["request_id"] == "1-30-0"
    assert request["group_id"] == request["user_id"] == "1"
    assert (request["age"], request["gender"]) == ("50-55", "M")
    assert request["occupation"] == "doctor"
    assert type(request["time"]) is int
    assert request["doc_ids"].dtype.kind == "U"
    for name in ("popularity", "click_count", "like_rate", "co_likes"):
        assert request[name].dtype == np.float32
    assert request["label/like"].dtype == request["label/click"].dtype == np.float32
    assert request["stage"].tolist() == [0] * 8
    assert request["position"].tolist() == [-1] * 8
    assert request["stage"].dtype == request["position"].dtype == np.int32


def test_documents_hold_every_movie_once(tmp_path):
    movies = [*COMEDIES, Movie(9, "War|Drama", 2001, "Été"), Movie(10, "unknown", None)]
    table = load(tmp_path, [], movies).documents
    assert table.ids.tolist() == [str(m) for m in (*range(1, 11), *range(101, 121))]
    assert list(table.columns["movie_id"]) == table.ids.tolist()
    assert table.columns["title"][8:10] == ["Été", "Film 10"]
    assert table.columns["genres"][8:10] == [["drama", "war"], []]
    assert table.columns["year"].tolist()[8:10] == [2001, -1]
    assert table.columns["decade"][8:10] == ["2000s", ""]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_all_formats_give_the_same_requests(tmp_path, encoding):
    users, movies, ratings = random_rows(2)
    movies[5] = Movie(5, "Comedy", 1995, "L'Été à Nîmes")
    first = movielens.load(
        write_100k(tmp_path / "a", users, movies, ratings, encoding=encoding)
    )
    random.Random(0).shuffle(ratings)  # nor does the order of the rows matter
    others = [write_1m(tmp_path / "b", users, movies, ratings, encoding=encoding)]
    if encoding == "utf-8":  # recbole's own file is UTF-8
        others.append(write_recbole(tmp_path / "c", users, movies, ratings))
    for folder in others:
        assert_same(first, movielens.load(folder))
    assert first.documents.columns["title"][5] == "L'Été à Nîmes"


def assert_same(left, right):
    """Compares all requests and documents of two loads."""
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(left, part), getattr(right, part)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for name, values in left.documents.columns.items():
        assert list(values) == list(right.documents.columns[name]), name
    ours, theirs = dict(left.report), dict(right.report)
    assert ours.pop("source") != theirs.pop("source")
    assert ours == theirs


@pytest.mark.parametrize(
    ("title", "name", "year"),
    [
        ("Toy Story (1995)", "Toy Story", 1995),
        ("Land of Time (1995) (V)", "Land of Time", 1995),
        ("2001 (1968)", "2001", 1968),
        ("(500) Days", "(500) Days", -1),
        ("unknown", "unknown", -1),
    ],
)
def test_titles_and_years(title, name, year):
    assert _movielens_files._title_and_year(title) == (name, year)


@pytest.mark.parametrize(
    ("age", "bucket"),
    [(1, "under 18"), (17, "under 18"), (18, "18-24"), (24, "18-24"), (56, "56+")],
)
def test_age_buckets(age, bucket):
    assert _movielens_files._age_bucket(age) == bucket


# Where the files are found.


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without any MovieLens."""
    monkeypatch.delenv(_movielens_files.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_movielens_files, "_recbole_folder", lambda: None)
    return tmp_path


def small_folder(folder):
    return write_100k(folder, [WESTERN_USER], WESTERNS, WESTERN_RATINGS)


def test_without_a_source_the_error_names_the_three_ways(nowhere):
    with pytest.raises(FileNotFoundError) as caught:
        movielens.load()
    message = str(caught.value)
    for way in (
        *("path=...", "--movielens DIR", "data.path", "TFRS_PRERANK_MOVIELENS"),
        "pip install --no-deps recbole==1.2.1",
        *("download=True", "--download", "data.download"),
    ):
        assert way in message
    assert "\n" not in message


def test_the_environment_variable_comes_before_the_package(monkeypatch, tmp_path):
    folder = small_folder(tmp_path / "mine")
    monkeypatch.setenv(_movielens_files.ENVIRONMENT_VARIABLE, str(folder))
    monkeypatch.setattr(_movielens_files, "_recbole_folder", lambda: Path("/other"))
    assert movielens.load().report["source"] == str(folder)


def test_a_wrong_environment_variable_is_not_passed_over(monkeypatch, tmp_path):
    monkeypatch.setenv(_movielens_files.ENVIRONMENT_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"TFRS_PRERANK_MOVIELENS=.*gone"):
        movielens.load()


def test_download_is_atomic_and_kept(nowhere, monkeypatch):
    small_folder(nowhere / "ml-100k")
    archive = nowhere / "served.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for name in ("u.data", "u.item", "u.user"):
            opened.write(nowhere / "ml-100k" / name, f"ml-100k/{name}")
    monkeypatch.setattr(_movielens_files, "DOWNLOAD_URL", archive.as_uri())
    requests = movielens.load(download=True)
    cache = nowhere / "cache" / "tfrs_prerank"
    assert requests.report["source"] == str(cache / "ml-100k")
    assert [p.name for p in cache.iterdir()] == ["ml-100k"]
    archive.unlink()
    assert movielens.load().report["requests_kept"] == 16


@pytest.mark.parametrize("content", [None, b"<html>not a zip</html>"])
def test_a_failed_download_leaves_nothing(nowhere, monkeypatch, content):
    archive = nowhere / "served.zip"
    if content is not None:
        archive.write_bytes(content)
    monkeypatch.setattr(_movielens_files, "DOWNLOAD_URL", archive.as_uri())
    with pytest.raises((ConnectionError, ValueError), match=r"served\.zip"):
        movielens.load(download=True)
    assert list((nowhere / "cache" / "tfrs_prerank").iterdir()) == []


def test_the_module_needs_neither_tensorflow_nor_recbole():
    code = (
        "import sys; from tfrs_prerank.datasets import movielens\n"
        "from tfrs_prerank.datasets import _movielens_files as f; f._recbole_folder()\n"
        "print(*{'tensorflow', 'recbole', 'pandas'} & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == ""


# Bad input: one line that names the file, the line, the value and the fix.


def test_a_folder_without_movielens_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path='.*': no MovieLens files there"):
        movielens.load(tmp_path)


def test_a_missing_companion_file_is_named(tmp_path):
    (small_folder(tmp_path) / "u.user").unlink()
    with pytest.raises(FileNotFoundError, match=r"u\.user: not found beside u\.data"):
        movielens.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("u.data", "99\t101", r"u\.data line 21: 2 fields in '99\\t101', expected 4"),
        ("u.data", "99\tx\t5\t1", r"u\.data line 21: movie 'x' is not in the movies"),
        ("u.data", "98\t101\t5\t1", r"u\.data line 21: user '98' is not in the users"),
        ("u.data", "99\t101\t5\t1", r"line 21: user '99' rates movie '101' a second"),
        ("u.user", "7|F|F|writer|0", r"u\.user line 2: age 'F' is not a number"),
        ("u.user", "99|30|F|writer|0", r"u\.user line 2: id '99' is there twice"),
        ("u.item", "7|Film", r"u\.item line 21: 2 fields"),
    ],
)
def test_a_bad_line_is_named(tmp_path, file, line, message):
    with (small_folder(tmp_path) / file).open("a") as out:
        out.write(line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        movielens.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stars", ["0", "6", "4.5"])
def test_a_rating_outside_the_scale_is_refused(tmp_path, stars):
    path = small_folder(tmp_path) / "u.data"
    path.write_text(path.read_text().replace("\t5\t", f"\t{stars}\t", 1))
    with pytest.raises(ValueError, match=f"line 1: rating '{stars}'"):
        movielens.load(tmp_path)


def test_an_empty_ratings_file_is_refused(tmp_path):
    (small_folder(tmp_path) / "u.data").write_text("")
    with pytest.raises(ValueError, match=r"u\.data: holds no rating"):
        movielens.load(tmp_path)


def test_too_few_requests_to_split_are_refused(tmp_path):
    write_100k(tmp_path, [WESTERN_USER], WESTERNS, WESTERN_RATINGS[:3])
    with pytest.raises(ValueError, match="3 usable requests cannot be split"):
        movielens.load(tmp_path)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="max_candidates=4: give at least 5"):
        movielens.load(tmp_path, max_candidates=4)
    with pytest.raises(ValueError, match="history=0: give at least 1"):
        movielens.load(tmp_path, history=0)


# The real thing. Aggregates only: the licence forbids passing on its rows.

DATA = Path(os.environ.get("TFRS_PRERANK_DATA", "../shared/data")) / "ml-100k"


def has_recbole():
    return importlib.util.find_spec("recbole") is not None


@pytest.fixture(scope="module")
def real():
    if has_recbole():
        return movielens.load(_movielens_files._recbole_folder())
    if DATA.is_dir():
        return movielens.load(DATA)
    pytest.skip("needs MovieLens-100K: the package recbole, or ml-100k/ in the data")


@pytest.mark.slow  # takes long
def test_real_counts(real):
    report = real.report
    assert report["ratings"] == 100_000
    assert report["likes"] == 55_375
    assert report["likes_without_query"] == 5
    assert report["requests_made"] == 54_091
    assert report["requests_kept"] == 44_304
    assert report["requests_dropped"] == {
        "under_5_candidates": 9_773,
        "no_like": 0,
        "labels_past_the_split": 14,
    }
    assert report["splits"] == {"train": 35_440, "validation": 4_429, "test": 4_435}
    assert report["lists_with_likes_cut"] == 0
    assert report["lists_with_clicks_cut"] == 24
    assert report["test_users"] == 149
    assert report["new_test_user_share"] == pytest.approx(95 / 149)
    assert report["mean_candidates"] == pytest.approx(88.35, abs=0.01)
    assert report["mean_likes"] == pytest.approx(6.636, abs=0.001)


def ndcg_at_10(labels, scores):
    """Binary gains, log2 discounts, ties in the order of the list."""
    discounts = 1 / np.log2(np.arange(2, 12))
    best = np.argsort(-scores, kind="stable")[:10]
    ideal = discounts[: min(10, int(labels.sum()))].sum()
    return float((labels[best] * discounts[: len(best)]).sum() / ideal)


def test_real_baselines(real):
    def mean(score):
        values = [ndcg_at_10(r["label/like"], score(r)) for r in real.test]
        return np.mean(values)

    # Lists are shuffled, so constant scores are a random order.
    assert mean(lambda r: np.zeros(len(r["doc_ids"]))) == pytest.approx(0.222, abs=0.01)
    assert mean(lambda r: r["popularity"]) == pytest.approx(0.484, abs=0.005)
    assert mean(lambda r: r["co_likes"]) == pytest.approx(0.559, abs=0.005)


def test_the_query_tells_of_the_real_labels(real):
    """What the docstrings say the query gives away, on the test part."""
    row_of = {key: row for row, key in enumerate(real.documents.ids.tolist())}
    genres, decades = (real.documents.columns[name] for name in ("genres", "decade"))
    values, with_decade, without = [], [], []
    for request in real.test:
        rows = [row_of[key] for key in request["doc_ids"].tolist()]
        width = max(len(genres[row]) for row in rows)
        filled = [genres[row] + [""] * (width - len(genres[row])) for row in rows]
        batch = {
            "query": np.array([request["query"]]),
            "decade": np.array([[decades[row] for row in rows]]),
            "genres": np.array([filled]),
            "co_likes": request["co_likes"][None],
        }
        likes = request["label/like"]
        values.append(ndcg_at_10(likes, movielens.query_hint(batch)[0]))
        agrees = batch["decade"][0] == request["query"].split()[-1]
        if agrees.any() and not agrees.all():
            with_decade.append(likes[agrees].mean())
            without.append(likes[~agrees].mean())
    assert np.mean(values) == pytest.approx(0.622, abs=0.002)
    assert np.mean(with_decade) == pytest.approx(0.260, abs=0.001)
    assert np.mean(without) == pytest.approx(0.086, abs=0.001)


def test_real_sources_agree(real):
    if not (has_recbole() and DATA.is_dir()):
        pytest.skip("needs both the package recbole and ml-100k/ in the data folder")
    # Requests are a function of what is read (and the seed), so comparing that will do.
    ours = _movielens_files.read(DATA, download=False)
    theirs = _movielens_files.read(_movielens_files._recbole_folder(), download=False)
    for field in dataclasses.fields(ours):
        if field.name != "source":
            left, right = getattr(ours, field.name), getattr(theirs, field.name)
            assert (
                np.array_equal(left, right)
                if hasattr(left, "dtype")
                else (left == right)
            ), field.name
