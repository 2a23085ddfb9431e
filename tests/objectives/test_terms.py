"""The sums of an objective's terms on a small batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.objectives.test_in_batch import loop
from tfrs_prerank import losses
from tfrs_prerank.objectives import Term
from tfrs_prerank.objectives.terms import Forward, label_of, term_sums, usable
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.scorers.vector_scorer import VectorScorer

NAN = float("nan")
# Two requests; the second has one real document.
MASK = np.array([[True, True, True], [True, False, False]])
LOGITS = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 0.0]], "f")
BATCH = {
    "mask": tf.constant(MASK),
    "doc_ids": tf.constant([["a", "b", "c"], ["b", "", ""]]),
    "label/click": tf.constant([[1.0, 0.0, NAN], [0.0, 0.0, 1.0]]),
    "label/like": tf.constant([[1.0, 1.0, 0.0], [1.0, NAN, NAN]]),
    "stage": tf.constant([[0, 1, 3], [2, -1, -1]]),
}
INDEX = tf.constant([0, 1, 2, 3], tf.int64)


def forward(tasks: int = 1, size: int = 2, seed: int = 0) -> Forward:
    rng = np.random.default_rng(seed)
    return Forward(
        logits=tf.constant(np.stack([LOGITS] * tasks, axis=-1)),
        scores=tf.constant(LOGITS),
        query_vectors=tf.constant(rng.normal(size=[2, tasks * size]).astype("f")),
        doc_vectors=tf.constant(rng.normal(size=[4, tasks * size]).astype("f")),
        index=INDEX,
    )


def scorer(tasks: int = 1) -> VectorScorer:
    return VectorScorer(Scorer("dot"), tasks)


def sums(term: Term, batch=None, out=None, task: int = 0, layer=None) -> list[float]:
    batch = BATCH if batch is None else batch
    out = forward() if out is None else out
    return [float(x) for x in term_sums(term, batch, out, task, layer or scorer())]


def nll(logit: float, label: float) -> float:
    return math.log1p(math.exp(-logit if label else logit))


def test_sigmoid_over_real_labelled_documents():
    value, count = sums(Term("click"))
    # c has no label, the rest of the second request is padding.
    assert count == 3
    np.testing.assert_allclose(value, nll(1, 1) + nll(-2, 0) + nll(3, 0), rtol=1e-6)


def test_sigmoid_weights_divide_too():
    weights = tf.constant([[2.0, NAN, 9.0], [0.0, 5.0, 5.0]])
    value, count = sums(Term("click"), {**BATCH, "weight/click": weights})
    assert count == 3.0  # 2 and an unknown one, which is 1
    np.testing.assert_allclose(value, 2 * nll(1, 1) + nll(-2, 0), rtol=1e-6)


def test_softmax_over_lists():
    value, count = sums(Term("like", "softmax_cross_entropy"))
    first = math.log(sum(map(math.exp, (1, -2, 0.5)))) - (1 - 2) / 2
    assert count == 2
    np.testing.assert_allclose(value, first + 0.0, rtol=1e-6)


def test_a_list_without_a_positive_does_not_count():
    value, count = sums(Term("click", "softmax_cross_entropy"))
    # c has no label and takes no part.
    np.testing.assert_allclose(value, nll(3, 1), rtol=1e-6)
    assert count == 1


@pytest.mark.parametrize(
    ("stages", "places"),
    [
        (("exposed",), [0]),
        (("ranked", "preranked_out"), [1, 3]),
        (("catalog",), []),  # has no label
        (("in_batch",), []),
        (None, [0, 1, 3]),
    ],
)
def test_stages_limit_a_term(stages, places):
    where = usable(BATCH, BATCH["label/click"], stages)
    assert np.flatnonzero(where).tolist() == places
    value, count = sums(Term("click", stages=stages))
    labels = [1, 0, 0, 0]
    expected = sum(nll(LOGITS.reshape(-1)[p], labels[p]) for p in places)
    assert count == len(places)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


def test_each_task_reads_its_own_logits_and_labels():
    logits = np.stack([LOGITS, -LOGITS], axis=-1)
    out = forward(tasks=2)._replace(logits=tf.constant(logits))
    value, count = sums(Term("like"), out=out, task=1)
    assert count == 4
    expected = nll(-1, 1) + nll(2, 1) + nll(-0.5, 0) + nll(-3, 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def in_batch(task: int, out: Forward, temperature: float, weights) -> list:
    """The loop over the batch's real documents, with dot products by hand."""
    part = slice(2 * task, 2 * task + 2)
    queries = out.query_vectors[:, part].numpy()
    docs = out.doc_vectors[:, part].numpy()
    similarity = queries @ docs.T / temperature
    request = [0, 0, 0, 1]
    own = [similarity[q][v] for v, q in enumerate(request)]
    return loop(
        ["a", "b", "c", "b"],
        [True, True, False, True],
        weights,
        request,
        own,
        similarity,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_in_batch_of_one_task_among_two(temperature):
    out = forward(tasks=2)
    layer = scorer(2)
    layer.bias.assign([5.0, -3.0])  # the same for all documents
    term = Term("like", "in_batch_softmax", temperature=temperature)
    value, count = sums(term, out=out, task=1, layer=layer)
    rows = in_batch(1, out, temperature, [1.0] * 4)
    assert count == len(rows) == 3
    np.testing.assert_allclose(value, sum(v for v, _ in rows), rtol=1e-5)


def test_in_batch_uses_the_learned_scale():
    out = forward()
    layer = VectorScorer(Scorer("cosine", scale=4.0), 1)
    value, _ = sums(Term("like", "in_batch_softmax"), out=out, layer=layer)
    rows = in_batch(0, out, 1 / 4, [1.0] * 4)
    np.testing.assert_allclose(value, sum(v for v, _ in rows), rtol=1e-5)


def test_in_batch_weights_and_number_of_rows():
    weights = tf.constant([[2.0, NAN, 9.0], [0.0, 5.0, 5.0]])
    out = forward()
    term = Term("like", "in_batch_softmax")
    value, count = sums(term, {**BATCH, "weight/like": weights}, out)
    rows = in_batch(0, out, 1.0, [2.0, 1.0, 9.0, 0.0])
    # Weights multiply rows; the divisor is their number, without those of weight 0.
    assert count == 2.0
    np.testing.assert_allclose(value, sum(v for v, _ in rows), rtol=1e-5)


def test_in_batch_hard_negatives():
    out = forward()
    batch = {**BATCH, "label/like": tf.constant([[1.0, 0.0, 0.0], [0.0, NAN, NAN]])}
    value, count = sums(Term("like", "in_batch_softmax", hard_negatives=1), batch, out)
    a, b, c, _ = out.doc_vectors.numpy() @ out.query_vectors[0].numpy()
    # (0, a) meets the harder of b, as request 0 lists it, and c.
    expected = math.log1p(math.exp(max(b, c) - a))
    assert count == 1
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_in_batch_without_positives_is_zero_with_zero_gradients():
    batch = {**BATCH, "label/like": tf.zeros([2, 3])}
    out = forward()
    layer = scorer()
    with tf.GradientTape() as tape:
        tape.watch([out.query_vectors, out.doc_vectors])
        value, count = term_sums(Term("like", "in_batch_softmax"), batch, out, 0, layer)
        loss = tf.math.divide_no_nan(value, count)
    assert float(loss) == 0.0 and float(count) == 0.0
    for gradient in tape.gradient(loss, [out.query_vectors, out.doc_vectors]):
        assert not np.any(gradient)


def test_in_batch_stages_limit_the_rows_and_not_the_positives():
    out = forward()
    term = Term("like", "in_batch_softmax", stages=("exposed",))
    value, count = sums(term, out=out)
    vectors = out.doc_vectors.numpy()
    a, _, c, _ = vectors @ out.query_vectors[0].numpy()
    # Only (0, a) is a row. b, ranked, is liked in the same request: no negative.
    expected = math.log(math.exp(a) + math.exp(c)) - a
    assert count == 1
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_in_batch_positives_are_labels_above_0():
    labels = tf.constant([[0.1, 0.0, NAN], [0.0, 1.0, 1.0]])
    batch = {**BATCH, "label/like": labels}
    out = forward()
    value, count = sums(Term("like", "in_batch_softmax"), batch, out)
    logits = out.doc_vectors.numpy() @ out.query_vectors[0].numpy()
    # A grade of 0.1 is a row against b, once, and c; padding has no row.
    expected = math.log(sum(map(math.exp, logits[:3]))) - logits[0]
    assert count == 1
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_missing_columns_are_named():
    with pytest.raises(KeyError) as error:
        label_of(BATCH, "buy")
    assert (
        error.value.args[0] == "the batch has no 'label/buy', the labels of task 'buy'"
    )
    batch = {k: v for k, v in BATCH.items() if k != "stage"}
    with pytest.raises(KeyError) as error:
        sums(Term("click", stages=("ranked",)), batch)
    assert error.value.args[0] == (
        "the batch has no 'stage', which a term with stages needs"
    )


def test_log_q_of_the_batch_corrects_a_list():
    term = Term("click", "softmax_cross_entropy", log_q=True)
    # b was drawn with probability 1/2: it stands for two. c has no label.
    log_q = tf.constant([[0.0, math.log(0.5), 0.0], [0.0, 0.0, 0.0]])
    value, count = sums(term, BATCH | {"log_q": log_q})
    expected = math.log(math.exp(1) + 2 * math.exp(-2)) - 1
    np.testing.assert_allclose([value, count], [expected, 1], rtol=1e-6)
    with pytest.raises(KeyError, match=r"no 'log_q', which the term click/softmax"):
        sums(term)
    # Lists to evaluate on are whole.
    whole = term_sums(term, BATCH, forward(), 0, scorer(), training=False)
    assert float(whole[0]) == sums(Term("click", "softmax_cross_entropy"))[0]


def test_log_q_of_documents_reaches_only_the_terms_that_ask_for_it():
    log_q = tf.math.log([0.9, 0.5, 0.1, 0.5])
    plain, corrected = (
        term_sums(
            Term("like", "in_batch_softmax", log_q=asked),
            BATCH, forward(), 0, scorer(), log_q,
        )[0]
        for asked in (False, True)
    )  # fmt: skip
    assert float(plain) == sums(Term("like", "in_batch_softmax"))[0]
    assert abs(float(plain) - float(corrected)) > 0.1


@pytest.mark.parametrize(
    ("term", "options"),
    [
        (Term("click", "pairwise_hinge", margin=3.0), {"margin": 3.0}),
        (Term("click", "pairwise_hinge"), {}),
        (Term("click", "triplet", margin=0.7), {"margin": 0.7}),
        (Term("click", "lambdarank", k=1), {"k": 1}),
        (Term("click", "ranknet"), {}),
        (Term("click", "list_mle"), {}),
        (Term("click", "multi_positive_softmax"), {}),
    ],
    ids=lambda value: value.loss if isinstance(value, Term) else "",
)
def test_options_reach_the_loss(term, options):
    loss = getattr(losses, term.loss)
    labels = tf.where(MASK, BATCH["label/click"], NAN)
    expected = loss(labels, LOGITS, reduction="sum", **options)
    np.testing.assert_allclose(sums(term)[0], expected, rtol=1e-6)
    # One list has a positive and a negative.
    assert sums(term)[1] in (1, 2)


def test_hard_negatives_reach_the_triplets():
    batch = {**BATCH, "label/click": tf.constant([[1.0, 0.0, 0.0], [0.0, NAN, NAN]])}
    # 1 against the harder of -2 and 0.5, with the margin 0.7.
    value, count = sums(Term("click", "triplet", margin=0.7, hard_negatives=1), batch)
    np.testing.assert_allclose([value, count], [0.5 - 1 + 0.7, 1], rtol=1e-6)


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_distillation_reads_the_teacher_of_its_stages(form):
    teacher = tf.constant([[2.0, -1.0, 5.0], [NAN, 0.0, 0.0]])
    term = Term(
        "click", "distillation", stages=["exposed", "ranked"], temperature=2, form=form
    )
    expected = losses.distillation(
        [[2.0, -1.0]], LOGITS[:1, :2], temperature=2.0, form=form, reduction="sum"
    )
    value, count = sums(term, BATCH | {"teacher/click": teacher})
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert count == {"softmax": 1, "sigmoid": 2}[form]
    with pytest.raises(KeyError, match=r"no 'teacher/click', which the term click/dis"):
        sums(term)


def test_contrastive_reads_one_minus_cosine():
    out = forward(seed=3)
    queries, docs = out.query_vectors.numpy()[[0, 0, 0, 1]], out.doc_vectors.numpy()
    norms = np.linalg.norm(queries, axis=1) * np.linalg.norm(docs, axis=1)
    distance = 1 - (queries * docs).sum(axis=1) / norms
    # Labels 1, 0, none, 0.
    expected = (
        distance[0] ** 2
        + max(0.5 - distance[1], 0) ** 2
        + max(0.5 - distance[3], 0) ** 2
    ) / 2
    value, count = sums(Term("click", "contrastive", margin=0.5), out=out)
    np.testing.assert_allclose([value, count], [expected, 3], rtol=1e-5)


def test_levels_are_exposure_and_then_the_tasks():
    batch = {
        "mask": tf.constant([[True] * 5]),
        "stage": tf.constant([[0, 0, 0, 0, 1]]),
        "label/click": tf.constant([[1.0, 1.0, 0.0, NAN, NAN]]),
        "label/like": tf.constant([[1.0, 0.0, 0.0, 0.0, NAN]]),
    }
    logits = np.array([[0.3, -0.2, 0.9, 4.0, 0.1]], "f")
    out = forward()._replace(logits=tf.constant(logits[:, :, np.newaxis]))
    term = Term("click", "hierarchical_softmax", levels=["click", "like"])
    # Whether the fourth was clicked is not known, so it takes no part. What was not
    # exposed reached no level.
    expected = losses.hierarchical_softmax(
        [[3.0, 2.0, 1.0, 0.0]], logits[:, [0, 1, 2, 4]], reduction="sum"
    )
    value, count = sums(term, batch, out)
    np.testing.assert_allclose([value, count], [expected, 1], rtol=1e-6)


def test_an_in_batch_term_that_takes_log_q_off_must_be_given_one():
    term = Term("click", "in_batch_softmax", log_q=True)
    with pytest.raises(
        ValueError, match=r"click/in_batch_softmax takes log_q off; pas"
    ):
        sums(term, BATCH)
