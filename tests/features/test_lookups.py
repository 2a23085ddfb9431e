"""Rows of vocabularies and hash buckets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.features import Categorical
from tfrs_prerank.features.lookups import (
    HashLookup,
    VocabularyLookup,
    is_pad,
    make_lookup,
    read_values,
)


def vocabulary(path: Path, text: bytes, dtype: str = "string") -> VocabularyLookup:
    path.write_bytes(text)
    return VocabularyLookup(str(path), "city", dtype)


def test_line_n_is_row_n_plus_1(tmp_path):
    lookup = vocabulary(tmp_path / "v.txt", "rome\n東京\na b\nlast".encode())
    assert lookup.rows == 5
    values = [["rome", "東京", "a b"], ["last", "Rome", ""]]
    rows = lookup(tf.constant(values))
    assert rows.dtype == tf.int64
    # Lines 1 to 4; another spelling and the pad are unknown.
    assert rows.numpy().tolist() == [[1, 2, 3], [4, 0, 0]]


def test_integers(tmp_path):
    lookup = vocabulary(tmp_path / "v.txt", b"7\n-5\n9223372036854775807\n0\n", "int64")
    values = tf.constant([7, -5, 2**63 - 1, 0, -1, 8], tf.int64)
    assert lookup(values).numpy().tolist() == [1, 2, 3, 4, 0, 0]
    assert lookup.rows == 5


@pytest.mark.parametrize(
    ("text", "values", "rows"),
    [
        # A file from Windows.
        (b"a\r\nb\r\n", ["a", "b", "a\r"], [1, 2, 0]),
        # Of carriage returns, one at the end of a line belongs to its end.
        (b"a\rb\rc\nd\n", ["a\rb\rc", "d", "abc"], [1, 2, 0]),
        (b"a\r\r\n\rb\r", ["a\r", "\rb", "a"], [1, 2, 0]),
        # A tab, spaces and other line ends are part of a value.
        (b"a\tb\n a\na\n", ["a\tb", " a", "a"], [1, 2, 3]),
        ("a\u2028b\x0cc\nd\n".encode(), ["a\u2028b\x0cc", "d"], [1, 2]),
    ],
)
def test_lines_are_split_as_tensorflow_splits_them(tmp_path, text, values, rows):
    path = tmp_path / "v.txt"
    lookup = vocabulary(path, text)
    assert lookup(tf.constant(values)).numpy().tolist() == rows
    assert lookup.rows == 1 + max(rows)
    known = [value for value, row in zip(values, rows, strict=True) if row]
    assert read_values(path, "city") == known


def test_values_of_a_file_have_the_declared_type(tmp_path):
    path = tmp_path / "v.txt"
    path.write_bytes(b"7\r\n-05\n")
    assert read_values(path, "city", "int64") == [7, -5]
    assert read_values(path, "city") == ["7", "-05"]


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        (b"", "string", "is empty"),
        (b"a\nb\na\n", "string", "holds 'a' twice; keep one line of it"),
        (b"a\nb\na\r\n", "string", "holds 'a' twice; keep one line of it"),
        (b"a\n\r\nb\n", "string", "holds the pad value '' in line 2; remove it"),
        (b"7\n07\n", "int64", "holds '07' twice; keep one line of it"),
        (b"a\n\nb\n", "string", "holds the pad value '' in line 2; remove it"),
        (b"7\n-1\n", "int64", "holds the pad value '-1' in line 2; remove it"),
        (
            b"7\nx\n",
            "int64",
            "holds 'x' in line 2; dtype='int64' takes one integer a line",
        ),
        (
            b"7\n8.0\n",
            "int64",
            "holds '8.0' in line 2; dtype='int64' takes one integer a line",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, text, dtype, expected):
    path = tmp_path / "v.txt"
    with pytest.raises(ValueError) as error:
        vocabulary(path, text, dtype)
    assert str(error.value) == f"city.vocabulary: {path} {expected}"


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "v.txt"
    with pytest.raises(ValueError, match=f"city.vocabulary: {path} is not UTF-8 text"):
        vocabulary(path, b"a\n\xff\n")


def test_a_file_that_is_gone(tmp_path):
    path = tmp_path / "v.txt"
    with pytest.raises(FileNotFoundError) as error:
        VocabularyLookup(str(path), "city")
    assert str(error.value) == (
        f"city.vocabulary: no file at {path}; run `adapt` (tfrs-prerank prepare) to "
        f"make "
        "it or correct the path"
    )


def test_no_vocabulary_yet():
    with pytest.raises(ValueError) as error:
        make_lookup(Categorical("city", "doc"), "string")
    assert str(error.value) == (
        "city has no vocabulary yet; collect it from training data with `adapt` "
        "(tfrs-prerank prepare), or give vocabulary=FILE or buckets=N"
    )


def test_a_vocabulary_collected_anew_is_read_anew(tmp_path):
    # TensorFlow names tables by path: the second would be the first.
    first = vocabulary(tmp_path / "v.txt", b"a\nb\n")
    second = vocabulary(tmp_path / "v.txt", b"c\nb\n")
    values = tf.constant(["a", "b", "c"])
    assert first(values).numpy().tolist() == [1, 2, 0]
    assert second(values).numpy().tolist() == [0, 2, 1]
    # The same lines as integers.
    vocabulary(tmp_path / "v.txt", b"1\n2\n")
    numbers = vocabulary(tmp_path / "v.txt", b"1\n2\n", "int64")
    assert numbers(tf.constant([2], tf.int64)).numpy().tolist() == [2]


@pytest.mark.parametrize("dtype", ["string", "int64"])
def test_hash_rows(dtype):
    lookup = HashLookup(7, "city", dtype)
    numbers = np.arange(1000)
    pad = "" if dtype == "string" else -1
    values = [str(n) for n in numbers] if dtype == "string" else numbers
    rows = lookup(tf.constant(values, dtype)).numpy()
    # Row 0 is kept for pads, and every bucket is used: 1000 values in 7.
    assert sorted(set(rows)) == [1, 2, 3, 4, 5, 6, 7]
    assert np.bincount(rows)[1:].min() > 100
    assert lookup(tf.constant([[pad]], dtype)).numpy().tolist() == [[0]]
    assert lookup.rows == 8


HASHED = [140403, 466102, 856089]


def test_hashes_are_the_same_in_every_process_and_version():
    # Farmhash64 modulo buckets, plus 1: rows of trained models hang on it.
    lookup = HashLookup(1_000_000, "city")
    rows = lookup(tf.constant(["rome", "東京", "7"])).numpy()
    assert rows.tolist() == HASHED
    numbers = HashLookup(1_000_000, "city", "int64")
    assert numbers(tf.constant([7], tf.int64)).numpy().tolist() == [HASHED[2]]


def test_several_hashes_begin_with_the_one():
    values = tf.constant([["rome", ""], ["oslo", "bonn"]])
    one = HashLookup(50, "city")(values).numpy()
    three = HashLookup(50, "city", hashes=3)(values).numpy()
    assert three.shape == (2, 2, 3)
    np.testing.assert_array_equal(three[..., 0], one)
    assert three[0, 1].tolist() == [0, 0, 0]
    # A hash function does not depend on how many there are.
    two = HashLookup(50, "city", hashes=2)(values).numpy()
    np.testing.assert_array_equal(three[..., :2], two)


def test_further_hashes_are_the_same_in_every_process_and_version():
    # SipHash with the key [n, 0] modulo buckets, plus 1.
    lookup = HashLookup(1_000_000, "city", hashes=3)
    rows = lookup(tf.constant(["rome", "東京"])).numpy()
    assert rows.tolist() == [[140403, 90491, 681183], [466102, 612026, 619109]]
    numbers = HashLookup(1_000_000, "city", "int64", hashes=3)
    as_text = lookup(tf.constant(["7"])).numpy()
    np.testing.assert_array_equal(numbers(tf.constant([7], tf.int64)), as_text)


@pytest.mark.parametrize(
    ("hashes", "unique"),
    [
        # Of n = 100,000 ids in as many buckets m an id has a bucket of its own with the
        # probability (1 - 1/m)^(n-1) = 1/e = .368.
        (1, 0.368),
        # Of the pairs of rows m^2/2 are different ones: 1 - 2 (n-1) / m^2 = .99998.
        (2, 0.99998),
    ],
)
def test_share_of_ids_with_a_representation_of_their_own(hashes, unique):
    count = 100_000
    lookup = HashLookup(count, "user", "int64", hashes)
    rows = lookup(tf.range(count, dtype=tf.int64)).numpy().reshape(count, hashes)
    # The mean of rows does not know their order.
    _, owners = np.unique(np.sort(rows, axis=1), axis=0, return_counts=True)
    # Five standard deviations of that of one hash: sqrt((1/e - 2/e^2) / n) = .001;
    # and five of the two pairs expected to be alike.
    tolerance = 0.005 if hashes == 1 else 0.0001
    assert np.count_nonzero(owners == 1) / count == pytest.approx(unique, abs=tolerance)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(1, 100))
@settings(max_examples=25, deadline=None)
def test_hash_rows_are_in_range(values, buckets):
    rows = HashLookup(buckets, "x", "int64")(tf.constant(values, tf.int64)).numpy()
    for value, row in zip(values, rows, strict=True):
        assert row == 0 if value == -1 else 1 <= row <= buckets


def test_pads():
    assert is_pad(tf.constant(["", "a", " "])).numpy().tolist() == [True, False, False]
    numbers = tf.constant([-1, 0, 1], tf.int64)
    assert is_pad(numbers).numpy().tolist() == [True, False, False]


class Served(tf.Module):
    """The least that serves a lookup."""

    def __init__(self, lookup: VocabularyLookup) -> None:
        super().__init__()
        self.lookup = lookup

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def rows(self, values: tf.Tensor) -> tf.Tensor:
        return self.lookup(values)


def test_saved_model_does_not_grow_and_can_be_moved(tmp_path):
    sizes = []
    for name, count in (("small", 10), ("large", 20_000)):
        source = tmp_path / f"{name}.txt"
        text = "".join(f"value {n}\n" for n in range(count))
        module = Served(vocabulary(source, text.encode()))
        tf.saved_model.save(module, tmp_path / name)
        graph = (tmp_path / name / "saved_model.pb").read_bytes()
        assert str(tmp_path).encode() not in graph, "a path of this machine"
        sizes.append(len(graph))
        source.unlink()
    # The lengths of names may differ by a few bytes.
    assert abs(sizes[0] - sizes[1]) < 200
    del module
    shutil.move(tmp_path / "large", tmp_path / "moved")
    loaded = tf.saved_model.load(tmp_path / "moved")
    rows = loaded.rows(tf.constant(["value 19999", "value 0", "other"]))
    assert rows.numpy().tolist() == [20_000, 1, 0]
