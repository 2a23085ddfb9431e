"""English search on SciFact: BM25 retrieves 1,000 abstracts, a pre-ranker keeps 100.

The claims that have evidence, in five folds by claim. BM25 over the words of title and
abstract retrieves 1,000 of all documents for each claim; its statistics are of the
documents, no grade is read. A relevant document that it misses is a miss for all rows.
Measured are recall@100 and recall@20 and NDCG@10, of

* BM25 alone; the cosine of frozen Sentence-BERT vectors alone; the plain sum of both,
  each with mean 0 and deviation 1 over the 1,000 of a claim;
* three towers: the frozen vectors, each side with a projection that is trained, and a
  linear cross tower of matches that the graph computes of the raw strings. The claim
  is encoded in the graph, the vectors of documents are columns of their table.

There are about 520 claims to learn from, with hardly more than one relevant document
each, so the model starts close to the sum: projections at the identity, whose cosine is
that of the frozen vectors but for their mean, and the weight of BM25 such that both
vary alike. The scale and the cross tower are trained first, then the projections with
them at a small rate. Training lists are the relevant documents among the 1,000, those
that BM25 and Sentence-BERT rank first, and random others. A fifth of the claims that
are not of the fold choose the epochs of both steps, by their loss; an epoch more that
does not help is taken back.

Claims that share evidence are told from those whose evidence is new: what learned from
a claim may find the abstract again for another one.

What is measured is the export: `serving_default` gets raw claims and document ids.

Every run is one JSON line, with a digest of its setting and of the code it depends on;
what was interrupted goes on after the last one. The data are looked for in
`$TFRS_PRERANK_DATA`, then in `../shared/data`.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import kept_runs
import measuring
import numpy as np
import scifact_data
import text_search
from multi_objective import data_folder
from scifact_data import Claims
from text_search import Fold

from tfrs_prerank import (  # first of all, so that tf.keras is Keras 2
    Dense,
    Match,
    PreRanker,
    Schema,
    Task,
    Text,
    Tower,
)

# isort: split
import tensorflow as tf

from tfrs_prerank.features import DocumentTable, adapt
from tfrs_prerank.metrics import NDCG, HitRate
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.serving import export

TASK = "evidence"
BM25, BERT, SUM = "BM25", "Sentence-BERT, frozen", "sum of both z-scores"
THREE = "three towers"
RETRIEVED = 1000
METRICS = {
    "recall@100": (HitRate, 100),
    "recall@20": (HitRate, 20),
    "ndcg@10": (NDCG, 10),
}
SEED, FOLDS = 2008, 5
_WORDS, _SIZE = 512, 384
_FIRST, _LIST, _BATCH = 4, 16, 16
_EPOCHS = 5
ALL = "all but the BERT"
STEPS = {"scale and cross tower": 1e-2, ALL: 3e-5}
"""What is trained first and then, with the learning rate."""

_AT_ONCE = 16

Run = dict[str, Any]
Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Data:
    """The claims with what was retrieved for them.

    Attributes:
        claims: texts and evidence.
        vectors: of the documents, float32 `[M, 384]`.
        retrieved: places of the documents, `[Q, 1000]`, the best by BM25 first.
        labels: 1 where such a document is relevant, float32 `[Q, 1000]`.
        bm25: `[Q, 1000]`.
        cosine: of the frozen vectors, `[Q, 1000]`.
    """

    claims: Claims
    vectors: np.ndarray
    retrieved: np.ndarray
    labels: np.ndarray
    bm25: np.ndarray
    cosine: np.ndarray

    @property
    def documents(self) -> DocumentTable:
        """All documents, their places as ids."""
        columns = {"text": self.claims.texts, "vector": self.vectors}
        return DocumentTable(np.arange(len(self.vectors)), columns)


def load(folder: Path, most: int | None = None) -> Data:
    """Reads claims and documents, encodes them, and retrieves.

    Args:
        folder: see `scifact_data.read`.
        most: only so many claims and documents, for a quick check; default all.
    """
    claims = scifact_data.read(folder)
    if most is not None:
        claims = scifact_data.part(claims, most)
    texts = text_search.tokens_of(make_schema()["text"], claims.texts)
    asked = text_search.tokens_of(make_schema()["text"], claims.claims)
    bm25 = text_search.Index.of(texts).scores(asked)
    retrieved = text_search.first(bm25, RETRIEVED)
    queries = scifact_data.vectors(list(claims.claims))
    vectors = scifact_data.vectors(list(claims.texts))
    rows = np.arange(len(retrieved))[:, np.newaxis]
    return Data(
        claims,
        vectors,
        retrieved,
        claims.relevant[rows, retrieved].astype(np.float32),
        bm25[rows, retrieved],
        (queries @ vectors.T)[rows, retrieved],
    )


def make_schema() -> Schema:
    """Declares the features."""
    return Schema(
        features=(
            Text(
                "claim",
                "query",
                tokenizer="wordpiece",
                encoder="sentence_bert",
                pretrained=str(scifact_data.weights_folder()),
                max_tokens=scifact_data.MAX_PIECES,
                dimension=_SIZE,
            ),
            Dense("vector", "doc", size=_SIZE, dimension=_SIZE),
            Text("text", "doc", encoder=None, max_tokens=_WORDS),
            Match("bm25", "claim", "text", "bm25", dimension=1),
            Match("overlap", "claim", "text", "overlap", dimension=1),
        ),
        tasks=(Task(TASK),),
        doc_id="int64",
    )


def make_model(data: Data, folder: str | Path) -> PreRanker:
    """Makes a model that starts close to the sum of BM25 and Sentence-BERT.

    Args:
        data: the claims and documents.
        folder: for statistics; it must stay as long as the model is used.
    """
    tower = Tower((), dimension=_SIZE, output=_SIZE)
    model = PreRanker(
        adapt(make_schema(), (), data.documents, folder),
        tower,
        tower,
        Tower((), dimension=1),
        scorer=Scorer("cosine", scale=10.0),
        objective="softmax_cross_entropy",
    )
    for layer in projections(model):
        layer.kernel.assign(np.eye(_SIZE))
    cross = model.network.cross_tower
    for encoder in cross.fields.encoders.values():
        encoder.kernel.assign([1.0])
    # Of the deviations over the documents of a claim; no label is read.
    alike = data.cosine.std(axis=1).mean() / data.bm25.std(axis=1).mean()
    cross.head.kernel.assign([[10.0 * alike], [0.0]])
    return model


def projections(model: PreRanker) -> list[tf.keras.layers.Dense]:
    """Returns the linear layers of both towers, all from 384 numbers to 384."""
    query, doc = model.network.query_tower, model.network.doc_tower
    claim, vector = query.fields.encoders["claim"], doc.fields.encoders["vector"]
    return [claim.strings.projection, query.head, vector.projection, doc.head]


def lists_of(data: Data, rows: np.ndarray, seed: int) -> np.ndarray:
    """Draws the training lists of claims.

    Args:
        data: the claims.
        rows: which ones; those without a relevant document among the 1,000 are left
            out.
        seed: of the draw.

    Returns:
        int64 `[R, 1 + 16]`: the claim, then places among its 1,000: the relevant ones,
        those that BM25 and Sentence-BERT rank first, and random others.
    """
    random = np.random.default_rng(seed)
    lists = []
    for row in rows[data.labels[rows].any(axis=1)]:
        relevant = np.flatnonzero(data.labels[row])[:_FIRST]
        hard = [*range(_FIRST), *np.argsort(-data.cosine[row])[:_FIRST]]
        others = random.permutation(data.labels.shape[1])
        order = dict.fromkeys([*relevant, *hard, *others])
        lists.append([row, *order][: 1 + _LIST])
    return np.array(lists, np.int64)


def batches(data: Data, lists: np.ndarray, seed: int | None) -> tf.data.Dataset:
    """Returns lists as batches.

    Args:
        data: the claims.
        lists: from `lists_of`.
        seed: of a new order in every epoch, None for that of the lists.
    """
    claims = tf.constant(data.claims.claims)
    texts, vectors = tf.constant(data.claims.texts), tf.constant(data.vectors)
    rows = lists[:, :1], lists[:, 1:]
    columns = data.retrieved[rows], data.labels[rows]

    def columns_of(row: tf.Tensor, ids: tf.Tensor, labels: tf.Tensor) -> dict[str, Any]:
        return {
            "claim": tf.gather(claims, row),
            "text": tf.gather(texts, ids),
            "vector": tf.gather(vectors, ids),
            "doc_ids": ids,
            "mask": tf.ones_like(ids, tf.bool),
            f"label/{TASK}": labels,
        }

    found = tf.data.Dataset.from_tensor_slices((lists[:, 0], *columns))
    if seed is not None:
        found = found.shuffle(len(lists), seed)
    return found.batch(_BATCH).map(columns_of)


def train(
    data: Data, fold: Fold, epochs: int, seed: int, folder: Path
) -> tuple[PreRanker, Run]:
    """Trains a model; the claims of the fold's test are not read.

    Args:
        data: the claims and documents.
        fold: which claims train and which choose the epochs.
        epochs: the most epochs of each step.
        seed: of the training lists and their order.
        folder: see `make_model`.
    """
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    model = make_model(data, folder)
    own = batches(data, lists_of(data, fold.train, seed), seed)
    # The same lists for every seed.
    validation = batches(data, lists_of(data, fold.validation, 0), None)

    def value() -> float:
        found: dict[str, float] = model.evaluate(
            validation, verbose=0, return_dict=True
        )
        return -found["loss"]

    started = time.perf_counter()
    run: Run = {}
    for step, rate in STEPS.items():
        _set_trainable(model, step == ALL)
        epoch, reached = text_search.fit(model, own, value, rate, epochs, patience=1)
        run |= {f"epochs, {step}": epoch, f"loss, {step}": -reached}
    return model, {**run, "seconds": time.perf_counter() - started}


def _set_trainable(model: PreRanker, is_trainable: bool) -> None:
    """Freezes or frees the projections and what normalises them."""
    query, doc = model.network.query_tower, model.network.doc_tower
    normalizations = (
        query.fields.encoders["claim"].strings.normalization,
        doc.fields.encoders["vector"].normalization,
    )
    for layer in (*projections(model), *normalizations):
        layer.trainable = is_trainable


def measure(data: Data, fold: Fold, epochs: int, seed: int) -> Run:
    """Trains and exports a model, and reads the fold's test claims once."""
    with tempfile.TemporaryDirectory() as folder:
        model, run = train(data, fold, epochs, seed, Path(folder) / "statistics")
        measuring.note(f"seed {seed}: {run}")
        target = Path(folder) / "export"
        exported = export(model, data.documents, target, warmup_lengths=[10])
        scores = served_scores(exported.path, data, fold.test)
    values = measured(data, fold.test, scores)
    return {**run, **{name: _rounded(own) for name, own in values.items()}}


def served_scores(path: Path, data: Data, rows: np.ndarray) -> np.ndarray:
    """Returns an export's scores of the 1,000 documents of claims, `[R, 1000]`."""
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    parts = [
        serve(
            claim=tf.constant(data.claims.claims[own]),
            doc_ids=tf.constant(data.retrieved[own]),
        )["scores"].numpy()
        for own in np.array_split(rows, -(-len(rows) // _AT_ONCE))
    ]
    return np.concatenate(parts)


def measured(data: Data, rows: np.ndarray, scores: np.ndarray) -> Values:
    """Returns each metric of each of some claims.

    A relevant document that was not retrieved counts as missed: it is in the list, with
    the lowest score.

    Args:
        data: the claims.
        rows: which ones.
        scores: of their 1,000 documents, `[R, 1000]`.
    """
    missed = data.claims.relevant[rows].sum(axis=1) - data.labels[rows].sum(axis=1)
    most = int(missed.max())
    labels = (np.arange(most) < missed[:, np.newaxis]).astype(np.float32)
    labels = np.concatenate([data.labels[rows], labels], axis=1)
    # Below all others, and none of them takes another's place.
    last = np.full([len(rows), most], scores.min() - 1)
    scores = np.concatenate([scores, last], axis=1)
    real = np.ones(scores.shape, bool)
    real[:, data.labels.shape[1] :] = labels[:, data.labels.shape[1] :] > 0
    found = {}
    for name, (metric, k) in METRICS.items():
        values, weights = metric(k).per_list(labels, scores, where=real)
        assert (weights.numpy() > 0).all()  # every claim has evidence
        found[name] = values.numpy()
    return found


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "scifact")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    started = time.perf_counter()
    seeds, epochs = (1, 1) if options.small else (options.seeds, _EPOCHS)
    data = load(data_folder() / "scifact", 60 if options.small else None)
    cut = text_search.folds(len(data.labels), 2 if options.small else FOLDS, SEED)
    path = options.results.with_name(f"{options.results.stem}_runs.jsonl")
    values = fixed_rows(data)
    values[THREE] = {name: np.zeros([seeds, len(data.labels)]) for name in METRICS}
    runs = []
    for seed in range(seeds):
        for place, fold in enumerate(cut):
            made = kept_runs.find_or_make(
                path,
                f"fold {place}",
                1 + seed,
                digest(data, epochs, place),
                functools.partial(measure, data, fold, epochs, 1 + seed),
            )
            runs.append(made)
            for name in METRICS:
                values[THREE][name][seed, fold.test] = made[name]
    measuring.note(f"{time.perf_counter() - started:.0f} s in all")
    tables = {
        "data": data_table(data),
        "quality": quality_table(values, runs),
        "differences": difference_table(values),
        "evidence": evidence_table(values, known_evidence(data, cut)),
        "training": training_table(runs),
    }
    measuring.report("scifact", options, tables)


def fixed_rows(data: Data) -> dict[str, Values]:
    """Returns the metrics of what is not trained, `[1, Q]` each."""
    both = text_search.z_scores(data.bm25) + text_search.z_scores(data.cosine)
    scores = {BM25: data.bm25, BERT: data.cosine, SUM: both}
    rows = np.arange(len(data.labels))
    return {
        name: {m: v[np.newaxis] for m, v in measured(data, rows, own).items()}
        for name, own in scores.items()
    }


def digest(data: Data, *told: object) -> str:
    """Returns a digest of a run's setting and of the code that its numbers rest on."""
    own = Path(__file__).read_bytes()
    names = kept_runs.modules((PreRanker.__module__, export.__module__))
    own_modules = {"text_search", "scifact_data"}
    return kept_runs.digest((told, data.labels.shape, own), own_modules | names)


def data_table(data: Data) -> list[dict[str, Any]]:
    """Returns how many claims and documents there are, and what is retrieved."""
    relevant = data.claims.relevant.sum(axis=1)
    return [
        {
            "claims": len(relevant),
            "documents": len(data.vectors),
            "relevant documents a claim": round(float(relevant.mean()), 2),
            f"recall@{RETRIEVED} of BM25": round(
                float((data.labels.sum(axis=1) / relevant).mean()), 4
            ),
        }
    ]


def quality_table(
    values: dict[str, Values], runs: Sequence[Run]
) -> list[dict[str, Any]]:
    """Returns the mean of every metric of every row.

    Args:
        values: by row and metric.
        runs: of the three towers.
    """
    seconds = round(statistics.fmean(run["seconds"] for run in runs))
    rows = []
    for name, own in values.items():
        row: dict[str, Any] = {"what": name}
        for metric, found in own.items():
            means = found.mean(axis=1)
            row[metric] = round(float(means.mean()), 4)
            row[f"deviation of {metric}"] = _deviation(means)
        row["seconds of training"] = seconds if name == THREE else "-"
        rows.append(row)
    return rows


def difference_table(values: dict[str, Values]) -> list[dict[str, Any]]:
    """Returns how far the three towers are above each other row."""
    return [
        text_search.difference_row(
            f"{THREE} minus {other}", metric, values[THREE][metric], own[metric]
        )
        for other, own in values.items()
        if other != THREE
        for metric in METRICS
    ]


def known_evidence(data: Data, cut: Sequence[Fold]) -> np.ndarray:
    """Says which claims share evidence with a claim of another fold, bool `[Q]`.

    Args:
        data: the claims.
        cut: the folds.
    """
    relevant = data.claims.relevant
    known = np.zeros(len(relevant), bool)
    for fold in cut:
        others = np.concatenate([fold.train, fold.validation])
        of_others = relevant[others].any(axis=0)
        known[fold.test] = (relevant[fold.test] & of_others).any(axis=1)
    return known


def evidence_table(
    values: dict[str, Values], known: np.ndarray
) -> list[dict[str, Any]]:
    """Returns the differences on claims with evidence of others, and on the rest.

    Args:
        values: by row and metric.
        known: from `known_evidence`.
    """
    return [
        {"evidence": name, "claims": int(some.sum()), **row}
        for name, some in (("of other claims too", known), ("new", ~known))
        for row in difference_table(
            {
                row: {metric: found[:, some] for metric, found in own.items()}
                for row, own in values.items()
            }
        )
    ]


def training_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns the epochs that were chosen, and the loss of the validation claims."""
    return [
        {
            "trained": step,
            "epochs": _mean(run[f"epochs, {step}"] for run in runs),
            "loss of validation": _mean(run[f"loss, {step}"] for run in runs),
        }
        for step in STEPS
    ]


def _mean(values: Iterable[float]) -> float:
    return round(statistics.fmean(values), 3)


def _deviation(values: np.ndarray) -> float | str:
    return round(statistics.stdev(values), 4) if len(values) > 1 else "-"


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


if __name__ == "__main__":
    main()
