"""The bias of training-only features: in training, and nowhere else."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.models.small import (
    dataset,
    random_requests,
    small_model,
    small_schema,
    take,
)

ARRAYS = random_requests(6, 4, position=True)


def test_the_bias_is_added_in_training_only() -> None:
    model = small_model(small_schema(position=True))
    batch = take(ARRAYS, 0, 6)
    mask = ARRAYS["mask"]
    table = model.network.bias_model.fields.encoders["position"].table
    projection = model.network.bias_model.fields.projections["position"]
    projection.kernel.assign([[1.0], [0.0], [0.0], [0.0]])
    # The bias of a position is the first number of its row: 100 + the row.
    rows = np.arange(table.lookup.rows, dtype=np.float32)
    table.embeddings.assign(np.tile(100 + rows[:, np.newaxis], [1, 4]))
    served = model(batch)["click"].numpy()
    trained = model(batch, training=True)["click"].numpy()
    row = table.rows_of(tf.cast(batch["position"], tf.int64)).numpy()
    assert len(set(row[mask])) > 1
    np.testing.assert_allclose((trained - served)[mask], 100 + row[mask], rtol=1e-4)
    np.testing.assert_array_equal(trained[~mask], 0.0)
    # Absent where scores are served or measured.
    without = {name: value for name, value in batch.items() if name != "position"}
    np.testing.assert_array_equal(model(without)["click"], served)
    model.compile()
    arrays = {name: a for name, a in ARRAYS.items() if name != "position"}
    predicted = model.predict(dataset(arrays, 6), verbose=0)["click"]
    np.testing.assert_allclose(predicted, served, atol=1e-6)
    loss = model.evaluate(dataset(arrays, 6), return_dict=True, verbose=0)["loss"]
    assert loss < 20
    # Logits of about 100 cost about 100 for each negative.
    assert model.train_on_batch(batch, return_dict=True)["loss"] > 20


def test_the_bias_takes_up_what_positions_explain() -> None:
    # Clicks come from the first place alone; the documents know nothing of it.
    arrays = random_requests(32, 4, position=True)
    arrays["mask"][:] = True
    arrays["position"][:] = np.arange(4)
    arrays["label/click"][:] = np.arange(4) == 0
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile(["a", "b", "c", "d"], (32, 1)), axis=1)
    for name in ("movie_id", "doc_ids"):
        arrays[name] = ids.astype(object)
    arrays["year"][:] = 0.0
    model = small_model(small_schema(position=True))
    model.compile(tf.keras.optimizers.Adam(0.05))
    model.fit(dataset(arrays, 32), epochs=60, verbose=0)
    trained = model(take(arrays, 0, 32), training=True)["click"].numpy()
    served = model(take(arrays, 0, 32))["click"].numpy()
    first, others = trained[:, 0], trained[:, 1:]
    assert first.min() > others.max() + 2
    assert abs(served[:, 0].mean() - served[:, 1:].mean()) < 1
