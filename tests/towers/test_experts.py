"""Experts in towers: a vector of its own for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.models.small import padded, random_requests, small_schema
from tests.serving import export_models as exports
from tests.towers.test_tower import COLUMNS, dense, output, tower_model
from tfrs_prerank import PreRanker, Tower, export
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.towers import Experts

TASKS = ("click", "buy")
MMOE = Experts("mmoe", count=3, units=(5, 4))
PLE = Experts("ple", shared=2, own=1, levels=2, units=(4,))

# The tower ------------------------------------------------------------------------


def test_mmoe_by_hand() -> None:
    experts = Experts("mmoe", count=2, units=(1,))
    model = tower_model(tasks=2, size=2, units=(), experts=experts)
    # The fields are (1, 1, 2, -2): the experts give relu(1 + 2) and relu(2 * -2 + 9).
    kernels = [[1, 0], [0, 0], [1, 0], [0, 2]]
    # Logits of click: log 3 and 0, where the second field is 1; of buy: 0 and 0.
    gates = [[0, 0, 0, 0], [np.log(3), 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    model.experts.set_weights([np.array(w) for w in (kernels, [[0], [9]], gates)])
    click, buy = model.head.heads
    dense(click, [[1, -1]], [0, 0])
    dense(buy, [[10, 0]], [0, 7])
    # click: 3/4 * 3 + 1/4 * 5 = 3.5; buy: (3 + 5) / 2 = 4. The last layer is linear.
    np.testing.assert_allclose(output(model), [[[3.5, -3.5], [40.0, 7.0]]], rtol=1e-6)
    shares = model.expert_gates(COLUMNS)
    np.testing.assert_allclose(shares["click"], [[0.75, 0.25]], rtol=1e-6)


def test_ple_by_hand() -> None:
    experts = Experts("ple", levels=1, units=(1,))
    model = tower_model(tasks=2, units=(), experts=experts)
    click, buy, shared = model.experts.branches[0]
    for branch, kernel in ((click, [1, 0, 0, 0]), (buy, [0, 0, 3, 0])):
        branch["experts"][0]["kernel"].assign(np.reshape(kernel, [4, 1]))
        branch["gate"].assign(np.zeros([4, 2]))
    shared["experts"][0]["kernel"].assign([[10], [0], [0], [0]])
    for head in model.head.heads:
        dense(head, [[2]], [1])
    # click: (1 + 10) / 2 * 2 + 1; buy: (6 + 10) / 2 * 2 + 1.
    assert output(model) == [[[12.0], [17.0]]]


def test_experts_read_what_the_mlp_and_the_interaction_give() -> None:
    model = tower_model(tasks=2, units=(3,), interaction="dcn_v2", experts=MMOE)
    kernel = model.experts.kernels[0]["kernel"]
    assert kernel.shape == [3 + 4, 3 * 5]
    alone = tower_model(tasks=2, units=(), experts=MMOE)
    assert alone.experts.kernels[0]["kernel"].shape == [4, 3 * 5]


def test_the_activation_is_the_towers() -> None:
    model = tower_model(units=(), activation="tanh", experts=MMOE)
    assert model.experts.activation is tf.keras.activations.tanh


def test_one_expert_of_one_task_is_another_layer_of_the_mlp() -> None:
    tf.keras.utils.set_random_seed(1)
    one = Experts("mmoe", count=1, units=(4,))
    with_expert = tower_model(units=(3,), size=2, experts=one)
    plain = tower_model(units=(3, 4), size=2)
    kernel, bias, _ = with_expert.experts.get_weights()
    dense(plain.mlp.layers[0], *with_expert.mlp.layers[0].get_weights())
    dense(plain.mlp.layers[2], kernel, bias[0])
    dense(plain.head, *with_expert.head.heads[0].get_weights())
    assert np.any(output(plain))
    np.testing.assert_allclose(output(with_expert), output(plain), rtol=1e-5)


@pytest.mark.parametrize("experts", [MMOE, PLE])
def test_a_task_reaches_its_own_head_and_experts_only(experts: Experts) -> None:
    tf.keras.utils.set_random_seed(1)
    one_level = experts if experts is MMOE else Experts("ple", levels=1, units=(8,))
    model = tower_model(tasks=2, size=2, units=(), activation="tanh", experts=one_level)
    with tf.GradientTape() as tape:
        click = tf.reduce_sum(model(COLUMNS).outputs[:, 0])
    own, other = (head.trainable_weights for head in model.head.heads)
    if experts is MMOE:
        own = [*own, model.experts.kernels[0]["kernel"]]
    else:
        click_branch, buy_branch, shared = model.experts.branches[0]
        own = [*own, *tf.nest.flatten([click_branch, shared])]
        other = [*other, *tf.nest.flatten(buy_branch)]
    gradients = tape.gradient(
        click, [own, other], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    assert all(np.any(gradient) for gradient in gradients[0])
    assert not any(np.any(gradient) for gradient in gradients[1])


@pytest.mark.parametrize("experts", [MMOE, PLE])
def test_outputs_are_float32_under_mixed_precision(experts: Experts) -> None:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = tower_model(tasks=2, size=3, units=(3,), experts=experts)
        assert model.experts(tf.zeros([1, 3]))["click"].dtype == tf.float16
        assert model(COLUMNS).outputs.dtype == tf.float32
        assert {v.dtype for v in model.variables} == {tf.float32}
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("experts", [MMOE, PLE])
def test_rows_do_not_depend_on_each_other(experts: Experts) -> None:
    tf.keras.utils.set_random_seed(0)
    model = tower_model(tasks=2, size=3, units=(5,), experts=experts)
    rng = np.random.default_rng(0)
    columns = {k: tf.constant(rng.normal(size=4).astype("f")) for k in ("a", "b")}
    together = model(columns).outputs.numpy()
    for row in range(4):
        alone = model({k: v[row : row + 1] for k, v in columns.items()}).outputs
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-6)
    assert model({k: v[:0] for k, v in columns.items()}).outputs.shape == [0, 2, 3]


# The model ------------------------------------------------------------------------


def _small(**parts: Any) -> PreRanker:
    """A model of two tasks with PLE in the query's, MMoE in the document's tower."""
    tf.keras.utils.set_random_seed(1)
    sizes: dict[str, Any] = {"dimension": 4, "output": 4}
    return PreRanker(
        small_schema(TASKS),
        Tower(units=(8,), experts=PLE, **sizes),
        Tower(units=(), experts=MMOE, **sizes),
        Tower(units=(4,), experts=PLE, **sizes),
        **parts,
    )


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in arrays.items()}


def test_gates_of_requests_and_of_real_documents() -> None:
    network = _small().network
    requests = padded(random_requests(3, 4, TASKS), 2, garbage=True)
    requests = {n: v for n, v in requests.items() if not n.startswith("label/")}
    documents = int(requests["mask"].sum())
    batch = _tensors(requests)
    query = network.expert_gates(batch, "query")
    assert [set(level.tasks) for level in query] == [set(TASKS)] * 2
    assert query[0].tasks["buy"].shape == [3, 1 + 2]
    assert query[0].shared.shape == [3, 2 + 2]
    doc = network.expert_gates(batch, "doc")
    assert doc["click"].shape == [documents, 3]
    cross = network.expert_gates(batch, "cross")
    assert cross[1].tasks["click"].shape == [documents, 1 + 2]
    for gate in tf.nest.flatten([query, doc, cross]):
        if gate is not None:
            np.testing.assert_allclose(np.sum(gate, axis=-1), 1, rtol=1e-5)
    plain = PreRanker(small_schema(), cross_tower=Tower()).network
    assert plain.expert_gates(batch, "query") is None


@pytest.mark.parametrize("scorer", ["mlp", "max_sim"])
def test_every_scorer_reads_towers_with_experts(scorer: str) -> None:
    model = _small(scorer=Scorer(scorer))
    logits = model(_tensors(random_requests(3, 4, TASKS)))
    assert logits["buy"].shape == [3, 4]
    assert np.isfinite(logits["scores"]).all() and np.any(logits["buy"])
    # A network that reads the cross vector reads one, whatever the tasks.
    heads = len(model.network.cross_tower.head.heads)
    assert heads == (1 if scorer == "mlp" else 2)


def test_training_moves_every_expert_and_a_saved_model_comes_back(
    tmp_path: Path,
) -> None:
    model = _small()
    requests = _tensors(random_requests(32, 6, TASKS, seed=2))
    towers = [model.network.query_tower, model.network.doc_tower]
    before = [tower.experts.get_weights() for tower in towers]
    model.compile(optimizer=tf.keras.optimizers.Adam(0.01))
    dataset = tf.data.Dataset.from_tensors(requests).repeat(8)
    history = model.fit(dataset, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    for tower, weights in zip(towers, before, strict=True):
        for old, new in zip(weights, tower.experts.get_weights(), strict=True):
            assert np.any(old != new)
    model.save(tmp_path / "run")
    again = PreRanker.load(tmp_path / "run")
    assert again.network.query_tower.tower.experts == PLE
    for name, values in model(requests).items():
        np.testing.assert_allclose(again(requests)[name], values, atol=1e-6)


@pytest.mark.slow  # an export holds a tower as a model does
def test_an_export_scores_as_its_model(tmp_path: Path) -> None:
    tf.keras.utils.set_random_seed(7)
    tower = Tower(units=(8,), normalization="batch", experts=PLE, dimension=4, output=4)
    model = PreRanker(exports.small_schema(TASKS), tower, tower, scorer="cosine")
    exports.randomize(model)
    documents = exports.small_documents(12)
    folder = export(model, documents, tmp_path / "model", k=5).path
    signatures = tf.saved_model.load(str(folder)).signatures
    rows = np.random.default_rng(0).integers(0, 12, (3, 7))
    request = exports.batch_of(model.schema, documents, rows, exports.small_query(3))
    expected = exports.model_outputs(model, request)
    got = exports.call(signatures["serving_default"], request)
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=2e-5)
    for task in TASKS:
        assert np.ptp(expected[task]) > 1e-3
        probabilities = exports.sigmoid(expected[task])
        np.testing.assert_allclose(got[task], probabilities, atol=2e-5)
    # The tasks' vectors one after the other.
    vector = exports.call(signatures["encode_query"], request)["query_vector"]
    assert vector.shape == (3, 2 * 4)
    inputs = {"query_vector": vector, "doc_ids": request["doc_ids"]}
    alone = exports.call(signatures["score_vectors"], inputs)
    np.testing.assert_allclose(alone["buy"], expected["buy"], atol=2e-5)


def test_experts_are_drawn() -> None:
    model = _small(scorer="dot")
    assert model.draw().split("\n")[1::2] == [
        "       2 × 4 ── MLP 8 relu ── ple(shared=2, own=1, levels=2, units=(4,)) ── "
        "linear ── 2 × 4",
        "       2 × 4 ── mmoe(count=3, units=(5, 4)) ── linear ── 2 × 4",
        "       1 × 4 ── MLP 4 relu ── ple(shared=2, own=1, levels=2, units=(4,)) ── "
        "linear ── 2",
    ]


# The declaration ------------------------------------------------------------------


def test_a_kind_alone_is_its_declaration() -> None:
    assert Tower(experts="ple") == Tower(experts=Experts("ple"))


def test_experts_survive_yaml() -> None:
    tower = Tower(units=(), activation="tanh", experts=PLE)
    written = to_mapping(tower)
    assert written == {
        "units": [],
        "activation": "tanh",
        "experts": {"kind": "ple", "shared": 2, "units": [4]},
    }
    assert from_mapping(Tower, written, "tower") == tower
    short = from_mapping(Tower, {"experts": {"kind": "mmoe", "units": [32]}}, "tower")
    assert short.experts == Experts("mmoe", count=4, units=(32,))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"experts": "moe"}, ".experts: unknown 'moe'; did you mean 'mmoe'?"),
        (
            {"experts": {"kind": "mmoe", "own": 2}},
            ".experts: own does nothing with kind='mmoe'; leave it out. "
            "Received: own=2",
        ),
        (
            {"experts": {"kind": "ple", "count": 8}},
            ".experts: count does nothing with kind='ple'; leave it out. "
            "Received: count=8",
        ),
        (
            {"experts": {"kind": "ple", "level": 3}},
            ".experts.level: unknown key 'level'; did you mean 'levels'?",
        ),
        (
            {"experts": {"kind": "mmoe", "count": 0}},
            ".experts: count must be at least 1. Received: 0",
        ),
        (
            {"experts": {"kind": "ple", "units": []}},
            ".experts: units must list at least one size, each at least 1. "
            "Received: ()",
        ),
        (
            {"units": (), "experts": "mmoe", "dropout": 0.1},
            ": dropout does nothing with units=(); leave it out. Received: dropout=0.1",
        ),
    ],
)
def test_a_declaration_checks_itself(declared: dict, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Tower(**declared)
    assert str(error.value) == f"Tower{message}"
