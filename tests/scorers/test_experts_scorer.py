"""Experts on top of the towers: what they read, their logits, their gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.models.small import padded, random_requests, small_model, small_schema
from tfrs_prerank import PreRanker, Tower
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.scorers import Scorer, make_scorer
from tfrs_prerank.scorers.experts_scorer import ExpertsScorer
from tfrs_prerank.towers import Experts
from tfrs_prerank.towers.encoded import Encoded

TASKS = ("click", "buy")
MMOE = Experts("mmoe", count=2, units=(1,))
PLE = Experts("ple", shared=2, own=1, levels=2, units=(4,))


def encoded(*vectors: list[float]) -> Encoded:
    """What a tower gives whose tasks share a vector."""
    outputs = tf.constant([vectors])
    return Encoded(tf.transpose(outputs, [1, 0, 2]), tf.zeros([len(vectors), 1]), ())


def scorer_of(experts: Experts, context: int | None = None, size: int = 2) -> Any:
    layer = make_scorer(Scorer("experts", experts=experts), TASKS)
    side = encoded([0.0] * size)
    layer.ensure_built(side, side, context)
    return layer


def by_hand() -> ExpertsScorer:
    """Experts relu(x_1 + c) and relu(x_2), with x = q * d."""
    layer = scorer_of(MMOE, context=1)
    kernels = [[1, 0], [0, 1], [1, 0]]
    # Logits of click: x_1 log 3 and 0; of buy: 0 and 0.
    gates = [[np.log(3), 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    layer.experts.set_weights([np.array(w) for w in (kernels, [[0], [0]], gates)])
    layer.kernel.assign([[2], [-1]])
    layer.bias.assign([0.5, 0])
    return layer


# One request with the documents (1, 2) and (0, 1), and c = 3 and -5.
QUERY = encoded([1.0, 2.0])
DOCS = encoded([1.0, 2.0], [0.0, 1.0])
CONTEXT = tf.constant([[[3.0], [-5.0]]])


def test_mmoe_by_hand() -> None:
    layer = by_hand()
    queries, docs = layer.query_side(QUERY), layer.doc_side(DOCS)
    np.testing.assert_array_equal(queries, [[1, 2]])
    np.testing.assert_array_equal(docs, [[1, 2], [0, 1]])
    # x = (1, 4): the experts give 4 and 4. x = (0, 2): relu(-5) and 2.
    # Gates of click: (3/4, 1/4) and (1/2, 1/2); of buy: halves.
    expected = [[[2 * 4 + 0.5, -4], [2 * 1 + 0.5, -1]]]
    lists = layer.compare(queries, docs[tf.newaxis], CONTEXT)
    np.testing.assert_allclose(lists, expected, rtol=1e-6)
    gates = layer.gates(queries, docs[tf.newaxis], CONTEXT)
    np.testing.assert_allclose(gates["click"], [[[0.75, 0.25], [0.5, 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(gates["buy"], np.full([1, 2, 2], 0.5), rtol=1e-6)


def test_ple_by_hand() -> None:
    layer = scorer_of(Experts("ple", levels=1, units=(1,)))
    for branch, kernel in zip(
        layer.experts.branches[0], ([1, 0], [0, 3], [10, 0]), strict=True
    ):
        branch["experts"][0]["kernel"].assign(np.reshape(kernel, [2, 1]))
    for branch in layer.experts.branches[0][:2]:
        branch["gate"].assign(np.zeros([2, 2]))
    layer.kernel.assign([[2], [2]])
    layer.bias.assign([1, 0])
    # x = (1, 4). click: (1 + 10) / 2 * 2 + 1; buy: (12 + 10) / 2 * 2.
    logits = layer.compare(tf.constant([[1.0, 2.0]]), tf.constant([[1.0, 2.0]]), None)
    np.testing.assert_allclose(logits, [[12, 22]], rtol=1e-6)


@pytest.mark.parametrize("experts", [MMOE, PLE])
def test_scores_are_float32_under_every_policy(experts: Experts) -> None:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = scorer_of(experts)
        # 1,000 squared is infinite in float16.
        vectors = tf.fill([1, 2], 1000.0)
        logits = layer.compare(vectors, vectors, None)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()
    assert {v.dtype for v in layer.variables} == {tf.float32}


# The model ------------------------------------------------------------------------


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in arrays.items()}


def model_of(experts: Experts, **options: Any) -> PreRanker:
    scorer = Scorer("experts", experts=experts, **options)
    return small_model(small_schema(TASKS), scorer=scorer)


def test_tasks_share_one_vector() -> None:
    network = model_of(MMOE).network
    batch = tensors(random_requests(3, 4, TASKS))
    forward = network(batch)
    documents = int(np.sum(batch["mask"]))
    assert forward.query_vectors.shape == [3, 4]
    assert forward.doc_vectors.shape == [documents, 4]
    assert forward.logits.shape == [3, 4, 2]
    # q * d and the cross tower's vector, whose size is its own.
    size = 4 + network.cross_tower.tower.output
    assert network.scorer.experts.kernels[0]["kernel"].shape == [size, 2]


@pytest.mark.parametrize("cross", ["concat", "add"])
@pytest.mark.parametrize("experts", [MMOE, PLE])
def test_gates_of_real_documents(experts: Experts, cross: Any) -> None:
    model = model_of(experts, cross=cross)
    requests = random_requests(3, 4, TASKS)
    longer = tensors(padded(requests, 2, garbage=True))
    gates = model.network.expert_gates(longer, "scorer")
    documents = int(requests["mask"].sum())
    for gate in tf.nest.flatten(gates):
        if gate is not None:
            assert gate.shape[0] == documents
            np.testing.assert_allclose(np.sum(gate, axis=-1), 1, rtol=1e-5)
    # The gates are those that made the logits.
    scorer = model.network.scorer
    seen = []
    read = scorer.compare
    scorer.compare = lambda *sides: seen.append(sides) or read(*sides)
    model.network(tensors(requests))
    again = scorer.gates(*seen[0])
    for one, other in zip(tf.nest.flatten(gates), tf.nest.flatten(again), strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-5)
    means = model.expert_gates([longer])
    assert list(means) == ["scorer"]
    for mean, gate in zip(
        tf.nest.flatten(means["scorer"]), tf.nest.flatten(gates), strict=True
    ):
        if gate is not None:
            np.testing.assert_allclose(mean, np.mean(gate, axis=0), rtol=1e-5)


def test_gates_of_towers_come_beside_those_on_top() -> None:
    tower = Tower(units=(4,), dimension=4, output=4)
    with_experts = Tower(units=(), dimension=4, output=4, experts=PLE)
    cross = Tower(units=(4,), dimension=4)
    scorer = Scorer("experts", experts=MMOE)
    model = PreRanker(small_schema(TASKS), tower, with_experts, cross, scorer=scorer)
    gates = model.expert_gates([tensors(random_requests(3, 4, TASKS))])
    assert list(gates) == ["doc", "scorer"]
    # A tower whose tasks share a vector has one branch, whatever the tasks.
    assert len(gates["doc"][0].tasks) == 1
    assert set(gates["scorer"]) == set(TASKS)


def test_without_experts_there_are_no_gates() -> None:
    model = small_model()
    batch = tensors(random_requests(2, 3))
    assert model.network.expert_gates(batch, "scorer") is None
    with pytest.raises(ConfigurationError) as error:
        model.expert_gates([batch])
    assert str(error.value) == (
        "expert_gates: no tower has experts, nor has the scorer; declare "
        "Tower(experts='mmoe') or Scorer('experts')"
    )


@pytest.mark.parametrize("experts", [MMOE, PLE])
def test_training_moves_every_weight_and_a_saved_model_comes_back(
    experts: Experts, tmp_path: Path
) -> None:
    model = model_of(experts)
    requests = tensors(random_requests(32, 6, TASKS, seed=2))
    before = model.network.scorer.get_weights()
    model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
    batches = tf.data.Dataset.from_tensors(requests).repeat(8)
    losses = model.fit(batches, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    for old, new in zip(before, model.network.scorer.get_weights(), strict=True):
        assert np.any(old != new)
    model.save(tmp_path / "run")
    again = PreRanker.load(tmp_path / "run")
    assert again.declarations.scorer == Scorer("experts", experts=experts)
    for name, values in model(requests).items():
        np.testing.assert_allclose(again(requests)[name], values, atol=1e-6)


def test_losses_that_compare_vectors_are_refused() -> None:
    with pytest.raises(ConfigurationError) as error:
        small_model(scorer="experts", objective="in_batch_softmax")
    assert str(error.value) == (
        "in_batch_softmax compares vectors, of the scorers 'dot' and 'cosine' only. "
        "Received: scorer='experts'"
    )


def test_experts_on_top_are_drawn() -> None:
    drawn = model_of(PLE).draw().split("\n")
    assert drawn[1].endswith("── linear ── 4")
    assert drawn[-1] == (
        "score  ple(shared=2, own=1, levels=2, units=(4,))(query × doc, cross) ── "
        "linear + bias ── click, buy"
    )


# The declaration ------------------------------------------------------------------


def test_a_kind_alone_is_its_declaration() -> None:
    assert Scorer("experts") == Scorer("experts", experts=Experts("mmoe"))
    assert Scorer("experts").cross == "concat"
    assert Scorer("experts", experts="ple").experts == Experts("ple")


def test_a_scorer_with_experts_survives_yaml() -> None:
    scorer = Scorer("experts", experts=PLE)
    written = to_mapping(scorer)
    assert written["experts"] == {"kind": "ple", "shared": 2, "units": [4]}
    assert from_mapping(Scorer, written, "scorer") == scorer
