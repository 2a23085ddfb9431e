"""Values of the maximum similarity."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import MaxSim


def test_by_hand() -> None:
    layer = MaxSim(heads=2, size=1)
    layer.build(([[None, 2], [None, 1]], [None, 2]))
    layer.set_weights(
        [
            np.array([[1.0, 0.0], [0.0, 1.0]]),  # heads of layer 1: x_1, x_2
            np.array([[2.0, -1.0]]),  # heads of layer 2: 2 y, -y
            np.array([[1.0, 0.0], [0.0, 3.0]]),  # heads of a document: d_1, 3 d_2
        ]
    )
    layers = [tf.constant([[1.0, -2.0]]), tf.constant([[5.0]])]
    docs = tf.constant([[[4.0, 1.0], [-1.0, -1.0]]])
    # Query heads 1, -2, 10, -5. Document 1 has 4 and 3: best products 4, -6, 40, -15.
    # Document 2 has -1 and -3: best products -1, 6, -10, 15.
    assert layer(layers, docs).numpy().tolist() == [[[23.0], [10.0]]]
    # One document for the query: the same.
    assert layer(layers, docs[:, 1]).numpy().tolist() == [[10.0]]


def test_equals_a_loop_over_layers_and_heads() -> None:
    rng = np.random.default_rng(0)
    heads, size, outputs = 3, 4, 2
    layer = MaxSim(heads, size, outputs)
    queries = [rng.normal(size=[2, d]).astype("f") for d in (5, 7)]
    docs = rng.normal(size=[2, 6, 3]).astype("f")
    scores = layer([tf.constant(q) for q in queries], tf.constant(docs)).numpy()
    *kernels, doc_kernel = (w.numpy() for w in layer.weights)
    for b in range(2):
        for n in range(6):
            v = (docs[b, n] @ doc_kernel).reshape(outputs, heads, size)
            for t in range(outputs):
                expected = 0.0
                for query, kernel in zip(queries, kernels, strict=True):
                    u = (query[b] @ kernel).reshape(outputs, heads, size)[t]
                    expected += sum(max(head @ v[t].T) for head in u)
                np.testing.assert_allclose(scores[b, n, t], expected, rtol=1e-4)


def test_one_head_of_one_layer_is_a_dot_product() -> None:
    layer = MaxSim(heads=1, size=4)
    rng = np.random.default_rng(0)
    query = rng.normal(size=[3, 4]).astype("f")
    docs = rng.normal(size=[3, 4]).astype("f")
    layer.build(([[None, 4]], [None, 4]))
    layer.set_weights([np.eye(4), np.eye(4)])
    np.testing.assert_allclose(
        layer([query], docs)[:, 0], (query * docs).sum(axis=1), rtol=1e-5
    )


def test_the_stored_form_gives_the_same_and_no_documents_give_none() -> None:
    layer = MaxSim(heads=2, size=3, outputs=2)
    rng = np.random.default_rng(0)
    queries = [tf.constant(rng.normal(size=[2, 5]).astype("f"))]
    docs = tf.constant(rng.normal(size=[2, 4, 3]).astype("f"))
    expected = layer(queries, docs)
    stored = layer.project_docs(docs)
    got = layer.similarity(layer.project_query(queries), stored)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert layer(queries, docs[:, :0]).shape == [2, 0, 2]
    assert layer([queries[0][:0]], docs[:0, 0]).shape == [0, 2]


@pytest.mark.parametrize("name", ["heads", "size", "outputs"])
def test_errors(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`.*Received: 0"):
        MaxSim(**{name: 0})


def test_build_errors() -> None:
    with pytest.raises(ValueError, match=r"docs of shape.*\(None, 3, 4, 5\)"):
        MaxSim().build(([[None, 2]], [None, 3, 4, 5]))
    with pytest.raises(ValueError, match=r"Received: \[\]"):
        MaxSim().build(([], [None, 3]))
    with pytest.raises(ValueError, match="known document size"):
        MaxSim().build(([[None, 2]], [None, None]))
