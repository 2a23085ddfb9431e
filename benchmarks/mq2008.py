"""Learning to rank on MQ2008: each list loss, beside LightGBM's LambdaRank.

The queries are those of LETOR's MQ2008, with 46 features of each document and grades 0,
1 and 2. S1 and S2 train, S3 chooses and S4 is reported; queries without a relevant
document are left out of all. NDCG@10 is that of `tfrs_prerank.metrics` for everything.

* An MLP scores every document by its features. These are of a query and a document
  together, so that two towers would have nothing to encode: it is a plain Keras model
  of lists `[B, L]`, compiled with a loss of `tfrs_prerank.losses`, and the end of a
  list is NaN grades. `sigmoid_cross_entropy` reads half the grade, all others the
  grade. Adam, about 32 lists a step; after 15 epochs without a better NDCG@10 on S3 the
  best epoch's weights are taken. 20 random draws of the setting are trained with one
  seed and three of the losses; the draw with the best mean on S3 is trained with every
  loss and five other seeds, which read S4.
* LightGBM trains `lambdarank` with 20 random draws of its parameters; after 100 trees
  without a better NDCG@10 on S3 the best number of trees is taken. Every draw reads S4.

`SETTINGS` and `PARAMETERS` are what is drawn from; draw `n` has the seed `[2008, n]`.

Every run is one JSON line, with a digest of its setting and of the code it depends on;
what was interrupted goes on after the last one. The data are looked for in
`$TFRS_PRERANK_DATA`, then in `../shared/data`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kept_runs
import letor
import lightgbm
import measuring
import numpy as np
from multi_objective import data_folder, found

import tfrs_prerank  # noqa: F401  (first of all, so that tf.keras is Keras 2)

# isort: split
import tensorflow as tf

from tfrs_prerank import losses
from tfrs_prerank.metrics import NDCG

_FEATURES, _HIGHEST_GRADE = 46, 2
_SEED, _DRAWS, _SEEDS = 2008, 20, 5
_BATCH, _EPOCHS, _PATIENCE = 32, 200, 15
_TREES, _TREE_PATIENCE = 2000, 100

Run = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Data:
    """The queries of each part.

    Attributes:
        train: what is learned from.
        choosing: what epochs, trees, settings and the loss are chosen by.
        reported: what is measured.
    """

    train: letor.Queries
    choosing: letor.Queries
    reported: letor.Queries


@dataclasses.dataclass(frozen=True)
class Setting:
    """How an MLP is made and trained.

    Attributes:
        standardised: by the mean and deviation of each feature over `"query"`, the
            documents of a query, or over `"all"` documents of training.
        units: of the hidden layers.
        activation: of the hidden layers.
        dropout: after each hidden layer.
        rate: Adam's learning rate.
    """

    standardised: str
    units: tuple[int, ...]
    activation: str
    dropout: float
    rate: float


class Fitted(NamedTuple):
    """A trained MLP, with the weights of its best epoch.

    Attributes:
        model: from features to scores.
        epoch: the best one, from 1.
        validation: its NDCG@10 on S3.
    """

    model: tf.keras.Model
    epoch: int
    validation: float


SETTINGS: dict[str, Sequence[Any]] = {
    "standardised": ("query", "all"),
    "units": ((32,), (64,), (128,), (64, 32), (128, 64)),
    "activation": ("relu", "selu", "tanh"),
    "dropout": (0.0, 0.2, 0.5),
    "rate": (3e-4, 1e-3, 3e-3),
}

# Lowest, highest, and whether it is the logarithm that is uniform.
PARAMETERS: dict[str, tuple[float, float, bool]] = {
    "learning_rate": (0.01, 0.3, True),
    "num_leaves": (4, 64, True),
    "min_data_in_leaf": (5, 100, True),
    "lambda_l2": (1e-3, 10.0, True),
    "feature_fraction": (0.4, 1.0, False),
    "bagging_fraction": (0.5, 1.0, False),
    "lambdarank_truncation_level": (10, 30, False),
}

_POINTWISE = "sigmoid_cross_entropy"
LOSSES: dict[str, Callable[[], tf.keras.losses.Loss]] = {
    _POINTWISE: losses.SigmoidCrossEntropy,
    "ranknet": losses.RankNet,
    "pairwise_hinge": losses.PairwiseHinge,
    "triplet": losses.Triplet,
    "lambdarank": losses.LambdaRank,
    "lambdarank (k=10)": functools.partial(losses.LambdaRank, k=10),
    "softmax_cross_entropy": losses.SoftmaxCrossEntropy,
    "multi_positive_softmax": losses.MultiPositiveSoftmax,
    "hierarchical_softmax": functools.partial(
        losses.HierarchicalSoftmax, level_weights=(1.0,) * _HIGHEST_GRADE
    ),
    "list_mle": losses.ListMLE,
}
SCREENED = ("ranknet", "lambdarank (k=10)", "softmax_cross_entropy")


def load(folder: Path) -> Data:
    """Reads the queries of all parts.

    Args:
        folder: with `S1.txt.gz` to `S4.txt.gz`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file does not have the form of LETOR.
    """
    parts = (("S1", "S2"), ("S3",), ("S4",))
    paths = ([found(folder, f"{name}.txt.gz") for name in names] for names in parts)
    return Data(*(letor.read(own, _FEATURES) for own in paths))


def ndcg(queries: letor.Queries, scores: np.ndarray) -> tuple[float, float]:
    """Returns the NDCG@10 of scores `[Q, L]` and its standard error over queries.

    Raises:
        ValueError: a score is not finite.
    """
    if not np.isfinite(scores[queries.real]).all():
        raise ValueError(
            "scores must be finite. Received: some that are not; the training diverged"
        )
    values, _ = NDCG(10).per_list(queries.grades, scores, where=queries.real)
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


# The MLP ----------------------------------------------------------------------------


def drawn_setting(draw: int) -> Setting:
    """Returns a random setting."""
    rng = np.random.default_rng([_SEED, draw])
    places = (int(rng.integers(len(values))) for values in SETTINGS.values())
    return Setting(*map(operator.getitem, SETTINGS.values(), places))


def standardised(data: Data, by: str) -> Data:
    """Returns queries whose features have mean 0 and deviation 1, or are 0.

    A feature is 0 where it does not vary, and beyond the end of a list.

    Args:
        data: the queries.
        by: `"query"` takes mean and deviation over the documents of a query, `"all"`
            over those of all queries of training.
    """
    whole = _moments(data.train, axis=(0, 1))
    parts = (data.train, data.choosing, data.reported)
    return Data(
        *(
            _scaled(part, *(whole if by == "all" else _moments(part, axis=1)))
            for part in parts
        )
    )


def _moments(
    queries: letor.Queries, axis: int | tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    # In float64 the deviation of what is constant is 0 but for rounding.
    values, real = queries.features.astype(np.float64), queries.real[..., np.newaxis]
    mean = values.mean(axis=axis, where=real, keepdims=True)
    return mean, values.std(axis=axis, where=real, keepdims=True)


def _scaled(
    queries: letor.Queries, mean: np.ndarray, deviation: np.ndarray
) -> letor.Queries:
    varies = deviation > 1e-9
    scaled = (queries.features - mean) / np.where(varies, deviation, 1.0)
    scaled = np.where(varies & queries.real[..., np.newaxis], scaled, 0.0)
    return dataclasses.replace(queries, features=scaled.astype(np.float32))


def make(loss: str, setting: Setting) -> tf.keras.Model:
    """Makes an MLP from features `[B, L, F]` to scores `[B, L]`."""
    model = tf.keras.Sequential([tf.keras.Input([None, _FEATURES])])
    for units in setting.units:
        model.add(tf.keras.layers.Dense(units, setting.activation))
        model.add(tf.keras.layers.Dropout(setting.dropout))
    model.add(tf.keras.layers.Dense(1))
    model.add(tf.keras.layers.Reshape([-1]))
    model.compile(tf.keras.optimizers.Adam(setting.rate), LOSSES[loss]())
    return model


def fit(loss: str, setting: Setting, data: Data, seed: int, epochs: int) -> Fitted:
    """Trains an MLP.

    Args:
        loss: a name in `LOSSES`.
        setting: how.
        data: the queries, standardised.
        seed: of the weights, the dropout and the order of the queries.
        epochs: the most epochs.
    """
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    model = make(loss, setting)
    features, labels = data.train.features, data.train.grades
    if loss == _POINTWISE:
        labels = labels / _HIGHEST_GRADE
    steps = max(1, len(labels) // _BATCH)
    lists = len(labels) // steps
    rng = np.random.default_rng(seed)
    best, chosen, weights = -1.0, 0, model.get_weights()
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(labels))[: steps * lists]
        for rows in order.reshape(steps, lists):
            model.train_on_batch(features[rows], labels[rows])
        reached, _ = ndcg(data.choosing, scores_of(model, data.choosing))
        if reached > best:
            best, chosen, weights = reached, epoch, model.get_weights()
        elif epoch - chosen == _PATIENCE:
            break
    model.set_weights(weights)
    return Fitted(model, chosen, best)


def scores_of(model: tf.keras.Model, queries: letor.Queries) -> np.ndarray:
    """Returns an MLP's scores `[Q, L]`."""
    scores: np.ndarray = model.predict_on_batch(queries.features)
    return scores


def screen(data: Data, epochs: int, draw: int) -> Run:
    """Trains a drawn setting with some losses; S4 is not read."""
    measuring.note(f"MLP, draw {draw}")
    setting = drawn_setting(draw)
    own = standardised(data, setting.standardised)
    reached = [fit(loss, setting, own, 0, epochs).validation for loss in SCREENED]
    return {**dataclasses.asdict(setting), "validation": statistics.fmean(reached)}


def measure(loss: str, setting: Setting, data: Data, epochs: int, seed: int) -> Run:
    """Trains an MLP and reads S4 once."""
    measuring.note(f"{loss}, seed {seed}")
    own = standardised(data, setting.standardised)
    started = time.perf_counter()
    fitted = fit(loss, setting, own, seed, epochs)
    seconds = time.perf_counter() - started
    test, error = ndcg(own.reported, scores_of(fitted.model, own.reported))
    return {
        "validation": fitted.validation,
        "rounds": fitted.epoch,
        "test": test,
        "sampling error": error,
        "seconds": seconds,
    }


# LightGBM ---------------------------------------------------------------------------


def drawn_parameters(draw: int) -> dict[str, float]:
    """Returns random parameters; whole numbers where both ends are."""
    rng = np.random.default_rng([_SEED, draw])
    drawn = {}
    for name, (low, high, is_log) in PARAMETERS.items():
        ends = np.log([low, high]) if is_log else (low, high)
        value = float(rng.uniform(*ends))
        value = float(np.exp(value)) if is_log else value
        drawn[name] = round(value) if isinstance(low, int) else value
    return drawn


def measure_trees(data: Data, trees: int, draw: int) -> Run:
    """Trains LightGBM with drawn parameters and reads S4 once.

    Args:
        data: the queries.
        trees: the most trees.
        draw: number of the draw.
    """
    measuring.note(f"LightGBM, draw {draw}")
    parameters = drawn_parameters(draw)
    started = time.perf_counter()
    train = _trees_data(data.train)
    booster = lightgbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "bagging_freq": 1,
            "seed": draw,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            **parameters,
        },
        train,
        trees,
        [_trees_data(data.choosing, train)],
        callbacks=[lightgbm.early_stopping(_TREE_PATIENCE, verbose=False)],
    )
    seconds = time.perf_counter() - started

    def scores(queries: letor.Queries) -> np.ndarray:
        values = np.zeros(queries.grades.shape)
        values[queries.real] = booster.predict(queries.rows[0], num_threads=1)
        return values

    validation, _ = ndcg(data.choosing, scores(data.choosing))
    test, error = ndcg(data.reported, scores(data.reported))
    return {
        "parameters": parameters,
        "validation": validation,
        "rounds": booster.best_iteration,
        "test": test,
        "sampling error": error,
        "seconds": seconds,
    }


def _trees_data(
    queries: letor.Queries, reference: lightgbm.Dataset | None = None
) -> lightgbm.Dataset:
    features, grades = queries.rows
    return lightgbm.Dataset(features, grades, group=queries.sizes, reference=reference)


# Runs and tables --------------------------------------------------------------------


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "mq2008").parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    draws, seeds, epochs, trees = _DRAWS, _SEEDS, _EPOCHS, _TREES
    if options.small:
        draws, seeds, epochs, trees = 2, 1, 1, 20
    data = load(data_folder() / "mq2008")
    path = options.results.with_name(f"{options.results.stem}_runs.jsonl")

    def runs(
        what: str, numbers: range, make: Callable[[int], Run], *told: Any
    ) -> list[Run]:
        code = digest(data, *told)
        return [
            kept_runs.find_or_make(
                path, what, number, code, functools.partial(make, number)
            )
            for number in numbers
        ]

    screened = runs(
        "MLP", range(draws), functools.partial(screen, data, epochs), epochs
    )
    setting = drawn_setting(best_of(screened)["seed"])
    fitted = {
        loss: runs(
            loss,
            range(1, 1 + seeds),  # the settings were screened with seed 0
            functools.partial(measure, loss, setting, data, epochs),
            epochs,
            setting,
        )
        for loss in LOSSES
    }
    forests = runs(
        "LightGBM",
        range(draws),
        functools.partial(measure_trees, data, trees),
        trees,
        lightgbm.__version__,
    )
    tables = {
        "queries": queries_table(data),
        "settings": settings_table(screened),
        "ndcg": ndcg_table(fitted, forests),
        "targets": target_table(fitted, forests),
    }
    measuring.report("mq2008", options, tables)


def digest(data: Data, *told: Any) -> str:
    """Returns a digest of a run's setting and of the code that its numbers rest on."""
    parts = (data.train, data.choosing, data.reported)
    shapes = [part.features.shape for part in parts]
    own = Path(__file__).read_bytes()
    names = kept_runs.modules((losses.__name__, NDCG.__module__))
    return kept_runs.digest((told, shapes, own), {letor.__name__, *names})


def best_of(runs: Sequence[Run]) -> Run:
    """Returns the run with the best NDCG@10 in validation, the first of equal ones."""
    return max(runs, key=lambda run: run["validation"])


def queries_table(data: Data) -> list[dict[str, Any]]:
    """Returns how many queries and documents each part has."""
    parts = {
        "training, S1 and S2": data.train,
        "validation, S3": data.choosing,
        "test, S4": data.reported,
    }
    return [
        {
            "part": name,
            "queries": len(part.grades),
            "their documents": int(part.sizes.sum()),
            "queries left out": part.left_out,
        }
        for name, part in parts.items()
    ]


def settings_table(screened: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the drawn settings of the MLP, the best first."""
    return [
        {
            **{name: run[name] for name in SETTINGS},
            "units": " x ".join(str(units) for units in run["units"]),
            "validation NDCG@10": round(run["validation"], 4),
        }
        for run in sorted(screened, key=lambda run: -run["validation"])
    ]


def ndcg_table(
    fitted: dict[str, list[Run]], forests: list[Run]
) -> list[dict[str, Any]]:
    """Returns the NDCG@10 of LightGBM and of every loss, the best in validation first.

    Args:
        fitted: the runs of each loss.
        forests: the runs of LightGBM.
    """
    name = f"LightGBM {lightgbm.__version__}"
    rows = [
        _row(f"{name}, {len(forests)} draws", forests),
        _row(f"{name}, the best draw on S3", [best_of(forests)]),
        *(_row(f"MLP, {loss}", fitted[loss]) for loss in ordered(fitted)),
    ]
    every = [run for own in (*fitted.values(), forests) for run in own]
    error = statistics.fmean(run["sampling error"] for run in every)
    last: dict[str, Any] = dict.fromkeys(rows[0], "-")
    last |= {"what": "sampling error of a test NDCG", "test NDCG@10": round(error, 4)}
    return [*rows, last]


def ordered(fitted: dict[str, list[Run]]) -> list[str]:
    """Returns the losses, the best in validation first."""
    return sorted(fitted, key=lambda loss: -_mean(fitted[loss], "validation"))


def target_table(
    fitted: dict[str, list[Run]], forests: list[Run]
) -> list[dict[str, Any]]:
    """Returns the best loss beside LightGBM's mean less one deviation."""
    best = ordered(fitted)[0]
    tests = [run["test"] for run in forests]
    limit = round(statistics.fmean(tests) - statistics.stdev(tests), 4)
    what = f"MLP, {best}: test NDCG@10"
    return [measuring.target(what, _mean(fitted[best], "test"), limit, at_most=False)]


def _row(what: str, runs: Sequence[Run]) -> dict[str, Any]:
    tests = [run["test"] for run in runs]
    return {
        "what": what,
        "validation NDCG@10": round(_mean(runs, "validation"), 4),
        "test NDCG@10": round(_mean(runs, "test"), 4),
        "deviation": round(statistics.stdev(tests), 4) if len(tests) > 1 else "one run",
        "epochs or trees": round(_mean(runs, "rounds")),
        "seconds": round(_mean(runs, "seconds"), 1),
    }


def _mean(runs: Sequence[Run], name: str) -> float:
    return statistics.fmean(run[name] for run in runs)


if __name__ == "__main__":
    main()
