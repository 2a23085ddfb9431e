"""The documents of an export in variables and a lookup table."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.serving.table import ServedTable

STRINGS = ["a", "b c", " lead", "trail ", "é", "电影", "10", "a,b", "#x", "\u2028"]


def table_of(folder, ids, size=2, keys=None) -> ServedTable:
    file = folder / "ids.txt"
    file.write_text("".join(f"{value}\n" for value in ids), "utf-8")
    array = np.array(ids, object) if isinstance(ids[0], str) else np.array(ids)
    return ServedTable(array, file, size, keys or {}, "weights")


def test_strings_are_found_as_they_are_written(tmp_path):
    table = table_of(tmp_path, STRINGS)
    rows, found = table.rows(tf.constant(STRINGS))
    np.testing.assert_array_equal(rows, np.arange(len(STRINGS)))
    assert found.numpy().all() and rows.dtype == tf.int64
    # Neither trimmed nor folded.
    unknown = tf.constant([["A", "lead", "trail", ""], ["b", "c", "a ", "b c "]])
    rows, found = table.rows(unknown)
    assert not found.numpy().any()
    np.testing.assert_array_equal(rows, np.zeros([2, 4]))
    assert [value.decode() for value in table.ids.numpy()] == STRINGS


def test_int64_ids_keep_all_their_digits(tmp_path):
    ids = [0, 7, -5, 2**62 + 1, -(2**63), 2**63 - 1]
    table = table_of(tmp_path, ids)
    assert table.id_dtype == tf.int64 and table.ids.dtype == tf.int64
    rows, found = table.rows(tf.constant(ids, tf.int64))
    np.testing.assert_array_equal(rows, np.arange(6))
    assert found.numpy().all()
    rows, found = table.rows(tf.constant([-1, 2**62, 8], tf.int64))
    assert not found.numpy().any()
    np.testing.assert_array_equal(table.ids, ids)


def test_rows_of_no_ids(tmp_path):
    rows, found = table_of(tmp_path, ["a"]).rows(tf.zeros([3, 0], tf.string))
    assert rows.shape == found.shape == (3, 0)


def test_filled_rows_are_read_back_by_name(tmp_path):
    # A key's name may hold a slash; b/folded sorts before c.
    keys = {
        "c": tf.TensorSpec([None], tf.int64),
        "b/folded": tf.TensorSpec([None, 3], tf.float32),
    }
    table = table_of(tmp_path, ["w", "x", "y", "z", "last"], 2, keys)
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    numbers = np.array([2**60 + row for row in range(5)])
    triples = -np.arange(15, dtype=np.float32).reshape(5, 3)
    for start, end in ((0, 2), (2, 4), (4, 5)):
        part = {"c": numbers[start:end], "b/folded": triples[start:end]}
        table.fill(start, tf.constant(vectors[start:end]), part)
    rows = tf.constant([[4, 0, 4], [1, 2, 3]], tf.int64)
    np.testing.assert_array_equal(table.vectors_of(rows), vectors[rows])
    got = table.keys_of(rows)
    assert sorted(got) == ["b/folded", "c"]
    np.testing.assert_array_equal(got["c"], numbers[rows])
    np.testing.assert_array_equal(got["b/folded"], triples[rows])


def test_keys_are_filled_by_name_not_by_place(tmp_path):
    keys = {name: tf.TensorSpec([None], tf.float32) for name in ("b", "a")}
    table = table_of(tmp_path, ["x"], 1, keys)
    table.fill(0, tf.ones([1, 1]), {"b": [2.0], "a": [1.0]})
    got = {name: key.numpy().tolist() for name, key in table.keys_of([0]).items()}
    assert got == {"a": [1.0], "b": [2.0]}


def test_every_variable_is_open_in_its_first_dimension(tmp_path):
    keys = {"k": tf.TensorSpec([None, 3], tf.int64), "n": tf.TensorSpec([None])}
    table = table_of(tmp_path, ["a", "b"], 4, keys)
    # But for the fingerprint, which is one.
    of_documents = [v for v in table.variables if v is not table.made_by]
    shapes = sorted(str(variable.shape) for variable in of_documents)
    assert shapes == ["(None, 3)", "(None, 4)", "(None,)", "(None,)"]
    # Other documents fit into the same variables.
    table.vectors.assign(tf.ones([7, 4]))
    assert table.vectors_of(tf.constant([6])).numpy().tolist() == [[1.0] * 4]
    assert not table.trainable_variables


def test_a_row_of_another_size_is_refused(tmp_path):
    table = table_of(tmp_path, ["a", "b"], 2)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        table.fill(0, tf.ones([2, 3]), {})
