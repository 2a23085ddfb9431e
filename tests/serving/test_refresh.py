"""New documents without the model: what stays, what is encoded, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.processes import ROOT
from tests.serving.export_models import (
    LOWEST,
    batch_of,
    call,
    model_outputs,
    small_documents,
    small_query,
)
from tfrs_prerank import refresh_documents
from tfrs_prerank.datasets import funnel, write_documents
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.serving.exporter import export
from tfrs_prerank.serving.refresh import _write_variables
from tfrs_prerank.serving.version_directory import HASHES, MANIFEST, versions_of


def taken(documents: DocumentTable, rows: list[int], **columns: Any) -> DocumentTable:
    """Some rows of a table, some of their columns replaced."""
    kept = {
        name: values[rows]
        if isinstance(values, np.ndarray)
        else [values[row] for row in rows]
        for name, values in documents.columns.items()
    }
    return DocumentTable(documents.ids[rows], {**kept, **columns})


@pytest.fixture
def copied(full, tmp_path) -> Path:
    """A model's directory with the version of `full`, and nothing that made it."""
    directory = tmp_path / "films"
    shutil.copytree(full.path, directory / "1")
    return directory


def test_refreshed_documents_are_those_of_a_whole_export(full, copied, tmp_path):
    """Reordered, one removed, one changed; against an export of the same table."""
    words = [full.documents.columns["title"][row] for row in (6, 1, 0, 3, 2)]
    words[1] = "war love"
    now = taken(full.documents, [6, 1, 0, 3, 2], title=words)
    refreshed = refresh_documents(copied, now)
    assert (refreshed.version, refreshed.previous) == (2, 1)
    assert (refreshed.unchanged, refreshed.changed) == (4, 1)
    assert (refreshed.added, refreshed.removed) == (0, 2)
    whole = export(full.model, now, tmp_path / "whole", k=5, task="like")
    got, expected = (
        tf.saved_model.load(str(path)) for path in (refreshed.path, whole.path)
    )
    for one, other in zip(
        [got.table.ids, got.table.vectors, *got.table.keys],
        [expected.table.ids, expected.table.vectors, *expected.table.keys],
        strict=True,
    ):
        if one.dtype == tf.float32:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)
    request = full.request(np.tile(np.arange(7), (3, 1)))
    for name in ("serving_default", "retrieve"):
        first, second = (call(m.signatures[name], request) for m in (got, expected))
        for key, value in second.items():
            if value.dtype == np.float32:
                np.testing.assert_allclose(first[key], value, rtol=1e-4)
            else:
                np.testing.assert_array_equal(first[key], value)
    # What was removed is unknown, as any other id.
    answer = call(got.signatures["serving_default"], request)
    gone = [4, 5]
    assert not answer["found"][:, gone].any()
    assert (answer["scores"][:, gone] == LOWEST).all()
    np.testing.assert_array_equal(
        np.load(refreshed.path / HASHES), np.load(whole.path / HASHES)
    )


def test_what_does_not_change_is_the_same_to_the_bit(full, copied):
    order = [3, 0, 5, 1, 6, 2, 4]
    refreshed = refresh_documents(copied, taken(full.documents, order))
    assert refreshed.unchanged == 7
    first, second = copied / "1", refreshed.path
    name = "saved_model.pb"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    # TensorFlow's fingerprint names the checkpoint that is there.
    one, other = (
        tf.saved_model.experimental.read_fingerprint(str(path))
        for path in (first, second)
    )
    assert one.graph_def_program_hash == other.graph_def_program_hash
    assert one.checkpoint_hash != other.checkpoint_hash
    files = {f.relative_to(first) for f in (first / "assets").iterdir()}
    assert files == {f.relative_to(second) for f in (second / "assets").iterdir()}
    for file in files - {Path("assets/doc_ids.txt")}:
        assert (first / file).read_bytes() == (second / file).read_bytes()
    before, after = (tf.train.load_checkpoint(str(p / "variables/variables"))
                     for p in (first, second))  # fmt: skip
    names = before.get_variable_to_dtype_map()
    assert names == after.get_variable_to_dtype_map()
    for name in names:
        one, other = before.get_tensor(name), after.get_tensor(name)
        if name.startswith(("table/ids", "table/vectors", "table/keys")):
            one = one[order]
        np.testing.assert_array_equal(one, other)


def test_a_table_of_int64_ids_grows(small, tmp_path):
    directory = tmp_path / "small"
    shutil.copytree(small.path, directory / "1")
    now = small_documents(60)
    refreshed = refresh_documents(directory, now, version=7)
    assert (refreshed.version, refreshed.unchanged, refreshed.added) == (7, 40, 20)
    loaded = tf.saved_model.load(str(refreshed.path))
    rows = np.array([[0, 39, 40, 59]])
    batch = batch_of(small.model.schema, now, rows, small_query(1))
    got = call(loaded.signatures["serving_default"], batch)
    assert got["found"].all()
    expected = model_outputs(small.model, batch)["scores"]
    np.testing.assert_allclose(got["scores"], expected, rtol=1e-5, atol=1e-6)
    # And again, from the refreshed one.
    again = refresh_documents(directory, small_documents(50))
    assert (again.version, again.previous) == (8, 7)
    assert (again.unchanged, again.added, again.removed) == (50, 0, 10)
    manifest = json.loads((again.path / MANIFEST).read_text("utf-8"))
    assert (manifest["documents"], manifest["refreshed_from"]) == (50, 7)


@pytest.mark.slow  # takes long
def test_weights_of_the_fusion_change(full, copied):
    refreshed = refresh_documents(copied, full.documents, fuse={"like": 5.0})
    loaded = tf.saved_model.load(str(refreshed.path))
    answer = call(
        loaded.signatures["serving_default"], full.request(np.arange(7)[np.newaxis])
    )
    tasks = {task.name: task.fuse for task in full.model.schema.tasks} | {"like": 5.0}
    expected = sum(weight * answer[name] for name, weight in tasks.items())
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-5)
    # The others stay as they are, also in the next one.
    again = refresh_documents(copied, full.documents)
    loaded = tf.saved_model.load(str(again.path))
    np.testing.assert_allclose(loaded.fusion, list(tasks.values()), rtol=1e-6)
    manifest = json.loads((again.path / MANIFEST).read_text("utf-8"))
    assert [task.get("fuse", 1.0) for task in manifest["schema"]["tasks"]] == [1.0, 5.0]


@pytest.mark.slow  # takes long
def test_the_session_loader_reads_it(full, copied):
    """That of TF1, which restores variables by the names in the graph."""
    now = taken(full.documents, [2, 0])
    refreshed = refresh_documents(copied, now)
    inputs = full.request(np.array([[0, 2, 1]]))
    loaded = tf.saved_model.load(str(refreshed.path)).signatures["serving_default"]
    expected = call(loaded, inputs)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        load = tf.compat.v1.saved_model.loader.load
        graph = load(session, ["serve"], str(refreshed.path))
        signature = graph.signature_def["serving_default"]
        feed = {info.name: inputs[key] for key, info in signature.inputs.items()}
        fetch = {key: info.name for key, info in signature.outputs.items()}
        answer = session.run(fetch, feed)
    assert answer["found"].tolist() == [[True, True, False]]
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ("manifest", "the towers and the manifest are not of one model"),
        ("weights/0", "the towers and the manifest are not of one model"),
        ("table/made_by", "the documents table and the manifest are not of one model"),
    ],
)
def test_mixed_parts_are_refused(full, copied, changed, problem):
    other = copied.parent / "other" / "1"
    shutil.copytree(copied / "1", other)
    if changed == "manifest":
        manifest = json.loads((other / MANIFEST).read_text("utf-8"))
        manifest["fingerprint"] = "0" * 64
        (other / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    else:
        reader = tf.train.load_checkpoint(str(copied / "1" / "variables/variables"))
        value = reader.get_tensor(f"{changed}/.ATTRIBUTES/VARIABLE_VALUE")
        value = b"0" * 64 if isinstance(value, bytes) else value + 1
        _write_variables(copied / "1", other, {changed: value})
    with pytest.raises(ValueError, match=problem):
        refresh_documents(other.parent, full.documents)
    assert versions_of(other.parent) == [1]


def test_hashes_that_are_not_those_of_the_table(full, copied):
    path = copied / "1" / HASHES
    np.save(path, np.load(path)[:3])
    with pytest.raises(ValueError, match="holds 3 hashes of 7 documents; export again"):
        refresh_documents(copied, full.documents)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        refresh_documents(copied, full.documents)


@pytest.mark.slow  # starts TensorFlow
def test_a_process_that_has_made_no_model_refreshes(tmp_path):
    """The ops of an export of texts are registered by nothing else there."""
    directory = tmp_path / "funnel"
    shutil.copytree(ROOT / "saved_models" / "funnel", directory)
    simulated = funnel.simulate(funnel.small()).documents
    documents = tmp_path / "documents.parquet"
    write_documents(simulated, documents)
    code = "from tfrs_prerank.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "refresh", str(directory), str(documents)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1000 unchanged, 0 changed, 0 added; 0 removed" in done.stdout
    assert versions_of(directory) == [1, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"previous": 9}, FileNotFoundError, r"holds no version 9; it has \[1\]"),
        ({"version": 1}, FileExistsError, "leave version out to take 2"),
        ({"version": 0}, ValueError, "version must be a number from 1"),
        ({"fuse": {"likes": 1.0}}, KeyError, "no task 'likes'; did you mean 'like'"),
        ({"fuse": {"like": np.nan}}, ValueError, "that fits float32. Received: nan"),
        ({"fuse": {"like": 1e300}}, ValueError, "that fits float32. Received: 1e"),
        ({"fuse": {"like": "2"}}, ValueError, "that fits float32. Received: '2'"),
    ],
)
def test_bad_arguments(full, copied, options, error, message):
    with pytest.raises(error, match=message):
        refresh_documents(copied, full.documents, **options)
    assert versions_of(copied) == [1]
    assert [path.name for path in copied.iterdir()] == ["1"]


def test_bad_documents_leave_nothing(full, copied, small, tmp_path):
    columns = dict(full.documents.columns)
    del columns["film"]
    with pytest.raises(KeyError, match="no column 'film'"):
        refresh_documents(copied, DocumentTable(full.documents.ids, columns))
    with pytest.raises(TypeError, match="'string'"):
        refresh_documents(copied, DocumentTable(np.arange(7), full.documents.columns))
    with pytest.raises(FileNotFoundError, match="holds no version of an export"):
        refresh_documents(tmp_path / "nowhere", full.documents)
    directory = tmp_path / "small"
    shutil.copytree(small.path, directory / "1")
    with pytest.raises(ValueError, match="the score of a single task is its logit"):
        refresh_documents(directory, small_documents(3), fuse={"click": 2.0})
    (directory / "1" / MANIFEST).write_text("{", "utf-8")
    with pytest.raises(ValueError, match="is no JSON"):
        refresh_documents(directory, small_documents(3))
    (directory / "1" / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match="no whole export of tfrs_prerank"):
        refresh_documents(directory, small_documents(3))
    assert [path.name for path in copied.iterdir()] == ["1"]
