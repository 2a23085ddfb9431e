"""The value of an objective's terms on one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrs_prerank import losses
from tfrs_prerank.distribution import global_concat
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.features.encoders import Tables
from tfrs_prerank.features.lookups import is_pad
from tfrs_prerank.features.tables import EmbeddingTable
from tfrs_prerank.objectives.dat import adaptive_mimic, category_alignment
from tfrs_prerank.objectives.in_batch import (
    document_keys,
    first_rows,
    in_batch_softmax,
)
from tfrs_prerank.objectives.objective import OPTIONS, Term

_FIXES = {
    "log_q": "prepare the data with a mixture, or leave log_q out",
    "teacher": "name the teacher's column when the data is prepared (columns.teachers)",
    "stage": "name the column of stages when the data is prepared (columns.stage)",
}
"""What to do where a batch lacks a column, by the column."""


class Forward(NamedTuple):
    """What a model computes for a batch of B requests with V real documents.

    Attributes:
        logits: float32 `[B, L, tasks]`, 0 in padding.
        scores: pre-rank scores, float32 `[B, L]`.
        index: place of each real document in the flattened batch, int64 `[V]`.
        query_vectors: what the scorer keeps of each query, float32 `[B, q]`; None of a
            model that has no vectors.
        doc_vectors: what it keeps of each document, float32 `[V, p]`, or None.
        served_logits: the logits without the training-only bias, as serving has them;
            None where they are the same.
    """

    logits: tf.Tensor
    scores: tf.Tensor
    index: tf.Tensor
    query_vectors: tf.Tensor | None = None
    doc_vectors: tf.Tensor | None = None
    served_logits: tf.Tensor | None = None


def sums_of(
    terms: Iterable[Term],
    batch: Mapping[str, tf.Tensor],
    forward: Forward,
    tasks: Sequence[str],
    **options: Any,
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Computes several terms; see `term_sums`.

    Args:
        terms: the terms.
        batch: labels, weights, stages and mask of the batch.
        forward: the model's outputs.
        tasks: the model's tasks, in order.
        **options: of `term_sums`.

    Returns:
        What `term_sums` returns, by the terms' names.
    """
    return {
        term.name: term_sums(term, batch, forward, tasks.index(term.task), **options)
        for term in terms
    }


def term_sums(
    term: Term,
    batch: Mapping[str, tf.Tensor],
    forward: Forward,
    task: int,
    scorer: tf.keras.layers.Layer | None = None,
    log_q: tf.Tensor | None = None,
    teacher: tf.Tensor | None = None,
    tables: Tables | None = None,
    training: bool = True,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the sum of a term's losses and what it must be divided by.

    The two are apart because the divisor is a sum over all replicas.

    Args:
        term: the term.
        batch: labels, weights, stages and mask of the batch.
        forward: the model's outputs.
        task: position of the term's task in `forward`.
        scorer: the model's `ScorerLayer`, where a term reads vectors.
        log_q: log probability of each real document to be in the batch, `[V]`; only
            in-batch terms with `log_q` read it.
        teacher: logits of a teacher, float32 `[B, L, tasks]`; None for those of the
            batch.
        tables: the model's embedding tables by feature, where a term reads them.
        training: whether a batch without the column `log_q` is an error. Lists to
            evaluate on are whole: nothing in them was sampled.

    Returns:
        Two float32 scalars: the sum of weighted losses, and of documents' weights,
        usable lists or rows.
    """
    if term.loss == "in_batch_softmax":
        if term.log_q and log_q is None:
            raise ValueError(
                f"the term {term.name} takes log_q off; pass log_q, or leave log_q out "
                "of the term. Received: log_q=None"
            )
        values, counts = _in_batch(
            term, batch, forward, task, scorer, log_q if term.log_q else None
        )
        return tf.reduce_sum(values), tf.reduce_sum(counts)
    if term.loss == "adaptive_mimic":
        return _mimic(term, batch, forward, task, scorer, tables)
    if term.loss == "category_alignment":
        return _alignment(term, batch, forward, task, scorer)
    if term.loss == "distillation" and teacher is not None:
        labels = teacher[:, :, task]
    else:
        labels = _labels(term, batch)
    where = usable(batch, labels, term.stages)
    weights = batch.get(f"weight/{term.task}")
    scores = forward.logits[:, :, task]
    if term.loss == "distillation" and forward.served_logits is not None:
        # A teacher knows nothing of what the bias explains.
        scores = forward.served_logits[:, :, task]
    if term.loss == "contrastive":
        scores = _distances(forward, task, scorer)
    options: dict[str, Any] = {
        name: getattr(term, name)
        for name in ("margin", "k", "temperature", "form", "hard_negatives")
        if name in OPTIONS.get(term.loss, ()) and getattr(term, name) is not None
    }
    if term.log_q and (training or "log_q" in batch):
        options["log_q"] = _column(batch, "log_q", term)
    if term.levels:
        options["level_weights"] = (1.0,) * (1 + len(term.levels))
    loss = getattr(losses, term.loss)
    values, counts = loss.terms(labels, scores, where=where, weights=weights, **options)
    return tf.reduce_sum(values), tf.reduce_sum(counts)


def label_of(batch: Mapping[str, tf.Tensor], task: str) -> tf.Tensor:
    """Returns a task's labels of a batch; KeyError names the missing column."""
    name = f"label/{task}"
    if name not in batch:
        raise KeyError(f"the batch has no {name!r}, the labels of task {task!r}")
    return batch[name]


def _column(batch: Mapping[str, tf.Tensor], name: str, term: Term) -> tf.Tensor:
    if name not in batch:
        fix = _FIXES[name.split("/")[0]]
        raise KeyError(
            f"the batch has no {name!r}, which the term {term.name} reads; {fix}"
        )
    return batch[name]


def usable(
    batch: Mapping[str, tf.Tensor], labels: tf.Tensor, stages: tuple[str, ...] | None
) -> tf.Tensor:
    """Says which documents are real, have a label and are of the wanted stages.

    Args:
        batch: `mask` and, where stages are wanted, `stage`.
        labels: `[B, L]`, NaN = absent.
        stages: names of stages, None for all.

    Returns:
        bool `[B, L]`.
    """
    where = batch["mask"] & tf.logical_not(tf.math.is_nan(labels))
    if stages is None:
        return where
    if "stage" not in batch:
        raise KeyError("the batch has no 'stage', which a term with stages needs")
    codes = tf.constant([STAGES[stage] for stage in stages], batch["stage"].dtype)
    member = tf.equal(batch["stage"][:, :, tf.newaxis], codes)
    return where & tf.reduce_any(member, axis=-1)


def _labels(term: Term, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns what a term reads in the place of labels, float32 `[B, L]`."""
    if term.loss == "distillation":
        return _column(batch, f"teacher/{term.task}", term)
    if not term.levels:
        return label_of(batch, term.task)
    exposed = tf.equal(_column(batch, "stage", term), STAGES["exposed"])
    reached = tf.cast(exposed, tf.float32)
    for level, task in enumerate(term.levels, start=2):
        labels = label_of(batch, task)
        # Not known of what was exposed: no level is. Of the rest it was not reached.
        known = tf.where(exposed, labels, tf.where(tf.math.is_nan(labels), 0.0, labels))
        reached = tf.where(known > 0, float(level), reached)
        reached = tf.where(tf.math.is_nan(known), known, reached)
    return reached


def _distances(forward: Forward, task: int, scorer: tf.keras.layers.Layer) -> tf.Tensor:
    """Returns 1 - cosine of query and document, float32 `[B, L]`; 0 in padding."""
    shape = tf.shape(forward.scores, out_type=forward.index.dtype)
    unit = [
        tf.math.l2_normalize(scorer.task_vectors(side, task), axis=-1, epsilon=1e-12)
        for side in (forward.query_vectors, forward.doc_vectors)
    ]
    queries = tf.gather(unit[0], forward.index // shape[1])
    # Rounding may put equal vectors at a distance below 0.
    distances = tf.maximum(1.0 - tf.reduce_sum(queries * unit[1], axis=-1), 0.0)
    flat = tf.scatter_nd(forward.index[:, tf.newaxis], distances, [shape[0] * shape[1]])
    return tf.reshape(flat, shape)


def _mimic(
    term: Term,
    batch: Mapping[str, tf.Tensor],
    forward: Forward,
    task: int,
    scorer: tf.keras.layers.Layer,
    tables: Tables | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    assert tables is not None and term.query is not None and term.doc is not None
    labels = label_of(batch, term.task)
    request = forward.index // tf.shape(labels, out_type=forward.index.dtype)[1]
    of_query, of_doc = tables[term.query], tables[term.doc]

    def embedded(table: EmbeddingTable, values: tf.Tensor) -> tf.Tensor:
        return tf.cast(table(table.rows_of(values)), tf.float32)

    values = adaptive_mimic(
        tf.gather(embedded(of_query, batch[term.query]), request),
        embedded(of_doc, _packed(batch[term.doc], forward)),
        tf.gather(scorer.task_vectors(forward.query_vectors, task), request),
        scorer.task_vectors(forward.doc_vectors, task),
        _packed(labels > 0, forward),
    )
    where = usable(batch, labels, term.stages)
    weights = _packed(tf.where(where, _weights(term, batch, labels), 0.0), forward)
    return tf.reduce_sum(weights * values), tf.reduce_sum(weights)


def _alignment(
    term: Term,
    batch: Mapping[str, tf.Tensor],
    forward: Forward,
    task: int,
    scorer: tf.keras.layers.Layer,
) -> tuple[tf.Tensor, tf.Tensor]:
    assert term.by is not None
    where = usable(batch, tf.zeros_like(forward.scores), term.stages)
    categories = batch[term.by]
    where &= tf.logical_not(is_pad(categories))
    rows = tf.where(_packed(where, forward))[:, 0]

    def of_all(column: tf.Tensor) -> tf.Tensor:
        return global_concat(tf.gather(column, rows))

    # The documents of all replicas, each of them once.
    doc_ids = of_all(document_keys(_packed(batch["doc_ids"], forward)))
    first, _ = first_rows(doc_ids)
    vectors = of_all(scorer.task_vectors(forward.doc_vectors, task))
    categories = of_all(document_keys(_packed(categories, forward)))
    return category_alignment(tf.gather(vectors, first), tf.gather(categories, first))


def _weights(
    term: Term, batch: Mapping[str, tf.Tensor], labels: tf.Tensor
) -> tf.Tensor:
    """Returns documents' weights, as every loss reads them.

    No known weight is a weight of 1; a negative or infinite one counts as none.
    """
    weights = batch.get(f"weight/{term.task}", tf.ones_like(labels))
    weights = tf.where(tf.math.is_nan(weights), 1.0, weights)
    return tf.where((weights > 0) & tf.math.is_finite(weights), weights, 0.0)


def _packed(column: tf.Tensor, forward: Forward) -> tf.Tensor:
    """Returns the values `[V]` of the real documents, of a column `[B, L]`."""
    return tf.gather(tf.reshape(column, [-1]), forward.index)


def _in_batch(
    term: Term,
    batch: Mapping[str, tf.Tensor],
    forward: Forward,
    task: int,
    scorer: tf.keras.layers.Layer,
    log_q: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    labels = label_of(batch, term.task)
    request = forward.index // tf.shape(labels, out_type=forward.index.dtype)[1]
    # Stages limit the rows. What is a positive of the request in another stage is no
    # negative of theirs.
    rows = _packed((labels > 0) & usable(batch, labels, term.stages), forward)
    positive = _packed((labels > 0) & usable(batch, labels, None), forward)
    weights = _packed(_weights(term, batch, labels), forward)
    queries = scorer.task_vectors(forward.query_vectors, task)
    docs = scorer.task_vectors(forward.doc_vectors, task)
    own = tf.reduce_sum(tf.gather(queries, request) * docs, axis=-1)
    own = scorer.task_logits(own, task) / term.temperature
    # The documents of all replicas are candidates of each: C of them.
    similarity = tf.matmul(queries, global_concat(docs), transpose_b=True)  # [B, C]
    similarity = scorer.task_logits(similarity, task) / term.temperature
    if log_q is not None:
        own -= log_q
        similarity -= global_concat(log_q)
    doc_ids = document_keys(_packed(batch["doc_ids"], forward))
    candidates = global_concat(doc_ids)
    return in_batch_softmax(
        doc_ids, rows, positive, weights, request, own,
        candidates, similarity, term.hard_negatives,
    )  # fmt: skip
