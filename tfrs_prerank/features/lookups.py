"""From ids and strings to rows of an embedding table, inside the graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.features.declarations import Dense, Numeric, Text
from tfrs_prerank.features.schema import existing_file
from tfrs_prerank.layers._vocabulary import line_table, read_lines
from tfrs_prerank.layers._wordpiece import WordPiece

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
        self.table = line_table(file, f"{feature}_{dtype}", self.dtype)

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Returns int64 rows of the same shape."""
        return self.table.lookup(values) + 1


class HashLookup(tf.Module):
    """Hashes a value to one of `buckets` rows after row 0, or to several of them.

    >>> import tensorflow as tf
    >>> HashLookup(1000, "city")(tf.constant(["rome", ""])).numpy().tolist()
    [403, 0]
    >>> HashLookup(1000, "city", hashes=2)(tf.constant(["rome"])).numpy().tolist()
    [[403, 491]]

    Args:
        buckets: number of buckets.
        feature: name of the feature.
        dtype: `"string"` or `"int64"`.
        hashes: number of hash functions; the first is the same for any number.
    """

    def __init__(
        self, buckets: int, feature: str, dtype: str = "string", hashes: int = 1
    ) -> None:
        super().__init__(name=f"{feature}_hash")
        self.rows = 1 + buckets
        self.dtype = tf.dtypes.as_dtype(dtype)
        self.hashes = hashes

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Returns int64 rows; pads go to row 0.

        They are of the shape of the values, with `[hashes]` behind it where there are
        several hash functions.
        """
        missing = is_pad(values)
        if values.dtype != tf.string:
            values = tf.strings.as_string(values)
        buckets = self.rows - 1
        rows = [tf.strings.to_hash_bucket_fast(values, buckets)]
        rows += [
            tf.strings.to_hash_bucket_strong(values, buckets, [number, 0])
            for number in range(1, self.hashes)
        ]
        rows = [tf.where(missing, tf.zeros_like(row), row + 1) for row in rows]
        return rows[0] if self.hashes == 1 else tf.stack(rows, axis=-1)


class PieceLookup(tf.Module):
    """Splits texts into word pieces; that of line n in the vocabulary is row n + 1.

    A word that the pieces cannot make is in the row of `[UNK]`.

    Args:
        path: the vocabulary of a BERT, one piece a line.
        feature: name of the feature, for errors.
        fast: see `WordPiece`.

    Raises:
        FileNotFoundError: the file is gone.
        ValueError: the file is empty, or holds a piece twice or no `[UNK]`.
    """

    dtype = tf.string

    def __init__(self, path: str, feature: str, fast: bool = False) -> None:
        super().__init__(name=f"{feature}_pieces")
        file = existing_file(path, feature, "vocabulary")
        self.split = WordPiece(file, fast=fast)
        self.table = self.split.table
        self.rows = 1 + self.split.size

    def pieces(self, texts: tf.Tensor, max_tokens: int) -> tf.Tensor:
        """Splits texts.

        Args:
            texts: strings `[R]`, UTF-8.
            max_tokens: pieces kept of each text.

        Returns:
            Rows of the table, int64 `[R, max_tokens]`, padded with -1.
        """
        rows = self.split(texts, max_tokens) + 1
        return rows.to_tensor(tf.constant(-1, tf.int64), shape=[None, max_tokens])


def make_lookup(
    feature: Any, dtype: str
) -> VocabularyLookup | HashLookup | PieceLookup:
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
        hashes = getattr(feature, "hashes", 1)
        return HashLookup(feature.buckets, feature.name, dtype, hashes)
    if feature.vocabulary is None:
        raise ValueError(
            f"{feature.name} has no vocabulary yet; collect it from training data with "
            "`adapt` (tfrs-prerank prepare), or give vocabulary=FILE or buckets=N"
        )
    if isinstance(feature, Text) and feature.by_pieces:
        fast = feature.tokenizer == "fast_wordpiece"
        return PieceLookup(feature.vocabulary, feature.name, fast)
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
    # A dict keeps the order of the lines.
    seen: dict[str | int, None] = {}
    for number, line in enumerate(read_lines(path, where), 1):
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
