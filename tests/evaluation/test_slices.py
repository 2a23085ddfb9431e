import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.requests import batches_of, logits_of, make_requests, rows_of
from tfrs_prerank.evaluation import Slice, by_length, compare, evaluate
from tfrs_prerank.evaluation.slices import quantiles
from tfrs_prerank.metrics import (
    ECE,
    MRR,
    PCOC,
    HitRate,
    InSceneHitRate,
    NormalizedEntropy,
)

ROWS = {"a": "score", "pop": "popularity"}


@pytest.fixture(scope="module")
def requests():
    return make_requests(60, users=12)


def test_a_slice_of_requests_is_the_evaluation_of_its_lists(requests):
    options = {"metrics": [MRR(), HitRate(2)], "samples": 20}
    made = evaluate(ROWS, batches_of(requests, 7), slices={"city": "city"}, **options)
    assert list(made.slices["city"]) == ["oslo", "rome"]
    for city, part in made.slices["city"].items():
        inside = rows_of(requests, requests["city"] == city)
        alone = evaluate(ROWS, [inside], **options)
        assert part.records == alone.records
        assert part.differences == alone.differences
        assert part.requests == alone.requests
        assert compare(part) == compare(alone)
    # The whole is what it would be without slices.
    assert made.records == evaluate(ROWS, batches_of(requests, 7), **options).records


def test_lengths_are_cut_at_edges(requests):
    slices = {"length": by_length(edges=(2, 4))}
    made = evaluate(ROWS, batches_of(requests, 7), metrics=[MRR()], slices=slices)
    lengths = requests["mask"].sum(axis=1)
    parts = made.slices["length"]
    assert {bucket: part.requests for bucket, part in parts.items()} == {
        "< 2": (lengths < 2).sum(),
        "[2, 4)": ((lengths >= 2) & (lengths < 4)).sum(),
        ">= 4": (lengths >= 4).sum(),
    }


def test_few_numbers_stand_alone_and_many_are_cut_by_size():
    values = np.array([3.0, 1.0, 1.0, np.nan, 3.0])
    names, places = Slice("x", buckets=2).cut("x", values)
    assert [names[place] for place in places] == ["3", "1", "1", "(none)", "3"]
    names, places = Slice("x", buckets=4).cut("x", np.arange(100.0))
    assert names == ["< 25", "[25, 50)", "[50, 75)", ">= 75", "(none)"]
    assert np.bincount(places).tolist() == [25, 25, 25, 25]


def test_a_value_that_fills_a_part_alone_leaves_fewer_edges():
    assert quantiles(np.array([1.0] * 9 + [2.0]), 4).tolist() == []
    assert quantiles(np.array([1.0, 2.0, 2.0, 2.0, 3.0, 4.0]), 3).tolist() == [2.0, 3.0]


numbers = st.lists(st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan"))))


@given(numbers, st.integers(2, 6))
def test_every_number_is_in_one_bucket_and_buckets_ascend(values, buckets):
    values = np.array(values, np.float64)
    names, places = Slice("x", buckets=buckets).cut("x", values)
    assert len(names) == len(set(names)) <= buckets + 1
    assert ((places == len(names) - 1) == np.isnan(values)).all()
    known = ~np.isnan(values)
    highest = -np.inf
    for place in np.unique(places[known]):
        inside = values[known & (places == place)]
        assert inside.min() > highest
        highest = inside.max()


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5, unique=True),
    st.lists(st.floats(-1e6, 1e6), min_size=1),
)
def test_a_bucket_holds_its_lower_edge(edges, values):
    edges = sorted(edges)
    names, places = Slice("x", edges=edges).cut("x", np.array(values))
    assert len(names) == len(edges) + 2
    bounds = [-np.inf, *edges, np.inf]
    for value, place in zip(values, places, strict=True):
        assert bounds[place] <= value < bounds[place + 1]


def test_close_edges_keep_names_of_their_own():
    names = Slice("x", edges=(1_234_567, 1_234_568)).names()
    assert names == ["< 1234567", "[1234567, 1234568)", ">= 1234568"]


def test_a_slice_of_documents_takes_the_positives_apart():
    # The positives of age 0 are at ranks 1 and 4, that of age 9 at rank 2.
    batch = {
        "mask": np.ones([1, 4], bool),
        "label/click": np.array([[1.0, 1.0, 0.0, 1.0]]),
        "score": np.array([[4.0, 3.0, 2.0, 1.0]]),
        "age": np.array([[0.0, 9.0, 9.0, 0.0]]),
    }
    made = evaluate(
        {"a": "score"},
        [batch],
        metrics=[HitRate(2), HitRate(1), MRR()],
        groups=None,
        slices={"age": Slice("age", edges=(1, 5))},
    )
    young, old = made.slices["age"]["< 1"], made.slices["age"][">= 5"]
    assert list(made.slices["age"]) == ["< 1", ">= 5"]
    assert young.value("click", "hit_rate@2", "a") == 0.5
    assert young.value("click", "hit_rate@1", "a") == 0.5
    # The positive of age 0 holds the first place, although it is not looked for.
    assert old.value("click", "hit_rate@2", "a") == 1.0
    assert old.value("click", "hit_rate@1", "a") == 0.0
    # Which other metrics cannot be taken apart like that:
    assert {record.metric for record in old.records} == {"hit_rate@2", "hit_rate@1"}


def test_slices_of_documents_add_up_batch_by_batch(requests):
    slices = {"category": "category"}
    metrics = [InSceneHitRate(2), PCOC(), ECE()]
    rows = {"a": logits_of("score")}
    one = evaluate(rows, [requests], metrics=metrics, slices=slices, samples=9)
    many = evaluate(
        rows, batches_of(requests, 1), metrics=metrics, slices=slices, samples=9
    )
    assert list(many.slices["category"]) == ["a", "b", "(none)"]
    for bucket, part in one.slices["category"].items():
        for left, right in zip(
            part.records, many.slices["category"][bucket].records, strict=True
        ):
            numbers = [[r.value, r.low, r.high] for r in (left, right)]
            assert numbers[0] == pytest.approx(numbers[1])
    inside = requests["category"] == "a"
    labels = np.where(inside, requests["label/click"], np.nan)
    known = requests["mask"] & ~np.isnan(labels)
    p = 1 / (1 + np.exp(-requests["score"].astype(np.float64)))
    want = p[known].sum() / labels[known].sum()
    assert one.slices["category"]["a"].value("click", "pcoc", "a") == pytest.approx(
        want
    )


def test_a_function_of_the_batch_tells_lists_apart(requests):
    def positives(batch):
        clicked = tf.cast(batch["mask"] & (batch["label/click"] > 0), tf.int32)
        return tf.reduce_sum(clicked, axis=1)

    slices = {"positives": Slice(positives, edges=(1, 2))}
    made = evaluate(ROWS, [requests], metrics=[MRR()], slices=slices, samples=5)
    assert made.slices["positives"]["< 1"].records == ()
    assert made.slices["positives"][">= 2"].records


def test_slices_are_printed_and_stored(requests):
    slices = {"city": "city", "age": Slice("age", edges=(20,))}
    made = evaluate(ROWS, [requests], metrics=[HitRate(2)], slices=slices, samples=5)
    lines = str(made).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("by city"))
    assert lines[start].split() == ["by", "city", "ranking", "oslo", "rome"]
    oslo, rome = made.slices["city"].values()
    assert lines[start + 1].split() == ["lists", str(oslo.requests), str(rome.requests)]
    assert lines[start + 3].split() == [
        "hit_rate@2",
        "a",
        f"{oslo.value('click', 'hit_rate@2', 'a'):.4f}",
        f"{rome.value('click', 'hit_rate@2', 'a'):.4f}",
    ]
    stored = json.loads(made.to_json())["slices"]
    value = made.slices["age"][">= 20"].value("click", "hit_rate@2", "pop")
    assert stored["age"][">= 20"]["records"][1]["value"] == value


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("town", KeyError, r"slices\['x'\]: the batch has no column 'town'"),
        (
            Slice("age"),
            ValueError,
            "holds a number per document: give edges",
        ),
        ("mask", TypeError, r"slices\['x'\] gives bool"),
        (
            lambda batch: [1, 2],
            ValueError,
            r"slices\['x'\] has shape \(2,\): .* \(60,\)",
        ),
        ("request_id", ValueError, r"slices\['x'\] has 60 values: at most 30"),
        (
            Slice("city", edges=(1,)),
            TypeError,
            r"slices\['x'\] gives strings, which edges cannot cut: leave edges out",
        ),
        (
            Slice("category", edges=(1, 5)),
            TypeError,
            r"slices\['x'\] gives strings, which edges cannot cut: leave edges out",
        ),
    ],
)
def test_bad_slices_are_named(requests, source, error, message):
    with pytest.raises(error, match=message) as caught:
        evaluate(ROWS, [requests], metrics=[HitRate(2)], slices={"x": source})
    assert "\n" not in str(caught.value)


def test_documents_cannot_be_told_apart_without_hit_rates(requests):
    with pytest.raises(ValueError, match="takes positives apart, which hit rates"):
        evaluate(ROWS, [requests], metrics=[MRR()], slices={"category": "category"})


def test_the_metrics_that_take_documents_apart_are_those_that_an_error_names(requests):
    rows, slices = {"a": logits_of("score")}, {"category": "category"}
    with pytest.raises(ValueError) as caught:
        evaluate(rows, [requests], metrics=[ECE()], slices=slices)
    words = str(caught.value)
    assert "hit rates, PCOC and NormalizedEntropy can" in words
    for metric in (InSceneHitRate(2), PCOC(), NormalizedEntropy()):
        made = evaluate(rows, [requests], metrics=[metric], slices=slices, samples=2)
        assert all(part.records for part in made.slices["category"].values())


@pytest.mark.parametrize("edges", [(), (2, 1), (1, 1), (1, float("nan"))])
def test_edges_ascend(edges):
    with pytest.raises(ValueError, match="edges must ascend"):
        Slice("x", edges=edges)


def test_one_bucket_is_no_slice():
    with pytest.raises(ValueError, match=r"buckets must be at least 2\. Received: 1"):
        Slice("x", buckets=1)


def test_numbers_alike_in_their_first_digits_are_buckets_of_their_own():
    names, places = Slice("day").cut("day", np.array([20240102.0, 20240101.0]))
    assert names[:2] == ["20240101", "20240102"]
    assert places.tolist() == [1, 0]
