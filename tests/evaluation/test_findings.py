import numpy as np
import pytest

from tests.evaluation.requests import logits_of, make_requests
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.metrics import (
    ASH,
    ECE,
    MRR,
    CatalogCoverage,
    HitRate,
    InSceneHitRate,
    PopularityGini,
    RankerHitRate,
)

NAN = float("nan")


def findings_of(batch, *metrics, rows=None):
    made = evaluate(rows or {"a": "score"}, [batch], metrics=metrics, groups=None)
    assert all(str(finding) in str(made) for finding in made.findings)
    return {finding.what: (finding.count, finding.total) for finding in made.findings}


def lists(**columns):
    """Four lists: a useful one, none clicked, all clicked, one candidate."""
    return {
        "mask": np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]], bool),
        "label/click": np.array([[1, 0, 0], [0, 0, 0], [1, 1, 9], [1, 9, 9]], float),
        "score": np.array([[3, 2, 1]] * 4, float),
        **columns,
    }


def test_lists_of_no_use_are_counted_with_the_reason():
    assert findings_of(lists(), MRR()) == {
        "have one candidate": (1, 4),
        "have no positive in label/click": (1, 4),
        "have positives only in label/click": (2, 4),
    }


def test_absent_labels_are_counted():
    labels = np.array([[1, NAN, 0], [NAN] * 3, [NAN] * 3, [0, 9, 9]])
    found = findings_of(lists(**{"label/click": labels}), MRR())
    assert found["have no label/click"] == (2, 4)
    assert found["have no positive in label/click"] == (1, 4)


def test_absent_scores_of_the_ranker_are_counted():
    teacher = np.array([[1.0, 2.0, 3.0], [1.0, NAN, 2.0], [NAN] * 3, [NAN] * 3])
    batch = lists(**{"teacher/click": teacher})
    found = findings_of(batch, RankerHitRate(1, 1))
    assert found["have no teacher/click"] == (2, 4)
    what = "have teacher/click for some candidates only, which alone are compared"
    assert found[what] == (1, 4)


def test_a_cut_that_keeps_all_is_counted_by_metric():
    labels = np.array([[1, NAN, 0], [0, 0, 0], [1, 1, 9], [1, 9, 9]], float)
    batch = lists(**{"label/click": labels})
    found = findings_of(batch, HitRate(2), InSceneHitRate(2), HitRate(3))
    # Of two labelled ones: lists 1, 3, 4; of all candidates: 3, 4.
    assert found["are kept whole by the cut of click/hit_rate@2"] == (3, 4)
    assert found["are kept whole by the cut of click/in_scene_hit_rate@2"] == (2, 4)
    assert found["are kept whole by the cut of click/hit_rate@3"] == (4, 4)


def test_metrics_without_a_task_are_counted_by_their_column():
    batch = lists(**{"label/out_of_scene": np.array([[0.0, 0, 1]] * 4)})
    found = findings_of(batch, ASH(2))
    assert found["have no positive in label/out_of_scene"] == (2, 4)
    assert found["are kept whole by the cut of ash@2"] == (2, 4)


def test_stages_that_contradict_positions_are_counted():
    stage = np.array([[0, 0, 1], [0, 1, 2], [0, 2, -1], [0, -1, -1]])
    position = np.array([[0, -1, -1], [0, 1, -1], [0, -1, -1], [-1, -1, -1]])
    batch = lists(stage=stage, position=position)
    # Exposed without a position: two. A position, but not exposed: one. Of nine.
    what = "have a stage that contradicts their position"
    assert findings_of(batch, MRR())[what] == (3, 9)
    # A log without positions contradicts nothing.
    batch["position"] = np.full([4, 3], -1)
    assert what not in findings_of(batch, MRR())


def test_documents_without_a_score_are_counted():
    score = np.array([[3, NAN, 1], [1, 2, 3], [NAN, NAN, NAN], [1, NAN, NAN]])
    found = findings_of(lists(score=score), MRR(), rows={"old": "score"})
    assert found["have no score in 'old': they rank last"] == (3, 9)


def test_numbers_are_those_of_all_batches():
    whole = make_requests(40)
    parts = [
        {name: column[start : start + 9] for name, column in whole.items()}
        for start in range(0, 40, 9)
    ]
    metrics = [MRR(), HitRate(2), RankerHitRate(2, 1)]
    one = evaluate({"a": "score"}, [whole], metrics=metrics, samples=2)
    many = evaluate({"a": "score"}, parts, metrics=metrics, samples=2)
    assert one.findings == many.findings
    assert one.requests == many.requests == 40


@pytest.mark.parametrize("length", [0, 1])
def test_lists_of_no_candidate_are_no_error(length):
    batch = {name: column.copy() for name, column in lists().items()}
    batch["mask"][1, length:] = False
    found = findings_of(batch, MRR())
    assert found.get("have no candidate", (0, 4))[0] == (length == 0)


def test_metrics_that_slices_leave_out_are_named():
    metrics = [MRR(), HitRate(2), ECE(), CatalogCoverage(["d1"], 2)]
    rows = {"a": logits_of("score")}
    made = {
        column: [
            str(finding)
            for finding in evaluate(
                rows, [make_requests()], metrics=metrics, slices=slices, samples=2
            ).findings
            if finding.unit == "metrics"
        ]
        for column, slices in (
            ("none", {}),
            ("city", {"city": "city"}),
            ("both", {"city": "city", "category": "category"}),
        )
    }
    without_sums = (
        "2 of 4 metrics are in no slice, since they are no sums over lists: click/ece, "
        "catalog_coverage@2"
    )
    assert made == {
        "none": [],
        "city": [without_sums],
        "both": [
            without_sums,
            "1 of 4 metrics are not in the slice 'category', which takes positives "
            "apart: click/mrr",
        ],
    }


def test_forwarded_documents_outside_the_catalogue_are_counted():
    batch = lists(
        doc_ids=np.array([["a", "b", "c"], ["x", "y", "c"], ["a", "y", ""], ["x"] * 3]),
        other=np.array([[3.0, 2, 1], [0, 0, 0], [1, 2, 0], [1, 0, 0]]),
    )
    metrics = [CatalogCoverage(list("abc"), 1), PopularityGini(list("abc"), 1)]
    found = findings_of(
        batch, *metrics, rows={"a": "score", "b": "other", "c": lambda b: -b["score"]}
    )
    what = "are forwarded by {!r} and not in the catalogue of {}"
    names = "catalog_coverage@1, popularity_gini@1"
    # a: x and x. b: x, y or c by chance, that is 2/3; y; x. c: c, c, y, x.
    assert found[what.format("a", names)] == (2, 9)
    assert found[what.format("b", names)] == (3, 9)
    assert found[what.format("c", names)] == (2, 9)


def test_a_catalogue_that_holds_all_candidates_says_nothing():
    batch = lists(doc_ids=np.full([4, 3], "a"))
    found = findings_of(batch, CatalogCoverage(["a"], 2))
    assert not any("catalogue" in what for what in found)
