"""What other users have together with a history: a feature that costs a pair's time.

A linear model from a user's movies to others, in closed form (Steck, "Embarrassingly
Shallow Autoencoders for Sparse Data", WWW 2019, equation 8). With X the movies
that users liked, or rated, `[users, movies]` and P the inverse of `X' X + strength I`,

    B_ij = -P_ij / P_jj, 0 on the diagonal
    score(history, j) = sum of B_ij over the movies i of a history

A user's own movies would tell what is to be predicted of them: users are in folds, and
those of a fold are scored by what the users of all others have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FOLDS, STRENGTH = 4, 4000.0


class CoOccurrence:
    """The model of every fold.

    Args:
        owned: the movies that each user liked, or rated.
        movies: how many movies there are.
        folds: number of folds; a user's is its place modulo this.
        strength: of the L2 penalty.
    """

    def __init__(
        self,
        owned: Sequence[np.ndarray],
        movies: int,
        folds: int = FOLDS,
        strength: float = STRENGTH,
    ) -> None:
        self.folds = folds
        self.kernels = [
            kernel_of(
                [own for user, own in enumerate(owned) if user % folds != fold],
                movies,
                strength,
            )
            for fold in range(folds)
        ]

    def scores(self, user: int, history: Sequence[int], ids: np.ndarray) -> np.ndarray:
        """Returns how well movies `[L]` go with a user's history, float32 `[L]`."""
        kernel = self.kernels[user % self.folds]
        return kernel[np.ix_(np.asarray(history, np.int64), ids)].sum(axis=0)


def kernel_of(
    owned: Sequence[np.ndarray], movies: int, strength: float = STRENGTH
) -> np.ndarray:
    """Returns B of the movies of some users, float32 `[movies, movies]`."""
    matrix = np.zeros((len(owned), movies), np.float32)
    for user, own in enumerate(owned):
        matrix[user, own] = 1.0
    gram = matrix.T @ matrix
    gram[np.diag_indices(movies)] += strength
    inverse = np.linalg.inv(gram)
    kernel = -inverse / np.diag(inverse)
    kernel[np.diag_indices(movies)] = 0.0
    return kernel
