"""A pre-ranker for MovieLens-1M as a cascade, beside a ranker.

The requests are those of `cascade_lists.py`: what a user rated next among movies that
the user never rated, 200 candidates, of which the pre-ranker hands 50 on. Measured are
the share of the liked ones that it keeps (HitRate@50) and the share of the ranker's
first 10 that it keeps (HR@50,10).

The pre-rankers are two towers; the history of likes is attended to, or averaged. The
ranker is one tower over the features of both sides, in which the history is attended to
by user and movie together and all fields are multiplied with each other; it has to be
run for each pair. All read the same training lists, and keep the epoch that is best on
the validation users. The oracle knows the labels.

A run is a seed: it trains all models with one thread and measures them on the same
requests of the test users. Each is one JSON line, with a digest of its setting and of
the code that the models rest on; what was interrupted goes on after the last one.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cascade_lists
import kept_runs
import measuring
import pointwise
import ratings
from cascade_lists import TASK

from tfrs_prerank import (  # first of all, so that tf.keras is Keras 2
    Categorical,
    LazyAdam,
    PreRanker,
    Schema,
    Tower,
)

# isort: split
import tensorflow as tf

from tfrs_prerank.datasets.prepared import prepare
from tfrs_prerank.datasets.requests import RequestReader, read
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.metrics import GAUC, NDCG, HitRate, RankerHitRate
from tfrs_prerank.towers import Interaction

KEPT = 50
RANKER, TEACHER, LABEL = "single-tower ranker", f"teacher/{TASK}", f"label/{TASK}"
OUTCOME, IMITATION = f"hit_rate@{KEPT}", f"ranker_hit_rate@{KEPT},10"
METRICS = (OUTCOME, IMITATION, "ndcg@10", "gauc")

Batch = Mapping[str, tf.Tensor]
Scores = Callable[[Batch], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        encoder: of the history of likes.
        tower: every tower.
        epochs: how many there are.
        rate: learning rate of the first epoch; it falls in equal steps.
        batch: lists of a step.
    """

    encoder: str
    tower: Tower
    epochs: int
    rate: float = 3e-3
    batch: int = 256


def tower(*units: int, interaction: Interaction | None = None) -> Tower:
    """Returns a tower of some layers, with an interaction beside them or none."""
    return Tower(
        units=units,
        normalization="batch",
        dropout=0.1,
        dimension=32,
        output=64,
        interaction=interaction,
    )


PRERANKERS = {
    "two towers, zero attention": Training("zero_attention", tower(128), epochs=8),
    "two towers, mean": Training("mean", tower(128), epochs=8),
}
INNER = Interaction("bilinear", product="inner", kernel="identity")
# Target attention, as in DIN, would take six times as long for the same epochs.
OF_RANKER = Training(
    "zero_attention", tower(128, 64, interaction=INNER), epochs=8, batch=128
)


class Data(NamedTuple):
    """What is trained on and measured.

    Attributes:
        schema: with the vocabularies of the training requests.
        reader: from a part's name and further options to its batches.
        popularity: float32 `[M]`, how often each movie was rated in the past.
    """

    schema: Schema
    reader: Callable[..., RequestReader]
    popularity: tf.Tensor


class Fitted(NamedTuple):
    """A trained model, with the weights of its best epoch.

    Attributes:
        scores: from a batch to scores `[B, L]`.
        epoch: the best one, from 1.
        validation: its HitRate@50 on the validation users.
        seconds: of all epochs, the validation left out.
    """

    scores: Scores
    epoch: int
    validation: float
    seconds: float


def load(folder: Path, users: int | None) -> Data:
    """Reads MovieLens-1M and writes the requests of all parts.

    Args:
        folder: where they are written.
        users: only so many of them, default all.
    """
    lists = cascade_lists.read(ratings.folder(), users)
    prepared = folder / "prepared"
    schema = prepare(
        cascade_lists.make_schema(),
        lists.train,
        lists.validation,
        lists.test,
        lists.documents,
        prepared,
    )
    reader = functools.partial(read, prepared, schema=schema, documents=lists.documents)
    return Data(schema, reader, tf.constant(lists.popularity, tf.float32))


def fit(
    model: Any,
    scores: Scores,
    epochs: Iterable[Any],
    validation: Iterable[Batch],
    training: Training,
    note: Callable[[str], Any],
) -> Fitted:
    """Trains a model and leaves the weights of the epoch that is best in validation.

    Args:
        model: a Keras model.
        scores: its scores of a batch.
        epochs: the data of each epoch.
        validation: batches of the validation users.
        training: how it is trained.
        note: gets a line about every epoch.
    """
    model.compile(LazyAdam(training.rate))
    best, weights, seconds = Fitted(scores, 0, -1.0, 0.0), [], 0.0
    for done, data in enumerate(epochs):
        model.optimizer.learning_rate = training.rate * (1 - done / training.epochs)
        started = time.perf_counter()
        model.fit(data, verbose=0)
        seconds += time.perf_counter() - started
        rate = hit_rate(scores, validation)
        note(f"epoch {done + 1}: {OUTCOME} {rate:.4f}, {seconds:.0f} s")
        if rate > best.validation:
            best = Fitted(scores, done + 1, rate, 0.0)
            weights = model.get_weights()
    model.set_weights(weights)
    return best._replace(seconds=seconds)


def hit_rate(scores: Scores, data: Iterable[Batch]) -> float:
    """Returns the HitRate@50 of requests."""
    metric = HitRate(KEPT)
    for batch in data:
        metric.update_state(batch[LABEL], scores(batch), where=batch["mask"])
    return float(metric.result())


def fit_preranker(name: str, training: Training, data: Data, seed: int) -> Fitted:
    """Trains two towers."""
    schema = with_encoder(data.schema, training.encoder)
    tf.keras.utils.set_random_seed(seed)
    model = PreRanker(schema, training.tower, training.tower)
    reader = data.reader("train", batch_size=training.batch, seed=seed)
    return fit(
        model,
        lambda batch: model(batch)["scores"],
        [reader] * training.epochs,  # the model counts, and each has its own order
        data.reader("validation", batch_size=64, shuffle=False),
        training,
        lambda line: measuring.note(f"{name}, seed {seed}, {line}"),
    )


def fit_ranker(name: str, training: Training, data: Data, seed: int) -> Fitted:
    """Trains one tower on the pairs of all lists."""
    schema = one_sided(with_encoder(data.schema, training.encoder))
    tf.keras.utils.set_random_seed(seed)
    model = pointwise.SingleTower(schema, training.tower)
    reader = data.reader("train", batch_size=training.batch, seed=seed)
    labelled = functools.partial(pairs, data.schema)

    def scores(batch: Batch) -> tf.Tensor:
        places = tf.where(batch["mask"])
        logits = model(pairs(data.schema, batch, places))
        shape = tf.shape(batch["mask"], out_type=tf.int64)
        return tf.scatter_nd(places, logits, shape)

    return fit(
        model,
        scores,
        (reader(epoch).map(labelled) for epoch in range(training.epochs)),
        data.reader("validation", batch_size=64, shuffle=False),
        training,
        lambda line: measuring.note(f"{name}, seed {seed}, {line}"),
    )


def pairs(
    schema: Schema, batch: Batch, places: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Returns requests with lists as rows of one user and one movie.

    Args:
        schema: says which columns belong to a request and which to a movie.
        batch: requests.
        places: int64 `[V, 2]`, request and place in its list of each row; default
            those with a label.

    Returns:
        Columns `[V]` or `[V, T]`, and the labels `[V, 1]`.
    """
    if places is None:
        places = tf.where(batch["mask"] & ~tf.math.is_nan(batch[LABEL]))
    of_user = {
        name: tf.gather(batch[name], places[:, 0]) for name in schema.columns("query")
    }
    of_movie = {
        name: tf.gather_nd(batch[name], places) for name in schema.columns("doc")
    }
    label = tf.gather_nd(batch[LABEL], places)[:, tf.newaxis]
    return {**of_user, **of_movie, pointwise.LABEL: label}


def with_encoder(schema: Schema, encoder: str) -> Schema:
    """Returns a schema whose history is encoded in another way."""
    features = [
        dataclasses.replace(f, encoder=encoder) if f.name == "history" else f
        for f in schema.features
    ]
    changed: Schema = dataclasses.replace(schema, features=tuple(features))
    return changed


def one_sided(schema: Schema) -> Schema:
    """Returns a schema in which one tower may read all features."""
    features = [
        dataclasses.replace(f, owner="query") if f.owner == "doc" else f
        for f in schema.features
    ]
    # A schema has features of both sides; the single tower does not read this.
    features.append(Categorical("unread", "doc", buckets=1, dtype="int64"))
    changed: Schema = dataclasses.replace(schema, features=tuple(features))
    return changed


def measure(data: Data, is_small: bool, seed: int) -> dict[str, Any]:
    """Trains all models with one seed and reads the test requests, once.

    Returns:
        What each row reached, with the ends of its 95% interval over users, and how far
        the ranker is above it; and how each model was trained.
    """
    shorter: dict[str, Any] = {"epochs": 1} if is_small else {}
    ranker = fit_ranker(RANKER, dataclasses.replace(OF_RANKER, **shorter), data, seed)
    fitted = {RANKER: ranker}
    for name, training in PRERANKERS.items():
        training = dataclasses.replace(training, **shorter)
        fitted[name] = fit_preranker(name, training, data, seed)

    def requests() -> Iterator[dict[str, tf.Tensor]]:
        for batch in data.reader("test", batch_size=64, shuffle=False):
            yield {**batch, TEACHER: ranker.scores(batch)}

    evaluation = evaluate(
        {
            RANKER: TEACHER,
            **{name: fitted[name].scores for name in PRERANKERS},
            # Pads are -1, and padding is not ranked.
            "popularity": lambda batch: tf.gather(
                data.popularity, tf.maximum(batch["doc_ids"], 0)
            ),
            "random": "random",
            "oracle": LABEL,
        },
        requests(),
        metrics=[HitRate(KEPT), RankerHitRate(KEPT, 10), NDCG(10), GAUC()],
        tasks=TASK,
    )
    measuring.note(str(evaluation))
    values: dict[str, dict[str, list[float | None]]] = {}
    for record in evaluation.records:
        of_row = values.setdefault(record.row, {})
        of_row[record.metric] = [record.value, record.low, record.high]
    return {
        "values": values,
        "ranker minus": {
            difference.other: [difference.value, difference.low, difference.high]
            for difference in evaluation.differences
            if difference.metric == OUTCOME
        },
        "trained": {
            name: {
                "epoch": model.epoch,
                "validation": model.validation,
                "seconds": model.seconds,
            }
            for name, model in fitted.items()
        },
    }


def cascade_table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns every row's mean over the seeds, the best outcome first."""
    rows = []
    for name in runs[0]["values"]:
        row: dict[str, Any] = {"what": name}
        for metric in METRICS:
            found = [run["values"][name][metric][0] for run in runs]
            row[metric] = round(statistics.fmean(found), 4)
            if metric in (OUTCOME, IMITATION):
                row[f"deviation of {metric}"] = _deviation(found)
        trained = [run["trained"].get(name) for run in runs]
        row["seconds"] = (
            round(statistics.fmean(t["seconds"] for t in trained))
            if trained[0]
            else "-"
        )
        rows.append(row)
    return sorted(rows, key=lambda row: -row[OUTCOME])


def difference_table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns how far the ranker is above each row, seed by seed."""
    return [
        {
            "ranker minus": name,
            "seed": run["seed"],
            OUTCOME: round(value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
        for name in PRERANKERS
        for run in runs
        for value, low, high in [run["ranker minus"][name]]
    ]


def target_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns how far the ranker is above the best pre-ranker, beside the aim."""
    found = {row["what"]: row[OUTCOME] for row in rows}
    best = max(PRERANKERS, key=found.__getitem__)
    above = found[RANKER] - found[best]
    what = f"{RANKER} above {best}: {OUTCOME}"
    return [measuring.target(what, above, 0.01, at_most=False)]


def _deviation(values: list[float]) -> float | str:
    return round(statistics.stdev(values), 4) if len(values) > 1 else "one seed"


def digest(is_small: bool) -> str:
    """Returns a digest of the setting and of the code that the models rest on."""
    names = (PreRanker.__module__, pointwise.__name__, cascade_lists.__name__)
    told = (PRERANKERS, OF_RANKER, KEPT, METRICS, is_small)
    return kept_runs.digest(told, {ratings.__name__, *kept_runs.modules(names)})


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "cascade")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    kept = options.results.with_name(f"{options.results.stem}_runs.jsonl")
    seeds = range(1, 1 + (1 if options.small else options.seeds))
    code, runs = digest(options.small), []
    with tempfile.TemporaryDirectory() as folder:
        # Not read where all runs are kept.
        data = functools.cache(
            lambda: load(Path(folder), 200 if options.small else None)
        )
        for seed in seeds:
            runs.append(
                kept_runs.find_or_make(
                    kept,
                    "cascade",
                    seed,
                    code,
                    lambda seed=seed: measure(data(), options.small, seed),
                )
            )
    rows = cascade_table(runs)
    tables = {
        "cascade": rows,
        "differences": difference_table(runs),
        "targets": target_table(rows),
    }
    measuring.report("cascade", options, tables)


if __name__ == "__main__":
    main()
