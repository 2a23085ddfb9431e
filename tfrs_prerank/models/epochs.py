"""Data whose order is a function of the epoch, also after a restart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrs_prerank.distribution import shared_by_rows

Make = Callable[[Any], tf.data.Dataset]
_Creator = tf.keras.utils.experimental.DatasetCreator


def for_keras(
    data: Any, epoch: tf.Variable | int, strategy: tf.distribute.Strategy
) -> tuple[Any, int | None]:
    """Turns a function from an epoch's number to a dataset into what Keras takes.

    Args:
        data: such a function; anything else comes back as it is.
        epoch: counts the epochs and is read when they start; or the only epoch.
        strategy: how the model is distributed.

    Returns:
        The data, and the number of batches of an epoch where Keras must be told.

    Raises:
        ValueError: with parameter servers the number of batches must be known.
    """
    if not callable(data) or isinstance(data, _Creator):
        return data, None
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return _creator(data, epoch, strategy), _number_of_batches(data)
    if isinstance(epoch, int):
        return shared_by_rows(data(epoch)), None
    return dataset_of_epochs(data, epoch), None


def dataset_of_epochs(make: Make, epoch: tf.Variable) -> tf.data.Dataset:
    """Returns a dataset that is `make(epoch)` for the variable's value at its start.

    Workers that train in step take their rows of every batch.

    Args:
        make: from an epoch's number (an int64 tensor) to a dataset.
        epoch: counts the epochs; it is read each time an iteration starts.

    Returns:
        The dataset.
    """
    dataset = tf.data.Dataset.from_tensors(0).flat_map(
        lambda _: make(epoch.read_value())
    )
    # What is inside of flat_map has no length; the first epoch's is every epoch's.
    length = make(tf.constant(0, tf.int64)).cardinality()
    if length >= 0:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    return shared_by_rows(dataset)


def _creator(
    make: Make, epoch: tf.Variable | int, strategy: tf.distribute.Strategy
) -> tf.keras.utils.experimental.DatasetCreator:
    """Returns what makes the dataset of each worker of parameter servers.

    A worker never waits for an epoch's end: its dataset goes on for ever, and holds
    every n-th batch.
    """
    # `ParameterServerStrategy.cluster_resolver` is None.
    workers = strategy._cluster_resolver.cluster_spec().num_tasks("worker")
    with strategy.scope():
        turn = tf.Variable(0, trainable=False, dtype=tf.int64, name="turn")

    def of_worker(_: tf.distribute.InputContext) -> tf.data.Dataset:
        # TensorFlow gives all workers the same context: each draws its own number.
        number = tf.raw_ops.ResourceCountUpTo(
            resource=turn.handle, limit=tf.int64.max, T=tf.int64
        )
        if isinstance(epoch, int):
            epochs = tf.data.Dataset.from_tensors(tf.constant(epoch, tf.int64)).repeat()
        else:
            epochs = tf.data.Dataset.range(epoch.read_value(), tf.int64.max)
        return epochs.flat_map(make).shard(workers, number % workers)

    return _Creator(of_worker)


def _number_of_batches(make: Make) -> int:
    batches = int(make(tf.constant(0, tf.int64)).cardinality())
    if batches < 0:
        raise ValueError(
            "training with parameter servers needs the number of batches; end the "
            "dataset with .apply(tf.data.experimental.assert_cardinality(batches))"
        )
    return batches


class EpochCounter(tf.keras.callbacks.Callback):
    """Counts finished epochs in the model; leaves out of their logs what saw no data.

    It has to come first, so that a backup holds the count and no callback sees such a
    value. A NaN that was computed stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unusable: list[str] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forgets the epoch before, and starts the random numbers of this one."""
        self._unusable = None
        for generator in self.model.generators:
            start_epoch(generator, self.model.epochs_trained.read_value())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes what training left unseen, before validation resets the metrics."""
        self._unusable = self.model.unusable_metrics()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch and cleans its logs."""
        self.model.epochs_trained.assign_add(1)
        if self._unusable is None:
            self._unusable = self.model.unusable_metrics()
        leave_out(self._unusable, {} if logs is None else logs)


def start_epoch(generator: tf.random.Generator, epoch: tf.Tensor) -> None:
    """Makes the random numbers of an epoch a function of (seed, epoch).

    Each replica draws as many as it has rows, and a backup holds the state of one. From
    here on all agree again, and with every other run.

    Args:
        generator: changed in place.
        epoch: its number, int64.
    """
    low, _, key = tf.unstack(generator.state)
    # Keras leaves the key 0 and starts to count at the seed.
    key = tf.where(tf.equal(key, 0), low, key)
    generator.reset_from_key_counter(key, tf.stack([0, epoch]))


def leave_out(names: list[str], logs: dict[str, Any]) -> None:
    """Takes metrics that saw no usable list out of logs, with a warning for each.

    Args:
        names: the metrics.
        logs: values by name; changed in place.
    """
    for name in names:
        if name in logs:
            warnings.warn(
                f"{name} is left out: no list has what it needs",
                stacklevel=3,
            )
            del logs[name]
