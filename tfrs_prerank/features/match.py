"""Match features: a request's columns against a document's, inside the graph.

Both sides first become *keys*: distinct int64 hashes for ids and texts, numbers and
vectors as they are, for BM25 the weights of tokens too. The keys of documents are what
an export stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import tensorflow as tf
import tensorflow_text as tf_text

from tfrs_prerank.features.bm25 import (
    Corpus,
    query_terms,
    relevance,
    term_weights,
)
from tfrs_prerank.features.corpus import document_column, query_column
from tfrs_prerank.features.declarations import Dense, Match, Numeric
from tfrs_prerank.features.keys import distinct, hashed, is_key, search
from tfrs_prerank.features.lookups import is_missing
from tfrs_prerank.features.schema import Schema, text_of
from tfrs_prerank.features.tokens import split


class _Side(NamedTuple):
    """One side of a match.

    Attributes:
        key: what its keys are called.
        column: the column.
        folded: whether strings are lower-cased and kept whole.
    """

    key: str
    column: str
    folded: bool


def key_columns(schema: Schema, owner: str) -> dict[str, tuple[str, bool]]:
    """Says which keys of a tower's columns the cross matches need.

    Args:
        schema: the declarations.
        owner: `"query"` or `"doc"`.

    Returns:
        For each key its column and whether its strings are lower-cased and kept whole:
        an id beside a text, a text in `"equal"`, one that is looked for among several.
        The weights of BM25 are not among them.
    """
    needed = {}
    for match in _matches(schema, "cross"):
        for side in _sides(schema, match):
            if match.op == "bm25" and side.column == query_column(schema, match):
                continue
            if _owner(schema, side.column) == owner:
                needed[side.key] = (side.column, side.folded)
    return needed


class Matches:
    """The match features of a schema, with the corpora of its BM25 matches.

    A network has one: the corpora are hash tables, which are read once and are assets
    of its exports.

    Args:
        schema: the declarations.

    Attributes:
        corpora: the statistics of BM25 matches, by the matches' names.

    Raises:
        FileNotFoundError: a corpus's file is gone, or `adapt` has not been run.
        KeyError: the file of statistics does not hold a match.
        ValueError: a file is not what it must be.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.corpora = {
            match.name: Corpus(schema, match)
            for match in schema.features
            if isinstance(match, Match) and match.op == "bm25"
        }

    def keys_of(
        self, columns: Mapping[str, tf.Tensor], owner: str
    ) -> dict[str, tf.Tensor]:
        """Computes the keys that the cross matches need of one tower's columns.

        Args:
            columns: the tower's columns, `[R]` or `[R, T]`.
            owner: `"query"` or `"doc"`.

        Returns:
            By key name: int64 `[R, T]` (pad -1), numbers `[R]`, vectors `[R, size]` or
            weights of tokens, float32 `[R, T]`.
        """
        keys = {
            name: _keys(self.schema, column, folded, columns[column])
            for name, (column, folded) in key_columns(self.schema, owner).items()
        }
        for match in _matches(self.schema, "cross"):
            if match.op != "bm25":
                continue
            if owner == "query":
                terms, weights = self._query_terms(match, columns)
                keys[f"{match.name}/terms"] = terms
                keys[f"{match.name}/idf"] = weights
            else:
                weights = self._term_weights(match, columns)[1]
                keys[f"{match.name}/weights"] = weights
        return keys

    def cross(
        self,
        query_keys: Mapping[str, tf.Tensor],
        doc_keys: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Computes the cross tower's match features.

        Args:
            query_keys: from `keys_of`, `[B]` or `[B, T]`.
            doc_keys: from `keys_of`, with documents as second dimension: `[B, N]` or
                `[B, N, T]`.

        Returns:
            float32 `[B, N]` by match name.
        """
        values = {}
        for match in _matches(self.schema, "cross"):
            left, right = _sides(self.schema, match)
            if match.op == "bm25":
                values[match.name] = _compressed(
                    match,
                    relevance(
                        query_keys[f"{match.name}/terms"],
                        query_keys[f"{match.name}/idf"],
                        doc_keys[document_column(self.schema, match)],
                        doc_keys[f"{match.name}/weights"],
                    ),
                )
                continue
            left_is_query = left.key in query_keys
            query = query_keys[left.key if left_is_query else right.key]
            doc = doc_keys[right.key if left_is_query else left.key]
            values[match.name] = _compare(self.schema, match, query, doc, left_is_query)
        return values

    def own(self, columns: Mapping[str, tf.Tensor], owner: str) -> dict[str, tf.Tensor]:
        """Computes a tower's matches between two of its own columns.

        Args:
            columns: the tower's columns, `[R]` or `[R, T]`.
            owner: `"query"` or `"doc"`.

        Returns:
            float32 `[R]` by match name.
        """
        values = {}
        for match in _matches(self.schema, owner):
            if match.op == "bm25":
                terms, idf = self._query_terms(match, columns)
                keys, weights = self._term_weights(match, columns)
                pair = relevance(
                    terms, idf, keys[:, tf.newaxis], weights[:, tf.newaxis]
                )
                values[match.name] = _compressed(match, pair[:, 0])
                continue
            left, right = (
                _keys(self.schema, side.column, side.folded, columns[side.column])
                for side in _sides(self.schema, match)
            )
            pair = _compare(self.schema, match, left, right[:, tf.newaxis], True)
            values[match.name] = pair[:, 0]
        return values

    def _query_terms(
        self, match: Match, columns: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what BM25 needs of queries: tokens' keys and weights."""
        name = query_column(self.schema, match)
        tokens = _tokens(self.schema, name, columns[name])
        return query_terms(self.corpora[match.name], tokens, hashed(tokens))

    def _term_weights(
        self, match: Match, columns: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what BM25 needs of documents: distinct tokens' keys and weights."""
        name = document_column(self.schema, match)
        tokens = hashed(_tokens(self.schema, name, columns[name]))
        keys = distinct(tokens)
        return keys, term_weights(self.corpora[match.name], match, tokens, keys)


def _matches(schema: Schema, owner: str) -> Iterator[Match]:
    return (f for f in schema.owned_by(owner) if isinstance(f, Match))


def _owner(schema: Schema, column: str) -> str:
    owner: str = "query" if column == "time" else schema[column].owner
    return owner


def _sides(schema: Schema, match: Match) -> tuple[_Side, _Side]:
    """Returns the left and the right side."""
    columns = (match.left, match.right)
    texts = [text_of(schema, column) is not None for column in columns]
    # Equal texts are equal as a whole, as is one that was searched before.
    whole = match.op == "equal" or (match.op == "contains" and all(texts))
    left, right = (
        _Side(f"{column}/folded" if folded else column, column, folded)
        for column, is_text in zip(columns, texts, strict=True)
        for folded in [any(texts) and (whole or not is_text)]
    )
    return left, right


def _keys(schema: Schema, name: str, folded: bool, values: tf.Tensor) -> tf.Tensor:
    feature = None if name == "time" else schema[name]
    if feature is None or isinstance(feature, Numeric | Dense):
        return values
    if text_of(schema, name) is not None and not folded:
        values = _tokens(schema, name, values)
    elif values.shape.rank == 1:
        values = values[:, tf.newaxis]
    if values.dtype == tf.string:
        values = hashed(tf_text.case_fold_utf8(values) if folded else values)
    return distinct(values)


def _tokens(schema: Schema, name: str, values: tf.Tensor) -> tf.Tensor:
    """Returns the tokens of a row's text or texts, `[R, T]`, pads among them."""
    text = text_of(schema, name)
    assert text is not None
    several = 1 if values.shape.rank == 1 else values.shape[1]
    tokens = split(text, tf.reshape(values, [-1]))
    return tf.reshape(tokens, [-1, text.token_width * several])


def _compare(
    schema: Schema, match: Match, query: tf.Tensor, doc: tf.Tensor, left_is_query: bool
) -> tf.Tensor:
    """Compares query keys `[B, ...]` with doc keys `[B, N, ...]`: float32 `[B, N]`."""
    if match.op in ("overlap", "equal", "contains"):
        value = _common(query, doc)
        if match.op == "overlap":
            size = _size(query)[:, tf.newaxis] if left_is_query else _size(doc)
            value /= tf.maximum(size, 1.0)
    elif match.op == "dot" or (match.op == "distance" and query.shape.rank == 2):
        value = _compare_vectors(schema, match, query, doc, left_is_query)
    else:
        value = _compare_numbers(schema, match, query, doc, left_is_query)
    return _compressed(match, value)


def _compressed(match: Match, value: tf.Tensor) -> tf.Tensor:
    return tf.sign(value) * tf.math.log1p(tf.abs(value)) if match.log1p else value


def _common(query: tf.Tensor, doc: tf.Tensor) -> tf.Tensor:
    """Counts the keys that `[B, S]` and `[B, N, T]` have in common, `[B, N]`."""
    batch, count = tf.unstack(tf.shape(doc)[:2])
    # The side with fewer places is searched in the other.
    if query.shape[1] > doc.shape[2]:
        _, found = search(query, tf.reshape(doc, [batch, count * doc.shape[2]]))
    else:
        keys = tf.reshape(doc, [batch * count, doc.shape[2]])
        _, found = search(keys, tf.repeat(query, count, axis=0))
    width = min(query.shape[1], doc.shape[2])
    found = tf.reshape(found, [batch, count, width])
    return tf.reduce_sum(tf.cast(found, tf.float32), axis=-1)


def _size(keys: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(is_key(keys), tf.float32), axis=-1)


def _compare_vectors(
    schema: Schema, match: Match, query: tf.Tensor, doc: tf.Tensor, left_is_query: bool
) -> tf.Tensor:
    if match.op == "dot":
        value = tf.linalg.matvec(doc, query)
    else:
        gap = query[:, tf.newaxis, :] - doc
        # The root's gradient at 0 is infinite, and no input of it is trained.
        value = tf.sqrt(tf.reduce_sum(tf.square(gap), axis=-1))
    names = (match.left, match.right) if left_is_query else (match.right, match.left)
    known = _known(schema, names[0], query)[:, tf.newaxis]
    known &= _known(schema, names[1], doc)
    return tf.where(known, value, tf.zeros_like(value))


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
