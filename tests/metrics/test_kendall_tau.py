import math

import numpy as np
import pytest

from tfrs_prerank.metrics import KendallTau

NAN = float("nan")


def value(ranker, scores, **arguments):
    metric = KendallTau()
    metric.update_state([ranker], [scores], **arguments)
    return float(metric.result())


def test_hand_values():
    assert value([1.0, 2.0, 3.0], [4.0, 5.0, 9.0]) == 1.0
    assert value([1.0, 2.0, 3.0], [9.0, 5.0, 4.0]) == -1.0
    # One of six pairs is the wrong way round.
    assert value([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(4 / 6)
    assert value([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_ties_on_either_side():
    # Pairs: (0, 1) tied by the ranker, (1, 2) by the scores, (0, 2) alike:
    # 1 / sqrt(2 * 2).
    assert value([1.0, 1.0, 2.0], [1.0, 2.0, 2.0]) == pytest.approx(0.5)
    # (0, 1) tied on both sides, the other two alike: 2 / sqrt(2 * 2).
    assert value([1.0, 1.0, 2.0], [3.0, 3.0, 4.0]) == pytest.approx(1.0)
    # Two groups by the ranker, four scores: 4 alike / sqrt(6 * 4).
    tau = value([0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    assert tau == pytest.approx(4 / math.sqrt(24))


def test_constant_scores_are_zero_and_a_constant_ranker_is_left_out():
    values, weights = KendallTau().per_list(
        [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, NAN, NAN]],
        [[5.0, 5.0, 5.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
    )
    assert values.numpy().tolist() == [0.0, 0.0, 0.0]
    assert weights.numpy().tolist() == [1.0, 0.0, 0.0]


def test_infinite_scores_and_padding():
    # Valid documents scored -inf stand where padding does, and are told from it.
    inf = float("inf")
    tau = value(
        [[3.0, 2.0, 1.0, 9.0, 8.0]][0],
        [inf, -inf, -inf, -inf, inf],
        where=[[True, True, True, False, False]],
    )
    # (0, 1) and (0, 2) alike, (1, 2) tied in score: 2 / sqrt(2 * 3).
    assert tau == pytest.approx(2 / math.sqrt(6))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 31, 32, 33, 64])
def test_lists_of_every_number_of_bits(size):
    rng = np.random.default_rng(size)
    ranker, scores = rng.integers(0, max(2, size // 2), [2, 4, size]).astype(float)
    ranker[:, 0] = -1.0
    values, weights = KendallTau().per_list(ranker, scores)
    for row in range(4):
        r = np.sign(ranker[row][:, np.newaxis] - ranker[row])
        s = np.sign(scores[row][:, np.newaxis] - scores[row])
        differ = np.sqrt(np.abs(r).sum() * np.abs(s).sum())
        expected = (r * s).sum() / differ if differ else 0.0
        np.testing.assert_allclose(values[row], expected, rtol=1e-12, atol=1e-15)
        assert weights[row] == float(size > 1)


def test_memory_is_not_quadratic():
    # All pairs of 40,000 documents would be 12.8 GB. Swapping neighbours turns round
    # one pair for each two documents.
    n = 40_000
    scores = np.arange(float(n)).reshape([-1, 2])[:, ::-1].reshape([1, -1])
    values, _ = KendallTau().per_list(np.arange(float(n))[np.newaxis], scores)
    expected = 1 - 2 * (n / 2) / (n * (n - 1) / 2)
    np.testing.assert_allclose(values, [expected], rtol=1e-12)


def test_name_columns_and_config():
    assert KendallTau().name == "kendall_tau"
    assert KendallTau().get_config() == {"name": "kendall_tau"}
    assert KendallTau.reads == "scores"
    assert KendallTau().columns == {"labels": "teacher/{task}"}
