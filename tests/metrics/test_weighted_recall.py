import numpy as np
import pytest

from tfrs_prerank.metrics import WeightedRecall

NAN = float("nan")


def test_labels_as_values():
    # A purchase counts 4, a click 1: the top 2 hold 4 + 0 of 4 + 1 + 1.
    metric = WeightedRecall(k=2)
    metric.update_state([[4.0, NAN, 1.0, 1.0]], [[4.0, 3.0, 2.0, 1.0]])
    assert float(metric.result()) == pytest.approx(4 / 6)


def test_a_column_of_values():
    # Positives worth 10, 30 and, not known, nothing: 10 of 40 in the top 2.
    metric = WeightedRecall(k=2, values="price")
    labels, price = [[1.0, 0.0, 1.0, 1.0]], [[10.0, 99.0, 30.0, NAN]]
    metric.update_state(labels, [[4.0, 3.0, 2.0, 1.0]], values=price)
    assert float(metric.result()) == pytest.approx(10 / 40)


def test_mean_over_requests_or_over_value():
    # Kept: 1 of 1 and 2 of 20. (1 + 1/10) / 2, or 3 of 21.
    labels, scores = [[1.0, 0.0], [2.0, 18.0]], [[2.0, 1.0], [2.0, 1.0]]
    mean, pooled = WeightedRecall(k=1), WeightedRecall(k=1, pooled=True)
    for metric in (mean, pooled):
        metric.update_state(labels, scores)
    assert float(mean.result()) == pytest.approx(0.55)
    assert float(pooled.result()) == pytest.approx(3 / 21)


def test_no_value_is_left_out():
    metric = WeightedRecall(k=1, values="price")
    metric.update_state([[1.0, 0.0]], [[1.0, 2.0]], values=[[0.0, 5.0]])
    metric.update_state([[1.0, 1.0]], [[1.0, 2.0]], values=[[NAN, -2.0]])
    assert not metric.usable
    metric.update_state([[1.0, 1.0]], [[1.0, 2.0]], values=np.int32([[3, 1]]))
    assert float(metric.result()) == pytest.approx(1 / 4)


def test_names_columns_and_config():
    assert WeightedRecall().name == "weighted_recall@100"
    assert WeightedRecall().columns == {"labels": "label/{task}"}
    metric = WeightedRecall(k=5, values="price")
    assert metric.columns == {"labels": "label/{task}", "values": "price"}
    assert metric.get_config() == {
        "name": "weighted_recall@5",
        "k": 5,
        "values": "price",
        "pooled": False,
    }
    with pytest.raises(ValueError, match="WeightedRecall: k=0 is not a cut-off"):
        WeightedRecall(k=0)
