"""Scores by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.scorers import Scorer, make_scorer
from tfrs_prerank.scorers.vector_scorer import VectorScorer
from tfrs_prerank.towers.encoded import Encoded

# Two rows and two tasks of vectors of size 2.
QUERY = tf.constant([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]]])
DOC = tf.constant([[[4.0, 3.0], [-2.0, 0.0]], [[5.0, 0.0], [3.0, 3.0]]])


def logits(layer: VectorScorer, query: tf.Tensor, doc: tf.Tensor) -> tf.Tensor:
    pairs = layer.vectors(query) * layer.vectors(doc)
    return layer.logits(tf.reduce_sum(pairs, axis=-1))


def test_dot_by_hand():
    layer = VectorScorer(Scorer("dot"), tasks=2)
    layer.bias.assign([0.5, -1.0])
    # 12 + 12, -2; 0, 6; and the bias.
    assert logits(layer, QUERY, DOC).numpy().tolist() == [[24.5, -3.0], [0.5, 5.0]]
    assert len(layer.trainable_variables) == 1


def test_cosine_by_hand():
    layer = VectorScorer(Scorer("cosine", scale=2.0), tasks=2)
    np.testing.assert_allclose(
        # 24 / 25, -1; 0, 1; times 2.
        logits(layer, QUERY, DOC), [[1.92, -2.0], [0.0, 2.0]], atol=1e-6,
    )  # fmt: skip
    layer.bias.assign([0.5, -1.0])
    layer.log_scale.assign([0.0, math.log(10)])
    np.testing.assert_allclose(
        logits(layer, QUERY, DOC), [[1.46, -11.0], [0.5, 9.0]], atol=1e-5
    )


def test_vectors_of_a_cosine_have_unit_length_and_those_of_a_dot_are_kept():
    unit = VectorScorer(Scorer("cosine"), 2).vectors(QUERY)
    np.testing.assert_allclose(tf.norm(unit, axis=-1), np.ones([2, 2]), rtol=1e-6)
    np.testing.assert_allclose(unit[0, 0], [0.6, 0.8], rtol=1e-6)
    assert VectorScorer(Scorer("dot"), 2).vectors(QUERY) is QUERY


def test_length_does_not_matter_to_a_cosine():
    layer = VectorScorer(Scorer("cosine"), 2)
    expected = logits(layer, QUERY, DOC)
    for factor in (1e-3, 1e3, 1e15):
        np.testing.assert_allclose(
            logits(layer, QUERY * factor, DOC), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_a_zero_vector_is_finite_and_so_is_its_gradient(kind):
    layer = VectorScorer(Scorer(kind), 1)
    layer.bias.assign([0.25])
    zero, doc = tf.zeros([1, 1, 3]), tf.constant([[[1.0, 2.0, 2.0]]])
    for query, other in ((zero, doc), (doc, zero), (zero, zero)):
        with tf.GradientTape() as tape:
            tape.watch([query, other])
            logit = logits(layer, query, other)
        assert logit.numpy().tolist() == [[0.25]]
        gradients = tape.gradient(logit, [query, other, *layer.trainable_variables])
        for gradient in gradients:
            assert np.isfinite(gradient).all()


def test_the_scale_is_learned_and_stays_positive():
    layer = VectorScorer(Scorer("cosine", scale=3.0), 1)
    np.testing.assert_allclose(tf.exp(layer.log_scale), [3.0], rtol=1e-6)
    assert len(layer.trainable_variables) == 2
    # Opposite vectors that should score high: gradient descent pulls the scale down.
    query, doc = tf.constant([[[1.0, 0.0]]]), tf.constant([[[-1.0, 0.0]]])
    optimizer = tf.keras.optimizers.SGD(1.0)
    for _ in range(50):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(logits(layer, query, doc))
        gradient = tape.gradient(loss, layer.log_scale)
        optimizer.apply_gradients([(gradient, layer.log_scale)])
    scale = float(tf.exp(layer.log_scale)[0])
    assert 0 < scale < 0.1


def test_one_tasks_logits_equal_its_column():
    for kind in ("dot", "cosine"):
        layer = VectorScorer(Scorer(kind), 2)
        layer.bias.assign([0.5, -1.0])
        if layer.log_scale is not None:
            layer.log_scale.assign([0.3, 0.7])
        similarity = tf.constant([[0.2, -0.4], [1.0, 0.0], [0.5, 0.5]])
        together = layer.logits(similarity)
        for task in (0, 1):
            np.testing.assert_allclose(
                layer.task_logits(similarity[:, task], task), together[:, task], 1e-6
            )


def test_scores_are_float32_under_every_policy():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = VectorScorer(Scorer("cosine"), 1)
        # 1,000 squared is infinite in float16.
        vector = tf.constant([[[1000.0, 0.0]]])
        result = logits(layer, vector, vector)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, [[10.0]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["dot", "cosine", "mlp", "max_sim", "experts"])
def test_lists_score_as_rows_do(kind):
    """`compare` of lists `[B, N, p]` equals that of each pair on its own."""
    rng = np.random.default_rng(0)
    tf.keras.utils.set_random_seed(0)

    def encoded(rows: int, fields: int) -> Encoded:
        def normal(*shape: int) -> tf.Tensor:
            return tf.constant(rng.normal(size=shape).astype("f"))

        return Encoded(
            normal(rows, 2, 4), normal(rows, fields), (normal(rows, 5), normal(rows, 3))
        )

    query, docs = encoded(2, 6), encoded(2 * 3, 8)
    scorer = make_scorer(Scorer(kind), ["click", "buy"])
    with_context = kind in ("mlp", "experts")
    scorer.ensure_built(query, docs, 3 if with_context else None)
    for weight in scorer.weights:
        weight.assign(rng.normal(size=weight.shape))
    context = tf.constant(rng.normal(size=[6, 3]).astype("f")) if with_context else None
    queries, sides = scorer.query_side(query), scorer.doc_side(docs)
    rows = scorer.compare(tf.repeat(queries, 3, axis=0), sides, context)
    lists = scorer.compare(
        queries,
        tf.reshape(sides, [2, 3, sides.shape[1]]),
        None if context is None else tf.reshape(context, [2, 3, 3]),
    )
    assert rows.shape == [6, 2]
    np.testing.assert_allclose(tf.reshape(lists, [6, 2]), rows, rtol=1e-4, atol=1e-4)
    assert np.ptp(rows, axis=0).min() > 0


def test_cosine_is_the_dot_product_of_normalised_vectors():
    cosine, dot = (
        VectorScorer(Scorer("cosine", scale=1.0), 2),
        VectorScorer(Scorer("dot"), 2),
    )
    unit = [tf.math.l2_normalize(x, axis=-1) for x in (QUERY, DOC)]
    np.testing.assert_allclose(
        logits(cosine, QUERY, DOC), logits(dot, *unit), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"scale": 0.0}, "Scorer: scale must be positive. Received: 0.0"),
        (
            {"scale": float("nan")},
            "Scorer.scale: input should be a finite number. Received: nan",
        ),
        (
            {"kind": "dot", "scale": 5.0},
            "Scorer: scale does nothing with kind='dot'; leave it out. "
            "Received: scale=5.0",
        ),
        ({"kind": "mlp", "units": 0}, "Scorer: units must be at least 1. Received: 0"),
        (
            {"kind": "max_sim", "units": 8},
            "Scorer: units does nothing with kind='max_sim'; leave it out. "
            "Received: units=8",
        ),
        (
            {"kind": "dot", "cross": "concat"},
            'Scorer: cross="concat" belongs to kind="mlp" and kind="experts", which '
            "read the cross vector; leave it out. Received: kind='dot'",
        ),
        (
            {"kind": "mlp", "experts": "mmoe"},
            "Scorer: experts does nothing with kind='mlp'; leave it out. Received: "
            "experts=Experts(kind='mmoe', count=4, shared=1, own=1, levels=2, "
            "units=(64,))",
        ),
        (
            {"kind": "experts", "experts": "moe"},
            "Scorer.experts: unknown 'moe'; did you mean 'mmoe'?",
        ),
        (
            {"kind": "cos"},
            "Scorer.kind: unknown 'cos'; did you mean 'cosine'?",
        ),
        (
            {"cross": "mul"},
            "Scorer.cross: unknown 'mul'; known: add, concat",
        ),
    ],
)
def test_a_declaration_checks_itself(declared, expected):
    with pytest.raises(ConfigurationError) as error:
        Scorer(**declared)
    assert str(error.value) == expected
