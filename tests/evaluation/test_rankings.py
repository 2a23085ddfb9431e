"""Exports, and columns with gaps, as rankings."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation.requests import rows_of
from tfrs_prerank import Categorical, Numeric, PreRanker, Schema, Task, Tower, export
from tfrs_prerank.evaluation import evaluate, report
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.metrics import ECE, GAUC, MRR, NDCG, PCOC, NormalizedEntropy

CITIES = np.array(["rome", "oslo", "bern", "rome", "kyiv"])
METRICS = [NDCG(3), MRR(), GAUC(), PCOC(), NormalizedEntropy(), ECE(5)]


@pytest.fixture(scope="module")
def model():
    schema = Schema(
        features=[
            Categorical("user", "query", buckets=5),
            Categorical("city", "doc", buckets=5),
            Numeric("co_likes", "cross"),
        ],
        tasks=[Task("click", fuse=5.0), Task("like", fuse=0.1)],
    )
    tower = Tower(units=(4,), output=3)
    model = PreRanker(schema, tower, tower, Tower(units=(4,)))
    generator = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(generator.normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    ids = np.array([f"d{row}" for row in range(5)])
    documents = DocumentTable(ids, {"city": CITIES})
    place = tmp_path_factory.mktemp("export")
    for _ in range(2):
        export(model, documents, place, warmup_lengths=[2])
    return place


@pytest.fixture
def batches():
    generator = np.random.default_rng(0)
    shape = (20, 4)
    documents = np.array([generator.permutation(5)[:4] for _ in range(20)])
    click = (generator.random(shape) < 0.4).astype(np.float32)
    requests = {
        "mask": np.arange(4) < generator.integers(2, 5, (20, 1)),
        "doc_ids": np.char.add("d", documents.astype(str)),
        "user": generator.choice(["x", "y", "z"], 20),
        "city": CITIES[documents],
        "co_likes": generator.random(shape).astype(np.float32),
        "label/click": click,
        "label/like": click * (generator.random(shape) < 0.6).astype(np.float32),
    }
    return [rows_of(requests, slice(0, 13)), rows_of(requests, slice(13, 20))]


def test_an_export_gets_what_its_model_gets(model, exported, batches):
    rows = {
        "model": model,
        "newest": exported,
        "first": exported / "1",
        "loaded": tf.saved_model.load(str(exported / "2")),
    }
    made = evaluate(rows, batches, metrics=METRICS, groups=None, samples=5)
    assert {(r.task, r.metric) for r in made.records} == {
        (task, metric.name) for task in ("click", "like") for metric in METRICS
    }
    for record in made.records:
        want = made.value(record.task, record.metric, "model")
        assert record.value == pytest.approx(want, abs=1e-5), record
    # Without a model beside it, the export knows its tasks itself.
    alone = evaluate({"export": exported}, batches, metrics=[MRR()], groups=None)
    assert {record.task for record in alone.records} == {"click", "like"}


def test_documents_that_an_export_lacks_rank_last_and_are_counted(exported, batches):
    batches[0]["doc_ids"][0, 0] = "new"
    made = evaluate({"export": exported}, batches, metrics=[MRR()], groups=None)
    (finding,) = [f for f in made.findings if f.unit == "documents"]
    assert finding.what == "have no score in 'export': they rank last"
    assert finding.count == 1
    batches[0]["label/click"][0] = [1.0, 0.0, 0.0, 0.0]
    first = {name: column[:1] for name, column in batches[0].items()}
    alone = evaluate({"export": exported}, [first], metrics=[MRR()], groups=None)
    length = first["mask"].sum()
    assert alone.value("click", "mrr", "export") == pytest.approx(1 / length)


def test_a_report_names_the_weights(model, exported, batches, tmp_path):
    rows = {"model": model, "export": exported}
    path = tmp_path / "report.html"
    report(rows, batches, path, k=2, groups=None, samples=2)
    manifest = json.loads((exported / "2" / "assets.extra/prerank.json").read_text())
    text = path.read_text("utf-8")
    assert f"model, weights {manifest['fingerprint'][:16]}" in text
    assert f"export {exported / '2'}, weights {manifest['fingerprint'][:16]}" in text


def test_sure_probabilities_keep_finite_logits():
    from tfrs_prerank.evaluation.rankings import _logit

    logits = _logit(tf.constant([0.0, 0.5, 1.0])).numpy()
    assert np.isfinite(logits).all()
    assert logits[1] == 0.0
    # 1 - 2^-25 is as near to 1 as float32 can tell: 25 log 2 = 17.3.
    assert logits[2] == pytest.approx(25 * np.log(2), abs=1e-6)


def test_a_column_with_gaps_ranks_last_what_it_does_not_know():
    batch = {
        "mask": np.ones([1, 3], bool),
        "label/click": np.array([[1.0, 0.0, 0.0]]),
        "old": np.array([[np.nan, -5.0, np.nan]]),
    }
    made = evaluate({"old": "old"}, [batch], metrics=[MRR()], groups=None)
    # The click is second or third.
    assert made.value("click", "mrr", "old") == pytest.approx((1 / 2 + 1 / 3) / 2)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            pathlib.Path("/nowhere"),
            FileNotFoundError,
            "/nowhere holds no export",
        ),
        ("/tmp", KeyError, r"\['a'\]: .* an export is given as pathlib.Path\('/tmp'\)"),
        (
            lambda batch: {"click": batch["co_likes"]},
            KeyError,
            "gives no scores",
        ),
    ],
)
def test_bad_sources_are_named(source, error, message, batches):
    with pytest.raises(error, match=message) as caught:
        evaluate({"a": source}, batches, metrics=[MRR()], groups=None)
    assert "\n" not in str(caught.value)


def test_an_input_of_the_export_that_is_missing_is_named(exported, batches):
    for batch in batches:
        del batch["co_likes"]
    with pytest.raises(KeyError, match=r"the export reads 'co_likes', which the batch"):
        evaluate({"export": exported}, batches, metrics=[MRR()], groups=None)
