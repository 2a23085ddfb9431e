"""LazyAdam against plain Adam and against Adam by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.processes import Replicas, four_replicas
from tfrs_prerank.optimizers import LazyAdam


def _slices(rows: list[int], values: Any, size: int = 5) -> tf.IndexedSlices:
    values = np.asarray(values, "float32")
    return tf.IndexedSlices(
        tf.constant(values),
        tf.constant(rows, tf.int64),
        tf.constant([size, values.shape[1]], tf.int64),
    )


def _table(size: int = 5, width: int = 2) -> tf.Variable:
    values = np.random.default_rng(0).normal(size=[size, width])
    return tf.Variable(values.astype("float32"))


def _state(optimizer: LazyAdam, table: tf.Variable) -> list[np.ndarray]:
    """The table and its two moments, as they are now."""
    slots = [v for v in optimizer.variables if v.shape == table.shape]
    assert len(slots) == 2
    return [table.numpy(), *(slot.numpy() for slot in slots)]


def test_dense_gradients_as_adam() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = _table(), _table()
    lazy, adam = LazyAdam(0.1), tf.keras.optimizers.Adam(0.1)
    for _ in range(4):
        gradient = tf.constant(rng.normal(size=[5, 2]).astype("float32"))
        lazy.apply_gradients([(gradient, ours)])
        adam.apply_gradients([(gradient, theirs)])
    np.testing.assert_array_equal(ours, theirs)


def test_sparse_gradients_of_all_rows_as_adam() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = _table(), _table()
    lazy, adam = LazyAdam(0.1), tf.keras.optimizers.Adam(0.1)
    for _ in range(4):
        values = rng.normal(size=[5, 2]).astype("float32")
        order = rng.permutation(5)
        lazy.apply_gradients([(_slices(list(order), values[order]), ours)])
        adam.apply_gradients([(tf.constant(values), theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_two_steps_by_hand() -> None:
    table = tf.Variable([[1.0], [1.0], [1.0]])
    optimizer = LazyAdam(0.5, beta_1=0.5, beta_2=0.75, epsilon=0.0)
    optimizer.apply_gradients([(_slices([1], [[2.0]], 3), table)])
    # m = .5 * 2 = 1, v = .25 * 4 = 1, rate = .5 sqrt(.25) / .5 = .5:
    # row 1 becomes 1 - .5 * 1 / 1 = .5.
    np.testing.assert_allclose(table, [[1.0], [0.5], [1.0]], rtol=1e-6)
    optimizer.apply_gradients([(_slices([0, 1], [[4.0], [0.0]], 3), table)])
    # Step 2 for all rows: rate = .5 sqrt(1 - .5625) / (1 - .25) = r.
    # Row 0, first seen now: m = 2, v = .25 * 16 = 4, so it moves by r * 2 / 2 = r.
    # Row 1: m = .5 * 1 = .5, v = .75 * 1, so it moves by r * .5 / sqrt(.75).
    rate = 0.5 * math.sqrt(0.4375) / 0.75
    expected = [[1 - rate], [0.5 - rate * 0.5 / math.sqrt(0.75)], [1.0]]
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_untouched_rows_keep_their_bits() -> None:
    table = _table()
    optimizer = LazyAdam(0.1)
    optimizer.apply_gradients([(_slices([0, 2, 3], np.ones([3, 2])), table)])
    before = _state(optimizer, table)
    optimizer.apply_gradients([(_slices([3, 4], np.ones([2, 2])), table)])
    for old, new in zip(before, _state(optimizer, table), strict=True):
        np.testing.assert_array_equal(old[:3], new[:3])
        assert np.all(old[3:] != new[3:])


def test_repeated_rows_are_summed() -> None:
    ours, theirs = _table(), _table()
    LazyAdam(0.1, epsilon=1.0).apply_gradients(
        [(_slices([1, 4, 1], [[1, 2], [3, 4], [5, 6]]), ours)]
    )
    LazyAdam(0.1, epsilon=1.0).apply_gradients(
        [(_slices([1, 4], [[6, 8], [3, 4]]), theirs)]
    )
    np.testing.assert_array_equal(ours, theirs)


def test_no_rows_change_nothing() -> None:
    table = _table()
    before = table.numpy()
    LazyAdam().apply_gradients([(_slices([], np.zeros([0, 2])), table)])
    np.testing.assert_array_equal(table, before)


def test_the_sparse_step_has_no_op_as_large_as_the_table() -> None:
    table = tf.Variable(tf.zeros([1009, 7]))
    optimizer = LazyAdam()
    optimizer.build([table])

    @tf.function
    def step(rows: tf.Tensor, values: tf.Tensor) -> None:
        gradient = tf.IndexedSlices(values, rows, tf.constant([1009, 7]))
        optimizer.apply_gradients([(gradient, table)])

    graph = step.get_concrete_function(
        tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 7], tf.float32)
    ).graph
    large = [
        op.name
        for op in graph.get_operations()
        for t in op.outputs
        if t.shape.rank and t.shape[0] == 1009
    ]
    # A read of the whole variable may only be left over, without a consumer.
    used = {t.op.name for op in graph.get_operations() for t in op.inputs}
    assert not used.intersection(large)
    types = {op.type for op in graph.get_operations()}
    assert {"ResourceGather", "ResourceScatterUpdate", "ResourceScatterSub"} <= types
    assert not types & {"AssignVariableOp", "AssignSubVariableOp", "ZerosLike"}


def test_embedding_inside_fit() -> None:
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.layers.Embedding(10, 4), tf.keras.layers.Dense(1)]
    )
    ids = np.array([[1], [2], [1], [3]])
    model(ids)
    before = model.layers[0].get_weights()[0]
    model.compile(LazyAdam(0.05), "mse")
    history = model.fit(ids, np.ones([4, 1, 1]), epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    after = model.layers[0].get_weights()[0]
    changed = np.any(before != after, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [1, 2, 3])


def test_loss_scaling_and_overflow_in_mixed_precision() -> None:
    table = _table()
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(
        LazyAdam(0.1), initial_scale=1024
    )
    plain = _table()

    @tf.function
    def step(factor: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            rows = tf.cast(tf.gather(table, [0, 2, 0]), tf.float16)
            loss = tf.reduce_sum(tf.cast(rows, tf.float32)) * factor
            scaled = optimizer.get_scaled_loss(loss)
        gradients = optimizer.get_unscaled_gradients(tape.gradient(scaled, [table]))
        optimizer.apply_gradients(zip(gradients, [table], strict=True))

    step(tf.constant(0.5))
    # d loss / d row: .5 for every time the row is read.
    LazyAdam(0.1).apply_gradients([(_slices([0, 2], [[1, 1], [0.5, 0.5]]), plain)])
    np.testing.assert_allclose(table, plain, rtol=1e-6)
    before = table.numpy()
    step(tf.constant(np.inf, tf.float32))
    np.testing.assert_array_equal(table, before)
    assert float(optimizer.loss_scale) == 512


def test_learning_rate_schedule() -> None:
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.0])
    table = _table()
    optimizer = LazyAdam(schedule)
    before = table.numpy()
    optimizer.apply_gradients([(_slices([1], [[1.0, 1.0]]), table)])
    after = table.numpy()
    np.testing.assert_allclose(after[1], before[1] - 0.5, rtol=1e-4)
    optimizer.apply_gradients([(_slices([1], [[1.0, 1.0]]), table)])
    np.testing.assert_array_equal(table, after)


@pytest.mark.parametrize("sparse", [False, True])
def test_scaled_learning_rates_as_optimizers_of_their_own(sparse: bool) -> None:
    rng = np.random.default_rng(0)
    slow, fast, alone, other = (_table() for _ in range(4))
    optimizer = LazyAdam(0.1)
    optimizer.scale_learning_rate([(slow, 0.25)])
    theirs = (tf.keras.optimizers.Adam(0.025), tf.keras.optimizers.Adam(0.1))
    for _ in range(4):
        values = rng.normal(size=[5, 2]).astype("float32")
        dense = tf.constant(values)
        gradient = _slices(list(range(5)), values) if sparse else dense
        optimizer.apply_gradients([(gradient, slow), (gradient, fast)])
        for adam, variable in zip(theirs, (alone, other), strict=True):
            adam.apply_gradients([(dense, variable)])
    np.testing.assert_allclose(slow, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fast, other, rtol=1e-5, atol=1e-6)
    assert np.abs(slow - fast).max() > 0.1


def test_scales_take_the_place_of_earlier_ones_and_are_no_state() -> None:
    table, other = _table(), _table()
    optimizer = LazyAdam(0.1)
    optimizer.scale_learning_rate([(table, 0.5)])
    optimizer.scale_learning_rate([(other, 0.5)])
    before = table.numpy()
    ones = tf.ones([5, 2])
    optimizer.apply_gradients([(ones, table), (ones, other)])
    np.testing.assert_allclose(before - table, 0.1, rtol=1e-4)
    np.testing.assert_allclose(before - other, 0.05, rtol=1e-4)
    plain = LazyAdam(0.1)
    plain.build([table, other])
    assert plain.get_config() == optimizer.get_config()
    assert len(plain.variables) == len(optimizer.variables)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_is_a_positive_number(factor: float) -> None:
    with pytest.raises(ValueError, match=f"positive number. Received: {factor}"):
        LazyAdam().scale_learning_rate([(_table(), factor)])


def test_config_round_trip() -> None:
    optimizer = LazyAdam(
        0.25, beta_1=0.8, beta_2=0.95, epsilon=1e-5, global_clipnorm=2.0, name="mine"
    )
    config = tf.keras.optimizers.serialize(optimizer)
    again = tf.keras.optimizers.deserialize(config)
    assert type(again) is LazyAdam
    assert again.get_config() == optimizer.get_config()
    assert LazyAdam.from_config(optimizer.get_config()).name == "mine"


def test_checkpoint_continues_the_run(tmp_path: Any) -> None:
    gradients = [_slices([i % 5, (i + 2) % 5], np.ones([2, 2]) * i) for i in range(4)]
    straight, table = LazyAdam(0.1), _table()
    for gradient in gradients:
        straight.apply_gradients([(gradient, table)])

    first, half = LazyAdam(0.1), _table()
    for gradient in gradients[:2]:
        first.apply_gradients([(gradient, half)])
    path = tf.train.Checkpoint(optimizer=first, table=half).save(tmp_path / "c")
    second, rest = LazyAdam(0.1), tf.Variable(tf.zeros([5, 2]))
    second.build([rest])
    tf.train.Checkpoint(optimizer=second, table=rest).restore(path).assert_consumed()
    for gradient in gradients[2:]:
        second.apply_gradients([(gradient, rest)])
    np.testing.assert_array_equal(rest, table)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`beta_1`.*Received: 1\.0"):
        LazyAdam(beta_1=1.0)
    with pytest.raises(ValueError, match=r"`epsilon`.*Received: -1"):
        LazyAdam(epsilon=-1)
    with pytest.raises(TypeError, match=r"no argument 'weight_decay'"):
        LazyAdam(weight_decay=0.1)


def _four_replicas_as_one() -> None:
    start = np.random.default_rng(0).normal(size=[9, 2]).astype("float32")
    # Replica r reads these rows; 3 is read by several replicas and twice by one.
    rows = tf.constant([[0, 3], [3, 5], [7, 3], [3, 3]])

    def train(
        strategy: tf.distribute.Strategy, rows_of: Callable[[Any], tf.Tensor]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        with strategy.scope():
            table = tf.Variable(start)
            bias = tf.Variable([1.0, 1.0])
            optimizer = LazyAdam(0.1)

        @tf.function
        def step() -> None:
            def replica() -> None:
                mine = rows_of(tf.distribute.get_replica_context())
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(tf.square(tf.gather(table, mine) + bias))
                gradients = tape.gradient(loss, [table, bias])
                assert isinstance(gradients[0], tf.IndexedSlices)
                optimizer.apply_gradients(zip(gradients, [table, bias], strict=True))

            strategy.run(replica)

        for _ in range(3):
            step()
        copies = [v.numpy() for v in strategy.experimental_local_results(table)]
        return copies, bias.numpy()

    mirrored = four_replicas()
    copies, bias = train(
        mirrored, lambda context: tf.gather(rows, context.replica_id_in_sync_group)
    )
    (single,), single_bias = train(
        tf.distribute.get_strategy(), lambda context: tf.reshape(rows, [-1])
    )
    assert len(copies) == 4
    for copy in copies:
        np.testing.assert_array_equal(copy, copies[0])
    np.testing.assert_allclose(copies[0], single, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bias, single_bias, rtol=1e-5)
    untouched = [1, 2, 4, 6, 8]
    np.testing.assert_array_equal(copies[0][untouched], start[untouched])
    assert np.all(copies[0][[0, 3, 5, 7]] != start[[0, 3, 5, 7]])


def test_four_replicas_as_one(on_replicas: Replicas) -> None:
    on_replicas(_four_replicas_as_one)


def _scales_on_four_replicas() -> None:
    with four_replicas().scope():
        slow, fast = tf.Variable([1.0]), tf.Variable([1.0])
        optimizer = LazyAdam(0.1)
        optimizer.scale_learning_rate([(slow, 0.5)])

    @tf.function
    def step() -> None:
        def replica() -> None:
            ones = tf.ones([1])
            optimizer.apply_gradients([(ones, slow), (ones, fast)])

        tf.distribute.get_strategy().run(replica)

    with four_replicas().scope():
        step()
    np.testing.assert_allclose(slow.numpy(), [0.95], rtol=1e-5)
    np.testing.assert_allclose(fast.numpy(), [0.9], rtol=1e-5)


def test_scales_on_four_replicas(on_replicas: Replicas) -> None:
    on_replicas(_scales_on_four_replicas)
