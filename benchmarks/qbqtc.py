"""Chinese search text: TextCNN, BM25, and both in a three-tower model, on QBQTC.

The queries of QBQTC's train and dev parts, each with about 19 titles graded 0, 1 or 2,
in five folds by query. NDCG@10 is that of `tfrs_prerank.metrics` for everything: every
query is measured once, by models that were trained on the other folds.

* BM25 alone, on runs of two characters and on words, where a Chinese character is a
  word.
* Two towers: a TextCNN over the words of the query and one over those of the title,
  which share the embeddings of words.
* Three towers: the same two, and a cross tower of matches that the graph computes of
  the raw strings.

A fifth of the queries that are not of the fold choose the epoch and the loss, in each
fold for itself: two towers are trained with every loss and seed 0, and the best loss
serves both models with the seeds that are reported. The words that have embeddings are
those of the training queries' titles. The statistics of BM25 are of all titles, for all
rows alike: a table of documents is known when it is served, and what is graded is not.

Every run is one JSON line, with a digest of its setting and of the code it depends on;
what was interrupted goes on after the last one. The data are looked for in
`$TFRS_PRERANK_DATA`, then in `../shared/data`.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kept_runs
import measuring
import numpy as np
import text_search
from multi_objective import data_folder, found
from text_search import Fold

from tfrs_prerank import (  # first of all, so that tf.keras is Keras 2
    Match,
    Objective,
    PreRanker,
    Schema,
    Task,
    Term,
    Text,
    Tower,
)

# isort: split
import tensorflow as tf

from tfrs_prerank.features import DocumentTable, adapt
from tfrs_prerank.metrics import NDCG
from tfrs_prerank.objectives.objective import Loss
from tfrs_prerank.scorers import Scorer

TASK = "relevance"
BM25, BM25_WORDS = "BM25, runs of two characters", "BM25, words"
TWO, THREE = "two towers, TextCNN", "three towers, TextCNN and matches"
RANDOM = "random"
PAIRS = ((THREE, BM25), (THREE, BM25_WORDS), (THREE, TWO))
SEED, FOLDS = 2008, 5
EPOCHS, PATIENCE, BATCH = 15, 4, 32
_WORDS, _RUNS = 48, 64

Run = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries with their graded titles.

    Attributes:
        texts: the queries, `[Q]`.
        titles: `[Q, L]`, `""` where a list ends.
        grades: float32 `[Q, L]`, NaN where a list ends.
    """

    texts: np.ndarray
    titles: np.ndarray
    grades: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """Where there is a title, `[Q, L]`."""
        return ~np.isnan(self.grades)

    @property
    def ids(self) -> np.ndarray:
        """A number for every title, int64 `[Q, L]`, -1 where a list ends."""
        places = np.arange(self.grades.size).reshape(self.grades.shape)
        return np.where(self.real, places, -1)

    def documents(self, rows: np.ndarray | slice = slice(None)) -> DocumentTable:
        """Returns the titles of some queries as a table."""
        real = self.real[rows]
        titles = self.titles[rows][real]
        return DocumentTable(
            self.ids[rows][real], {"title": titles, "title_runs": titles}
        )


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a model is made and trained.

    Attributes:
        rate: LazyAdam's learning rate.
        size: of the embeddings of words; each width has as many filters.
        scale: of the cosine of the vectors at the start.
    """

    rate: float
    size: int
    scale: float


# The cosine of the three towers starts small, so that the matches are learned first:
# from 550 queries, towers learn titles by heart within a few epochs.
SETTINGS = {TWO: Setting(1e-3, 32, 10.0), THREE: Setting(3e-3, 16, 0.1)}
LOSSES: tuple[Loss, ...] = ("softmax_cross_entropy", "lambdarank")
CROSS_TOWER = Tower((16,), normalization="batch", dimension=4)

MATCHES = (
    Match("bm25", "query", "title", "bm25", dimension=4),
    Match("bm25_runs", "query_runs", "title_runs", "bm25", dimension=4),
    Match("query_in_title", "query", "title", "overlap", dimension=4),
    Match("title_in_query", "title", "query", "overlap", dimension=4),
    Match("query_runs_in_title", "query_runs", "title_runs", "overlap", dimension=4),
    Match("equal", "query", "title", "equal", dimension=4),
)


def make_schema(setting: Setting, is_matched: bool) -> Schema:
    """Declares the features.

    Args:
        setting: how large they are.
        is_matched: with a cross tower's.
    """
    words: dict[str, Any] = {
        "encoder": "cnn",
        "filters": setting.size,
        "max_tokens": _WORDS,
    }
    runs: dict[str, Any] = {
        "tokenizer": "characters",
        "ngrams": (2, 2),
        "max_tokens": _RUNS,
    }
    features: tuple[Any, ...] = (
        Text("query", "query", shares="title", **words),
        Text("title", "doc", dimension=setting.size, min_count=2, **words),
    )
    if is_matched:
        features += (
            Text("query_runs", "query", encoder=None, **runs),
            Text("title_runs", "doc", encoder=None, **runs),
            *MATCHES,
        )
    return Schema(features, (Task(TASK),), doc_id="int64")


def make_model(
    name: str, loss: Loss, queries: Queries, train: np.ndarray, folder: Path
) -> PreRanker:
    """Makes a model with the words of the training queries' titles.

    Args:
        name: which one.
        loss: of its objective.
        queries: all queries.
        train: those of training.
        folder: for words and statistics; it must stay as long as the model is used.
    """
    setting, is_matched = SETTINGS[name], name == THREE
    schema = make_schema(setting, is_matched)
    tower = Tower((), dimension=setting.size, output=setting.size)
    own = make_schema(setting, is_matched=False)
    own = adapt(own, (), queries.documents(train), folder / "words")
    known = {feature.name: feature for feature in own.features}
    features = tuple(known.get(f.name, f) for f in schema.features)
    schema = dataclasses.replace(schema, features=features)
    schema = adapt(schema, (), queries.documents(), folder / "corpus")
    return PreRanker(
        schema,
        tower,
        tower,
        CROSS_TOWER if is_matched else None,
        scorer=Scorer("cosine", scale=setting.scale),
        objective=Objective((Term(TASK, loss),)),
    )


def load(folder: Path, most: int | None = None) -> Queries:
    """Reads the queries of train and dev.

    Args:
        folder: with `train.json.gz` and `dev.json.gz`.
        most: only so many queries, for a quick check; default all.

    Raises:
        FileNotFoundError: a file is not there.
    """
    lists: dict[str, list[tuple[str, float]]] = {}
    for name in ("train.json.gz", "dev.json.gz"):
        with gzip.open(found(folder, name), "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                pair = row["title"], float(row["relevant"])
                lists.setdefault(row["query"], []).append(pair)
    kept = list(lists)[:most]
    longest = max(len(lists[query]) for query in kept)
    titles = np.full([len(kept), longest], "", object)
    grades = np.full([len(kept), longest], np.nan, np.float32)
    for place, query in enumerate(kept):
        for rank, (title, grade) in enumerate(lists[query]):
            titles[place, rank], grades[place, rank] = title, grade
    return Queries(np.array(kept, object), titles, grades)


def ndcg(queries: Queries, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the NDCG@10 of each of some queries.

    Args:
        queries: all queries.
        rows: which ones.
        scores: of their titles, `[R, L]`.
    """
    values, _ = NDCG(10).per_list(
        queries.grades[rows], scores, where=queries.real[rows]
    )
    found: np.ndarray = values.numpy()
    return found


def bm25_scores(queries: Queries, feature: Text) -> np.ndarray:
    """Returns the BM25 of every query and its own titles, `[Q, L]`.

    Args:
        queries: all queries.
        feature: how texts are split.
    """
    titles = text_search.tokens_of(feature, queries.titles[queries.real])
    asked = text_search.tokens_of(feature, queries.texts)
    whole = text_search.Index.of(titles).scores(asked)
    scores = np.zeros(queries.grades.shape)
    scores[queries.real] = whole[np.nonzero(queries.real)[0], np.arange(len(titles))]
    return scores


def batch_of(queries: Queries, rows: np.ndarray, schema: Schema) -> dict[str, Any]:
    """Returns some queries as one batch."""
    titles, texts = queries.titles[rows], queries.texts[rows]
    columns = {"query": texts, "query_runs": texts, "title": titles}
    columns["title_runs"] = titles
    return {
        **{name: tf.constant(columns[name]) for name in schema.columns()},
        "doc_ids": tf.constant(queries.ids[rows]),
        "mask": tf.constant(queries.real[rows]),
        f"label/{TASK}": tf.constant(queries.grades[rows]),
    }


def train(
    name: str,
    loss: Loss,
    queries: Queries,
    fold: Fold,
    epochs: int,
    seed: int,
    rows: np.ndarray,
) -> tuple[np.ndarray, Run]:
    """Trains a model on the training queries of a fold, and scores others.

    Args:
        name: of the model.
        loss: of its objective.
        queries: all queries.
        fold: which ones train and which choose the epoch.
        epochs: the most epochs.
        seed: of the weights, and of the order of the queries.
        rows: the queries to score.

    Returns:
        The scores `[R, L]`, and how it went.
    """
    measuring.note(f"{name}, {loss}, seed {seed}")
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(name, loss, queries, fold.train, Path(folder))
        validation = batch_of(queries, fold.validation, model.schema)
        scores = tf.function(
            lambda batch: model(batch)["scores"], reduce_retracing=True
        )
        data = tf.data.Dataset.from_tensor_slices(
            batch_of(queries, fold.train, model.schema)
        )
        started = time.perf_counter()
        epoch, value = text_search.fit(
            model,
            data.shuffle(len(fold.train), seed).batch(BATCH),
            lambda: float(np.mean(ndcg(queries, fold.validation, scores(validation)))),
            SETTINGS[name].rate,
            epochs,
            PATIENCE,
        )
        seconds = time.perf_counter() - started
        found = scores(batch_of(queries, rows, model.schema)).numpy()
    return found, {"validation": value, "epoch": epoch, "seconds": seconds}


def screen(
    name: str, loss: Loss, queries: Queries, fold: Fold, epochs: int, seed: int
) -> Run:
    """Trains a model for its validation alone."""
    return train(name, loss, queries, fold, epochs, seed, fold.validation)[1]


def measure(
    name: str, loss: Loss, queries: Queries, fold: Fold, epochs: int, seed: int
) -> Run:
    """Trains a model and reads the fold's test queries once."""
    scores, run = train(name, loss, queries, fold, epochs, seed, fold.test)
    values = ndcg(queries, fold.test, scores)
    return {**run, "loss": loss, "test": [round(float(value), 6) for value in values]}


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "qbqtc")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    started = time.perf_counter()
    seeds, epochs = (1, 1) if options.small else (options.seeds, EPOCHS)
    queries = load(data_folder() / "qbqtc", 60 if options.small else None)
    cut = text_search.folds(len(queries.texts), 2 if options.small else FOLDS, SEED)
    path = options.results.with_name(f"{options.results.stem}_runs.jsonl")

    def run(
        make: Callable[..., Run], what: str, name: str, loss: Loss, fold: int, seed: int
    ) -> Run:
        make = functools.partial(make, name, loss, queries, cut[fold], epochs, seed)
        code = digest(queries, epochs, name, loss, fold)
        return kept_runs.find_or_make(path, what, seed, code, make)

    def best_loss(fold: int) -> Loss:
        losses = LOSSES[-1:] if options.small else LOSSES
        screened = [
            run(screen, f"fold {fold}, {loss}, screened", TWO, loss, fold, 0)
            for loss in losses
        ]
        reached = [made["validation"] for made in screened]
        return losses[reached.index(max(reached))]

    losses = [best_loss(fold) for fold in range(len(cut))]
    values = fixed_rows(queries)
    values |= {name: np.zeros([seeds, len(queries.texts)]) for name in SETTINGS}
    runs: dict[str, list[Run]] = {name: [] for name in SETTINGS}
    for seed in range(seeds):
        for fold, loss in enumerate(losses):
            for name, made in runs.items():
                what = f"{name}, fold {fold}"
                made.append(run(measure, what, name, loss, fold, 1 + seed))
                values[name][seed, cut[fold].test] = made[-1]["test"]
    measuring.note(f"{time.perf_counter() - started:.0f} s in all")
    tables = {
        "queries": queries_table(queries),
        "ndcg": ndcg_table(values, runs),
        "losses": losses_table(runs[TWO]),
        "differences": [
            text_search.difference_row(
                f"{row} minus {other}", "ndcg@10", values[row], values[other]
            )
            for row, other in PAIRS
        ],
    }
    measuring.report("qbqtc", options, tables)


def fixed_rows(queries: Queries) -> dict[str, np.ndarray]:
    """Returns the NDCG@10 of what is not trained, `[1, Q]` each."""
    rows = np.arange(len(queries.texts))
    schema = make_schema(SETTINGS[THREE], is_matched=True)
    scores = {
        RANDOM: np.zeros(queries.grades.shape),  # equal scores: the mean of all orders
        BM25: bm25_scores(queries, schema["title_runs"]),
        BM25_WORDS: bm25_scores(queries, schema["title"]),
    }
    return {name: ndcg(queries, rows, own)[None] for name, own in scores.items()}


def digest(queries: Queries, *told: object) -> str:
    """Returns a digest of a run's setting and of the code that its numbers rest on."""
    own = Path(__file__).read_bytes()
    names = kept_runs.modules((PreRanker.__module__, NDCG.__module__))
    shape = queries.grades.shape
    return kept_runs.digest((told, shape, own), {"text_search", *names})


def queries_table(queries: Queries) -> list[dict[str, Any]]:
    """Returns how many queries and titles there are, and of which grades."""
    grades = queries.grades[queries.real]
    return [
        {
            "queries": len(queries.texts),
            "titles": len(grades),
            **{f"of grade {grade}": int((grades == grade).sum()) for grade in range(3)},
        }
    ]


def ndcg_table(
    values: dict[str, np.ndarray], runs: dict[str, list[Run]]
) -> list[dict[str, Any]]:
    """Returns the mean NDCG@10 of every row, the best first.

    Args:
        values: of each query, `[S, Q]` for S seeds.
        runs: of the models.
    """
    rows = []
    for name, own in values.items():
        means = own.mean(axis=1)
        made = runs.get(name, [])
        rows.append(
            {
                "what": name,
                "ndcg@10": round(float(means.mean()), 4),
                "deviation over seeds": _deviation(means),
                "sampling error": round(
                    float(own.mean(axis=0).std(ddof=1)) / own.shape[1] ** 0.5, 4
                ),
                "epoch": _mean(made, "epoch"),
                "seconds of a run": _mean(made, "seconds"),
            }
        )
    return sorted(rows, key=lambda row: -row["ndcg@10"])


def losses_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns in how many of the runs each loss was chosen."""
    chosen = [run["loss"] for run in runs]
    return [
        {"loss": loss, "share of the folds": round(chosen.count(loss) / len(chosen), 2)}
        for loss in LOSSES
    ]


def _deviation(values: np.ndarray) -> float | str:
    return round(statistics.stdev(values), 4) if len(values) > 1 else "-"


def _mean(runs: Sequence[Run], name: str) -> float | str:
    return round(statistics.fmean(run[name] for run in runs), 1) if runs else "-"


if __name__ == "__main__":
    main()
