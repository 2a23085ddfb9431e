import numpy as np
import pytest

from tfrs_prerank.metrics import IntentCoverage

NAN = float("nan")


def value(labels, scores, intents, k=2):
    metric = IntentCoverage("category", k=k)
    metric.update_state([labels], [scores], intents=[intents])
    return float(metric.result())


def test_hand_values():
    # Relevant: red, hat. The top 2 hold red twice, the top 3 both.
    labels, scores = [1.0, 0.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]
    intents = ["red", "red", "hat", "shoe"]
    assert value(labels, scores, intents, k=1) == 0.5
    assert value(labels, scores, intents, k=2) == 0.5
    assert value(labels, scores, intents, k=3) == 1.0
    assert value(labels, scores, intents, k=99) == 1.0


def test_any_document_of_the_category_holds_it():
    # The only positive is last; a negative and an unlabelled one are of its category.
    assert value([0.0, 0.0, 1.0], [3.0, 2.0, 1.0], [7, 8, 7], k=1) == 1.0
    assert value([NAN, 0.0, 1.0], [3.0, 2.0, 1.0], [7, 8, 7], k=1) == 1.0


def test_ties_are_an_expectation():
    # One of three tied is kept; two have category 1: 1 - C(1, 1) / C(3, 1) = 2/3,
    # the other 1/3. Both are relevant.
    assert value([1.0, 1.0, 1.0], [0.0] * 3, [1, 1, 2], k=1) == pytest.approx(0.5)
    # Two of four tied, two of category 1: 1 - C(2, 2) / C(4, 2) = 5/6.
    tied = value([1.0, 0.0, 0.0, 0.0], [0.0] * 4, [1, 1, 2, 3], k=2)
    assert tied == pytest.approx(5 / 6)
    # A sure one makes it sure.
    assert value([1.0, 0.0, 0.0], [5.0, 1.0, 1.0], [1, 1, 2], k=2) == 1.0


def test_a_long_tie():
    # 400 of 1,000 tied, 5 of the category: 1 - C(995, 400) / C(1000, 400).
    intents = np.repeat([1, 2], [5, 995])[np.newaxis]
    metric = IntentCoverage("category", k=400)
    labels = np.zeros([1, 1000])
    labels[0, 3] = 1.0
    values, _ = metric.per_list(labels, np.zeros([1, 1000]), intents=intents)
    missed = np.prod([(600 - i) / (1000 - i) for i in range(5)])
    np.testing.assert_allclose(values, [1 - missed], rtol=1e-10)


def test_no_category_is_none():
    # "" and -1 are no intents: neither wanted nor held.
    assert value([1.0, 1.0], [2.0, 1.0], ["", "hat"], k=1) == 0.0
    assert value([1.0, 1.0], [2.0, 1.0], [-1, 5], k=1) == 0.0
    for intents in ([["", "hat"]], [[-1, 5]]):
        metric = IntentCoverage("category")
        metric.update_state([[1.0, 0.0]], [[2.0, 1.0]], intents=intents)
        assert not metric.usable


def test_strings_equal_integers():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, [6, 30]), rng.integers(0, 9, [6, 30])
    intents = rng.integers(-1, 12, [6, 30])
    names = np.array([f"category {i}" for i in range(12)] + [""])
    metric = IntentCoverage("category", k=6)
    values, weights = metric.per_list(labels, scores, intents=intents)
    again, again_weights = metric.per_list(labels, scores, intents=names[intents])
    np.testing.assert_array_equal(values, again)
    np.testing.assert_array_equal(weights, again_weights)
    small, _ = metric.per_list(labels, scores, intents=intents.astype(np.int32))
    np.testing.assert_array_equal(values, small)
    assert 0.0 < values.numpy().mean() < 1.0


def test_names_columns_and_errors():
    metric = IntentCoverage("category")
    assert metric.name == "intent_coverage@100"
    assert metric.columns == {"labels": "label/{task}", "intents": "category"}
    config = {"name": "intent_coverage@5", "k": 5, "column": "topic"}
    assert IntentCoverage("topic", k=5).get_config() == config
    with pytest.raises(TypeError, match="intents has dtype float32: give strings or"):
        metric.update_state([[1.0]], [[1.0]], intents=[[1.0]])
    with pytest.raises(ValueError, match="IntentCoverage: k=0 is not a cut-off"):
        IntentCoverage("category", k=0)
