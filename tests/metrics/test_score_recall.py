import math

import numpy as np
import pytest

from tfrs_prerank.metrics import ScoreRecall


def value(metric, ranker, scores):
    metric.update_state([ranker], [scores])
    return float(metric.result())


def test_probabilities_of_logits():
    # Probabilities 3/4, 1/2, 1/4; kept are the last two of the best 3/4 + 1/2.
    log3 = math.log(3.0)
    metric = ScoreRecall(k=2)
    assert value(metric, [log3, 0.0, -log3], [1.0, 2.0, 3.0]) == pytest.approx(
        0.75 / 1.25
    )


def test_shifted_scores():
    # Gains 0, 4, 1: kept is the last, of 4.
    metric = ScoreRecall(k=1, gain="shift")
    assert value(metric, [-7.0, -3.0, -6.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 4)
    # The scale and the origin of the ranker's scores change nothing.
    metric.reset_state()
    assert value(metric, [30.0, 70.0, 40.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 4)


def test_padding_is_not_the_lowest_score():
    metric = ScoreRecall(k=1, gain="shift")
    metric.update_state(
        [[3.0, 2.0, 1.0, -99.0]],
        [[1.0, 2.0, 0.0, 9.0]],
        where=[[True, True, True, False]],
    )
    assert float(metric.result()) == pytest.approx(0.5)


def test_the_ranker_itself_is_one_and_nothing_beats_it():
    rng = np.random.default_rng(0)
    ranker, scores = rng.normal(size=[2, 20, 30])
    for gain in ("sigmoid", "shift"):
        metric = ScoreRecall(k=7, gain=gain)
        values, _ = metric.per_list(ranker, ranker)
        np.testing.assert_array_equal(values, np.ones([20]))
        values, _ = metric.per_list(ranker, scores)
        assert values.numpy().max() < 1.0
        assert values.numpy().min() > 0.0


def test_k_beyond_the_list_and_equal_scores():
    assert value(ScoreRecall(), [3.0, -2.0], [1.0, 2.0]) == 1.0
    # Equal ranker scores: all sets are as good, or without gains there is no value.
    assert value(ScoreRecall(k=1), [3.0, 3.0], [1.0, 2.0]) == 1.0
    metric = ScoreRecall(k=1, gain="shift")
    metric.update_state([[3.0, 3.0]], [[1.0, 2.0]])
    assert not metric.usable


def test_names_config_and_bad_arguments():
    assert ScoreRecall().name == "score_recall@100"
    assert ScoreRecall().columns == {"labels": "teacher/{task}"}
    config = {"name": "score_recall@5", "k": 5, "gain": "shift"}
    assert ScoreRecall(k=5, gain="shift").get_config() == config
    with pytest.raises(ValueError, match="ScoreRecall: gain='raw' is unknown"):
        ScoreRecall(gain="raw")
    with pytest.raises(ValueError, match="ScoreRecall: k=0 is not a cut-off"):
        ScoreRecall(k=0)
