"""Tokenisation of raw strings inside the graph, with TF-Text and core ops only."""

from __future__ import annotations

import weakref
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from tfrs_prerank.features.lookups import VocabularyLookup

_ONE_CHARACTER_WORDS = r"[\p{Han}\p{Hiragana}\p{Katakana}]"


def words(texts: tf.Tensor, max_tokens: int) -> tf.Tensor:
    """Splits texts into lower-cased words.

    Unicode case folding with compatibility forms (full-width letters become plain
    ones), then a split at spaces, punctuation and symbols, emoji among them; a Chinese
    or Japanese character is a word of its own. Bytes that are not UTF-8 split like a
    symbol.

    Args:
        texts: strings `[R]`, UTF-8.
        max_tokens: words kept of each text.

    Returns:
        Strings `[R, max_tokens]`, padded with `""`.

    >>> import tensorflow as tf
    >>> from tfrs_prerank.features.tokens import words
    >>> words(tf.constant(["Rock & Roll, 1950s"]), 4).numpy().tolist()
    [[b'rock', b'roll', b'1950s', b'']]
    >>> [word.decode() for word in words(tf.constant(["红色shoes"]), 3).numpy()[0]]
    ['红', '色', 'shoes']
    """
    return _words(texts, max_tokens)


def pieces(texts: tf.Tensor, max_tokens: int, lookup: VocabularyLookup) -> tf.Tensor:
    """Splits texts into word pieces of a vocabulary.

    Cleaned as by `words`, but punctuation and symbols are words of their own, and so
    are bytes that are not UTF-8.

    Args:
        texts: strings `[R]`, UTF-8.
        max_tokens: pieces kept of each text.
        lookup: the vocabulary. Words that it cannot make go to the row of `[UNK]`,
            or to row 0 where `[UNK]` is not in it.

    Returns:
        Rows of the table, int64 `[R, max_tokens]`, padded with -1.
    """
    if lookup not in _PIECES:
        _PIECES[lookup] = _pieces_of(lookup.table)
    return _PIECES[lookup](texts, max_tokens)


# `_words` and `_pieces_of` make functions of their own in the graph, traced once and
# called from wherever texts are split: the checks of ragged tensors inside of them take
# half a megabyte a copy.
@tf.function(autograph=False, reduce_retracing=True)
def _words(texts: tf.Tensor, max_tokens: int) -> tf.Tensor:
    texts = _cleaned(texts, r"[\p{P}\p{S}\p{Z}\p{Cc}]+")
    tokens = tf_text.WhitespaceTokenizer().tokenize(texts)
    return _cut(tokens, max_tokens, "")


_PIECES: weakref.WeakKeyDictionary[VocabularyLookup, Any] = weakref.WeakKeyDictionary()


def _pieces_of(table: tf.lookup.StaticHashTable) -> Any:
    @tf.function(autograph=False, reduce_retracing=True)
    def split(texts: tf.Tensor, max_tokens: int) -> tf.Tensor:
        tokenizer = tf_text.WordpieceTokenizer(
            table, unknown_token="[UNK]", token_out_type=tf.int64
        )
        texts = _cleaned(texts, r"[\p{Z}\p{Cc}]+")
        tokens = tf_text.UnicodeScriptTokenizer().tokenize(texts)
        ids = tokenizer.tokenize(tokens).merge_dims(-2, -1)
        return _cut(ids + 1, max_tokens, -1)

    return split


def _cleaned(texts: tf.Tensor, spaces: str) -> tf.Tensor:
    """Folds case and sets words of one character apart; `spaces` become spaces."""
    texts = tf.ensure_shape(texts, [None])
    # Every token must be UTF-8: vocabularies are.
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    texts = tf_text.case_fold_utf8(texts)
    # The tokenisers cut a line separator (U+2028) in the middle, so all spaces go here.
    texts = tf.strings.regex_replace(texts, spaces, " ")
    return tf.strings.regex_replace(texts, _ONE_CHARACTER_WORDS, r" \0 ")


def _cut(tokens: tf.RaggedTensor, max_tokens: int, pad: str | int) -> tf.Tensor:
    # TF-Text's trimmers are not in every TensorFlow Serving; slicing is core.
    default = tf.constant(pad, tokens.dtype)
    return tokens[:, :max_tokens].to_tensor(default, shape=[None, max_tokens])
