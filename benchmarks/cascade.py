"""A pre-ranker for MovieLens-1M as a cascade, and what it learns from a ranker.

The requests are those of `cascade_lists.py`: what a user rated next among movies that
the user never rated, 200 candidates, of which the pre-ranker hands 50 on. Measured are
the share of the liked ones that it keeps (HitRate@50) and the share of the ranker's
first 10 that it keeps (HR@50,10).

The ranker reads two privileged features of each pair: how well the movie goes with all
that the user liked before, by the likes of other users, and the same of all that was
rated. Its history is attended to by
user and movie together, and all fields are multiplied with each other; it has to be run
for each pair. The pre-ranker is two towers without them. Distilled, the same
two towers also learn from the ranker's logits of their training lists; nothing else
differs. All keep the epoch that is best on the validation users. The oracle knows the
labels.

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
import co_occurrence
import kept_runs
import measuring
import ratings
from cascade_lists import PAIR_FEATURES, TASK

from tfrs_prerank import (  # first of all, so that tf.keras is Keras 2
    LazyAdam,
    Objective,
    PreRanker,
    Ranker,
    Schema,
    Term,
    Tower,
)

# isort: split
import tensorflow as tf

from tfrs_prerank.datasets.prepared import prepare
from tfrs_prerank.datasets.requests import RequestReader, read
from tfrs_prerank.evaluation import compare, evaluate
from tfrs_prerank.metrics import GAUC, NDCG, HitRate, RankerHitRate
from tfrs_prerank.towers import Interaction

KEPT = 50
RANKER, PLAIN, DISTILLED = "ranker", "two towers", "two towers, distilled"
PAIRS = ((RANKER, PLAIN), (DISTILLED, PLAIN), (RANKER, DISTILLED))
TEACHER, LABEL = f"teacher/{TASK}", f"label/{TASK}"
OUTCOME, IMITATION = f"hit_rate@{KEPT}", f"ranker_hit_rate@{KEPT},10"
METRICS = (OUTCOME, IMITATION, "ndcg@10", "gauc")

Batch = Mapping[str, tf.Tensor]
Scores = Callable[[Batch], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        tower: every tower.
        objective: what is optimised.
        epochs: how many there are.
        rate: learning rate of the first epoch; it falls in equal steps.
        batch: lists of a step.
    """

    tower: Tower
    objective: Objective
    epochs: int = 6
    rate: float = 3e-3
    batch: int = 64


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


HARD, SOFT = Term(TASK), Term(TASK, "distillation", form="sigmoid")
PRERANKERS = {
    PLAIN: Training(tower(128), Objective((HARD,))),
    DISTILLED: Training(tower(128), Objective((HARD, SOFT))),
}
INNER = Interaction("bilinear", product="inner", kernel="identity")
# From the third epoch on it learns the lists by heart.
OF_RANKER = Training(
    tower(128, 64, interaction=INNER), Objective((HARD,)), epochs=2, batch=128
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


def fit_preranker(
    name: str, training: Training, data: Data, seed: int, ranker: Ranker
) -> Fitted:
    """Trains two towers; the ranker's logits are there for who reads them."""
    tf.keras.utils.set_random_seed(seed)
    model = PreRanker(
        data.schema, training.tower, training.tower, objective=training.objective
    )
    return _fit(name, model, training, data, seed, ranker.teach)


def fit_ranker(training: Training, data: Data, seed: int) -> tuple[Ranker, Fitted]:
    """Trains the ranker."""
    tf.keras.utils.set_random_seed(seed)
    model = Ranker(
        data.schema,
        training.tower,
        training.objective,
        # Target attention would take six times as long for the same epochs.
        attention="zero_attention",
    )
    return model, _fit(RANKER, model, training, data, seed)


def _fit(
    name: str,
    model: PreRanker | Ranker,
    training: Training,
    data: Data,
    seed: int,
    teach: Callable[[Batch], Batch] | None = None,
) -> Fitted:
    reader = data.reader("train", batch_size=training.batch, seed=seed)
    learns = any(term.loss == "distillation" for term in training.objective.terms)

    def requests(epoch: tf.Tensor) -> tf.data.Dataset:
        return reader(epoch).map(teach) if learns else reader(epoch)

    return fit(
        model,
        tf.function(lambda batch: model(batch)["scores"], reduce_retracing=True),
        [requests] * training.epochs,  # the model counts, and each has its own order
        data.reader("validation", batch_size=64, shuffle=False),
        training,
        lambda line: measuring.note(f"{name}, seed {seed}, {line}"),
    )


def measure(data: Data, is_small: bool, seed: int) -> dict[str, Any]:
    """Trains all models with one seed and reads the test requests, once.

    Returns:
        What each row reached, with the ends of its 95% interval over users; how far
        the ranker and the distilled pre-ranker are above it; and how each model was
        trained.
    """
    shorter: dict[str, Any] = {"epochs": 1} if is_small else {}

    def setting(training: Training) -> Training:
        return dataclasses.replace(training, **shorter)

    ranker, fitted_ranker = fit_ranker(setting(OF_RANKER), data, seed)
    fitted = {RANKER: fitted_ranker}
    for name, training in PRERANKERS.items():
        fitted[name] = fit_preranker(name, setting(training), data, seed, ranker)

    def requests() -> Iterator[dict[str, tf.Tensor]]:
        for batch in data.reader("test", batch_size=64, shuffle=False):
            yield ranker.teach(batch)

    evaluation = evaluate(
        {
            RANKER: TEACHER,
            **{name: fitted[name].scores for name in PRERANKERS},
            # Pads are -1, and padding is not ranked.
            **{name: name for name in PAIR_FEATURES},
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
    compared = compare(evaluation, RANKER, *PRERANKERS)
    return {
        "values": values,
        "differences": {
            f"{row} minus {other}": [difference.value, difference.low, difference.high]
            for row, other in PAIRS
            for difference in [compared.difference(TASK, OUTCOME, row, other)]
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
    """Returns how far models are from each other, seed by seed."""
    return [
        {
            "difference": name,
            "seed": run["seed"],
            OUTCOME: round(value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
        for name in runs[0]["differences"]
        for run in runs
        for value, low, high in [run["differences"][name]]
    ]


def target_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns what is to be distilled and what was, beside the aims."""
    found = {row["what"]: row for row in rows}

    def above(name: str, other: str, metric: str, least: float) -> dict[str, Any]:
        value = found[name][metric] - found[other][metric]
        what = f"{name} above {other}: {metric}"
        return measuring.target(what, value, least, at_most=False)

    return [
        above(RANKER, PLAIN, OUTCOME, 0.01),
        above(RANKER, PLAIN, "gauc", 0.01),
        above(DISTILLED, PLAIN, OUTCOME, 0.0),
        above(DISTILLED, PLAIN, IMITATION, 0.0),
    ]


def _deviation(values: list[float]) -> float | str:
    return round(statistics.stdev(values), 4) if len(values) > 1 else "one seed"


def digest(is_small: bool) -> str:
    """Returns a digest of the setting and of the code that the models rest on."""
    package = (PreRanker.__module__, Ranker.__module__)
    own = {m.__name__ for m in (ratings, cascade_lists, co_occurrence)}
    told = (PRERANKERS, OF_RANKER, KEPT, METRICS, is_small)
    return kept_runs.digest(told, own | {*kept_runs.modules(package)})


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
