"""BM25 inside the graph: what is kept of queries and documents, and their sum.

The document's side, keys and weights, does not depend on the query: an export stores
it. The query's side, the rarity of its tokens, does not depend on the document.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import tensorflow as tf

from tfrs_prerank.features.corpus import read_statistics
from tfrs_prerank.features.declarations import Match
from tfrs_prerank.features.keys import is_key, search
from tfrs_prerank.features.schema import Schema, existing_file
from tfrs_prerank.layers._vocabulary import FileInitializer, read_lines


class Corpus:
    """A corpus's statistics in the graph: the tokens in a hash table, an asset.

    Args:
        schema: the declarations.
        match: one of its matches with `op="bm25"`.

    Attributes:
        table: the number of documents of each token, 0 for those of none.
        mean_length: tokens of a document, on average.
        fingerprint: of the file that the table was filled from.

    Raises:
        FileNotFoundError: a file is gone, or `adapt` has not been run.
        KeyError: the file of statistics does not hold this match.
        ValueError: a file is not what it must be.
    """

    def __init__(self, schema: Schema, match: Match) -> None:
        statistics = read_statistics(schema, match)
        path = _frequencies_file(match)
        _check_frequencies(path, match.name, statistics.documents)
        self.documents = statistics.documents
        self.mean_length = statistics.mean_length
        self.fingerprint = fingerprint_of(path)
        self.table = tf.lookup.StaticHashTable(
            FileInitializer(
                f"{match.name}_frequencies_{self.fingerprint[:16]}",
                str(path.resolve()),
                key_dtype=tf.string,
                key_index=0,
                value_dtype=tf.int64,
                value_index=1,
            ),
            default_value=0,
        )

    def idf(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns the weight of tokens by their rarity, float32 of their shape."""
        documents = tf.cast(self.table.lookup(tokens), tf.float32)
        # 1 + (M - m + 1/2) / (m + 1/2), in one fraction.
        return tf.math.log((self.documents + 1.0) / (documents + 0.5))


def fingerprint_of(file: Path) -> str:
    """Returns a digest of a file of tokens."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def query_terms(
    corpus: Corpus, tokens: tf.Tensor, keys: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a query's tokens with their weights.

    Args:
        corpus: the statistics.
        tokens: strings `[R, S]`, padded with `""`.
        keys: of the tokens.

    Returns:
        Keys int64 and weights float32, `[R, n]` for n tokens in the longest query. A
        token that is there twice is there twice.
    """
    longest = tf.reduce_max(_count(keys))
    # Pads, the lowest of keys, come last.
    terms, place = tf.math.top_k(keys, k=tf.maximum(longest, 0))
    weights = tf.gather(corpus.idf(tokens), place, batch_dims=1)
    return terms, tf.where(is_key(terms), weights, 0.0)


def term_weights(
    corpus: Corpus, match: Match, tokens: tf.Tensor, keys: tf.Tensor
) -> tf.Tensor:
    """Returns the weight of each of a document's tokens.

    Args:
        corpus: the statistics.
        match: the declaration.
        tokens: keys of a document's tokens, `[R, T]`.
        keys: the distinct ones among them, ascending, `[R, T]`.

    Returns:
        float32 `[R, T]`, beside the keys; 0 beside pads.
    """
    ordered = tf.sort(tokens, axis=-1)
    first, last = (
        bound(sorted_inputs=ordered, values=keys)
        for bound in (tf.raw_ops.LowerBound, tf.raw_ops.UpperBound)
    )
    times = tf.cast(last - first, tf.float32)
    length = tf.cast(_count(tokens), tf.float32)[:, tf.newaxis] / corpus.mean_length
    saturation = match.k1 * (1.0 - match.b + match.b * length)
    weights = times * (match.k1 + 1.0) / (times + saturation)
    return tf.where(is_key(keys), weights, 0.0)


def relevance(
    terms: tf.Tensor, idf: tf.Tensor, keys: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Sums up what queries' tokens weigh in documents.

    Args:
        terms: keys of the queries' tokens, `[B, S]`.
        idf: their weights.
        keys: of the documents' tokens, distinct and ascending, `[B, N, T]`.
        weights: theirs.

    Returns:
        float32 `[B, N]`.
    """
    # Each of the few tokens of a query is searched among a document's.
    rows, count = tf.shape(keys)[0] * tf.shape(keys)[1], tf.shape(keys)[1]
    width = keys.shape[2]
    wanted = tf.repeat(terms, count, axis=0)
    place, found = search(tf.reshape(keys, [rows, width]), wanted)
    weights = tf.gather(tf.reshape(weights, [rows, width]), place, batch_dims=1)
    parts = tf.where(found, weights, 0.0) * tf.repeat(idf, count, axis=0)
    return tf.reshape(tf.reduce_sum(parts, axis=1), tf.shape(keys)[:2])


def _count(keys: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(is_key(keys), tf.int32), axis=-1)


def _frequencies_file(match: Match) -> Path:
    """Returns the file of a match's tokens, or says that it is not there."""
    if match.vocabulary is None:
        raise FileNotFoundError(
            f"{match.name} needs the tokens of a corpus; run `adapt` (tfrs-prerank "
            "prepare) first"
        )
    return existing_file(match.vocabulary, match.name, "vocabulary")


def _check_frequencies(path: Path, match: str, documents: int) -> None:
    """Checks a file of `token<TAB>documents` lines before TensorFlow reads it.

    Args:
        path: the file.
        match: name of the match, for errors.
        documents: of the corpus; no token is in more.

    Raises:
        ValueError: a line is of another form, a token is there twice, or a number is
            none from 1 to `documents`.
    """
    where = f"{match}.vocabulary: {path}"
    seen = set()
    for number, line in enumerate(read_lines(path, where), 1):
        token, tab, count = line.partition("\t")
        is_number = count.isascii() and count.isdecimal()
        if not (token and tab and is_number and 1 <= int(count) <= documents):
            raise ValueError(
                f"{where} holds {line!r} in line {number}; a line is "
                "token<TAB>documents, of a corpus of "
                f"{documents} documents. Run `adapt` again"
            )
        if token in seen:
            raise ValueError(f"{where} holds {token!r} twice; keep one line of it")
        seen.add(token)
