"""Match features: a request's columns against a document's, inside the graph.

Both sides first become *keys*: distinct int64 hashes for ids and texts, numbers and
vectors as they are. The keys of documents are what an export stores.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_text as tf_text

from tfrs_prerank.features.declarations import Dense, Match, Numeric, Text
from tfrs_prerank.features.lookups import is_missing, is_pad
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.features.tokens import words

# 2^62 buckets: a collision among a million values has a chance of about 1e-7.
_HASHES = 2**62
_NO_KEY = -1


def key_columns(schema: Schema, owner: str) -> dict[str, tuple[str, bool]]:
    """Says which keys of a tower's columns the cross matches need.

    Args:
        schema: the declarations.
        owner: `"query"` or `"doc"`.

    Returns:
        For each key its column and whether its strings are lower-cased and kept whole:
        an id beside a text, a text in `"equal"`.
    """
    needed = {}
    for match in schema.features:
        if isinstance(match, Match) and match.owner == "cross":
            for name, column, folded in _sides(schema, match):
                is_query = column == "time" or schema[column].owner == "query"
                if is_query == (owner == "query"):
                    needed[name] = (column, folded)
    return needed


def keys_of(
    schema: Schema, columns: Mapping[str, tf.Tensor], owner: str
) -> dict[str, tf.Tensor]:
    """Computes the keys that the cross matches need of one tower's columns.

    Args:
        schema: the declarations.
        columns: the tower's columns, `[R]` or `[R, T]`.
        owner: `"query"` or `"doc"`.

    Returns:
        By key name: int64 `[R, T]` (pad -1), numbers `[R]` or vectors `[R, size]`.
    """
    return {
        name: _keys(schema, column, folded, columns[column])
        for name, (column, folded) in key_columns(schema, owner).items()
    }


def cross_matches(
    schema: Schema,
    query_keys: Mapping[str, tf.Tensor],
    doc_keys: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Computes the cross tower's match features.

    Args:
        schema: the declarations.
        query_keys: from `keys_of`, `[B]` or `[B, T]`.
        doc_keys: from `keys_of`, with documents as second dimension: `[B, N]` or
            `[B, N, T]`.

    Returns:
        float32 `[B, N]` by match name.
    """
    values = {}
    for match in schema.owned_by("cross"):
        if isinstance(match, Match):
            (left, *_), (right, *_) = _sides(schema, match)
            left_is_query = left in query_keys
            query = query_keys[left if left_is_query else right]
            doc = doc_keys[right if left_is_query else left]
            values[match.name] = _compare(schema, match, query, doc, left_is_query)
    return values


def own_matches(
    schema: Schema, columns: Mapping[str, tf.Tensor], owner: str
) -> dict[str, tf.Tensor]:
    """Computes a tower's matches between two of its own columns.

    Args:
        schema: the declarations.
        columns: the tower's columns, `[R]` or `[R, T]`.
        owner: `"query"` or `"doc"`.

    Returns:
        float32 `[R]` by match name.
    """
    values = {}
    for match in schema.owned_by(owner):
        if isinstance(match, Match):
            left, right = (
                _keys(schema, column, folded, columns[column])
                for _, column, folded in _sides(schema, match)
            )
            pair = _compare(schema, match, left, right[:, tf.newaxis], True)
            values[match.name] = pair[:, 0]
    return values


def _sides(schema: Schema, match: Match) -> list[tuple[str, str, bool]]:
    """Returns (key name, column, lower-case strings?) of the left and right side."""
    texts = [
        side != "time" and isinstance(schema[side], Text)
        for side in (match.left, match.right)
    ]
    sides = []
    for side, is_text in zip((match.left, match.right), texts, strict=True):
        # Equal texts are equal as a whole, so they stay in one piece.
        folded = any(texts) and (match.op == "equal" or not is_text)
        sides.append((f"{side}/folded" if folded else side, side, folded))
    return sides


def _keys(schema: Schema, name: str, folded: bool, values: tf.Tensor) -> tf.Tensor:
    feature = None if name == "time" else schema[name]
    if feature is None or isinstance(feature, Numeric | Dense):
        return values
    if isinstance(feature, Text) and not folded:
        texts = tf.reshape(values, [-1])
        tokens = words(texts, feature.max_tokens)
        width = feature.max_tokens * feature.max_values
        values = tf.reshape(tokens, [-1, width])
    elif values.shape.rank == 1:
        values = values[:, tf.newaxis]
    if values.dtype == tf.string:
        missing = is_pad(values)
        if folded:
            values = tf_text.case_fold_utf8(values)
        hashes = tf.strings.to_hash_bucket_fast(values, _HASHES)
        values = tf.where(missing, tf.constant(_NO_KEY, tf.int64), hashes)
    return _distinct(values)


def _distinct(keys: tf.Tensor) -> tf.Tensor:
    """Replaces all but one of each row's equal keys by the pad."""
    if keys.shape[-1] == 1:
        return keys
    keys = tf.sort(keys, axis=-1)
    again = tf.equal(keys[:, 1:], keys[:, :-1])
    again = tf.concat([tf.zeros_like(again[:, :1]), again], axis=-1)
    return tf.where(again, tf.constant(_NO_KEY, keys.dtype), keys)


def _compare(
    schema: Schema, match: Match, query: tf.Tensor, doc: tf.Tensor, left_is_query: bool
) -> tf.Tensor:
    """Compares query keys `[B, ...]` with doc keys `[B, N, ...]`: float32 `[B, N]`."""
    if match.op in ("overlap", "equal", "contains"):
        value = _compare_ids(match, query, doc, left_is_query)
    elif match.op == "distance" and query.shape.rank == 2:
        gap = query[:, tf.newaxis, :] - doc
        square = tf.reduce_sum(tf.square(gap), axis=-1)
        # The root's gradient at 0 is infinite, and no input of it is trained.
        value = tf.sqrt(square)
        names = (
            (match.left, match.right) if left_is_query else (match.right, match.left)
        )
        known = _known(schema, names[0], query)[:, tf.newaxis]
        known &= _known(schema, names[1], doc)
        value = tf.where(known, value, tf.zeros_like(value))
    else:
        value = _compare_numbers(schema, match, query, doc, left_is_query)
    if match.log1p:
        value = tf.sign(value) * tf.math.log1p(tf.abs(value))
    return value


def _compare_ids(
    match: Match, query: tf.Tensor, doc: tf.Tensor, left_is_query: bool
) -> tf.Tensor:
    if match.op == "overlap":
        common = tf.reduce_sum(tf.cast(_members(doc, query), tf.float32), axis=-1)
        size = _size(query)[:, tf.newaxis] if left_is_query else _size(doc)
        return common / tf.maximum(size, 1.0)
    if match.op == "contains" and not left_is_query:
        one = query[:, tf.newaxis, :]
        hit = tf.reduce_any(tf.equal(doc, one), axis=-1)
        return tf.cast(hit & tf.not_equal(query, _NO_KEY), tf.float32)
    return tf.cast(_members(doc, query)[:, :, 0], tf.float32)


def _members(values: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Says which values `[B, N, T]` are among the keys `[B, S]` of their row."""
    keys = tf.sort(keys, axis=-1)
    shape = tf.shape(values)
    flat = tf.reshape(values, [shape[0], shape[1] * shape[2]])
    # tf.searchsorted cannot take an empty list of documents, the op under it can.
    place = tf.raw_ops.LowerBound(sorted_inputs=keys, values=flat)
    place = tf.minimum(place, tf.shape(keys)[1] - 1)
    found = tf.equal(tf.gather(keys, place, batch_dims=1), flat)
    return tf.reshape(found & tf.not_equal(flat, _NO_KEY), shape)


def _size(keys: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(tf.not_equal(keys, _NO_KEY), tf.float32), axis=-1)


def _compare_numbers(
    schema: Schema, match: Match, query: tf.Tensor, doc: tf.Tensor, left_is_query: bool
) -> tf.Tensor:
    query = query[:, tf.newaxis]
    left, right = (query, doc) if left_is_query else (doc, query)
    known = _known(schema, match.left, left) & _known(schema, match.right, right)
    if left.dtype != right.dtype:
        # Seconds since 1970 lose a minute in float32.
        left, right = tf.cast(left, tf.float64), tf.cast(right, tf.float64)
    if match.op == "log_ratio":
        left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
        value = tf.math.log1p(tf.nn.relu(left)) - tf.math.log1p(tf.nn.relu(right))
    else:
        value = tf.cast(left - right, tf.float32)
        value = tf.abs(value) if match.op == "distance" else value
    return tf.where(known, value, tf.zeros_like(value))


def _known(schema: Schema, name: str, values: tf.Tensor) -> tf.Tensor:
    if name == "time":
        return tf.ones_like(values, tf.bool)
    return tf.logical_not(is_missing(schema[name], values))
