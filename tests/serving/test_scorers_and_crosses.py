"""An export scores as its model does, whatever the scorer, gate and interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.export_models import (
    batch_of,
    call,
    model_outputs,
    randomize,
    sigmoid,
)
from tfrs_prerank import (
    Categorical,
    Match,
    Numeric,
    PreRanker,
    Schema,
    Task,
    Text,
    Tower,
    export,
)
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.towers import Experts, Gate, Interaction

SCORERS = {
    "dot": Scorer("dot"),
    "mlp": Scorer("mlp", units=5, blocks=2),
    "mlp_add": Scorer("mlp", units=5, blocks=0, cross="add"),
    "max_sim": Scorer("max_sim", heads=2, head_size=3),
    "experts": Scorer("experts", experts=Experts("ple", shared=2, units=(5, 3))),
    "experts_add": Scorer(
        "experts", cross="add", experts=Experts("mmoe", count=3, units=(4,))
    ),
}

# Each of the gates and interactions.
TOWERS = {
    "senet": {"gate": Gate("senet", squeeze="max", activations=("relu", "relu"))},
    "senet_plus": {"gate": "senet_plus"},
    "light_se": {"gate": "light_se"},
    "attention": {"gate": Gate("attention", heads=2)},
    "dcn_v1": {"interaction": "dcn_v1"},
    "mixture": {"interaction": Interaction("dcn_v2", rank=2, experts=3)},
    "cin": {"interaction": Interaction("cin", units=(4, 3), split_half=True)},
    "bilinear": {"interaction": Interaction("bilinear", pairs="interaction")},
    "inner": {
        "interaction": Interaction("bilinear", product="inner", kernel="identity")
    },
    "sparse": {"interaction": Interaction("bilinear", kernel="sparse", density=0.5)},
    "fibinet": {"interaction": "fibinet", "combine": "stacked"},
    "fibinet_plus": {
        "gate": "senet_plus",
        "interaction": Interaction("fibinet_plus", compressed=6, kernel=2),
    },
}

# An export takes seconds: each scorer's holds three of them, in the query, the document
# and the cross tower.
COMBINED = {
    "dot": ("senet", "bilinear", "mixture"),
    "mlp": ("fibinet_plus", "attention", "dcn_v1"),
    "mlp_add": ("cin", "senet_plus", "sparse"),
    "max_sim": ("inner", "fibinet", "light_se"),
    "experts": (),
    "experts_add": (),
}


SCHEMA = Schema(
    [
        Categorical("user_id", "query", buckets=5, dimension=4),
        Categorical("device", "query", buckets=3, dimension=4),
        Numeric("age", "query", dimension=4),
        Text("text", "query", buckets=9, dimension=4),
        Categorical("city", "doc", buckets=5, dimension=4),
        Numeric("price", "doc", dimension=4),
        Numeric("stars", "doc", dimension=4),
        Numeric("clicks", "cross", dimension=4),
        Numeric("views", "cross", dimension=4),
        Match("same_city", "text", "city", op="overlap", dimension=4),
    ],
    [Task("click"), Task("like")],
)
_RNG = np.random.default_rng(0)
DOCUMENTS = DocumentTable(
    np.array([f"doc{place}" for place in range(7)], object),
    {
        "city": np.array(["Rome", "Oslo", "Bern", "Rome", "", "Bonn", "Lima"], object),
        "price": _RNG.normal(size=7).astype("f"),
        "stars": _RNG.normal(size=7).astype("f"),
    },
)


def _request(rows: list[list[int]]) -> dict[str, np.ndarray]:
    query = {
        "user_id": np.array(["u", "v", "w"], object),
        "device": np.array(["phone", "", "desk"], object),
        "age": np.array([0.2, -0.4, 1.0], "f"),
        "text": np.array(["Rome hotel", "Bern", ""], object),
    }
    rng = np.random.default_rng(1)
    shape = (len(rows), len(rows[0]))
    cross = {name: rng.normal(size=shape).astype("f") for name in ("clicks", "views")}
    return batch_of(SCHEMA, DOCUMENTS, np.array(rows), query, cross)


def _model(scorer: Scorer | str = "cosine", *towers: str) -> PreRanker:
    """`towers` are names in `TOWERS`: of the query, the document, the cross tower."""
    tf.keras.utils.set_random_seed(3)
    query, doc, cross = (*(TOWERS[name] for name in towers), {}, {}, {})[:3]
    model = PreRanker(
        SCHEMA,
        Tower(units=(8, 6), dimension=4, output=4, **query),
        Tower(units=(8,), normalization="batch", dimension=4, output=4, **doc),
        Tower(units=(8,), dimension=4, output=4, **cross),
        scorer=scorer,
    )
    randomize(model)
    return model


def _check_export(model: PreRanker, folder: Path) -> Any:
    exported = export(model, DOCUMENTS, folder / "model", k=5, warmup_lengths=(3,))
    loaded = tf.saved_model.load(str(exported.path))
    request = _request([[0, 1, 2, 3, 4, 5, 6]] * 3)
    expected = model_outputs(model, request)
    got = call(loaded.signatures["serving_default"], request)
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=2e-5)
    np.testing.assert_allclose(got["click"], sigmoid(expected["click"]), atol=2e-5)
    assert np.ptp(expected["scores"]) > 1e-3
    return loaded, request


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_exports(name: str, tmp_path: Path) -> None:
    model = _model(SCORERS[name], *COMBINED[name])
    loaded, request = _check_export(model, tmp_path)
    kind = SCORERS[name].kind
    assert ("retrieve" in loaded.signatures) == (kind == "dot")
    assert ("score_vectors" in loaded.signatures) == (kind in ("dot", "max_sim"))
    # Both encoders give what the table stores and what is compared with it.
    docs = {n: c[:4] for n, c in DOCUMENTS.arrays(SCHEMA).items()}
    stored = call(loaded.signatures["encode_docs"], docs)["doc_vector"]
    np.testing.assert_allclose(loaded.table.vectors.numpy()[:4], stored, atol=1e-5)
    if kind in ("dot", "max_sim"):
        vector = call(loaded.signatures["encode_query"], request)["query_vector"]
        inputs = {"query_vector": vector, "doc_ids": request["doc_ids"]}
        alone = call(loaded.signatures["score_vectors"], inputs)
        queries = {n: tf.constant(request[n]) for n in model.schema.columns("query")}
        table = tf.tile(loaded.table.vectors[tf.newaxis], [3, 1, 1])
        logits = model.network.compare(model.network.encode_query(queries), table)
        np.testing.assert_allclose(alone["click"], logits[:, :, 0], atol=2e-5)


def test_every_gate_and_interaction_is_in_some_export() -> None:
    combined = [name for names in COMBINED.values() for name in names]
    assert sorted(combined) == sorted(TOWERS)


@pytest.mark.slow  # one at a time what the scorers' exports hold together
@pytest.mark.parametrize("name", TOWERS)
def test_every_gate_and_interaction_exports(name: str, tmp_path: Path) -> None:
    _check_export(_model("cosine", name), tmp_path)


def test_neighbours_do_not_change_a_score() -> None:
    for scorer in SCORERS.values():
        model = _model(scorer)
        whole = _request([[0, 1, 2, 3, 4, 5, 6]] * 3)
        part = {
            n: c[:, 2:5] if c.ndim > 1 and c.shape[1] == 7 else c
            for n, c in whole.items()
        }
        np.testing.assert_allclose(
            model_outputs(model, part)["scores"],
            model_outputs(model, whole)["scores"][:, 2:5],
            atol=1e-5,
        )
