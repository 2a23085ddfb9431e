"""Data whose order is a function of the epoch, also after a restart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def dataset_of_epochs(
    make: Callable[[Any], tf.data.Dataset], epoch: tf.Variable
) -> tf.data.Dataset:
    """Returns a dataset that is `make(epoch)` for the variable's value at its start.

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
    return dataset


class EpochCounter(tf.keras.callbacks.Callback):
    """Counts finished epochs in the model; leaves out of their logs what saw no data.

    It has to come first, so that a backup holds the count and no callback sees such a
    value. A NaN that was computed stays.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unusable: list[str] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forgets the epoch before."""
        self._unusable = None

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes what training left unseen, before validation resets the metrics."""
        self._unusable = self.model.unusable_metrics()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch and cleans its logs."""
        self.model.epochs_trained.assign_add(1)
        if self._unusable is None:
            self._unusable = self.model.unusable_metrics()
        leave_out(self._unusable, {} if logs is None else logs)


def leave_out(names: list[str], logs: dict[str, Any]) -> None:
    """Takes metrics that saw no usable list out of logs, with a warning for each.

    Args:
        names: the metrics.
        logs: values by name; changed in place.
    """
    for name in names:
        if name in logs:
            warnings.warn(
                f"{name} is left out: no list had a label that it can use",
                stacklevel=3,
            )
            del logs[name]
