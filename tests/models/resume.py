"""A training that is interrupted, and what goes on with it in a fresh process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import random_requests, state_of, steady_adam, take
from tfrs_prerank.metrics import NDCG


def schema_of(folder: Path) -> tp.Schema:
    """Features with files: a vocabulary of ids and statistics of a number."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "movies.txt"
    vocabulary.write_text("".join(f"m{n}\n" for n in range(10)), encoding="utf-8")
    statistics = folder / "numbers.json"
    statistics.write_text('{"year": {"mean": 0.25, "std": 0.5}}', encoding="utf-8")
    return tp.Schema(
        features=[
            tp.Categorical("user_id", "query", buckets=20, dimension=4, id_dropout=0.3),
            tp.Sequence("history", shares="movie_id", max_length=3),
            tp.Categorical(
                "movie_id",
                "doc",
                vocabulary=str(vocabulary),
                dimension=4,
                id_dropout=0.3,
            ),
            tp.Numeric(
                "year",
                "doc",
                standardize=True,
                statistics=str(statistics),
                dimension=4,
            ),
        ],
        tasks=[tp.Task("click")],
    )


def model_of(schema: tp.Schema, seed: int = 1) -> tp.PreRanker:
    tf.keras.utils.set_random_seed(seed)
    tower = tp.Tower(
        units=(8,), normalization="batch", dropout=0.3, dimension=4, output=4
    )
    model = tp.PreRanker(schema, tower, tower)
    model.compile(steady_adam(), metrics=[NDCG(3)])
    return model


def shuffled() -> Callable[[Any], tf.data.Dataset]:
    """From an epoch's number to its batches."""
    columns = take(random_requests(16, 4), 0, 16)

    def make(epoch: Any) -> tf.data.Dataset:
        seed = tf.stack([7, tf.cast(epoch, tf.int32)])
        order = tf.random.experimental.stateless_shuffle(tf.range(16), seed)
        rows = tf.data.Dataset.from_tensor_slices(order).batch(4)
        return rows.map(lambda row: {n: tf.gather(c, row) for n, c in columns.items()})

    return make


def main(directory: str, target: str) -> None:
    """Loads a run directory, trains one epoch more and writes the weights."""
    model = tp.PreRanker.load(directory)
    assert model.epochs_trained == 1
    assert model.optimizer.iterations == 4
    model.fit(shuffled(), verbose=0)
    np.savez(target, **state_of(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
