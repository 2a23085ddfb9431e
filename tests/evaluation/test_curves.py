"""Every number that a report draws, by hand or against the metric of the same name."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation.requests import IDS, batches_of, logits_of, make_requests
from tfrs_prerank import metrics
from tfrs_prerank.evaluation.batches import batches
from tfrs_prerank.evaluation.collecting import SHOWN, Collector, catalogue
from tfrs_prerank.evaluation.rankings import Ranking


def curves_of(data, rows, *, k=2, m=1, doc_ids=None, popularity=None):
    rankings = [Ranking(row, source) for row, source in rows.items()]
    doc_ids = None if doc_ids is None else catalogue(doc_ids)
    collector = Collector(list(rows), ["click"], k, m, doc_ids, popularity)
    for batch in batches(data):
        collector.add(batch, [ranking(batch, ["click"]) for ranking in rankings])
    return collector.result()


def by_itself(metric, requests, scores):
    columns = metric.arguments(requests, "click")
    metric.update_state(scores=scores, where=requests["mask"], **columns)
    return float(metric.result())


def hit_of(curves, title):
    return next(curve for curve in curves.hits if curve.title == title)


@pytest.fixture(scope="module")
def requests():
    return make_requests(60, users=12)


HAND = {
    "mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool),
    "doc_ids": np.array([["a", "b", "c", "d"], ["a", "b", "e", ""]]),
    "label/click": np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]),
    # Ranks 1 and 3; rank 1 or 2, tied with the third.
    "score": np.array([[4.0, 3.0, 2.0, 1.0], [0.0, 5.0, 5.0, 9.0]]),
    "stage": np.array([[0, 1, 0, 2], [0, 0, 2, -1]]),
    "position": np.array([[0, -1, 1, -1], [0, 1, -1, -1]]),
    "popularity": np.array([[10.0, 1.0, 5.0, 0.0], [7.0, 2.0, 0.0, 0.0]]),
}


def test_the_hit_curve_by_hand():
    (curve,) = curves_of([HAND], {"a": "score", "random": "random"}).hits
    assert curve.title == "positives of click"
    assert curve.lists == 2
    assert curve.cuts.tolist() == [1, 2, 3, 4]
    # k = 1: half of the first list's, and half a chance of the second's only one.
    assert curve.values["a"].tolist() == [0.5, 0.75, 1.0, 1.0]
    assert curve.values["random"] == pytest.approx([7 / 24, 7 / 12, 7 / 8, 1.0])


def test_hit_curves_are_the_metrics_at_every_k(requests):
    rows = {"a": "score", "pop": "popularity"}
    curves = curves_of(batches_of(requests, 7), rows)
    for title, metric in (
        ("positives of click", metrics.InSceneHitRate),
        ("liked elsewhere", metrics.ASH),
        ("the ranker's 1 best for click", lambda k: metrics.RankerHitRate(k, 1)),
    ):
        curve = hit_of(curves, title)
        assert curve.cuts.tolist() == [1, 2, 3, 5]
        for row, column in rows.items():
            want = [by_itself(metric(k), requests, requests[column]) for k in (1, 2, 3)]
            assert curve.values[row] == pytest.approx([*want, 1.0])


def test_the_funnel_by_hand():
    funnel = curves_of([HAND], {"a": "score"}).funnel
    assert funnel.stages == ("exposed", "ranked", "preranked_out")
    assert (funnel.k, funnel.requests) == (2, 2)
    assert funnel.there["all candidates"].tolist() == [4, 1, 2]
    # Kept at 2: a and b of the first list, b and e of the second.
    assert funnel.kept["all candidates"]["a"].tolist() == [2, 1, 1]
    assert funnel.there["positives of click"].tolist() == [3, 0, 0]
    assert funnel.kept["positives of click"]["a"].tolist() == [2, 0, 0]


def test_a_log_of_one_stage_has_no_funnel():
    flat = {**HAND, "stage": np.where(HAND["mask"], 0, -1)}
    curves = curves_of([flat], {"a": "score"})
    assert curves.funnel is None
    # Then it does not say what was shown either.
    assert set(curves.lorenz.gini) == set(curves.lorenz.shares) == {"a"}
    without = {name: column for name, column in HAND.items() if name != "stage"}
    assert curves_of([without], {"a": "score"}).funnel is None


def test_the_lorenz_curve_by_hand():
    lorenz = curves_of([HAND], {"a": "score"}, doc_ids=np.array(list("abcdef"))).lorenz
    assert (lorenz.documents, lorenz.whole, lorenz.k) == (6, True, 2)
    # Forwarded: a 1, b 2, e 1 of six documents: 0 0 0 1 1 2, of four places.
    assert lorenz.gini["a"] == pytest.approx((1 * 1 + 3 * 1 + 5 * 2) / (6 * 4))
    share = lorenz.shares["a"]
    at = np.linspace(0, 1, len(share))
    want = np.interp(at, np.arange(7) / 6, [0, 0, 0, 0, 0.25, 0.5, 1.0])
    assert share == pytest.approx(want)
    # The log showed a twice, b once and c once.
    assert lorenz.gini[SHOWN] == pytest.approx((1 + 3 + 5 * 2) / (6 * 4))


def test_without_a_catalogue_the_candidates_are_all_documents():
    lorenz = curves_of([HAND], {"a": "score"}).lorenz
    assert (lorenz.documents, lorenz.whole) == (5, False)


def test_candidates_outside_the_catalogue_are_counted_and_left_out():
    lorenz = curves_of([HAND], {"a": "score"}, doc_ids=np.array(list("bcdf"))).lorenz
    # a is a candidate twice, e once. Forwarded: b 2 of four documents, in all 2.
    assert (lorenz.documents, lorenz.outside) == (4, 3)
    assert lorenz.gini["a"] == pytest.approx((3 * 2) / (4 * 2))
    assert lorenz.shares["a"][0] == 0.0 and lorenz.shares["a"][-1] == 1.0
    # The log showed b once and c once.
    assert lorenz.gini[SHOWN] == pytest.approx((1 + 3) / (4 * 2))
    # Where nothing is left there is no curve.
    lorenz = curves_of([HAND], {"a": "score"}, doc_ids=np.array(["z"])).lorenz
    assert (lorenz.documents, lorenz.outside, dict(lorenz.gini)) == (1, 7, {})


@pytest.mark.parametrize("catalogue", [IDS, IDS[:3]])
def test_gini_is_the_metric(requests, catalogue):
    rows = {"a": "score", "pop": "popularity"}
    data = batches_of(requests, 7)
    lorenz = curves_of(data, rows, doc_ids=np.array(catalogue)).lorenz
    for row, column in rows.items():
        metric = metrics.PopularityGini(catalogue, 2)
        want = by_itself(metric, requests, requests[column])
        assert lorenz.gini[row] == pytest.approx(want)


def test_integer_ids_are_counted_too():
    batch = {**HAND, "doc_ids": np.array([[1, 2, 3, 4], [1, 2, 5, -1]])}
    lorenz = curves_of([batch], {"a": "score"}, doc_ids=np.arange(1, 7)).lorenz
    assert lorenz.documents == 6
    assert lorenz.gini["a"] == pytest.approx(14 / 24)


def test_calibration_by_hand():
    logits = np.log(np.array([[1 / 9, 1 / 9, 1.0, 3.0]]))  # 0.1, 0.1, 0.5, 0.75
    batch = {
        "mask": np.ones([1, 4], bool),
        "doc_ids": np.array([["a", "b", "c", "d"]]),
        "label/click": np.array([[0.0, 1.0, np.nan, 1.0]]),
        "logits": logits,
    }
    (curve,) = curves_of([batch], {"a": logits_of("logits")}).calibration
    assert (curve.task, curve.row) == ("click", "a")
    # Three documents: equal predictions stay together, what has no label is out.
    assert curve.documents.tolist() == [2, 1]
    assert curve.predicted == pytest.approx([0.1, 0.75])
    assert curve.observed.tolist() == [0.5, 1.0]
    assert curve.pcoc == pytest.approx(0.95 / 2)
    assert curve.ece == pytest.approx((2 * 0.4 + 0.25) / 3)


def test_calibration_is_that_of_the_metrics(requests):
    rows = {"a": logits_of("score"), "pop": "popularity"}
    (curve,) = curves_of(batches_of(requests, 7), rows).calibration
    assert curve.ece == pytest.approx(
        by_itself(metrics.ECE(), requests, requests["score"])
    )
    want = by_itself(metrics.PCOC(), requests, requests["score"])
    assert curve.pcoc == pytest.approx(want)


def test_nothing_positive_has_no_pcoc():
    batch = {**HAND, "label/click": np.zeros([2, 4])}
    curves = curves_of([batch], {"a": logits_of("score")}, popularity="popularity")
    assert curves.calibration[0].pcoc is None
    assert curves.hits == ()
    assert curves.popularity == ()


def test_popularity_by_hand():
    (item,) = curves_of([HAND], {"a": "score"}, popularity="popularity").popularity
    # The positives: popularity 2 (kept), 5 (rank 3, lost), 10 (kept).
    assert item.edges.tolist() == [5.0, 10.0]
    assert item.positives.tolist() == [1, 1, 1]
    assert item.values["a"].tolist() == [1.0, 0.0, 1.0]
    assert (item.task, item.k, item.column) == ("click", 2, "popularity")


def test_unknown_popularity_is_left_out_and_an_unknown_column_named():
    gaps = {**HAND, "popularity": np.where(HAND["popularity"] == 5, np.nan, 1.0)}
    (item,) = curves_of([gaps], {"a": "score"}, popularity="popularity").popularity
    assert item.positives.tolist() == [2]
    with pytest.raises(KeyError, match=r"popularity='clicks': .* no such column"):
        curves_of([HAND], {"a": "score"}, popularity="clicks")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.array([1.0, 2.0]), r"float64 of shape \(2,\)"),
        (np.full([2, 4], "many"), r"string of shape \(2, 4\)"),
    ],
)
def test_a_popularity_that_is_no_number_per_document_is_refused(column, kind):
    with pytest.raises(ValueError) as caught:
        curves_of(
            [{**HAND, "popularity": column}], {"a": "score"}, popularity="popularity"
        )
    assert re.fullmatch(
        rf"popularity='popularity': the column is {kind}: name one of numbers per "
        r"document, \(2, 4\)",
        str(caught.value),
    )


@pytest.mark.parametrize(
    ("doc_ids", "error", "message"),
    [
        (["a", "b", "a"], ValueError, "doc_ids holds 'a' twice: give every id once"),
        ([3, 4, 4], ValueError, "doc_ids holds 4 twice: give every id once"),
        ([], ValueError, "doc_ids is empty: give all ids of the catalogue"),
        (
            [["a"]],
            TypeError,
            r"doc_ids is string of shape \(1, 1\): give a list of ids",
        ),
        ([0.5], TypeError, r"doc_ids is float32 of shape \(1,\): give a list of ids"),
        ([1, 2], TypeError, "doc_ids is int32 and the batch's 'doc_ids' string: give"),
    ],
)
def test_a_catalogue_that_is_none_is_refused(doc_ids, error, message):
    with pytest.raises(error, match=message) as caught:
        curves_of([HAND], {"a": "score"}, doc_ids=doc_ids)
    assert "\n" not in str(caught.value)


def test_without_labels_the_ranker_is_still_imitated(requests):
    less = {name: requests[name] for name in ("mask", "doc_ids", "score")}
    less["teacher/click"] = requests["teacher/click"]
    curves = curves_of([less], {"a": logits_of("score")}, popularity="score")
    assert [curve.title for curve in curves.hits] == ["the ranker's 1 best for click"]
    assert (curves.calibration, curves.popularity) == ((), ())


def test_ids_are_needed(requests):
    less = {name: requests[name] for name in ("mask", "label/click", "score")}
    with pytest.raises(KeyError, match="the batch has no 'doc_ids'"):
        curves_of([less], {"a": "score"})


def test_how_lists_are_split_into_batches_does_not_matter(requests):
    rows = {"a": logits_of("score"), "random": "random"}
    one, many = (
        curves_of(batches_of(requests, size), rows, popularity="age")
        for size in (60, 7)
    )
    leaves = [tf.nest.flatten(_plain(curves)) for curves in (one, many)]
    assert len(leaves[0]) > 30
    for left, right in zip(*leaves, strict=True):
        if isinstance(left, str):
            assert left == right
        else:
            assert np.asarray(left) == pytest.approx(np.asarray(right))


def _plain(value):
    """Dataclasses as dicts, however deep."""
    if hasattr(value, "__dataclass_fields__"):
        return {
            name: _plain(getattr(value, name)) for name in value.__dataclass_fields__
        }
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
