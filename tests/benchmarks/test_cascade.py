"""MovieLens-1M as a cascade: what is in which part, and what the models are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

NAN = float("nan")
PERSON = {"user_id": 3, "gender": 0, "age": 1, "occupation": 2}


@pytest.fixture(scope="module")
def lists(script_named):
    """The module of the requests."""
    return script_named("cascade_lists")


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("cascade")


def events_of(lists, number, movies=None, seed=0):
    """Returns events with every kind of label."""
    random = np.random.default_rng(seed)
    labels = random.choice([1.0, 0.0, NAN], number, p=[0.5, 0.4, 0.1])
    places = random.permutation(movies or number)[:number]
    return lists.Events(places, labels.astype(np.float32))


@pytest.mark.parametrize(("events", "past"), [(4, 4), (5, 4), (20, 16), (24, 20)])
def test_the_last_fifth_comes_next(lists, events, past):
    assert events_of(lists, events).past == past


def test_the_history_is_what_was_liked_before_the_last_first(lists):
    events = lists.Events(
        np.array([7, 5, 9, 2, 4]), np.float32([1.0, 0.0, 1.0, NAN, 1.0])
    )
    assert events.liked_before(0) == []
    assert events.liked_before(2) == [7]
    assert events.liked_before(4) == [9, 7]
    long = lists.Events(np.arange(80), np.ones(80, np.float32))
    assert long.liked_before(70) == list(range(69, 19, -1))  # 50 of them


def test_training_lists_are_the_past_in_order(lists):
    events = events_of(lists, 70)  # of which 56 are the past
    made = list(lists.training_requests(events, PERSON))
    assert [len(request["doc_ids"]) for request in made] == [20, 20, 16]
    ids = np.concatenate([request["doc_ids"] for request in made])
    labels = np.concatenate([request["label/like"] for request in made])
    np.testing.assert_array_equal(ids, events.movies[:56])
    np.testing.assert_array_equal(labels, events.labels[:56])
    for place, request in enumerate(made):
        assert request["history"] == events.liked_before(20 * place)
        assert not set(request["history"]) & set(request["doc_ids"].tolist())
        assert request["stage"].tolist() == [0] * len(request["doc_ids"])
        assert {name: request[name] for name in PERSON} == PERSON


def test_the_next_events_are_put_among_movies_never_rated(lists):
    events = events_of(lists, 150, movies=900)
    made = lists.held_out_request(events, PERSON, 900)
    ids, stage = made["doc_ids"], made["stage"]
    assert len(set(ids.tolist())) == len(ids) == 200
    assert np.all(np.diff(ids) > 0)
    assert sorted(ids[stage == 0]) == sorted(events.movies[120:])
    assert not set(ids[stage == 3]) & set(events.movies)
    assert set(stage) == {0, 3}
    label_of = dict(zip(events.movies.tolist(), events.labels, strict=True))
    expected = [label_of.get(movie, 0.0) for movie in ids.tolist()]
    np.testing.assert_array_equal(made["label/like"], np.float32(expected))
    assert made["history"] == events.liked_before(120)
    again = lists.held_out_request(events, PERSON, 900)
    np.testing.assert_array_equal(again["doc_ids"], ids)
    other = lists.held_out_request(events, {**PERSON, "user_id": 4}, 900)
    assert other["doc_ids"].tolist() != ids.tolist()


def test_of_many_next_events_a_hundred_are_drawn(lists):
    events = events_of(lists, 1000, movies=3000)
    made = lists.held_out_request(events, PERSON, 3000)
    held = made["doc_ids"][made["stage"] == 0]
    assert len(held) == 100 and len(made["doc_ids"]) == 200
    assert set(held) < set(events.movies[800:])
    # Not the first hundred, which would be nearest to the past.
    assert set(held) - set(events.movies[800:900])


@pytest.fixture
def folder(tmp_path):
    """Twenty users with 25 events each of 60 movies, 10 to 69, out of order."""
    random = np.random.default_rng(0)
    people = [f"{user}::{'FM'[user % 2]}::25::4::1\n" for user in range(1, 21)]
    films = [f"{movie}::A (2000)::Drama|War\n" for movie in range(10, 70)]
    (tmp_path / "users.dat").write_text("".join(people))
    (tmp_path / "movies.dat").write_text("".join(films))
    rows = [
        (user, place, movie, band)
        for user in range(1, 21)
        for place, (movie, band) in enumerate(
            zip(
                random.permutation(np.arange(10, 70))[:25],
                random.choice([2, 1, 0, -1], 25, p=[0.5, 0.2, 0.2, 0.1]),
                strict=True,
            )
        )
    ]
    names = ["user_id", "seq", "movie_id", "rating_band"]
    frame = pd.DataFrame(rows, columns=names)
    frame.sample(frac=1.0, random_state=0).to_csv(
        tmp_path / "events.csv.gz", index=False
    )
    return tmp_path


def test_events_are_in_the_order_of_their_users(lists, folder):
    frame = pd.read_csv(folder / "events.csv.gz").sort_values("seq")
    found = lists.read_events(folder)
    assert len(found) == 20
    for user, events in enumerate(found, start=1):
        own = frame[frame["user_id"] == user]
        assert events.movies.tolist() == (own["movie_id"] - 10).tolist()
        expected = own["rating_band"].map({2: 1.0, 1: 0.0, 0: 0.0, -1: NAN})
        np.testing.assert_array_equal(events.labels, expected.astype(np.float32))


def test_no_event_is_in_two_parts(lists, folder):
    cascade = lists.read(folder)
    events = lists.read_events(folder)
    users = [
        [request["user_id"] for request in part]
        for part in (cascade.validation, cascade.test)
    ]
    assert [len(part) for part in users] == [2, 18]
    assert sorted(users[0] + users[1]) == list(range(20))
    seen = [set() for _ in events]
    for request in cascade.train:
        exposed = request["doc_ids"][request["stage"] == 0]
        seen[request["user_id"]] |= set(exposed.tolist())
    for request in cascade.validation + cascade.test:
        own = events[request["user_id"]]
        assert seen[request["user_id"]] == set(own.movies[:20].tolist())
        assert set(request["history"]) <= seen[request["user_id"]]
        assert not seen[request["user_id"]] & set(request["doc_ids"].tolist())
    past = np.concatenate([own.movies[:20] for own in events])
    assert cascade.popularity.tolist() == np.bincount(past, minlength=60).tolist()


def test_draws_from_the_catalogue_say_how_likely_they_were(lists, folder):
    for request in lists.read(folder).train:
        drawn = request["stage"] == 3
        # 20 of the movies that the list does not expose.
        assert drawn.sum() == 20
        left = 60 - (~drawn).sum()
        np.testing.assert_allclose(
            request["log_q"], np.where(drawn, np.log(20 / left), 0.0), rtol=1e-6
        )
        assert request["label/like"][drawn].tolist() == [0.0] * 20
        assert len(set(request["doc_ids"].tolist())) == len(request["doc_ids"])


def test_real_requests_have_the_sizes_of_the_protocol(lists, data_dir):
    events = lists.read_events(data_dir / "ml-1m")
    assert len(events) == 6040
    assert sum(len(own.movies) for own in events) == 1_000_209
    assert min(len(own.movies) for own in events) == 20
    made = lists.held_out_request(events[0], PERSON, 3883)
    assert len(made["doc_ids"]) == 200
    assert (made["stage"] == 0).sum() == len(events[0].movies) // 5


def test_co_occurrences_solve_the_ridge_regressions_of_each_movie(script):
    random = np.random.default_rng(0)
    likes = [np.flatnonzero(random.random(6) < 0.5) for _ in range(9)]
    kernel = script.co_occurrence.kernel_of(likes, 6, strength=2.0)
    matrix = np.array([np.isin(np.arange(6), own) for own in likes], np.float64)
    for movie in range(6):
        # What the likes of all other movies say of this one.
        others = np.delete(np.arange(6), movie)
        rest = matrix[:, others]
        gram = rest.T @ rest + 2.0 * np.eye(5)
        expected = np.linalg.solve(gram, rest.T @ matrix[:, movie])
        np.testing.assert_allclose(kernel[others, movie], expected, rtol=1e-4)
    assert not np.diag(kernel).any()


def test_a_user_is_scored_by_what_users_of_other_folds_liked(script):
    random = np.random.default_rng(0)
    likes = [np.flatnonzero(random.random(8) < 0.5) for _ in range(8)]
    made = script.co_occurrence.CoOccurrence(likes, 8, folds=2, strength=1.0)
    ids = np.array([7, 0, 2])
    kernel = script.co_occurrence.kernel_of(likes[1::2], 8, 1.0)
    expected = [kernel[3, movie] + kernel[5, movie] for movie in ids]
    np.testing.assert_allclose(made.scores(4, [3, 5], ids), expected, rtol=1e-5)
    assert made.scores(4, [], ids).tolist() == [0.0, 0.0, 0.0]
    # Nothing that users of its own fold liked, it neither, changes that.
    likes[4] = likes[6] = np.arange(8)
    again = script.co_occurrence.CoOccurrence(likes, 8, folds=2, strength=1.0)
    np.testing.assert_array_equal(
        again.scores(4, [3, 5], ids), made.scores(4, [3, 5], ids)
    )


def test_pairs_know_what_came_before_their_list_alone(lists, folder):
    cascade = lists.read(folder)
    events = lists.read_events(folder)
    likes, ratings = lists.co_occurrences(events, 60)
    user = 3
    own = [r for r in cascade.train if r["user_id"] == user]
    own += [r for r in cascade.validation + cascade.test if r["user_id"] == user]
    assert [r["request_id"].partition("/")[2] for r in own] == ["0", "next"]
    for request, place in zip(own, (0, 20), strict=True):
        ids, movies = request["doc_ids"], events[user].movies[:place]
        expected = likes.scores(user, events[user].likes(place), ids)
        np.testing.assert_array_equal(request["co_likes"], expected)
        expected = ratings.scores(user, movies, ids)
        np.testing.assert_array_equal(request["co_ratings"], expected)
        assert (request["co_likes"] != request["co_ratings"]).any() == (place > 0)


class Signed:
    """Stands for a Keras model; its one weight becomes the data of an epoch."""

    def compile(self, optimizer):
        self.optimizer, self.rates = optimizer, []

    def fit(self, data, verbose):
        self.sign = data
        self.rates.append(float(self.optimizer.learning_rate))

    def get_weights(self):
        return self.sign

    def set_weights(self, weights):
        self.sign = weights


def test_the_weights_of_the_best_epoch_stay(script):
    model, notes = Signed(), []
    # The liked one of 60 documents is the first by increasing numbers, the last by
    # decreasing ones.
    batch = {
        "mask": tf.ones([1, 60], tf.bool),
        "label/like": tf.one_hot([59], 60),
        "number": tf.range(60.0)[tf.newaxis],
    }
    training = script.Training(script.tower(8), script.HARD, epochs=3, rate=0.3)
    fitted = script.fit(
        model,
        lambda batch: model.sign * batch["number"],
        [-1.0, 1.0, -1.0],
        [batch],
        training,
        notes.append,
    )
    assert (fitted.epoch, fitted.validation, model.sign) == (2, 1.0, 1.0)
    assert model.rates == pytest.approx([0.3, 0.2, 0.1])
    assert [note[:24] for note in notes] == [
        f"epoch {epoch}: hit_rate@50 {rate:.1f}"
        for epoch, rate in ((1, 0.0), (2, 1.0), (3, 0.0))
    ]


def run_of(seed, ranker, plain, distilled):
    """Returns a kept run in which rows reach some HitRate@50."""
    reached = {
        "ranker": ranker,
        "two towers": plain,
        "two towers, distilled": distilled,
        "random": 0.25,
    }
    names = ("hit_rate@50", "ranker_hit_rate@50,10", "ndcg@10", "gauc")
    trained = {"epoch": 2, "validation": 0.5, "seconds": 10.0 * seed}
    return {
        "seed": seed,
        "values": {
            row: {name: [value, None, None] for name in names}
            for row, value in reached.items()
        },
        "differences": {"ranker minus two towers": [ranker - plain, -1.0, 1.0]},
        "trained": {row: trained for row in reached if row != "random"},
    }


def test_tables_are_means_over_seeds(script):
    runs = [run_of(1, 0.85, 0.81, 0.83), run_of(2, 0.87, 0.83, 0.82)]
    rows = script.cascade_table(runs)
    assert [row["what"] for row in rows] == [
        "ranker",  # 0.86
        "two towers, distilled",  # 0.825
        "two towers",  # 0.82
        "random",
    ]
    assert [row["hit_rate@50"] for row in rows] == [0.86, 0.825, 0.82, 0.25]
    # sqrt(2 * 0.01^2), as the mean is 0.01 from both
    assert rows[0]["deviation of hit_rate@50"] == 0.0141
    assert [row["seconds"] for row in rows] == [15, 15, 15, "-"]
    targets = script.target_table(rows)
    assert [row["measured"] for row in targets] == [0.04, 0.04, 0.005, 0.005]
    assert {row["reached"] for row in targets} == {"yes"}
    differences = script.difference_table(runs)
    assert [row["hit_rate@50"] for row in differences] == [0.04, 0.04]


@pytest.mark.slow
def test_a_small_run_measures_all_rows(script, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(script.ratings, "folder", lambda: folder)
    run = script.measure(script.load(tmp_path / "made", None), True, 1)
    values = run["values"]
    models = {"ranker", "two towers", "two towers, distilled"}
    assert set(values) == models | {
        "co_likes",
        "co_ratings",
        "popularity",
        "random",
        "oracle",
    }
    # Only 40 candidates: with a cut at 50 all are kept.
    for row in values.values():
        assert row["hit_rate@50"][0] == row["ranker_hit_rate@50,10"][0] == 1.0
    assert values["oracle"]["ndcg@10"][0] == pytest.approx(1.0)
    assert values["random"]["gauc"][0] == 0.5
    assert set(run["trained"]) == models
    assert run["differences"]["two towers, distilled minus two towers"][0] == 0.0
