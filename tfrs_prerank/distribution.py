"""Sums over all replicas of a distributed training step."""

from __future__ import annotations

import tensorflow as tf


def global_sum(x: tf.Tensor) -> tf.Tensor:
    """Adds up a value over all replicas that train in step.

    Inside `strategy.run` of a strategy with several replicas every replica gets
    the sum of all replicas' values. Everywhere else (one replica, no strategy,
    cross-replica code, a worker of a parameter server, whose step no other worker
    waits for) the value comes back as it is.

    Call it outside `tf.cond` and `tf.while_loop`: TensorFlow cannot synchronise
    replicas inside a branch.

    >>> import tensorflow as tf
    >>> float(global_sum(tf.constant(3.0)))
    3.0

    Args:
        x: a tensor of any shape, the same shape on every replica.

    Returns:
        The sum, with the shape and dtype of `x`. It is differentiable.
    """
    x = tf.convert_to_tensor(x)
    # None in cross-replica code: there is no replica whose part could be added.
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)
