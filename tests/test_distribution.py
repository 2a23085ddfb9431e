"""Sums over replicas."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.processes import Replicas, four_replicas
from tfrs_prerank.distribution import global_sum


def test_without_replicas_the_value_comes_back() -> None:
    assert float(global_sum(tf.constant(3.0))) == 3.0
    assert float(tf.function(global_sum)(tf.constant(3.0))) == 3.0
    np.testing.assert_array_equal(global_sum([1.0, 2.0]), [1.0, 2.0])


def test_one_replica_and_cross_replica_code() -> None:
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    assert float(strategy.run(lambda: global_sum(tf.constant(3.0)))) == 3.0
    with strategy.scope():  # cross-replica: there is no replica context
        assert tf.distribute.get_replica_context() is None
        assert float(global_sum(tf.constant(3.0))) == 3.0


def _four_replicas() -> None:
    strategy = four_replicas()

    def replica() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        x = tf.cast(number, tf.float32) + 1.0
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = global_sum(x)
            loss = total * x
        return total, global_sum([x, 10.0 * x]), tape.gradient(loss, x)

    for run in (replica, tf.function(replica)):
        results = strategy.run(run)
        totals, vectors, gradients = map(strategy.experimental_local_results, results)
        # 1 + 2 + 3 + 4 = 10 on every replica.
        assert [float(t) for t in totals] == [10.0] * 4
        for vector in vectors:
            np.testing.assert_array_equal(vector, [10.0, 100.0])
        # The sum of all losses is total * total, whose derivative is 2 * total = 20:
        # 10 through x, and through the sum 1 + 2 + 3 + 4 from the four losses.
        assert [float(g) for g in gradients] == [20.0] * 4
    with strategy.scope():
        assert float(global_sum(tf.constant(3.0))) == 3.0


def test_four_replicas(on_replicas: Replicas) -> None:
    on_replicas(_four_replicas)
