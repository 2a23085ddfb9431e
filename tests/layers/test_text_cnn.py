"""Filters over hand-set tokens, beside a slow loop."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.layers import TextCNN


def slow(layer: TextCNN, texts: list[np.ndarray]) -> np.ndarray:
    """Max over the windows of each text, one at a time."""
    rows = []
    for text in texts:
        row = []
        for width, kernel, bias in zip(
            layer.widths, layer.kernels, layer.biases, strict=True
        ):
            short = max(width - len(text), 0)
            filled = np.concatenate([text, np.zeros((short, text.shape[1]))])
            answers = [
                np.tanh(np.sum(filled[i : i + width, :, None] * kernel, (0, 1)) + bias)
                for i in range(len(filled) - width + 1)
            ]
            row.append(np.max(answers, 0) if len(text) else np.zeros(layer.filters))
        rows.append(np.concatenate(row))
    return np.array(rows)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_texts_of_any_length_equal_a_loop(lengths, padding):
    rng = np.random.default_rng(1)
    layer = TextCNN(widths=(2, 4, 1), filters=3, activation="tanh")
    texts = [rng.normal(size=(length, 5)) for length in lengths]
    steps = max(lengths) + padding
    # What padding holds must not matter.
    tokens = rng.normal(size=(len(texts), steps, 5)).astype("float32")
    mask = np.zeros((len(texts), steps), bool)
    for row, text in enumerate(texts):
        tokens[row, : len(text)], mask[row, : len(text)] = text, True
    layer(tokens, mask=mask)
    layer.set_weights([rng.normal(size=tuple(w.shape)) for w in layer.weights])
    expected = slow(layer, texts)
    np.testing.assert_allclose(layer(tokens, mask=mask), expected, atol=1e-5)


def test_padding_does_not_win():
    """A bias above 0 answers to zeros, which no token stands for."""
    layer = TextCNN(widths=(2,), filters=1)
    tokens = tf.constant([[[-5.0], [-6.0], [0.0], [0.0]]])
    mask = tf.constant([[True, True, False, False]])
    layer(tokens, mask=mask)
    layer.kernels[0].assign([[[1.0]], [[1.0]]])
    layer.biases[0].assign([3.0])
    # The one window gives relu(-11 + 3) = 0; over padding it would be 3.
    assert layer(tokens, mask=mask).numpy().tolist() == [[0.0]]


def test_no_text_has_no_vector():
    layer = TextCNN(widths=(1, 3), filters=2)
    assert layer(tf.zeros([0, 4, 5]), mask=tf.zeros([0, 4], tf.bool)).shape == [0, 4]
    with tf.GradientTape() as tape:
        none = layer(tf.zeros([0, 0, 5]), mask=tf.zeros([0, 0], tf.bool))
        total = tf.reduce_sum(none)
    assert none.shape == [0, 4]
    for gradient in tape.gradient(total, layer.trainable_variables):
        np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


def test_gradients_of_empty_texts_are_zero():
    layer = TextCNN(widths=(2,), filters=2)
    tokens = tf.Variable(tf.ones([1, 3, 2]))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(tokens, mask=tf.constant([[False] * 3])))
    gradients = tape.gradient(total, [tokens, *layer.trainable_variables])
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, "`widths` must name at least one width"),
        ({"widths": (0,)}, "`widths` must be a whole number of at least 1"),
        ({"filters": 0}, "`filters` must be a whole number of at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextCNN(**arguments)
