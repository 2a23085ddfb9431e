"""From ids and strings to rows of an embedding table, inside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrs_prerank.features.schema import existing_file

UNKNOWN_ROW = 0
"""The row of every value that is unknown or missing."""


class VocabularyLookup(tf.Module):
    """Finds a value's line in a vocabulary file; line n is row n + 1, others row 0.

    The file is an asset of the SavedModel, so `saved_model.pb` does not grow with it.

    Args:
        path: a file with one value a line.
        feature: name of the feature, for errors.
        dtype: `"string"` or `"int64"`.

    Raises:
        FileNotFoundError: the file is gone.
        ValueError: the file is empty or holds a value twice.
    """

    def __init__(self, path: str, feature: str, dtype: str = "string") -> None:
        super().__init__(name=f"{feature}_vocabulary")
        file = existing_file(path, feature, "vocabulary")
        self.rows = 1 + count_values(file, feature)
        self.dtype = tf.dtypes.as_dtype(dtype)
        whole_line = tf.lookup.TextFileIndex.WHOLE_LINE
        initializer = tf.lookup.TextFileInitializer(
            str(file.resolve()),
            key_dtype=self.dtype,
            # TensorFlow parses integers from a column only, not from a whole line.
            key_index=whole_line if self.dtype == tf.string else 0,
            value_dtype=tf.int64,
            value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticHashTable(initializer, default_value=-1)

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Returns int64 rows of the same shape."""
        return self.table.lookup(values) + 1


class HashLookup(tf.Module):
    """Hashes a value to one of `buckets` rows after row 0.

    Args:
        buckets: number of buckets.
        feature: name of the feature.
        dtype: `"string"` or `"int64"`.
    """

    def __init__(self, buckets: int, feature: str, dtype: str = "string") -> None:
        super().__init__(name=f"{feature}_hash")
        self.rows = 1 + buckets
        self.dtype = tf.dtypes.as_dtype(dtype)

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Returns int64 rows of the same shape; pads go to row 0."""
        missing = is_pad(values)
        if values.dtype != tf.string:
            values = tf.strings.as_string(values)
        rows = tf.strings.to_hash_bucket_fast(values, self.rows - 1) + 1
        return tf.where(missing, tf.zeros_like(rows), rows)


def make_lookup(feature: Any, dtype: str) -> VocabularyLookup | HashLookup:
    """Returns the lookup that a declaration asks for.

    Args:
        feature: a declaration with `vocabulary` and `buckets`.
        dtype: type of the values.

    Returns:
        The lookup.

    Raises:
        ValueError: neither is set; the vocabulary must be collected first.
    """
    if feature.buckets is not None:
        return HashLookup(feature.buckets, feature.name, dtype)
    if feature.vocabulary is None:
        raise ValueError(
            f"{feature.name} has no vocabulary yet; collect it from training data with "
            "`adapt` (tfrs-prerank prepare), or give vocabulary=FILE or buckets=N"
        )
    return VocabularyLookup(feature.vocabulary, feature.name, dtype)


def is_pad(values: tf.Tensor) -> tf.Tensor:
    """Returns true where a value is its type's pad (`""` or -1)."""
    pad = "" if values.dtype == tf.string else -1
    return tf.equal(values, tf.constant(pad, values.dtype))


def count_values(path: Path, feature: str) -> int:
    """Counts the values of a vocabulary file and checks that each is there once.

    Args:
        path: the file.
        feature: name of the feature, for errors.

    Returns:
        The number of lines.

    Raises:
        ValueError: the file is empty, or a value is there twice.
    """
    with path.open(encoding="utf-8") as file:
        values = [line.rstrip("\n") for line in file]
    if not values:
        raise ValueError(f"{feature}.vocabulary: {path} is empty")
    if len(set(values)) < len(values):
        seen: set[str] = set()
        twice = next(v for v in values if v in seen or seen.add(v))  # type: ignore[func-returns-value]
        raise ValueError(
            f"{feature}.vocabulary: {path} holds {twice!r} twice; keep one line of it"
        )
    return len(values)
