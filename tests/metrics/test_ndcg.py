import math

import numpy as np
import pytest

from tfrs_prerank.metrics import NDCG


def value(labels, scores, **options):
    metric = NDCG(**options)
    metric.update_state([labels], [scores])
    return float(metric.result())


def test_graded_hand_value():
    # Ranked labels 0, 3, 1: gains 0, 7, 1. Best: 7, 1, 0.
    dcg = 7 / math.log2(3) + 1 / math.log2(4)
    ideal = 7 / math.log2(2) + 1 / math.log2(3)
    assert value([3.0, 0.0, 1.0], [2.0, 3.0, 1.0], k=10) == pytest.approx(dcg / ideal)


def test_cut_off_applies_to_both_sides():
    # Top 2: labels 0, 1 of 1, 1, 0. DCG = 1/log2(3), IDCG@2 = 1 + 1/log2(3).
    d = 1 / math.log2(3)
    assert value([1.0, 1.0, 0.0], [1.0, 2.0, 3.0], k=2) == pytest.approx(d / (1 + d))
    assert value([1.0, 0.0, 0.0], [1.0, 2.0, 3.0], k=2) == 0.0


def test_ties_share_their_ranks():
    # A positive and a negative tied on ranks 2 and 3: half a gain on each.
    expected = 0.5 / math.log2(3) + 0.5 / math.log2(4)
    assert value([0.0, 1.0, 0.0], [5.0, 1.0, 1.0]) == pytest.approx(expected)
    # All equal: the mean discount of the list.
    mean = sum(1 / math.log2(1 + r) for r in range(1, 6)) / 5
    assert value([0.0, 0.0, 0.0, 0.0, 1.0], [7.0] * 5) == pytest.approx(mean)


def test_lists_without_a_positive_are_left_out():
    metric = NDCG()
    metric.update_state([[0.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [2.0, 1.0]])
    assert float(metric.result()) == pytest.approx(1 / math.log2(3))


def test_long_lists_equal_the_plain_formula():
    # 5,000 distinct scores: also shows that memory is not quadratic (2 x 5000^2
    # float64 alone would be 400 MB).
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, [2, 5000]).astype(np.float64)
    scores = rng.permuted(np.tile(np.arange(5000.0), [2, 1]), axis=1)
    values, _ = NDCG(k=None).per_list(labels, scores)
    discounts = 1 / np.log2(np.arange(2, 5002))
    for row in range(2):
        gains = 2 ** labels[row] - 1
        dcg = gains[np.argsort(-scores[row])] @ discounts
        expected = dcg / (np.sort(gains)[::-1] @ discounts)
        np.testing.assert_allclose(values[row], expected, rtol=1e-12)


def test_names_config_and_bad_cut_off():
    assert NDCG().name == "ndcg@10"
    assert NDCG(k=3).get_config() == {"name": "ndcg@3", "k": 3}
    assert NDCG(k=None).name == "ndcg"
    assert NDCG.reads == "scores"
    for k in (0, -1, 2.5, True, "10"):
        with pytest.raises(ValueError, match=f"NDCG: k={k!r} is not a cut-off"):
            NDCG(k=k)


@pytest.mark.parametrize("k", [1, 7, 30, None])
def test_equals_scikit_learn_with_exponential_gains(k):
    sklearn_metrics = pytest.importorskip(
        "sklearn.metrics", reason="scikit-learn, the reference, is not installed"
    )
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, [20, 30]).astype(np.float64)
    # Both average over ties.
    scores = rng.integers(0, 9, [20, 30]).astype(np.float64)
    values, weights = NDCG(k=k).per_list(labels, scores)
    expected = [
        sklearn_metrics.ndcg_score([2.0**y - 1.0], [s], k=k)
        for y, s in zip(labels, scores, strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    np.testing.assert_array_equal(weights, np.ones([20]))
