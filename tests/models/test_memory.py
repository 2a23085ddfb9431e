"""Memory reports against sizes worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import small_model, small_schema
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.models.memory import TableMemory


def test_sizes_of_a_small_model() -> None:
    report = small_model().memory_report()
    # 1 + 20 rows of 4 float32, and two moments of each.
    assert report.tables == (
        TableMemory("user_id", ("user_id",), 21, 4, "float32", 336, 672),
        TableMemory("movie_id", ("movie_id", "history"), 21, 4, "float32", 336, 672),
    )
    parts = {part.name: part for part in report.parts}
    assert list(parts) == [
        *("query_tower", "doc_tower", "cross_tower", "scorer", "fusion"),
    ]
    # The year's kernel and bias (4 + 4), an MLP from 2 x 4 to 8, a head from 8 to 4.
    doc = 4 + 4 + (8 * 8 + 8) + (8 * 4 + 4)
    assert parts["doc_tower"].parameters == doc
    assert parts["doc_tower"].weights == 4 * doc
    assert parts["doc_tower"].slots == 8 * doc
    # The weight of the only task is not trained.
    assert (parts["fusion"].parameters, parts["fusion"].slots) == (1, 0)


def test_the_totals_are_those_of_the_variables() -> None:
    model = small_model()
    uncompiled = model.memory_report()
    assert uncompiled.parameters == model.network.count_params()
    assert uncompiled.weights == 4 * model.network.count_params()
    trained = sum(tf.size(v).numpy() for v in model.trainable_variables)
    assert uncompiled.slots == 8 * trained
    # What would be kept is what LazyAdam keeps.
    model.compile(tp.LazyAdam())
    assert model.memory_report() == uncompiled
    # All but the step and the learning rate.
    kept = [v for v in model.optimizer.variables if v.shape.rank]
    assert uncompiled.slots == sum(4 * tf.size(v).numpy() for v in kept)


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (tf.keras.optimizers.Adagrad(), 1),
        (tf.keras.mixed_precision.LossScaleOptimizer(tp.LazyAdam()), 2),
    ],
)
def test_slots_are_those_of_the_optimizer(
    optimizer: tf.keras.optimizers.Optimizer, slots: int
) -> None:
    model = small_model()
    model.compile(optimizer)
    (user, movie) = model.memory_report().tables
    assert (user.slots, movie.slots) == (slots * 336, slots * 336)


def test_parts_that_are_trained_beside_the_towers() -> None:
    objective = tp.Objective(
        (
            tp.Term("click"),
            tp.Term("click", "distillation"),
            tp.Term("click", "in_batch_softmax", log_q=True),
        ),
        weighting="uncertainty",
    )
    ranker = tp.models.RankerConfig(tp.Tower((4,), dimension=4), "zero_attention")
    model = small_model(small_schema(position=True), objective=objective, ranker=ranker)
    report = model.memory_report()
    parts = {part.name: part for part in report.parts}
    assert {"ranker tower", "ranker bias_model", "uncertainty", "frequency"} < {*parts}
    # A million buckets of two hashes: when (8 bytes) and how often (4), and the step.
    assert parts["frequency"].weights == 2_000_000 * 12 + 8
    assert parts["frequency"].slots == 0
    assert parts["uncertainty"].parameters == len(model.term_weights)
    assert report.parameters == model.count_params() - 1  # the count of epochs
    names = [table.name for table in report.tables]
    assert names == ["user_id", "movie_id", "position"]


def test_an_export_of_documents(tmp_path: Path) -> None:
    model = small_model()
    report = model.memory_report(documents=1000)
    # A vector of 4 float32, and the int64 key of the movie for the match with it.
    assert report.of_documents == 1000 * (4 * 4 + 8)
    # The bias model's and the optimiser's variables are in no export.
    assert report.served == report.weights
    assert report.swap == 2 * (24_000 + report.weights)
    columns = {"movie_id": [f"m{n}" for n in range(1000)], "year": [0.0] * 1000}
    documents = DocumentTable(ids=columns["movie_id"], columns=columns)
    exported = tp.export(model, documents, tmp_path / "model", warmup_lengths=())
    path = exported.path / "variables" / "variables.data-00000-of-00001"
    # The rest are the ids and what TensorFlow keeps of the graph.
    assert 0 < path.stat().st_size - report.of_documents - report.served < 20_000


def test_what_only_training_reads_is_in_no_export() -> None:
    model = small_model(small_schema(position=True))
    report = model.memory_report(documents=1)
    bias = model.network.bias_model.count_params()
    assert report.weights - report.served == 4 * bias > 0


def test_printed() -> None:
    schema = tp.Schema(
        [
            tp.Categorical("user_id", "query", buckets=2**20 - 1),
            tp.Categorical("city", "doc", buckets=9, hashes=2),
        ],
        [tp.Task("click")],
    )
    model = tp.PreRanker(schema)
    report = model.memory_report(documents=2**20)
    lines = str(report).splitlines()
    assert lines[:3] == [
        "table         rows  size  dtype    weights MiB  slots MiB  read by",
        # 2^20 x 16 x 4 bytes, and twice that.
        "user_id  1,048,576    16  float32         64.0      128.0  user_id",
        "city            10    16  float32          0.0        0.0  city",
    ]
    assert lines[4].split() == ["part", "parameters", "weights", "MiB", "slots", "MiB"]
    assert report.total in lines
    vectors = tp.Tower().output * 4
    assert lines[-1].startswith(
        f"an export of 1,048,576 documents: {vectors:.1f} MiB of vectors and match keys"
    )


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"must not be negative\. Received: -1"):
        small_model().memory_report(-1)
    ranker = tp.Ranker(small_schema(), tp.Tower((4,), dimension=4))
    assert [part.name for part in ranker.memory_report().parts] == ["tower", "fusion"]
    with pytest.raises(ConfigurationError, match="a ranker is not exported"):
        ranker.memory_report(documents=10)
