"""Small models and random requests for the tests of `tfrs_prerank.models`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import tfrs_prerank as tp

Arrays = dict[str, np.ndarray]

NAN = float("nan")


def small_schema(
    tasks: Sequence[str] = ("click",),
    *,
    l2: float = 0.0,
    id_dropout: float = 0.0,
    position: bool = False,
    fuse: Sequence[float] | None = None,
) -> tp.Schema:
    """A user and a history, a document's id and year, and one match of the two."""
    features: list[Any] = [
        tp.Categorical(
            "user_id", "query", buckets=20, dimension=4, l2=l2, id_dropout=id_dropout
        ),
        tp.Sequence("history", shares="movie_id", max_length=3),
        tp.Categorical("movie_id", "doc", buckets=20, dimension=4, l2=l2),
        tp.Numeric("year", "doc", dimension=4),
        tp.Match("seen", "history", "movie_id", "contains", dimension=4),
    ]
    if position:
        features.append(
            tp.Categorical(
                "position",
                "doc",
                buckets=10,
                dtype="int64",
                dimension=4,
                training_only=True,
            )
        )
    weights = fuse or [1.0] * len(tasks)
    return tp.Schema(
        features=features,
        tasks=[tp.Task(t, fuse=w) for t, w in zip(tasks, weights, strict=True)],
    )


def small_model(
    schema: tp.Schema | None = None,
    *,
    normalization: Any = None,
    dropout: float = 0.0,
    seed: int = 1,
    **parts: Any,
) -> tp.PreRanker:
    """A three-tower model; equal seeds give equal weights."""
    tf.keras.utils.set_random_seed(seed)
    tower = tp.Tower(
        units=(8,),
        normalization=normalization,
        dropout=dropout,
        dimension=4,
        output=4,
    )
    cross = tp.Tower(units=(4,), dimension=4)
    return tp.PreRanker(schema or small_schema(), tower, tower, cross, **parts)


def random_requests(
    number: int,
    length: int,
    tasks: Sequence[str] = ("click",),
    *,
    seed: int = 0,
    weights: bool = False,
    position: bool = False,
) -> Arrays:
    """Requests with lists of 1 to `length` documents, padded as the contract says."""
    rng = np.random.default_rng(seed)
    shape = (number, length)
    mask = np.arange(length) < rng.integers(1, length + 1, (number, 1))
    mask[0] = True

    def ids(prefix: str, count: int, *size: int) -> np.ndarray:
        return np.char.add(prefix, rng.integers(0, count, size).astype(str))

    # No document twice in a list: rounding would break its ties.
    numbers = rng.permuted(np.tile(np.arange(12), (number, 1)), axis=1)[:, :length]
    movies = np.where(mask, np.char.add("m", numbers.astype(str)), "").astype(object)
    arrays: Arrays = {
        "user_id": ids("u", 6, number).astype(object),
        "history": ids("m", 12, number, 3).astype(object),
        "movie_id": movies,
        "year": np.where(mask, year_of(movies), 0).astype(np.float32),
        "doc_ids": movies.copy(),
        "mask": mask,
        "stage": np.where(mask, rng.integers(0, 3, shape), -1).astype(np.int32),
    }
    if position:
        arrays["position"] = np.where(mask, np.arange(length), -1).astype(np.int32)
    for task in tasks:
        labels = rng.integers(0, 2, shape).astype(np.float32)
        labels[rng.random(shape) < 0.1] = NAN
        arrays[f"label/{task}"] = np.where(mask, labels, NAN).astype(np.float32)
        if weights:
            drawn = rng.choice([0.0, 0.5, 1.0, 3.0], shape)
            arrays[f"weight/{task}"] = np.where(mask, drawn, NAN).astype(np.float32)
    return arrays


def year_of(movies: np.ndarray) -> np.ndarray:
    """A number for each document id: a static column, the same in every request."""
    numbers = [int(movie[1:] or -1) for movie in movies.ravel()]
    return np.sin(np.array(numbers, np.float32)).reshape(movies.shape)


def padded(arrays: Arrays, columns: int, garbage: bool = False) -> Arrays:
    """Makes lists longer by masked columns: pads, or values that must not count."""
    longer = {}
    length = arrays["mask"].shape[1]
    for name, values in arrays.items():
        if name in ("user_id", "history"):
            longer[name] = values
            continue
        if name == "mask":
            fill: Any = False
        elif values.dtype == object:
            fill = "garbage" if garbage else ""
        elif values.dtype == np.int32:
            fill = 0 if garbage else -1
        elif "/" in name:
            fill = 1.0 if garbage else NAN
        else:
            fill = NAN if garbage else 0.0
        width = [(0, 0), (0, columns)] + [(0, 0)] * (values.ndim - 2)
        longer[name] = np.pad(values, width, constant_values=fill)
        if garbage:
            outside = ~np.pad(arrays["mask"], width[:2])
            longer[name][outside] = fill
        assert longer[name].shape[1] == length + columns
    return longer


def take(arrays: Arrays, start: int, stop: int) -> dict[str, tf.Tensor]:
    """A batch of some of the requests."""
    return {
        name: tf.constant(values[start:stop].tolist(), _dtype(values))
        for name, values in arrays.items()
    }


def dataset(arrays: Arrays, batch: int) -> tf.data.Dataset:
    """Batches of the requests, in order."""
    number = len(arrays["mask"])
    return tf.data.Dataset.from_tensor_slices(take(arrays, 0, number)).batch(batch)


def _dtype(values: np.ndarray) -> tf.DType:
    return tf.string if values.dtype == object else tf.dtypes.as_dtype(values.dtype)


def state_of(model: tp.PreRanker) -> dict[str, np.ndarray]:
    """Every weight and moving statistic of the network, by place and name."""
    weights = enumerate(model.network.weights)
    # Keras numbers its names: dense, dense_1, ...
    return {f"{n} {re.sub(r'_[0-9]+', '', v.name)}": v.numpy() for n, v in weights}


def assert_same_state(
    left: dict[str, np.ndarray], right: dict[str, np.ndarray], tolerance: float
) -> None:
    """Every variable of the one equals that of the other."""
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(
            left[name], right[name], atol=tolerance, rtol=0, err_msg=name
        )


def steady_adam(learning_rate: float = 0.01) -> tp.LazyAdam:
    """Adam with an epsilon above rounding noise, which it would make steps of.

    The bias of a dense layer under batch normalisation has no gradient but noise.
    """
    return tp.LazyAdam(learning_rate, epsilon=1e-3)
