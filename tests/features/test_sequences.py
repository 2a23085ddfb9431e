"""Histories: their encoders, texts as behaviours, times, and models of several."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml

import tfrs_prerank as tp
from tfrs_prerank import datasets
from tfrs_prerank.config import Config
from tfrs_prerank.features import (
    Categorical,
    DocumentTable,
    Match,
    Numeric,
    Schema,
    Sequence,
    Task,
    Text,
    adapt,
)
from tfrs_prerank.features.encoders import FieldEncoder, make_tables
from tfrs_prerank.layers import (
    AdditiveAttention,
    BehaviorTransformer,
    DotProductAttention,
    TargetAttention,
    ZeroAttention,
)

NOW = 1_700_000_000

USER = Categorical("user_id", "query", buckets=9, dimension=4)
SHOP = Categorical("shop", "doc", buckets=9, dimension=4)
QUERY = Text("query", "query", buckets=50, dimension=4, max_tokens=5)

OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "zero_attention": {"heads": 2, "zero_logit": "learned", "score": "additive"},
    "dot_attention": {},
    "additive_attention": {},
    "target_attention": {"softmax": True},
    "transformer": {"heads": 2, "blocks": 2, "positions": None, "zero_logit": "query"},
}


def fields_of(sequence: Sequence, *features: Any, seed: int = 1) -> FieldEncoder:
    """The query tower's fields: a user and a sequence."""
    tf.keras.utils.set_random_seed(seed)
    schema = Schema([USER, *features, sequence, SHOP], [Task("click")])
    return FieldEncoder([USER, *features, sequence], make_tables(schema), 4)


def columns_of(**columns: Any) -> dict[str, tf.Tensor]:
    rows = len(next(iter(columns.values())))
    users = tf.constant([f"u{row}" for row in range(rows)])
    return {"user_id": users, **{k: tf.constant(v) for k, v in columns.items()}}


HISTORIES = [["a", "b", "c", "a"], ["c", "", "", ""], ["", "", "", ""]]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_encoder_is_its_layer_over_the_embeddings(name: str) -> None:
    feature = Sequence(
        "history", shares="shop", max_length=4, encoder=name, **OPTIONS[name]
    )
    fields = fields_of(feature)
    columns = columns_of(history=HISTORIES)
    output = fields(columns)
    history = fields.encoders["history"]
    table = history.table
    rows = table.lookup(columns["history"])
    keys = tf.gather(table.embeddings, rows)
    mask = columns["history"] != ""
    context = output[:, 0]  # the user's field
    layers = {
        "mean": type(None),
        "zero_attention": ZeroAttention,
        "dot_attention": DotProductAttention,
        "additive_attention": AdditiveAttention,
        "target_attention": TargetAttention,
        "transformer": ZeroAttention,
    }
    assert type(history.attention) is layers[name]
    if name == "transformer":
        assert isinstance(history.behaviors.transformer, BehaviorTransformer)
        keys = history.behaviors.transformer(keys, mask)
    if name == "mean":
        shares = tf.cast(mask, tf.float32) / [[4.0], [1.0], [1.0]]
        expected = tf.linalg.matvec(keys, shares, transpose_a=True)
    else:
        expected = history.attention(context, keys, mask)
    np.testing.assert_allclose(output[:, 1], expected, rtol=1e-5, atol=1e-7)
    assert np.abs(output[:2, 1]).min() > 0
    np.testing.assert_array_equal(output[2, 1], np.zeros(4))  # no history
    options = {
        "zero_attention": history.attention,
        "target_attention": history.attention,
        "transformer": history.behaviors.transformer,
    }
    for key, value in OPTIONS[name].items():
        layer = history.attention if key in ("zero_logit", "score") else options[name]
        assert getattr(layer, key) == value


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_training_is_finite_under_every_policy(name: str, policy: str) -> None:
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        options = OPTIONS[name] | ({"dropout": 0.5} if name == "transformer" else {})
        feature = Sequence(
            "history", shares="shop", max_length=4, encoder=name, **options
        )
        fields = fields_of(feature)
        columns = columns_of(history=HISTORIES)
        fields(columns)

        @tf.function
        def step(columns: dict[str, tf.Tensor]) -> tuple:
            with tf.GradientTape() as tape:
                output = fields(columns, training=True)
                # Squares, since normalised numbers add up to a constant.
                loss = tf.reduce_sum(tf.square(tf.cast(output, tf.float32)))
            gradients = tape.gradient(loss, fields.trainable_variables)
            return output, [tf.convert_to_tensor(g) for g in gradients]

        output, gradients = step(columns)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(tf.cast(output, tf.float32)).all()
    assert all(np.isfinite(tf.cast(g, tf.float32)).all() for g in gradients)
    np.testing.assert_array_equal(tf.cast(output[2, 1], tf.float32), np.zeros(4))
    assert np.abs(tf.cast(output[:2, 1], tf.float32)).max() > 0


def test_learned_positions_are_as_many_as_behaviours_are_kept() -> None:
    feature = Sequence("history", shares="shop", max_length=4, encoder="transformer")
    fields = fields_of(feature)
    fields(columns_of(history=HISTORIES))
    transformer = fields.encoders["history"].behaviors.transformer
    assert transformer.position_vectors.shape == [4, 4]
    swapped = [["b", "a", "c", "a"], *HISTORIES[1:]]
    one, other = (fields(columns_of(history=h)) for h in (HISTORIES, swapped))
    assert not np.allclose(one[0, 1], other[0, 1], atol=1e-4)


def test_the_tables_own_ids_are_dropped_in_training() -> None:
    shop = Categorical("shop", "doc", buckets=9, dimension=4, id_dropout=0.5)
    feature = Sequence("history", shares="shop", max_length=40, encoder="mean")
    schema = Schema([USER, feature, shop], [Task("click")])
    fields = FieldEncoder([USER, feature], make_tables(schema), 4)
    columns = columns_of(history=[["a"] * 40])
    assert not np.allclose(fields(columns, training=True)[0, 1], fields(columns)[0, 1])


# Texts as behaviours.


def test_a_behaviour_of_text_is_the_mean_of_its_tokens() -> None:
    feature = Sequence("past", shares="query", max_length=3, encoder="mean")
    fields = fields_of(feature, QUERY)
    past = [["Red hat", "red", ""], ["", "", ""], ["!!!", "hat", ""]]
    columns = columns_of(query=["red", "", "hat"], past=past)
    output = fields(columns)
    strings = fields.encoders["query"].strings
    embeddings = strings.table.embeddings.numpy()
    assert fields.encoders["past"].table is strings
    red, hat = (
        embeddings[tf.strings.to_hash_bucket_fast(word, 50).numpy() + 1]
        for word in ("red", "hat")
    )
    # The mean of (red + hat) / 2 and red.
    np.testing.assert_allclose(output[0, 2], 0.75 * red + 0.25 * hat, rtol=1e-5)
    np.testing.assert_array_equal(output[1, 2], np.zeros(4))
    # A text without a word is no behaviour.
    np.testing.assert_allclose(output[2, 2], hat, rtol=1e-6)
    # As the text itself reads it.
    np.testing.assert_allclose(output[0, 1], red, rtol=1e-6)


def test_past_texts_are_cut_as_the_text_is() -> None:
    query = Text("query", "query", buckets=50, dimension=4, max_tokens=1)
    feature = Sequence("past", shares="query", max_length=1, encoder="mean")
    fields = fields_of(feature, query)
    columns = columns_of(query=["red", "red"], past=[["red hat"], ["red"]])
    output = fields(columns)
    np.testing.assert_array_equal(output[0, 2], output[1, 2])


def test_word_pieces_as_behaviours(tmp_path: Path) -> None:
    path = tmp_path / "pieces.txt"
    path.write_text("un\n##able\n[UNK]\n", encoding="utf-8")
    query = Text(
        "query", "query", tokenizer="wordpiece", vocabulary=str(path), dimension=4
    )
    feature = Sequence("past", shares="query", max_length=2, encoder="mean")
    fields = fields_of(feature, query)
    table = fields.encoders["past"].table.table
    table.embeddings.assign(np.arange(16.0).reshape(4, 4))
    columns = columns_of(query=["un", "un"], past=[["unable", "un"], ["", ""]])
    # Row 1 is un and row 2 ##able: the mean of (row 1 + row 2) / 2 and row 1.
    row = np.arange(4.0)
    expected = [((4 + row) + (8 + row)) / 4 + (4 + row) / 2, np.zeros(4)]
    np.testing.assert_allclose(fields(columns)[:, 2], expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_encoder_takes_texts(name: str) -> None:
    feature = Sequence(
        "past", shares="query", max_length=3, encoder=name, **OPTIONS[name]
    )
    fields = fields_of(feature, QUERY)
    function = tf.function(fields, autograph=False)
    past = [["red hat", "blue", ""], ["", "", ""]]
    output = function(columns_of(query=["red", "hat"], past=past))
    assert np.abs(output[0, 2]).min() > 0
    np.testing.assert_array_equal(output[1, 2], np.zeros(4))


def test_the_table_of_past_texts_is_collected_from_the_text_alone(
    tmp_path: Path,
) -> None:
    query = Text("query", "query", dimension=4)
    past = Sequence("past", shares="query")
    own = Sequence("visits", encoder="transformer", min_count=2)
    schema = Schema([query, past, own, SHOP], [Task("click")])
    requests = [
        {"query": "red hat", "past": ["blue"], "visits": ["x", "y", "x", ""]},
        {"query": "red", "past": [], "visits": []},
    ]
    documents = DocumentTable(np.array(["d"]), {"shop": ["s"]})
    adapted = adapt(schema, requests, documents, tmp_path)
    words = Path(adapted["query"].vocabulary).read_text("utf-8").split()
    assert words == ["red", "hat"]
    assert adapted["past"].vocabulary is None
    assert Path(adapted["visits"].vocabulary).read_text("utf-8").split() == ["x"]


# Times.


def gap_feature(**options: Any) -> Sequence:
    return Sequence(
        "history",
        shares="shop",
        max_length=4,
        encoder="transformer",
        positions="time_gap",
        times="times",
        **options,
    )


def test_gaps_are_int64_seconds_to_the_request() -> None:
    fields = fields_of(gap_feature())
    # Gaps of 1, 2 and 40 seconds, and an event of unknown time. As float32 all times
    # of this minute are the same.
    times = np.array(
        [[NOW - 1, NOW - 2, NOW - 40, -1], [NOW + 5, -1, -1, -1], [-1] * 4]
    )
    columns = columns_of(history=HISTORIES, times=times, time=np.full(3, NOW))
    output = fields(columns)
    history = fields.encoders["history"]
    keys = tf.gather(history.table.embeddings, history.table.lookup(columns["history"]))
    mask = columns["history"] != ""
    gaps = tf.constant([[1, 2, 40, -1], [-1] * 4, [-1] * 4])
    keys = history.behaviors.transformer(keys, mask, gaps)
    expected = history.attention(output[:, 0], keys, mask)
    np.testing.assert_allclose(output[:, 1], expected, rtol=1e-5, atol=1e-6)
    transformer = history.behaviors.transformer
    other = transformer(keys, mask, gaps + 1)
    assert not np.allclose(other, transformer(keys, mask, gaps), atol=1e-3)


def test_only_the_age_of_a_behaviour_counts() -> None:
    fields = fields_of(gap_feature())
    times = np.array([[NOW - 1, NOW - 2, NOW - 40, -1]] * 3)
    columns = columns_of(history=HISTORIES, times=times, time=np.full(3, NOW))
    before = fields(columns)
    years = 10**8
    known = np.where(times < 0, -1, times + years)
    later = columns_of(history=HISTORIES, times=known, time=np.full(3, NOW + years))
    np.testing.assert_array_equal(fields(later), before)


# Models of several sequences.


def three_horizons() -> list[Any]:
    """The real-time events, the last days, and long ones by attribute."""
    long = [
        Sequence(f"long_{name}", shares=name, max_length=12, encoder="mean")
        for name in ("item_id", "shop", "leaf", "brand")
    ]
    return [
        Categorical("user_id", "query", buckets=20),
        Text("query", "query", buckets=50, max_tokens=4),
        Sequence(
            "now",
            shares="item_id",
            max_length=3,
            encoder="transformer",
            heads=2,
            positions="time_gap",
            times="now_times",
            dropout=0.1,
        ),
        Sequence("days", shares="item_id", max_length=6, encoder="target_attention"),
        Sequence("searches", shares="query", max_length=4, zero_logit="query"),
        *long,
        Categorical("item_id", "doc", buckets=30),
        Categorical("shop", "doc", buckets=10, dimension=8),
        Categorical("leaf", "doc", buckets=10, dimension=4),
        Categorical("brand", "doc", buckets=10, dimension=4),
        Numeric("born", "doc", dtype="int64"),
        Match("age", "time", "born", "difference", log1p=True),
    ]


def log() -> tuple[list[dict[str, Any]], DocumentTable]:
    rng = np.random.default_rng(0)
    items = [f"i{number}" for number in range(12)]
    attributes = {
        name: np.array([f"{name[0]}{number % size}" for number in range(12)])
        for name, size in (("shop", 5), ("leaf", 4), ("brand", 3))
    }
    table = {"item_id": items, **attributes, "born": NOW - np.arange(12)}

    def events(most: int) -> np.ndarray:
        return rng.integers(0, 12, rng.integers(0, most + 1))

    requests = []
    for number in range(16):
        now, days, long = events(3), events(6), events(12)
        requests.append(
            {
                "request_id": f"r{number}",
                "time": NOW + number,
                "user_id": f"u{number % 5}",
                "query": ["red hat", "blue", ""][number % 3],
                "now": [items[i] for i in now],
                "now_times": (NOW - rng.integers(0, 500, len(now))).tolist(),
                "days": [items[i] for i in days],
                "searches": ["red", "blue hat", "!"][: number % 4],
                "long_item_id": [items[i] for i in long],
                **{f"long_{name}": v[long].tolist() for name, v in attributes.items()},
                "doc_ids": [items[i] for i in rng.permutation(12)[:4]],
                "label/click": [1.0, 0.0, 0.0, 0.0],
            }
        )
    return requests, DocumentTable(np.array(items), table)


@pytest.fixture(scope="module")
def schema() -> Schema:
    return Schema(three_horizons(), [Task("click")])


@pytest.fixture(scope="module")
def reader(schema: Schema, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("requests")
    requests, documents = log()
    datasets.write(folder, "train", schema, requests, documents=documents)
    return datasets.read(
        folder,
        "train",
        schema=schema,
        documents=documents,
        batch_size=8,
        shuffle=False,
    )


def model_of(schema: Schema, seed: int = 1) -> tp.PreRanker:
    tf.keras.utils.set_random_seed(seed)
    tower = tp.Tower(units=(16,), dimension=8, output=8)
    model = tp.PreRanker(schema, tower, tower, tp.Tower(units=(4,), dimension=8))
    model.compile(tp.LazyAdam(0.01))
    return model


def test_records_hold_the_times(reader: Any) -> None:
    requests, _ = log()
    batch = next(iter(reader))
    assert batch["now_times"].dtype == tf.int64
    for row, request in enumerate(requests[:8]):
        pad = [-1] * (3 - len(request["now_times"]))
        assert batch["now_times"][row].numpy().tolist() == request["now_times"] + pad
        assert batch["time"][row].numpy() == request["time"]


@pytest.mark.slow  # takes long
def test_three_horizons_train(schema: Schema, reader: Any) -> None:
    model = model_of(schema)
    before = [v.numpy() for v in model.network.trainable_variables]
    history = model.fit(reader, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[1] < history[0]
    for old, variable in zip(before, model.network.trainable_variables, strict=True):
        assert np.isfinite(variable).all()
        if variable.shape.rank and "scale" not in variable.name:
            assert np.any(old != variable), variable.name
    # Two sub-layers of the Transformer drop, and their state is in checkpoints.
    assert len(model.generators) == 2
    # All attributes of long histories share the documents' tables.
    tables = model.network.tables
    for name in ("item_id", "shop", "leaf", "brand"):
        assert tables[f"long_{name}"] is tables[name]
    assert tables["now"] is tables["days"] is tables["item_id"]
    assert tables["searches"] is tables["query"]


@pytest.mark.slow  # takes long
def test_each_sequence_reaches_the_scores(schema: Schema, reader: Any) -> None:
    model = model_of(schema)
    model.fit(reader, verbose=0)
    batch = next(iter(reader))
    scores = model(batch)["scores"]
    for feature in schema.features:
        if isinstance(feature, Sequence):
            empty = {**batch, feature.name: tf.fill(batch[feature.name].shape, "")}
            changed = np.abs(model(empty)["scores"] - scores).max(axis=1)
            given = (batch[feature.name].numpy() != b"").any(axis=1)
            assert (changed[given] > 0).all(), feature.name
            np.testing.assert_array_equal(changed[~given], 0.0)
    older = {**batch, "now_times": batch["now_times"] - 86_400}
    given = (batch["now"].numpy() != b"").any(axis=1)
    changed = np.abs(model(older)["scores"] - scores).max(axis=1)
    assert (changed[given] > 0).all()


def test_three_horizons_are_saved_and_loaded(
    schema: Schema, reader: Any, tmp_path: Path
) -> None:
    model = model_of(schema)
    model.fit(reader, verbose=0)
    batch = next(iter(reader))
    model.save(tmp_path / "run")
    loaded = tp.PreRanker.load(tmp_path / "run")
    np.testing.assert_allclose(loaded(batch)["scores"], model(batch)["scores"], 1e-6)


def test_an_export_reads_the_times(schema: Schema, reader: Any, tmp_path: Path) -> None:
    model = model_of(schema)
    _, documents = log()
    exported = tp.export(model, documents, tmp_path / "model", warmup_lengths=(3,))
    loaded = tf.saved_model.load(str(exported.path))
    batch = next(iter(reader))
    for name in ("serving_default", "encode_query"):
        signature = loaded.signatures[name]
        inputs = signature.structured_input_signature[1]
        assert inputs["now_times"].dtype == inputs["time"].dtype == tf.int64
        outputs = signature(**{key: batch[key] for key in inputs})
        if name == "serving_default":
            np.testing.assert_allclose(
                outputs["scores"], model(batch)["scores"], atol=1e-5
            )


def test_longer_lists_of_pads_change_no_score(schema: Schema, reader: Any) -> None:
    # A client pads with "" and -1; the model keeps max_length.
    batch = next(iter(reader))
    garbage = {
        **batch,
        "now_times": tf.where(batch["now"] == "", NOW, batch["now_times"]),
    }
    model = model_of(schema)
    np.testing.assert_array_equal(model(garbage)["scores"], model(batch)["scores"])


def test_a_request_must_have_the_times(schema: Schema, tmp_path: Path) -> None:
    requests, documents = log()
    without = {k: v for k, v in requests[0].items() if k != "now_times"}
    with pytest.raises(ValueError, match="column 'now_times' is missing"):
        datasets.write(tmp_path, "a", schema, [without], documents=documents)
    request = next(r for r in requests if len(r["now"]) > 1)
    short = {**request, "now_times": request["now_times"][1:]}
    count = len(request["now"])
    message = f"'now_times' has {count - 1} values, but 'now' has {count}; give one"
    with pytest.raises(ValueError, match=message):
        datasets.write(tmp_path, "b", schema, [short], documents=documents)
    text = {**request, "now_times": ["x"] * count}
    with pytest.raises(TypeError, match="column 'now_times': integers are declared"):
        datasets.write(tmp_path, "c", schema, [text], documents=documents)


def test_the_recipe_for_three_horizons_is_a_schema() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    (recipe,) = re.findall(
        r"```yaml\n(features:\n.*?now_times.*?)```", page.read_text("utf-8"), re.DOTALL
    )
    made = Schema.from_mapping({**yaml.safe_load(recipe), "tasks": [{"name": "click"}]})
    sequences = [f for f in made.features if isinstance(f, Sequence)]
    encoders = [f.encoder for f in sequences]
    assert encoders == [
        "transformer",
        "target_attention",
        "zero_attention",
        *["mean"] * 4,
    ]
    assert made.query_tower_reads_time


def test_yaml(schema: Schema, tmp_path: Path) -> None:
    schema.to_yaml(tmp_path / "schema.yaml")
    text = (tmp_path / "schema.yaml").read_text("utf-8")
    assert "  positions: time_gap\n  times: now_times\n  dropout: 0.1\n" in text
    assert Schema.from_yaml(tmp_path / "schema.yaml") == schema
    config = {
        "data": {"source": "movielens"},
        "schema": {
            **schema.to_mapping(),
            "features": [
                {"kind": "categorical", "name": "movie_id", "owner": "doc"},
                {"kind": "numeric", "name": "hour", "owner": "query"},
                {
                    "kind": "sequence",
                    "name": "history",
                    "shares": "movie_id",
                    "encoder": "transformer",
                    "positions": None,
                },
            ],
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    history = Config.from_yaml(path).schema["history"]
    assert (history.encoder, history.positions) == ("transformer", None)
