"""BM25 in an export: its corpus from a run directory, its tokens as an asset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.export_models import batch_of, call, model_outputs
from tfrs_prerank import Categorical, Match, PreRanker, Schema, Task, Text, Tower
from tfrs_prerank.features import DocumentTable, adapt
from tfrs_prerank.features.match import Matches
from tfrs_prerank.serving.exporter import export

BIGRAMS = {"tokenizer": "characters", "ngrams": (2, 2), "encoder": None}
TITLES = ["红色连衣裙", "连衣裙 夏 连衣裙", "电影", ""]
DOCUMENTS = DocumentTable(
    np.array(["a", "b", "c", "d"], object),
    {"title": TITLES, "city": ["x", "y", "x", "y"]},
)
QUERIES = np.array(["连衣裙", "夏 连衣", "新电影院", "", "?!"], object)


def schema_of(**files: str) -> Schema:
    return Schema(
        (
            Categorical("user", "query", buckets=5),
            Categorical("city", "doc", buckets=5),
            Text("query", "query", max_tokens=8, **BIGRAMS),
            Text("title", "doc", max_tokens=8, **BIGRAMS),
            Match("fit", "query", "title", "bm25", **files),
        ),
        (Task("click"),),
    )


def model_of(schema: Schema) -> PreRanker:
    tf.keras.utils.set_random_seed(0)
    tower = Tower(units=(4,), output=4, dimension=4)
    return PreRanker(schema, tower, tower, tower)


def requests_of(schema: Schema) -> dict[str, np.ndarray]:
    query = {"user": np.array(list("uvwxy"), object), "query": QUERIES}
    return batch_of(schema, DOCUMENTS, np.tile(np.arange(4), (5, 1)), query)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A model of a run directory that was moved, its export, and nothing else."""
    folder = tmp_path_factory.mktemp("bm25")
    schema = adapt(schema_of(), [], DOCUMENTS, folder / "prepared")
    model_of(schema).save(folder / "run")
    shutil.rmtree(folder / "prepared")
    (folder / "run").rename(folder / "moved")
    model = PreRanker.load(folder / "moved")
    exported = export(model, DOCUMENTS, folder / "model", warmup_lengths=(2,))
    return model, exported


def test_training_and_export_agree(served):
    model, exported = served
    batch = requests_of(model.schema)
    got = call(
        tf.saved_model.load(str(exported.path)).signatures["serving_default"], batch
    )
    expected = model_outputs(model, batch)["scores"]
    np.testing.assert_allclose(got["scores"], expected, rtol=1e-4, atol=1e-6)
    # Documents of one city differ by their titles alone, and only where one fits.
    assert expected[0, 0] != expected[0, 2]
    assert expected[3, 0] == expected[3, 2]


def test_the_corpus_is_an_asset(served):
    _, exported = served
    lines = (exported.path / "assets/fit.txt").read_text("utf-8").splitlines()
    # Two of three titles hold the first two; a run of one character is itself.
    assert lines[:2] == ["衣裙\t2", "连衣\t2"]
    assert sorted(lines[2:]) == sorted(["夏\t1", "红色\t1", "色连\t1", "电影\t1"])
    manifest = json.loads((exported.path / "assets.extra/prerank.json").read_text())
    (match,) = (f for f in manifest["schema"]["features"] if f["name"] == "fit")
    assert match["vocabulary"] == "fit.txt"
    assert match["statistics"] == "statistics.json"


def test_the_table_holds_what_the_model_computes(served):
    model, exported = served
    table = tf.saved_model.load(str(exported.path)).table
    columns = {k: tf.constant(v) for k, v in DOCUMENTS.arrays(model.schema).items()}
    expected = Matches(model.schema).keys_of(columns, "doc")
    assert sorted(expected) == ["fit/weights", "title"]
    for key, name in zip(table.keys, sorted(expected), strict=True):
        assert key.shape.as_list() == [None, 8]
        np.testing.assert_array_equal(key.numpy(), expected[name])


@pytest.mark.slow  # takes long
def test_the_graph_does_not_grow_with_the_corpus(tmp_path):
    sizes = []
    for count in (10, 100_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        tokens, statistics = folder / "tokens.txt", folder / "statistics.json"
        tokens.write_text("".join(f"token{i}\t1\n" for i in range(count)))
        corpus = {"documents": 1_000_000, "mean_length": 9.0}
        statistics.write_text(json.dumps({"fit": corpus}))
        model = model_of(schema_of(vocabulary=str(tokens), statistics=str(statistics)))
        exported = export(model, DOCUMENTS, folder / "model", warmup_lengths=(2,))
        assert (exported.path / "assets/tokens.txt").stat().st_size > 8 * count
        sizes.append(exported.lint.pb_size)
    assert abs(sizes[1] - sizes[0]) < 1_000


def test_gradients_are_finite_where_texts_are_empty(served):
    model, _ = served
    batch = {k: tf.constant(v) for k, v in requests_of(model.schema).items()}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(batch, training=True)["scores"] - 1.0))
    weights = model.network.cross_tower.trainable_variables
    gradients = tape.gradient(loss, weights)
    assert any(np.any(gradient != 0) for gradient in gradients)
    for gradient in gradients:
        assert np.isfinite(gradient).all()


def test_a_corpus_that_changed(tmp_path):
    schema = adapt(schema_of(), [], DOCUMENTS, tmp_path / "prepared")
    model = model_of(schema)
    file = Path(schema["fit"].vocabulary)
    file.write_text("连衣\t1\n", "utf-8")
    with pytest.raises(ValueError, match=r"fit\.vocabulary: .* has changed since"):
        export(model, DOCUMENTS, tmp_path / "model")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"fit\.vocabulary: no file at"):
        export(model, DOCUMENTS, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_directory_without_its_corpus(tmp_path):
    schema = adapt(schema_of(), [], DOCUMENTS, tmp_path / "prepared")
    model_of(schema).save(tmp_path / "run")
    (tmp_path / "run" / "vocabularies" / "fit.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no vocabularies/fit\.txt"):
        PreRanker.load(tmp_path / "run")
