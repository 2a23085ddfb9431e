"""Sums over replicas."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.processes import run_script
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


_REPLICAS = """
import numpy as np
import tensorflow as tf

from tfrs_prerank.distribution import global_sum

cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * 4
tf.config.set_logical_device_configuration(cpu, parts)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])


def replica():
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
print("equal")
"""


def test_four_replicas() -> None:
    # Logical devices can only be set before TensorFlow starts: another process.
    assert run_script(_REPLICAS).endswith("equal")
