"""Fields of hand-set embeddings and kernels."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.features import (
    Categorical,
    Dense,
    DocumentTable,
    Match,
    Numeric,
    Schema,
    Sequence,
    Task,
    Text,
    adapt,
)
from tfrs_prerank.features.encoders import (
    EmbeddingTable,
    FieldEncoder,
    make_encoder,
    make_tables,
    pool,
)

USER = Categorical("user_id", "query", buckets=3)
CITY = Categorical("city", "doc", buckets=3)


@pytest.fixture
def policy(request):
    tf.keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    tf.keras.mixed_precision.set_global_policy("float32")


def vocabulary(tmp_path: Path, *values: str) -> str:
    path = tmp_path / f"{'_'.join(values)[:20]}.txt"
    path.write_text("".join(f"{value}\n" for value in values), encoding="utf-8")
    return str(path)


def encoder_of(feature: Any, embeddings: Any = None) -> Any:
    """Makes a feature's encoder, with the embeddings of its own table set."""
    tables = make_tables(Schema([USER, CITY, feature], [Task("click")]))
    if embeddings is not None:
        table = tables[feature.name]
        getattr(table, "table", table).embeddings.assign(embeddings)
    return make_encoder(feature, tables)


# Ids.

# Row 0 is the unknown id, rows 1 to 3 are a, b and c.
ABC = [[10.0, 20.0], [1.0, 2.0], [3.0, 5.0], [-4.0, 0.0]]


def test_one_id(tmp_path):
    feature = Categorical(
        "town", "query", vocabulary=vocabulary(tmp_path, "a", "b", "c"), dimension=2
    )
    field = encoder_of(feature, ABC)(tf.constant(["b", "a", "other", ""]))
    assert field.numpy().tolist() == [[3, 5], [1, 2], [10, 20], [10, 20]]


@pytest.mark.parametrize("dtype", ["string", "int64"])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        # a and c; b, b and an unknown one; nothing. Pads do not count, unknown ids do.
        ("mean", [[-1.5, 1.0], [16 / 3, 10.0], [0.0, 0.0]]),
        ("sum", [[-3.0, 2.0], [16.0, 30.0], [0.0, 0.0]]),
    ],
)
def test_several_ids(tmp_path, dtype, pooling, expected):
    names = {"string": ["", "a", "b", "c", "x"], "int64": [-1, 7, 8, 9, 5]}[dtype]
    feature = Categorical(
        "towns",
        "query",
        vocabulary=vocabulary(tmp_path, *map(str, names[1:4])),
        dtype=dtype,
        dimension=2,
        max_values=3,
        pooling=pooling,
    )
    picks = [[1, 3, 0], [2, 2, 4], [0, 0, 0]]
    values = tf.constant([[names[p] for p in row] for row in picks], dtype)
    field = encoder_of(feature, ABC)(values)
    np.testing.assert_allclose(field, expected, rtol=1e-6)


def test_id_dropout_is_for_training_only(tmp_path):
    tf.keras.utils.set_random_seed(0)
    feature = Categorical(
        "town",
        "query",
        vocabulary=vocabulary(tmp_path, "a", "b", "c"),
        dimension=2,
        id_dropout=0.3,
    )
    encoder = encoder_of(feature, ABC)
    values = tf.constant(["b"] * 20_000)
    field = encoder(values, training=True).numpy()
    # Each value is kept as it is (never scaled), or is the unknown one.
    dropped = (field == [10, 20]).all(axis=1)
    assert (field[~dropped] == [3, 5]).all()
    # Three standard deviations of a share of .3 among 20,000 are .0097.
    assert abs(dropped.mean() - 0.3) < 0.01
    again = (encoder(values, training=True).numpy() == [10, 20]).all(axis=1)
    assert (again != dropped).any(), "the same ids in every step"
    assert (encoder(values, training=False).numpy() == [3, 5]).all()
    assert (encoder(values).numpy() == [3, 5]).all()


def test_id_dropout_trains_the_unknown_row(tmp_path):
    feature = Categorical(
        "town",
        "query",
        vocabulary=vocabulary(tmp_path, "a"),
        dimension=2,
        id_dropout=0.5,
    )
    encoder = encoder_of(feature)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(encoder(tf.constant(["a"] * 100), training=True))
    gradient = tape.gradient(total, encoder.table.embeddings)
    counts = tf.math.unsorted_segment_sum(gradient.values[:, 0], gradient.indices, 2)
    assert counts[0] > 0 and counts[1] > 0 and float(tf.reduce_sum(counts)) == 100


# The penalty.


def test_l2_is_the_mean_square_of_the_rows_looked_up(tmp_path):
    feature = Categorical(
        "towns",
        "query",
        vocabulary=vocabulary(tmp_path, "a", "b", "c"),
        dimension=2,
        max_values=3,
        l2=0.1,
    )
    encoder = encoder_of(feature, ABC)
    with tf.GradientTape() as tape:
        encoder(tf.constant([["a", "b", ""], ["b", "", ""]]), training=True)
        (penalty,) = encoder.losses
    # |a|^2 = 5 and twice |b|^2 = 34, over three values; pads are none.
    np.testing.assert_allclose(penalty, 0.1 * (5 + 34 + 34) / 3, rtol=1e-6)
    gradient = tape.gradient(penalty, encoder.table.embeddings)
    assert isinstance(gradient, tf.IndexedSlices), "the whole table would decay"
    dense = tf.convert_to_tensor(gradient)
    # 0.1 / 3 * 2 * (row, times its count); c was not looked up, row 0 by pads only.
    expected = 0.2 / 3 * np.array([[0, 0], [1, 2], [6, 10], [0, 0]])
    np.testing.assert_allclose(dense, expected, rtol=1e-6)


def test_l2_is_for_training_only_and_of_nothing_is_zero(tmp_path):
    feature = Categorical(
        "towns",
        "query",
        vocabulary=vocabulary(tmp_path, "a", "b", "c"),
        dimension=2,
        max_values=2,
        l2=0.1,
    )
    encoder = encoder_of(feature, ABC)
    encoder(tf.constant([["a", "b"]]))
    assert encoder.losses == []
    encoder(tf.constant([["", ""]]), training=True)
    assert [float(loss) for loss in encoder.losses] == [0.0]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_mixed_precision_keeps_tables_sparse_and_their_penalty_exact(policy):
    feature = Categorical("town", "query", buckets=1, dimension=2, l2=1.0)
    encoder = encoder_of(feature, [[1 / 3, 0], [1e-5, 1 / 3]])
    with tf.GradientTape(persistent=True) as tape:
        field = encoder(tf.constant(["a"]), training=True)
        total = tf.reduce_sum(tf.cast(field, tf.float32))
        (penalty,) = encoder.losses
    assert field.dtype == tf.keras.mixed_precision.global_policy().compute_dtype
    np.testing.assert_allclose(penalty, np.float32(1 / 3) ** 2 + 1e-10, rtol=1e-6)
    for loss, expected in ((total, [1, 1]), (penalty, [2e-5, 2 / 3])):
        gradient = tape.gradient(loss, encoder.table.embeddings)
        assert isinstance(gradient, tf.IndexedSlices)
        assert gradient.indices.numpy().tolist() == [1]
        np.testing.assert_allclose(gradient.values[0], expected, rtol=1e-6)


# Numbers.


def linear(feature: Any, kernel: Any = (2.0, -1.0), bias: Any = (0.5, 0.0)) -> Any:
    encoder = encoder_of(feature)
    encoder.kernel.assign(kernel)
    encoder.bias.assign(bias)
    return encoder


def test_a_number_is_linear():
    encoder = linear(Numeric("price", "doc", dimension=2))
    assert encoder(tf.constant([0.0, 1.0, -3.0])).numpy().tolist() == [
        [0.5, 0.0], [2.5, -1.0], [-5.5, 3.0],
    ]  # fmt: skip


def test_log1p_keeps_the_sign():
    encoder = linear(Numeric("price", "doc", dimension=2, log1p=True), (1, -1), (0, 0))
    x = [math.e - 1, -(math.e**2 - 1), 0.0, 1e30]
    expected = np.array([1.0, -2.0, 0.0, 30 * math.log(10)])
    field = encoder(tf.constant(x))
    np.testing.assert_allclose(field, np.stack([expected, -expected], 1), rtol=1e-6)


def statistics(tmp_path: Path, **values: Any) -> str:
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_standardize(tmp_path):
    file = statistics(tmp_path, price={"mean": 10.0, "std": 4.0})
    feature = Numeric("price", "doc", dimension=2, standardize=True, statistics=file)
    field = linear(feature, (1, 2), (0, 0))(tf.constant([10.0, 14.0, 2.0]))
    assert field.numpy().tolist() == [[0, 0], [1, 2], [-2, -4]]


def test_standardize_comes_after_log1p(tmp_path):
    file = statistics(tmp_path, price={"mean": 1.0, "std": 2.0})
    feature = Numeric(
        "price", "doc", dimension=1, standardize=True, log1p=True, statistics=file
    )
    field = linear(feature, (1,), (0,))(tf.constant([math.e**5 - 1]))
    np.testing.assert_allclose(field, [[2.0]], rtol=1e-6)


def test_seconds_since_1970_keep_their_differences(tmp_path):
    # float32 has steps of 128 there.
    file = statistics(tmp_path, born={"mean": 1.7e9, "std": 10.0})
    feature = Numeric(
        "born", "doc", dimension=1, standardize=True, statistics=file, dtype="int64"
    )
    times = tf.constant([1_700_000_000, 1_700_000_001, 1_699_999_980], tf.int64)
    field = linear(feature, (1,), (0,))(times)
    np.testing.assert_allclose(field, [[0.0], [0.1], [-2.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "missing", "values", "expected"),
    [
        ("float32", -1.0, [-1.0, 1.0], [True, False]),
        ("float32", 0.1, [0.1, 0.2], [True, False]),
        # A float32 would round this one to 10,000,000,000.
        ("int64", 9_999_999_999, [9_999_999_999, 10_000_000_000], [True, False]),
        ("int64", 0, [0, 1], [True, False]),
    ],
)
def test_a_missing_number_has_a_vector_of_its_own(dtype, missing, values, expected):
    feature = Numeric("price", "doc", dimension=2, missing=missing, dtype=dtype)
    encoder = linear(feature)
    encoder.missing.assign([7.0, 8.0])
    field = encoder(tf.constant(values, dtype)).numpy()
    assert (field == [7, 8]).all(axis=1).tolist() == expected


def test_bucket_edges():
    feature = Numeric("price", "doc", dimension=2, boundaries=(1.0, 2.0))
    # Three buckets: below 1, from 1 to below 2, from 2.
    encoder = encoder_of(feature, [[0, 1], [2, 3], [4, 5]])
    field = encoder(tf.constant([-5.0, 0.999, 1.0, 1.5, 1.999, 2.0, 1e9]))
    assert field[:, 0].numpy().tolist() == [0, 0, 2, 2, 2, 4, 4]


def test_bucket_edges_are_those_of_the_columns_type():
    # 0.7 is another number as a float32, and a bucket begins at its boundary.
    feature = Numeric("rate", "doc", dimension=1, boundaries=(0.7,))
    field = encoder_of(feature, [[0], [1]])(tf.constant([0.7, 0.6999]))
    assert field[:, 0].numpy().tolist() == [1, 0]
    # A float32 has steps of 128 seconds there.
    start = 1_700_000_000
    feature = Numeric(
        "born", "doc", dimension=1, dtype="int64", boundaries=(start, start + 1)
    )
    encoder = encoder_of(feature, [[0], [1], [2]])
    field = encoder(tf.constant([start - 1, start, start + 1, start + 2], tf.int64))
    assert field[:, 0].numpy().tolist() == [0, 1, 2, 2]
    assert encoder(tf.constant([], tf.int64)).shape == [0, 1]


def test_a_bucket_does_not_depend_on_the_place_in_the_batch():
    values = [5.0, 20.0, 21.0, 23.0, 36.0]
    with tempfile.TemporaryDirectory() as folder:
        feature = Numeric("n", "doc", dimension=1, buckets=4)
        schema = Schema([USER, CITY, feature], [Task("click")])
        table = DocumentTable(np.arange(5), {"n": values})
        adapted = adapt(schema, [], table, folder)
        tables = make_tables(adapted)
    encoder = make_encoder(adapted["n"], tables)
    tables["n"].embeddings.assign(np.arange(4.0)[:, np.newaxis])
    # Quartiles 20, 21 and 23; kernels differ between vectors of 4 or 8 and the tail.
    for value, bucket in zip(values, [0, 1, 2, 3, 3], strict=True):
        field = encoder(tf.fill([19], value))
        assert field[:, 0].numpy().tolist() == [bucket] * 19


def test_buckets_with_missing(tmp_path):
    file = statistics(tmp_path, price={"mean": 0, "std": 1, "boundaries": [1.0, 2.0]})
    feature = Numeric(
        "price", "doc", dimension=2, buckets=3, missing=-9, statistics=file
    )
    encoder = encoder_of(feature, [[0, 1], [2, 3], [4, 5]])
    encoder.missing.assign([7, 7])
    field = encoder(tf.constant([0.5, 1.0, 9.0, -9.0]))
    assert field.numpy().tolist() == [[0, 1], [2, 3], [4, 5], [7, 7]]


# NaN and infinity.

NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


def in_training(encoder: Any, values: tf.Tensor) -> str:
    """Returns what training says of values, and checks that it says it in a graph."""
    traced = tf.function(lambda x: encoder(x, training=True))
    for call in (traced, lambda x: encoder(x, training=True)):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            call(values)
    return str(error.value)


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize(
    "feature",
    [
        Numeric("price", "doc", missing=-1),
        Numeric("price", "cross", log1p=True),
        Numeric("price", "query", boundaries=(1.0,)),
        Numeric("price", "doc", training_only=True),
    ],
)
def test_training_refuses_numbers_that_are_not_finite(feature, bad):
    encoder = encoder_of(feature)
    assert np.isfinite(encoder(tf.constant([0.5, -1.0]), training=True)).all()
    assert (
        "price: NaN or infinity; replace missing numbers by a sentinel and declare "
        "Numeric(missing=...)"
    ) in in_training(encoder, tf.constant([0.5, bad]))


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_training_refuses_vectors_that_are_not_finite(bad):
    encoder = encoder_of(Dense("cover", "doc", size=2))
    assert np.isfinite(encoder(tf.constant([[0.5, -1.0]]), training=True)).all()
    assert "cover: NaN or infinity; a vector of zeros means missing" in in_training(
        encoder, tf.constant([[0.5, 1.0], [bad, 1.0]])
    )


def test_served_numbers_that_are_not_finite_are_missing(tmp_path):
    values = tf.constant([*NOT_FINITE, -1.0, 14.0])
    file = statistics(tmp_path, price={"mean": 10.0, "std": 4.0})
    standardized = {"standardize": True, "statistics": file, "dimension": 2}
    # With a sentinel its vector; the neighbour keeps its own.
    encoder = linear(Numeric("price", "doc", missing=-1, **standardized))
    encoder.missing.assign([7, 8])
    assert encoder(values).numpy().tolist() == [[7, 8]] * 4 + [[2.5, -1]]
    # Without one the mean, 0 where it is not known: x w + b = b.
    encoder = linear(Numeric("price", "doc", **standardized))
    assert encoder(values).numpy()[:3].tolist() == [[0.5, 0]] * 3
    encoder = linear(Numeric("price", "doc", dimension=2, log1p=True))
    assert encoder(values).numpy()[:3].tolist() == [[0.5, 0]] * 3
    # And the middle one of the buckets.
    feature = Numeric("price", "doc", dimension=2, boundaries=(1.0, 20.0))
    encoder = encoder_of(feature, [[0, 1], [2, 3], [4, 5]])
    assert encoder(values).numpy().tolist() == [[2, 3]] * 3 + [[0, 1], [2, 3]]
    feature = Numeric("price", "doc", dimension=2, boundaries=(20.0,), missing=-1)
    encoder = encoder_of(feature, [[0, 1], [2, 3]])
    encoder.missing.assign([7, 8])
    assert encoder(values).numpy().tolist() == [[7, 8]] * 4 + [[0, 1]]


def test_served_vectors_that_are_not_finite_are_missing():
    encoder = encoder_of(Dense("cover", "doc", size=2, dimension=2))
    rows = [[bad, 1.0] for bad in NOT_FINITE]
    values = tf.constant([*rows, [0.0, 0.0], [1.0, 3.0]])
    expected = encoder(values[-1:]).numpy()
    encoder.missing.assign([7, 8])
    field = encoder(values).numpy()
    assert field[:4].tolist() == [[7, 8]] * 4
    np.testing.assert_allclose(field[4:], expected, rtol=1e-6)


def test_serving_holds_no_check_that_raises():
    for feature, shape in (
        (Numeric("price", "doc", missing=-1), [None]),
        (Numeric("price", "doc", boundaries=(1.0,)), [None]),
        (Dense("cover", "doc", size=2), [None, 2]),
    ):
        encoder = encoder_of(feature)
        spec = tf.TensorSpec(shape)
        for training in (True, False):
            traced = tf.function(lambda x, t=training, e=encoder: e(x, training=t))
            graph = traced.get_concrete_function(spec).graph
            ops = {op.type for op in graph.get_operations()}
            assert any(op.startswith("CheckNumerics") for op in ops) == training


def test_no_statistics_yet(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        encoder_of(Numeric("price", "doc", standardize=True))
    assert str(error.value) == (
        "price needs statistics of training data; run `adapt` (tfrs-prerank prepare) "
        "first"
    )
    file = statistics(tmp_path, other={})
    with pytest.raises(KeyError) as missing:
        encoder_of(Numeric("price", "doc", buckets=3, statistics=file))
    assert missing.value.args[0] == (
        f"{file} holds no statistics of 'price'; run `adapt`"
    )


@pytest.mark.parametrize(
    ("declared", "found", "expected"),
    [
        (
            {"buckets": 4},
            {"mean": 1.0, "std": 2.0, "log1p": False},
            "hold no 'boundaries'",
        ),
        (
            {"standardize": True},
            {"mean": 1.0, "log1p": False},
            "hold no 'std'",
        ),
        (
            {"buckets": 20},
            {"mean": 1.0, "std": 2.0, "boundaries": [1.0], "buckets": 10},
            "were made for buckets=10",
        ),
        (
            {"standardize": True},
            {"mean": 1.0, "std": 2.0, "log1p": True},
            "were made for log1p=True",
        ),
    ],
)
def test_statistics_of_another_declaration(tmp_path, declared, found, expected):
    file = statistics(tmp_path, price=found)
    with pytest.raises(ValueError) as error:
        encoder_of(Numeric("price", "doc", statistics=file, **declared))
    assert str(error.value) == (
        f"price: statistics at {file} {expected}; run `adapt` again"
    )


# Vectors.


def test_a_vector_is_projected_and_normalised():
    encoder = encoder_of(Dense("cover", "doc", size=3, dimension=2))
    encoder(tf.zeros([1, 3]))  # builds it
    encoder.projection.kernel.assign([[1, 0], [0, 1], [1, 1]])
    encoder.projection.bias.assign([0, 2])
    encoder.missing.assign([7, 8])
    # (1 + 2, 3 + 2 + 2) = (3, 7): mean 5, variance 4, with Keras' epsilon of 0.001.
    scale = 2 / math.sqrt(4.001)
    field = encoder(tf.constant([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1e-9]]))
    np.testing.assert_allclose(field[0], [-scale, scale], rtol=1e-5)
    # Only all zeros are missing.
    assert field[1].numpy().tolist() == [7, 8]
    assert field[2, 0] < -0.99


def test_a_missing_vector_trains_its_default_alone():
    encoder = encoder_of(Dense("cover", "doc", size=3, dimension=2))
    for vector, is_missing in (([0.0, 0.0, 0.0], True), ([1.0, 3.0, 2.0], False)):
        with tf.GradientTape() as tape:
            field = encoder(tf.constant([vector]), training=True)
            total = tf.reduce_sum(field * [[2.0, 3.0]])
        sources = [encoder.missing, *encoder.projection.trainable_variables]
        of_missing, *of_projection = tape.gradient(total, sources)
        assert of_missing.numpy().tolist() == ([2, 3] if is_missing else [0, 0])
        assert all((g.numpy() == 0).all() == is_missing for g in of_projection)


def test_vectors_of_several_sizes_are_fields_of_one_size():
    image = Dense("image", "doc", size=5, dimension=3)
    audio = Dense("audio", "doc", size=2, dimension=3)
    tables = make_tables(Schema([USER, CITY, image, audio], [Task("click")]))
    fields = FieldEncoder([image, audio], tables, 3)
    rng = np.random.default_rng(0)
    columns = {
        "image": tf.constant(rng.normal(size=(4, 5)), tf.float32),
        "audio": tf.constant([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 1.0]]),
    }
    encoded = fields(columns).numpy()
    assert encoded.shape == (4, 2, 3)
    # Each has its own default; layer normalisation makes a mean of 0 of all else.
    for row in (0, 2):
        np.testing.assert_array_equal(encoded[row, 1], fields.encoders["audio"].missing)
    np.testing.assert_allclose(encoded[:, 0].mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(encoded[[1, 3], 1].mean(axis=1), 0, atol=1e-6)
    assert (encoded[:, 0] != fields.encoders["image"].missing.numpy()).all()


# Texts.


def test_a_text_is_the_mean_of_its_tokens(tmp_path):
    feature = Text(
        "words", "query", vocabulary=vocabulary(tmp_path, "a", "b", "红"), dimension=2
    )
    texts = ["A, b!", "b b a other", "红b", "", "...", b"a\xff"]
    field = encoder_of(feature, ABC)(tf.constant(texts))
    expected = [
        [2.0, 3.5],  # a, b
        [17 / 4, 32 / 4],  # b, b, a, unknown
        [-0.5, 2.5],  # 红, b
        [0.0, 0.0],
        [0.0, 0.0],
        [1.0, 2.0],  # a; a byte that is no UTF-8 is nothing
    ]
    np.testing.assert_allclose(field, expected, rtol=1e-6)


def test_several_texts_are_the_mean_of_their_vectors(tmp_path):
    feature = Text(
        "past",
        "query",
        vocabulary=vocabulary(tmp_path, "a", "b", "c"),
        dimension=2,
        max_values=3,
        max_tokens=2,
    )
    values = tf.constant([["a b c", "", "b"], ["", "", ""]])
    field = encoder_of(feature, ABC)(values)
    # (a + b) / 2 (cut before c) and b.
    np.testing.assert_allclose(field, [[2.5, 4.25], [0.0, 0.0]], rtol=1e-6)


def test_hashed_tokens_are_known_by_their_bucket():
    feature = Text("words", "query", buckets=5, dimension=2)
    embeddings = np.arange(12, dtype="float32").reshape(6, 2)
    encoder = encoder_of(feature, embeddings)
    row = tf.strings.to_hash_bucket_fast("red", 5).numpy() + 1
    field = encoder(tf.constant(["RED red", ""]))
    assert field.numpy().tolist() == [embeddings[row].tolist(), [0, 0]]


def test_word_pieces(tmp_path):
    feature = Text(
        "words",
        "query",
        tokenizer="wordpiece",
        vocabulary=vocabulary(tmp_path, "un", "##able", "[UNK]"),
        dimension=2,
        max_tokens=3,
    )
    field = encoder_of(feature, ABC)(tf.constant(["unable", "Un zzz", ""]))
    # un + ##able; un + [UNK].
    np.testing.assert_allclose(field, [[2.0, 3.5], [-1.5, 1.0], [0.0, 0.0]])


# Histories.


def sequence(tmp_path: Path, **kwargs: Any) -> Any:
    feature = Sequence(
        "history",
        vocabulary=vocabulary(tmp_path, "a", "b", "c"),
        dimension=2,
        max_length=3,
        **kwargs,
    )
    return encoder_of(feature, ABC)


def test_mean_of_a_history(tmp_path):
    encoder = sequence(tmp_path, encoder="mean")
    field = encoder({"history": tf.constant([["a", "c", ""], ["", "", ""]])}, None)
    np.testing.assert_allclose(field, [[-1.5, 1.0], [0.0, 0.0]])


def test_zero_attention_over_a_history(tmp_path):
    encoder = sequence(tmp_path)
    columns = {"history": tf.constant([["a", "c", ""], ["", "", ""]])}
    context = tf.constant([[1.0], [1.0]])
    encoder(columns, context)  # builds it
    (kernel,) = encoder.attention.weights
    kernel.assign([[0.0, math.sqrt(2) * math.log(2) / 2]])
    # Logits k_1 log(2) / 2: log 2 of a = (1, 2), 0 of c = (-4, 0) and 0 of the zero
    # vector. The shares are 2/4, 1/4 and 1/4.
    field = encoder(columns, context)
    np.testing.assert_allclose(field[0], [0.5 - 1.0, 1.0], atol=1e-6)
    assert field[1].numpy().tolist() == [0.0, 0.0]


def test_a_history_reads_the_table_it_shares():
    movie = Categorical("movie_id", "doc", buckets=20, dimension=2)
    history = Sequence("history", shares="movie_id", max_length=3, encoder="mean")
    query = Text("query", "query", buckets=20, dimension=2)
    title = Text("title", "doc", shares="query")
    schema = Schema([USER, movie, history, query, title], [Task("click")])
    tables = make_tables(schema)
    assert tables["history"] is tables["movie_id"]
    assert tables["title"].table is tables["query"].table
    queries = FieldEncoder([USER, history, query], tables, 2)
    docs = FieldEncoder([movie, title], tables, 2)
    query_columns = {
        "user_id": tf.constant(["u"]),
        "history": tf.constant([["m", "n", ""]]),
        "query": tf.constant(["red hat"]),
    }
    doc_columns = {"movie_id": tf.constant(["m"]), "title": tf.constant(["red"])}
    with tf.GradientTape() as tape:
        fields = queries(query_columns), docs(doc_columns)
        total = tf.reduce_sum(fields[0]) + tf.reduce_sum(fields[1])
    gradient = tape.gradient(
        total, [tables["movie_id"].embeddings, tables["query"].table.embeddings]
    )
    for slices, values in zip(gradient, (["m", "n"], ["red", "hat"]), strict=True):
        assert isinstance(slices, tf.IndexedSlices)
        first, second = tf.strings.to_hash_bucket_fast(values, 20).numpy() + 1
        dense = tf.convert_to_tensor(slices)[:, 0].numpy()
        # One table: half of the mean of two on one side, and the whole of the other.
        assert dense[first] == 1.5 and dense[second] == 0.5
        assert dense.sum() == 2.0
    # A text that shares a table has its size: 2, and not the default 16.
    assert docs.projections == {}
    variables = {id(v) for v in (*queries.variables, *docs.variables)}
    # Three tables, and the projection of user_id from 16 to 2.
    assert len(variables) == 3 + 1


# Fields of a tower.


def test_fields_keep_the_order_of_declaration(tmp_path):
    town = Categorical(
        "town", "query", vocabulary=vocabulary(tmp_path, "a", "b", "c"), dimension=2
    )
    history = Sequence("history", shares="town", max_length=2, encoder="mean")
    age = Numeric("age", "query", dimension=2)
    taste = Categorical("taste", "query", buckets=1, dimension=3)
    features = [history, age, taste, town]
    tables = make_tables(Schema([*features, CITY], [Task("click")]))
    tables["town"].embeddings.assign(ABC)
    tables["taste"].embeddings.assign([[0, 0, 0], [1, 2, 3]])
    fields = FieldEncoder(features, tables, 2)
    assert fields.field_names == ["history", "age", "taste", "town"]
    columns = {
        "history": tf.constant([["b", "c"], ["", ""]]),
        "age": tf.constant([1.0, 2.0]),
        "taste": tf.constant(["x", "x"]),
        "town": tf.constant(["a", "b"]),
    }
    fields(columns)
    # Only the field of another size is projected.
    assert list(fields.projections) == ["taste"]
    fields.projections["taste"].kernel.assign([[1, 0], [0, 1], [0, 1]])
    fields.encoders["age"].kernel.assign([1, -1])
    encoded = fields(columns)
    assert encoded.numpy().tolist() == [
        [[-0.5, 2.5], [1, -1], [1, 5], [1, 2]],
        [[0, 0], [2, -2], [1, 5], [3, 5]],
    ]


def test_the_other_fields_attend_to_a_history(tmp_path):
    encoder_features = [
        Sequence("history", shares="town", max_length=1),
        Categorical(
            "town", "query", vocabulary=vocabulary(tmp_path, "a", "b", "c"), dimension=2
        ),
        Numeric("age", "query", dimension=3),
    ]
    tables = make_tables(Schema([*encoder_features, CITY], [Task("click")]))
    tables["town"].embeddings.assign(ABC)
    fields = FieldEncoder(encoder_features, tables, 2)
    columns = {
        "history": tf.constant([["b"], [""]]),
        "town": tf.constant(["a", "a"]),
        "age": tf.constant([3.0, 3.0]),
    }
    fields(columns)
    attention = fields.encoders["history"].attention
    # Other fields as the tower sees them: 2 of town, and age projected from 3 to 2.
    assert [tuple(w.shape) for w in attention.weights] == [(4, 2)]
    attention.weights[0].assign(np.zeros([4, 2]))
    # All logits 0: half b, half nothing.
    np.testing.assert_allclose(fields(columns)[:, 0], [[1.5, 2.5], [0, 0]], rtol=1e-6)


def every_kind(tmp_path: Path) -> tuple[list[Any], dict[str, tf.TensorSpec]]:
    """Returns query features of every kind, and their columns."""
    file = statistics(tmp_path, born={"mean": 1.7e9, "std": 1e5})
    features = [
        Categorical("town", "query", buckets=5, id_dropout=0.1, l2=0.1),
        Categorical("tags", "query", buckets=5, max_values=2, dtype="int64"),
        Numeric("age", "query", log1p=True, missing=-1),
        Numeric("rank", "query", boundaries=(0.0, 1.0)),
        Numeric("born", "query", standardize=True, dtype="int64", statistics=file),
        Dense("taste", "query", size=3),
        Text("query", "query", buckets=5),
        Text("past", "query", buckets=5, max_values=2),
        Sequence("history", buckets=5, max_length=4),
        Sequence("clicks", buckets=5, max_length=4, encoder="mean"),
        Match("m", "town", "query", "overlap", owner="query"),
    ]
    shapes: dict[str, tuple[Any, ...]] = {
        "town": (tf.string,),
        "tags": (tf.int64, 2),
        "age": (tf.float32,),
        "rank": (tf.float32,),
        "born": (tf.int64,),
        "taste": (tf.float32, 3),
        "query": (tf.string,),
        "past": (tf.string, 2),
        "history": (tf.string, 4),
        "clicks": (tf.string, 4),
        "m": (tf.float32,),
    }
    specs = {k: tf.TensorSpec([None, *v[1:]], v[0]) for k, v in shapes.items()}
    return features, specs


def columns_of(specs: dict[str, tf.TensorSpec], rows: int) -> dict[str, tf.Tensor]:
    values = {tf.string: "x y", tf.int64: 1_700_000_000, tf.float32: 1e3}
    return {
        name: tf.fill(
            [rows, *spec.shape[1:]], tf.constant(values[spec.dtype], spec.dtype)
        )
        for name, spec in specs.items()
    }


@pytest.mark.parametrize(
    "policy", ["float32", "mixed_float16", "mixed_bfloat16"], indirect=True
)
def test_every_kind_is_finite_in_graphs_of_any_number_of_rows(tmp_path, policy):
    tf.keras.utils.set_random_seed(0)
    features, specs = every_kind(tmp_path)
    tables = make_tables(Schema([*features, CITY], [Task("click")]))
    fields = FieldEncoder(features, tables, 8)
    assert [v.dtype for v in fields.trainable_variables] == [tf.float32] * len(
        fields.trainable_variables
    )
    dtype = tf.keras.mixed_precision.global_policy().compute_dtype
    for training in (False, True):

        @tf.function(input_signature=[specs])
        def encode(columns, training=training):
            return fields(columns, training=training)

        for rows in (3, 1, 0):
            encoded = encode(columns_of(specs, rows))
            assert encoded.dtype == dtype
            assert encoded.shape == [rows, len(features), 8]
            assert np.isfinite(tf.cast(encoded, tf.float32)).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_large_numbers_are_not_computed_in_half_precision(tmp_path, policy):
    # A million is infinite in float16; neighbouring integers are one in bfloat16.
    exact = 2**-10 if policy == "mixed_float16" else 2**-7
    encoder = linear(Numeric("price", "doc", dimension=2), (1e-3, 1.0), (0.0, -1e6))
    field = encoder(tf.constant([1_000_000.0, 1_000_003.0]))
    assert field.dtype == tf.keras.mixed_precision.global_policy().compute_dtype
    field = tf.cast(field, tf.float32).numpy()
    np.testing.assert_allclose(field, [[1000.0, 0.0], [1000.0, 3.0]], rtol=exact)

    buckets = Numeric("rank", "doc", dimension=1, boundaries=(1e6, 1e6 + 2))
    field = encoder_of(buckets, [[0], [1], [2]])(tf.constant([999_999.0, 1e6, 1e6 + 2]))
    assert tf.cast(field, tf.float32)[:, 0].numpy().tolist() == [0, 1, 2]

    file = statistics(tmp_path, born={"mean": 1.7e9, "std": 8.0})
    born = Numeric(
        "born", "doc", dimension=1, standardize=True, dtype="int64", statistics=file
    )
    field = linear(born, (1,), (0,))(tf.constant([1_700_000_002], tf.int64))
    assert float(field[0, 0]) == 0.25

    # 2,000 tokens of 40 add up to more than float16 holds; their mean does not.
    vectors = tf.fill([1, 2000, 1], tf.constant(40.0, field.dtype))
    mean = pool(vectors, tf.ones([1, 2000], tf.bool), "mean")
    assert float(mean[0, 0]) == 40.0


def test_a_table_is_a_variable_of_its_owner(tmp_path):
    table = EmbeddingTable(
        Categorical("town", "query", vocabulary=vocabulary(tmp_path, "a"), dimension=2)
    )
    (variable,) = table.trainable_variables
    assert tuple(variable.shape) == (2, 2)
    assert 0 < np.abs(variable).max() <= 0.05
