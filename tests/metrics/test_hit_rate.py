import pytest

from tfrs_prerank.metrics import HitRate


def value(labels, scores, **options):
    metric = HitRate(**options)
    metric.update_state([labels], [scores])
    return float(metric.result())


def test_share_of_the_positives_not_any_hit():
    # Ranked labels: 1, 0, 2, 1. The top 2 keeps one of three positives.
    labels, scores = [1.0, 0.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]
    assert value(labels, scores, k=2) == pytest.approx(1 / 3)
    assert value(labels, scores, k=3) == pytest.approx(2 / 3)
    assert value(labels, scores, k=4) == 1.0
    assert value(labels, scores, k=100) == 1.0


def test_a_tie_across_the_cut_keeps_a_share():
    # Rank 1 is taken; of three tied documents the cut at 2 keeps one: 1/3.
    labels, scores = [0.0, 1.0, 0.0, 0.0], [9.0, 1.0, 1.0, 1.0]
    assert value(labels, scores, k=2) == pytest.approx(1 / 3)
    # Constant scores: k / L.
    assert value([0.0, 1.0, 0.0, 1.0, 1.0], [0.0] * 5, k=2) == pytest.approx(2 / 5)


def test_mean_over_lists_not_over_positives():
    # 1 of 1 and 1 of 3 kept: (1 + 1/3) / 2; over positives it would be 2/4.
    metric = HitRate(k=1)
    metric.update_state([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [[3.0, 2.0, 1.0]] * 2)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_names_config_and_bad_cut_off():
    assert HitRate().name == "hit_rate@10"
    assert HitRate(k=5).get_config() == {"name": "hit_rate@5", "k": 5}
    assert HitRate.reads == "scores"
    for k in (0, None, 1.0):
        with pytest.raises(ValueError, match=f"HitRate: k={k!r} is not a cut-off"):
            HitRate(k=k)
