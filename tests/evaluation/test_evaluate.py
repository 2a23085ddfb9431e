import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tests.metrics import reference
from tfrs_prerank import Categorical, Numeric, PreRanker, Schema, Task, Tower
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.evaluation.bootstrap import resample_counts
from tfrs_prerank.metrics import (
    GAUC,
    MRR,
    NDCG,
    PCOC,
    CatalogCoverage,
    HitRate,
    RankerHitRate,
)

LENGTH = 5


def make_requests(count=24, users=6, seed=0):
    """Returns `count` requests as one batch of NumPy arrays."""
    generator = np.random.default_rng(seed)
    shape = (count, LENGTH)
    mask = np.arange(LENGTH) < generator.integers(1, LENGTH + 1, (count, 1))
    click = (generator.random(shape) < 0.4).astype(np.float32)
    like = click * (generator.random(shape) < 0.6)
    click[generator.random(shape) < 0.1] = np.nan
    return {
        "mask": mask,
        "doc_ids": generator.choice(["d1", "d2", "d3", "d4"], shape),
        "request_id": np.array([f"r{i:03d}" for i in range(count)]),
        "group_id": generator.choice([f"u{i}" for i in range(users)], count),
        "city": generator.choice(["a", "b", "c"], shape),
        "user": generator.choice(["x", "y"], count),
        "label/click": click,
        "label/like": like.astype(np.float32),
        # Few levels: many ties.
        "popularity": generator.integers(0, 3, shape).astype(np.float32),
        "co_likes": generator.random(shape).astype(np.float32),
    }


def rows_of(requests, index):
    return {name: column[index] for name, column in requests.items()}


def batches_of(requests, size, order=None):
    order = np.arange(len(requests["mask"])) if order is None else order
    return [
        rows_of(requests, order[start : start + size])
        for start in range(0, len(order), size)
    ]


def slow_lists(requests, task, column):
    """Returns `{metric: (values, weights)}` of all lists, by loops."""
    lists = requests[f"label/{task}"], requests[column], requests["mask"]
    return {
        "ndcg@3": reference.batch(reference.ndcg, *lists, 3),
        "mrr": reference.batch(reference.reciprocal_rank, *lists, LENGTH),
        "hit_rate@2": reference.batch(reference.hit_rate, *lists, 2),
        "gauc": reference.batch(reference.auc, *lists),
    }


def slow_mean(values, weights, times):
    total = weight = 0.0
    for value, own, count in zip(values, weights, times, strict=True):
        for _ in range(int(count)):
            total += value * own
            weight += own
    return total / weight if weight else np.nan


METRICS = [NDCG(3), MRR(), HitRate(2), GAUC()]
COLUMNS = {"co": "co_likes", "pop": "popularity"}


def test_all_numbers_equal_slow_loops():
    requests = make_requests()
    evaluation = evaluate(
        COLUMNS, batches_of(requests, 7), metrics=METRICS, samples=40, seed=5
    )
    users = sorted(set(requests["group_id"]))
    draws = np.concatenate(list(resample_counts(len(users), 40, seed=5)))
    # How often each list is drawn, in the data and in every resample.
    place = [users.index(user) for user in requests["group_id"]]
    once, times = np.ones(len(place)), draws[:, place]
    assert len(evaluation.records) == 2 * 4 * 2
    assert len(evaluation.differences) == 2 * 4
    for task in ("click", "like"):
        co = slow_lists(requests, task, "co_likes")
        pop = slow_lists(requests, task, "popularity")
        for metric in ("ndcg@3", "mrr", "hit_rate@2", "gauc"):
            drawn = {}
            for row, lists in (("co", co), ("pop", pop)):
                values, weights = lists[metric]
                record = evaluation.record(task, metric, row)
                assert record.value == pytest.approx(slow_mean(values, weights, once))
                drawn[row] = [slow_mean(values, weights, t) for t in times]
                want = np.nanpercentile(drawn[row], [2.5, 97.5])
                assert [record.low, record.high] == pytest.approx(want)
                used = np.flatnonzero(weights)
                assert record.lists == len(used)
                assert record.groups == len({requests["group_id"][i] for i in used})
            gaps = np.subtract(drawn["co"], drawn["pop"])
            difference = evaluation.difference(task, metric, "pop")
            assert difference.row == "co"
            assert difference.value == pytest.approx(
                evaluation.value(task, metric, "co")
                - evaluation.value(task, metric, "pop")
            )
            want = np.nanpercentile(gaps, [2.5, 97.5])
            assert [difference.low, difference.high] == pytest.approx(want, abs=1e-12)


def test_identical_rankings_differ_by_exactly_nothing():
    requests = make_requests(60, users=20)
    evaluation = evaluate(
        {"a": "co_likes", "b": "popularity", "c": lambda batch: batch["co_likes"]},
        batches_of(requests, 16),
        samples=50,
    )
    for task in ("click", "like"):
        for metric in ("ndcg@10", "mrr", "hit_rate@10", "gauc"):
            same = evaluation.difference(task, metric, "c")
            assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    other = evaluation.difference("click", "mrr", "b")
    assert other.low < other.high


def test_the_data_is_gone_through_once():
    requests = make_requests()
    yielded, scored = [], []

    def data():
        for batch in batches_of(requests, 5):
            yielded.append(batch)
            yield batch

    def ranking(batch):
        scored.append(len(batch["mask"]))
        return batch["co_likes"]

    evaluate({"a": ranking, "b": "popularity"}, data(), samples=2)
    assert len(yielded) == 5
    assert scored == [5, 5, 5, 5, 4]


@pytest.mark.parametrize("lonely", [False, True])
def test_neither_order_nor_batches_matter(lonely):
    requests = make_requests(40)
    if lonely:
        requests["group_id"][::2] = ""
    order = np.random.default_rng(3).permutation(40)
    one = evaluate(COLUMNS, batches_of(requests, 40), metrics=METRICS, samples=60)
    two = evaluate(COLUMNS, batches_of(requests, 3, order), metrics=METRICS, samples=60)
    for a, b in zip(
        one.records + one.differences, two.records + two.differences, strict=True
    ):
        numbers = [[x.value, x.low, x.high] for x in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-9, abs=1e-12)
        assert dataclasses.replace(a, value=0, low=0, high=0) == dataclasses.replace(
            b, value=0, low=0, high=0
        )


def test_a_users_repeated_requests_are_no_new_evidence():
    requests = make_requests()
    thrice = np.repeat(np.arange(24), 3)

    def bounds(groups, index):
        data = batches_of(requests, 50, index)
        made = evaluate(COLUMNS, data, metrics=METRICS, groups=groups, samples=300)
        assert made.record("click", "mrr", "co").groups > 1
        return [
            number
            for item in made.records + made.differences
            for number in (item.value, item.low, item.high)
        ]

    once = bounds("group_id", np.arange(24))
    assert bounds("group_id", thrice) == pytest.approx(once, rel=1e-9, abs=1e-12)
    # Taken one by one they look like three times the evidence.
    low, high = bounds(None, np.arange(24))[1:3]
    thrice_low, thrice_high = bounds(None, thrice)[1:3]
    assert thrice_high - thrice_low < 0.75 * (high - low)


def test_an_empty_group_is_a_request_of_its_own():
    requests = make_requests()
    by_request = evaluate(COLUMNS, batches_of(requests, 8), groups=None, samples=30)
    requests["group_id"][:] = ""
    empty = evaluate(COLUMNS, batches_of(requests, 8), samples=30)
    assert empty.records == by_request.records
    requests["number"] = np.full(24, -1)
    integers = evaluate(COLUMNS, batches_of(requests, 8), groups="number", samples=30)
    assert integers.records == by_request.records
    assert by_request.records[0].groups == by_request.records[0].lists


def test_random_is_the_expectation_over_all_orders():
    batch = {
        "mask": np.array([[True] * 4, [True, True, True, False]]),
        "label/click": np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]),
    }
    made = evaluate(
        {"random": "random"},
        [batch],
        metrics=[HitRate(1), MRR(), GAUC()],
        groups=None,
        samples=1,
    )
    # HitRate@1: 1/4 and 1/3 (each of 2 positives is first with probability 1/3).
    assert made.value("click", "hit_rate@1", "random") == pytest.approx(7 / 24)
    # MRR: (1 + 1/2 + 1/3 + 1/4) / 4 = 25/48, and 2/3 * 1 + 1/3 * 1/2 = 5/6.
    assert made.value("click", "mrr", "random") == pytest.approx((25 / 48 + 5 / 6) / 2)
    assert made.value("click", "gauc", "random") == 0.5


@pytest.fixture(scope="module")
def model():
    schema = Schema(
        features=[
            Categorical("user", "query", buckets=5),
            Categorical("city", "doc", buckets=5),
            Numeric("co_likes", "cross"),
        ],
        tasks=[Task("click", fuse=5.0), Task("like", fuse=0.1)],
    )
    tower = Tower(units=(4,), output=3)
    model = PreRanker(schema, tower, tower, Tower(units=(4,)))
    model.compile(metrics=METRICS, run_eagerly=True)
    # Untrained towers give both tasks nearly the same order.
    generator = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(generator.normal(size=weight.shape))
    return model


def test_a_model_gets_what_keras_says(model):
    requests = make_requests(50)
    own = {name: requests[name] for name in requests if name != "popularity"}
    want = model.evaluate(
        tf.data.Dataset.from_tensor_slices(own).batch(20), return_dict=True, verbose=0
    )
    data = tf.data.Dataset.from_tensor_slices(requests).batch(20)
    made = evaluate(
        {"model": model, "pop": "popularity"},
        data,
        metrics=METRICS,
        samples=20,
    )
    assert [record.task for record in made.records] == ["click"] * 8 + ["like"] * 8
    for record in made.records:
        if record.row == "model":
            name = f"{record.task}/{record.metric}"
            assert record.value == pytest.approx(want[name], abs=1e-9), name
    # The fused scores and the task's logits order documents differently.
    logits = evaluate(
        {"model": lambda batch: model({n: batch[n] for n in own})["like"]},
        data,
        metrics=METRICS,
        tasks="like",
        samples=1,
    )
    assert logits.value("like", "gauc", "model") == made.value("like", "gauc", "model")
    assert logits.value("like", "mrr", "model") != made.value("like", "mrr", "model")
    assert not any(bool(metric.usable) for metric in METRICS)


def test_padding_changes_nothing(model):
    requests = make_requests(20)
    batches = batches_of(requests, 8)
    rows = {"model": model, "pop": "popularity"}
    want = evaluate(rows, batches, metrics=METRICS, samples=10)
    for name, column in batches[1].items():
        if column.ndim == 2:  # Garbage where no document is.
            batches[1][name] = np.pad(column, [(0, 0), (0, 2)], mode="reflect")
    batches[1]["mask"][:, LENGTH:] = False
    got = evaluate(rows, batches, metrics=METRICS, samples=10)
    for a, b in zip(got.records, want.records, strict=True):
        assert [a.value, a.low, a.high] == pytest.approx([b.value, b.low, b.high])


def test_a_column_that_a_model_lacks_is_named(model):
    requests = make_requests()
    del requests["city"]
    with pytest.raises(KeyError, match=r"^\"the batch has no 'city'; [^\n]*$"):
        evaluate({"model": model}, batches_of(requests, 8))


def test_a_metric_without_a_usable_list_is_absent():
    requests = make_requests()
    requests["label/like"][:] = np.nan
    # Only positives: NDCG, MRR and HitRate can be used, GAUC has no pair.
    requests["label/click"][:] = 1.0
    with pytest.warns(UserWarning) as caught:
        made = evaluate(COLUMNS, batches_of(requests, 8), samples=5)
    messages = [str(warning.message) for warning in caught]
    assert [message.split(" is left out for ")[0] for message in messages] == [
        "click/gauc",
        "like/ndcg@10",
        "like/mrr",
        "like/hit_rate@10",
        "like/gauc",
    ]
    assert messages[0] == (
        "click/gauc is left out for co, pop: no list has what it needs in label/click"
    )
    assert caught[0].filename == __file__
    assert {(r.task, r.metric) for r in made.records} == {
        ("click", "ndcg@10"),
        ("click", "mrr"),
        ("click", "hit_rate@10"),
    }
    assert {d.task for d in made.differences} == {"click"}
    assert "gauc" not in str(made)
    with pytest.raises(KeyError, match=r"no 'click/gauc/co'; "):
        made.value("click", "gauc", "co")


@pytest.mark.parametrize(
    ("metric", "columns"),
    [
        (PCOC(), "label/click"),  # labels there are, but no positive one
        (RankerHitRate(2, 1), "teacher/click"),
        (CatalogCoverage(["a"], 2), "doc_ids"),
    ],
)
def test_what_an_absent_metric_lacked_is_named(metric, columns):
    batch = {
        "mask": np.array([[False, False]] if columns == "doc_ids" else [[True, True]]),
        "doc_ids": np.array([["a", "b"]]),
        "label/click": np.zeros([1, 2]),
        "teacher/click": np.full([1, 2], np.nan),
    }
    rows = {"a": lambda batch: dict.fromkeys(("scores", "click"), tf.zeros([1, 2]))}
    with pytest.warns(UserWarning) as caught:
        evaluate(rows, [batch], metrics=[metric], groups=None)
    (message,) = (str(warning.message) for warning in caught)
    assert message.endswith(
        f"{metric.name} is left out for a: no list has what it needs in {columns}"
    )


def test_resamples_without_a_usable_list_do_not_count():
    requests = make_requests(10, users=1)
    requests["group_id"] = np.array([f"u{i}" for i in range(10)])
    requests["mask"][:] = True
    requests["label/click"][:] = 0.0
    requests["label/click"][:2, 0] = 1.0
    made = evaluate(COLUMNS, batches_of(requests, 4), tasks="click", samples=200)
    draws = np.concatenate(list(resample_counts(10, 200, seed=0)))
    assert (draws[:, :2].sum(axis=1) == 0).any()  # .8 ** 10 = 11% of them
    record = made.record("click", "mrr", "co")
    assert (record.lists, record.groups) == (2, 2)
    values, _ = slow_lists(requests, "click", "co_likes")["mrr"]
    # Every counted resample is a mean of the two lists' values.
    assert record.low == pytest.approx(min(values[:2]))
    assert record.high == pytest.approx(max(values[:2]))


def test_one_group_has_no_interval():
    requests = make_requests()
    requests["group_id"][:] = "only"
    made = evaluate(COLUMNS, batches_of(requests, 8), samples=5)
    for item in made.records + made.differences:
        assert (item.low, item.high) == (None, None)
        assert np.isfinite(item.value)
    assert "no interval where all lists are of one group" in str(made)
    assert json.loads(made.to_json())["records"][0]["low"] is None


def test_out_of_scene_labels_are_no_task():
    requests = make_requests()
    requests["label/out_of_scene"] = requests["label/like"]
    made = evaluate(COLUMNS, batches_of(requests, 8), samples=2)
    assert {record.task for record in made.records} == {"click", "like"}
    asked = evaluate(COLUMNS, batches_of(requests, 8), tasks=["like"], samples=2)
    assert {record.task for record in asked.records} == {"like"}


def hand_made():
    """Two users of one list each: co_likes gets MRR 1 and 1/2, popularity 1/2, 1/2."""
    batch = {
        "mask": np.array([[True, True], [True, True]]),
        "label/click": np.array([[1.0, 0.0], [0.0, 1.0]]),
        "co_likes": np.array([[2, 1], [2, 1]]),
        "popularity": np.array([[1.0, 2.0], [2.0, 1.0]]),
        "group_id": np.array(["ann", "bob"]),
    }
    return evaluate({"[co]": "co_likes", "pop": "popularity"}, [batch], metrics=[MRR()])


TABLE = """\
metric  ranking   value  95% interval         diff  95% interval
click
  mrr   [co]     0.7500  [0.5000, 1.0000]
        pop      0.5000  [0.5000, 0.5000]  +0.2500  [+0.0000, +0.5000]

click: 2 lists of 2 groups
diff: [co] minus the ranking
95% intervals: 1000 resamples of the groups of 'group_id'"""


def test_the_table_is_plain_text():
    made = hand_made()
    assert str(made) == TABLE
    console = Console(file=io.StringIO(), width=100)
    console.print(made)
    shown = console.file.getvalue()
    # rich pads cells otherwise; the words are the same.
    assert shown.split() == TABLE.split()


def test_json_holds_every_number():
    made = hand_made()
    stored = json.loads(made.to_json())
    assert stored["records"][1] == {
        "task": "click",
        "metric": "mrr",
        "row": "pop",
        "value": 0.5,
        "low": 0.5,
        "high": 0.5,
        "lists": 2,
        "groups": 2,
        "axis": "outcome",
    }
    assert stored["differences"] == [
        {
            "task": "click",
            "metric": "mrr",
            "row": "[co]",
            "other": "pop",
            "value": 0.25,
            "low": 0.0,
            "high": 0.5,
        }
    ]
    del stored["records"], stored["differences"]
    assert stored == {
        "groups": "group_id",
        "samples": 1000,
        "seed": 0,
        "requests": 2,
        "findings": [],
        "slices": {},
    }


def changed(**columns):
    return [{**make_requests(), **columns}]


@pytest.mark.parametrize(
    ("rankings", "data", "options", "error", "message"),
    [
        ("co_likes", changed(), {}, TypeError, "rankings is of type str: give a dict"),
        ({}, changed(), {}, ValueError, "rankings is empty"),
        ({"a": 3}, changed(), {}, TypeError, r"rankings\['a'\] is of type int"),
        (
            {"a": "co_like"},
            changed(),
            {},
            KeyError,
            r"\['a'\]: the batch has no column 'co_like'; did you mean 'co_likes'",
        ),
        ({"a": "city"}, changed(), {}, TypeError, r"\['a'\] gives string"),
        ({"a": "group_id"}, changed(), {}, TypeError, r"\['a'\] gives string"),
        (
            {"a": lambda batch: batch["co_likes"][:, 0]},
            changed(),
            {},
            ValueError,
            r"\['a'\] gives shape \(24,\): .* \(24, 5\)",
        ),
        (
            {"a": lambda batch: {"scores": batch["co_likes"]}},
            changed(),
            {},
            KeyError,
            r"\['a'\] gives no logits of task 'click'",
        ),
        (
            {"a": "co_likes", "b": lambda batch: batch["co_likes"] * np.nan},
            changed(),
            {},
            ValueError,
            r"rankings\['b'\] scores a document NaN; a model",
        ),
        ({"a": "co_likes"}, [], {}, ValueError, "the data holds no batch"),
        ({"a": "co_likes"}, changed()[0], {}, TypeError, "data yields str"),
        ({"a": "co_likes"}, [{}], {}, KeyError, "the batch has no 'mask'"),
        (
            {"a": "co_likes"},
            changed(mask=np.ones([24, 5])),
            {},
            ValueError,
            r"'mask' is float64 of shape \(24, 5\): give bool",
        ),
        (
            {"a": "co_likes"},
            changed(),
            {"tasks": "buy"},
            KeyError,
            "no 'label/buy'",
        ),
        ({"a": "co_likes"}, changed(), {"tasks": []}, ValueError, "tasks is empty"),
        (
            {"a": "co_likes"},
            changed(),
            {"tasks": ["click", "like", "click"]},
            ValueError,
            "tasks names 'click' twice: name every task once",
        ),
        (
            {"a": "co_likes"},
            changed(),
            {"groups": "user_id"},
            KeyError,
            "groups='user_id': the batch has no such column",
        ),
        (
            {"a": "co_likes"},
            changed(),
            {"groups": "co_likes"},
            ValueError,
            r"'co_likes' is float32 of shape \(24, 5\): a key is one string",
        ),
        ({"a": "co_likes"}, changed(), {"samples": 0}, ValueError, "samples=0"),
        ({"a": "co_likes"}, changed(), {"metrics": []}, ValueError, "metrics is empty"),
        (
            {"a": "co_likes"},
            changed(),
            {"metrics": [MRR(), MRR()]},
            ValueError,
            "two metrics are called 'mrr'",
        ),
        (
            {"a": "co_likes"},
            tf.data.Dataset.from_tensors(0).repeat(),
            {},
            ValueError,
            "the data has no end",
        ),
    ],
)
def test_bad_input_is_named(rankings, data, options, error, message):
    with pytest.raises(error, match=message) as caught:
        evaluate(rankings, data, **options)
    assert "\n" not in str(caught.value)
