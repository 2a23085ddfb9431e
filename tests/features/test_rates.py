"""Smoothed log rates: declared, collected, encoded, trained and exported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.export_models import batch_of, call, model_outputs
from tfrs_prerank import (
    Categorical,
    Numeric,
    PreRanker,
    Ranker,
    Schema,
    Task,
    Tower,
    export,
)
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features import DocumentTable, adapt
from tfrs_prerank.features.encoders import FieldEncoder, RateEncoder, make_tables
from tfrs_prerank.features.schema import read_statistics

USER = Categorical("user_id", "query", buckets=3, dimension=4)
CITY = Categorical("city", "doc", buckets=3, dimension=4)


def rate(tmp_path: Path, found: dict[str, Any] | None = None, **options: Any) -> Any:
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"clicks": found or {"rate": 0.1}}))
    declared = {"per": "shown", "smoothing": 20.0, "dimension": 1, **options}
    return Numeric("clicks", "cross", statistics=str(file), **declared)


def fields(feature: Numeric, shown: Numeric | None = None) -> FieldEncoder:
    """Fields of clicks, whose kernel is 1 and bias 0, and of what they are a share."""
    shown = shown or Numeric("shown", "cross", missing=feature.missing, dimension=1)
    schema = Schema([USER, CITY, feature, shown], [Task("click")])
    encoder = FieldEncoder([feature, shown], make_tables(schema), 1)
    encoder.encoders["clicks"].kernel.assign([1.0])
    return encoder


def logs(encoder: FieldEncoder, clicks: Any, shown: Any, **kwargs: Any) -> np.ndarray:
    columns = {"clicks": tf.constant(clicks), "shown": tf.constant(shown)}
    return encoder(columns, **kwargs)[:, 0, 0].numpy()


# The field.


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_smoothed_rate_by_hand(tmp_path, dtype):
    # p = .1 and s = 20, so that the prior is 2 clicks in 20.
    shown = Numeric("shown", "cross", dimension=1, dtype=np.dtype(dtype).name)
    feature = rate(tmp_path, dtype=np.dtype(dtype).name)
    found = logs(
        fields(feature, shown),
        np.array([0, 2, 8, 0, 1_000_000, 60], dtype),
        np.array([0, 20, 20, 20, 10_000_000, 10], dtype),
    )
    expected = [
        0.0,  # nothing is known
        0.0,  # 4 / 40 = .1
        math.log(2.5),  # 10 / 40 = .25
        math.log(0.5),  # 2 / 40 = .05
        0.0,  # 1,000,002 / 10,000,020 = .1
        math.log(62 / 30 / 0.1),  # a ratio may be above 1
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found[0] == 0.0


def test_log_rates_of_random_counts_are_those_of_the_formula(tmp_path):
    rng = np.random.default_rng(0)
    shown = np.floor(rng.pareto(0.5, 2000)).astype(np.float32)
    clicks = np.floor(rng.random(2000) ** 3 * shown).astype(np.float32)
    assert (shown == 0).any() and shown.max() > 1e6
    for p, s in ((1e-4, 0.5), (0.3, 20.0), (5.0, 1000.0)):
        feature = rate(tmp_path, {"rate": p}, smoothing=s)
        wide = clicks.astype(np.float64), shown.astype(np.float64)
        expected = np.log((wide[0] + s * p) / (wide[1] + s) / p)
        np.testing.assert_allclose(
            logs(fields(feature), clicks, shown), expected, rtol=1e-6, atol=1e-6
        )


def test_a_log_rate_is_standardised(tmp_path):
    found = {"rate": 0.1, "mean": math.log(2.5), "std": 2.0, "smoothing": 20.0}
    encoder = fields(rate(tmp_path, found, standardize=True))
    numbers = logs(encoder, [8.0, 0.0], [20.0, 0.0])
    np.testing.assert_allclose(numbers, [0.0, -math.log(2.5) / 2], atol=1e-7)


def test_a_served_count_that_is_none_says_nothing(tmp_path):
    nan, inf = float("nan"), float("inf")
    clicks = [nan, 8.0, inf, -3.0, 8.0, 3e38, 3e38]
    shown = [20.0, nan, -inf, 20.0, -20.0, 3e38, 0.0]
    expected = [0.0, 0.0, 0.0, math.log(0.5), math.log(5.0), math.log(10)]
    expected.append(math.log(3e38 / 2))
    found = logs(fields(rate(tmp_path)), clicks, shown)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # With a sentinel, its vector; not where one of the columns alone holds it.
    encoder = fields(rate(tmp_path, missing=-1))
    encoder.encoders["clicks"].missing.assign([7.0])
    found = logs(encoder, [nan, -1.0, -1.0, 8.0], [20.0, -1.0, 20.0, -1.0])
    expected = [7.0, 7.0, math.log(0.5), math.log(5.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # 0 of 0 may be what is not known, and 0 of 20 still is.
    encoder = fields(rate(tmp_path, missing=0))
    encoder.encoders["clicks"].missing.assign([7.0])
    found = logs(encoder, [0.0, 0.0], [0.0, 20.0])
    np.testing.assert_allclose(found, [7.0, math.log(0.5)], rtol=1e-6)


@pytest.mark.parametrize(
    ("clicks", "shown"), [(-1.0, 2.0), (1.0, -2.0), (float("nan"), 2.0)]
)
@pytest.mark.parametrize("missing", [None, -1.0])
def test_training_refuses_what_is_no_count(tmp_path, clicks, shown, missing):
    encoder = fields(rate(tmp_path, missing=missing))
    known = -1.0 if missing else 0.0
    assert np.isfinite(logs(encoder, [1.0, known], [1.0, known], training=True)).all()
    traced = tf.function(lambda c, s: logs_in_training(encoder, c, s))
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        traced(tf.constant([1.0, clicks]), tf.constant([1.0, shown]))
    assert (
        "clicks: NaN, infinity or a negative count in it or in shown; declare a "
        "sentinel as Numeric(missing=...) for both"
    ) in str(error.value)


def logs_in_training(encoder, clicks, shown):
    return encoder({"clicks": clicks, "shown": shown}, training=True)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_computes_in_single(tmp_path, policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        encoder = fields(rate(tmp_path))
        columns = {"clicks": tf.constant([1e6]), "shown": tf.constant([1e6])}
        field = encoder(columns)[0, 0, 0]
        assert field.dtype == tf.keras.mixed_precision.global_policy().compute_dtype
        assert abs(float(field) - math.log(10)) < 0.01
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


# Declarations.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"per": "shown", "buckets": 4},
            "buckets does nothing with per='shown'; leave it out. Received: buckets=4",
        ),
        (
            {"per": "shown", "log1p": True},
            "log1p does nothing with per='shown'; leave it out. Received: log1p=True",
        ),
        (
            {"smoothing": 5.0},
            "smoothing does nothing with per=None; leave it out. Received: "
            "smoothing=5.0",
        ),
        (
            {"per": "shown", "smoothing": 0.0},
            "smoothing must be above 0 and finite. Received: 0.0",
        ),
    ],
)
def test_options_that_do_not_fit(options, expected):
    with pytest.raises(ConfigurationError) as error:
        Numeric("clicks", "cross", **options)
    assert str(error.value) == f"Numeric 'clicks': {expected}"


@pytest.mark.parametrize(
    ("per", "options", "expected"),
    [
        (
            Numeric("show", "cross"),
            {},
            "clicks.per names no other Numeric. Received: 'shown'; did you mean "
            "'show'?",
        ),
        (
            Categorical("shown", "cross", buckets=3),
            {},
            "clicks.per names no other Numeric. Received: 'shown'; there is none",
        ),
        (
            Numeric("shown", "query"),
            {},
            "clicks.owner must be that of 'shown', 'query'. Received: 'cross'",
        ),
        (
            Numeric("shown", "cross", missing=0.0),
            {"missing": -1.0},
            "clicks.missing must be that of 'shown', 0.0. Received: -1.0",
        ),
        (
            Numeric("shown", "cross", training_only=True),
            {},
            "clicks.training_only must be that of 'shown', True. Received: False",
        ),
        (
            Numeric("shown", "cross", point_in_time=True),
            {},
            "clicks.point_in_time must be that of 'shown', True. Received: False",
        ),
        (
            Numeric("shown", "cross", privileged=True),
            {},
            "clicks reads 'shown', which is privileged; declare clicks privileged too",
        ),
    ],
)
def test_both_columns_come_from_the_same_place(per, options, expected):
    clicks = Numeric("clicks", "cross", per="shown", **options)
    with pytest.raises(ConfigurationError) as error:
        Schema([USER, CITY, clicks, per], [Task("click")])
    assert str(error.value) == f"Schema: {expected}"


def test_a_column_is_no_share_of_itself():
    clicks = Numeric("clicks", "cross", per="clicks")
    with pytest.raises(ConfigurationError, match="names no other Numeric"):
        Schema([USER, CITY, clicks], [Task("click")])


# Statistics.


def collect(tmp_path: Path, requests: Any, columns: Any = None, **options: Any) -> Any:
    """Adapts clicks over exposures and returns the statistics."""
    common = {"owner": options.pop("owner", "cross"), **options}
    shown = {k: v for k, v in common.items() if k not in ("standardize", "smoothing")}
    clicks = Numeric("clicks", per="shown", **common)
    schema = Schema([USER, CITY, clicks, Numeric("shown", **shown)], [Task("click")])
    table = DocumentTable(np.arange(3), columns or {})
    adapted = adapt(schema, requests, table, tmp_path / "out")
    return read_statistics(adapted["clicks"])


def test_the_rate_of_all_by_hand(tmp_path):
    requests = [
        {"clicks": [1.0, 0.0], "shown": [10.0, 5.0]},
        {"clicks": [-1.0, 3.0], "shown": [-1.0, 25.0]},
    ]
    # 4 of 40; what is not known is left out.
    found = collect(tmp_path, requests, missing=-1.0)
    assert found == {"rate": 0.1, "per": "shown"}
    found = collect(tmp_path, requests, missing=-1.0, standardize=True, smoothing=10.0)
    x = np.log([2 / 20 / 0.1, 1 / 15 / 0.1, 4 / 35 / 0.1])
    assert (found["rate"], found["smoothing"]) == (0.1, 10.0)
    np.testing.assert_allclose([found["mean"], found["std"]], [x.mean(), x.std()])


def test_static_columns_are_counted_once_a_document(tmp_path):
    columns = {"clicks": [1, 2, 3], "shown": [10, 20, 30]}
    unread = iter([{}])
    assert collect(tmp_path, unread, columns, owner="doc")["rate"] == 0.1
    assert list(unread) == [{}]
    # A counter that grows comes from the requests: the table is from after them.
    requests = [{"clicks": [1, 1], "shown": [4, 4]}]
    found = collect(tmp_path, requests, columns, owner="doc", point_in_time=True)
    assert found["rate"] == 0.25


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            {"clicks": [1.0], "shown": [-2.0]},
            "shown: -2.0 in the training data; a count is from 0, or the sentinel "
            "Numeric(missing=...) in both columns",
        ),
        (
            {"clicks": [-1.0], "shown": [2.0]},
            "clicks: -1.0 in the training data; a count is from 0, or the sentinel "
            "Numeric(missing=...) in both columns",
        ),
        (
            {"clicks": [0.0, 0.0], "shown": [3.0, 4.0]},
            "clicks: the totals are 0 and, of 'shown', 7 in the training data; a rate "
            "needs both above 0",
        ),
        (
            {"clicks": [1.0, 0.0], "shown": [3.0]},
            "clicks: 2 values in the training data, but 1 of 'shown'; give as many",
        ),
        (
            {"clicks": [float("nan")], "shown": [3.0]},
            "clicks: nan in the training data; replace missing numbers by a sentinel "
            "and declare it as Numeric(missing=...)",
        ),
    ],
)
def test_counts_without_a_rate(tmp_path, request_, expected):
    with pytest.raises(ValueError) as error:
        collect(tmp_path, [request_])
    assert str(error.value) == expected
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        ({"mean": 0.0}, {}, "hold no 'rate'"),
        ({"rate": 0.0}, {}, "hold rate=0.0, which is not above 0 and finite"),
        ({"rate": 0.1}, {"standardize": True}, "hold no 'mean'"),
        ({"rate": 0.1, "per": "seen"}, {}, "were made for per=seen"),
        (
            {"rate": 0.1, "mean": 0.0, "std": 1.0, "smoothing": 5.0},
            {"standardize": True},
            "were made for smoothing=5.0",
        ),
        (
            {"rate": 0.1, "mean": 0.0, "std": 1.0, "per": "shown"},
            {"standardize": True, "per": None},
            "were made for per=shown",
        ),
    ],
)
def test_statistics_of_another_declaration(tmp_path, found, options, expected):
    feature = rate(tmp_path, found, **options)
    with pytest.raises(ValueError) as error:
        read_statistics(feature)
    assert str(error.value) == (
        f"clicks: statistics at {feature.statistics} {expected}; run `adapt` again"
    )


# Models.


def shares(name: str, owner: str, file: str, **options: Any) -> list[Numeric]:
    given = {"dimension": 4, **options}
    return [
        Numeric(name, owner, per=f"{name}_shown", statistics=file, **given),
        Numeric(f"{name}_shown", owner, **given),
    ]


def test_models_read_rates_of_every_owner_and_exports_score_alike(tmp_path):
    tf.keras.utils.set_random_seed(0)
    names = ("mine", "of_author", "pair", "of_place", "of_friends")
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({name: {"rate": 0.1} for name in names}))
    schema = Schema(
        [
            USER,
            CITY,
            *shares("mine", "query", str(file)),
            *shares("of_author", "doc", str(file), point_in_time=True),
            *shares("pair", "cross", str(file), missing=-1.0),
            *shares("of_place", "doc", str(file), training_only=True),
            *shares("of_friends", "cross", str(file), privileged=True),
        ],
        [Task("click")],
    )
    tower = Tower(units=(4,), dimension=4, output=4)
    model = PreRanker(schema, tower, tower, tower)
    rng = np.random.default_rng(0)
    cities = np.array([["a", "b", "c"]] * 8, object)
    batch = {
        "user_id": np.array(["u"] * 8, object),
        "doc_ids": cities,
        "city": cities,
        "mask": np.ones([8, 3], bool),
        "label/click": rng.integers(0, 2, [8, 3]).astype(np.float32),
    }
    for name, column in schema.columns().items():
        if column.dtype == "float32":
            shape = [8] if column.owner == "query" else [8, 3]
            batch[name] = rng.integers(0, 9, shape).astype(np.float32)
    for name in ("pair", "pair_shown"):
        batch[name][:, 0] = -1.0
    data = tf.data.Dataset.from_tensor_slices(batch).batch(4)
    encoders = {m.name: m for m in model.submodules if isinstance(m, RateEncoder)}
    assert sorted(encoders) == ["mine", "of_author", "of_place", "pair"]
    before = {name: encoder.kernel.numpy() for name, encoder in encoders.items()}
    for trained in (model, Ranker(schema, tower)):
        trained.compile()
        history = trained.fit(data, epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all()
    for name, encoder in encoders.items():
        assert (encoder.kernel.numpy() != before[name]).all(), name
    encoders["pair"].missing.assign([1.0, 2.0, 3.0, 4.0])

    documents = DocumentTable(
        np.array(["a", "b", "c"], object),
        {
            "city": ["a", "b", "c"],
            "of_author": np.array([0.0, 3.0, 7.0], np.float32),
            "of_author_shown": np.array([0.0, 9.0, 100.0], np.float32),
        },
    )
    exported = export(model, documents, tmp_path / "m", k=3, warmup_lengths=[3])
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    query = {name: batch[name] for name in ("user_id", "mine", "mine_shown")}
    cross = {name: batch[name] for name in ("pair", "pair_shown")}
    inputs = {**query, **cross, "doc_ids": cities}
    rows = np.tile(np.arange(3), (8, 1))
    expected = batch_of(schema.served, documents, rows, query, cross)
    np.testing.assert_allclose(
        call(signature, inputs)["scores"],
        model_outputs(model, expected)["scores"],
        rtol=1e-5,
    )
    # A client's mistake harms nobody else, and its own answer stays a number.
    inputs["pair"] = np.array([[np.nan, -5.0, np.inf]] * 8, np.float32)
    assert np.isfinite(call(signature, inputs)["scores"]).all()
