"""The rows of MovieLens-1M: how they are split, and that no row sees its own label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tfrs_prerank import Categorical, PreRanker, Schema, Task, Tower


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("movielens_1m")


@pytest.fixture(scope="module")
def ratings_module(script):
    """The module of the rows."""
    return script.ratings


@pytest.fixture
def folder(tmp_path):
    """Three users (of whom 7 comes first in the file) and four movies."""
    tmp_path.joinpath("users.dat").write_text(
        "7::F::25::4::11111\n2::M::56::16::70072\n30::M::25::4::11111\n"
    )
    tmp_path.joinpath("movies.dat").write_text(
        "10::Big (1988)::Comedy\n5::Aliens (1986)::Action|Sci-Fi\n"
        "90::Up: All (1999)::Comedy|Action\n11::None (2000)::Drama\n"
    )
    events = [(7, 10, 2), (2, 90, 0), (2, 5, 2), (7, 5, 1), (30, 5, -1), (7, 90, 0)]
    frame = pd.DataFrame(events, columns=["user_id", "movie_id", "rating_band"])
    frame.to_csv(tmp_path / "events.csv.gz", index=False)
    return tmp_path


def test_rows_are_sorted_and_bands_1_and_unknown_are_left_out(ratings_module, folder):
    ratings = ratings_module.read(folder)
    # Users 2, 7, 30 are at places 0, 1, 2 and movies 5, 10, 11, 90 at 0 to 3. What is
    # left, by (user, movie): (2, 5) liked, (2, 90) not, (7, 10) liked, (7, 90) not.
    assert ratings.user.tolist() == [0, 0, 1, 1]
    assert ratings.movie.tolist() == [0, 3, 1, 3]
    assert ratings.label.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert {name: column.tolist() for name, column in ratings.users.items()} == {
        "user_id": [0, 1, 2],
        "gender": [1, 0, 1],  # F, M
        "age": [1, 0, 0],  # 25, 56
        "occupation": [0, 1, 1],  # "16", "4"
    }
    assert ratings.movies["movie_id"].tolist() == [0, 1, 2, 3]
    # Action, Comedy, Drama, Sci-Fi
    genres = [[0, 3], [1, -1], [2, -1], [1, 0]]
    assert ratings.movies["genres"].tolist() == genres


def test_a_missing_file_is_named_with_the_fix(ratings_module, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"events\.csv\.gz.*TFRS_PRERANK_DATA"):
        ratings_module.read(tmp_path)


def test_parts_are_those_of_the_protocol(ratings_module):
    order = np.random.default_rng(20221018).permutation(103)
    parts = ratings_module.split(103)
    # 20% of 103 are 20.6 and 25% are 25.75: 20, 5 and 78 rows.
    assert list(parts) == ["test", "validation", "training"]
    assert parts["test"].tolist() == order[:20].tolist()
    assert parts["validation"].tolist() == order[20:25].tolist()
    assert parts["training"].tolist() == order[25:].tolist()


def test_real_rows_are_split_without_overlap(ratings_module, data_dir):
    ratings = ratings_module.read(data_dir / "ml-1m")
    sizes = {name: len(places) for name, places in ratings.parts.items()}
    assert sizes == {"test": 147_546, "validation": 36_887, "training": 553_301}
    every = np.concatenate(list(ratings.parts.values()))
    assert np.array_equal(np.sort(every), np.arange(737_734))
    pairs = ratings.user * len(ratings.movies["movie_id"]) + ratings.movie
    assert (np.diff(pairs) > 0).all(), "sorted, and no pair twice"
    assert ratings.label.sum() == 574_640


OWNERS = [0, 0, 0, 2, 2, 0, 0]
PARTNERS = [4, 9, 6, 7, 4, 1, 3]


def history(module, length=4, dropped=0.0, most=3):
    owners, partners = np.array(OWNERS), np.array(PARTNERS)
    return module.History(owners, partners, 4, length, dropped, most)


def test_a_training_row_sees_all_its_owner_has_but_itself(ratings_module):
    found = history(ratings_module, length=6).of_training(
        tf.constant([0, 0, 2, 1, 3], tf.int64),
        tf.constant([9, 5, 7, 4, 4], tf.int64),
        tf.constant([1, 2]),
    )
    rows = [sorted(value for value in row if value >= 0) for row in found.numpy()]
    # Owner 0 has 1, 3, 4, 6, 9; 5 is not of them, as of a row with the other label.
    assert rows == [[1, 3, 4, 6], [1, 3, 4, 6, 9], [4], [], []]


def test_no_draw_shows_a_row_its_own_partner(ratings_module):
    made = history(ratings_module, length=2)
    seen = set()
    for seed in range(40):
        found = made.of_training(
            tf.constant([0], tf.int64),
            tf.constant([9], tf.int64),
            tf.constant([0, seed]),
        )
        seen |= set(found.numpy()[0].tolist())
    # -1 is where the row itself was drawn. The window starts at every place.
    assert seen == {-1, 1, 3, 4, 6}


def test_a_share_is_dropped(ratings_module):
    made = history(ratings_module, length=3, dropped=0.25)
    found = made.of_training(
        tf.zeros([20_000], tf.int64), tf.fill([20_000], tf.constant(5, tf.int64)),
        tf.constant([3, 4]),
    )  # fmt: skip
    # The standard error of the share of 60,000 draws is .0018.
    assert np.mean(found.numpy() == -1) == pytest.approx(0.25, abs=0.008)


def test_other_rows_see_the_same_in_every_call(ratings_module):
    made = history(ratings_module, most=3)
    owners = tf.constant([0, 2, 1], tf.int64)
    found = made.of_others(owners).numpy()
    assert set(found[0]) < {1, 3, 4, 6, 9} and len(set(found[0])) == 3
    assert sorted(found[1]) == [-1, 4, 7]
    assert found[2].tolist() == [-1, -1, -1]
    made.shuffle(5)
    assert not np.array_equal(made.of_others(owners), found)
    made.shuffle(0)
    assert np.array_equal(made.of_others(owners), found)


def test_the_dot_of_normalised_vectors_is_the_cosine():
    """So the cosine is stored and searched as a dot product of stored vectors."""
    model = PreRanker(
        Schema(
            [
                Categorical("user", "query", buckets=50, dtype="int64"),
                Categorical("movie", "doc", buckets=50, dtype="int64"),
            ],
            [Task("like")],
            doc_id="int64",
        ),
        *[Tower((8,), output=6)] * 2,
        scorer="cosine",
    )
    rows = np.arange(20)
    network = model.network
    raw_query = network.query_tower({"user": tf.constant(rows)}).outputs[:, 0].numpy()
    raw_doc = network.doc_tower({"movie": tf.constant(rows)}).outputs[:, 0].numpy()
    query = network.encode_query({"user": tf.constant(rows)}).numpy()
    doc = network.encode_docs({"movie": tf.constant(rows)}).numpy()
    lengths = np.linalg.norm(raw_query, axis=1) * np.linalg.norm(raw_doc, axis=1)
    cosine = np.sum(raw_query * raw_doc, axis=1) / lengths
    np.testing.assert_allclose(np.sum(query * doc, axis=1), cosine, atol=1e-6)
    batch = {"user": rows, "movie": rows[:, None], "doc_ids": rows[:, None]}
    batch = {name: tf.constant(column) for name, column in batch.items()}
    logits = model({**batch, "mask": tf.ones([20, 1], tf.bool)})["like"][:, 0]
    # The scale starts at 10, the bias at 0.
    np.testing.assert_allclose(logits, 10 * cosine, rtol=1e-4, atol=1e-5)
    assert np.ptp(cosine) > 0.1


def test_the_chosen_are_plain_the_best_five_and_the_worst_two_below(script):
    areas = {"a": 0.99, "b": 0.98, "c": 0.97, "d": 0.96, "e": 0.95, "f": 0.94}
    areas |= {"g": 0.1, "h": 0.2}
    areas["i"], areas[script.PLAIN] = 0.3, 0.9
    screen = [{"what": name, "validation auc": area} for name, area in areas.items()]
    assert script.confirmed(screen) == [script.PLAIN, *"abcde", "h", "g"]
    # Plain is the best but one, and only one is below it.
    screen = [r for r in screen if r["what"] in ("a", script.PLAIN, "g")]
    assert script.confirmed(screen) == [script.PLAIN, "a", "g"]


@pytest.mark.slow  # takes long
def test_the_best_epoch_is_kept_and_the_test_part_only_read_by_the_chosen(
    script, ratings_module, data_dir
):
    data = ratings_module.read(data_dir / "ml-1m")
    data = script.shortened(data, 4096)
    variant = script.Variant(
        script.tower(units=(8,), output=4), histories=script.HISTORIES, average=0.9
    )
    screened = script.measure("x", variant, data, 0, 2, False)
    chosen = script.measure("x", variant, data, 0, 2, True)
    assert "auc" not in screened and "log loss" not in screened
    assert 0 < chosen["auc"] < 1 and np.isfinite(chosen["log loss"])
    # The same seed gives the same run.
    assert chosen["validation auc"] == pytest.approx(
        screened["validation auc"], abs=1e-4
    )
    assert 1 <= chosen["epoch"] <= 2
