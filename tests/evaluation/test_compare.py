import pytest

from tests.evaluation.requests import batches_of, logits_of, make_requests
from tfrs_prerank.evaluation import compare, evaluate
from tfrs_prerank.metrics import ECE, MRR, HitRate

ROWS = {"a": logits_of("score"), "b": logits_of("other"), "pop": "popularity"}


@pytest.fixture(scope="module")
def evaluation():
    data = batches_of(make_requests(40), 9)
    return evaluate(ROWS, data, metrics=[MRR(), HitRate(2), ECE()], samples=30)


def test_pairs_with_the_first_are_those_of_the_evaluation(evaluation):
    made = compare(evaluation)
    for known in evaluation.differences:
        assert known in made.differences
    # Two metrics of three rankings, and ECE of the two that give logits.
    assert len(made.differences) == 2 * 3 + 1


def test_any_pair_is_what_an_evaluation_with_it_first_finds(evaluation):
    data = batches_of(make_requests(40), 9)
    rows = {name: ROWS[name] for name in ("b", "a", "pop")}
    turned = evaluate(rows, data, metrics=[MRR(), HitRate(2)], samples=30)
    made = compare(evaluation)
    for other in ("pop", "a"):
        got = made.difference("click", "mrr", "b", other)
        want = turned.difference("click", "mrr", other)
        assert (got.row, got.other) == ("b", other)
        assert [got.value, got.low, got.high] == pytest.approx(
            [want.value, want.low, want.high]
        )


def test_a_value_without_an_interval_has_a_difference_without(evaluation):
    found = compare(evaluation).difference("click", "ece", "a", "b")
    want = evaluation.value("click", "ece", "a") - evaluation.value("click", "ece", "b")
    assert (found.value, found.low, found.high) == (want, None, None)


def test_some_rows_only(evaluation):
    made = compare(evaluation, "pop", "b")
    assert {(d.row, d.other) for d in made.differences} == {("b", "pop")}
    lines = str(made).splitlines()
    assert lines[0].split() == ["metric", "ranking", "minus", "diff", "95%", "interval"]
    assert lines[1] == "click"
    assert lines[2].split()[:3] == ["mrr", "b", "pop"]


def test_unknown_and_too_few_rows_are_refused(evaluation):
    with pytest.raises(KeyError, match="has no ranking 'popp'; did you mean 'pop'"):
        compare(evaluation, "a", "popp")
    with pytest.raises(ValueError, match=r"needs two rankings\. Received: a"):
        compare(evaluation, "a")
    with pytest.raises(KeyError, match="no difference of 'mr'"):
        compare(evaluation).difference("click", "mr", "a", "b")
