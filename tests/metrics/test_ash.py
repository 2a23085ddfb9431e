import pytest

from tfrs_prerank.metrics import ASH

NAN = float("nan")


def value(metric, labels, scores):
    metric.update_state([labels], [scores])
    return float(metric.result())


def test_hand_value():
    # Liked elsewhere: ranks 1, 3 and 4; one more is not known and holds rank 2.
    labels, scores = [1.0, NAN, 1.0, 1.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]
    assert value(ASH(k=1), labels, scores) == pytest.approx(1 / 3)
    assert value(ASH(k=2), labels, scores) == pytest.approx(1 / 3)
    assert value(ASH(k=3), labels, scores) == pytest.approx(2 / 3)
    assert value(ASH(), labels, scores) == 1.0


def test_requests_without_any_are_left_out():
    metric = ASH(k=1)
    metric.update_state([[0.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [2.0, 2.0]])
    assert float(metric.result()) == 0.5


def test_names_columns_and_bad_cut_off():
    assert ASH().columns == {"labels": "label/out_of_scene"}
    assert ASH(column="label/bought_elsewhere").columns == {
        "labels": "label/bought_elsewhere"
    }
    assert ASH(k=5, column="x").get_config() == {"name": "ash@5", "k": 5, "column": "x"}
    with pytest.raises(ValueError, match=r"ASH: k=1\.5 is not a cut-off"):
        ASH(k=1.5)
