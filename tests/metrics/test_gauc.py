import numpy as np
import pytest

from tfrs_prerank.metrics import GAUC


def test_hand_value_with_document_weights():
    # List 1: positive at 2, negatives at 3, 1, 2: 0 + 1 + 1/2 of 3 pairs = 1/2; 4
    # documents. List 2: positive above its one negative: 1; 2 documents.
    # List 3: positives only, left out. (4 * 1/2 + 2 * 1) / 6.
    nan = float("nan")
    metric = GAUC()
    metric.update_state(
        [[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, nan, nan], [1.0, 1.0, 1.0, 1.0]],
        [[2.0, 3.0, 1.0, 2.0], [-5.0, -4.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]],
    )
    assert float(metric.result()) == pytest.approx(4 / 6)


def test_constant_scores_are_a_half_and_not_skipped():
    values, weights = GAUC().per_list([[1.0, 0.0, 1.0]], [[7.0, 7.0, 7.0]])
    assert values.numpy() == [0.5]
    assert weights.numpy() == [3.0]


def test_reversing_the_scores_gives_the_complement():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, [10, 30])
    scores = rng.integers(0, 8, [10, 30])
    values, _ = GAUC().per_list(labels, scores)
    reversed_values, _ = GAUC().per_list(labels, -scores)
    np.testing.assert_allclose(values + reversed_values, np.ones([10]))
    assert np.abs(values - 0.5).max() > 0.05


def test_name_and_config():
    assert GAUC().name == "gauc"
    assert GAUC().get_config() == {"name": "gauc"}
    assert GAUC.reads == "logits"
