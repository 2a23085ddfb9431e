"""WordPiece tokenisation inside the graph, with the ids of Hugging Face's BERT."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text

from tfrs_prerank.layers._vocabulary import line_table, read_tokens

_UNKNOWN = "[UNK]"
_MAX_CHARACTERS = 100
# TF-Text counts bytes; a character has at most four.
_MAX_BYTES = 4 * _MAX_CHARACTERS

# Control (but for tab and the ends of lines), format and private-use characters, and
# what stands for bytes that are not UTF-8.
_DROPPED = r"[\x{0}-\x{8}\x{B}\x{C}\x{E}-\x{1F}\x{7F}-\x{9F}\p{Cf}\p{Co}\x{FFFD}]"
_SPACE = r"[\t\n\r\p{Z}]"
_PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"
# BERT's own list of ranges, with its gap from 2B820 to 2B91F.
_CHINESE = (
    r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}"
    r"\x{2A700}-\x{2B81F}\x{2B920}-\x{2CEAF}\x{2F800}-\x{2FA1F}"
)


class WordPiece(tf.Module):
    r"""Splits texts into the word pieces of a BERT vocabulary, as Hugging Face does.

    A text is cleaned in this order: control, format and private-use characters are
    dropped, and so are bytes that are not UTF-8 (they become U+FFFD first); every kind
    of space becomes a plain one; accents go (decomposition NFD without the marks Mn);
    letters become small. Words end at spaces; a punctuation character (of ASCII also
    symbols such as `$`) or Chinese ideograph is a word of its own. Then, from the left,
    the longest piece in the vocabulary, where `##` marks one that does not begin its
    word. A word that pieces cannot make, or of more than 100 characters, is one
    `[UNK]`.

    Differs from Hugging Face's `BertTokenizerFast`: special tokens written in a text,
    such as `[SEP]`, are brackets and a word, so that a query cannot end its own
    sentence. Marks and punctuation that came into Unicode after its version 8 are
    marks and punctuation here, but letters there.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import tensorflow as tf
    >>> from tfrs_prerank.layers._wordpiece import WordPiece
    >>> file = Path(tempfile.mkdtemp(), "vocab.txt")
    >>> _ = file.write_text("[UNK]\ncafe\n##s\n!\n")
    >>> WordPiece(file)(tf.constant(["Cafés!", "Tea"])).to_list()
    [[1, 2, 3], [0]]

    Args:
        vocabulary_file: one token a line; a token's id is the number of its line, from
            0. It becomes an asset of the SavedModel.
        lower: whether letters become small.
        strip_accents: whether accents go. `None` means where `lower`.
        chinese: whether an ideograph is a word of its own.
        fast: whether to use TF-Text's Fast WordPiece: the same ids in less time, but
            `saved_model.pb` holds the vocabulary, as a constant that the linter must
            be told of.
        name: name of the module.

    Attributes:
        size: number of tokens in the vocabulary.
        table: finds a token's id; `None` where `fast`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not UTF-8, holds a token twice or no `[UNK]`.

    References:
        Devlin et al., BERT, https://arxiv.org/abs/1810.04805, section 3.
        Song et al., Fast WordPiece Tokenization, https://arxiv.org/abs/2012.15524,
        algorithm 1.
    """

    def __init__(
        self,
        vocabulary_file: str | os.PathLike[str],
        lower: bool = True,
        strip_accents: bool | None = None,
        chinese: bool = True,
        fast: bool = False,
        name: str = "word_piece",
    ) -> None:
        super().__init__(name=name)
        path = Path(vocabulary_file)
        tokens = read_tokens(path, [_UNKNOWN])
        self.size = len(tokens)
        self.table = None if fast else line_table(path, "word_piece")
        tokenizer = _fast(tokens) if fast else _plain(self.table)
        strip = lower if strip_accents is None else strip_accents
        alone = f"[{_PUNCTUATION}{_CHINESE if chinese else ''}]"

        # A function of its own in the graph, traced once and called from wherever texts
        # are split: the checks of ragged tensors inside of it are large.
        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([None], tf.string),
                tf.TensorSpec([], tf.int64),
            ],
        )
        def split(texts: tf.Tensor, limit: tf.Tensor) -> tf.RaggedTensor:
            words = _words(_cleaned(texts, lower, strip), alone)
            # A word has at least one piece.
            pieces = tokenizer(words[:, :limit])
            return pieces.merge_dims(-2, -1)[:, :limit]

        self._split = split

    def __call__(
        self, texts: tf.Tensor, max_tokens: int | None = None
    ) -> tf.RaggedTensor:
        """Splits texts.

        Args:
            texts: strings `[R]`.
            max_tokens: pieces kept of each text. `None` means all. The words behind
                them are not split, so that long texts take less time.

        Returns:
            Ids, int64 `[R, (pieces)]`.
        """
        # Slicing adds it to where a row begins, which int64.max would overflow.
        limit = tf.int32.max if max_tokens is None else max_tokens
        return self._split(texts, tf.constant(limit, tf.int64))


def _cleaned(texts: tf.Tensor, lower: bool, strip_accents: bool) -> tf.Tensor:
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    texts = tf.strings.regex_replace(texts, _DROPPED, "")
    if strip_accents:
        texts = tf_text.normalize_utf8(texts, "NFD")
        texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
    if lower:
        # Letter by letter, as Hugging Face does. TensorFlow's own lower-casing of
        # Unicode goes by the language of the machine, which in Turkish turns I into a
        # dotless i, and by the word, which turns its last sigma into another one.
        texts = tf.strings.lower(texts)
        texts = tf.strings.regex_replace(texts, "Σ", "σ")
        texts = tf.strings.lower(texts, encoding="utf-8")
    return texts


def _words(texts: tf.Tensor, alone: str) -> tf.RaggedTensor:
    """Splits at spaces, and around every character that is `alone`."""
    texts = tf.strings.regex_replace(texts, _SPACE, " ")
    # Ideographs are set apart here and not before the accents go: what they decompose
    # into are ideographs, too.
    texts = tf.strings.regex_replace(texts, alone, r" \0 ")
    words = tf.strings.split(texts)
    long = tf.strings.length(words.flat_values, "UTF8_CHAR") > _MAX_CHARACTERS
    return words.with_flat_values(tf.where(long, _UNKNOWN, words.flat_values))


def _plain(table: tf.lookup.StaticHashTable) -> Callable[[tf.RaggedTensor], Any]:
    tokenizer = tf_text.WordpieceTokenizer(table, max_bytes_per_word=_MAX_BYTES)
    return tokenizer.tokenize


def _fast(tokens: Iterable[str]) -> Callable[[tf.RaggedTensor], Any]:
    def tokenize(words: tf.RaggedTensor) -> Any:
        # Made where it is used: its vocabulary is a constant of that graph.
        tokenizer = tf_text.FastWordpieceTokenizer(
            list(tokens),
            max_bytes_per_word=_MAX_BYTES,
            token_out_type=tf.int64,
            no_pretokenization=True,
        )
        return tokenizer.tokenize(words)

    return tokenize
