"""Training: request-major data beside one row per pair, and the optimisers.

1. The same towers on the same (request, document) pairs: once as lists of 32 in one
   record, once as one record per pair, in batches of as many pairs. Both are read from
   TFRecords of their own. A history of 50 passes the zero attention.
2. The same pairs in both forms where the history passes one block of a Transformer,
   which runs once a record.
3. A training step with two tables, of users and of documents, each with 32 numbers a
   row, and the default towers, under `LazyAdam` and the Adam and Adagrad of tf.keras.

All subjects run in turn, an epoch each, until two runs of each agree within 10%.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catalogue
import measuring
import numpy as np
import tensorflow as tf
from measuring import Timing, significant

from tfrs_prerank import (
    Categorical,
    LazyAdam,
    PreRanker,
    Schema,
    Sequence,
    Task,
    Tower,
    datasets,
)

LENGTH = 32


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "training").parse_args()
    small = options.small
    with tempfile.TemporaryDirectory() as folder:
        data = data_timings(Path(folder), small)
        behaviours = behaviour_timings(Path(folder), small)
    optimizers = optimizer_timings(small)
    tables = {
        "data": data_table(data),
        "behaviours": data_table(behaviours),
        "optimizers": optimizer_table(optimizers),
        "targets": target_table(data, behaviours, optimizers),
    }
    measuring.report("training", options, tables)


class _EpochTime(tf.keras.callbacks.Callback):
    """Takes the time of an epoch, from before its first batch is read."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self._started


def epoch_of(model: PreRanker, data: Any) -> Callable[[], float]:
    """Returns a function that trains for an epoch and returns its seconds."""
    timer = _EpochTime()

    def run() -> float:
        model.fit(data, verbose=0, callbacks=[timer])
        return timer.seconds

    run()  # traces the step
    return run


# 1: lists beside pairs.


def data_timings(folder: Path, small: bool) -> dict[str, tuple[int, Timing]]:
    """Times an epoch of both forms of the same data.

    Returns:
        By form, the number of pairs of an epoch and its time.
    """
    lists = 8192 if not small else 8
    batch = 64 if not small else 4
    documents = catalogue.documents(10_000 if not small else 100, "int64")
    models, readers = {}, {}
    for form, size in (("lists", batch), ("pairs", batch * LENGTH)):
        models[form] = catalogue.model(folder, "int64")
        models[form].compile()
        made = catalogue.requests(documents, lists, LENGTH)
        schema = models[form].schema
        datasets.write(
            folder, form, schema, made if form == "lists" else catalogue.pairs(made)
        )
        readers[form] = datasets.read(
            folder, form, schema=schema, documents=documents, batch_size=size
        )
    check_same_loss(models, readers)
    subjects = {form: epoch_of(models[form], readers[form]) for form in models}
    measuring.note("timing lists and pairs")
    timings = measuring.settle(subjects, rounds=8 if not small else 2)
    return {form: (lists * LENGTH, timing) for form, timing in timings.items()}


def check_same_loss(models: dict[str, PreRanker], readers: dict[str, Any]) -> None:
    """Raises unless both forms have the same loss: like is compared with like."""
    losses = [
        models[form].evaluate(readers[form], return_dict=True, verbose=0)["loss"]
        for form in models
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def data_table(data: dict[str, tuple[int, Timing]]) -> list[dict[str, Any]]:
    """Returns pairs per second of both forms."""
    titles = {
        "lists": f"one record per request, {LENGTH} documents each",
        "pairs": "one record per (request, document) pair",
    }
    slowest = max(timing.seconds for _, timing in data.values())
    return [
        {
            "data": titles[form],
            "pairs per second": significant(pairs / timing.seconds),
            "times the slower": significant(slowest / timing.seconds),
            "two runs within 10%": "yes" if timing.settled else "no",
        }
        for form, (pairs, timing) in data.items()
    ]


# 2: lists beside pairs, under a Transformer.


def behaviour_timings(folder: Path, small: bool) -> dict[str, tuple[int, Timing]]:
    """Times the first batches of the data of `data_timings`, under a Transformer.

    Returns:
        By form, the number of pairs of an epoch and its time.
    """
    batch = 64 if not small else 4
    # Enough for an epoch of lists to take a second: shorter ones differ too much.
    steps = 64 if not small else 2
    documents = catalogue.documents(10_000 if not small else 100, "int64")
    models, batches = {}, {}
    for form, size in (("lists", batch), ("pairs", batch * LENGTH)):
        models[form] = transformer_model(folder)
        models[form].compile()
        reader = datasets.read(
            folder,
            form,
            schema=models[form].schema,
            documents=documents,
            batch_size=size,
            shuffle=False,  # the first batches are then the same pairs
        )
        batches[form] = reader(0).take(steps)
    check_same_loss(models, batches)
    subjects = {form: epoch_of(models[form], batches[form]) for form in models}
    measuring.note("timing lists and pairs under a Transformer")
    timings = measuring.settle(subjects, rounds=8 if not small else 2)
    pairs = steps * batch * LENGTH
    return {form: (pairs, timing) for form, timing in timings.items()}


def transformer_model(folder: Path) -> PreRanker:
    """Makes the model of the catalogue with one block over the history."""
    made = catalogue.model(folder, "int64")
    features = [
        dataclasses.replace(feature, encoder="transformer")
        if isinstance(feature, Sequence)
        else feature
        for feature in made.schema.features
    ]
    schema = dataclasses.replace(made.schema, features=tuple(features))
    tf.keras.utils.set_random_seed(catalogue.SEED)
    return PreRanker(schema, **made.declarations.arguments())


# 3: optimisers.


def optimizer_timings(small: bool) -> dict[tuple[str, int], Timing]:
    """Times a training step.

    Returns:
        By optimiser and rows of each table, the time of one step.
    """
    many, few = (1_000_000, 10_000) if not small else (20_000, 1_000)
    steps = 20 if not small else 4
    cases = [
        ("LazyAdam", LazyAdam, many),
        ("Adam", tf.keras.optimizers.Adam, many),
        ("Adagrad", tf.keras.optimizers.Adagrad, many),
        ("LazyAdam", LazyAdam, few),
    ]
    subjects = {}
    for name, optimizer, rows in cases:
        model = id_model(rows)
        model.compile(optimizer=optimizer())
        run = epoch_of(model, id_batches(rows, steps))
        subjects[f"{name} {rows}"] = lambda run=run: run() / steps
    measuring.note("timing the optimisers")
    timings = measuring.settle(subjects, rounds=8 if not small else 2)
    return {(name, rows): timings[f"{name} {rows}"] for name, _, rows in cases}


def id_model(rows: int) -> PreRanker:
    """Makes a model of two tables and the default towers."""
    options: dict[str, Any] = {"buckets": rows, "dtype": "int64", "dimension": 32}
    tower = Tower(dimension=32)
    schema = Schema(
        features=[
            Categorical("user", "query", **options),
            Categorical("document", "doc", **options),
        ],
        tasks=[Task("click")],
        doc_id="int64",
    )
    return PreRanker(schema, tower, tower)


def id_batches(rows: int, steps: int, requests: int = 64) -> tf.data.Dataset:
    """Makes batches in memory, with ids that are drawn evenly."""
    rng = np.random.default_rng(catalogue.SEED)
    shape = (steps, requests, LENGTH)
    documents = rng.integers(0, rows, shape)
    return tf.data.Dataset.from_tensor_slices(
        {
            "user": rng.integers(0, rows, shape[:2]),
            "document": documents,
            "doc_ids": documents,
            "mask": np.ones(shape, bool),
            "label/click": rng.integers(0, 2, shape).astype(np.float32),
        }
    )


def optimizer_table(optimizers: dict[tuple[str, int], Timing]) -> list[dict[str, Any]]:
    """Returns the time of a step, and pairs per second."""
    first = next(iter(optimizers.values()))
    return [
        {
            "optimiser": name,
            "rows of each table": rows,
            "ms a step": significant(1000 * timing.seconds),
            "pairs per second": significant(64 * LENGTH / timing.seconds),
            "times LazyAdam's step": significant(timing.seconds / first.seconds),
            "two runs within 10%": "yes" if timing.settled else "no",
        }
        for (name, rows), timing in optimizers.items()
    ]


def target_table(
    data: dict[str, tuple[int, Timing]],
    behaviours: dict[str, tuple[int, Timing]],
    optimizers: dict[tuple[str, int], Timing],
) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    lists, pairs = data["lists"][1].seconds, data["pairs"][1].seconds
    under = behaviours["pairs"][1].seconds / behaviours["lists"][1].seconds
    many, few = max(rows for _, rows in optimizers), min(rows for _, rows in optimizers)
    lazy = optimizers["LazyAdam", many].seconds
    adam = optimizers["Adam", many].seconds
    growth = lazy / optimizers["LazyAdam", few].seconds
    return [
        measuring.target(
            "lists: times the pairs per second", pairs / lists, 3.0, False
        ),
        measuring.target(
            "lists under a Transformer: times the pairs per second", under, 5.0, False
        ),
        measuring.target("LazyAdam: times as fast as Adam", adam / lazy, 3.0, False),
        measuring.target(
            f"LazyAdam: step at {many:,} rows / at {few:,}", growth, 1.3, True
        ),
    ]


if __name__ == "__main__":
    main()
