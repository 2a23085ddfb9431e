"""Means over the rows of a dataset of what towers tell about themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf


def row_means(
    name: str,
    read: Callable[[Mapping[str, tf.Tensor], str], Any],
    sides: Sequence[str],
    dataset: Iterable[Mapping[str, tf.Tensor]],
) -> dict[str, Any]:
    """Averages what a reader gives for a batch and a tower over all rows.

    Args:
        name: of the method that asks, for errors.
        read: takes a batch and a tower's side, and returns tensors `[rows, n]` in any
            structure; None in it stays None.
        sides: of the towers.
        dataset: batches.

    Returns:
        By side, the reader's structure with an array `[n]` for each tensor.

    Raises:
        ValueError: a tower has no rows.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def read_all(batch: Mapping[str, tf.Tensor]) -> dict[str, Any]:
        return {side: read(batch, side) for side in sides}

    structure: Any = None
    sums: dict[int, Any] = {}
    rows: dict[int, int] = {}
    for batch in dataset:
        structure = read_all(batch)
        for place, values in enumerate(tf.nest.flatten(structure)):
            if values is not None:
                total = values.numpy().astype("float64").sum(axis=0)
                sums[place] = sums.get(place, 0.0) + total
                rows[place] = rows.get(place, 0) + len(values)
    if not rows or not all(rows.values()):
        raise ValueError(
            f"{name}: the dataset has no documents; give one with requests"
        )
    means = [
        sums[place] / rows[place] if place in sums else None
        for place in range(len(tf.nest.flatten(structure)))
    ]
    result: dict[str, Any] = tf.nest.pack_sequence_as(structure, means)
    return result
