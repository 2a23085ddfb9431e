"""Raw Chinese and English strings through exports: in process, over REST, moved."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import requests
import tensorflow as tf

from tests.serving.export_models import batch_of, call, model_outputs
from tfrs_prerank import (
    Categorical,
    Match,
    PreRanker,
    Schema,
    Sequence,
    Task,
    Text,
    Tower,
)
from tfrs_prerank.features import DocumentTable, adapt
from tfrs_prerank.serving.exporter import export
from tfrs_prerank.serving.lint import lint_saved_model
from tfrs_prerank.serving.server import LocalServer

BIGRAMS = {"tokenizer": "characters", "ngrams": (2, 2)}
TITLES = ["红色连衣裙 夏季新款", "Red dress, sommer", "苹果手机壳", "Ｃａｆｅ́ 杯"]
DOCUMENTS = DocumentTable(
    np.array(["a", "b", "c", "d"], object), {"title": TITLES, "city": list("xyxy")}
)
QUERIES = ["连衣裙", "RED dress", "", b"\xff\xfe", "苹果" * 50_000]
PAST = [["红色", "手机"], ["dress", ""], ["", ""], [b"\xe8", "!"], ["苹果", "杯"]]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "dress", "##s", "连", "衣", "裙"]


def schema_of(tokens: dict) -> Schema:
    shared = {k: v for k, v in tokens.items() if k != "vocabulary"}
    return Schema(
        (
            Text("query", "query", encoder="cnn", max_tokens=8, **tokens),
            Sequence("past", shares="query", max_length=2),
            Categorical("city", "doc", buckets=5),
            Text("title", "doc", shares="query", encoder="cnn", max_tokens=8, **shared),
            Match("fit", "query", "title", "bm25"),
            Match("words", "query", "title", "overlap"),
            Match("again", "past", "query", "overlap", owner="query"),
        ),
        (Task("click"),),
    )


@pytest.fixture(
    scope="module",
    params=[
        "characters",
        pytest.param("words", marks=pytest.mark.slow),
        pytest.param("wordpiece", marks=pytest.mark.slow),
        pytest.param("whitespace", marks=pytest.mark.slow),
        pytest.param("fast_wordpiece", marks=pytest.mark.slow),
    ],
)
def served(request, tmp_path_factory):
    """A model and its export, moved after all that it was made of is deleted."""
    folder = tmp_path_factory.mktemp("texts")
    tokens: dict = {"tokenizer": request.param}
    if request.param == "characters":
        tokens["ngrams"] = (2, 2)
    if "wordpiece" in request.param:
        path = folder / "pieces.txt"
        path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
        tokens["vocabulary"] = str(path)
    rows = [{"query": q, "past": p} for q, p in zip(QUERIES, PAST, strict=True)]
    schema = adapt(schema_of(tokens), rows, DOCUMENTS, folder / "prepared")
    tf.keras.utils.set_random_seed(0)
    tower = Tower(units=(8,), output=4, dimension=8)
    model = PreRanker(schema, tower, tower, tower)
    exported = export(
        model, DOCUMENTS, folder / "models" / "texts", warmup_lengths=(4,)
    )
    batch = batch_of(
        schema,
        DOCUMENTS,
        np.tile(np.arange(4), (5, 1)),
        {"query": np.array(QUERIES, object), "past": np.array(PAST, object)},
    )
    expected = model_outputs(model, batch)["scores"]
    shutil.rmtree(folder / "prepared", ignore_errors=True)
    (folder / "pieces.txt").unlink(missing_ok=True)
    shutil.move(folder / "models", folder / "elsewhere")
    path = folder / "elsewhere" / "texts" / str(exported.version)
    return path, batch, expected, request.param


def test_exports_equal_the_model(served):
    path, batch, expected, _ = served
    outputs = call(tf.saved_model.load(str(path)).signatures["serving_default"], batch)
    np.testing.assert_allclose(outputs["scores"], expected, rtol=1e-4, atol=1e-5)
    # Texts count: only requests without any token score all documents alike.
    assert len(np.unique(expected[:2])) == 8


@pytest.mark.parametrize("version", ["2.20", "2.19"])
def test_both_servers_have_every_op(served, version):
    path, _, _, tokenizer = served
    fast = ("FastWordpieceTokenizeWithOffsets",) if "fast" in tokenizer else ()
    report = lint_saved_model(path, serving_version=version, allow_large=fast)
    assert "rank" in report.signatures


def test_raw_strings_over_rest(served):
    path, _, expected, _ = served
    with LocalServer(path.parent, rest_port=0, grpc_port=0) as server:
        # JSON holds text only, not bytes that are none.
        rows = [0, 1, 2]
        body = {
            "inputs": {
                "query": [QUERIES[row] for row in rows],
                "past": [PAST[row] for row in rows],
                "doc_ids": [list("abcd")] * 3,
            }
        }
        url = f"{server.rest_url}/v1/models/texts:predict"
        answer = requests.post(url, json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        got = np.array(answer.json()["outputs"]["scores"])
        np.testing.assert_allclose(got, expected[rows], rtol=1e-4, atol=1e-5)
        wrong = {**body["inputs"], "query": [1, 2, 3]}
        answer = requests.post(url, json={"inputs": wrong}, timeout=60)
        assert answer.status_code == 400
        assert "is not of expected type: string" in answer.json()["error"]
