import numpy as np
import pytest

from tfrs_prerank.metrics import Overlap, RankerHitRate

NAN = float("nan")


def value(metric, ranker, scores):
    metric.update_state([ranker], [scores])
    return float(metric.result())


def test_hand_values():
    # The ranker's order is 0, 2, 3, 1; the pre-ranker's 0, 1, 2, 3.
    ranker, scores = [9.0, 6.0, 8.0, 7.0], [4.0, 3.0, 2.0, 1.0]
    assert value(RankerHitRate(k=2, m=1), ranker, scores) == 1.0
    assert value(RankerHitRate(k=2, m=2), ranker, scores) == 0.5
    assert value(RankerHitRate(k=3, m=2), ranker, scores) == 1.0
    assert value(RankerHitRate(k=1, m=3), ranker, scores) == pytest.approx(1 / 3)
    assert value(RankerHitRate(k=3, m=3), ranker, scores) == pytest.approx(2 / 3)


def test_the_ranker_itself_is_one_and_its_reverse_zero():
    rng = np.random.default_rng(0)
    ranker = rng.permuted(np.tile(np.arange(50.0), [4, 1]), axis=1)
    for metric, reverse in ((RankerHitRate(20, 5), 0.0), (Overlap(20), 0.0)):
        metric.update_state(ranker, ranker * 3.0)
        assert metric.result() == 1.0
        metric.reset_state()
        metric.update_state(ranker, -ranker)
        assert metric.result() == reverse


def test_a_random_order_is_k_of_n():
    # Constant scores are the mean over random orders, exactly.
    ranker = np.random.default_rng(0).normal(size=[3, 40])
    for metric, share in ((RankerHitRate(10, 4), 10 / 40), (Overlap(16), 16 / 40)):
        metric.update_state(ranker, np.zeros([3, 40]))
        assert float(metric.result()) == pytest.approx(share)


def test_lists_that_are_shorter():
    # m is at most n, and k beyond n keeps all.
    assert value(RankerHitRate(k=2, m=10), [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == (
        pytest.approx(2 / 3)
    )
    assert value(RankerHitRate(), [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]) == 1.0
    assert value(RankerHitRate(), [3.0], [1.0]) == 1.0


def test_ties_on_both_sides():
    # Of two equal scores one is kept, of two equal ranker scores one is wanted: half.
    assert value(RankerHitRate(k=1, m=1), [5.0, 5.0], [1.0, 1.0]) == 0.5
    # The ranker wants 0 and one of 1, 2; kept are 0 and one of 1, 3: 1 + 1/4 of 2.
    metric = RankerHitRate(k=2, m=2)
    assert value(metric, [9.0, 5.0, 5.0, 1.0], [9.0, 5.0, 1.0, 5.0]) == 1.25 / 2


def test_candidates_without_the_rankers_score_are_left_out():
    # Without the third, the top 2 is {0, 1} on both sides.
    metric = RankerHitRate(k=2, m=2)
    assert value(metric, [2.0, 1.0, NAN, 0.0], [3.0, 2.0, 9.0, 1.0]) == 1.0
    metric.update_state([[NAN, NAN]], [[1.0, 2.0]])
    assert float(metric.count) == 1.0


def test_overlap_is_the_case_of_equal_sizes():
    rng = np.random.default_rng(0)
    ranker, scores = rng.integers(0, 6, [2, 5, 20]).astype(float)
    for k in (1, 7, 20, 30):
        values, _ = Overlap(k).per_list(ranker, scores)
        expected, _ = RankerHitRate(k, k).per_list(ranker, scores)
        np.testing.assert_array_equal(values, expected)


def test_names_config_and_bad_cut_offs():
    assert RankerHitRate().name == "ranker_hit_rate@100,10"
    config = {"name": "ranker_hit_rate@50,5", "k": 50, "m": 5}
    assert RankerHitRate(k=50, m=5).get_config() == config
    assert Overlap(k=5).get_config() == {"name": "overlap@5", "k": 5}
    for kind in (RankerHitRate, Overlap):
        assert kind.reads == "scores"
        assert kind().columns == {"labels": "teacher/{task}"}
        with pytest.raises(ValueError, match=f"{kind.__name__}: k=0 is not a cut-off"):
            kind(k=0)
    with pytest.raises(ValueError, match="RankerHitRate: m=True is not a cut-off"):
        RankerHitRate(m=True)
