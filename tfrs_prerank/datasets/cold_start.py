"""Vectors for users that a model has never seen, from users like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfrs_prerank.datasets.vectors import VectorTable, check_vectors
from tfrs_prerank.progress import track

_SIMILARITIES = 4_000_000  # in memory at once
_TIE = 1e-6  # cosines this close are equal, whatever order they were summed in


def cold_start_vectors(
    new: VectorTable,
    profiles: VectorTable,
    vectors: VectorTable,
    *,
    k: int = 50,
    activity: Mapping[Any, int] | None = None,
    min_activity: int = 1,
) -> VectorTable:
    """Gives new users the mean vector of the k active users most like them.

        v(u) = mean of v(n) over the k active users n with the highest
               cos(profile(u), profile(n))

    The profile is what is known of both, such as one-hot attributes from the sign-up or
    a text encoder's vector of a description; v may be the rows of an embedding table or
    outputs of the query tower. Users that are as similar as the k-th, to 1e-6, all
    count, since profiles of few attributes are often equal. A user without a profile
    (all zeros) gets the mean of all active users.

    Exact, with all pairs compared in blocks: new users x active users x (profile +
    vector) multiply-adds.

    Args:
        new: ids and profiles of the new users.
        profiles: ids and profiles of the others.
        vectors: ids and trained vectors. Only users with a vector, a profile that is
            not all-zero and enough activity are compared with.
        k: neighbours.
        activity: events of each user by id, such as clicks in the training log; one
            that it lacks has none. Without it all count as active.
        min_activity: events from which a user is active; a vector of few events is
            mostly noise.

    Returns:
        The new users' ids and float32 vectors `[M, d]`; `write_vectors` stores them.

    Raises:
        ValueError: fewer than k users are active, profiles have different sizes, a new
            user has a vector already, or a table is wrong in itself.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.datasets import VectorTable, cold_start_vectors
    >>> known = np.array(["ann", "bob", "cy"])
    >>> profiles = VectorTable(known, np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    >>> vectors = VectorTable(known, np.array([[1.0, 3.0], [3.0, 3.0], [9.0, 9.0]]))
    >>> new = VectorTable(np.array(["dee"]), np.array([[2.0, 0.0]]))
    >>> cold_start_vectors(new, profiles, vectors, k=2).vectors.tolist()
    [[2.0, 3.0]]
    """
    new = check_vectors(new, "new")
    profiles = check_vectors(profiles, "profiles")
    vectors = check_vectors(vectors, "vectors")
    size = profiles.vectors.shape[1]
    if new.vectors.shape[1] != size:
        raise ValueError(
            f"profiles are vectors of {size}. Received: those of new users, of "
            f"{new.vectors.shape[1]}"
        )
    known = set(vectors.ids.tolist())
    twice = [user for user in new.ids.tolist() if user in known]
    if twice:
        raise ValueError(
            f"new user {twice[0]!r} has a vector already; leave it out of one table"
        )
    like, given = _active(profiles, vectors, activity, min_activity)
    if not 1 <= k <= len(like):
        raise ValueError(
            f"k must be from 1 to {len(like)}, the number of active users that have a "
            f"profile and a vector. Received: k={k}"
        )
    like, wanted = _unit(like), _unit(new.vectors)
    made = np.empty((len(wanted), given.shape[1]), np.float32)
    step = max(_SIMILARITIES // len(like), 1)
    for start in track(range(0, len(wanted), step), "comparing users"):
        similar = wanted[start : start + step] @ like.T
        least = np.partition(similar, len(like) - k, axis=1)[:, len(like) - k]
        chosen = (similar >= least[:, np.newaxis] - _TIE).astype(np.float32)
        made[start : start + step] = chosen @ given / chosen.sum(axis=1, keepdims=True)
    return VectorTable(new.ids, made)


def _active(
    profiles: VectorTable,
    vectors: VectorTable,
    activity: Mapping[Any, int] | None,
    min_activity: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the profiles and the vectors of the users that are compared with."""
    row_of = {user: row for row, user in enumerate(vectors.ids.tolist())}
    pairs = [
        (row, row_of[user])
        for row, user in enumerate(profiles.ids.tolist())
        if profiles.vectors[row].any()
        and user in row_of
        and (activity is None or activity.get(user, 0) >= min_activity)
    ]
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    return profiles.vectors[rows[:, 0]], vectors.vectors[rows[:, 1]]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors of length 1; those of zeros stay, alike to everybody."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit
