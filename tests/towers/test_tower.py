"""Towers with hand-set weights."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features import Categorical, Numeric, Schema, Task
from tfrs_prerank.features.encoders import make_tables
from tfrs_prerank.towers import BiasModel, Gate, Interaction, Tower, TowerModel
from tfrs_prerank.towers.tower import Activation
from tfrs_prerank.towers.tower_model import MLP, own_fields

A = Numeric("a", "doc", dimension=2)
B = Numeric("b", "doc", dimension=2)
SCHEMA = Schema(
    [
        Categorical("user_id", "query", buckets=3),
        A,
        B,
        Numeric("clicks", "cross", dimension=2),
    ],
    [Task("click")],
)
TASKS = ("click", "buy", "share")
SENET = Gate("senet", reduction=2)
# One row with a = 1 and b = 2, whose fields are (1, 1) and (2, -2).
COLUMNS = {"a": tf.constant([1.0]), "b": tf.constant([2.0])}


def tower_model(tasks: int = 1, size: int = 1, **declared: Any) -> TowerModel:
    """Makes a tower over the fields (a, a) and (b, -b)."""
    tower = Tower(dimension=2, **declared)
    fields = own_fields(tower, [A, B], make_tables(SCHEMA))
    model = TowerModel(tower, fields, TASKS[:tasks], size, "doc_tower")
    model(COLUMNS)  # builds it
    model.fields.encoders["a"].kernel.assign([1, 1])
    model.fields.encoders["b"].kernel.assign([1, -1])
    return model


def dense(layer: Any, kernel: Any, bias: Any) -> None:
    layer.set_weights([np.array(kernel, float), np.array(bias, float)])


def set_cross(model: TowerModel, kernel: Any) -> None:
    (kernels,) = model.interaction.kernels
    kernels["kernel"].assign(kernel)
    kernels["bias"].assign(tf.zeros_like(kernels["bias"]))


def output(model: TowerModel, **kwargs: Any) -> list:
    return model(COLUMNS, **kwargs).outputs.numpy().tolist()


def test_only_fields_and_a_linear_head():
    model = tower_model(units=())
    dense(model.head, [[1], [2], [3], [4]], [0.5])
    # 1 + 2 + 6 - 8 + 0.5
    assert output(model) == [[[1.5]]]
    # An unused part has no weights: only the numbers' and the head's kernel and bias.
    assert len(model.weights) == 6


def test_the_last_layer_is_linear():
    model = tower_model(units=(1,))
    dense(model.mlp.layers[0], [[1], [1], [1], [1]], [0])
    dense(model.head, [[-3]], [0])
    assert output(model) == [[[-6.0]]]  # relu(2) * -3
    dense(model.mlp.layers[0], [[-1], [-1], [-1], [-1]], [0])
    dense(model.head, [[-3]], [-1])
    assert output(model) == [[[-1.0]]]  # relu(-2) is 0


def test_parallel_joins_cross_network_and_mlp():
    model = tower_model(units=(1,), interaction=Interaction("dcn_v1", depth=1))
    set_cross(model, [1, 0, 1, 0])
    dense(model.mlp.layers[0], [[1], [1], [1], [1]], [0])
    dense(model.head, [[1], [0], [0], [1], [-3]], [0.5])
    # x0 = (1, 1, 2, -2), x0 . w = 3, so x' = 3 x0 + x0 = (4, 4, 8, -8); the MLP reads
    # x0: 2. Head: 4 - 8 - 6 + 0.5.
    assert output(model) == [[[-9.5]]]


def test_stacked_feeds_the_cross_network_to_the_mlp():
    model = tower_model(
        units=(1,), interaction=Interaction("dcn_v1", depth=1), combine="stacked"
    )
    set_cross(model, [1, 0, 1, 0])
    dense(model.mlp.layers[0], [[1], [2], [1], [1]], [0])
    dense(model.head, [[-1]], [0.5])
    # The MLP reads (4, 4, 8, -8): 4 + 8 + 8 - 8.
    assert output(model) == [[[-11.5]]]


def test_cross_network_alone_in_both_versions():
    v2 = tower_model(units=(), interaction=Interaction("dcn_v2", depth=1))
    set_cross(v2, np.eye(4))
    dense(v2.head, [[1], [10], [100], [1000]], [0])
    # x0 * x0 + x0 = (2, 2, 6, 2)
    assert output(v2) == [[[2622.0]]]
    v1 = tower_model(units=(), interaction=Interaction("dcn_v1", depth=1))
    set_cross(v1, [1, 0, 0, 0])
    dense(v1.head, [[1], [10], [100], [1000]], [0])
    # 2 x0 = (2, 2, 4, -4)
    assert output(v1) == [[[-3578.0]]]
    low_rank = tower_model(units=(), interaction=Interaction("dcn_v2", depth=3, rank=1))
    assert len(low_rank.interaction.kernels) == 3
    assert [tuple(k["down"].shape) for k in low_rank.interaction.kernels] == [
        (4, 1)
    ] * 3


def test_the_gate_weighs_fields_before_all_else():
    model = tower_model(
        units=(), gate=SENET, interaction=Interaction("dcn_v2", depth=1)
    )
    # Field means are 1 and 0: the hidden unit is relu(1 * 1), the weights are
    # sigmoid(0) of a and sigmoid(-100) of b.
    model.gate.set_weights([np.array([[1.0], [5.0]]), np.array([[0.0, -100.0]])])
    set_cross(model, np.zeros([4, 4]))
    dense(model.head, [[1], [10], [100], [1000]], [0])
    # Fields (0.5, 0.5) and (0, 0); the cross network passes them on.
    np.testing.assert_allclose(output(model), [[[5.5]]], atol=1e-6)


def test_one_vector_for_each_task():
    model = tower_model(tasks=3, size=2, units=())
    dense(model.head, np.diag([1, 1, 1, 1, 0, 0])[:4], [0, 0, 0, 0, 5, 6])
    assert output(model) == [[[1, 1], [2, -2], [5, 6]]]


# The MLP.


def test_batch_normalisation_comes_before_the_activation():
    model = tower_model(units=(1,), normalization="batch")
    names = [type(layer).__name__ for layer in model.mlp.layers]
    assert names == ["Dense", "RowBatchNormalization", "Activation"]
    # Without a bias: the normalisation would take it away again.
    model.mlp.layers[0].set_weights([np.ones([4, 1])])
    # gamma, beta, moving mean, moving variance; epsilon is 0.001.
    model.mlp.layers[1].set_weights(
        [np.array([v]) for v in (3.0, 1.0, 5.0, 3.999)]
    )  # fmt: skip
    dense(model.head, [[1]], [0])
    # 3 (2 - 5) / 2 + 1 = -3.5, which the activation makes 0.
    assert output(model) == [[[0.0]]]
    model.mlp.layers[1].set_weights([np.array([v]) for v in (-3.0, 1.0, 5.0, 3.999)])
    np.testing.assert_allclose(output(model), [[[5.5]]], rtol=1e-6)


def test_batch_statistics_are_used_and_kept_in_training():
    model = tower_model(units=(1,), normalization="batch")
    model.mlp.layers[0].set_weights([np.eye(4, 1)])
    dense(model.head, [[1]], [0])
    columns = {"a": tf.constant([1.0, 3.0]), "b": tf.constant([0.0, 0.0])}
    trained = model(columns, training=True).outputs.numpy()[:, 0, 0]
    # Mean 2, variance 1: relu(-1), relu(1).
    np.testing.assert_allclose(trained, [0.0, 1 / np.sqrt(1.001)], rtol=1e-5)
    *_, mean, variance = model.mlp.layers[1].get_weights()
    np.testing.assert_allclose([mean[0], variance[0]], [0.02, 1.0], rtol=1e-5)
    served = model(columns).outputs.numpy()[:, 0, 0]
    np.testing.assert_allclose(served, [0.98, 2.98], rtol=1e-3)


def test_layer_normalisation_dropout_and_activation_are_as_declared():
    tower = Tower(units=(8, 4), normalization="layer", dropout=0.5, activation="tanh")
    layers = MLP(tower).layers
    names = [type(layer).__name__ for layer in layers]
    assert names == ["Dense", "LayerNormalization", "Activation", "Dropout"] * 2
    assert [layers[0].units, layers[4].units] == [8, 4]
    assert layers[2].activation is tf.keras.activations.tanh
    assert [layers[3].rate, layers[7].rate] == [0.5, 0.5]


def test_every_activation_is_one_of_keras():
    names = get_args(Activation)
    assert "relu" in names
    for name in names:
        assert callable(getattr(tf.keras.activations, name))


def test_dropout_is_for_training_only():
    tf.keras.utils.set_random_seed(0)
    model = tower_model(units=(1000,), dropout=0.25)
    dense(model.mlp.layers[0], np.ones([4, 1000]) / 2, np.zeros(1000))
    dense(model.head, np.ones([1000, 1]), [0])
    assert output(model) == [[[1000.0]]]
    (first,), (second,) = output(model, training=True), output(model, training=True)
    # Kept units are scaled by 4/3: the sum stays about 1000 (standard deviation 18).
    assert first != second
    assert abs(first[0][0] - 1000) < 100 and first[0][0] != 1000


# What a tower reads.


def test_a_tower_reads_the_features_of_one_owner():
    tables = make_tables(SCHEMA)
    clicks, user = SCHEMA["clicks"], SCHEMA["user_id"]
    for features, received in (
        ([A, clicks], "a of doc, clicks of cross"),
        ([user, B], "user_id of query, b of doc"),
        ([], "none"),
    ):
        with pytest.raises(ValueError) as error:
            own_fields(Tower(), features, tables)
        assert str(error.value) == (
            "a tower reads the features of one owner, at least one. "
            f"Received: {received}"
        )


def test_a_tower_does_not_see_other_columns():
    model = tower_model(units=(3,))
    others = {**COLUMNS, "clicks": tf.constant([9.0]), "user_id": tf.constant(["u"])}
    assert model(others).outputs.numpy().tolist() == output(model)
    with pytest.raises(KeyError, match="b"):
        model({"a": tf.constant([1.0])})


def test_outputs_are_float32_under_mixed_precision():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = tower_model(units=(3,), gate=SENET, interaction="dcn_v2")
        assert model.head(tf.zeros([1, 7])).dtype == tf.float16
        assert model(COLUMNS).outputs.dtype == tf.float32
        assert {v.dtype for v in model.variables} == {tf.float32}
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def test_rows_do_not_depend_on_each_other():
    tf.keras.utils.set_random_seed(0)
    model = tower_model(
        size=3, units=(5,), gate=SENET, interaction="dcn_v2", normalization="batch"
    )
    rng = np.random.default_rng(0)
    columns = {k: tf.constant(rng.normal(size=4).astype("f")) for k in ("a", "b")}
    together = model(columns).outputs.numpy()
    for row in range(4):
        alone = model({k: v[row : row + 1] for k, v in columns.items()}).outputs
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)
    assert model({k: v[:0] for k, v in columns.items()}).outputs.shape == [0, 1, 3]


# The bias of training.


def test_bias_is_the_sum_of_one_number_for_each_value():
    position = Categorical(
        "position", "doc", buckets=2, dtype="int64", training_only=True, dimension=2
    )
    seen = Numeric("seen", "doc", training_only=True, dimension=2)
    schema = Schema([*SCHEMA.features, position, seen], SCHEMA.tasks)
    tables = make_tables(schema)
    bias = BiasModel(schema.training_only, tables, tasks=2)
    columns = {
        "position": tf.constant([-1, -1], tf.int64),
        "seen": tf.constant([1.0, 2.0]),
    }
    bias(columns)  # builds it
    # The table's own size is two, as many as there are tasks: nothing is projected.
    tables["position"].embeddings.assign([[0.5, -1.0], [9, 9], [9, 9]])
    bias.fields.encoders["seen"].kernel.assign([10.0, 100.0])
    assert bias(columns).numpy().tolist() == [[10.5, 99.0], [20.5, 199.0]]


# The declaration.


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"unit": (3,)}, ".unit: unknown key 'unit'; did you mean 'units'?"),
        ({"units": (3, 0)}, ": units must be at least 1. Received: (3, 0)"),
        ({"dimension": -1}, ": dimension must be at least 1. Received: -1"),
        ({"output": 0}, ": output must be at least 1. Received: 0"),
        ({"dropout": 1}, ": dropout must be in [0, 1). Received: 1.0"),
        (
            {"activation": "reluu"},
            ".activation: unknown 'reluu'; did you mean 'relu'?",
        ),
        (
            {"interaction": "dcn"},
            ".interaction: unknown 'dcn'; did you mean 'dcn_v2'?",
        ),
        ({"gate": "senett"}, ".gate: unknown 'senett'; did you mean 'senet'?"),
        (
            {"interaction": {"kind": "cin", "depth": 3}},
            ".interaction: depth does nothing with kind='cin'; leave it out. "
            "Received: depth=3",
        ),
        (
            {"gate": {"kind": "light_se", "heads": 2}},
            ".gate: heads does nothing with kind='light_se'; leave it out. "
            "Received: heads=2",
        ),
        # What has no effect is refused.
        (
            {"units": (), "dropout": 0.1},
            ": dropout does nothing with units=(); leave it out. Received: dropout=0.1",
        ),
        (
            {"units": (), "normalization": "layer"},
            ": normalization does nothing with units=(); leave it out. "
            "Received: normalization='layer'",
        ),
        (
            {"units": (), "activation": "tanh"},
            ": activation does nothing with units=(); leave it out. "
            "Received: activation='tanh'",
        ),
        (
            {"combine": "stacked"},
            ': combine="stacked" needs both units and an interaction',
        ),
        (
            {"combine": "stacked", "units": (), "interaction": "dcn_v1"},
            ': combine="stacked" needs both units and an interaction',
        ),
    ],
)
def test_a_declaration_checks_itself(declared, expected):
    with pytest.raises(ConfigurationError) as error:
        Tower(**declared)
    assert str(error.value) == f"Tower{expected}"
