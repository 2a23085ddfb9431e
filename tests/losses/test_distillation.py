import math

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.losses import distillation

each_form = pytest.mark.parametrize("form", ["softmax", "sigmoid"])


def test_softmax_hand_value():
    # Teacher 3/4, 1/4, student 1/2, 1/2: log(3/2) 3/4 + log(1/2) 1/4.
    teacher, student = [[math.log(3.0), 0.0]], [[7.0, 7.0]]
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    np.testing.assert_allclose(distillation(teacher, student), divergence, rtol=1e-6)
    # At T = 2 with logits twice as far apart: the same times 4.
    teacher = [[2 * math.log(3.0), 0.0]]
    value = distillation(teacher, student, temperature=2.0)
    np.testing.assert_allclose(value, 4 * divergence, rtol=1e-6)


def test_sigmoid_hand_value():
    # Teacher 3/4, student 1/2; teacher and student 1/2.
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    teacher, student = [[math.log(3.0), 0.0]], [[0.0, 0.0]]
    np.testing.assert_allclose(
        distillation(teacher, student, form="sigmoid", reduction="none"),
        [[divergence, 0.0]],
        atol=1e-7,
    )
    value = distillation(teacher, student, form="sigmoid", weights=[[3.0, 1.0]])
    np.testing.assert_allclose(value, 0.75 * divergence, rtol=1e-6)


@each_form
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_equals_the_closed_form(form, temperature):
    # T^2 d/ds KL(p || q) = T (q - p) of one list, or of one document.
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=[2, 1, 5])
    given = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = distillation(
            teacher, given, temperature=temperature, form=form, reduction="sum"
        )
    squash = tf.nn.softmax if form == "softmax" else tf.sigmoid
    expected = squash(student / temperature) - squash(teacher / temperature)
    np.testing.assert_allclose(
        tape.gradient(value, given), temperature * expected, atol=1e-12
    )


@each_form
def test_a_high_temperature_compares_logits(form):
    # T^2 KL tends to the squared difference of (centred) logits, times 1 / (2 L) for a
    # softmax over L, 1 / 8 for a sigmoid: without T^2 it would tend to 0.
    teacher, student = np.array([[1.0, 0.0, -1.0]]), np.array([[0.0, 0.5, -0.5]])
    value = distillation(teacher, student, temperature=1e3, form=form, reduction="sum")
    squares = ((teacher - student) ** 2).sum()
    expected = squares / 6 if form == "softmax" else squares / 8
    np.testing.assert_allclose(value, expected, rtol=1e-3)


@each_form
def test_the_teacher_agreed_with_costs_nothing_whatever_the_weights(form):
    rng = np.random.default_rng(0)
    teacher, weights = rng.normal(size=[4, 6]), rng.random([4, 6])
    student = tf.constant(teacher + (3.0 if form == "softmax" else 0.0))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = distillation(teacher, student, weights=weights, form=form)
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    np.testing.assert_allclose(tape.gradient(value, student), 0.0, atol=1e-12)
    away = distillation(
        teacher, student + rng.normal(size=[4, 6]), weights=weights, form=form
    )
    assert away > 0.01


@each_form
def test_no_gradient_reaches_the_teacher(form):
    teacher = tf.constant([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        value = distillation(teacher, tf.zeros([1, 2]), form=form)
    assert tape.gradient(value, teacher) is None


@each_form
def test_an_absent_teacher_takes_the_document_out(form):
    nan = float("nan")
    teacher, student = [[1.0, nan, 0.0], [nan] * 3], np.float32([[0.0, 9.0, 0.5]] * 2)
    given = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value = distillation(teacher, given, form=form)
    gradient = tape.gradient(value, given).numpy()
    expected = distillation([[1.0, 0.0]], [[0.0, 0.5]], form=form)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 1], 0.0)
    np.testing.assert_array_equal(gradient[1], 0.0)


def test_a_list_of_one_has_nothing_to_compare():
    nan = float("nan")
    _, counts = distillation.terms([[1.0, nan], [1.0, 2.0]], [[0.0, 0.0]] * 2)
    np.testing.assert_array_equal(counts, [0.0, 1.0])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be a positive number"):
        distillation([[1.0]], [[0.0]], temperature=temperature)


def test_unknown_form():
    with pytest.raises(ValueError, match="form='kl' is unknown: use 'softmax' or"):
        distillation([[1.0]], [[0.0]], form="kl")
