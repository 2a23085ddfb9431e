"""Files of vectors, and what is no file of vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrs_prerank.datasets import VectorTable, read_vectors, write_vectors
from tfrs_prerank.datasets import vectors as vectors_module


@pytest.mark.parametrize(
    "ids", [np.array(["b", "ä", "a"]), np.array([3, -(2**60), 7]), np.array([1, 2, 3])]
)
def test_a_file_gives_back_what_was_written(tmp_path, monkeypatch, ids):
    monkeypatch.setattr(vectors_module, "_ROWS", 2)  # two row groups
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    path = tmp_path / "v.parquet"
    write_vectors(VectorTable(ids, vectors), path)
    assert pq.read_metadata(path).num_row_groups == 2
    found_ids, found = read_vectors(path)
    assert found_ids.tolist() == ids.tolist()
    assert found_ids.dtype == (object if ids.dtype.kind == "U" else np.int64)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors)
    assert [file.name for file in tmp_path.iterdir()] == ["v.parquet"]


def test_files_of_others(tmp_path):
    vectors = np.arange(6.0).reshape(3, 2)
    frame = pd.DataFrame({"note": 1, "id": ["a", "b", "c"], "vector": list(vectors)})
    frame.to_parquet(tmp_path / "pandas.parquet")
    flat = pa.array(vectors.ravel())
    fixed = pa.FixedSizeListArray.from_arrays(flat, 2)
    # A part of a longer column starts where its own rows do.
    table = pa.table({"id": ["z", "a", "b"], "vector": fixed}).slice(1)
    pq.write_table(table, tmp_path / "fixed.parquet")
    for name, rows in (("pandas", vectors), ("fixed", vectors[1:])):
        np.testing.assert_array_equal(
            read_vectors(tmp_path / f"{name}.parquet")[1], rows
        )


@pytest.mark.parametrize(
    ("columns", "kind", "expected"),
    [
        (
            {"id": ["a", "a", "b"], "vector": [[1.0]] * 3},
            ValueError,
            "id 'a' is there 2 times; keep one vector of it",
        ),
        (
            {"id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]},
            ValueError,
            "the vector of row 1 has 1 numbers and that of row 0 has 2; all need as "
            "many, at least one",
        ),
        (
            {"id": ["a", "b"], "vector": [[1.0], None]},
            ValueError,
            "the vector of row 1 has 0 numbers and that of row 0 has 1; all need as "
            "many, at least one",
        ),
        (
            {"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, None]]},
            ValueError,
            "a number is missing in row 1",
        ),
        (
            {"id": ["a", "b"], "vector": [[1.0], [float("inf")]]},
            ValueError,
            "NaN or infinity in row 1; a vector of zeros means missing",
        ),
        ({"id": ["a", None], "vector": [[1.0]] * 2}, ValueError, "no id in row 1"),
        (
            {"id": [1.5], "vector": [[1.0]]},
            TypeError,
            "column 'id' holds strings or integers. Received: double",
        ),
        (
            {"id": [1], "vector": ["1 2"]},
            TypeError,
            "column 'vector' holds lists of floats. Received: string",
        ),
        ({"ids": [1], "vector": [[1.0]]}, ValueError, "no column 'id'; did you mean"),
    ],
)
def test_files_that_hold_no_vectors(tmp_path, columns, kind, expected):
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(kind) as error:
        read_vectors(path)
    assert expected in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "v.parquet"
    with pytest.raises(FileNotFoundError, match="no vectors at"):
        read_vectors(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="is no whole Parquet file"):
        read_vectors(path)
    kinds = {"id": pa.string(), "vector": pa.list_(pa.float32())}
    pq.write_table(pa.table({n: pa.array([], t) for n, t in kinds.items()}), path)
    with pytest.raises(ValueError, match="holds no vectors; give at least one"):
        read_vectors(path)


@pytest.mark.parametrize(
    ("ids", "vectors", "kind", "expected"),
    [
        (["a"], [[1.0], [2.0]], ValueError, r"shapes \(1,\) and \(2, 1\)"),
        ([1.5], [[1.0]], TypeError, "ids are strings or integers. Received: float64"),
        ([None], [[1.0]], TypeError, "Received: None of type NoneType"),
        ([1, 1], [[1.0], [2.0]], ValueError, "id 1 is there 2 times"),
        ([1], [[np.nan]], ValueError, "NaN or infinity in row 0"),
    ],
)
def test_what_is_not_written(tmp_path, ids, vectors, kind, expected):
    with pytest.raises(kind, match=expected):
        write_vectors(VectorTable(np.array(ids), np.array(vectors)), tmp_path / "v")
    assert list(tmp_path.iterdir()) == []
