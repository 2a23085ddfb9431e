import pytest

from tfrs_prerank.metrics import HitRate, InSceneHitRate

NAN = float("nan")


def value(metric, labels, scores):
    metric.update_state([labels], [scores])
    return float(metric.result())


def test_candidates_that_were_never_shown_compete():
    # Ranked: positive, two never shown, positive, negative.
    labels, scores = [1.0, NAN, NAN, 1.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]
    assert value(InSceneHitRate(k=2), labels, scores) == 0.5
    assert value(InSceneHitRate(k=4), labels, scores) == 1.0
    # Among the shown alone, both positives are in the top 2.
    assert value(HitRate(k=2), labels, scores) == 1.0


def test_ties_with_candidates_that_were_never_shown():
    # One of three tied places is inside: 1/3 of the one positive.
    labels, scores = [0.0, 1.0, NAN, NAN], [9.0, 1.0, 1.0, 1.0]
    assert value(InSceneHitRate(k=2), labels, scores) == pytest.approx(1 / 3)


def test_k_beyond_the_list_is_one():
    assert value(InSceneHitRate(k=3), [0.0, 1.0, NAN], [3.0, 2.0, 1.0]) == 1.0
    assert value(InSceneHitRate(), [0.0, 1.0, NAN], [3.0, 2.0, 1.0]) == 1.0


def test_names_config_and_bad_cut_off():
    assert InSceneHitRate().name == "in_scene_hit_rate@100"
    config = {"name": "in_scene_hit_rate@5", "k": 5}
    assert InSceneHitRate(k=5).get_config() == config
    assert InSceneHitRate.reads == "scores"
    assert InSceneHitRate().columns == {"labels": "label/{task}"}
    with pytest.raises(ValueError, match="InSceneHitRate: k=0 is not a cut-off"):
        InSceneHitRate(k=0)
