"""Daily retraining: what a model takes over from the run before it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.resume import model_of, schema_of, shuffled
from tests.models.small import (
    assert_same_state,
    dataset,
    random_requests,
    small_model,
    small_schema,
    state_of,
    take,
)
from tests.models.tiny_bert import tiny_bert
from tests.processes import Replicas, four_replicas
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.models.warm_start import WarmStart
from tfrs_prerank.optimizers import slots_of

ARRAYS = random_requests(16, 4)
MOVIES = [f"m{number}" for number in range(10)]


def with_movies(schema: tp.Schema, path: Path, movies: list[str]) -> tp.Schema:
    path.write_text("".join(f"{movie}\n" for movie in movies), encoding="utf-8")
    return changed(schema, "movie_id", vocabulary=str(path))


def changed(schema: tp.Schema, name: str, /, **keys: Any) -> tp.Schema:
    features = tuple(
        dataclasses.replace(f, **keys) if f.name == name else f for f in schema.features
    )
    return dataclasses.replace(schema, features=features)


def rows_and_slots(model: tp.PreRanker, feature: str) -> list[np.ndarray]:
    """A table, and the two moments that the optimiser keeps of it."""
    table = model.network.tables[feature].embeddings
    (place,) = [n for n, v in enumerate(model.trainable_variables) if v is table]
    slots = [slots[place].numpy() for slots in slots_of(model.optimizer).values()]
    assert len(slots) == 2
    return [table.numpy(), *slots]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> tp.Schema:
    return schema_of(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def yesterday(
    schema: tp.Schema, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tp.PreRanker, Path]:
    """A model after an epoch, and its run directory."""
    model = model_of(schema)
    model.fit(shuffled(), verbose=0)
    run = tmp_path_factory.mktemp("yesterday") / "run"
    model.save(run)
    return model, run


def test_rows_and_slots_go_by_token(
    schema: tp.Schema, yesterday: tuple[tp.PreRanker, Path], tmp_path: Path
) -> None:
    old, run = yesterday
    # In another order, without m3 and m7, with three new ones between the others.
    movies = ["new1", *MOVIES[:3], "new2", *reversed(MOVIES[4:7]), "m9", "m8", "new3"]
    model = model_of(with_movies(schema, tmp_path / "movies.txt", movies), seed=5)
    before = rows_and_slots(model, "movie_id")
    started = model.warm_start(run)
    movie = next(table for table in started.tables if table.name == "movie_id")
    assert (movie.kept, movie.new, movie.dropped) == (8, 3, 2)
    assert movie.new_examples == ("new1", "new2", "new3")
    assert movie.dropped_examples == ("m3", "m7")
    for was, initial, now in zip(
        rows_and_slots(old, "movie_id"),
        before,
        rows_and_slots(model, "movie_id"),
        strict=True,
    ):
        np.testing.assert_array_equal(now[0], was[0])
        for row, token in enumerate(movies, start=1):
            if token.startswith("new"):
                np.testing.assert_array_equal(now[row], initial[row])
            else:
                np.testing.assert_array_equal(now[row], was[1 + MOVIES.index(token)])
    # Something was learned that could be lost.
    assert np.abs(rows_and_slots(old, "movie_id")[1]).max() > 0
    assert started.steps == model.optimizer.iterations == 4
    assert "8 rows kept, 3 new (new1, new2, new3), 2 dropped (m3, m7)" in str(started)
    assert "optimizer    goes on at step 4" in str(started)


def test_one_epoch_more_is_that_of_a_resumed_training(
    schema: tp.Schema, yesterday: tuple[tp.PreRanker, Path]
) -> None:
    _, run = yesterday
    resumed = tp.PreRanker.load(run)
    resumed.fit(shuffled(), verbose=0)
    model = model_of(schema)
    started = model.warm_start(run)
    assert not any(table.new or table.dropped for table in started.tables)
    assert not any(part.anew for part in started.parts)
    assert model.epochs_trained == 0
    # The same order of the requests, and the same units dropped.
    model.epochs_trained.assign(1)
    model.fit(shuffled(), verbose=0)
    assert_same_state(state_of(resumed), state_of(model), 1e-6)
    for left, right in zip(
        resumed.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_allclose(left, right, atol=1e-6)


def start(before: tp.PreRanker, after: tp.PreRanker, folder: Path) -> WarmStart:
    before.save(folder / "run")
    return after.warm_start(folder / "run")


def of(started: WarmStart, name: str) -> Any:
    (found,) = [p for p in (*started.tables, *started.parts) if p.name == name]
    return found


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (
            {"buckets": 30},
            "string values in 30 buckets, hashes=1, "
            "before string values in 20 buckets, hashes=1",
        ),
        ({"hashes": 2}, "in 20 buckets, hashes=2, before string values in 20"),
        ({"dimension": 8}, "dimension 8, before 4"),
    ],
)
def test_hash_buckets_are_kept_where_they_mean_the_same(
    keys: dict[str, int], why: str, tmp_path: Path
) -> None:
    before = small_model()
    after = small_model(changed(small_schema(), "user_id", **keys), seed=2)
    initial = after.network.tables["user_id"].embeddings.numpy()
    movies = before.network.tables["movie_id"].embeddings.numpy()
    started = start(before, after, tmp_path)
    user, movie = of(started, "user_id"), of(started, "movie_id")
    assert (user.kept, movie.kept, movie.anew) == (0, 21, None)
    assert why in user.anew
    np.testing.assert_array_equal(
        after.network.tables["user_id"].embeddings.numpy(), initial
    )
    np.testing.assert_array_equal(
        after.network.tables["movie_id"].embeddings.numpy(), movies
    )
    assert started.slots_anew == "the model is not compiled"


@pytest.mark.parametrize(("boundary", "kept"), [(0.0, 2), (0.5, 0)])
def test_buckets_of_numbers_are_kept_with_their_boundaries(
    boundary: float, kept: int, tmp_path: Path
) -> None:
    schema = changed(small_schema(), "year", boundaries=(0.0,))
    after = changed(schema, "year", boundaries=(boundary,))
    started = start(small_model(schema), small_model(after, seed=2), tmp_path)
    assert of(started, "year").kept == kept
    if not kept:
        assert of(started, "year").anew == "the boundaries of the buckets differ"


def test_a_wider_tower_begins_anew_where_it_is_wider(tmp_path: Path) -> None:
    def model(units: int, seed: int) -> tp.PreRanker:
        tf.keras.utils.set_random_seed(seed)
        query = tp.Tower((units, 6), dimension=4, output=4)
        other = tp.Tower((8,), dimension=4, output=4)
        return tp.PreRanker(small_schema(), query, other, other)

    before, after = model(8, 1), model(10, 2)
    initial = after.network.query_tower.mlp.layers[0].kernel.numpy()
    started = start(before, after, tmp_path)
    # [8 fields' numbers, units] of the first layer, its bias and the second's kernel.
    assert set(of(started, "query_tower").anew.values()) == {
        "[8, 10], before [8, 8]",
        "[10], before [8]",
        "[10, 6], before [8, 6]",
    }
    assert "1 anew (mlp/steps/1/0/kernel): [10, 6], before [8, 6]" in str(started)
    old, new = before.network, after.network
    np.testing.assert_array_equal(new.query_tower.mlp.layers[0].kernel, initial)
    np.testing.assert_array_equal(
        new.query_tower.mlp.layers[2].bias, old.query_tower.mlp.layers[2].bias
    )
    np.testing.assert_array_equal(
        new.query_tower.head.kernel, old.query_tower.head.kernel
    )
    assert of(started, "doc_tower").anew == of(started, "scorer").anew == {}


def test_a_tower_of_other_fields_begins_anew(tmp_path: Path) -> None:
    schema = small_schema()
    user, history, *others = schema.features
    # Of the same sizes, so that all shapes are as they were.
    swapped = dataclasses.replace(schema, features=(history, user, *others))
    before, after = small_model(schema), small_model(swapped, seed=2)
    initial = after.network.query_tower.get_weights()
    tables = {id(table.embeddings) for table in after.network.tables.values()}
    started = start(before, after, tmp_path)
    assert of(started, "query_tower").anew == {
        "": "its fields are history, user_id, before user_id, history"
    }
    for variable, value in zip(after.network.query_tower.weights, initial, strict=True):
        if id(variable) not in tables:
            np.testing.assert_array_equal(variable, value)
    assert of(started, "user_id").kept == 21
    assert of(started, "doc_tower").copied > 0


def test_other_tasks_leave_the_tables(tmp_path: Path) -> None:
    before = small_model(small_schema(("click", "like")))
    after = small_model(small_schema(("like", "click")), seed=2)
    started = start(before, after, tmp_path)
    assert {table.kept for table in started.tables} == {21}
    assert {part.copied for part in started.parts} == {0}
    assert of(started, "scorer").anew == {
        "": "its tasks are like, click, before click, like"
    }


def test_what_is_configured_is_not_taken_over(tmp_path: Path) -> None:
    before = small_model(small_schema(("a", "b"), fuse=(1.0, 1.0)))
    after = small_model(small_schema(("a", "b"), fuse=(0.25, 4.0)), seed=2)
    start(before, after, tmp_path)
    assert after.network.fusion.weight.numpy().tolist() == [0.25, 4.0]


def test_frequencies_and_uncertainty_go_on(tmp_path: Path) -> None:
    objective = tp.Objective(
        (tp.Term("click"), tp.Term("click", "in_batch_softmax", log_q=True)),
        weighting="uncertainty",
    )

    def model(seed: int) -> tp.PreRanker:
        made = small_model(objective=objective, seed=seed)
        made.compile(tp.LazyAdam(0.01))
        return made

    before, after = model(1), model(2)
    before.fit(dataset(ARRAYS, 4), verbose=0)
    start(before, after, tmp_path)
    ids = ARRAYS["doc_ids"][0]
    assert after.frequency.step == 4
    np.testing.assert_array_equal(
        after.frequency.log_q(ids), before.frequency.log_q(ids)
    )
    variances = before.uncertainty.log_variances.numpy()
    assert np.abs(variances).min() > 0
    np.testing.assert_array_equal(after.uncertainty.log_variances, variances)


def test_a_jointly_trained_ranker_goes_on(tmp_path: Path) -> None:
    objective = tp.Objective((tp.Term("click"), tp.Term("click", "distillation")))
    ranker = tp.models.RankerConfig(tp.Tower((4,), dimension=4), "zero_attention")

    def model(seed: int) -> tp.PreRanker:
        return small_model(objective=objective, ranker=ranker, seed=seed)

    before, after = model(1), model(2)
    started = start(before, after, tmp_path)
    assert of(started, "ranker tower").copied > 0
    batch = take(ARRAYS, 0, 16)
    np.testing.assert_array_equal(
        after.teach(batch)["teacher/click"], before.teach(batch)["teacher/click"]
    )
    np.testing.assert_array_equal(after(batch)["scores"], before(batch)["scores"])


def test_a_ranker_starts_from_a_ranker(tmp_path: Path) -> None:
    def ranker(seed: int) -> tp.Ranker:
        tf.keras.utils.set_random_seed(seed)
        return tp.Ranker(small_schema(), tp.Tower((4,), dimension=4))

    before, after = ranker(1), ranker(2)
    before.save(tmp_path / "run")
    after.warm_start(tmp_path / "run")
    batch = take(ARRAYS, 0, 16)
    np.testing.assert_array_equal(after(batch)["scores"], before(batch)["scores"])
    with pytest.raises(ConfigurationError, match="load it with Ranker"):
        small_model().warm_start(tmp_path / "run")


def test_another_optimizer_begins_anew(
    schema: tp.Schema, yesterday: tuple[tp.PreRanker, Path]
) -> None:
    _, run = yesterday
    model = model_of(schema, seed=3)
    model.compile(tf.keras.optimizers.Adagrad(0.1))
    started = model.warm_start(run)
    assert started.slots_anew == "Adagrad, before LazyAdam"
    assert (started.steps, int(model.optimizer.iterations)) == (0, 0)
    assert "begins anew: Adagrad, before LazyAdam" in str(started)
    # The learning rate is that of today.
    model.compile(tp.LazyAdam(0.125))
    assert model.warm_start(run).steps == 4
    assert model.optimizer.learning_rate == 0.125


def with_bert(folder: Path, seed: int) -> tp.PreRanker:
    """A model whose queries go through a BERT with one of two blocks trained."""
    query = tp.Text(
        "query",
        "query",
        tokenizer="wordpiece",
        encoder="sentence_bert",
        pretrained=str(folder),
        trainable_blocks=1,
        dimension=4,
    )
    others = small_schema().features[2:4]
    tf.keras.utils.set_random_seed(seed)
    tower = tp.Tower((4,), dimension=4, output=4)
    return tp.PreRanker(tp.Schema([query, *others], [tp.Task("click")]), tower, tower)


@pytest.mark.parametrize("same", [True, False])
def test_a_bert_is_taken_over_where_it_is_of_the_same_files(
    same: bool, tmp_path: Path
) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        tiny_bert(tmp_path / name, seed)
    before = with_bert(tmp_path / "first", seed=1)
    fine_tuned = before.network.tables["query"].bert
    for variable in fine_tuned.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    after = with_bert(tmp_path / ("first" if same else "second"), seed=2)
    bert = after.network.tables["query"].bert
    own = [variable.numpy() for variable in bert.variables]
    started = start(before, after, tmp_path)
    expected = [variable.numpy() for variable in fine_tuned.variables] if same else own
    for variable, value in zip(bert.variables, expected, strict=True):
        np.testing.assert_array_equal(variable, value)
    reasons = {*of(started, "query_tower").anew.values()}
    assert reasons == (set() if same else {"the pretrained BERT is another one"})
    if not same:
        assert f"; {len(own)} anew (fields/encoders/query/" in str(started)
    # What reads the BERT's vectors is of the same shape.
    np.testing.assert_array_equal(
        after.network.query_tower.head.kernel, before.network.query_tower.head.kernel
    )


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        small_model().warm_start(tmp_path)


@pytest.mark.parametrize("of_slot", [False, True])
def test_nan_is_not_spread(
    schema: tp.Schema,
    yesterday: tuple[tp.PreRanker, Path],
    tmp_path: Path,
    of_slot: bool,
) -> None:
    _, run = yesterday
    broken = tp.PreRanker.load(run)
    place = next(
        n
        for n, v in enumerate(broken.trainable_variables)
        if v is broken.network.query_tower.head.kernel
    )
    slots = slots_of(broken.optimizer)["_velocities"]
    variable = slots[place] if of_slot else broken.trainable_variables[place]
    variable.assign(tf.fill(variable.shape, float("nan")))
    broken.save(tmp_path / "run")
    model = model_of(schema, seed=3)
    before = state_of(model)
    with pytest.raises(
        ConfigurationError,
        match=r"warm_start: .*query_tower/head/kernel of .* holds NaN or infinity",
    ):
        model.warm_start(tmp_path / "run")
    assert_same_state(before, state_of(model), 0.0)


def test_nothing_fits(tmp_path: Path) -> None:
    before = small_model()
    tower = tp.Tower((4,), dimension=4, output=2)
    after = tp.PreRanker(
        tp.Schema(
            [
                tp.Categorical("city", "query", buckets=20, dimension=4),
                tp.Categorical("shop", "doc", buckets=20, dimension=4),
            ],
            [tp.Task("click")],
        ),
        tower,
        tower,
    )
    before.save(tmp_path / "run")
    state = state_of(after)
    with pytest.raises(ConfigurationError, match=r"nothing of .* fits the model"):
        after.warm_start(tmp_path / "run")
    assert_same_state(state, state_of(after), 0.0)


def test_a_dropped_and_a_new_table_are_told(tmp_path: Path) -> None:
    schema = small_schema()
    renamed = changed(schema, "user_id", name="member_id")
    started = start(small_model(schema), small_model(renamed, seed=2), tmp_path)
    assert of(started, "member_id").anew == "it is new"
    assert (of(started, "user_id").kept, of(started, "user_id").dropped) == (0, 21)


def test_the_run_may_be_gone_afterwards(
    schema: tp.Schema, yesterday: tuple[tp.PreRanker, Path], tmp_path: Path
) -> None:
    _, run = yesterday
    shutil.copytree(run, tmp_path / "run")
    model = model_of(schema, seed=3)
    model.warm_start(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    model.fit(shuffled(), verbose=0)
    assert model.optimizer.iterations == 8


def _on_four_replicas(run: str, folder: str) -> None:
    schema = schema_of(Path(folder))
    with four_replicas().scope():
        model = model_of(schema, seed=3)
    model.warm_start(run)
    old = tp.PreRanker.load(run)
    assert_same_state(state_of(old), state_of(model), 0.0)
    for was, now in zip(
        rows_and_slots(old, "movie_id"), rows_and_slots(model, "movie_id"), strict=True
    ):
        np.testing.assert_array_equal(was, now)
    for copy in model.network.tables["movie_id"].embeddings.values:
        np.testing.assert_array_equal(copy, old.network.tables["movie_id"].embeddings)


def test_replicas_start_alike(
    on_replicas: Replicas, yesterday: tuple[tp.PreRanker, Path], tmp_path: Path
) -> None:
    on_replicas(_on_four_replicas, str(yesterday[1]), str(tmp_path / "sources"))


def test_word_pieces_go_by_piece(tmp_path: Path) -> None:
    def model_of_pieces(name: str, pieces: list[str]) -> tp.PreRanker:
        path = tmp_path / name
        path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
        features = (
            tp.Text("query", "query", tokenizer="wordpiece", vocabulary=str(path)),
            tp.Text("title", "doc", tokenizer="wordpiece", shares="query"),
        )
        model = tp.PreRanker(tp.Schema(features, (tp.Task("click"),)))
        model.compile()
        return model

    old = model_of_pieces("old.txt", ["[UNK]", "red", "##s", "hat"])
    old.save(tmp_path / "run")
    new = model_of_pieces("new.txt", ["hat", "new", "[UNK]", "red"])
    began = new.network.tables["query"].table.embeddings.numpy()
    (table,) = new.warm_start(tmp_path / "run").tables
    assert (table.kept, table.new, table.dropped) == (3, 1, 1)
    now = new.network.tables["query"].table.embeddings.numpy()
    was = old.network.tables["query"].table.embeddings.numpy()
    # Row 0, hat, [UNK], red; the new piece begins as it was made.
    np.testing.assert_array_equal(now[[0, 1, 3, 4]], was[[0, 4, 1, 2]])
    np.testing.assert_array_equal(now[2], began[2])
