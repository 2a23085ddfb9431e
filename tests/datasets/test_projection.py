"""Principal components against eigenvectors by hand and distances."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrs_prerank.datasets import Projection, reduce_vectors


def test_components_are_eigenvectors_by_hand():
    # Around the mean (3, 3): two steps along (1, 1), one along (1, -1).
    vectors = np.array([[5.0, 5.0], [1.0, 1.0], [4.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    reduced, projection = reduce_vectors(vectors, 1)
    np.testing.assert_allclose(projection.mean, [3.0, 3.0])
    np.testing.assert_allclose(np.abs(projection.components), [[0.5**0.5] * 2])
    # Sums of squares 2 * 8 and 2 * 2.
    np.testing.assert_allclose(projection.explained, [0.8])
    np.testing.assert_allclose(np.abs(reduced[:2]), [[8**0.5]] * 2, rtol=1e-6)
    np.testing.assert_allclose(reduced[2:], [[0.0]] * 3, atol=1e-6)
    # With a variance of 16 / 3 along the first direction, and 4 / 3 along the other.
    white, _ = reduce_vectors(vectors, 2, whiten=True)
    np.testing.assert_allclose(np.abs(white[0]), [(8 / (16 / 3)) ** 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(white[:4].var(axis=0, ddof=1), [1, 1], rtol=1e-6)
    assert white[4].tolist() == [0.0, 0.0]


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float64, (9, 4), elements=st.integers(-50, 50).map(float)),
    st.integers(1, 4),
)
def test_distances_are_kept_by_all_components_and_shrink_by_fewer(vectors, size):
    given_rows = vectors[vectors.any(axis=1)]
    if len(given_rows) < 4 or not np.ptp(given_rows, axis=0).any():
        return
    reduced, projection = reduce_vectors(vectors, size)
    assert ((reduced == 0).all(axis=1) >= (vectors == 0).all(axis=1)).all()
    kept = reduced[vectors.any(axis=1)].astype(np.float64)

    def distances(rows):
        return np.linalg.norm(rows[:, np.newaxis] - rows, axis=-1)

    before, after = distances(given_rows), distances(kept)
    assert (after <= before + 1e-3).all()
    if size == 4:
        np.testing.assert_allclose(after, before, atol=1e-3)
    # The same vectors once more, one by one.
    again = np.concatenate([projection(row[np.newaxis]) for row in vectors])
    np.testing.assert_allclose(again, reduced, atol=1e-4)


def test_new_vectors_take_the_saved_projection(tmp_path):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(200, 12)) * np.arange(1, 13) + 5).astype(np.float32)
    reduced, projection = reduce_vectors(vectors, 3, whiten=True, seed=3)
    projection.save(tmp_path / "pca.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["pca.npz"]
    loaded = Projection.load(tmp_path / "pca.npz")
    np.testing.assert_array_equal(loaded.explained, projection.explained)
    np.testing.assert_array_equal(loaded(vectors), reduced)
    new = np.zeros((2, 12), np.float32)
    new[1] = loaded.mean
    np.testing.assert_allclose(loaded(new), np.zeros((2, 3)), atol=1e-5)
    assert reduced.dtype == np.float32
    with pytest.raises(ValueError, match=r"of vectors of 12. Received: vectors of 11"):
        loaded(vectors[:, 1:])


def test_whitening_what_does_not_vary():
    vectors = np.outer(np.arange(1.0, 6.0), [1.0, 2.0, 3.0])
    assert reduce_vectors(vectors, 2)[1].explained[0] == pytest.approx(1)
    with pytest.raises(ValueError) as error:
        reduce_vectors(vectors, 2, whiten=True)
    assert str(error.value) == (
        "the vectors vary along 1 directions only, and whiten divides by the "
        "deviation; take size=1. Received: size=2"
    )


@pytest.mark.parametrize(
    ("vectors", "size", "expected"),
    [
        ([[1.0, np.nan], [1.0, 2.0]], 1, "NaN or infinity in row 0"),
        ([1.0, 2.0], 1, r"numbers \[M, d\]. Received: shape \(2,\)"),
        ([["a"]], 1, r"Received: shape \(1, 1\) of <U1"),
        (
            [[1.0, 2.0, 3.0], [4.0, 5.0, 7.0], [0.0, 0.0, 0.0]],
            3,
            "size must be from 1 to 2, with 2 vectors of 3 that are not all-zero. "
            "Received: size=3",
        ),
        ([[1.0, 2.0], [3.0, 5.0]], 0, "size must be from 1 to 2"),
        ([[0.0, 0.0]], 1, "size must be from 1 to 0, with 0 vectors of 2"),
        ([[1.0, 2.0]] * 3, 1, "the 3 vectors that are not all-zero are one and the"),
        ([[1.0, 2.0]], 1, "the 1 vectors that are not all-zero are one and the"),
    ],
)
def test_vectors_without_components(vectors, size, expected):
    with pytest.raises(ValueError, match=expected):
        reduce_vectors(np.array(vectors), size)


def test_projections_that_are_none(tmp_path):
    path = tmp_path / "pca.npz"
    with pytest.raises(FileNotFoundError, match="no projection at"):
        Projection.load(path)
    np.savez(path, mean=np.zeros(2))
    with pytest.raises(ValueError, match=r"is no projection: .*components"):
        Projection.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no projection: "):
        Projection.load(path)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(ImportError) as error:
        reduce_vectors(np.eye(3), 2)
    assert str(error.value) == (
        "reduce_vectors needs scikit-learn: pip install 'tfrs_prerank[vectors]'"
    )


@pytest.mark.parametrize("mean", [0.0, 10.0, 1000.0])
def test_a_large_mean_does_not_hide_the_directions(mean):
    rng = np.random.default_rng(3)
    spread = rng.normal(size=(500, 4)) * [0.4, 0.2, 0.1, 0.05]
    vectors = (mean + spread @ np.linalg.qr(rng.normal(size=(4, 4)))[0]).astype("f4")
    reduced, _ = reduce_vectors(vectors, 2)
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    expected = centred @ directions.T
    np.testing.assert_allclose(np.abs(reduced), np.abs(expected), atol=1e-3)
