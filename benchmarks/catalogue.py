"""The model, the documents and the requests that the benchmarks use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank import Categorical, PreRanker, Schema, Sequence, Task, Text, Tower
from tfrs_prerank.features import DocumentTable

SIZES = (10, 20, 50, 100, 500, 1_000, 5_000, 10_000)
"""Values of each of the documents' eight fields."""

HISTORY = 50
USERS = 10_000
SEED = 7

_TOWER = Tower(units=(256, 128), output=64)
_WORDS = ("red", "blue", "running", "shoes", "jacket", "summer", "wool", "kids", "42")


def model(folder: Path, doc_id: str, largest: int = SIZES[-1]) -> PreRanker:
    """Makes a two-tower model, with the same weights every time.

    The document tower has eight categorical fields of 16 and the MLP 256-128 with a
    linear output of 64; the query tower has a user, a text, a history of 50 under zero
    attention and the same MLP.

    Args:
        folder: where the vocabularies are written.
        doc_id: type of the document ids, `"int64"` or `"string"`.
        largest: size of the largest vocabulary.
    """
    fields = [
        Categorical(
            f"field_{place}", "doc", vocabulary=_vocabulary(folder, place, size)
        )
        for place, size in enumerate((*SIZES[:-1], largest))
    ]
    schema = Schema(
        features=[
            Categorical("user_id", "query", buckets=USERS),
            Text("query", "query", buckets=10_000),
            Sequence("history", shares=fields[-1].name, max_length=HISTORY),
            *fields,
        ],
        tasks=[Task("click")],
        doc_id=doc_id,
    )
    tf.keras.utils.set_random_seed(SEED)
    return PreRanker(schema, _TOWER, _TOWER)


def documents(count: int, doc_id: str) -> DocumentTable:
    """Makes documents, the same ones every time.

    Args:
        count: how many.
        doc_id: type of the ids.
    """
    rng = np.random.default_rng(SEED)
    ids: np.ndarray = rng.permutation(10 * count)[:count]
    if doc_id == "string":
        ids = np.array([f"doc-{number}" for number in ids.tolist()], object)
    # Rows share the strings, as tables read from files do.
    columns = {
        f"field_{place}": np.array([str(value) for value in range(size)], object)[
            rng.integers(0, size, count)
        ]
        for place, size in enumerate(SIZES)
    }
    return DocumentTable(ids, columns)


def query(rng: np.random.Generator) -> dict[str, Any]:
    """Makes the query features of one request, by name."""
    return {
        "user_id": f"user-{rng.integers(USERS)}",
        "query": " ".join(rng.choice(_WORDS, 3)),
        "history": [str(value) for value in rng.integers(0, SIZES[-1], HISTORY)],
    }


def requests(table: DocumentTable, count: int, length: int) -> Iterator[dict[str, Any]]:
    """Makes training requests, as `datasets.write` takes them.

    Args:
        table: the documents.
        count: number of requests.
        length: documents of each.
    """
    rng = np.random.default_rng(SEED)
    for _ in range(count):
        rows = rng.choice(len(table), length, replace=False)
        yield {
            **query(rng),
            "doc_ids": table.ids[rows],
            "label/click": rng.integers(0, 2, length).astype(np.float32),
        }


def pairs(lists: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Makes a request of one document of every document of a request."""
    for request in lists:
        columns = ("doc_ids", "label/click")
        for place in range(len(request["doc_ids"])):
            one = {name: request[name][place : place + 1] for name in columns}
            yield {**request, **one}


def _vocabulary(folder: Path, place: int, size: int) -> str:
    path = folder / f"field_{place}.txt"
    path.write_text("".join(f"{value}\n" for value in range(size)), encoding="utf-8")
    return str(path)
