"""Data whose order is a function of the epoch, also after a restart."""

from __future__ import annotations

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
    """Counts finished epochs in the model and keeps NaN out of an epoch's logs."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch, before a backup that follows in the list is written."""
        self.model.epochs_trained.assign_add(1)
        for name in list(logs or {}):
            if logs is not None and logs[name] != logs[name]:
                del logs[name]
