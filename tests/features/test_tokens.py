"""Words and word pieces of usual and unusual texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank import Text
from tfrs_prerank.features.lookups import PieceLookup
from tfrs_prerank.features.tokens import split, words


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


# Tokens as a feature declares them.


def splitted(text: str, **declared: Any) -> list[str]:
    feature = Text("title", "doc", **declared)
    row = split(feature, tf.constant([text])).numpy()[0]
    assert len(row) == feature.token_width
    return [token.decode() for token in row]


@pytest.mark.parametrize(
    ("declared", "text", "expected"),
    [
        ({}, "Red, SHOES 红色", ["red", "shoes", "红"]),
        (
            {"tokenizer": "whitespace"},
            "Red, SHOES\u3000红色",
            ["red,", "shoes", "红色"],
        ),
        ({"tokenizer": "characters"}, "Ab, 红", ["a", "b", "红"]),
        ({"tokenizer": "wordpiece", "vocabulary": "v"}, "Ab, 红", ["ab", "红", ""]),
        ({"ngrams": (2, 2)}, "a b c d", ["a b", "b c", ""]),
        # A shorter text is one run as a whole, but only of the shortest kind.
        ({"ngrams": (2, 2)}, "a", ["a", "", ""]),
        ({"ngrams": (1, 2)}, "a", ["a", "", "", "", "", ""]),
        # The runs are made of the tokens that are kept.
        (
            {"ngrams": (1, 3)},
            "a b c d",
            ["a", "b", "c", "a b", "b c", "", "a b c", "", ""],
        ),
        # Runs of characters do not cross a space; so many of each length are kept.
        (
            {"tokenizer": "characters", "ngrams": (2, 2)},
            "红连衣 ab c",
            ["红连", "连衣", "ab"],
        ),
        (
            {"tokenizer": "characters", "ngrams": (1, 2)},
            "红连 c",
            ["红", "连", "c", "红连", "", ""],
        ),
        ({"tokenizer": "characters", "ngrams": (2, 2)}, "", ["", "", ""]),
    ],
)
def test_split(declared, text, expected):
    assert splitted(text, max_tokens=3, **declared) == expected


def test_texts_of_a_megabyte_are_split():
    text = "ab 红" * 200_000
    for tokenizer in ("words", "whitespace", "characters"):
        feature = Text("title", "doc", tokenizer=tokenizer, max_tokens=2)
        tokens = split(feature, tf.constant([text, "", " " * 1_000_000])).numpy()
        assert tokens[0].all() and not tokens[1:].any()


# Word pieces.

VOCABULARY = ["[UNK]", "un", "##aff", "##able", "red", "红", ",", "色"]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Line n of the file is row n.
        ("unaffable RED", [2, 3, 4, 5]),
        ("", []),
        # A word that the pieces cannot make is one [UNK], however it begins.
        ("unred", [1]),
        ("red, un", [5, 7, 2]),
        ("红色 red", [6, 8, 5]),
        # Bytes that are no UTF-8 are dropped.
        (b"un \xff red", [2, 5]),
        ("un\u2028red\u3000un\u2029", [2, 5, 2]),
        ("un un un un un un un", [2] * 6),
    ],
)
def test_pieces(tmp_path, text, expected, fast):
    path = tmp_path / "pieces.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    lookup = PieceLookup(str(path), "query", fast)
    assert lookup.rows == 9
    rows = lookup.pieces(tf.constant([text]), 6)
    assert rows.dtype == tf.int64
    assert rows.numpy().tolist() == [expected + [-1] * (6 - len(expected))]
    assert lookup.pieces(tf.constant([], tf.string), 4).shape == [0, 4]


def test_pieces_need_a_row_for_what_they_cannot_make(tmp_path):
    path = tmp_path / "pieces.txt"
    path.write_text("un\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"\[UNK\]"):
        PieceLookup(str(path), "query")
