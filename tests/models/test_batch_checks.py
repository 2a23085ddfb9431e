"""A batch that does not fit the schema is refused with one line."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.models.small import (
    assert_same_state,
    dataset,
    random_requests,
    small_model,
    small_schema,
    state_of,
    take,
)
from tfrs_prerank.models.columns import check_batch

ARRAYS = random_requests(2, 3, position=True)
BATCH = take(ARRAYS, 0, 2)
ONES = tf.ones([2, 3])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"user_id": None}, KeyError, "the batch has no 'user_id'"),
        ({"year": None, "yaer": ONES}, KeyError, "no 'year'; did you mean 'yaer'"),
        ({"mask": None}, KeyError, "the batch has no 'mask'"),
        ({"doc_ids": None}, KeyError, "the batch has no 'doc_ids'"),
        ({"city": ONES}, ValueError, "'city' is not in the schema; known: "),
        ({"years": ONES}, ValueError, "'years' is not.*did you mean 'year'"),
        ({"postion": ONES}, ValueError, "'postion' is not.*did you mean 'position'"),
        (
            {"user_id": tf.constant([1, 2])},
            TypeError,
            "user_id: string is declared. Received: a tensor of int32",
        ),
        ({"year": tf.ones([2, 3], tf.float64)}, TypeError, "year: float32.*float64"),
        ({"year": tf.ones([2])}, ValueError, r"year: 2 dimensions.*shape \(2,\)"),
        (
            {"history": tf.fill([2], "a")},
            ValueError,
            r"history: 2 dimensions.*shape \(2,\)",
        ),
        (
            {"user_id": tf.fill([2, 3], "a")},
            ValueError,
            r"user_id: 1 dimensions.*shape \(2, 3\)",
        ),
        ({"doc_ids": tf.ones([2, 3], tf.int64)}, TypeError, "doc_ids: string.*int64"),
        ({"mask": ONES}, TypeError, r"mask: a bool tensor \[B, L\].*float32"),
        ({"mask": tf.ones([2], tf.bool)}, TypeError, r"mask: a bool.*shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(
    change: dict, kind: type[Exception], message: str
) -> None:
    changed = {**BATCH, **change}
    batch = {name: value for name, value in changed.items() if value is not None}
    with pytest.raises(kind, match=message) as caught:
        check_batch(small_schema(), batch)
    assert "\n" not in str(caught.value)


def test_labels_and_columns_of_the_batch_itself_are_no_extra_ones() -> None:
    others = {"teacher/click": ONES, "weight/like": ONES, "time": tf.zeros([2])}
    check_batch(small_schema(), {**BATCH, **others}, training=True)


def test_training_only_columns_are_needed_in_training_only() -> None:
    schema = small_schema(position=True)
    batch = {name: value for name, value in BATCH.items() if name != "position"}
    check_batch(schema, batch)
    with pytest.raises(KeyError, match="no 'position', a training_only feature"):
        check_batch(schema, batch, training=True)


def test_numbers_in_the_place_of_strings_stop_before_training() -> None:
    arrays = {**ARRAYS, "movie_id": np.ones([2, 3], np.int64)}
    model = small_model()
    model.compile()
    before = state_of(model)
    with pytest.raises(TypeError, match=r"movie_id: string is declared.*int64"):
        model.fit(dataset(arrays, 2), verbose=0)
    assert model.optimizer.iterations == 0
    assert_same_state(before, state_of(model), 0.0)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
def test_missing_labels_are_named(method: str) -> None:
    model = small_model(small_schema(("click", "like")))
    model.compile(run_eagerly=True)
    with pytest.raises(KeyError, match="no 'label/like', the labels of task 'like'"):
        getattr(model, method)(BATCH)


def test_labels_beside_the_batch_are_refused() -> None:
    model = small_model()
    model.compile(run_eagerly=True)
    with pytest.raises(TypeError, match=r"one flat dict.*'label/<task>'.*a tuple"):
        model.train_on_batch(BATCH, ONES)
