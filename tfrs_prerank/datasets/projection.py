"""Vectors made shorter by principal component analysis."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from tfrs_prerank.datasets.vectors import check_finite
from tfrs_prerank.declaration import on_one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """What PCA found: how vectors are made shorter, the same way for new ones.

    Attributes:
        mean: `[d]`, of the vectors that it was fitted to.
        components: `[size, d]`, orthogonal; with whitening, divided by the standard
            deviation along them.
        explained: `[size]`, the share of the variance that each component keeps.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.datasets.projection import Projection
    >>> half = Projection(np.array([1.0, 1.0]), np.array([[0.0, 1.0]]), np.ones(1))
    >>> half(np.array([[5.0, 3.0], [0.0, 0.0]])).tolist()
    [[2.0], [0.0]]
    """

    mean: np.ndarray
    components: np.ndarray
    explained: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors `[M, d]` as float32 `[M, size]`.

        An all-zero vector means missing and stays all-zero.

        Raises:
            ValueError: they have another size, or a number is not finite.
        """
        size = len(self.mean)
        vectors = _rows(vectors, f"vectors of {size}")
        if vectors.shape[1] != size:
            raise ValueError(
                f"the projection is one of vectors of {size}. Received: vectors of "
                f"{vectors.shape[1]}"
            )
        reduced = np.zeros((len(vectors), len(self.components)), np.float32)
        given = vectors.any(axis=1)
        # Subtracted after the product, which needs no copy of all vectors.
        shift = self.components @ self.mean
        reduced[given] = (vectors @ self.components.T - shift)[given]
        return reduced

    def save(self, path: str | Path) -> None:
        """Writes the projection as a NumPy archive `.npz`.

        Args:
            path: the file, written to a temporary name and renamed.
        """
        path = Path(path)
        temporary = path.with_name(f".tmp-{path.name}")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **dataclasses.asdict(self))
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no projection.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no projection at {path}")
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in names})
        except (KeyError, TypeError, EOFError, OSError, ValueError) as error:
            raise ValueError(
                f"{path} is no projection: {on_one_line(error)}; write one with "
                "Projection.save"
            ) from None


def reduce_vectors(
    vectors: np.ndarray, size: int, *, whiten: bool = False, seed: int = 0
) -> tuple[np.ndarray, Projection]:
    """Makes vectors shorter by principal component analysis (PCA).

        y = (x - mean) V^T

    with the rows of V the `size` directions of most variance. For `Dense` features,
    whose projection then has fewer weights, and for vectors of another domain that are
    to initialise an embedding table of another size. New vectors go through the same
    projection: save it beside the model.

    An all-zero vector means missing: it is left out of the fit and stays all-zero.

    Args:
        vectors: `[M, d]`.
        size: numbers that are left of each, at most d and M.
        whiten: divides by the standard deviation along each direction, so that all have
            variance 1; without it distances are kept as far as possible.
        seed: of the randomised solver, which is used where `size` is small beside both
            M and d.

    Returns:
        float32 `[M, size]`, and the projection.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: a number is not finite, `size` is out of range, or the vectors do
            not vary (with `whiten`, along a direction).

    Reference:
        Jolliffe and Cadima, "Principal component analysis: a review and recent
        developments", Phil. Trans. R. Soc. A 374, 2016.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.datasets import reduce_vectors
    >>> vectors = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0], [0.0, 0.0]])
    >>> reduced, projection = reduce_vectors(vectors, size=1)
    >>> [round(abs(float(x)), 3) for x in reduced[:, 0]]  # the last one is missing
    [2.236, 2.236, 0.0, 0.0]
    >>> projection.explained.round(3).tolist()
    [1.0]
    """
    try:
        from sklearn.decomposition import PCA
    except ImportError:
        raise ImportError(
            "reduce_vectors needs scikit-learn: pip install 'tfrs_prerank[vectors]'"
        ) from None
    vectors = _rows(vectors, "vectors")
    given = vectors[vectors.any(axis=1)]
    most = min(given.shape)
    if not 1 <= size <= most:
        raise ValueError(
            f"size must be from 1 to {most}, with {given.shape[0]} vectors of "
            f"{given.shape[1]} that are not all-zero. Received: size={size}"
        )
    pca = PCA(size, random_state=seed)
    if len(given) < 2 or not np.ptp(given, axis=0).any():
        raise ValueError(
            f"the {len(given)} vectors that are not all-zero are one and the same; "
            "there is nothing to tell apart"
        )
    pca.fit(given.astype(np.float64))
    components = pca.components_
    if whiten:
        deviations = np.sqrt(pca.explained_variance_)
        varying = int((deviations > 1e-5 * deviations[0]).sum())
        if varying < size:
            raise ValueError(
                f"the vectors vary along {varying} directions only, and whiten divides "
                f"by the deviation; take size={varying}. Received: size={size}"
            )
        components = components / deviations[:, np.newaxis]
    projection = Projection(pca.mean_, components, pca.explained_variance_ratio_)
    return projection(vectors), projection


def _rows(vectors: np.ndarray, wanted: str) -> np.ndarray:
    array = np.asarray(vectors)
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"{wanted} are wanted, numbers [M, d]. Received: shape {array.shape} of "
            f"{array.dtype}"
        )
    check_finite(array, "vectors")
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
