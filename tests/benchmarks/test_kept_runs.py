"""Runs are made once for the same code, and again where anything else is asked for."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def kept_runs(script_named):
    """The module."""
    return script_named("kept_runs")


def test_a_run_is_made_once(kept_runs, tmp_path):
    path = tmp_path / "results" / "x_runs.jsonl"
    made = []

    def run(name, seed, code):
        def make():
            made.append((name, seed, code))
            return {"auc": len(made)}

        return kept_runs.find_or_make(path, name, seed, code, make)

    asked = [("a", 0, "x"), ("a", 1, "x"), ("b", 0, "x"), ("a", 0, "y")]
    first = [run(*one) for one in asked]
    assert first[1] == {"what": "a", "seed": 1, "digest": "x", "auc": 2}
    assert [run(*one) for one in reversed(asked)] == first[::-1]
    assert made == asked
    lines = path.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == first


def test_a_run_that_fails_leaves_nothing(kept_runs, tmp_path):
    path = tmp_path / "x_runs.jsonl"
    with pytest.raises(ZeroDivisionError):
        kept_runs.find_or_make(path, "a", 0, "x", lambda: {"auc": 1 / 0})
    assert not path.exists()


def test_a_digest_depends_on_the_setting_and_on_the_source(
    kept_runs, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "some_code_of_a_run.py"
    module.write_text("ANSWER = 42\n")
    __import__(module.stem)
    code = kept_runs.digest((1, "a"), [module.stem])
    assert code == kept_runs.digest((1, "a"), [module.stem])
    assert code != kept_runs.digest((2, "a"), [module.stem])
    module.write_text("ANSWER = 43\n")
    assert code != kept_runs.digest((1, "a"), [module.stem])


def test_modules_are_those_that_names_come_from(kept_runs):
    found = kept_runs.modules(["tfrs_prerank.layers.cross_network"])
    assert {
        "tfrs_prerank.layers.cross_network",
        "tfrs_prerank.layers._checks",
    } <= found
    assert "tfrs_prerank.layers.senet" not in found
