"""Every metric of the package through `evaluate`, against the metric by itself."""

import numpy as np
import pytest

from tests.evaluation.requests import IDS, batches_of, logits_of, make_requests
from tfrs_prerank import metrics
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.evaluation.bootstrap import resample_counts

METRICS = [
    metrics.ASH(2),
    metrics.CatalogCoverage(IDS, 1),
    metrics.ECE(3),
    metrics.GAUC(),
    metrics.HitRate(2),
    metrics.InSceneHitRate(2),
    metrics.IntentCoverage("category", 2),
    metrics.KendallTau(),
    metrics.MRR(),
    metrics.NDCG(3),
    metrics.NeverExposedShare("popularity", 2),
    metrics.NormalizedEntropy(),
    metrics.Overlap(2),
    metrics.PAUC(3),
    metrics.PCOC(),
    metrics.PopularityGini(IDS, 1),
    metrics.RankerHitRate(2, 1),
    metrics.ScoreRecall(2),
    metrics.TailShare("popularity", 1.0, 2),
    metrics.WeightedRecall(2, values="price"),
]
CALIBRATION = ("ece", "normalized_entropy", "pcoc")
NO_TASK = (
    "ash@2",
    "catalog_coverage@1",
    "never_exposed_share@2",
    "popularity_gini@1",
    "tail_share@2",
)
IMITATION = ("kendall_tau", "overlap@2", "ranker_hit_rate@2,1", "score_recall@2")
ROWS = {"model": logits_of("score"), "pop": "popularity", "random": "random"}


def by_itself(metric, requests, scores):
    """The metric's own result over all requests at once."""
    own = type(metric).from_config(metric.get_config())
    columns = own.arguments(requests, "click")
    own.update_state(scores=scores, where=requests["mask"], **columns)
    return float(own.result())


@pytest.fixture(scope="module")
def requests():
    return make_requests(60, users=12)


@pytest.fixture(scope="module")
def evaluation(requests):
    return evaluate(ROWS, batches_of(requests, 7), metrics=METRICS, samples=30)


def test_every_metric_of_the_package_is_here():
    assert {type(metric).__name__ for metric in METRICS} == set(metrics.__all__)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_value_is_the_metrics_own(metric, requests, evaluation):
    task = None if metric.name in NO_TASK else "click"
    scores = {
        "model": requests["score"],
        "pop": requests["popularity"],
        "random": np.zeros_like(requests["score"]),
    }
    there = {r.row for r in evaluation.records if r.metric == metric.name}
    # An order is no probability.
    assert there == ({"model"} if metric.name in CALIBRATION else set(ROWS))
    for row in there:
        record = evaluation.record(task, metric.name, row)
        assert record.value == pytest.approx(by_itself(metric, requests, scores[row]))
        assert (record.low is None) == (not metric.additive)
        axis = "outcome" if metric.name not in NO_TASK else "forwarded"
        axis = "imitation" if metric.name in IMITATION else axis
        assert record.axis == ("outcome" if metric.name == "ash@2" else axis)
    assert not bool(metric.usable)


@pytest.mark.parametrize(
    "metric", [metrics.PCOC(), metrics.NormalizedEntropy(), metrics.RankerHitRate(2, 1)]
)
def test_intervals_are_those_of_drawing_lists_again(metric, requests):
    rows = {"a": logits_of("score"), "b": logits_of("other")}
    made = evaluate(rows, batches_of(requests, 7), metrics=[metric], samples=20, seed=3)
    users = sorted(set(requests["group_id"]))
    places = np.array([users.index(user) for user in requests["group_id"]])
    draws = np.concatenate(list(resample_counts(len(users), 20, seed=3)))
    drawn = {"a": [], "b": []}
    for times in draws.astype(int):
        index = np.repeat(np.arange(60), times[places])
        again = {name: column[index] for name, column in requests.items()}
        drawn["a"].append(by_itself(metric, again, again["score"]))
        drawn["b"].append(by_itself(metric, again, again["other"]))
    for row, values in drawn.items():
        record = made.record("click", metric.name, row)
        want = np.percentile(values, [2.5, 97.5])
        assert [record.low, record.high] == pytest.approx(want)
    gap = made.difference("click", metric.name, "b")
    want = np.percentile(np.subtract(drawn["a"], drawn["b"]), [2.5, 97.5])
    assert [gap.low, gap.high] == pytest.approx(want)


def test_lists_and_groups_of_a_metric_with_a_state_of_its_own(requests, evaluation):
    labelled = (requests["mask"] & ~np.isnan(requests["label/click"])).any(axis=1)
    record = evaluation.record("click", "ece", "model")
    assert record.lists == labelled.sum()
    assert record.groups == len(set(requests["group_id"][labelled]))
    assert evaluation.record(None, "popularity_gini@1", "pop").lists == 60


def test_two_axes_stand_apart(evaluation):
    lines = str(evaluation).splitlines()
    titles = [line for line in lines[1:] if line and not line.startswith(" ")]
    end = titles.index(next(line for line in titles if " lists of " in line))
    assert titles[:end] == [
        "click",
        "click: imitation of the ranker",
        "all tasks",
        "what is forwarded",
    ]
    assert any(
        line == "no interval for ece, catalog_coverage@1, popularity_gini@1: no sum "
        "over lists"
        for line in lines
    )


def test_a_column_that_a_metric_lacks_is_named_with_it(requests):
    less = {name: requests[name] for name in requests if name != "teacher/click"}
    with pytest.raises(KeyError, match=r"overlap@2: the batch has no 'teacher/click'"):
        evaluate(ROWS, [less], metrics=[metrics.Overlap(2)])


def test_calibration_needs_logits(requests):
    with pytest.warns(UserWarning, match="click/pcoc is left out: it needs logits"):
        made = evaluate({"pop": "popularity"}, [requests], metrics=[metrics.PCOC()])
    assert made.records == ()


def test_the_ranker_imitates_itself(requests):
    rows = {"score": "score", "oracle": "teacher/click"}
    made = evaluate(
        rows,
        [requests],
        metrics=[metrics.RankerHitRate(2, 2), metrics.KendallTau(), metrics.HitRate(1)],
        samples=5,
    )
    assert made.value("click", "ranker_hit_rate@2,2", "oracle") == 1.0
    assert made.value("click", "kendall_tau", "oracle") == 1.0
    # Where it has no score, it ranks last.
    last = np.where(
        np.isnan(requests["teacher/click"]), -9.0, requests["teacher/click"]
    )
    want = by_itself(metrics.HitRate(1), requests, last)
    assert made.value("click", "hit_rate@1", "oracle") == pytest.approx(want)
