"""An interrupted training ends where an uninterrupted one does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.resume import model_of, schema_of, shuffled
from tests.models.small import assert_same_state, state_of
from tests.processes import run


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> tp.Schema:
    return schema_of(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def two_epochs(schema: tp.Schema) -> dict[str, np.ndarray]:
    """The state after two epochs without a break."""
    model = model_of(schema)
    model.fit(shuffled(), epochs=2, verbose=0)
    assert model.epochs_trained == 2
    return state_of(model)


def test_the_order_is_another_one_in_each_epoch() -> None:
    first, again, second = (
        np.concatenate([batch["user_id"] for batch in shuffled()(epoch)])
        for epoch in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_saved_and_loaded_in_a_fresh_process(
    two_epochs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    sources = tmp_path / "sources"
    model = model_of(schema_of(sources))
    model.fit(shuffled(), verbose=0)
    model.save(tmp_path / "here" / "run")
    # Nothing may point back to where the files came from.
    shutil.rmtree(sources)
    (tmp_path / "here").rename(tmp_path / "there")
    run(
        "tests.models.resume",
        str(tmp_path / "there" / "run"),
        str(tmp_path / "weights.npz"),
    )
    with np.load(tmp_path / "weights.npz") as weights:
        resumed = {name: weights[name] for name in weights.files}
    assert_same_state(two_epochs, resumed, 1e-6)
    # One epoch more makes a difference that the comparison can see.
    after_one = state_of(model)
    assert max(np.abs(after_one[n] - two_epochs[n]).max() for n in resumed) > 1e-3


class _Stop(tf.keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        raise KeyboardInterrupt


def test_backup_and_restore(
    schema: tp.Schema, two_epochs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    def backup() -> tf.keras.callbacks.Callback:
        return tf.keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    interrupted = model_of(schema)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(shuffled(), epochs=2, verbose=0, callbacks=[backup(), _Stop()])
    assert interrupted.optimizer.iterations == 4
    fresh = model_of(schema, seed=2)
    history = fresh.fit(shuffled(), epochs=2, verbose=0, callbacks=[backup()])
    assert history.epoch == [1]
    assert fresh.epochs_trained == 2
    assert fresh.optimizer.iterations == 8
    assert_same_state(two_epochs, state_of(fresh), 1e-6)
