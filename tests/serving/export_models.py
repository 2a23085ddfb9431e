"""Small models, documents and requests for the tests of the export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrs_prerank import (
    Categorical,
    Dense,
    Match,
    Numeric,
    PreRanker,
    Schema,
    Sequence,
    Task,
    Text,
    Tower,
)
from tfrs_prerank.features import DocumentTable

LOWEST = np.finfo(np.float32).min


# Two towers, one task, int64 ids: no text, so that it is exported in a second or two.


def small_schema(
    tasks: tuple[str, ...] = ("click",), users: str | None = None
) -> Schema:
    """`users` is a vocabulary file; without one they are hashed."""
    buckets = 50 if users is None else None
    return Schema(
        features=(
            Categorical(
                "user", "query", vocabulary=users, buckets=buckets, id_dropout=0.2
            ),
            Sequence("history", shares="item", dtype="int64", max_length=3),
            Categorical("item", "doc", buckets=5000, dtype="int64"),
            Numeric("price", "doc", log1p=True, point_in_time=True),
        ),
        tasks=tuple(Task(task) for task in tasks),
        doc_id="int64",
    )


def small_model(
    tasks: tuple[str, ...] = ("click",), scorer: str = "dot", users: str | None = None
) -> PreRanker:
    tf.keras.utils.set_random_seed(7)
    tower = Tower(units=(8,), output=4, dimension=4, normalization="batch")
    return PreRanker(small_schema(tasks, users), tower, tower, scorer=scorer)


def small_documents(count: int) -> DocumentTable:
    """Documents 3, 10, 17, ..."""
    return DocumentTable(
        3 + 7 * np.arange(count),
        {"item": np.arange(count), "price": (np.arange(count) % 91).astype(np.float32)},
    )


def small_query(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "user": np.array([f"u{i}" for i in rng.integers(0, 30, count)], object),
        "history": rng.integers(-1, 40, (count, 3)),
    }


# Three towers, two tasks, string ids: every kind of feature and every Match op.


def full_schema(folder: Path) -> Schema:
    """Writes vocabularies to a folder and returns a schema that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    users, words = folder / "users.txt", folder / "words.txt"
    users.write_text("ann\nbob\ncara\n", "utf-8")
    words.write_text("space\nwar\nlove\n恋\nlife\n", "utf-8")
    tokens, statistics = folder / "bm25.txt", folder / "statistics.json"
    tokens.write_text("war\t3\nlove\t2\nspace\t1\n恋\t1\n", "utf-8")
    corpus = {"documents": 5, "mean_length": 2.5}
    statistics.write_text(json.dumps({"words_bm25": corpus}), "utf-8")
    return Schema(
        features=(
            Categorical("user", "query", vocabulary=str(users), id_dropout=0.2),
            Text("words", "query", vocabulary=str(words), max_tokens=4),
            Sequence("history", shares="film", max_length=4),
            Categorical("liked", "query", buckets=20, max_values=3),
            Categorical("country", "query", buckets=10),
            Numeric("budget", "query", missing=-1.0, log1p=True),
            Dense("taste", "query", size=3),
            # A name that Python code would give to an argument.
            Categorical("inputs", "query", buckets=5, dtype="int64"),
            Match("age_of_country", "time", "signup", "difference", owner="query"),
            Numeric("signup", "query", dtype="int64", log1p=True),
            Categorical("film", "doc", buckets=40, l2=1e-4),
            Categorical("genres", "doc", buckets=20, max_values=3),
            Categorical("origin", "doc", buckets=10),
            Text("title", "doc", shares="words", max_tokens=4),
            Numeric("price", "doc", point_in_time=True, log1p=True),
            Numeric("released", "doc", dtype="int64", log1p=True),
            Dense("cover", "doc", size=3),
            Match("own_genre", "genres", "origin", "contains", owner="doc"),
            Match("words_title", "words", "title", "overlap", dimension=8),
            Match("title_words", "title", "words", "overlap"),
            Match(
                "words_bm25",
                "words",
                "title",
                "bm25",
                vocabulary=str(tokens),
                statistics=str(statistics),
            ),
            Match("liked_genres", "liked", "genres", "overlap"),
            Match("words_genres", "words", "genres", "overlap"),
            Match("seen", "history", "film", "contains"),
            Match("country_genre", "genres", "country", "contains"),
            Match("same_country", "country", "origin", "equal"),
            Match("age", "time", "released", "difference", log1p=True),
            Match("over_budget", "price", "budget", "difference", log1p=True),
            Match("price_ratio", "budget", "price", "log_ratio"),
            Match("price_gap", "budget", "price", "distance", log1p=True),
            Match("taste_gap", "taste", "cover", "distance"),
            Match("taste_cover", "taste", "cover", "dot"),
            Numeric("co_clicks", "cross", log1p=True),
            Categorical("shown", "cross", buckets=5, max_values=2),
            Categorical(
                "position", "doc", buckets=20, dtype="int64", training_only=True
            ),
        ),
        tasks=(Task("click"), Task("like", fuse=0.5)),
    )


FULL_IDS = ("a", "b c", "é", "电影", "e,f", "0", "last")


def full_documents() -> DocumentTable:
    count = len(FULL_IDS)
    rng = np.random.default_rng(1)
    return DocumentTable(
        np.array(FULL_IDS, object),
        {
            "film": list(FULL_IDS),
            "genres": [["war"], ["Love", "space"], [], ["fr"], ["love"], ["us"], ["x"]],
            "origin": ["us", "fr", "fr", "cn", "us", "us", ""],
            "title": ["Space War", "LOVE", "", "恋", "war, war; war", "Life!", "other"],
            "price": np.arange(count) * 10.0,
            "released": 1_700_000_000 + np.arange(count) * 86_400,
            "cover": np.concatenate([np.zeros((1, 3)), rng.normal(size=(6, 3))]),
        },
    )


def full_query(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def pick(*shape: int, of: tuple[str, ...]) -> np.ndarray:
        return rng.choice(np.array(of, object), shape)

    return {
        "user": pick(count, of=("ann", "bob", "nobody", "")),
        "words": pick(count, of=("space war", "LOVE life", "", "恋 fr", "us")),
        "history": pick(count, 4, of=(*FULL_IDS, "", "")),
        "liked": pick(count, 3, of=("war", "love", "Love", "")),
        "country": pick(count, of=("us", "fr", "")),
        "budget": rng.choice(np.float32([-1, 0, 15, 200]), count),
        "taste": rng.normal(size=(count, 3)).astype(np.float32),
        "inputs": rng.integers(-1, 5, count),
        "signup": rng.integers(1_600_000_000, 1_700_000_000, count),
        "time": rng.integers(1_700_000_000, 1_800_000_000, count),
    }


def full_cross(count: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "co_clicks": rng.integers(0, 9, (count, length)).astype(np.float32),
        "shown": rng.choice(np.array(["yes", "no", ""], object), (count, length, 2)),
    }


def full_model(folder: Path) -> PreRanker:
    """A model whose every weight and moving statistic is drawn at random.

    Tracing its training takes half a minute and would move the weights by little.
    """
    tf.keras.utils.set_random_seed(2)
    model = PreRanker(
        full_schema(folder),
        Tower(
            units=(8,),
            gate="senet",
            interaction="dcn_v2",
            normalization="batch",
            dropout=0.1,
            dimension=4,
            output=4,
        ),
        Tower(units=(8,), normalization="batch", dimension=4, output=4),
        Tower(units=(8,), dimension=4, output=4),
    )
    randomize(model)
    return model


def randomize(model: PreRanker, seed: int = 0) -> None:
    """Adds noise to every weight but the tasks' own; moving variances stay positive."""
    rng = np.random.default_rng(seed)
    for variable in model.network.variables:
        if variable.dtype.is_floating and "fusion" not in variable.name:
            noise = rng.uniform(0.0, 0.3, variable.shape)
            sign = 1.0 if "variance" in variable.name else rng.choice([-1.0, 1.0])
            variable.assign_add(tf.cast(sign * noise, variable.dtype))


def small_training(documents: DocumentTable) -> tf.data.Dataset:
    """Two batches of four requests with lists of 1 to 5, prices of another day."""
    batches = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, len(documents), (4, 5))
        batch = batch_of(small_schema(), documents, rows, small_query(4, seed))
        batch["price"] = rng.uniform(0, 100, (4, 5)).astype(np.float32)
        batch["mask"] = np.arange(5) < rng.integers(1, 6, (4, 1))
        batch["label/click"] = rng.integers(0, 2, (4, 5)).astype(np.float32)
        batches.append(batch)
    stacked = {
        name: tf.constant(np.stack([batch[name] for batch in batches]))
        for name in batches[0]
    }
    return tf.data.Dataset.from_tensor_slices(stacked)


# What model(batch) and an export need.


def batch_of(
    schema: Schema,
    documents: DocumentTable,
    rows: np.ndarray,
    query: dict[str, np.ndarray],
    cross: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Gathers the documents of rows `[B, N]` into a batch without padding."""
    columns = documents.arrays(schema)
    return {
        **query,
        **{name: column[rows] for name, column in columns.items()},
        **(cross or {}),
        "doc_ids": documents.ids[rows],
        "mask": np.ones(rows.shape, bool),
    }


def model_outputs(model: PreRanker, batch: dict[str, np.ndarray]) -> dict:
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    return {name: value.numpy() for name, value in model(tensors).items()}


def call(signature, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Calls a loaded signature with those of the inputs that it takes."""
    specs = signature.structured_input_signature[1]
    tensors = {name: tf.constant(inputs[name], specs[name].dtype) for name in specs}
    return {name: value.numpy() for name, value in signature(**tensors).items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def request_of(case: str, schema: Schema, rows, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of requests for the documents of rows `[B, N]`, `"small"` or `"full"`."""
    rows = np.asarray(rows)
    if case == "small":
        query = small_query(len(rows), seed)
        return batch_of(schema, small_documents(40), rows, query)
    query, cross = full_query(len(rows), seed), full_cross(*rows.shape, seed)
    return batch_of(schema, full_documents(), rows, query, cross)
