"""Samples of the simulated cascade: what is trained on, and what the tables say."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.conftest import FOLDER


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("funnel")


def test_each_variant_adds_a_stage(script):
    stages = [term.stages for term in script.VARIANTS.values()]
    assert stages[0] == ("exposed",)
    for before, after in itertools.pairwise(stages[:4]):
        assert after[:-1] == before
    # The last one differs from the one before in its correction alone.
    assert stages[4] == stages[3]
    assert [t.log_q for t in script.VARIANTS.values()] == [False] * 4 + [True]


def test_a_seed_is_that_of_world_samples_and_model(script):
    config = script.configured(script.FULL, 5)
    assert config.data.seed == config.data.mixture.seed == config.training.seed == 5
    assert (config.data.preset, config.data.teacher) == ("full", "true_utility")


def test_tables_by_hand(script):
    def run(rate):
        return dict.fromkeys(script.MEASURED, 0.25) | {"ranker_hit_rate": rate}

    rates = [(0.4, 0.6), (0.5, 0.5), (0.7, 0.7), (0.6, 0.9), (0.7, 0.8)]
    found = {
        name: [run(one), run(other)]
        for name, (one, other) in zip(script.VARIANTS, rates, strict=True)
    }
    rows = script._table(found)
    assert rows[0]["seeds"] == 2
    assert rows[0]["ranker_hit_rate"] == "0.5000 ± 0.1414"
    assert rows[0]["gini"] == "0.2500 ± 0.0000"
    targets = script._targets(found)
    assert [row["measured"] for row in targets] == [0.25, 0.0, 0.2, 0.05]
    assert [row["reached"] for row in targets] == ["yes"] * 4


@pytest.mark.slow
def test_a_small_run_prints_and_keeps_what_it_found(tmp_path):
    results = tmp_path / "funnel.jsonl"
    command = [sys.executable, FOLDER / "funnel.py", "--small", "--seeds", "3"]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    printed = subprocess.run(
        [*command, "--results", results],
        capture_output=True, text=True, env=environment, check=True, timeout=600,
    ).stdout  # fmt: skip
    (line,) = results.read_text().splitlines()
    rows = {row["samples"]: row for row in json.loads(line)["tables"]["bias"]}
    assert rows["truth"]["ranker_hit_rate"].startswith("1.0000")
    assert rows["random"]["ranker_hit_rate"].startswith("0.3333")
    assert all(name in printed for name in rows)
    kept = (tmp_path / "funnel_runs.jsonl").read_text().splitlines()
    assert len(kept) == len(rows) == 8
