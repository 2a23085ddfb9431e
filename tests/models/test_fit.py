"""`fit` and the callbacks of Keras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import (
    Arrays,
    assert_same_state,
    dataset,
    random_requests,
    small_model,
    small_schema,
    state_of,
)
from tfrs_prerank.metrics import NDCG

ARRAYS = random_requests(12, 4)


def of_unknown_length(arrays: Arrays, batch: int) -> tf.data.Dataset:
    """The same batches, all of one static shape, from a generator."""
    known = dataset(arrays, batch)
    signature = {
        name: tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype)
        for name, spec in known.element_spec.items()
    }
    return tf.data.Dataset.from_generator(
        lambda: iter(known), output_signature=signature
    )


def random_states(model: tp.PreRanker) -> list[list[int]]:
    """The states of the generators that dropout draws from."""
    return [generator.state.numpy().tolist() for generator in model.generators]


def test_steps_and_random_draws_are_those_of_the_batches() -> None:
    # Keras finds the end of a generator by a step that fails: it must leave no trace.
    schema = small_schema(id_dropout=0.5)
    states = []
    for batches in (dataset(ARRAYS, 4), of_unknown_length(ARRAYS, 4)):
        model = small_model(schema, dropout=0.5)
        start = random_states(model)
        model.compile()
        model.fit(batches, verbose=0)
        assert model.optimizer.iterations == 3
        assert model.epochs_trained == 1
        states.append(random_states(model))
        assert all(a != b for a, b in zip(start, states[-1], strict=True))
    assert batches.cardinality() == tf.data.UNKNOWN_CARDINALITY
    assert len(states[0]) == 3  # ids, and the units of two towers
    assert states[0] == states[1]


def test_every_variable_exists_before_the_first_step() -> None:
    schema = small_schema(("click", "like"), l2=1e-3, id_dropout=0.1, position=True)
    model = small_model(schema, normalization="batch", dropout=0.1)
    model.compile(metrics=[NDCG(3)])

    def variables() -> dict[str, list[int]]:
        return {
            "network": [id(v) for v in model.network.variables],
            "optimizer": [id(v) for v in model.optimizer.variables],
            "metrics": [id(v) for m in model.metrics for v in m.variables],
            "generators": [id(generator.state) for generator in model.generators],
        }

    before = variables()
    # Adam keeps two variables for each trained one, and its step.
    assert len(before["optimizer"]) == 1 + 2 * len(model.trainable_variables)
    arrays = random_requests(4, 3, ("click", "like"), position=True)
    model.fit(dataset(arrays, 4), verbose=0)
    assert variables() == before


def test_callbacks_of_keras(tmp_path: Path) -> None:
    model = small_model()
    model.compile(tf.keras.optimizers.Adam(0.01), metrics=[NDCG(3)])
    rates = [0.01, 0.003, 3.0, 0.5]
    weights = str(tmp_path / "weights-{epoch}")
    callbacks = [
        tf.keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch]),
        tf.keras.callbacks.ModelCheckpoint(weights, save_weights_only=True),
        tf.keras.callbacks.ModelCheckpoint(str(tmp_path / "run"), verbose=0),
        tf.keras.callbacks.TensorBoard(str(tmp_path / "logs")),
        tf.keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
    ]
    batches = dataset(ARRAYS, 4)
    history = model.fit(
        batches, validation_data=batches, epochs=4, verbose=0, callbacks=callbacks
    ).history
    np.testing.assert_allclose(history["lr"], rates, rtol=1e-6)
    losses = history["val_loss"]
    assert losses[1] < losses[0] < min(losses[2:])

    # Early stopping gave the second epoch's weights back, which a checkpoint holds.
    assert model.epochs_trained == 2
    restored = model.evaluate(batches, return_dict=True, verbose=0)["loss"]
    assert restored == pytest.approx(losses[1], rel=1e-5)
    best = state_of(model)
    model.load_weights(weights.format(epoch=4)).assert_existing_objects_matched()
    assert model.evaluate(batches, return_dict=True, verbose=0)["loss"] == (
        pytest.approx(losses[3], rel=1e-5)
    )
    model.load_weights(weights.format(epoch=2)).assert_existing_objects_matched()
    assert_same_state(best, state_of(model), 0.0)

    # A whole checkpoint is a run directory, of the last epoch.
    loaded = tp.PreRanker.load(tmp_path / "run")
    assert loaded.epochs_trained == 4
    assert loaded.evaluate(batches, return_dict=True, verbose=0)["loss"] == (
        pytest.approx(losses[3], rel=1e-5)
    )

    values = event_values(tmp_path / "logs" / "train")
    for tag in ("loss", "click/sigmoid_cross_entropy", "click/ndcg@3"):
        np.testing.assert_allclose(values[f"epoch_{tag}"], history[tag], rtol=1e-6)

    plateau = tf.keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.1, patience=1, min_delta=1e9
    )
    model.fit(batches, epochs=2, verbose=0, callbacks=[plateau])
    # The first epoch sets the best, the second does not beat it by 1e9. The checkpoint
    # of the second epoch had brought its learning rate back.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * rates[1])


def test_a_diverged_training_keeps_its_loss() -> None:
    model = small_model(scorer="dot")
    model.compile(tf.keras.optimizers.SGD(1e30), metrics=[NDCG(3)])
    batches = dataset(ARRAYS, 4)
    history = model.fit(batches, validation_data=batches, epochs=2, verbose=0).history
    names = ["loss", "click/sigmoid_cross_entropy", "click/ndcg@3"]
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    for name, values in history.items():
        assert len(values) == 2, name
        assert np.isnan(values[1]), name


@pytest.mark.parametrize("wrapped", ["alone", "nested", "list"])
def test_callbacks_are_taken_as_keras_takes_them(wrapped: str) -> None:
    model = small_model(scorer="dot")
    model.compile(tf.keras.optimizers.SGD(1e30))
    callback = tf.keras.callbacks.TerminateOnNaN()
    given = {
        "alone": callback,
        "nested": [(callback,)],
        "list": tf.keras.callbacks.CallbackList(
            [callback], add_history=True, model=model, epochs=5, verbose=0
        ),
    }[wrapped]
    history = model.fit(dataset(ARRAYS, 4), epochs=5, verbose=0, callbacks=given)
    assert history.epoch == [0]
    assert np.isnan(history.history["loss"]).all()
    assert model.epochs_trained == 1
    # What was given is not changed: another fit counts its epochs once, too.
    model.fit(dataset(ARRAYS, 4), epochs=5, verbose=0, callbacks=given)
    assert model.epochs_trained == 2


def event_values(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard would show: the values of each tag."""
    values: dict[str, list[float]] = {}
    for file in folder.glob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" or value.tag:
                    number = tf.make_ndarray(value.tensor)
                    if number.ndim == 0 and number.dtype == np.float32:
                        values.setdefault(value.tag, []).append(float(number))
    return values
