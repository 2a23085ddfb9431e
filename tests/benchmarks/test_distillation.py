"""The funnel's distillation: who reads what, tables, and a small run."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("distillation")


def test_matches_are_the_rankers_and_counters_of_pairs_nobodys(script):
    config = script.configured(script.funnel.SMALL, 3)
    own = {f.name for f in config.schema.features if f.owner == "cross"}
    assert own == {"title_match", "interest_match"}
    assert not config.schema.served.owned_by("cross")
    assert config.model.cross_tower is None
    assert (config.data.seed, config.training.seed, config.data.mixture.seed) == (
        3,
    ) * 3
    # The truth is there to measure by.
    assert config.data.teacher == "true_utility"
    for objective in (script.BOTH, script.BOTH_JOINTLY):
        assert [term.loss for term in objective.terms][1:] == ["distillation"]


def test_tables_are_means_over_worlds_and_gains_over_the_plain_towers(script):
    def run(ranker, plain, distilled, joint):
        reached = {
            script.RANKER: ranker,
            script.PLAIN: plain,
            script.DISTILLED: distilled,
            script.JOINT: joint,
        }
        return {
            "values": {
                name: dict.fromkeys(script.MEASURED, value)
                for name, value in reached.items()
            }
        }

    runs = [run(0.8, 0.7, 0.75, 0.69), run(0.9, 0.7, 0.79, 0.69)]
    rows = script.table(runs)
    assert [row["what"] for row in rows] == list(runs[0]["values"])
    assert rows[0]["outcome"] == "0.8500 ± 0.0707"  # .05 * sqrt(2)
    targets = script.targets(runs)
    assert [row["measured"] for row in targets] == pytest.approx(
        [0.15, 0.15, 0.07, 0.07, -0.01, -0.01]
    )
    assert [row["reached"] for row in targets] == ["yes"] * 4 + ["not reached"] * 2


@pytest.mark.slow
def test_a_small_run_measures_all_models(script, tmp_path):
    setting = script.funnel.SMALL
    data = tmp_path / "data"
    script.pipeline.prepare(script.configured(setting, 1), data)
    values = script.run_of(setting, 1, data, epochs=1)["values"]
    models = {script.RANKER, script.PLAIN, script.DISTILLED, script.JOINT}
    assert set(values) == models | {"clicks so far", "random"}
    assert values[script.RANKER]["imitation"] == 1.0
    assert values["random"]["outcome"] == pytest.approx(setting.k / 120)
    for name in models:
        assert values[name]["outcome"] > values["random"]["outcome"] + 0.05
