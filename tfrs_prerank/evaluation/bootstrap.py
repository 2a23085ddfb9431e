"""The cluster bootstrap: groups of lists are drawn again, never single lists.

What belongs here: NumPy over sums by group. What does not: metrics and models.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfrs_prerank.progress import track

_DRAWS_AT_ONCE = 2_000_000
_BOUNDS = (2.5, 97.5)


def number_groups(keys: np.ndarray, request_ids: np.ndarray) -> np.ndarray:
    """Numbers the group of every list from 0.

    Groups are numbered by their sorted keys, and those that have none after them, by
    request id, so that the numbers do not depend on the order of the lists.

    Args:
        keys: `[n]`, strings (bytes) or integers. `b""` or -1: the list is a group of
            its own.
        request_ids: `[n]`, bytes.

    Returns:
        int64 `[n]`.

    Example:
    >>> import numpy as np
    >>> ids = np.array([b"r2", b"r1", b"r3", b"r4"])
    >>> number_groups(np.array([b"", b"", b"ann", b"ann"]), ids).tolist()
    [2, 1, 0, 0]
    """
    alone = keys == (-1 if keys.dtype.kind in "iu" else b"")
    numbers = np.empty(len(keys), np.int64)
    names, places = np.unique(keys[~alone], return_inverse=True)
    numbers[~alone] = places.reshape(-1)
    numbers[np.flatnonzero(alone)[np.argsort(request_ids[alone], kind="stable")]] = (
        np.arange(alone.sum()) + len(names)
    )
    return numbers


def group_sums(groups: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Adds up lists by group.

    Args:
        groups: int `[n]`, numbers from 0.
        columns: float64 `[n, C]`.

    Returns:
        float64 `[G, C]`.
    """
    sums = np.zeros([groups.max() + 1, columns.shape[1]])
    np.add.at(sums, groups, columns)
    return sums


def resample_counts(groups: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Draws G of G groups with replacement, again and again.

    Args:
        groups: G.
        samples: S, the number of resamples.
        seed: the same seed gives the same resamples.

    Yields:
        How often each group was drawn, float64 `[s, G]`; S rows in all.
    """
    generator = np.random.default_rng(seed)
    rows = _rows_at_once(groups)
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = generator.integers(groups, size=(size, groups))
        drawn += np.arange(size)[:, np.newaxis] * groups
        counts = np.bincount(drawn.reshape(-1), minlength=size * groups)
        yield counts.reshape(size, groups).astype(np.float64)


def _rows_at_once(groups: int) -> int:
    return max(1, _DRAWS_AT_ONCE // groups)


def resampled_sums(sums: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Adds up the groups of every resample.

    Args:
        sums: float64 `[G, C]`, sums by group.
        samples: S.
        seed: of the draws.

    Returns:
        float64 `[S, C]`. Equal columns give equal results, to the last bit.
    """
    # Rankings share their weights, and BLAS need not round equal columns alike.
    distinct, places = np.unique(sums, axis=1, return_inverse=True)
    draws = resample_counts(len(sums), samples, seed)
    total = -(-samples // _rows_at_once(len(sums)))
    parts = [counts @ distinct for counts in track(draws, "resampling", total)]
    return np.concatenate(parts)[:, places.reshape(-1)]


def interval(resampled: np.ndarray) -> tuple[float, float] | None:
    """Returns the percentile interval that holds 95% of the resampled values.

    Args:
        resampled: `[S]`; NaN where a resample drew no usable list.

    Returns:
        `(low, high)`, or None where nothing but NaN was drawn.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    drawn = resampled[~np.isnan(resampled)]
    if not len(drawn):
        return None
    low, high = np.percentile(drawn, _BOUNDS)
    return float(low), float(high)
