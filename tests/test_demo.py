"""The demo: the whole way, the numbers that it claims on real data, the export."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.small_movielens import write_config, write_folder
from tfrs_prerank.config import Config

# Scores a batch through the TF1 session loader, where tfrs_prerank cannot be imported.
_TF1_PROGRAM = """
import sys
sys.modules["tfrs_prerank"] = None
import numpy as np
import tensorflow as tf
import tensorflow_text  # the ops that TensorFlow Serving has
path, inputs, outputs = sys.argv[1:]
batch = dict(np.load(inputs, allow_pickle=True))
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], path)
    signature = loaded.signature_def["serving_default"]
    feed = {info.name: batch[key] for key, info in signature.inputs.items()}
    fetch = {key: info.name for key, info in signature.outputs.items()}
    np.savez(outputs, **session.run(fetch, feed))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The demo on made-up ratings, in seconds."""
    folder = tmp_path_factory.mktemp("demo")
    export = {"k": 10, "warmup_lengths": [4]}
    path = write_config(folder / "c.yaml", write_folder(folder / "ml"), export=export)
    return _demo(Config.from_yaml(path), folder)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The demo as `make demo` runs it."""
    if importlib.util.find_spec("recbole") is None and not os.environ.get(
        "TFRS_PRERANK_MOVIELENS"
    ):
        pytest.skip("no MovieLens-100K: install recbole==1.2.1 with --no-deps")
    return _demo(Config.example("movielens"), tmp_path_factory.mktemp("demo"))


def _demo(config, folder):
    from tfrs_prerank import pipeline

    return pipeline.demo(config, folder / "runs", folder / "saved_models" / "movielens")


@pytest.fixture(params=["small", pytest.param("real", marks=pytest.mark.slow)])
def made(request):
    return request.getfixturevalue(request.param)


@pytest.mark.slow  # a minute of training
def test_the_model_beats_its_baselines(real):
    evaluation = real.evaluation
    popularity = evaluation.difference("like", "ndcg@10", "popularity")
    assert popularity.value >= 0.04
    assert popularity.low > 0
    co_likes = evaluation.difference("like", "ndcg@10", "item-item co-likes")
    assert co_likes.value > 0
    assert co_likes.low > 0
    # The lists and the baselines are those of the documented table.
    assert evaluation.value("like", "ndcg@10", "popularity") == pytest.approx(
        0.484, abs=0.001
    )


def test_both_protocols_rank_the_same(made):
    assert [item.doc_id for item in made.rest] == [item.doc_id for item in made.grpc]
    assert 1 < len(made.rest) <= 10
    scores = [item.score for item in made.rest]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, [i.score for i in made.grpc], rtol=1e-6)


def test_the_export_scores_as_the_model_does(made, tmp_path):
    from tfrs_prerank import PreRanker, pipeline

    model = PreRanker.load(made.run)
    batch = next(iter(pipeline.open_requests(made.data, "test", 8)))
    # The export takes counters from the table of now, the model from the records,
    # which hold the same: test requests see the counts at the end of training.
    expected = model({n: v for n, v in batch.items() if n in _known(model)})
    inputs = {name: value.numpy() for name, value in batch.items() if "/" not in name}
    np.savez(tmp_path / "in.npz", **inputs)
    arguments = (made.exported.path, tmp_path / "in.npz", tmp_path / "out.npz")
    subprocess.run(
        [sys.executable, "-c", _TF1_PROGRAM, *map(str, arguments)],
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    served = np.load(tmp_path / "out.npz")
    mask = batch["mask"].numpy()
    assert served["found"][mask].all()
    for name in ("scores", "click", "like"):
        wanted = expected[name].numpy()
        if name != "scores":
            wanted = 1 / (1 + np.exp(-wanted))
        np.testing.assert_allclose(served[name][mask], wanted[mask], atol=1e-5)


def _known(model):
    return {*model.schema.columns(), "doc_ids", "mask"}
