"""AUC on MovieLens-1M: two towers, what can be added to them, and a single tower.

The rows and their parts are those of `ratings.py`. Every variant is screened on seed 0
by the AUC of the validation part. The plain towers, the best five and the two worst
below plain are then run with several other seeds, so that no luck of the screen is in
their numbers, and only their best epochs read the test part, once each.

A variant with histories reads who liked and disliked what in the training rows; a
training row never sees itself. All but the single tower can be cached: a request needs
one run of its own tower, and a document's side is stored.

Every run is one JSON line, with a digest of its variant and of the code its numbers
rest on; what was interrupted goes on after the last one.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import statistics
import tempfile
from pathlib import Path
from typing import Any, Literal

import classification
import kept_runs
import measuring
import numpy as np
import pointwise
import ratings
from pointwise import LABEL, TASK

import tfrs_prerank  # noqa: F401  (first of all, so that tf.keras is Keras 2)

# isort: split
import tensorflow as tf

from tfrs_prerank import Categorical, PreRanker, Schema, Sequence, Task, Tower
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.towers import Gate, Interaction

BATCH, RATE, EPOCHS = 2048, 3e-3, 6
DIMENSION = 32
LENGTH, DROPPED, MOST = 50, 0.5, 200
PLAIN = "two towers"


def tower(**changes: Any) -> Tower:
    """Returns the plain tower, changed."""
    plain: dict[str, Any] = {
        "units": (300, 300),
        "normalization": "batch",
        "dropout": 0.3,
        "dimension": DIMENSION,
        "output": 128,
    }
    return Tower(**plain | changes)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One model of the benchmark.

    Attributes:
        tower: of both sides.
        scorer: what compares them; None for a single tower of all features.
        histories: of `liked` and `disliked` (the movies of a user), and `liked_by` and
            `disliked_by` (the users of a movie).
        encoder: of the movies of a user: that of a `Sequence` over the movies' table,
            or None for the mean over a table of its own, as the movies' users have.
        average: decay of the weights' average that is measured.
    """

    tower: Tower = dataclasses.field(default_factory=tower)
    scorer: Scorer | None = Scorer("cosine")  # noqa: RUF009 - frozen
    histories: tuple[str, ...] = ()
    encoder: str | None = "zero_attention"
    average: float = 0.0


GATES = {
    "SENet": Gate("senet", reduction=2),  # a document has two fields
    "SENet+": Gate("senet_plus"),
    "Light-SE": Gate("light_se"),
    "attention": Gate("attention"),
}
INTERACTIONS = {
    "DCN v1": Interaction("dcn_v1"),
    "DCN v2": Interaction("dcn_v2"),
    "DCN v2, 4 experts of rank 16": Interaction("dcn_v2", rank=16, experts=4),
    "CIN": Interaction("cin"),
    "bilinear": Interaction("bilinear"),
    "FiBiNet": Interaction("fibinet", reduction=2),
    "FiBiNet+": Interaction("fibinet_plus"),
}
HISTORIES = ("liked", "disliked", "liked_by", "disliked_by")


def variants() -> dict[str, Variant]:
    """Returns the variants of the screen by name."""
    found = {
        PLAIN: Variant(),
        "two towers, dot": Variant(scorer=Scorer("dot")),
        "two towers, max_sim": Variant(scorer=Scorer("max_sim")),
        "two towers, mlp": Variant(scorer=Scorer("mlp")),
    }
    parts: dict[str, dict[str, Any]] = {
        **{name: {"gate": gate} for name, gate in GATES.items()},
        **{name: {"interaction": cross} for name, cross in INTERACTIONS.items()},
    }
    for name, part in parts.items():
        found[f"two towers, {name}"] = Variant(tower(**part))
    of_users = {"histories": HISTORIES[:2]}
    found["two towers, histories, mean"] = Variant(**of_users, encoder=None)
    found["two towers, histories"] = Variant(**of_users)
    crossed = tower(interaction=INTERACTIONS["DCN v1"])
    found["two towers, DCN v1, histories"] = Variant(crossed, **of_users)
    found["two towers, SENet+, DCN v1"] = Variant(
        tower(gate=GATES["SENet+"], interaction=INTERACTIONS["DCN v1"])
    )
    found["two towers, DCN v1, averaged weights"] = Variant(crossed, average=0.999)
    found["single tower"] = Variant(scorer=None)
    for name, part in parts.items():
        found[f"single tower, {name}"] = Variant(tower(**part), scorer=None)
    return found


class Rows:
    """The rows of MovieLens-1M as batches of a variant's columns.

    Args:
        data: the rows.
        variant: says which histories there are.
        length: partners of a history that a training row gets at most.
        dropped: share of them that is dropped.
        most: partners that any other row gets at most.
    """

    def __init__(
        self,
        data: ratings.Ratings,
        variant: Variant,
        length: int = LENGTH,
        dropped: float = DROPPED,
        most: int = MOST,
    ) -> None:
        self._user = tf.constant(data.user)
        self._movie = tf.constant(data.movie)
        self._label = tf.constant(data.label)
        self._users = {name: tf.constant(of) for name, of in data.users.items()}
        self._movies = {name: tf.constant(of) for name, of in data.movies.items()}
        self._is_single = variant.scorer is None
        training = data.parts["training"]
        self.histories = {}
        for name in variant.histories:
            wanted = 0.0 if name.startswith("dis") else 1.0
            rows = training[data.label[training] == wanted]
            owners, partners = data.user[rows], data.movie[rows]
            count = len(data.users["user_id"])
            if name.endswith("_by"):
                owners, partners = partners, owners
                count = len(data.movies["movie_id"])
            self.histories[name] = ratings.History(
                owners, partners, count, length, dropped, most
            )

    def shuffle(self, number: int | None) -> None:
        """Shuffles the histories, by an epoch's number or as other rows see them."""
        for place, history in enumerate(self.histories.values()):
            history.shuffle(place if number is None else 10 * (number + 1) + place)

    def training(self, places: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns a batch of training rows.

        Args:
            places: int64 `[B]`.
            seed: int32 `[2]`, of what is drawn.
        """
        return self._batch(places, seed)

    def other(self, places: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns a batch of rows that are not trained on."""
        return self._batch(places, None)

    def _batch(self, places: tf.Tensor, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        user = tf.gather(self._user, places)
        movie = tf.gather(self._movie, places)
        query = {name: tf.gather(of, user) for name, of in self._users.items()}
        doc = {name: tf.gather(of, movie) for name, of in self._movies.items()}
        for place, (name, history) in enumerate(self.histories.items()):
            side, owners, own = (
                (doc, movie, user) if name.endswith("_by") else (query, user, movie)
            )
            side[name] = (
                history.of_others(owners)
                if seed is None
                # Histories of a row are drawn apart from each other.
                else history.of_training(
                    owners, own, tf.stack([seed[0] + 1_000_003 * place, seed[1]])
                )
            )
        if not self._is_single:
            doc["doc_ids"] = movie
            doc = {name: column[:, tf.newaxis] for name, column in doc.items()}
            query["mask"] = tf.ones_like(doc["doc_ids"], tf.bool)
        label = tf.gather(self._label, places)[:, tf.newaxis]
        return {**query, **doc, LABEL: label}


def make_schema(variant: Variant, data: ratings.Ratings, directory: Path) -> Schema:
    """Declares a variant's features; the vocabularies are those of training rows.

    Args:
        variant: the variant.
        data: the rows.
        directory: where the vocabularies are written.
    """
    training = data.parts["training"]
    user, movie = np.unique(data.user[training]), np.unique(data.movie[training])
    known = {
        **{name: np.unique(column[user]) for name, column in data.users.items()},
        **{name: np.unique(column[movie]) for name, column in data.movies.items()},
    }
    files = {}
    for name, values in known.items():
        files[name] = directory / f"{name}.txt"
        lines = "".join(f"{value}\n" for value in values if value >= 0)
        files[name].write_text(lines, encoding="utf-8")
    doc: Literal["query", "doc"] = "query" if variant.scorer is None else "doc"
    size = variant.tower.dimension
    options: dict[str, Any] = {"dtype": "int64", "dimension": size}
    features: list[Any] = [
        Categorical(name, "query", vocabulary=str(files[name]), **options)
        for name in data.users
    ]
    for name, column in data.movies.items():
        width = column.shape[1] if column.ndim == 2 else 1
        file = str(files[name])
        features.append(
            Categorical(name, doc, vocabulary=file, max_values=width, **options)
        )
    for name in variant.histories:
        if name.endswith("_by") or variant.encoder is None:
            of = "user_id" if name.endswith("_by") else "movie_id"
            features.append(
                Categorical(
                    name,
                    doc if name.endswith("_by") else "query",
                    vocabulary=str(files[of]),
                    max_values=MOST,
                    # A training row's own user is left out of it.
                    point_in_time=name.endswith("_by") and doc == "doc",
                    **options,
                )
            )
        else:
            features.append(
                Sequence(
                    name,
                    shares="movie_id",
                    dtype="int64",
                    max_length=MOST,
                    encoder=variant.encoder,  # type: ignore[arg-type]
                )
            )
    if variant.scorer is None:
        # A schema has features of both sides; the single tower does not read this.
        features.append(Categorical("unread", "doc", buckets=1, dtype="int64"))
    return Schema(tuple(features), (Task(TASK),), doc_id="int64")


def make_model(schema: Schema, variant: Variant) -> PreRanker | pointwise.SingleTower:
    """Makes the model of a variant."""
    if variant.scorer is None:
        return pointwise.SingleTower(schema, variant.tower)
    return PreRanker(schema, variant.tower, variant.tower, scorer=variant.scorer)


def measure(
    name: str,
    variant: Variant,
    data: ratings.Ratings,
    seed: int,
    epochs: int,
    is_chosen: bool,
) -> dict[str, Any]:
    """Trains a variant with one seed; a chosen one then reads the test part, once."""
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as directory:
        schema = make_schema(variant, data, Path(directory))
        model = make_model(schema, variant)
    rows = Rows(data, variant)
    trainer = pointwise.Trainer(
        model,
        rows.training,
        rows.other,
        data.label,
        BATCH,
        RATE,
        variant.average,
        rows.shuffle,
    )
    trained = trainer.fit(
        data.parts["training"],
        data.parts["validation"],
        seed,
        epochs,
        lambda line: measuring.note(f"{name}, seed {seed}, {line}"),
    )
    run = {
        "validation auc": trained.auc,
        "validation log loss": trained.log_loss,
        "epoch": trained.epoch,
        "seconds": trained.seconds,
        "parameters": int(sum(np.prod(w.shape) for w in model.trainable_weights)),
    }
    if is_chosen:
        scores = trainer.scores(data.parts["test"])
        labels = data.label[data.parts["test"]]
        run["auc"] = classification.auc(labels, scores)
        run["log loss"] = classification.log_loss(labels, scores)
    return run


def digest(variant: Variant, rows: int, epochs: int) -> str:
    """Returns a digest of a variant and of the code that its numbers rest on."""
    constants = (BATCH, RATE, DIMENSION, LENGTH, DROPPED, MOST)
    names = (PreRanker.__module__, pointwise.__name__, ratings.__name__)
    told = (variant, rows, epochs, constants)
    return kept_runs.digest(told, kept_runs.modules(names))


def confirmed(screen: list[dict[str, Any]]) -> list[str]:
    """Returns which variants are run with more seeds, chosen by the validation AUC.

    Those are the plain towers, the best five and the two worst of those below plain.
    """
    ordered = sorted(screen, key=lambda run: -run["validation auc"])
    names = [run["what"] for run in ordered]
    below = names[names.index(PLAIN) + 1 :]
    return list(dict.fromkeys([PLAIN, *names[:5], *below[-2:]]))


def auc_table(
    screen: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns every variant's AUC and log loss, the best of the screen first.

    Args:
        screen: one run of each variant.
        runs: those of the chosen variants, several seeds of each.
    """
    rows = []
    for first in sorted(screen, key=lambda run: -run["validation auc"]):
        own = [run for run in runs if run["what"] == first["what"]]
        test: dict[str, Any] = dict.fromkeys(
            ("test AUC", "deviation", "test log loss"), "not read"
        )
        if own:
            areas, losses = ([run[key] for run in own] for key in ("auc", "log loss"))
            test = {
                "test AUC": round(statistics.fmean(areas), 4),
                "deviation": round(statistics.stdev(areas), 4)
                if len(areas) > 1
                else "one seed",
                "test log loss": round(statistics.fmean(losses), 4),
            }
        rows.append(
            {
                "variant": first["what"],
                "validation AUC": round(first["validation auc"], 4),
                "validation log loss": round(first["validation log loss"], 4),
                **test,
                "seeds": len(own),
                "parameters": first["parameters"],
                "best epoch": first["epoch"],
                "seconds": round(first["seconds"]),
            }
        )
    return rows


def target_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the plain towers and the best variant that can be cached, beside aims.

    Which one is best was said by the validation part.
    """
    plain = next(row for row in rows if row["variant"] == PLAIN)
    best = next(row for row in rows if not row["variant"].startswith("single"))
    return [
        measuring.target(f"{row['variant']}: test AUC", row["test AUC"], limit, False)
        for row, limit in ((plain, 0.895), (best, 0.9))
    ]


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "movielens_1m")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        help="trainings at a time, each with one thread (default: %(default)s)",
    )
    options = parser.parse_args()
    names = list(variants())
    if options.small:
        names, options.seeds = [PLAIN, "single tower"], 1
    kept = options.results.with_name(f"{options.results.stem}_runs.jsonl")
    with concurrent.futures.ProcessPoolExecutor(
        options.processes, multiprocessing.get_context("spawn")
    ) as pool:
        train = functools.partial(find_or_measure, kept, options.small)
        screen = list(pool.map(train, names, itertools.repeat(0)))
        wanted = itertools.product(confirmed(screen), range(1, 1 + options.seeds))
        runs = list(pool.map(train, *zip(*wanted, strict=True)))
    rows = auc_table(screen, runs)
    tables = {"auc": rows, "targets": target_table(rows)}
    measuring.report("movielens_1m", options, tables)


def find_or_measure(kept: Path, is_small: bool, name: str, seed: int) -> dict[str, Any]:
    """Returns a variant's run with one seed; seed 0 is the screen's."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data, epochs, variant = ratings.read(ratings.folder()), EPOCHS, variants()[name]
    if is_small:
        data, epochs = shortened(data, 2 * BATCH), 1
    code = digest(variant, len(data.parts["training"]), epochs)
    make = functools.partial(measure, name, variant, data, seed, epochs, seed > 0)
    return kept_runs.find_or_make(kept, name, seed, code, make)


def shortened(data: ratings.Ratings, rows: int) -> ratings.Ratings:
    """Returns the first rows of every part."""
    parts = {name: places[:rows] for name, places in data.parts.items()}
    return dataclasses.replace(data, parts=parts)


if __name__ == "__main__":
    main()
