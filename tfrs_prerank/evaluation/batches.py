"""What an evaluation reads of the data besides labels: batches, tasks, keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.progress import track

OUT_OF_SCENE = "out_of_scene"
"""`label/out_of_scene` holds what users liked elsewhere, which is no task."""


def batches(data: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, tf.Tensor]]:
    """Yields the batches of data as tensors, with a bar where it takes long.

    Args:
        data: batches of requests.

    Raises:
        TypeError: a batch is no dict.
        KeyError: a batch has no mask.
        ValueError: the mask is not bool `[B, L]`, or the data has no end.
    """
    for batch in track(data, "evaluating", _length(data)):
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"data yields {type(batch).__name__}: give batches as dicts; a single "
                "batch goes into a list"
            )
        if "mask" not in batch:
            raise KeyError("the batch has no 'mask', true where a document is real")
        tensors = {name: tf.convert_to_tensor(column) for name, column in batch.items()}
        mask = tensors["mask"]
        if mask.dtype != tf.bool or mask.shape.rank != 2:
            raise ValueError(
                f"'mask' is {mask.dtype.name} of shape {tuple(mask.shape)}: give bool "
                "[B, L], true where a document is real"
            )
        yield tensors


def tasks_in(batch: Mapping[str, Any]) -> list[str]:
    """Returns the tasks that a batch has labels for.

    Args:
        batch: the batch.

    Raises:
        KeyError: there is none.
    """
    columns = [name for name in batch if name.startswith("label/")]
    names = [name.removeprefix("label/") for name in columns]
    names = [name for name in names if name != OUT_OF_SCENE]
    if not names:
        raise KeyError("the batch has no 'label/<task>' column; add the labels")
    return names


def group_keys(batch: Mapping[str, tf.Tensor], groups: str | None) -> np.ndarray:
    """Returns the group of every request, `[B]` bytes or integers.

    Args:
        batch: the batch.
        groups: the column; None makes every request a group of its own.

    Raises:
        KeyError: there is no such column.
        ValueError: it does not hold one string or integer per request.
    """
    if groups is None:
        return np.full(len(batch["mask"]), b"", object)
    if groups not in batch:
        raise KeyError(
            f"groups={groups!r}: the batch has no such column; "
            f"{nearest(groups, batch)}; groups=None takes requests one by one"
        )
    return _keys(batch, groups)


def request_ids(batch: Mapping[str, tf.Tensor]) -> np.ndarray:
    """Returns the ids of the requests, `[B]`; all empty where there are none.

    Args:
        batch: the batch.
    """
    if "request_id" not in batch:
        return np.full(len(batch["mask"]), b"", object)
    return _keys(batch, "request_id")


def _keys(batch: Mapping[str, tf.Tensor], name: str) -> np.ndarray:
    keys = batch[name]
    if keys.shape.rank != 1 or not (keys.dtype == tf.string or keys.dtype.is_integer):
        raise ValueError(
            f"{name!r} is {keys.dtype.name} of shape {tuple(keys.shape)}: a key is one "
            "string or integer per request"
        )
    return keys.numpy()


def _length(data: Any) -> int | None:
    if isinstance(data, tf.data.Dataset):
        length = int(data.cardinality())
        if length == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the data has no end: leave out repeat() or add take()")
        return length if length >= 0 else None
    return len(data) if hasattr(data, "__len__") else None
