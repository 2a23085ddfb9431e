"""The documents of an export: ids, vectors and match keys, in variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

_CHUNK = 8192


class ServedTable(tf.Module):
    """What an export stores of every document.

    Every variable has an open first dimension, so that the graph does not depend on the
    number of documents and new ones need new variables only.

    Args:
        ids: document ids `[M]`, strings or int64.
        ids_file: a file with the same ids, one a line; it becomes an asset.
        vector_size: numbers in a vector, of all tasks together.
        keys: shape after the first dimension and dtype of each match key.
    """

    def __init__(
        self,
        ids: np.ndarray,
        ids_file: str | Path,
        vector_size: int,
        keys: Mapping[str, tf.TensorSpec],
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
        self.ids = tf.Variable(
            tf.constant(ids, self.id_dtype), shape=[None], trainable=False, name="ids"
        )
        self.vectors = _empty(count, [vector_size], tf.float32, "vectors")
        # A list: key names hold a slash, and an attribute's name must not.
        self.key_names = sorted(keys)
        self.keys = [
            _empty(count, keys[name].shape[1:].as_list(), keys[name].dtype, f"key_{i}")
            for i, name in enumerate(self.key_names)
        ]

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
        return tf.gather(self.vectors, rows)

    def keys_of(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the match keys of rows by name."""
        return {
            name: tf.gather(key, rows)
            for name, key in zip(self.key_names, self.keys, strict=True)
        }

    def fill(self, start: int, vectors: tf.Tensor, keys: Mapping[str, Any]) -> None:
        """Writes some documents' vectors and keys, in place.

        Args:
            start: the first row.
            vectors: `[n, size]`.
            keys: by name, `[n, ...]`.
        """
        end = start + int(vectors.shape[0])
        self.vectors[start:end].assign(vectors)
        for name, variable in zip(self.key_names, self.keys, strict=True):
            variable[start:end].assign(keys[name])


def _empty(count: int, rest: list[int], dtype: tf.DType, name: str) -> tf.Variable:
    return tf.Variable(
        tf.zeros([count, *rest], dtype),
        shape=[None, *rest],
        trainable=False,
        name=name,
    )
