"""The timings of metrics: what is compared is the same, and every metric is there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank.metrics

pytest.importorskip(
    "sklearn", reason="scikit-learn, one of the loops, is not installed"
)


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("metrics")


def test_every_metric_is_timed(script):
    assert set(script.made_metrics(10)) == set(tfrs_prerank.metrics.__all__)


@pytest.mark.parametrize("requests", [1, 3, 4, 5, 11])
def test_batches_come_again_until_there_are_enough_requests(script, requests):
    batches = [
        {"mask": tf.constant([1, 2, 3, 4])},
        {"mask": tf.constant([5, 6, 7, 8])},
    ]
    found = [batch["mask"].numpy() for batch in script.cut(batches, requests)]
    expected = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3][:requests]
    assert np.concatenate(found).tolist() == expected


# Best first: documents 2, 0, 1; the fourth is padding. The ranker: 0, 1, 2. Pairs:
# (0, 1) in order, (0, 2) and (1, 2) not: tau = (1 - 2) / 3.
REQUEST = {
    "mask": np.array([[True, True, True, False]]),
    "scores": np.array([[2.0, 1.0, 3.0, 9.0]]),
    "label/click": np.float32([[1.0, 1.0, 0.0, 1.0]]),
    "teacher/click": np.array([[3.0, 2.0, 1.0, 9.0]]),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # (1 / log2 3 + 1 / log2 4) / (1 + 1 / log2 3)
        ("NDCG", (1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3))),
        ("MRR", 1 / 2),
        ("HitRate", 1 / 2),
        ("RankerHitRate", 2 / 3),
        ("GAUC", 0.0),
        ("KendallTau", -1 / 3),
    ],
)
def test_loops_have_the_values_of_hand(script, name, value):
    assert script.LOOPS[name][1](REQUEST, 0, 2) == pytest.approx(value)
    assert len(script.LOOPS) == 6


def test_a_loop_with_other_values_is_refused(script, monkeypatch):
    batches = [script.batch_of(script.SMALL, 0)]
    assert script.looped("MRR", batches, script.SMALL) > 0
    other = ("NumPy", lambda *given: script.LOOPS["HitRate"][1](*given))
    monkeypatch.setitem(script.LOOPS, "MRR", other)
    with pytest.raises(AssertionError, match="Not equal"):
        script.looped("MRR", batches, script.SMALL)


@pytest.mark.slow  # takes long
def test_a_small_run_reports_all_tables(script, tmp_path, capsys):
    options = script.measuring.parser("", "metrics").parse_args(
        ["--small", "--results", str(tmp_path / "metrics.jsonl")]
    )
    script.run(script.SMALL, options)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    tables = json.loads(line)["tables"]
    rest, tau = tables["together"]
    assert rest["metrics"] == "all 19 but KendallTau"
    assert [row["measured"] for row in tables["targets"]] == [
        rest["seconds"],
        tau["seconds"],
    ]
    for row in tables["each"]:
        assert row["seconds"] > 0
        if row["times faster"] != "-":
            ratio = row["its seconds"] / row["seconds"]
            # All three are rounded to three digits.
            assert row["times faster"] == pytest.approx(ratio, rel=0.011)
    assert "metrics: memory\n" in capsys.readouterr().out
