"""Tokenisation of raw strings inside the graph, with TF-Text and core ops only."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from tfrs_prerank.features.declarations import Text

_ONE_CHARACTER_WORDS = r"[\p{Han}\p{Hiragana}\p{Katakana}]"
_SPACES = r"[\p{Z}\p{Cc}]+"
_SPACES_AND_SIGNS = r"[\p{P}\p{S}\p{Z}\p{Cc}]+"


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
    return _splitter(max_tokens, "words", (1, 1))(texts)


def split(feature: Text, texts: tf.Tensor) -> tf.Tensor:
    """Splits texts into the tokens that a feature declares.

    Word pieces are rows of a table and come from `lookups.PieceLookup`; a feature of
    word pieces is split into words here, as matches compare them.

    Args:
        feature: says how.
        texts: strings `[R]`, UTF-8.

    Returns:
        Strings `[R, feature.token_width]`, padded with `""`: tokens, and where
        `feature.ngrams` asks for several lengths, those of one length after the other.

    >>> import tensorflow as tf
    >>> from tfrs_prerank import Text
    >>> from tfrs_prerank.features.tokens import split
    >>> pairs = Text("title", "doc", ngrams=(1, 2), max_tokens=3)
    >>> split(pairs, tf.constant(["Red shoes"])).numpy().tolist()
    [[b'red', b'shoes', b'', b'red shoes', b'', b'']]
    >>> runs = Text("query", "query", tokenizer="characters", ngrams=(2, 2))
    >>> tokens = split(runs, tf.constant(["红连衣裙 a"])).numpy()[0]
    >>> [token.decode() for token in tokens if token]
    ['红连', '连衣', '衣裙', 'a']
    """
    tokenizer = "words" if feature.by_pieces else feature.tokenizer
    return _splitter(feature.max_tokens, tokenizer, feature.ngrams)(texts)


# A function of its own in the graph, traced once and called from wherever texts are
# split: the checks of ragged tensors inside of it take half a megabyte a copy.
@functools.cache
def _splitter(max_tokens: int, tokenizer: str, ngrams: tuple[int, int]) -> Any:
    """Makes the function that splits strings `[R]` in one way."""

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None], tf.string, "texts")]
    )
    def splitter(texts: tf.Tensor) -> tf.Tensor:
        return _split(texts, max_tokens, tokenizer, ngrams)

    return splitter


def _split(
    texts: tf.Tensor, max_tokens: int, tokenizer: str, ngrams: tuple[int, int]
) -> tf.Tensor:
    spaces = _SPACES if tokenizer == "whitespace" else _SPACES_AND_SIGNS
    texts = _folded(texts, spaces)
    if tokenizer == "words":
        texts = tf.strings.regex_replace(texts, _ONE_CHARACTER_WORDS, r" \0 ")
    tokens = tf_text.WhitespaceTokenizer().tokenize(texts)
    shortest, longest = ngrams
    if tokenizer != "characters":
        tokens = tokens[:, :max_tokens]
        lengths = [
            _runs(tokens, length, " ", keep_short=length == shortest)
            for length in range(shortest, longest + 1)
        ]
    else:
        characters = tf.strings.unicode_split(tokens.values, "UTF-8")
        lengths = [
            tokens.with_values(
                _runs(characters, length, "", keep_short=length == shortest)
            ).merge_dims(1, 2)
            for length in range(shortest, longest + 1)
        ]
    return tf.concat([_cut(runs, max_tokens, "") for runs in lengths], axis=1)


def _runs(
    tokens: tf.RaggedTensor, length: int, joint: str, keep_short: bool
) -> tf.RaggedTensor:
    """Joins every `length` tokens in a row; a shorter row is one run, or none."""
    if length == 1:
        return tokens
    return tf.strings.ngrams(
        tokens, length, separator=joint, preserve_short_sequences=keep_short
    )


def _folded(texts: tf.Tensor, spaces: str) -> tf.Tensor:
    """Folds case; `spaces` become spaces."""
    texts = tf.ensure_shape(texts, [None])
    # Every token must be UTF-8: vocabularies are.
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    texts = tf_text.case_fold_utf8(texts)
    # The tokeniser cuts a line separator (U+2028) in the middle, so all spaces go here.
    return tf.strings.regex_replace(texts, spaces, " ")


def _cut(tokens: tf.RaggedTensor, max_tokens: int, pad: str | int) -> tf.Tensor:
    # TF-Text's trimmers are not in every TensorFlow Serving; slicing is core.
    default = tf.constant(pad, tokens.dtype)
    return tokens[:, :max_tokens].to_tensor(default, shape=[None, max_tokens])
