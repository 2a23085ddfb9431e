"""Several hashes into one table: values that collide in one of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features import Categorical, DocumentTable
from tfrs_prerank.features.encoders import make_encoder, make_tables

# Rows of two hashes in 3 buckets, plus 1:
# b [2, 3], h [2, 2], j [1, 2]; b and h share the row of the first.
ROWS = [[10, 20], [1, 2], [3, 5], [8, -4]]
B, H, J, NONE = [5.5, 0.5], [3, 5], [2, 3.5], [10, 20]


def encoder_of(**keys: Any) -> Any:
    feature = Categorical("town", "query", buckets=3, hashes=2, dimension=2, **keys)
    other = Categorical("city", "doc", buckets=3)
    tables = make_tables(tp.Schema([feature, other], [tp.Task("click")]))
    tables["town"].embeddings.assign(ROWS)
    return make_encoder(feature, tables)


def test_a_value_is_the_mean_of_its_rows() -> None:
    field = encoder_of()(tf.constant(["b", "h", "j", ""]))
    # b: ([3, 5] + [8, -4]) / 2; a missing value is row 0 once.
    np.testing.assert_allclose(field, [B, H, J, NONE])


def test_one_hash_is_as_before() -> None:
    encoder = encoder_of()
    field = encoder(tf.constant(["b", "h"]))
    assert not np.allclose(field[0], field[1])
    feature = Categorical("town", "query", buckets=3, dimension=2)
    other = Categorical("city", "doc", buckets=3)
    tables = make_tables(tp.Schema([feature, other], [tp.Task("click")]))
    tables["town"].embeddings.assign(ROWS)
    field = make_encoder(feature, tables)(tf.constant(["b", "h", ""]))
    np.testing.assert_allclose(field, [ROWS[2], ROWS[2], NONE])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [np.mean([B, H], axis=0), J, [0, 0]]),
        ("sum", [np.add(B, H), J, [0, 0]]),
    ],
)
def test_several_values(pooling: Any, expected: Any) -> None:
    encoder = encoder_of(max_values=2, pooling=pooling)
    field = encoder(tf.constant([["b", "h"], ["j", ""], ["", ""]]))
    np.testing.assert_allclose(field, expected)


def test_a_value_is_dropped_with_all_its_rows() -> None:
    tf.keras.utils.set_random_seed(0)
    encoder = encoder_of(id_dropout=0.3)
    count = 5000
    with tf.GradientTape() as tape:
        field = encoder(tf.constant(["b"] * count), training=True)
        total = tf.reduce_sum(field[:, 0])
    dropped = (field.numpy() == NONE).all(axis=1)
    assert (field.numpy()[~dropped] == np.float32(B)).all()
    # Three standard deviations of a share of .3 among 5,000 are .019.
    assert abs(dropped.mean() - 0.3) < 0.02
    gradient = tape.gradient(total, encoder.table.embeddings)
    assert isinstance(gradient, tf.IndexedSlices)
    # Row 0 counts once for a dropped value, both rows by a half for the others.
    per_row = tf.convert_to_tensor(gradient)[:, 0].numpy()
    kept = count - dropped.sum()
    np.testing.assert_allclose(per_row, [dropped.sum(), 0, kept / 2, kept / 2])
    again = encoder(tf.constant(["b"] * count), training=False).numpy()
    assert (again == np.float32(B)).all()


def test_l2_counts_rows() -> None:
    encoder = encoder_of(max_values=2, l2=0.1)
    encoder(tf.constant([["b", "j"], ["h", ""]]), training=True)
    (penalty,) = encoder.losses
    # |row|^2 is 5, 34 and 80: b has 34 + 80, j 5 + 34, h 34 + 34; six rows, no pad.
    expected = 0.1 * (34 + 80 + 5 + 34 + 34 + 34) / 6
    np.testing.assert_allclose(penalty, expected, rtol=1e-6)


def test_a_history_shares_both_hashes() -> None:
    film = Categorical("film", "doc", buckets=3, hashes=2, dimension=2)
    history = tp.Sequence("history", shares="film", max_length=3, encoder="mean")
    user = Categorical("user", "query", buckets=3)
    tables = make_tables(tp.Schema([user, history, film], [tp.Task("click")]))
    tables["film"].embeddings.assign(ROWS)
    encoder = make_encoder(history, tables)
    field = encoder({"history": tf.constant([["b", "j", ""], ["", "", ""]])}, None)
    np.testing.assert_allclose(field, [np.mean([B, J], axis=0), [0, 0]])


@pytest.mark.parametrize("dtype", ["string", "int64"])
def test_an_export_scores_as_the_model(dtype: Any, tmp_path: Path) -> None:
    schema = tp.Schema(
        [
            Categorical("user", "query", buckets=5, hashes=3, dimension=4),
            tp.Sequence("history", shares="film", max_length=2, dtype=dtype),
            Categorical("film", "doc", buckets=5, hashes=2, dimension=4, dtype=dtype),
            tp.Match("seen", "history", "film", "contains"),
        ],
        [tp.Task("click")],
        doc_id=dtype,
    )
    tf.keras.utils.set_random_seed(1)
    tower = tp.Tower((8,), dimension=4, output=4)
    model = tp.PreRanker(schema, tower, tower, tp.Tower((4,), dimension=4))
    films = np.arange(12)
    if dtype == "string":
        films = films.astype(str).astype(object)
    documents = DocumentTable(ids=films, columns={"film": films})
    exported = tp.export(model, documents, tmp_path / "model", warmup_lengths=())
    loaded = tf.saved_model.load(str(exported.path))
    request = {
        "user": tf.constant(["anna", ""]),
        "history": tf.constant([list(films[:2]), list(films[2:4])], dtype),
        "doc_ids": tf.constant([list(films)] * 2, dtype),
    }
    scores = loaded.signatures["serving_default"](**request)["scores"]
    mask = tf.ones([2, 12], tf.bool)
    batch = {**request, "film": request["doc_ids"], "mask": mask}
    np.testing.assert_allclose(scores, model(batch)["scores"], atol=1e-5)
    # One hash could tell five of the twelve films apart.
    vectors = loaded.table.vectors.numpy()
    assert len(np.unique(vectors.round(6), axis=0)) > 5


def test_hashes_need_buckets() -> None:
    with pytest.raises(
        ConfigurationError, match=r"hashes does nothing with buckets=None.*hashes=2"
    ):
        Categorical("town", "query", hashes=2)
    with pytest.raises(ConfigurationError, match="hashes must be at least 1"):
        Categorical("town", "query", buckets=3, hashes=0)
