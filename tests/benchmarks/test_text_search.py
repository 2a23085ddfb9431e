"""BM25, folds and paired intervals of the benchmarks of text search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrs_prerank import Text


@pytest.fixture(scope="module")
def script(script_named):
    return script_named("text_search")


def slow_bm25(query, document, documents):
    """The sum of `Index.of`, token by token."""
    mean = sum(len(own) for own in documents) / len(documents)
    total = 0.0
    for token in query:
        holding = sum(token in own for own in documents)
        found = document.count(token)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        slowed = 1.2 * (1 - 0.75 + 0.75 * len(document) / mean)
        total += idf * found * 2.2 / (found + slowed)
    return total


def test_bm25_by_hand(script):
    documents = [["a", "b"], ["a", "a", "c", "d"]]
    scores = script.Index.of(documents).scores([["a"], ["d", "d", "x"], []])
    # a is in both of 2: log(1 + .5 / 2.5). Lengths 2 and 4, mean 3: 1.2 times .75 for
    # one token, and times 1.25 for two.
    common, rare = math.log(1.2), math.log(2)
    np.testing.assert_allclose(
        scores,
        [
            [common * 2.2 / 1.9, common * 2 * 2.2 / 3.5],
            [0, 2 * rare * 2.2 / 2.5],
            [0, 0],
        ],
    )


TEXTS = st.lists(st.text("abcdef", max_size=8), min_size=1, max_size=6)


@given(documents=TEXTS, queries=TEXTS)
def test_bm25_is_the_sum_over_tokens(script, documents, queries):
    documents = [*documents, "a"]  # one at least has a token; a character is one
    np.testing.assert_allclose(
        script.Index.of(documents).scores(queries),
        [[slow_bm25(q, d, documents) for d in documents] for q in queries],
        rtol=1e-12,
    )


def test_texts_are_split_as_declared_also_in_parts(script, monkeypatch):
    monkeypatch.setattr(script, "_AT_ONCE", 2)
    feature = Text("t", "doc", tokenizer="characters", ngrams=(2, 2))
    found = script.tokens_of(feature, ["红连衣裙", "A b", "", "衣"])
    assert found == [["红连", "连衣", "衣裙"], ["a", "b"], [], ["衣"]]


def test_the_first_come_in_the_order_of_scores_then_of_places(script):
    scores = np.array([[1.0, 3, 3, 0], [0, 0, 0, 0]])
    assert script.first(scores, 3).tolist() == [[1, 2, 0], [0, 1, 2]]


def test_z_scores_have_mean_0_and_deviation_1_or_are_0(script):
    found = script.z_scores(np.array([[1.0, 3, 5], [2, 2, 2]]))
    step = 2 / math.sqrt(8 / 3)
    np.testing.assert_allclose(found, [[-step, 0, step], [0, 0, 0]])


def test_every_query_is_tested_once_and_learned_from_elsewhere(script):
    found = script.folds(23, 5, seed=1)
    tests = np.concatenate([fold.test for fold in found])
    assert sorted(tests) == list(range(23))
    for fold in found:
        parts = fold.train, fold.validation, fold.test
        assert sorted(np.concatenate(parts)) == list(range(23))
        assert len(fold.validation) == (23 - len(fold.test)) // 5
    again = script.folds(23, 5, seed=1)
    for fold, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(fold.train, other.train)
    assert not np.array_equal(found[0].test, script.folds(23, 5, seed=2)[0].test)


class Model:
    """Counts epochs in its only weight."""

    def __init__(self):
        self.weight = 0

    def compile(self, optimizer):
        self.rate = float(optimizer.learning_rate)

    def fit(self, data, verbose):
        self.weight += 1

    def get_weights(self):
        return self.weight

    def set_weights(self, weight):
        self.weight = weight


@pytest.mark.parametrize(
    ("values", "best", "seen"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9], 1, 4),  # two epochs after the first none is better
        ([0.6, 0.5, 0.4], 0, 3),  # as it came
        ([0.1, 0.2, 0.2, 0.4, 0.5], 4, 5),  # no more epochs
    ],
)
def test_the_best_epoch_stays(script, values, best, seen):
    model, asked = Model(), []

    def value():
        asked.append(model.weight)
        return values[model.weight]

    found = script.fit(model, None, value, rate=0.25, epochs=4, patience=2)
    assert found == (best, values[best])
    assert model.weight == best
    assert model.rate == 0.25
    assert asked == list(range(seen))


def test_differences_are_paired_by_query(script):
    random = np.random.default_rng(0)
    others = random.random(400)
    # Seeds differ by what their mean does not.
    values = others + 0.1 + np.array([[0.05], [-0.05]])
    value, low, high = script.difference(values, others)
    np.testing.assert_allclose([value, low, high], 0.1)
    noise = random.normal(0, 0.2, 400)
    value, low, high = script.difference(others + noise, others)
    # The standard error is .2 / 20; 1.96 of them to each side.
    assert value == pytest.approx(noise.mean())
    assert high - low == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.05)
    assert low < value < high


def test_a_row_says_where_its_interval_lies(script):
    some = np.linspace(0, 1, 50)
    assert script.difference_row("a minus b", "m", some + 0.5, some) == {
        "difference": "a minus b",
        "metric": "m",
        "value": 0.5,
        "low": 0.5,
        "high": 0.5,
        "interval": "above 0",
    }
    assert script.difference_row("", "", some, some + 0.5)["interval"] == "below 0"
    assert script.difference_row("", "", some, some[::-1])["interval"] == "holds 0"
