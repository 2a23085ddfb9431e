"""Values of the late interaction."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import LateInteraction


def test_by_hand() -> None:
    layer = LateInteraction(units=1, blocks=1)
    query, doc = tf.constant([[2.0, -1.0]]), tf.constant([[3.0, 4.0]])
    layer(query, doc)
    layer.set_weights(
        [
            np.array([[1.0], [0.0]]),  # of the query: 2
            np.array([[0.0], [1.0]]),  # of the document: 4
            np.array([[1.0], [1.0]]),  # of q * d = (6, -4): 2
            np.array([[1.0], [2.0]]),  # of |q - d| = (1, 5): 11
            np.array([-9.0]),  # 2 + 4 + 2 + 11 - 9 = 10
            np.array([[0.5]]),
            np.array([1.0]),  # relu(10 / 2 + 1) = 6
            np.array([[2.0]]),
            np.array([-3.0]),  # 10 + 12 - 3 = 19
            np.array([[2.0]]),
            np.array([0.5]),  # 38.5
        ]
    )
    assert layer(query, doc).numpy().tolist() == [[38.5]]


def test_equals_one_mlp_over_all_inputs_joined() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (2, 5, 3), (2, 5, 2), (2, 4), (2, 5, 6)]
    q, d, c, fq, fd = (rng.normal(size=s).astype("f") for s in shapes)
    layer = LateInteraction(units=7, blocks=2, outputs=2)
    scores = layer(q, d, c, fq, fd).numpy()
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    scores = layer(q, d, c, fq, fd).numpy()
    wq, wd, wm, wa, wc, bias, *rest = (w.numpy() for w in layer.weights)
    first = np.concatenate([wq[:3], wq[3:], wd[:3], wd[3:], wm, wa, wc])
    for b in range(2):
        for n in range(5):
            x, y = q[b], d[b, n]
            joined = [x, fq[b], y, fd[b, n], x * y, abs(x - y), c[b, n]]
            h = np.maximum(np.concatenate(joined) @ first + bias, 0)
            for block in range(2):
                w1, b1, w2, b2 = rest[4 * block : 4 * block + 4]
                h = h + np.maximum(h @ w1 + b1, 0) @ w2 + b2
            expected = h @ rest[-2] + rest[-1]
            np.testing.assert_allclose(scores[b, n], expected, rtol=1e-3, atol=1e-3)


def test_the_stored_form_gives_the_same_and_no_documents_give_none() -> None:
    rng = np.random.default_rng(0)
    q, fq = (tf.constant(rng.normal(size=[2, s]).astype("f")) for s in (3, 4))
    d, fd = (tf.constant(rng.normal(size=[2, 5, s]).astype("f")) for s in (3, 6))
    layer = LateInteraction(units=7)
    expected = layer(q, d, None, fq, fd)
    stored = layer.project_docs(d, fd)
    got = layer.interact(q, layer.project_query(q, fq), d, stored)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert layer(q, d[:, :0], None, fq, fd[:, :0]).shape == [2, 0, 1]


def test_a_document_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    q = tf.constant(rng.normal(size=[2, 3]).astype("f"))
    d = tf.constant(rng.normal(size=[2, 5, 3]).astype("f"))
    layer = LateInteraction(units=7)
    together = layer(q, d)
    np.testing.assert_allclose(layer(q, d[:, 3:4]), together[:, 3:4], rtol=1e-5)
    np.testing.assert_allclose(layer(q, d[:, 3]), together[:, 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"units": 0}, "`units`.*Received: 0"),
        ({"blocks": -1}, "`blocks`.*at least 0. Received: -1"),
        ({"outputs": 1.5}, r"`outputs`.*Received: 1\.5"),
    ],
)
def test_errors(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LateInteraction(**kwargs)


def test_build_errors() -> None:
    with pytest.raises(ValueError, match="Received: sizes 3 and 4"):
        LateInteraction().build(([None, 3], [None, 4]))
    with pytest.raises(ValueError, match=r"query of shape \[B, d\].*\(None, 2, 3\)"):
        LateInteraction().build(([None, 2, 3], [None, 3]))
