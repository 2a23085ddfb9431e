"""The export that the repository keeps is small, whole, and ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  its ops are in the export

from tfrs_prerank import metrics
from tfrs_prerank.datasets import funnel
from tfrs_prerank.serving import lint_saved_model

MODEL = Path(__file__).resolve().parent.parent / "saved_models" / "funnel"


@pytest.fixture(scope="module")
def made():
    return funnel.simulate(funnel.small())


@pytest.fixture(scope="module")
def loaded():
    return tf.saved_model.load(str(MODEL / "1"))


def test_is_one_small_version():
    assert [version.name for version in MODEL.iterdir()] == ["1"]
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    lint_saved_model(MODEL / "1")


def test_holds_the_documents_of_the_simulation(made):
    described = json.loads((MODEL / "1/assets.extra/prerank.json").read_text())
    assert described["documents"] == made.settings.documents
    ids = (MODEL / "1/assets/doc_ids.txt").read_text().split()
    assert ids == list(made.documents.ids)


def test_ranks_by_what_users_want(made, loaded):
    # Its training requests are the first 80%, and these come last.
    requests = made.requests
    last = np.arange(len(requests.time) - 100, len(requests.time))
    interests = made.users["interests"][requests.user[last]]
    answer = loaded.signatures["serving_default"](
        query=tf.constant(made.queries["query"][requests.query[last]]),
        interests=tf.constant(interests),
        doc_ids=tf.constant(made.documents.ids[requests.candidates[last]]),
    )
    assert answer["found"].numpy().all()
    metric = metrics.RankerHitRate(40, 10)
    metric.update_state(made.truth.utility[last], answer["scores"])
    # A random order has 40 / 120.
    assert float(metric.result()) > 0.6
