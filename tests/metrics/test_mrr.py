import numpy as np
import pytest

from tfrs_prerank.metrics import MRR


def value(labels, scores, **options):
    metric = MRR(**options)
    metric.update_state([labels], [scores])
    return float(metric.result())


def test_hand_values():
    # Best-placed positive on rank 3; the other, on rank 4, does not matter.
    assert value([0.0, 1.0, 0.0, 2.0], [9.0, 1.0, 5.0, 3.0]) == pytest.approx(1 / 3)
    assert value([0.0, 1.0, 0.0, 2.0], [9.0, 1.0, 5.0, 3.0], k=2) == 0.0


def test_ties_are_averaged():
    # One positive among three tied documents behind one other: ranks 2, 3, 4.
    expected = (1 / 2 + 1 / 3 + 1 / 4) / 3
    assert value([0.0, 0.0, 1.0, 0.0], [9.0, 1.0, 1.0, 1.0]) == pytest.approx(expected)
    # Two positives among three tied: the first is on rank 1 in 2 of 3 orders, else 2.
    assert value([1.0, 1.0, 0.0], [0.0, 0.0, 0.0]) == pytest.approx(2 / 3 + 1 / 3 / 2)
    # Cut at 3: rank 4 gives nothing.
    expected = (1 / 2 + 1 / 3) / 3
    assert value([0.0, 0.0, 1.0, 0.0], [9.0, 1.0, 1.0, 1.0], k=3) == pytest.approx(
        expected
    )


def test_a_long_tie_equals_the_harmonic_mean():
    # One positive among 5,000 tied documents: sum(1 / r) / 5000.
    labels = np.zeros([1, 5000])
    labels[0, 4321] = 1.0
    values, _ = MRR().per_list(labels, np.zeros([1, 5000]))
    expected = np.sum(1 / np.arange(1, 5001)) / 5000
    np.testing.assert_allclose(values, [expected], rtol=1e-11)


def test_names_config_and_bad_cut_off():
    assert MRR().name == "mrr"
    assert MRR().get_config() == {"name": "mrr", "k": None}
    assert MRR(k=5).get_config() == {"name": "mrr@5", "k": 5}
    assert MRR.reads == "scores"
    with pytest.raises(ValueError, match=r"MRR: k=0 is not a cut-off: .* or None"):
        MRR(k=0)
