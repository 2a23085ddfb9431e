"""From a model and its documents to a version that TF Serving runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.models.tiny_bert import tiny_bert
from tests.processes import four_replicas
from tests.serving.export_models import (
    batch_of,
    call,
    model_outputs,
    randomize,
    sigmoid,
    small_documents,
    small_model,
    small_query,
    small_schema,
)
from tfrs_prerank import Categorical, PreRanker, Schema, Task, Text, Tower
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.serving import documents as documents_of_exports
from tfrs_prerank.serving.documents import document_hashes
from tfrs_prerank.serving.exporter import export, fingerprint
from tfrs_prerank.serving.lint import LintError, lint_saved_model
from tfrs_prerank.serving.version_directory import versions_of

MODULE = sys.modules[export.__module__]
SIGNATURES = [
    "encode_docs",
    "encode_query",
    "rank",
    "retrieve",
    "score_vectors",
    "serving_default",
]


def small_batch(documents, seed=0):
    rows = np.random.default_rng(seed).integers(0, len(documents), (4, 6))
    return batch_of(small_schema(), documents, rows, small_query(4, seed))


def assert_scores_of(model, path, batch):
    loaded = tf.saved_model.load(str(path))
    got = call(loaded.signatures["serving_default"], batch)
    # In a graph, as exports are: in half precision, kernels that TensorFlow fuses there
    # round at other places than the eager ones do.
    want = model_outputs(tf.function(model), batch)
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5, rtol=0)
    assert all(v.dtype == np.float32 for k, v in got.items() if k != "found")
    assert np.ptp(want["scores"]) > 1e-3
    return loaded


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Other processes -------------------------------------------------------------------

FRESH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tfrs_prerank", "tensorflow_recommenders"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocker())
import numpy as np
import tensorflow as tf
import tensorflow_text  # its ops are part of the server

try:
    import tfrs_prerank
except ImportError:
    pass
else:
    raise AssertionError("tfrs_prerank can be imported")

for path in sys.argv[1:]:
    inputs = dict(np.load(f"{path}/inputs.npz", allow_pickle=True))
    answers = {}
    loaded = tf.saved_model.load(f"{path}/model")
    for name, function in loaded.signatures.items():
        specs = function.structured_input_signature[1]
        tensors = {key: tf.constant(inputs[key], specs[key].dtype) for key in specs}
        for key, value in function(**tensors).items():
            answers[f"tf2/{name}/{key}"] = value.numpy()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        load = tf.compat.v1.saved_model.loader.load
        graph = load(session, ["serve"], f"{path}/model")
        for name, signature in graph.signature_def.items():
            if name.startswith("__"):
                continue
            feed = {info.name: inputs[key] for key, info in signature.inputs.items()}
            fetch = {key: info.name for key, info in signature.outputs.items()}
            for key, value in session.run(fetch, feed).items():
                answers[f"tf1/{name}/{key}"] = value
    np.savez(f"{path}/answers.npz", **answers)
"""


def run_python(code, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def fresh(small, full, tmp_path_factory):
    """Answers of both exports, moved, without their sources, in a fresh process."""
    folder = tmp_path_factory.mktemp("moved")
    cases = {"small": small, "full": full}
    batches, vocabularies = {}, []
    for name, case in cases.items():
        rows = np.random.default_rng(8).integers(0, len(case.documents), (3, 6))
        batch = case.request(rows, seed=8)
        batch["num_docs"] = np.int32([6, 2, 0])
        vectors = call(case.loaded.signatures["encode_query"], batch)
        columns = {k: v[:, 0] for k, v in batch.items() if k in case.documents.columns}
        batches[name] = {**batch, **columns, **vectors}
        shutil.copytree(case.path, folder / name / "model")
        np.savez(folder / name / "inputs.npz", **batches[name])
        batches[name] |= {k: batch[k] for k in columns}
        for feature in case.model.schema.features:
            if getattr(feature, "vocabulary", None):
                vocabularies.append(Path(feature.vocabulary))
    hidden = [path.rename(path.with_suffix(".hidden")) for path in vocabularies]
    old = [case.path.rename(case.path.with_name("moved")) for case in cases.values()]
    try:
        run_python(FRESH, folder / "small", folder / "full", cwd=folder)
    finally:
        for path, back in zip(hidden, vocabularies, strict=True):
            path.rename(back)
        for path, case in zip(old, cases.values(), strict=True):
            path.rename(case.path)
    return {
        name: (
            case,
            batches[name],
            dict(np.load(folder / name / "answers.npz", allow_pickle=True)),
        )
        for name, case in cases.items()
    }


@pytest.mark.parametrize("loader", ["tf2", "tf1"])
@pytest.mark.parametrize("name", ["small", "full"])
def test_fresh_process_gives_the_scores_of_the_model(fresh, name, loader):
    case, batch, answers = fresh[name]
    batch = {key: batch[key] for key in batch.keys() - {"num_docs", "query_vector"}}
    want = model_outputs(case.model, batch)
    got = {
        key.rpartition("/")[2]: value
        for key, value in answers.items()
        if key.startswith(f"{loader}/serving_default/")
    }
    assert set(got) == {"scores", "found", *case.model.schema.task_names}
    np.testing.assert_allclose(got["scores"], want["scores"], atol=1e-5, rtol=0)
    for task in case.model.schema.task_names:
        np.testing.assert_allclose(got[task], sigmoid(want[task]), atol=1e-6)
    assert got["found"].all()


@pytest.mark.parametrize("name", ["small", "full"])
def test_both_loaders_agree_on_every_output(fresh, name):
    _, _, answers = fresh[name]
    keys = [key.partition("/")[2] for key in answers if key.startswith("tf2/")]
    assert sorted({key.partition("/")[0] for key in keys}) == SIGNATURES
    assert len(answers) == 2 * len(keys)
    for key in keys:
        one, other = answers[f"tf2/{key}"], answers[f"tf1/{key}"]
        if one.dtype == np.float32:
            np.testing.assert_allclose(one, other, atol=2e-6)
        else:
            np.testing.assert_array_equal(one, other)


def _export_of_a_mirrored_model(directory):
    strategy = four_replicas()
    with strategy.scope():
        model = small_model()
        model.compile()
    randomize(model)
    assert "Mirrored" in type(model.network.variables[0]).__name__
    documents = small_documents(20)
    done = export(model, documents, directory, warmup_lengths=(2,))
    assert_scores_of(model, done.path, small_batch(documents))
    with strategy.scope(), pytest.raises(RuntimeError, match=r"strategy\.scope\(\)"):
        export(model, documents, directory)


def test_model_of_a_mirrored_strategy(on_replicas, tmp_path):
    on_replicas(_export_of_a_mirrored_model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


# Where models come from ------------------------------------------------------------


class Watcher(threading.Thread):
    """What a server sees of a directory while something is written there."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.directory = directory
        self.seen, self.files, self.error = set(), None, None
        self.loaded, self.stopped = threading.Event(), threading.Event()

    def run(self):
        while not self.stopped.is_set():
            if self.directory.is_dir():
                for entry in os.scandir(self.directory):
                    self.seen.add((entry.name, entry.inode()))
            versions = versions_of(self.directory)
            if versions and self.files is None:
                path = self.directory / str(versions[0])
                self.files = files_of(path)
                try:
                    tf.saved_model.load(str(path))
                except Exception as error:
                    self.error = error
                self.loaded.set()


def files_of(path):
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.stat().st_size for file in files}


def test_model_of_a_run_directory_and_a_server_that_watches(small, tmp_path):
    small.model.save(tmp_path / "run")
    model = PreRanker.load(tmp_path / "run")
    watcher = Watcher(tmp_path / "model")
    watcher.start()
    try:
        done = export(model, small.documents, tmp_path / "model", warmup_lengths=(2,))
        assert watcher.loaded.wait(60)
    finally:
        watcher.stopped.set()
        watcher.join()
    # Whole from the first moment on, and loadable.
    assert watcher.error is None
    assert watcher.files == files_of(done.path)
    # Written under a name that no server takes for a version.
    temporary = {(name, inode) for name, inode in watcher.seen if name != "1"}
    ((name, inode),) = temporary
    assert name.startswith(".tmp-1-")
    # Renamed, not copied: the directory is the same one.
    assert inode == done.path.stat().st_ino
    assert os.listdir(tmp_path / "model") == ["1"]
    assert_scores_of(small.model, done.path, small_batch(small.documents))
    # Layers made later in a process have other names, but the weights are the same.
    assert fingerprint(model) == fingerprint(small.model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_has_float32_borders(tmp_path, policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        model = small_model(scorer="cosine")
        randomize(model)
        documents = small_documents(20)
        done = export(model, documents, tmp_path, warmup_lengths=(2,))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    batch = small_batch(documents)
    loaded = assert_scores_of(model, done.path, batch)
    dtypes = {
        tensor.dtype
        for name in SIGNATURES
        for tensor in (
            *loaded.signatures[name].structured_input_signature[1].values(),
            *loaded.signatures[name].structured_outputs.values(),
        )
    }
    assert dtypes == {tf.float32, tf.int64, tf.int32, tf.string, tf.bool}
    assert loaded.table.vectors.dtype == tf.float32


def test_wordpiece_passes_both_servers(tmp_path):
    vocabulary = tmp_path / "pieces.txt"
    vocabulary.write_text("[UNK]\nstar\n##s\nwar\n##ship\n")
    schema = Schema(
        features=(
            Text("query", "query", tokenizer="wordpiece", vocabulary=str(vocabulary)),
            Categorical("city", "doc", buckets=9),
        ),
        tasks=(Task("click"),),
    )
    tf.keras.utils.set_random_seed(0)
    tower = Tower(units=(4,), output=4, dimension=4)
    model = PreRanker(schema, tower, tower)
    documents = DocumentTable(np.array(["x", "y", "z"], object), {"city": [*"abc"]})
    done = export(
        model, documents, tmp_path / "m", warmup_lengths=(2,), serving_version="2.19"
    )
    assert done.lint.serving_version == "2.19"
    assert lint_saved_model(done.path, serving_version="2.20").large_constants == ()
    query = {"query": np.array(["STARS", "war star"], object)}
    batch = batch_of(schema, documents, np.array([[0, 1, 2]] * 2), query)
    assert_scores_of(model, done.path, batch)


def test_default_tokenizer_passes_both_servers(full):
    for version in ("2.19", "2.20"):
        report = lint_saved_model(full.path, serving_version=version)
        assert report.large_constants == ()
        assert list(report.signatures) == SIGNATURES


# Files -----------------------------------------------------------------------------


def test_files_of_a_version(full):
    files = files_of(full.path)
    assert set(files) == {
        "saved_model.pb",
        "fingerprint.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/bm25.txt",
        "assets/doc_ids.txt",
        "assets/users.txt",
        "assets/words.txt",
        "assets.extra/tf_serving_warmup_requests",
        "assets.extra/prerank.json",
        "assets.extra/document_hashes.npy",
    }
    ids = (full.path / "assets/doc_ids.txt").read_text("utf-8").splitlines()
    assert ids == list(full.documents.ids)
    # A server's user may read it.
    assert stat.S_IMODE(full.path.stat().st_mode) == 0o755
    assert full.exported.version == 1 and full.exported.documents == 7
    assert full.exported.bytes == sum(files.values())
    assert full.exported.lint.directory == str(full.path)


def test_manifest(full):
    text = (full.path / "assets.extra/prerank.json").read_text("utf-8")
    manifest = json.loads(text)
    assert manifest["format"] == 1
    assert manifest["documents"] == 7
    assert manifest["vectors"] == {
        "tasks": ["click", "like"],
        "size": 4,
        "similarity": "cosine",
    }
    assert manifest["k"] == 5 and manifest["task"] == "like"
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert set(manifest["versions"]) == {
        "tfrs_prerank",
        "tensorflow",
        "tensorflow_text",
    }
    assert manifest["fingerprint"] == fingerprint(full.model)
    assert list(manifest["latency_ms"]) == ["3"]
    assert manifest["latency_ms"]["3"] == full.exported.latency[3] > 0
    # The schema reads back, with the assets as vocabularies, on any machine.
    schema = Schema.from_mapping(manifest["schema"], base=full.path / "assets")
    assert schema["user"].vocabulary == str(full.path / "assets/users.txt")
    assert Path(schema["words"].vocabulary).is_file()
    names = [feature.name for feature in schema.features]
    assert names == [feature.name for feature in full.model.schema.features]
    assert str(full.path.parent.parent) not in text


def test_hashes_are_those_of_the_documents(full):
    hashes = np.load(full.path / "assets.extra/document_hashes.npy")
    columns = full.documents.arrays(full.model.schema)
    assert hashes.dtype == np.uint64 and hashes.shape == (7,)
    np.testing.assert_array_equal(hashes, document_hashes(columns, 7))
    assert len(set(hashes.tolist())) == 7


def test_a_hash_changes_with_any_column_and_with_nothing_else(full):
    schema = full.model.schema
    columns = full.documents.arrays(schema)
    hashes = document_hashes(columns, 7)
    for name, column in columns.items():
        changed = column.copy()
        place = (3,) if column.ndim == 1 else (3, column.shape[1] - 1)
        changed[place] = "new" if column.dtype == object else column[place] + 1
        got = document_hashes({**columns, name: changed}, 7)
        assert np.flatnonzero(got != hashes).tolist() == [3], name
    # In another order of the table, in another table, with columns in another order.
    order = np.array([6, 0, 3])
    part = {name: columns[name][order] for name in reversed(columns)}
    np.testing.assert_array_equal(document_hashes(part, 3), hashes[order])


def test_a_value_that_moves_to_another_column_changes_the_hash():
    one = {"a": np.array(["x", "y"], object), "b": np.array(["y", "x"], object)}
    first, second = document_hashes(one, 2)
    assert first != second
    pair = {"a": np.array([["x", "y"], ["y", "x"]], object)}
    first, second = document_hashes(pair, 2)
    assert first != second


def test_fingerprint_tells_weights_apart(small):
    model = small_model()
    before = fingerprint(model)
    assert before == fingerprint(small_model())
    assert before != fingerprint(small.model)
    weight = model.network.doc_tower.head.bias
    weight.assign_add([0.0, 0.0, 0.0, 1e-6])
    assert fingerprint(model) != before


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Exports of few documents and users, and of many."""
    exports = []
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "model" / "7").mkdir(parents=True)
    for users, documents in ((3, 10), (20_000, 10_000)):
        file = folder / "users.txt"
        file.write_text("".join(f"user{i}\n" for i in range(users)))
        model = small_model(users=str(file))
        exported = export(
            model, small_documents(documents), folder / "model", warmup_lengths=(2,)
        )
        exports.append(exported)
    return exports


def test_graph_does_not_grow_with_documents_or_vocabularies(sizes):
    few, many = (exported.lint.pb_size for exported in sizes)
    # Ten thousand ids alone are 50,000 bytes; shapes of embeddings take a few.
    assert abs(many - few) < 2_000
    assert sizes[1].bytes > sizes[0].bytes + 1_000_000


def test_every_variable_of_the_table_is_open(sizes):
    loaded = tf.saved_model.load(str(sizes[0].path))
    assert loaded.table.vectors.shape.as_list() == [None, 4]
    assert loaded.table.ids.shape.as_list() == [None]
    assert len(loaded.table.vectors.numpy()) == 10


def test_match_keys_are_open_too(full):
    keys = full.loaded.table.keys
    assert len(keys) >= 8
    for key in keys:
        assert key.shape.as_list()[0] is None and len(key.numpy()) == 7


def test_versions_count_up(sizes):
    # 7 was there.
    assert [exported.version for exported in sizes] == [8, 9]
    directory = sizes[0].path.parent
    assert versions_of(directory) == [7, 8, 9]
    assert sorted(os.listdir(directory)) == ["7", "8", "9"]


def test_versions_of_a_directory(tmp_path):
    for name in ("10", "9", "0", "-3", ".tmp-11-x", "latest", "1.5"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file")
    assert versions_of(tmp_path) == [9, 10]
    assert versions_of(tmp_path / "missing") == []


# Bad input -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained():
    return small_model()


def test_existing_version_is_refused_and_the_next_one_named(untrained, tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "8").mkdir()
    with pytest.raises(FileExistsError) as error:
        export(untrained, small_documents(3), tmp_path, version=3)
    line = one_line(error)
    assert str(tmp_path / "3") in line and line.endswith("9")
    assert sorted(os.listdir(tmp_path)) == ["3", "8"]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"k": 0}, ValueError, ["k", "0"]),
        ({"version": 0}, ValueError, ["version", "0"]),
        ({"task": "clck"}, KeyError, ["'clck'", "'click'"]),
        ({"serving_version": "2.18"}, ValueError, ["2.18", "2.20"]),
        ({"warmup_lengths": (10, -1)}, ValueError, ["warmup_lengths", "-1"]),
        ({"warmup_lengths": range(1, 400)}, ValueError, ["warmup_lengths", "399"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_are_checked_before_anything_is_written(
    untrained, tmp_path, monkeypatch, options, kind, words
):
    monkeypatch.setattr(MODULE, "_write", None)  # not reached
    target = tmp_path / "model"
    with pytest.raises(kind) as error:
        export(untrained, small_documents(3), target, **options)
    line = one_line(error)
    assert all(word in line for word in words), line
    assert not target.exists()


def test_document_columns_are_checked(untrained, tmp_path):
    documents = small_documents(3)
    columns = {"item": documents.columns["item"], "prize": np.zeros(3, np.float32)}
    with pytest.raises(KeyError) as error:
        export(untrained, DocumentTable(documents.ids, columns), tmp_path / "m")
    assert "'price'" in one_line(error) and "'prize'" in one_line(error)
    columns = {"item": ["a", "b", "c"], "price": np.zeros(3, np.float32)}
    with pytest.raises(TypeError) as error:
        export(untrained, DocumentTable(documents.ids, columns), tmp_path / "m")
    assert "item" in one_line(error) and "'a'" in one_line(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ids", "word"),
    [
        ([1, 2, 1], "1"),
        (["a", "b\tc", "d"], "b\\\\tc"),
        (["a", "b\nc", "d"], "b\\\\nc"),
        (["a", "", "d"], "''"),
        ([1, -1, 2], "-1"),
    ],
)
def test_ids_that_an_export_cannot_hold(ids, word):
    columns = small_documents(3).columns
    array = np.array(ids, object) if isinstance(ids[0], str) else np.array(ids)
    with pytest.raises(ValueError, match=word):
        DocumentTable(array, columns)


def test_ids_of_the_wrong_type(untrained, full, tmp_path):
    documents = small_documents(3)
    strings = np.array(["3", "10", "17"], object)
    with pytest.raises(TypeError) as error:
        export(untrained, DocumentTable(strings, documents.columns), tmp_path / "m")
    line = one_line(error)
    assert "'3'" in line and "doc_id='int64'" in line
    for dtype in (np.int64, object):
        integers = DocumentTable(np.arange(7).astype(dtype), full.documents.columns)
        with pytest.raises(TypeError) as error:
            export(full.model, integers, tmp_path / "m")
        line = one_line(error)
        assert "doc_id='string'" in line and line.endswith("0 of type int")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["query_tower", "doc_tower", "scorer", "fusion"])
def test_broken_weights_are_refused_wherever_they_are(tmp_path, place, value):
    model = small_model(scorer="cosine")
    network = model.network
    if place == "query_tower":  # a row that neither warm-up nor documents look up
        table = network.tables["user"].embeddings
        table.assign(tf.tensor_scatter_nd_update(table, [[33]], [[value] * 16]))
    elif place == "doc_tower":
        network.doc_tower.head.bias.assign([0.0, value, 0.0, 0.0])
    elif place == "scorer":
        network.scorer.log_scale.assign([value])
    else:
        network.fusion.weight.assign([value])
    with pytest.raises(ValueError, match="not finite") as error:
        export(model, small_documents(3), tmp_path / "model")
    assert "weight" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_document_without_a_finite_vector_is_named(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(documents_of_exports, "CHUNK", 4)
    columns = dict(small_documents(9).columns)
    model = small_model()
    # Finite, but too much for float32 after the projection.
    for variable in model.network.variables:
        if variable.name == "kernel:0":
            variable.assign(tf.fill(variable.shape, 3e38))
    columns["price"] = np.float32([0, 0, 0, 0, 0, 100, 0, 0, 0])
    documents = DocumentTable(small_documents(9).ids, columns)
    with pytest.raises(ValueError, match="not finite") as error:
        export(model, documents, tmp_path / "model")
    assert "38" in one_line(error)  # the sixth document's id, 3 + 7 * 5
    assert os.listdir(tmp_path) in ([], ["model"])
    assert not versions_of(tmp_path / "model")


@pytest.fixture
def without_tracing(monkeypatch):
    """Saves an empty file in the place of a graph, where other things are tested."""

    def save(module, path, signatures):
        Path(path, "saved_model.pb").touch()

    monkeypatch.setattr(MODULE.tf.saved_model, "save", save)
    monkeypatch.setattr(MODULE.Signatures, "all", lambda self: {})


@pytest.mark.parametrize("failure", [LintError("x", ["bad op"]), KeyboardInterrupt()])
@pytest.mark.parametrize("new", [True, False])
def test_an_interrupted_export_leaves_nothing(
    untrained, tmp_path, monkeypatch, without_tracing, failure, new
):
    reached = []

    def fail(directory, **options):
        reached.append(sorted(os.listdir(directory)))
        raise failure

    monkeypatch.setattr(MODULE, "lint_saved_model", fail)
    target = tmp_path / "model"
    if not new:
        target.mkdir()
    with pytest.raises(type(failure)):
        export(untrained, small_documents(3), target)
    assert reached == [["saved_model.pb"]]
    # An empty directory stays if it was there.
    assert os.listdir(tmp_path) == ([] if new else ["model"])
    assert new or os.listdir(target) == []


def test_two_exports_of_one_version(untrained, tmp_path, monkeypatch, without_tracing):
    monkeypatch.setattr(MODULE, "lint_saved_model", lambda *args, **options: None)

    def meanwhile(*args):
        (tmp_path / "model" / "1" / "variables").mkdir(parents=True)
        return {}

    monkeypatch.setattr(MODULE, "replay", meanwhile)
    with pytest.raises(FileExistsError, match="export again") as error:
        export(untrained, small_documents(3), tmp_path / "model")
    assert str(tmp_path / "model" / "1") in one_line(error)
    assert os.listdir(tmp_path / "model") == ["1"]
    assert os.listdir(tmp_path / "model" / "1") == ["variables"]


def test_a_vocabulary_that_is_gone(tmp_path):
    file = tmp_path / "users.txt"
    file.write_text("u1\nu2\n")
    model = small_model(users=str(file))
    file.unlink()
    with pytest.raises(FileNotFoundError) as error:
        export(model, small_documents(3), tmp_path / "model")
    line = one_line(error)
    assert "user.vocabulary" in line and str(file) in line
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_that_changed(tmp_path):
    file = tmp_path / "users.txt"
    file.write_text("u1\nu2\n")
    model = small_model(users=str(file))
    # As many lines, but each would be looked up in the other one's row.
    for text in ("u2\nu1\n", "u1\nu2\nu3\n", "u1\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="has changed") as error:
            export(model, small_documents(3), tmp_path / "model")
        line = one_line(error)
        assert "user.vocabulary" in line and str(file) in line
    assert os.listdir(tmp_path) == ["users.txt"]


def test_a_vocabulary_with_carriage_returns(tmp_path):
    """The export reads it by the same rules as the model."""
    file = tmp_path / "users.txt"
    file.write_bytes(b"u1\r\nu\r2\r\n")
    model = small_model(users=str(file))
    done = export(model, small_documents(3), tmp_path / "model", warmup_lengths=(2,))
    assert (done.path / "assets/users.txt").read_bytes() == file.read_bytes()


def test_a_vocabulary_with_the_name_of_the_ids(tmp_path):
    file = tmp_path / "doc_ids.txt"
    file.write_text("u1\nu2\n")
    with pytest.raises(ValueError, match="rename the file") as error:
        export(small_model(users=str(file)), small_documents(3), tmp_path / "model")
    assert "user.vocabulary" in one_line(error)


def test_vocabularies_of_one_file_name(tmp_path):
    """SavedModel renames assets that are called alike; nothing may mix them up."""
    files = []
    for name, lines in {"q": "5\n-7\n", "d": "-7\n5\n9\n"}.items():
        file = tmp_path / name / "values.txt"
        file.parent.mkdir()
        file.write_text(lines)
        files.append(str(file))
    schema = Schema(
        features=(
            Categorical("left", "query", vocabulary=files[0], dtype="int64"),
            Categorical("right", "doc", vocabulary=files[1], dtype="int64"),
        ),
        tasks=(Task("click"),),
    )
    tf.keras.utils.set_random_seed(0)
    tower = Tower(units=(4,), output=4, dimension=4)
    model = PreRanker(schema, tower, tower)
    documents = DocumentTable(np.array(["c", "b", "a"], object), {"right": [5, 9, -7]})
    done = export(model, documents, tmp_path / "m", warmup_lengths=(2,))
    query = {"left": np.array([5, -7, 9])}
    batch = batch_of(schema, documents, np.array([[0, 1, 2]] * 3), query)
    loaded = assert_scores_of(model, done.path, batch)
    columns = documents.arrays(schema)
    got = call(loaded.signatures["encode_docs"], columns)["doc_vector"]
    np.testing.assert_allclose(got, loaded.table.vectors.numpy(), atol=1e-6)
    # The manifest names each feature's own copy.
    manifest = json.loads((done.path / "assets.extra/prerank.json").read_text())
    saved = Schema.from_mapping(manifest["schema"], base=done.path / "assets")
    assert saved["left"].vocabulary != saved["right"].vocabulary
    for name, file in zip(("left", "right"), files, strict=True):
        assert Path(saved[name].vocabulary).read_text() == Path(file).read_text()


def test_what_was_exported_cannot_be_changed(small):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.exported.version = 2


def test_the_vocabulary_of_a_bert_that_changed(tmp_path):
    folder = tiny_bert(tmp_path / "bert", seed=1)
    words = {"tokenizer": "wordpiece", "encoder": "sentence_bert"}
    schema = Schema(
        [
            Text("query", "query", pretrained=str(folder), **words),
            Categorical("city", "doc", buckets=5),
        ],
        [Task("click")],
    )
    model = PreRanker(schema, Tower(units=()), Tower(units=()))
    path = folder / "vocab.txt"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n", "utf-8")
    documents = DocumentTable(np.array(["a"], object), {"city": ["x"]})
    with pytest.raises(ValueError, match=r"query.*has changed since the model was"):
        export(model, documents, tmp_path / "model")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"query\.pretrained: no file at"):
        export(model, documents, tmp_path / "model")
    assert not versions_of(tmp_path / "model")
