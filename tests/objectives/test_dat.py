"""The losses of augmented vectors by hand, by loops, and in a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.small import dataset, random_requests
from tests.objectives import alignment_replicas
from tests.processes import Replicas
from tests.serving import export_models as exports
from tfrs_prerank import (
    Categorical,
    Numeric,
    Objective,
    PreRanker,
    Schema,
    Task,
    Term,
    Tower,
    export,
)
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.models import presets
from tfrs_prerank.objectives.dat import adaptive_mimic, category_alignment
from tfrs_prerank.objectives.objective import make_objective
from tfrs_prerank.objectives.terms import term_sums

# Adaptive mimic -------------------------------------------------------------------

A_U = tf.constant([[1.0, 0.0], [1.0, 0.0]])
A_V = tf.constant([[0.0, 2.0], [3.0, 1.0]])
P_U = tf.constant([[0.0, 1.0], [0.0, 1.0]])
P_V = tf.constant([[1.0, 2.0], [5.0, 5.0]])
POSITIVE = tf.constant([True, False])


def test_mimic_by_hand() -> None:
    # |(1, 0) - (1, 2)|^2 + |(0, 2) - (0, 1)|^2 = 4 + 1; a negative mimics nothing.
    loss = adaptive_mimic(A_U, A_V, P_U, P_V, POSITIVE)
    assert loss.numpy().tolist() == [5.0, 0.0]


def test_mimic_moves_the_augmented_vectors_of_positives_only() -> None:
    with tf.GradientTape() as tape:
        tape.watch([A_U, A_V, P_U, P_V])
        loss = tf.reduce_sum(adaptive_mimic(A_U, A_V, P_U, P_V, POSITIVE))
    of_u, of_v, *of_vectors = tape.gradient(loss, [A_U, A_V, P_U, P_V])
    # 2 (a - p)
    np.testing.assert_array_equal(of_u, [[0, -4], [0, 0]])
    np.testing.assert_array_equal(of_v, [[0, 2], [0, 0]])
    assert of_vectors == [None, None]


# Category alignment ---------------------------------------------------------------


def loop(vectors: np.ndarray, categories: list) -> tuple[float, int]:
    """The distances, one category after the other, in float64."""
    by_category: dict[Any, list[np.ndarray]] = {}
    for vector, category in zip(vectors.astype(np.float64), categories, strict=True):
        by_category.setdefault(category, []).append(vector)
    largest = max(by_category, key=lambda c: len(by_category[c]), default=None)
    total, count = 0.0, 0
    for category, members in by_category.items():
        if category == largest or len(members) < 2:
            continue
        major, minor = (
            np.cov(np.array(rows), rowvar=False, ddof=1).reshape(vectors.shape[1], -1)
            for rows in (by_category[largest], members)
        )
        total += float(np.sum((major - minor) ** 2))
        count += 1
    return total, count


def test_alignment_by_hand() -> None:
    vectors = tf.constant(
        [[0, 0], [2, 0], [0, 4], [1, 1], [1, 3], [9, 9], [2, 4]], tf.float32
    )
    categories = tf.constant(["a", "a", "b", "a", "b", "c", "a"])
    # a: mean (5/4, 5/4); squares 9 - 25/4 = 11/4 and 17 - 25/4 = 43/4, products
    # 1 + 8 - 25/4 = 11/4; so C = (11/12, 11/12; 11/12, 43/12).
    # b: mean (1/2, 7/2): C = (1/2, -1/2; -1/2, 1/2). c has one document.
    expected = (5 / 12) ** 2 + 2 * (17 / 12) ** 2 + (37 / 12) ** 2
    value, count = category_alignment(vectors, categories)
    np.testing.assert_allclose([value, count], [expected, 1], rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    categories=st.lists(st.integers(0, 4), max_size=25),
    size=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_alignment_is_that_of_a_loop(categories: list, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(categories), size))
    value, count = category_alignment(
        tf.constant(vectors), tf.constant(categories, tf.int64)
    )
    np.testing.assert_allclose([value, count], loop(vectors, categories), rtol=1e-9)


def test_alignment_does_not_see_where_a_category_lies() -> None:
    rng = np.random.default_rng(0)
    vectors, categories = rng.normal(size=(12, 3)), tf.constant([0] * 7 + [1] * 5)
    moved = vectors + np.array([[0.0]] * 7 + [[4.0]] * 5)
    one, other = (
        category_alignment(tf.constant(v), categories)[0] for v in (vectors, moved)
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)
    with tf.GradientTape() as tape:
        tape.watch(x := tf.constant(vectors))
        value, _ = category_alignment(x, categories)
    gradient = tape.gradient(value, x).numpy()
    # So it moves no category as a whole, but both spreads.
    np.testing.assert_allclose(gradient[:7].sum(axis=0), 0, atol=1e-9)
    assert np.abs(gradient).min(axis=1).max() > 1e-3


# Terms ----------------------------------------------------------------------------

TASKS = ("click", "like")
SCHEMA = Schema(
    [
        Categorical("user_id", "query", buckets=20, dimension=4),
        Categorical("movie_id", "doc", buckets=20, dimension=4),
        Categorical("genre", "doc", buckets=9, dimension=4),
        Categorical("tags", "doc", buckets=9, max_values=2, dimension=4),
        Numeric("year", "doc", dimension=4),
    ],
    [Task(task) for task in TASKS],
)
MIMIC = Term("like", "adaptive_mimic", query="user_id", doc="movie_id")
ALIGNMENT = Term("like", "category_alignment", by="genre")


def requests_of(number: int = 6, length: int = 5) -> dict[str, np.ndarray]:
    requests = random_requests(number, length, TASKS, weights=True)
    del requests["history"]
    movies = requests["movie_id"]
    genres = {movie: f"g{int(movie[1:]) % 3}" for movie in movies.ravel() if movie}
    genres |= {"": "", "m0": ""}  # one without a genre
    requests["genre"] = np.vectorize(genres.get, otypes=[object])(movies)
    requests["tags"] = np.full((*movies.shape, 2), "", object)
    return requests


def model_of(*terms: Term, scorer: Any = "cosine") -> PreRanker:
    tf.keras.utils.set_random_seed(1)
    tower = Tower((8,), dimension=4, output=4)
    return PreRanker(
        SCHEMA,
        tower,
        tower,
        scorer=scorer,
        objective=Objective((Term("click"), *terms)),
    )


def sums(model: PreRanker, requests: dict, term: Term) -> tuple[float, float]:
    batch = {name: tf.constant(values) for name, values in requests.items()}
    network = model.network
    value, count = term_sums(
        term,
        batch,
        network(batch),
        TASKS.index(term.task),
        scorer=network.scorer,
        tables=network.tables,
    )
    return float(value), float(count)


def vectors_of(model: PreRanker, requests: dict) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of `like`: of every query, and of every real document."""
    forward = model.network({n: tf.constant(v) for n, v in requests.items()})
    return forward.query_vectors.numpy()[:, 4:], forward.doc_vectors.numpy()[:, 4:]


@pytest.mark.parametrize("stages", [None, ("exposed", "ranked")])
def test_the_term_of_mimic_is_that_of_a_loop(stages: Any) -> None:
    model, requests = model_of(MIMIC), requests_of()
    queries, docs = vectors_of(model, requests)

    def embedding(name: str, value: str) -> np.ndarray:
        table = model.network.tables[name]
        return table(table.rows_of(tf.constant([value]))).numpy()[0]

    total, count = 0.0, 0.0
    for (row, place), doc in zip(np.argwhere(requests["mask"]), docs, strict=True):
        label = requests["label/like"][row, place]
        weight = requests["weight/like"][row, place]
        if np.isnan(label) or (stages and requests["stage"][row, place] > 1):
            continue
        count += weight
        if label > 0:
            a_u = embedding("user_id", requests["user_id"][row])
            a_v = embedding("movie_id", requests["movie_id"][row, place])
            total += weight * (
                np.sum((a_u - doc) ** 2) + np.sum((a_v - queries[row]) ** 2)
            )
    term = Term("like", "adaptive_mimic", query="user_id", doc="movie_id",
                stages=stages)  # fmt: skip
    assert total > 0
    np.testing.assert_allclose(sums(model, requests, term), [total, count], rtol=1e-5)


def test_the_term_of_alignment_reads_each_document_with_a_category_once() -> None:
    model, requests = model_of(ALIGNMENT), requests_of()
    _, docs = vectors_of(model, requests)
    movies = requests["movie_id"][requests["mask"]]
    genres = requests["genre"][requests["mask"]]
    first = sorted({movie: i for i, movie in reversed([*enumerate(movies)])}.values())
    assert len(first) < len(movies)
    kept = [place for place in first if genres[place]]
    assert len(kept) < len(first)
    expected = loop(docs[kept], genres[kept].tolist())
    assert expected[1] == 2
    np.testing.assert_allclose(sums(model, requests, ALIGNMENT), expected, rtol=1e-4)


def test_without_documents_both_are_zero() -> None:
    requests = requests_of()
    requests["mask"] = np.zeros_like(requests["mask"])
    model = model_of()
    assert sums(model, requests, MIMIC) == (0.0, 0.0)
    assert sums(model, requests, ALIGNMENT) == (0.0, 0.0)


def test_four_replicas_align_as_one_does(on_replicas: Replicas) -> None:
    on_replicas(alignment_replicas.main)


def test_training_draws_augmented_vectors_to_the_other_tower() -> None:
    model = model_of(MIMIC, ALIGNMENT)
    model.compile(tf.keras.optimizers.Adam(0.05))
    batches = dataset(requests_of(24), 8)
    logs = model.fit(batches, epochs=8, verbose=0).history
    for name in ("like/adaptive_mimic", "like/category_alignment"):
        assert logs[name][-1] < 0.8 * logs[name][0]
        assert np.isfinite(logs[name]).all()


# The preset -----------------------------------------------------------------------


def test_the_preset_exports_as_any_two_towers(tmp_path: Path) -> None:
    tf.keras.utils.set_random_seed(2)
    schema = Schema(
        [
            Categorical("user", "query", buckets=50, dimension=6),
            Categorical("item", "doc", buckets=50, dtype="int64", dimension=6),
            Numeric("price", "doc", log1p=True, point_in_time=True),
        ],
        [Task("click")],
        doc_id="int64",
    )
    model = PreRanker(schema, **presets.dat(schema, "user", "item", units=(8,)))
    assert [term.name for term in model.objective.terms] == [
        "click/sigmoid_cross_entropy",
        "click/adaptive_mimic",
    ]
    exports.randomize(model)
    documents = exports.small_documents(12)
    folder = export(model, documents, tmp_path / "model", k=5).path
    signatures = tf.saved_model.load(str(folder)).signatures
    rows = np.random.default_rng(0).integers(0, 12, (3, 7))
    query = {"user": exports.small_query(3)["user"]}
    request = exports.batch_of(schema, documents, rows, query)
    expected = exports.model_outputs(model, request)["scores"]
    got = exports.call(signatures["serving_default"], request)["scores"]
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert "retrieve" in signatures


def test_the_preset_has_the_papers_weights() -> None:
    declared = presets.dat(SCHEMA, "user_id", "movie_id", "genre")
    assert declared["query_tower"].output == declared["doc_tower"].dimension == 4
    weights = [(term.loss, term.weight) for term in declared["objective"].terms]
    assert weights == 2 * [
        ("sigmoid_cross_entropy", 1.0),
        ("adaptive_mimic", 0.5),
        ("category_alignment", 1.0),
    ]
    assert PreRanker(SCHEMA, **declared).objective == declared["objective"]


# The declaration ------------------------------------------------------------------


def test_terms_survive_yaml() -> None:
    written = to_mapping(MIMIC)
    assert written == {
        "task": "like",
        "loss": "adaptive_mimic",
        "query": "user_id",
        "doc": "movie_id",
    }
    assert from_mapping(Term, written, "term") == MIMIC


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Term("click", "adaptive_mimic", query="user_id"),
            "Term: adaptive_mimic needs doc, the name of a Categorical. Received: "
            "doc=None",
        ),
        (
            lambda: Term("click", "category_alignment"),
            "Term: category_alignment needs by, the name of a Categorical. Received: "
            "by=None",
        ),
        (
            lambda: Term("click", "category_alignment", by="genre", query="user_id"),
            "Term: query does nothing with loss='category_alignment'; leave it out. "
            "Received: query='user_id'",
        ),
        (
            lambda: make_objective(
                Objective([Term("like", "category_alignment", by="tags")]), SCHEMA
            ),
            "objective: category_alignment reads a Categorical of one value with "
            "owner='doc'. Received: 'tags'; known: genre, movie_id",
        ),
        (
            lambda: make_objective(
                Objective(
                    [Term("like", "adaptive_mimic", query="movie_id", doc="movie_id")]
                ),
                SCHEMA,
            ),
            "objective: adaptive_mimic reads a Categorical of one value with "
            "owner='query'. Received: 'movie_id'; known: user_id",
        ),
        (
            lambda: model_of(MIMIC, scorer="mlp"),
            "adaptive_mimic compares vectors, of the scorers 'dot' and 'cosine' only. "
            "Received: scorer='mlp'",
        ),
        (
            lambda: PreRanker(
                SCHEMA, Tower(output=8), Tower(output=8), objective=Objective([MIMIC])
            ),
            "adaptive_mimic draws the embeddings of 'user_id' to vectors of size 8; "
            "give both one size. Received: dimension=4",
        ),
    ],
)
def test_errors_name_value_and_fix(call: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        call()
    assert str(error.value) == message
