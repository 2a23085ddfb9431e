"""The in-batch softmax of 16-bit towers, large logits and hardly any documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import random_requests, small_model, small_schema, take
from tests.objectives.test_in_batch import call, loop
from tfrs_prerank.scorers import Scorer


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize("hard_negatives", [None, 2])
def test_differences_of_large_logits_keep_their_digits(hard_negatives):
    # Logits of 10^4 at temperature 0.01 are 10^6, of which float32 holds sixteenths.
    # These are such, so the loss is all that can be inexact: a logarithm of a sum near
    # 10^6 would be wrong by up to 0.03.
    rng = np.random.default_rng(0)
    index = [0, 0, 1, 1, 2, 2]
    large = 1e6 + rng.integers(-32, 32, [3, 6]) / 16.0
    own = large[index, range(6)]
    batch = (list("abcdef"), [True, False] * 3, [1.0] * 6, index, own, large)
    values, _ = call(*batch, hard_negatives=hard_negatives)
    expected = [value for value, _ in loop(*batch, hard_negatives=hard_negatives)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_logits_of_sixteen_bit_vectors(dtype):
    """Value and gradient by the vectors, against float64 of the same vectors."""
    rng = np.random.default_rng(1)
    names, index = list("abcabd"), [0, 0, 0, 1, 1, 1]
    positive = [True, False, False, False, True, True]
    found = {}
    rounded = [tf.cast(rng.normal(size=(n, 8)) * 40.0, dtype) for n in (2, 6)]
    for width in (tf.float32, tf.float64):
        queries, docs = (tf.cast(vectors, width) for vectors in rounded)
        with tf.GradientTape() as tape:
            tape.watch([queries, docs])
            logits = tf.matmul(queries, docs, transpose_b=True) / 0.01
            own = tf.gather_nd(logits, [[q, place] for place, q in enumerate(index)])
            values, _ = call(
                names, positive, [1.0] * 6, index, own, logits, dtype=width
            )
        gradients = tape.gradient(values, [queries, docs])
        found[width] = (values, *map(tf.convert_to_tensor, gradients))
    assert 1e4 < float(tf.reduce_max(found[tf.float64][0])) < 1e7
    for narrow, wide in zip(found[tf.float32], found[tf.float64], strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-2)


def model_of(scale: float, temperature: float) -> tp.PreRanker:
    terms = (
        tp.Term("click", "in_batch_softmax", temperature=temperature, log_q=True),
        tp.Term("like", "in_batch_softmax", temperature=temperature, hard_negatives=2),
    )
    return small_model(
        small_schema(("click", "like")),
        scorer=Scorer("cosine", scale=scale),
        objective=tp.Objective(terms),
    )


def step_of(
    model: tp.PreRanker, batch: Any, scale: float = 1.0
) -> tuple[list[float], np.ndarray]:
    """The mean losses of a training step, and all gradients in a row.

    The gradients are those of the loss times `scale`, divided by it afterwards.
    """
    with tf.GradientTape() as tape:
        sums = model.compute(batch, training=True).sums
        means = [tf.math.divide_no_nan(*pair) for pair in sums.values()]
        loss = scale * tf.add_n(means)
    variables = model.network.trainable_variables
    gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
    dense = [np.ravel(tf.convert_to_tensor(gradient)) for gradient in gradients]
    assert {gradient.dtype for gradient in dense} == {np.dtype("float32")}
    return [float(mean) for mean in means], np.concatenate(dense) / scale


def test_sixteen_bit_towers_learn_what_others_do(policy):
    batch = take(random_requests(6, 4, ("click", "like")), 0, 6)
    narrow = model_of(10.0, 0.5)
    assert narrow.network.doc_tower.compute_dtype == policy.removeprefix("mixed_")
    tf.keras.mixed_precision.set_global_policy("float32")
    wide = model_of(10.0, 0.5)
    (losses, gradient), (expected, right) = (
        step_of(model, batch) for model in (narrow, wide)
    )
    # Eight or eleven bits of each vector's numbers, times a scale of 20.
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.08}[policy]
    np.testing.assert_allclose(losses, expected, atol=tolerance)
    assert np.linalg.norm(gradient - right) < tolerance * np.linalg.norm(right)


def test_extremes_are_finite(policy):
    arrays = random_requests(6, 3, ("click", "like"))
    model = model_of(1e4, 0.01)
    # Of logits of 10^6 they are beyond float16's 65504, unless the loss is scaled down.
    scale = {"mixed_float16": 2.0**-10, "mixed_bfloat16": 1.0}[policy]
    losses, gradient = step_of(model, take(arrays, 0, 6), scale)
    assert np.isfinite(losses).all() and max(losses) > 1e4
    assert np.isfinite(gradient).all() and gradient.any()

    # One document, a batch of positives of one request, and none that is real.
    alone = take({name: values[:1] for name, values in arrays.items()}, 0, 1)
    labels = {f"label/{task}": tf.ones([1, 3]) for task in ("click", "like")}
    one, none = ([[True, False, False]], [[False] * 3])
    for changed in (labels | {"mask": tf.constant(one)}, labels, {"mask": none}):
        batch = alone | {name: tf.convert_to_tensor(x) for name, x in changed.items()}
        losses, gradient = step_of(model, batch)
        assert losses == [0.0, 0.0]
        assert not gradient.any()
