"""The ranker, its privileged features, and what a pre-ranker learns from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import (
    Arrays,
    assert_same_state,
    dataset,
    padded,
    random_requests,
    small_model,
    small_schema,
    state_of,
    take,
)
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.models import RankerConfig
from tfrs_prerank.objectives.terms import term_sums

TOWER = tp.Tower((6,), dimension=4, normalization="batch")
SHARED = tp.Numeric("shared", "cross", dimension=4, privileged=True)
SAME = tp.Match("same", "history", "movie_id", "contains", dimension=4, privileged=True)
LISTS = "softmax_cross_entropy"
BOTH = tp.Objective((tp.Term("click", LISTS), tp.Term("click", "distillation")))


def schema_of(*more: Any) -> tp.Schema:
    """The small schema with privileged features."""
    schema = small_schema()
    return dataclasses.replace(schema, features=(*schema.features, SHARED, SAME, *more))


def requests(number: int = 6, length: int = 5, seed: int = 0) -> Arrays:
    arrays = random_requests(number, length, seed=seed)
    drawn = np.random.default_rng(seed).normal(size=arrays["mask"].shape)
    shared = np.where(arrays["mask"], drawn, 0).astype(np.float32)
    return arrays | {"shared": shared}


def ranker_of(schema: tp.Schema | None = None, **parts: Any) -> tp.Ranker:
    tf.keras.utils.set_random_seed(3)
    return tp.Ranker(schema or schema_of(), parts.pop("tower", TOWER), **parts)


def joint_of(objective: tp.Objective = BOTH, **parts: Any) -> tp.PreRanker:
    return small_model(
        schema_of(), objective=objective, ranker=RankerConfig(TOWER, **parts)
    )


# The single tower.


def test_a_logit_is_made_of_the_fields_of_both_sides_and_of_the_pair() -> None:
    numbers = [
        tp.Numeric("a", "query", dimension=1),
        tp.Numeric("b", "doc", dimension=1),
        tp.Numeric("c", "cross", dimension=1, privileged=True),
        tp.Match("d", "a", "b", "difference", dimension=1, privileged=True),
    ]
    schema = tp.Schema(numbers, [tp.Task("click")], doc_id="int64")
    ranker = tp.Ranker(schema, tp.Tower(units=(), dimension=1))
    assert ranker.network.tower.fields.field_names == ["a", "b", "c", "d"]
    for encoder in ranker.network.tower.fields.encoders.values():
        for of_feature in encoder.encoders.values():
            of_feature.kernel.assign([1.0])
    kernel = np.array([[1.0], [10.0], [100.0], [1000.0]])
    ranker.network.tower.head.set_weights([kernel, np.array([0.5])])
    batch = {
        "a": tf.constant([1.0, 2.0]),
        "b": tf.constant([[3.0, 4.0], [5.0, 0.0]]),
        "c": tf.constant([[5.0, 6.0], [7.0, 0.0]]),
        "doc_ids": tf.constant([[1, 2], [3, -1]], tf.int64),
        "mask": tf.constant([[True, True], [True, False]]),
    }
    # 1 + 10 * 3 + 100 * 5 + 1000 * (1 - 3) + .5 and so on; 0 in padding.
    expected = [[-1468.5, -2358.5], [-2247.5, 0.0]]
    assert ranker(batch)["click"].numpy().tolist() == expected
    assert ranker(batch)["scores"].numpy().tolist() == expected


@pytest.mark.parametrize("attention", ["target_attention", "zero_attention"])
def test_each_document_attends_to_the_history_of_its_request(attention: Any) -> None:
    ranker = ranker_of(attention=attention)
    arrays = requests()
    fields = ranker.network.tower.fields
    batch = take(arrays, 0, 6)
    index = np.flatnonzero(arrays["mask"].ravel())
    encoded = fields(ranker.network._pairs(batch, tf.constant(index))).numpy()
    assert fields.field_names == [
        "user_id", "movie_id", "year", "seen", "shared", "same", "history",
    ]  # fmt: skip
    table = ranker.network.tables["movie_id"]
    for row, place in enumerate(index):
        request = place // 5
        keys = table(table.rows_of(batch["history"][request : request + 1]))
        # All the other fields of the pair, which nothing of its list changes.
        target = encoded[row : row + 1, :6].reshape(1, -1)
        expected = fields.attentions["history"](target, keys, tf.fill([1, 3], True))
        np.testing.assert_allclose(encoded[row, 6], expected[0], rtol=1e-4, atol=1e-6)
    own = encoded[index // 5 == 0, 6]
    assert np.ptp(own, axis=0).max() > 1e-6  # a history differs between documents


def test_a_score_depends_on_no_other_document_and_on_no_padding() -> None:
    ranker = ranker_of()
    arrays = requests()
    scores = ranker(take(arrays, 0, 6))["scores"].numpy()
    longer = padded(arrays, 2, garbage=True)
    longer["shared"] = np.nan_to_num(longer["shared"])
    again = ranker(take(longer, 0, 6))["scores"].numpy()
    np.testing.assert_allclose(again[:, :5], scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(again[:, 5:], 0)
    alone = {
        name: values[:, 1:2] if values.ndim > 1 and name != "history" else values
        for name, values in arrays.items()
    }
    np.testing.assert_allclose(
        ranker(take(alone, 0, 6))["scores"][:, 0], scores[:, 1], rtol=1e-5, atol=1e-6
    )


def test_a_ranker_trains_and_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    ranker = ranker_of(objective=LISTS, attention="zero_attention")
    ranker.compile(tp.LazyAdam(0.05), metrics=[tp.metrics.NDCG(2)])
    data = dataset(requests(), 3)
    losses = ranker.fit(data, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    ranker.save(tmp_path / "run")
    loaded = tp.Ranker.load(tmp_path / "run")
    assert loaded.declarations == RankerConfig(TOWER, "zero_attention")
    assert_same_state(state_of(ranker), state_of(loaded), 0.0)
    assert loaded.optimizer.iterations == 16
    batch = take(requests(seed=1), 0, 6)
    np.testing.assert_array_equal(ranker(batch)["scores"], loaded(batch)["scores"])
    with pytest.raises(ConfigurationError, match=r"no 'model' but a 'ranker'; .* Rank"):
        tp.PreRanker.load(tmp_path / "run")
    small_model().save(tmp_path / "other")
    with pytest.raises(ConfigurationError, match=r"no 'ranker' but a 'model'; .* PreR"):
        tp.Ranker.load(tmp_path / "other")


def test_every_weight_has_a_gradient_and_exists_from_the_start() -> None:
    ranker = ranker_of()
    names = [variable.name for variable in ranker.variables]
    batch = take(requests(), 0, 6)
    with tf.GradientTape() as tape:
        ((value, _),) = ranker.compute(batch, training=True).sums.values()
    gradients = tape.gradient(value, ranker.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert names == [variable.name for variable in ranker.variables]


def test_a_ranker_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"a Ranker, which is run for each pair, is not"
    ):
        tp.export(ranker_of(), None, tmp_path / "model")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_ranker_has_no_vectors() -> None:
    for loss in ("in_batch_softmax", "contrastive"):
        with pytest.raises(ConfigurationError, match=f"{loss} compares vectors, and a"):
            ranker_of(objective=loss)


# Privileged features.


def test_a_preranker_does_not_see_privileged_features() -> None:
    model = small_model(schema_of())
    arrays = requests()
    scores = model(take(arrays, 0, 6))["scores"]
    del arrays["shared"]
    np.testing.assert_array_equal(model(take(arrays, 0, 6))["scores"], scores)
    model.compile()
    model.fit(dataset(arrays, 3), verbose=0)
    assert "shared" not in model.network.schema.columns()
    assert model.network.cross_tower.fields.field_names == ["seen"]
    assert "shared" not in model.draw() and "seen" in model.draw()
    with pytest.raises(KeyError, match="no 'shared'"):
        ranker_of()(take(arrays, 0, 6))


def test_what_a_preranker_reads_rests_on_no_privileged_feature() -> None:
    hidden = tp.Categorical("album", "doc", buckets=4, privileged=True)
    for feature in (
        tp.Sequence("albums", shares="album"),
        tp.Match("match", "user_id", "album", "equal"),
    ):
        with pytest.raises(ConfigurationError, match="'album', which is privileged"):
            schema_of(hidden, feature)
        schema_of(hidden, dataclasses.replace(feature, privileged=True))
    with pytest.raises(ConfigurationError, match="privileged and training_only"):
        schema_of(tp.Numeric("place", "doc", privileged=True, training_only=True))
    with pytest.raises(ConfigurationError, match=r"without the privileged .* owner=.d"):
        features = [tp.Numeric("a", "query"), tp.Numeric("b", "doc", privileged=True)]
        tp.Schema(features, [tp.Task("click")])


# A teacher of the log.


def test_teach_adds_logits_and_leaves_the_rest() -> None:
    ranker = ranker_of()
    arrays = requests()
    batch = take(arrays, 0, 6) | {"teacher/other": tf.zeros([6, 5])}
    taught = ranker.teach(batch)
    assert set(taught) == {*batch, "teacher/click"}
    teacher = taught["teacher/click"].numpy()
    np.testing.assert_array_equal(np.isnan(teacher), ~arrays["mask"])
    logits = ranker(take(arrays, 0, 6))["click"].numpy()
    np.testing.assert_array_equal(teacher[arrays["mask"]], logits[arrays["mask"]])


def test_a_preranker_learns_the_order_of_its_teacher() -> None:
    ranker = ranker_of()
    data = dataset(requests(24), 8).map(ranker.teach).cache()
    model = small_model(
        schema_of(), objective=tp.Objective((tp.Term("click", "distillation"),))
    )
    model.compile(tp.LazyAdam(0.02), metrics=[tp.metrics.KendallTau()])
    before = model.evaluate(data, return_dict=True, verbose=0)
    model.fit(data, epochs=30, verbose=0)
    after = model.evaluate(data, return_dict=True, verbose=0)
    name = "click/distillation"
    assert after[name] < 0.3 * before[name]


def test_what_a_teacher_reads_is_a_number() -> None:
    ranker = ranker_of()
    arrays = requests()
    row, column = np.argwhere(~arrays["mask"])[0]
    arrays["shared"][row, column] = np.nan  # padding may hold anything
    ranker.teach(take(arrays, 0, 6))
    arrays["shared"][0, 0] = np.inf
    with pytest.raises(tf.errors.InvalidArgumentError, match="teach: shared: NaN or"):
        ranker.teach(take(arrays, 0, 6))


def test_learning_from_a_teacher_leaves_the_bias_of_training_alone() -> None:
    schema = small_schema(position=True)
    schema = dataclasses.replace(schema, features=(*schema.features, SHARED))
    drawn = np.zeros([6, 5], np.float32)
    arrays = random_requests(6, 5, position=True) | {"shared": drawn}
    batch = take(arrays, 0, 6)
    model = small_model(schema, objective=BOTH, ranker=RankerConfig(TOWER))
    for bias in (model.network.bias_model, model.ranker.bias_model):
        for variable in bias.trainable_variables:
            variable.assign(tf.ones_like(variable))
    with tf.GradientTape(persistent=True) as tape:
        sums = model.compute(batch, training=True).sums
    own = model.network.bias_model.trainable_variables
    gradients = tape.gradient(sums["click/distillation"][0], own)
    assert gradients == [None] * len(own)
    assert all(g is not None for g in tape.gradient(sums["click/" + LISTS][0], own))
    # The ranker's bias is not taught either.
    for variable in model.ranker.bias_model.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    again = model.compute(batch, training=True).sums["click/distillation"][0]
    np.testing.assert_allclose(again, sums["click/distillation"][0], rtol=1e-5)


# A teacher that is trained jointly.


def test_the_teacher_gets_no_gradient_from_the_student() -> None:
    model = joint_of()
    batch = take(requests(), 0, 6)
    with tf.GradientTape(persistent=True) as tape:
        sums = model.compute(batch, training=True).sums
    assert list(sums) == ["ranker/click/" + LISTS, "click/" + LISTS, BOTH.terms[1].name]
    own = model.ranker.tower.trainable_variables
    shared = {id(variable) for variable in model.network.trainable_variables}
    own = [variable for variable in own if id(variable) not in shared]
    assert len(own) > 10
    learned = tape.gradient(sums["ranker/click/" + LISTS][0], own)
    assert all(gradient is not None for gradient in learned)
    for name in ("click/" + LISTS, "click/distillation"):
        assert tape.gradient(sums[name][0], own) == [None] * len(own)


def test_the_student_learns_from_the_ranker_and_not_from_the_log() -> None:
    model = joint_of()
    batch = take(requests(), 0, 6)
    log = batch | {"teacher/click": tf.fill([6, 5], 7.0)}
    forward = model.network(batch, training=False)
    expected = term_sums(BOTH.terms[1], model.teach(batch), forward, 0)
    for given in (batch, log):
        value, count = model.compute(given, training=False).sums["click/distillation"]
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        assert count == expected[1]
    with pytest.raises(ConfigurationError, match="no ranker is trained jointly"):
        small_model().teach(batch)


def test_a_joint_ranker_shares_the_tables_and_has_its_own_of_privileged_ids() -> None:
    album = tp.Categorical("album", "doc", buckets=4, dimension=4, privileged=True)
    model = small_model(schema_of(album), objective=BOTH, ranker=RankerConfig(TOWER))
    assert model.ranker.tables["movie_id"] is model.network.tables["movie_id"]
    assert set(model.ranker.tables) - set(model.network.tables) == {"album"}


def test_a_shared_table_is_penalised_once() -> None:
    schema = small_schema(l2=0.5)
    album = tp.Categorical(
        "album", "doc", buckets=4, dimension=4, l2=0.5, privileged=True
    )
    schema = dataclasses.replace(schema, features=(*schema.features, album))
    arrays = requests()
    del arrays["shared"]
    arrays["album"] = arrays["movie_id"]
    batch = take(arrays, 0, 6)
    alone = small_model(schema).compute(batch, training=True).penalties
    joint = small_model(schema, objective=BOTH, ranker=RankerConfig(TOWER))
    table = joint.ranker.tables["album"]
    penalties = joint.compute(batch, training=True).penalties
    squares = tf.reduce_sum(table.embeddings**2, axis=-1)
    seen = tf.gather(
        squares, table.rows_of(tf.boolean_mask(batch["album"], batch["mask"]))
    )
    expected = sum(alone) + 0.5 * tf.reduce_mean(seen)
    np.testing.assert_allclose(sum(penalties), expected, rtol=1e-5)


def test_a_joint_model_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    model = joint_of(attention="zero_attention")
    model.compile(tp.LazyAdam(0.01))
    logs = model.fit(dataset(requests(), 3), epochs=2, verbose=0).history
    assert set(logs) == {
        "loss", "click/" + LISTS, "click/distillation", "ranker/click/" + LISTS,
    }  # fmt: skip
    parts = [values[-1] for name, values in logs.items() if name != "loss"]
    np.testing.assert_allclose(logs["loss"][-1], sum(parts), rtol=1e-6)
    model.save(tmp_path / "run")
    loaded = tp.PreRanker.load(tmp_path / "run")
    assert loaded.declarations == model.declarations
    batch = take(requests(seed=1), 0, 6)
    for read in (
        lambda m: m(batch)["scores"],
        lambda m: m.teach(batch)["teacher/click"],
    ):
        np.testing.assert_array_equal(read(model), read(loaded))


def test_distillation_waits_for_the_ranker() -> None:
    waits = tp.Objective(
        (BOTH.terms[0], tp.Term("click", "distillation", warmup_steps=2))
    )
    alone = tp.Objective(BOTH.terms[:1])
    ranker = ranker_of()
    data = dataset(requests(8), 4).map(ranker.teach)  # two steps

    def trained(objective: tp.Objective, epochs: int) -> dict[str, np.ndarray]:
        model = small_model(schema_of(), objective=objective)
        model.compile(tp.LazyAdam(0.01))
        model.fit(data, epochs=epochs, verbose=0)
        return state_of(model)

    assert_same_state(trained(waits, 1), trained(alone, 1), 1e-7)
    with pytest.raises(AssertionError):
        assert_same_state(trained(waits, 2), trained(alone, 2), 1e-4)


def test_a_joint_ranker_needs_labels_and_a_student_that_learns_from_it() -> None:
    with pytest.raises(ConfigurationError, match="does not learn from it; add a term"):
        joint_of(tp.Objective(BOTH.terms[:1]))
    with pytest.raises(ConfigurationError, match="no term compares logits with them"):
        joint_of(tp.Objective(BOTH.terms[1:]))
