"""Words and word pieces of usual and unusual texts."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.features.lookups import VocabularyLookup
from tfrs_prerank.features.tokens import pieces, words


def tokens(text: str | bytes, max_tokens: int = 12) -> list[str]:
    row = words(tf.constant([text]), max_tokens).numpy()[0]
    found = [token.decode("utf-8") for token in row]
    count = len([token for token in found if token])
    assert found[count:] == [""] * (max_tokens - count), "pads come last"
    return found[:count]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n ", []),
        ("Red SHOES", ["red", "shoes"]),
        ("  red,shoes... (men's) 4k-TV ", ["red", "shoes", "men", "s", "4k", "tv"]),
        ("C++ R&B $5 a=b", ["c", "r", "b", "5", "a", "b"]),
        # Case folding goes further than lower case.
        ("Straße ﬁne K", ["strasse", "fine", "k"]),
        # A Chinese or Japanese character is a word; other scripts have spaces.
        ("红色连衣裙2024", ["红", "色", "连", "衣", "裙", "2024"]),
        ("新款iPhone壳", ["新", "款", "iphone", "壳"]),
        ("カメラ です", ["カ", "メ", "ラ", "で", "す"]),
        ("한국어 검색", ["한국어", "검색"]),
        ("हिन्दी ไทย", ["हिन्दी", "ไทย"]),
        # Full-width forms are plain ones, also spaces and punctuation.
        ("ＡＢＣ　１２，３", ["abc", "12", "3"]),
        # Combined and combining accents are the same word.
        ("cafe\u0301 caf\xe9", ["caf\xe9", "caf\xe9"]),
        # Emoji are symbols; joiners and other invisible characters are nothing.
        ("😀 fun👍🏽x 👨‍👩‍👧", ["fun", "x"]),
        ("a\u200bb\ufeffc\xadd", ["abcd"]),
        # Every kind of space and control character splits.
        ("a\xa0b\u3000c\u2028d\x00e\x85f\u2029g", list("abcdefg")),
        # Bytes that are no UTF-8 split, and take no neighbour with them.
        (b"ab\xff\xfecd caf\xe9 x\xc3", ["ab", "cd", "caf", "x"]),
        (b"\xff\xfe", []),
        (b"\xed\xa0\x80a", ["a"]),
        ("x" * 2000, ["x" * 2000]),
    ],
)
def test_words(text, expected):
    assert tokens(text) == expected


def test_words_are_cut_and_padded():
    rows = words(tf.constant(["a b c d", "", "e"]), 3)
    assert rows.numpy().tolist() == [[b"a", b"b", b"c"], [b""] * 3, [b"e", b"", b""]]
    assert rows.shape == [3, 3]
    assert words(tf.constant([], tf.string), 3).shape == [0, 3]


@given(st.lists(st.binary(max_size=12) | st.text(max_size=8), max_size=5))
@settings(max_examples=50, deadline=None)
def test_words_of_anything_are_words(texts):
    texts = [t.encode() if isinstance(t, str) else t for t in texts]
    rows = words(tf.constant(texts, tf.string, [len(texts)]), 6).numpy()
    assert rows.shape == (len(texts), 6)
    for token in rows.reshape(-1):
        # UTF-8, without a space, and its own only word, as vocabularies need.
        assert "\n" not in token.decode("utf-8")
        if token:
            assert tokens(token) == [token.decode("utf-8")]


def test_rows_do_not_depend_on_their_neighbours():
    texts = ["Red shoes", "红色", b"\xff a", ""]
    together = words(tf.constant(texts), 4).numpy()
    alone = [words(tf.constant([text]), 4).numpy()[0] for text in texts]
    np.testing.assert_array_equal(together, alone)


# Word pieces.

VOCABULARY = ["[UNK]", "un", "##aff", "##able", "red", "红", ",", "色"]


def lookup(tmp_path, values) -> VocabularyLookup:
    path = tmp_path / "pieces.txt"
    path.write_text("\n".join(values) + "\n", encoding="utf-8")
    return VocabularyLookup(str(path), "query")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Line n of the file is row n.
        ("unaffable RED", [2, 3, 4, 5]),
        ("", []),
        # A word that the pieces cannot make is one [UNK], however it begins.
        ("unred", [1]),
        ("red, un", [5, 7, 2]),
        ("redder", [1]),
        ("红 red", [6, 5]),
        # A Chinese or Japanese character is a word, as it is for `words`.
        ("红色", [6, 8]),
        ("Red红カun", [5, 6, 1, 2]),
        (b"un \xff red", [2, 1, 5]),
        (b"un\xffred", [2, 1, 5]),
        # Every kind of space and control character splits.
        ("un\u2028red\x00un\x85red\u3000un\u2029", [2, 5, 2, 5, 2]),
        ("un un un un un un un", [2] * 6),
    ],
)
def test_pieces(tmp_path, text, expected):
    rows = pieces(tf.constant([text]), 6, lookup(tmp_path, VOCABULARY))
    assert rows.dtype == tf.int64
    assert rows.numpy().tolist() == [expected + [-1] * (6 - len(expected))]


def test_pieces_without_unk_in_the_vocabulary(tmp_path):
    rows = pieces(tf.constant(["un other"]), 3, lookup(tmp_path, VOCABULARY[1:]))
    assert rows.numpy().tolist() == [[1, 0, -1]]


def test_pieces_are_traced_once_for_each_vocabulary(tmp_path):
    """Ragged tensors bring half a megabyte of checks to each copy in a graph."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = lookup(tmp_path / "a", VOCABULARY)
    second = lookup(tmp_path / "b", VOCABULARY[1:])

    def nodes_of(*lookups):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def split(texts):
            return [pieces(texts, 2, one) for one in lookups]

        got = [rows.numpy().tolist() for rows in split(tf.constant(["un red"]))]
        graph = split.get_concrete_function().graph.as_graph_def()
        return got, len(graph.node) + sum(
            len(function.node_def) for function in graph.library.function
        )

    got, once = nodes_of(first)
    assert got == [[[2, 5]]]
    got, often = nodes_of(*[first] * 8)
    assert got == [[[2, 5]]] * 8
    assert often < once + 100
    assert nodes_of(first, second)[0] == [[[2, 5]], [[1, 4]]]


def test_pieces_of_no_text(tmp_path):
    empty = tf.constant([], tf.string)
    assert pieces(empty, 4, lookup(tmp_path, VOCABULARY)).shape == [0, 4]
