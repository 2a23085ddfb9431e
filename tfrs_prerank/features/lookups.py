"""From ids and strings to rows of an embedding table, inside the graph."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.features.declarations import Dense, Numeric
from tfrs_prerank.features.schema import existing_file

_INTEGER = re.compile(r"-?[0-9]+")

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
        self.rows = 1 + len(read_values(file, feature, dtype))
        self.dtype = tf.dtypes.as_dtype(dtype)
        whole_line = tf.lookup.TextFileIndex.WHOLE_LINE
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        initializer = _FileInitializer(
            f"{feature}_{dtype}_{content[:16]}",
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


class _FileInitializer(tf.lookup.TextFileInitializer):
    """Fills a table that is shared by the file's content, not by its path.

    TensorFlow names a table by the path. A vocabulary that is collected anew, to the
    same path and in the same process, would silently keep the old one's rows.
    """

    def __init__(self, table_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table_name = table_name

    @property
    def _shared_name(self) -> str:
        return self._table_name


class HashLookup(tf.Module):
    """Hashes a value to one of `buckets` rows after row 0.

    >>> import tensorflow as tf
    >>> HashLookup(1000, "city")(tf.constant(["rome", ""])).numpy().tolist()
    [403, 0]

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


def is_missing(feature: Numeric | Dense, values: tf.Tensor) -> tf.Tensor:
    """Returns true where a number is its feature's sentinel or a vector is all zeros.

    So is what is NaN or infinite: training refuses it, an export must answer.

    Args:
        feature: the declaration.
        values: numbers of any shape, or vectors `[..., size]`.

    Returns:
        bool, the shape of the numbers or `[...]`.
    """
    if isinstance(feature, Dense):
        broken = tf.reduce_any(tf.logical_not(tf.math.is_finite(values)), axis=-1)
        return broken | tf.reduce_all(tf.equal(values, 0.0), axis=-1)
    missing = (
        tf.logical_not(tf.math.is_finite(values))
        if values.dtype.is_floating
        else tf.zeros_like(values, tf.bool)
    )
    if feature.missing is None:
        return missing
    # Through NumPy: TensorFlow would round a Python float to float32 on the way.
    sentinel = np.asarray(feature.missing).astype(values.dtype.as_numpy_dtype)
    return missing | tf.equal(values, tf.constant(sentinel))


def read_values(path: Path, feature: str, dtype: str = "string") -> list[Any]:
    """Reads the values of a vocabulary file as TensorFlow does, and checks every one.

    Args:
        path: the file.
        feature: name of the feature, for errors.
        dtype: `"string"` or `"int64"`.

    Returns:
        Strings or integers, one for each line.

    Raises:
        ValueError: the file is empty or not UTF-8, or a line of it is a pad, no
            integer (for int64) or there twice.
    """
    where = f"{feature}.vocabulary: {path}"
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text: {error}") from None
    # TensorFlow ends lines at a newline, and at one carriage return before it.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if text.endswith("\n") or not text:
        lines.pop()
    if not lines:
        raise ValueError(f"{where} is empty")
    # A dict keeps the order of the lines.
    seen: dict[str | int, None] = {}
    for number, line in enumerate(lines, 1):
        value: str | int = line
        if dtype == "int64":
            if not _INTEGER.fullmatch(line):
                raise ValueError(
                    f"{where} holds {line!r} in line {number}; dtype='int64' takes one "
                    "integer a line"
                )
            value = int(line)
        if value in ("", -1):
            raise ValueError(
                f"{where} holds the pad value {line!r} in line {number}; remove it"
            )
        if value in seen:
            raise ValueError(f"{where} holds {line!r} twice; keep one line of it")
        seen[value] = None
    return list(seen)
