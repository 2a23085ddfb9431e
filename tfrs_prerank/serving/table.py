"""The documents of an export: ids, vectors and match keys, in variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_ALIGNMENT = 64  # what TensorFlow asks of memory that it did not allocate


class ServedTable(tf.Module):
    """What an export stores of every document.

    Every variable has an open first dimension, so that the graph does not depend on the
    number of documents and new ones need new variables only.

    Args:
        ids: document ids `[M]`, strings or int64.
        ids_file: a file with the same ids, one a line; it becomes an asset.
        vector_size: numbers in a vector, of all tasks together.
        keys: shape after the first dimension and dtype of each match key.
        made_by: fingerprint of the weights that the vectors are made with.
    """

    def __init__(
        self,
        ids: np.ndarray,
        ids_file: str | Path,
        vector_size: int,
        keys: Mapping[str, tf.TensorSpec],
        made_by: str,
    ) -> None:
        super().__init__(name="table")
        integer = np.issubdtype(ids.dtype, np.integer)
        self.id_dtype = tf.int64 if integer else tf.string
        whole_line = tf.lookup.TextFileIndex.WHOLE_LINE
        self.lookup = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(ids_file),
                key_dtype=self.id_dtype,
                # TensorFlow parses integers from a column only.
                key_index=0 if integer else whole_line,
                value_dtype=tf.int64,
                value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            default_value=-1,
        )
        count = len(ids)
        ids = ids.astype(np.int64) if integer else ids.astype(object)
        # In the same file as the vectors, so that neither is changed alone unnoticed.
        self.made_by = tf.Variable(made_by, trainable=False, name="made_by")
        self.ids = tf.Variable(
            tf.constant(ids, self.id_dtype), shape=[None], trainable=False, name="ids"
        )
        # A list: key names hold a slash, and an attribute's name must not.
        self.key_names = sorted(keys)
        specs = [tf.TensorSpec([None, vector_size]), *(keys[n] for n in self.key_names)]
        names = ["vectors", *(f"key_{place}" for place in range(len(keys)))]
        arrays = [_empty(count, spec) for spec in specs]
        variables = [
            _sharing(array, name) for array, name in zip(arrays, names, strict=True)
        ]
        self.vectors, self.keys = variables[0], variables[1:]
        # A closure, since an attribute would be tracked.
        self._arrays = lambda: arrays

    def rows(self, doc_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds documents.

        Args:
            doc_ids: ids of any shape.

        Returns:
            Rows, int64, 0 for an unknown id; and whether the id is known.
        """
        rows = self.lookup.lookup(doc_ids)
        return tf.maximum(rows, 0), rows >= 0

    def vectors_of(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the vectors of rows, `rows.shape + [size]`."""
        # Reading costs nothing, but a gather from the variable itself would make every
        # later reading, such as that of `retrieve`, copy the whole table.
        return tf.gather(self.vectors.read_value(), rows)

    def keys_of(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the match keys of rows by name."""
        return {
            name: tf.gather(key.read_value(), rows)
            for name, key in zip(self.key_names, self.keys, strict=True)
        }

    def fill(self, start: int, vectors: tf.Tensor, keys: Mapping[str, Any]) -> None:
        """Writes some documents' vectors and keys, in place.

        Args:
            start: the first row.
            vectors: `[n, size]`.
            keys: by name, `[n, ...]`.

        Raises:
            ValueError: a row is of another size.
        """
        columns = [vectors, *(keys[name] for name in self.key_names)]
        for array, column in zip(self._arrays(), columns, strict=True):
            part = array[start : start + len(column)]
            column = np.asarray(column)
            if part.shape != column.shape:
                raise ValueError(
                    f"rows from {start} are of shape {part.shape}. "
                    f"Received: {column.shape}"
                )
            part[:] = column


def _empty(count: int, spec: tf.TensorSpec) -> np.ndarray:
    """Returns an array whose memory TensorFlow can take over as it is."""
    shape = (count, *spec.shape[1:].as_list())
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _sharing(array: np.ndarray, name: str) -> tf.Variable:
    """Returns a variable in the array's own memory.

    Filling a variable in parts, or making it from an array, needs twice its size.
    """
    # Elsewhere than in the main memory it would be a copy.
    with tf.device("CPU:0"):
        return tf.Variable(
            tf.experimental.dlpack.from_dlpack(array.__dlpack__()),
            shape=[None, *array.shape[1:]],
            trainable=False,
            name=name,
        )
