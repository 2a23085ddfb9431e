import numpy as np
import pytest

from tfrs_prerank.metrics import GAUC, PAUC

NAN = float("nan")


def value(metric, labels, logits, ranker):
    metric.update_state([labels], [logits], ranker=[ranker])
    return float(metric.result())


def test_only_the_rankers_top_counts():
    # The ranker's top 3 are 0, 1, 2: the positive beats one of two negatives. The
    # fourth, which it does not beat, is outside.
    labels, ranker = [1.0, 0.0, 0.0, 0.0], [9.0, 8.0, 7.0, 1.0]
    assert value(PAUC(k=3), labels, [2.0, 3.0, 1.0, 4.0], ranker) == 0.5
    assert value(PAUC(k=4), labels, [2.0, 3.0, 1.0, 4.0], ranker) == pytest.approx(
        1 / 3
    )


def test_no_label_holds_a_place_and_no_ranker_score_none():
    # Top 2 by the ranker: the positive, and one without a label: no pair.
    labels, ranker = [1.0, NAN, 0.0], [9.0, 8.0, 7.0]
    metric = PAUC(k=2)
    metric.update_state([labels], [[2.0, 3.0, 1.0]], ranker=[ranker])
    assert not metric.usable
    # The ranker did not score the second: the third moves up.
    assert value(metric, labels, [2.0, 3.0, 1.0], [9.0, NAN, 7.0]) == 1.0


def test_ties_of_scores_are_a_half():
    assert value(PAUC(k=2), [1.0, 0.0], [0.0, 0.0], [2.0, 1.0]) == 0.5


def test_ties_at_the_rankers_cut_weigh_pairs():
    # The positive is in for sure. One of two tied negatives joins it: the pair won
    # and the pair lost have chance 1/2 each.
    ranker = [9.0, 5.0, 5.0]
    assert value(PAUC(k=2), [1.0, 0.0, 0.0], [2.0, 1.0, 3.0], ranker) == 0.5
    # Two of three tied: a pair of them has 2 * 1 / (3 * 2) = 1/3. One pair is won
    # (0 over 1), one lost (0 under 2).
    metric = PAUC(k=2)
    assert value(metric, [1.0, 0.0, 0.0], [2.0, 1.0, 3.0], [5.0] * 3) == 0.5
    # One of three tied: never two, so no pair.
    metric = PAUC(k=1)
    metric.update_state([[1.0, 0.0, 0.0]], [[2.0, 1.0, 3.0]], ranker=[[5.0] * 3])
    assert not metric.usable


def test_every_request_counts_once():
    # 1 with two documents, 0 with three: 1/2, and by documents it would be 2/5.
    metric = PAUC(k=5)
    metric.update_state(
        [[1.0, 0.0, NAN], [1.0, 0.0, 0.0]],
        [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]],
        ranker=[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
    )
    assert float(metric.result()) == 0.5


def test_without_a_cut_it_is_the_auc_of_each_list():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, [6, 20])
    logits, ranker = rng.integers(0, 9, [2, 6, 20])
    values, _ = PAUC(k=20).per_list(labels, logits, ranker=ranker)
    expected, _ = GAUC().per_list(labels, logits)
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_names_columns_and_config():
    assert PAUC().name == "pauc@10"
    assert PAUC.reads == "logits"
    columns = {"labels": "label/{task}", "ranker": "teacher/{task}"}
    assert PAUC().columns == columns
    assert PAUC(k=5).get_config() == {"name": "pauc@5", "k": 5}
    with pytest.raises(ValueError, match="PAUC: k=0 is not a cut-off"):
        PAUC(k=0)
