"""Several tasks at once: one model each, a shared bottom, MMoE and PLE.

Two data sets:

* `census-income`: income above 50,000 and never married, the first pair of tasks of the
  MMoE paper; 80% of the rows train, 10% choose the epoch, 10% are reported, by a seed.
  The rows are half of the official test file, so no published figure is beside them.
* `kuairand`: click, long view and like of short videos; the first 80% in time train,
  the next 10% choose, the last 10% are reported. All rows have a like or a hate, so
  that click-through is not that of the platform.

Every field is an embedding of 8 numbers; numbers become up to 32 buckets with as many
training rows. What the tasks share has 256 hidden units in every model: one layer of
256, or 8 experts of 32; PLE adds a second level of as many. Each task has a tower of 16
units. Single-task models have 256 units each, so they are as many times larger. Adam at
1e-3, batches of 1,024; after two epochs without a better mean AUC of the tasks the best
epoch's weights are taken.

Every model is trained with several seeds. A run is one JSON line, with a digest of its
setting and of the code it depends on; what was interrupted goes on after the last one.
The data are looked for in `$TFRS_PRERANK_DATA`, then in `../shared/data`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kept_runs
import measuring
import numpy as np
import pandas as pd
from classification import auc, sampling_error

import tfrs_prerank  # noqa: F401  (first of all, so that tf.keras is Keras 2)

# isort: split
import tensorflow as tf

from tfrs_prerank import layers

_SIZE, _BUCKETS, _TOWER = 8, 32, 16
_UNITS, _EXPERTS = 256, 8
_BATCH, _RATE, _PATIENCE, _EPOCHS = 1024, 1e-3, 2, 30
_SPLIT_SEED = 2021

Vectors = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of a data set.

    Attributes:
        rows: places in the embedding table, `[N, fields]`.
        labels: 0 or 1, `[N]` by task.
    """

    rows: np.ndarray
    labels: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        train: the training rows.
        choosing: the rows that the epochs are judged by.
        reported: the rows that are measured once for each run.
        table: rows of the embedding table.
    """

    train: Part
    choosing: Part
    reported: Part
    table: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self.train.labels)


# The models -------------------------------------------------------------------------


def shared_bottom(x: tf.Tensor, tasks: Sequence[str]) -> Vectors:
    """One layer for all tasks; of a single task, its own."""
    hidden = tf.keras.layers.Dense(_UNITS, "relu")(x)
    return dict.fromkeys(tasks, hidden)


def mmoe(x: tf.Tensor, tasks: Sequence[str]) -> Vectors:
    """Experts that all tasks share."""
    return layers.MMoE(tasks, _EXPERTS, [_UNITS // _EXPERTS])(x)


def ple(x: tf.Tensor, tasks: Sequence[str]) -> Vectors:
    """Two experts of each task beside shared ones, at two levels."""
    shared = _EXPERTS - 2 * len(tasks)
    return layers.PLE(tasks, shared, 2, 2, [_UNITS // _EXPERTS])(x)


MODELS: dict[str, Callable[[tf.Tensor, Sequence[str]], Vectors]] = {
    "single-task": shared_bottom,
    "shared bottom": shared_bottom,
    "MMoE": mmoe,
    "PLE": ple,
}


def make(name: str, tasks: Sequence[str], fields: int, table: int) -> tf.keras.Model:
    """Makes a model of rows `[B, fields]` with a logit `[B, 1]` for each task."""
    rows = tf.keras.Input([fields], dtype="int32")
    # What training never had stays close to zero.
    start = tf.keras.initializers.RandomNormal(stddev=1e-3)
    embedded = tf.keras.layers.Embedding(table, _SIZE, start)(rows)
    vectors = MODELS[name](tf.keras.layers.Flatten()(embedded), tasks)
    logits = {}
    for task in tasks:
        tower = tf.keras.layers.Dense(_TOWER, "relu")(vectors[task])
        logits[task] = tf.keras.layers.Dense(1, name=task)(tower)
    model = tf.keras.Model(rows, logits)
    model.compile(
        tf.keras.optimizers.Adam(_RATE),
        # The sum of the tasks' losses.
        {task: tf.keras.losses.BinaryCrossentropy(from_logits=True) for task in tasks},
    )
    return model


def train(model: tf.keras.Model, data: Data, seed: int, epochs: int) -> int:
    """Trains a model and leaves the best epoch's weights in it.

    Args:
        model: what `make` returns, of some of the tasks.
        data: the rows.
        seed: of the order of the rows.
        epochs: the most epochs.

    Returns:
        The best epoch, from 1.
    """
    best, chosen, weights = -np.inf, 0, model.get_weights()
    part, tasks = data.train, list(model.output)
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng([seed, epoch]).permutation(len(part.rows))
        labels = {task: part.labels[task][order] for task in tasks}
        model.fit(part.rows[order], labels, batch_size=_BATCH, shuffle=False, verbose=0)
        found = statistics.fmean(aucs(model, data.choosing).values())
        if found > best:
            best, chosen, weights = found, epoch, model.get_weights()
        elif epoch - chosen == _PATIENCE:
            break
    model.set_weights(weights)
    return chosen


def aucs(model: tf.keras.Model, part: Part) -> dict[str, float]:
    """Returns the AUC of each task that a model has."""
    return {
        task: auc(part.labels[task], scores)
        for task, scores in logits_of(model, part).items()
    }


def logits_of(model: tf.keras.Model, part: Part) -> dict[str, np.ndarray]:
    """Returns the logits `[N]` of each task that a model has."""
    predicted = model.predict(part.rows, batch_size=8 * _BATCH, verbose=0)
    return {task: logits[:, 0] for task, logits in predicted.items()}


# The data ---------------------------------------------------------------------------


def read_census(folder: Path) -> Data:
    """Reads Census-Income and splits it by a fixed seed.

    The income and the marital status are the tasks' labels; the instance weight says
    how many people a row stands for. None of them is a field.
    """
    frame = pd.read_csv(
        found(folder, "census-income.csv.gz"), header=None, skipinitialspace=True
    )
    labels = {"income": frame[41] == "50000+.", "never_married": frame[7] == _NEVER}
    fields = frame.drop(columns=[7, 24, 41])
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(frame))
    return encoded(fields, labels, order, numbers=(0, 5, 16, 17, 18, 39))


_NEVER = "Never married"


def read_kuairand(folder: Path) -> Data:
    """Reads KuaiRand's rows with a like or a hate, in the order of time.

    Fields are known before the video is shown: ids, the hour, and the user's features
    but for raw counts, which are there as ranges too.
    """
    events = pd.read_csv(
        found(folder, "kuairand27k_like_hate_kcore15.tsv.gz"), sep="\t"
    )
    users = pd.read_csv(found(folder, "user_features_pure.csv.gz"))
    counts = ["follow_user_num", "fans_user_num", "friend_user_num", "register_days"]
    frame = events.merge(users.drop(columns=counts), on="user_id", how="left")
    labels = {
        "click": frame["is_click"] == 1,
        "long_view": frame["long_view"] == 1,
        "like": frame["label"] == 1,
    }
    fields = frame[["user_id", "video_id", *users.columns.drop(["user_id", *counts])]]
    fields = fields.assign(hour=frame["hourmin"] // 100)
    order = np.argsort(frame["time_ms"].to_numpy(), kind="stable")
    return encoded(fields, labels, order)


READERS = {"census-income": read_census, "kuairand": read_kuairand}


def encoded(
    fields: pd.DataFrame,
    labels: Mapping[str, pd.Series],
    order: np.ndarray,
    numbers: Sequence[Any] = (),
) -> Data:
    """Gives every value a place in one table, by the training rows, and splits.

    Args:
        fields: a column for each field.
        labels: by task.
        order: of the rows: the first 80% train, the next 10% choose.
        numbers: columns that become buckets.

    Returns:
        The data; a value that training has not is the first place of its field.
    """
    fields = fields.iloc[order]
    first, second = (len(order) * share // 10 for share in (8, 9))
    columns, table = [], 0
    for name, column in fields.items():
        values = column.to_numpy()
        if name in numbers:
            edges = np.quantile(values[:first], np.linspace(0, 1, _BUCKETS + 1)[1:-1])
            values = np.searchsorted(np.unique(edges), values)
        places = pd.Index(pd.unique(values[:first])).get_indexer(values)
        columns.append(table + 1 + places)  # -1 where there is none
        table += 1 + places[:first].max() + 1
    rows = np.stack(columns, axis=1).astype(np.int32)
    ordered = {t: y.to_numpy()[order].astype(np.float32) for t, y in labels.items()}
    parts = [
        Part(rows[part], {task: y[part] for task, y in ordered.items()})
        for part in (slice(first), slice(first, second), slice(second, None))
    ]
    return Data(*parts, int(table))


def found(folder: Path, name: str) -> Path:
    """Returns the path of a file.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"no {folder / name}. Set TFRS_PRERANK_DATA to the folder that has "
            f"{folder.name}/ in it"
        )
    return folder / name


def data_folder() -> Path:
    """Returns where the data of the benchmarks are looked for."""
    given = os.environ.get("TFRS_PRERANK_DATA")
    return Path(given) if given else measuring.RESULTS.parents[2] / "shared" / "data"


def shortened(data: Data, rows: int) -> Data:
    """Returns the first rows of every part."""
    parts = (
        Part(part.rows[:rows], {task: y[:rows] for task, y in part.labels.items()})
        for part in (data.train, data.choosing, data.reported)
    )
    return Data(*parts, data.table)


# Runs and tables --------------------------------------------------------------------


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "multi_objective")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument(
        "--data", nargs="+", choices=READERS, default=list(READERS), metavar="DATA"
    )
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    epochs = _EPOCHS
    if options.small:
        epochs, options.seeds = 1, 1
    kept = options.results.with_name(f"{options.results.stem}_runs.jsonl")
    tables = {}
    for source in options.data:
        data = READERS[source](data_folder() / source)
        if options.small:
            data = shortened(data, 2 * _BATCH)
        runs: dict[str, list[dict[str, Any]]] = {}
        for name in MODELS:
            code = digest(source, name, data, epochs)
            for seed in range(options.seeds):
                run = functools.partial(measure, source, name, data, seed, epochs)
                runs.setdefault(name, []).append(
                    kept_runs.find_or_make(kept, f"{source}: {name}", seed, code, run)
                )
        tables[source.replace("-", "_")] = table(runs, data.tasks)
    measuring.report("multi_objective", options, tables)


def digest(source: str, name: str, data: Data, epochs: int) -> str:
    """Returns a digest of a run's setting and of the code that its numbers rest on."""
    told = (source, name, len(data.train.rows), data.table, epochs)
    own = Path(__file__).read_bytes()
    names = {layer.__module__ for layer in (layers.MMoE, layers.PLE)}
    return kept_runs.digest((told, own), kept_runs.modules(names))


def measure(
    source: str, name: str, data: Data, seed: int, epochs: int
) -> dict[str, Any]:
    """Trains a model and measures it once on the rows that chose nothing."""
    measuring.note(f"{source}: {name}, seed {seed}")
    started = time.perf_counter()
    together = (
        [[task] for task in data.tasks] if name == "single-task" else [data.tasks]
    )
    result: dict[str, Any] = {"auc": {}, "sampling error": {}, "epochs": []}
    result["weights beside embeddings"] = 0
    for tasks in together:
        tf.keras.utils.set_random_seed(seed)
        tf.keras.backend.clear_session()
        model = make(name, tasks, data.train.rows.shape[1], data.table)
        result["epochs"].append(train(model, data, seed, epochs))
        for task, logits in logits_of(model, data.reported).items():
            labels = data.reported.labels[task]
            result["auc"][task] = auc(labels, logits)
            result["sampling error"][task] = sampling_error(labels, logits)
        result["weights beside embeddings"] += model.count_params() - data.table * _SIZE
    result["seconds"] = time.perf_counter() - started
    return result


def table(
    runs: Mapping[str, list[dict[str, Any]]], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the AUC of every model and task: means and deviations over the seeds."""
    rows = []
    for name, own in runs.items():
        row: dict[str, Any] = {"model": name}
        for task in tasks:
            values = [run["auc"][task] for run in own]
            row[task] = round(statistics.fmean(values), 4)
            row[f"{task}: deviation"] = (
                round(statistics.stdev(values), 4) if len(values) > 1 else "one seed"
            )
        row["weights beside embeddings"] = own[0]["weights beside embeddings"]
        row["seconds"] = round(statistics.fmean(run["seconds"] for run in own))
        rows.append(row)
    every = [run for own in runs.values() for run in own]
    last = dict.fromkeys(rows[0], "none")
    last["model"] = "sampling error of an AUC"
    for task in tasks:
        error = statistics.fmean(run["sampling error"][task] for run in every)
        last[task] = round(error, 4)
    return [*rows, last]


if __name__ == "__main__":
    main()
