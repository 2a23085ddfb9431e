import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.small_movielens import write_config
from tfrs_prerank import metrics
from tfrs_prerank.config import Config, EvaluationConfig, FunnelConfig, make_metrics
from tfrs_prerank.datasets import funnel
from tfrs_prerank.datasets.log_config import LogsConfig
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.sampling import Hard, Mixture


def test_the_example_is_complete():
    config = Config.example("movielens")
    assert config.schema.task_names == ("click", "like")
    assert config.evaluation.baselines == {
        "popularity": "popularity",
        "item-item co-likes": "co_likes",
    }


def test_paths_are_relative_to_the_file(tmp_path):
    path = write_config(
        tmp_path / "shop.yaml",
        tmp_path,
        data={"source": "logs", "requests": "logs/*.csv", "documents": "docs.csv"},
        schema={
            "features": [
                {
                    "kind": "categorical",
                    "name": "user_id",
                    "owner": "query",
                    "vocabulary": "users.txt",
                },
                {"kind": "categorical", "name": "city", "owner": "doc", "buckets": 9},
            ],
            "tasks": [{"name": "click"}],
        },
        model={},
        evaluation={},
    )
    config = Config.from_yaml(path)
    assert isinstance(config.data, LogsConfig)
    assert config.data.requests == (str(tmp_path / "logs/*.csv"),)
    assert config.data.documents == str(tmp_path / "docs.csv")
    assert config.schema["user_id"].vocabulary == str(tmp_path / "users.txt")


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("trainig", {}, "trainig: unknown key 'trainig'; did you mean 'training'?"),
        (
            "training",
            {"epoch": 3},
            "training.epoch: unknown key 'epoch'; did you mean 'epochs'?",
        ),
        (
            "training",
            {"epochs": "many"},
            "training.epochs: input should be a valid integer, unable to parse string "
            "as an integer. Received: 'many'",
        ),
        ("training", {"epochs": 0}, "training: epochs must be positive. Received: 0"),
        (
            "training",
            {"metrics": ["ndgc@10"]},
            "training: no metric 'ndgc@10'; did you mean 'ndcg@K'?",
        ),
        (
            "model",
            {"query_tower": {"unit": [8]}},
            "model.query_tower.unit: unknown key 'unit'; did you mean 'units'?",
        ),
        (
            "data",
            {"source": "movielens", "pth": "x"},
            "data.movielens.pth: unknown key 'pth'; did you mean 'path'?",
        ),
        ("data", {"source": "clicks"}, "data.source: unknown source 'clicks'"),
        ("data", {"path": "x"}, "data: needs a `source`. Received: {'path': 'x'}"),
        (
            "training",
            {"early_stopping": 0},
            "training: early_stopping must be at least 1, or null for none.",
        ),
        ("export", {"task": "lik"}, "export.task: no task 'lik'; did you mean"),
        ("export", {"k": 0}, "export: k and warmup_lengths must be at least 1."),
        (
            "evaluation",
            {"baselines": {"likes": "popularty"}},
            "evaluation.baselines.likes: no numeric feature 'popularty'; "
            "did you mean 'popularity'?",
        ),
        ("objective", "sigmod", "objective: unknown loss 'sigmod'; known: "),
        (
            "data",
            {"source": "movielens", "max_candidates": -1},
            "data.movielens: history must be at least 1 and max_candidates at least 5.",
        ),
        (
            "objective",
            {"terms": [{"task": "click", "loss": "softmax_crossentropy"}]},
            "objective.terms[0].loss: unknown 'softmax_crossentropy'; "
            "did you mean 'softmax_cross_entropy'?",
        ),
    ],
)
def test_one_line_names_key_value_and_fix(tmp_path, section, value, message):
    path = write_config(tmp_path / "c.yaml", tmp_path, **{section: value})
    with pytest.raises(ConfigurationError) as raised:
        Config.from_yaml(path)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert text.removeprefix(str(path)).lstrip(".: ").startswith(message)


def test_a_feature_with_a_typo_is_named(tmp_path):
    config = yaml.safe_load(write_config(tmp_path / "c.yaml", tmp_path).read_text())
    config["schema"]["features"][0]["bucket"] = 10
    path = tmp_path / "d.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigurationError, match=r"did you mean 'buckets'\?"):
        Config.from_yaml(path)


def test_no_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration file at .*x\.yaml"):
        Config.from_yaml(tmp_path / "x.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [")
    with pytest.raises(ConfigurationError, match=r"broken\.yaml is not valid YAML"):
        Config.from_yaml(broken)
    broken.write_text("- data")
    with pytest.raises(ConfigurationError, match="must hold the sections"):
        Config.from_yaml(broken)


@pytest.mark.parametrize(
    "name",
    [
        *("ndcg", "ndcg@0", "ndcg@x", "ndcg@3 ", "mrr@3,4", "gauc@3", "auc", ""),
        "ranker_hit_rate@3",
    ],
)
def test_unknown_metric(name):
    with pytest.raises(ConfigurationError, match=f"no metric '{name}'"):
        make_metrics((name,))


def test_a_metric_in_the_wrong_place_is_sent_to_the_right_one():
    with pytest.raises(ConfigurationError, match=r"name it in evaluation\.metrics"):
        make_metrics(("catalog_coverage@3",))
    with pytest.raises(ConfigurationError, match="'tail_share@3' reads a column of yo"):
        make_metrics(("tail_share@3",), doc_ids=["a"])


@pytest.mark.parametrize("name", ["model", "random", "ranker", "ranker (click)"])
def test_a_baseline_is_not_called_like_another_row(name):
    with pytest.raises(ConfigurationError, match="a baseline must not be called"):
        EvaluationConfig(baselines={name: "clicks"})


def test_a_metric_is_called_as_its_form_says():
    names = ("ndcg@7", "mrr", "mrr@7", "gauc", "pauc@7", "kendall_tau", "hit_rate@7")
    names += ("in_scene_hit_rate@7", "ash@7", "weighted_recall@7")
    names += ("ranker_hit_rate@7,3", "overlap@7", "score_recall@7", "pcoc", "ece")
    names += ("normalized_entropy", "catalog_coverage@7", "popularity_gini@7")
    made = make_metrics(names, doc_ids=["a", "b"])
    assert tuple(metric.name for metric in made) == names
    assert (made[10].k, made[10].m) == (7, 3)
    # The rest read a column that only Python can name.
    by_hand = {metrics.IntentCoverage, metrics.TailShare, metrics.NeverExposedShare}
    every = {getattr(metrics, name) for name in metrics.__all__}
    assert {type(metric) for metric in made} == every - by_hand


def test_configuration_and_help_answer_without_tensorflow(tmp_path):
    bad = write_config(tmp_path / "c.yaml", tmp_path, trainig={})
    program = (
        "import sys, time; started = time.monotonic();"
        "from tfrs_prerank.cli import main;"
        f"sys.argv = ['tfrs-prerank', 'prepare', {str(bad)!r}, '--output', 'x']\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 1, stop.code\n"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "did you mean 'training'?" in result.stderr
    assert not (tmp_path / "x").exists()


def test_help_takes_less_than_a_second():
    command = Path(sys.executable).with_name("tfrs-prerank")
    times = []
    for _ in range(3):
        started = time.monotonic()
        text = subprocess.run([command, "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - started)
    assert b"prepare" in text.stdout
    # The best of three: other processes of the test run share the cores.
    assert min(times) < 1


def test_example_of_the_funnel_has_its_schema():
    config = Config.example("funnel")
    assert config.schema == funnel.schema()
    assert config.data.of_log("log").mixture == config.data.mixture
    # Hard negatives need the production order, which the simulated log does not have.
    with pytest.raises(ConfigurationError, match=r"mixture\.hard needs the production"):
        FunnelConfig(mixture=Mixture(hard=Hard()))
    with pytest.raises(ConfigurationError, match=r"^FunnelConfig: split needs shares"):
        FunnelConfig(split=(0.5, 0.1, 0.1))
    assert from_mapping(Config, to_mapping(config), "here") == config
