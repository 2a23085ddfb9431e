"""Weights learned from uncertainty: the formula, its gradients, what leaves them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank import LazyAdam
from tfrs_prerank.objectives.uncertainty import (
    UncertaintyWeights,
    fixed_sum,
    uncertain,
)

SUMS = {"click": (6.0, 3.0), "like": (1.0, 4.0), "buy": (0.0, 0.0)}
WEIGHTS = {"click": 1.0, "like": 2.0, "buy": 5.0}


def tensors(sums: dict) -> dict:
    return {n: (tf.constant(v), tf.constant(c)) for n, (v, c) in sums.items()}


def weights_at(*log_variances: float) -> UncertaintyWeights:
    layer = UncertaintyWeights(WEIGHTS)
    layer.log_variances.assign(log_variances)
    return layer


def test_fixed_weights_by_hand() -> None:
    # 1 * 6 / 3 + 2 * 1 / 4; a term without documents is 0.
    assert float(fixed_sum(tensors(SUMS), WEIGHTS)) == 2.5


def test_all_start_at_a_variance_of_1() -> None:
    layer = UncertaintyWeights(WEIGHTS)
    np.testing.assert_allclose(layer.combine(tensors(SUMS), WEIGHTS), 2.5, rtol=1e-6)
    assert float(layer.variance("like")) == 1.0


def test_by_hand() -> None:
    layer = weights_at(math.log(2), math.log(0.5), 3.0)
    # click: 2 / 2 + log(2) / 2; like: 2 (0.25 / 0.5 + log(0.5) / 2); buy: nothing.
    expected = 1 + math.log(2) / 2 + 2 * (0.5 - math.log(2) / 2)
    value = layer.combine(tensors(SUMS), WEIGHTS)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(layer.variance("like"), 0.5, rtol=1e-6)


def test_gradients_are_those_of_the_formula() -> None:
    layer = weights_at(0.3, -0.7, 1.0)
    values = tf.constant([6.0, 1.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(values)
        sums = {
            name: (values[place], tf.constant(count))
            for place, (name, (_, count)) in enumerate(SUMS.items())
        }
        loss = layer.combine(sums, WEIGHTS)
    of_values, of_s = tape.gradient(loss, [values, layer.log_variances])
    # weight exp(-s) / count, and weight (1/2 - exp(-s) mean).
    expected = [math.exp(-0.3) / 3, 2 * math.exp(0.7) / 4, 0.0]
    np.testing.assert_allclose(of_values, expected, rtol=1e-5)
    expected = [0.5 - math.exp(-0.3) * 2, 2 * (0.5 - math.exp(0.7) * 0.25)]
    np.testing.assert_allclose(of_s.values, expected, rtol=1e-5)
    # No row for the term without documents.
    np.testing.assert_array_equal(of_s.indices, [0, 1])


def test_a_batch_without_any_document_moves_nothing() -> None:
    layer = weights_at(0.3, -0.7, 1.0)
    empty = tensors(dict.fromkeys(SUMS, (0.0, 0.0)))
    with tf.GradientTape() as tape:
        loss = layer.combine(empty, WEIGHTS)
    assert float(loss) == 0.0
    assert tape.gradient(loss, layer.log_variances).values.shape == [0]


def step(layer: UncertaintyWeights, optimizer: tf.keras.optimizers.Optimizer, sums):
    with tf.GradientTape() as tape:
        loss = layer.combine(tensors(sums), WEIGHTS)
    gradient = tape.gradient(loss, layer.log_variances)
    optimizer.apply_gradients([(gradient, layer.log_variances)])
    return layer.log_variances.numpy()


def test_a_term_without_a_usable_list_keeps_its_variance() -> None:
    layer, optimizer = UncertaintyWeights(WEIGHTS), LazyAdam(0.1)
    full = {**SUMS, "buy": (9.0, 1.0)}
    for _ in range(3):
        first = step(layer, optimizer, full)
    assert first[2] > 0.2
    # Its momentum must not move it either.
    second = step(layer, optimizer, SUMS)
    assert second[2] == first[2]
    assert (second[:2] != first[:2]).all()
    last = step(layer, optimizer, dict.fromkeys(SUMS, (0.0, 0.0)))
    np.testing.assert_array_equal(last, second)


@pytest.mark.slow  # takes long
def test_the_variance_goes_to_twice_the_mean() -> None:
    layer, optimizer = UncertaintyWeights(WEIGHTS), LazyAdam(0.05)
    for _ in range(400):
        step(layer, optimizer, {**SUMS, "buy": (0.0, 2.0)})
    expected = [2 * 2, 2 * 0.25]
    np.testing.assert_allclose(tf.exp(layer.log_variances[:2]), expected, rtol=1e-2)
    for _ in range(1000):
        step(layer, optimizer, {**SUMS, "buy": (0.0, 2.0)})
    # A mean of 0 counts as 1e-4: the variance stays above 0, and its inverse finite.
    np.testing.assert_allclose(layer.variance("buy"), 2e-4, rtol=0.1)


@settings(deadline=None)
@given(
    mean=st.floats(1e-3, 1e4),
    count=st.floats(0.25, 1e3),
    log_variance=st.floats(-5, 5),
)
def test_the_formula_in_float64(mean: float, count: float, log_variance: float) -> None:
    value, count, s = (tf.constant(x, tf.float64) for x in (mean * count, count,
                                                            log_variance))  # fmt: skip
    got = uncertain(value, count, s)
    expected = count * (math.exp(-log_variance) * mean + log_variance / 2)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)
    # Nowhere below its value at exp(s) = 2 mean.
    least = count * (0.5 + math.log(2 * mean) / 2)
    assert float(got) >= float(least) - 1e-6 * abs(float(least)) - 1e-9


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_of_a_batch_add_up(parts: int) -> None:
    """Counts are divided by their sum over the replicas, so values add up."""
    values, counts = np.array([3.0, 0.5]), np.array([4.0, 2.0])
    s = np.array([0.2, -0.4])
    whole = uncertain(values, counts, s)
    some = [uncertain(values / parts, counts / parts, s) for _ in range(parts)]
    np.testing.assert_allclose(np.sum(some, axis=0), whole)
