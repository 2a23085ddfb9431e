"""What replicas of a distributed training step add up and share."""

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


def global_concat(x: tf.Tensor) -> tf.Tensor:
    """Joins the rows of all replicas that train in step, in the replicas' order.

    Inside `strategy.run` of a strategy with several replicas every replica gets the
    rows of all. Everywhere else the value comes back as it is; see `global_sum`, which
    also says where it may be called.

    It is the sum of what all replicas have, each in its own rows among zeros: unlike
    `ReplicaContext.all_gather` it runs eagerly too, and as fast as sums do.

    >>> import tensorflow as tf
    >>> global_concat(tf.constant([3.0, 4.0])).numpy().tolist()
    [3.0, 4.0]

    Args:
        x: numbers `[rows, ...]`; replicas may have different numbers of rows, and none.

    Returns:
        `[rows of all replicas, ...]`, in the dtype of `x`. It is differentiable: a
        row's gradient is the sum of those from all replicas.
    """
    x = tf.convert_to_tensor(x)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    place, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    rows = tf.shape(x, out_type=tf.int64)[0]
    ends = tf.cumsum(global_sum(rows * tf.one_hot(place, replicas, dtype=tf.int64)))
    around = tf.stack([ends[place] - rows, ends[-1] - ends[place]])
    rest = tf.zeros([x.shape.rank - 1, 2], tf.int64)
    return global_sum(tf.pad(x, tf.concat([around[tf.newaxis], rest], axis=0)))


def shared_by_rows(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Makes each worker of a distributed training take its rows of every batch.

    The batches of all workers together are then those of one worker, in the same order,
    and each row is read by one worker only. TensorFlow's own choice, whole files, makes
    other batches, whose number is not the same on all workers.

    >>> import tensorflow as tf
    >>> options = shared_by_rows(tf.data.Dataset.range(8).batch(4)).options()
    >>> options.experimental_distribute.auto_shard_policy.name
    'DATA'

    Args:
        dataset: batches of all workers.

    Returns:
        The same batches.
    """
    options = tf.data.Options()
    by_rows = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = by_rows
    return dataset.with_options(options)
