"""Embeddings that begin at given vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import dataset, random_requests, small_model
from tfrs_prerank.features.lookups import HashLookup


def model_of(folder: Path, **keys: Any) -> tp.PreRanker:
    """Users of a vocabulary of integers, films of one of strings, hashed cities."""
    users, films = folder / "users.txt", folder / "films.txt"
    users.write_text("7\n5\n9\n")
    films.write_text("a\nb\nc\nd\n")
    schema = tp.Schema(
        [
            tp.Categorical(
                "user", "query", vocabulary=str(users), dtype="int64", dimension=2
            ),
            tp.Sequence("history", shares="film"),
            tp.Numeric("age", "query", boundaries=(1.0,), dimension=2),
            tp.Categorical("film", "doc", vocabulary=str(films), dimension=2),
            tp.Categorical("city", "doc", buckets=3, dimension=2, **keys),
            tp.Match("seen", "history", "film", "contains"),
        ],
        [tp.Task("click")],
    )
    tower = tp.Tower((4,), dimension=2, output=2)
    return tp.PreRanker(schema, tower, tower, tower)


def rows(model: tp.PreRanker, name: str) -> np.ndarray:
    values: np.ndarray = model.network.tables[name].embeddings.numpy()
    return values


@pytest.mark.parametrize("feature", ["film", "history"])
def test_rows_are_set_by_value(tmp_path: Path, feature: str) -> None:
    model = model_of(tmp_path)
    initial = rows(model, "film")
    done = model.initialize_embeddings(
        feature, ["c", "x", "a", "y"], [[1, 2], [3, 4], [0.5, 0], [9, 9]]
    )
    assert (done.rows, done.without, done.unknown) == (2, 2, 2)
    assert done.unknown_examples == ("x", "y")
    assert str(done) == (
        f"{feature}: 2 rows set; 2 of the vocabulary without a vector; 2 given ids not "
        "in the vocabulary (x, y)"
    )
    # Row 0 is that of unknown films: x and y do not touch it.
    expected = np.stack([initial[0], [0.5, 0], initial[2], [1, 2], initial[4]])
    np.testing.assert_array_equal(rows(model, "film"), expected.astype(np.float32))


def test_integers_and_bytes(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    model.initialize_embeddings("user", np.array([5, 8]), np.array([[1, 2], [3, 4.0]]))
    assert rows(model, "user")[2].tolist() == [1, 2]
    model.initialize_embeddings("film", np.array([b"d"], object), [[5, 6]])
    assert rows(model, "film")[4].tolist() == [5, 6]


@pytest.mark.parametrize("tokenizer", ["wordpiece", "fast_wordpiece"])
def test_word_pieces(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "pieces.txt"
    file.write_text("[UNK]\nred\n##s\n")
    title = tp.Text(
        "title", "doc", tokenizer=tokenizer, vocabulary=str(file), dimension=2
    )
    user = tp.Categorical("user", "query", buckets=3)
    model = tp.PreRanker(tp.Schema([user, title], [tp.Task("click")]))
    done = model.initialize_embeddings("title", ["##s", "blue"], [[1, 2], [3, 4]])
    assert (done.rows, done.without, done.unknown) == (1, 2, 1)
    table = model.network.tables["title"].table
    assert table.embeddings.numpy()[3].tolist() == [1, 2]


def test_a_vector_of_zeros_is_missing(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    initial = rows(model, "film")
    done = model.initialize_embeddings("film", ["a", "b"], [[0, 0], [0, 1]])
    assert (done.rows, done.without, done.unknown) == (1, 3, 0)
    assert rows(model, "film")[2].tolist() == [0, 1]
    np.testing.assert_array_equal(rows(model, "film")[1], initial[1])


def test_ids_of_one_bucket_get_their_mean(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    cities = [f"c{n}" for n in range(9)]
    buckets = HashLookup(3, "city")(tf.constant(cities)).numpy()
    assert sorted({*buckets}) == [1, 2, 3]
    vectors = np.arange(18.0).reshape(9, 2)
    done = model.initialize_embeddings("city", cities, vectors)
    assert (done.rows, done.without, done.unknown) == (3, 0, 0)
    for bucket in (1, 2, 3):
        np.testing.assert_allclose(
            rows(model, "city")[bucket], vectors[buckets == bucket].mean(axis=0), 1e-6
        )


def test_a_model_trains_on_from_there(tmp_path: Path) -> None:
    model = small_model()
    model.compile(tp.LazyAdam(0.01))
    lookup = model.network.tables["movie_id"].lookup
    movies = [f"m{n}" for n in range(12)]
    model.initialize_embeddings("movie_id", movies, np.full([12, 4], 0.5))
    before = model.network.tables["movie_id"].embeddings.numpy()
    model.fit(dataset(random_requests(8, 4), 4), verbose=0)
    change = np.abs(model.network.tables["movie_id"].embeddings.numpy() - before)
    # Two steps of Adam, each at most about a learning rate long here.
    assert 0 < change[lookup(tf.constant(movies)).numpy()].max() < 0.05


NAN = float("nan")


@pytest.mark.parametrize(
    ("feature", "ids", "vectors", "kind", "message"),
    [
        ("fim", ["a"], [[1, 2]], KeyError, "no feature 'fim'; did you mean 'film'?"),
        ("age", [1], [[1, 2]], ValueError, "age: a numeric feature of this model has"),
        ("seen", ["a"], [[1, 2]], ValueError, "seen: a match feature of this model"),
        ("film", ["a", "b", "a"], [[1, 2]] * 3, ValueError, "film: 'a' is given twice"),
        ("film", ["a", ""], [[1, 2]] * 2, ValueError, "not the pad ''. Received: ''"),
        ("user", [7, -1], [[1, 2]] * 2, ValueError, "not the pad -1. Received: -1"),
        ("film", [7], [[1, 2]], ValueError, "an id is of type str .* Received: 7"),
        ("user", ["7"], [[1, 2]], ValueError, "an id is of type int .* Received: '7'"),
        ("user", [7.0], [[1, 2]], ValueError, "an id is of type int .* Received: 7.0"),
        (
            "film",
            ["a"],
            [[1, 2, 3]],
            ValueError,
            "size 2 of the embeddings; .*reduce_vectors, or declare dimension=3",
        ),
        ("film", ["a", "b"], [[1, 2]], ValueError, r"Received: \[1, 2\] for 2 ids"),
        ("film", ["a"], [1, 2], ValueError, r"Received: \[2\] for 1 ids"),
        ("film", [], np.zeros([0, 2]), ValueError, "at least one"),
        ("film", ["a", "b"], [[1, 2], [1, NAN]], ValueError, "in row 1 holds NaN"),
        ("film", ["a"], [[1, 1e39]], ValueError, "in row 0 holds NaN or infinity"),
    ],
)
def test_what_is_refused_changes_nothing(
    tmp_path: Path,
    feature: str,
    ids: Any,
    vectors: Any,
    kind: type[Exception],
    message: str,
) -> None:
    model = model_of(tmp_path)
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(kind, match=message) as caught:
        model.initialize_embeddings(feature, ids, vectors)
    assert "\n" not in str(caught.value)
    for was, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(was, variable)


def test_several_hashes_are_refused(tmp_path: Path) -> None:
    model = model_of(tmp_path, hashes=2)
    with pytest.raises(ValueError, match="city: with hashes=2 an embedding is made of"):
        model.initialize_embeddings("city", ["rome"], [[1, 2]])
