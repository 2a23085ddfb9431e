"""The benchmark of several tasks splits, trains and counts as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
TASKS = ("click", "buy")


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("multi_objective")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both data sets, made up, in the form of their files."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("census-income", "kuairand"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    census = pd.DataFrame({place: rng.integers(4, size=400) for place in range(42)})
    census[0] = rng.integers(90, size=400)
    census[7] = np.where(census[0] < 40, "Never married", "Divorced")
    census[24] = rng.normal(size=400)
    census[41] = np.where(census[1] + rng.integers(3, size=400) > 3, "50000+.", "no")
    census.to_csv(
        folder / "census-income" / "census-income.csv.gz", header=False, index=False
    )
    users = pd.DataFrame({"user_id": range(30)})
    for name in ("follow", "fans", "friend"):
        users[f"{name}_user_num"] = rng.integers(999, size=30)
    users["register_days"] = rng.integers(999, size=30)
    users["onehot_feat0"] = np.where(users["user_id"] % 3, users["user_id"] % 2, np.nan)
    users.to_csv(folder / "kuairand" / "user_features_pure.csv.gz", index=False)
    events = pd.DataFrame(
        {
            "user_id": rng.integers(30, size=400),
            "video_id": rng.integers(50, size=400),
            "hourmin": 100 * rng.integers(24, size=400),
            "time_ms": rng.permutation(400),
            "play_time_ms": rng.integers(999, size=400),
            **{
                n: rng.integers(2, size=400) for n in ("is_click", "long_view", "label")
            },
        }
    )
    events.to_csv(
        folder / "kuairand" / "kuairand27k_like_hate_kcore15.tsv.gz",
        sep="\t",
        index=False,
    )
    return folder


def test_parts_are_80_10_and_10_percent_in_the_given_order(script):
    fields = pd.DataFrame({"a": list("xxyyxxyyzz"), "b": range(10)})
    labels = {"click": pd.Series([1, 0] * 5)}
    order = np.array([9, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    data = script.encoded(fields, labels, order)
    # a: z, x, y in the order of training, after one place for all others. b: eight
    # values of training, and 7 and 8 are not of them.
    assert data.train.rows[:, 0].tolist() == [1, 2, 2, 3, 3, 2, 2, 3]
    assert data.train.rows[:, 1].tolist() == list(range(5, 13))
    assert data.choosing.rows.tolist() == [[3, 4]]
    assert data.reported.rows.tolist() == [[1, 4]]
    assert data.table == (1 + 3) + (1 + 8)
    assert data.train.labels["click"].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert data.reported.labels["click"].tolist() == [1]


def test_numbers_become_buckets_of_as_many_training_rows(script):
    values = np.random.default_rng(0).permutation(1000)
    fields = pd.DataFrame({"age": np.r_[values[:800], np.full(200, 10**6)]})
    labels = {"click": pd.Series(np.zeros(1000))}
    data = script.encoded(fields, labels, np.arange(1000), numbers=["age"])
    places, counts = np.unique(data.train.rows, return_counts=True)
    assert (len(places), data.table) == (32, 33)
    assert counts.min() >= 24 and counts.max() <= 26  # 800 / 32
    # Above all of training is the last bucket.
    assert (data.reported.rows == data.train.rows[values[:800].argmax()]).all()


def test_census_fields_hold_neither_labels_nor_weights(script, files):
    folder = files / "census-income"
    data = script.read_census(folder)
    parts = (data.train, data.choosing, data.reported)
    assert [part.rows.shape for part in parts] == [(320, 39), (40, 39), (40, 39)]
    frame = pd.read_csv(folder / "census-income.csv.gz", header=None)
    labels = {
        task: np.concatenate([part.labels[task] for part in parts])
        for task in ("income", "never_married")
    }
    assert labels["income"].sum() == (frame[41] == "50000+.").sum()
    assert labels["never_married"].sum() == (frame[7] == "Never married").sum()
    # Every part is a sample: the ages that decide are in each.
    assert all(0 < part.labels["never_married"].mean() < 1 for part in parts)


def test_kuairand_is_split_by_time_and_reads_no_outcome(script, files):
    folder = files / "kuairand"
    data = script.read_kuairand(folder)
    frame = pd.read_csv(folder / "kuairand27k_like_hate_kcore15.tsv.gz", sep="\t")
    frame = frame.sort_values("time_ms")
    parts = (data.train, data.choosing, data.reported)
    for task, column in (("click", "is_click"), ("like", "label")):
        found = np.concatenate([part.labels[task] for part in parts])
        np.testing.assert_array_equal(found, frame[column])
    # user, video, one feature of the user, the hour; a missing feature is a value.
    assert data.train.rows.shape == (320, 4)
    assert len(np.unique(data.train.rows[:, 2])) == 3


@pytest.mark.parametrize("source", ["census-income", "kuairand"])
def test_missing_data_are_named(script, tmp_path, source):
    with pytest.raises(FileNotFoundError, match=r"Set TFRS_PRERANK_DATA.*" + source):
        script.READERS[source](tmp_path / source)


def test_models_have_the_same_hidden_units(script):
    inputs, embeddings = 5 * 8, 100 * 8
    towers = {256: 2 * (256 * 16 + 16 + 16 + 1), 32: 2 * (32 * 16 + 16 + 16 + 1)}
    level = 256 * inputs + 256 + 2 * inputs * (2 + 4) + inputs * 8
    last = 256 * 32 + 256 + 2 * 32 * (2 + 4)
    expected = {
        "shared bottom": 256 * inputs + 256 + towers[256],
        "MMoE": 256 * inputs + 256 + 2 * 8 * inputs + towers[32],
        "PLE": level + last + towers[32],
    }
    for name, count in expected.items():
        model = script.make(name, TASKS, 5, 100)
        assert model.count_params() - embeddings == count, name
        assert list(model.output) == list(TASKS)


def test_the_loss_is_the_sum_of_the_tasks(script):
    tf.keras.utils.set_random_seed(0)
    model = script.make("MMoE", TASKS, 5, 100)
    rng = np.random.default_rng(0)
    part = script.Part(
        rng.integers(100, size=[64, 5]).astype(np.int32),
        {task: rng.integers(2, size=64).astype(np.float32) for task in TASKS},
    )
    total = sum(
        np.mean(np.logaddexp(0, logits) - part.labels[task] * logits)
        for task, logits in script.logits_of(model, part).items()
    )
    found = model.evaluate(part.rows, part.labels, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(total, rel=1e-5)


def test_the_best_epoch_stays(script, files, monkeypatch):
    monkeypatch.setattr(script, "_BATCH", 64)
    data = script.read_census(files / "census-income")
    tf.keras.utils.set_random_seed(0)
    model = script.make("PLE", data.tasks, 39, data.table)
    found, weights = [], []
    plain = script.aucs

    def aucs(*args):
        found.append(plain(*args))
        weights.append(model.get_weights())
        return found[-1]

    monkeypatch.setattr(script, "aucs", aucs)
    epoch = script.train(model, data, 0, 12)
    means = [np.mean(list(values.values())) for values in found]
    assert epoch == 1 + int(np.argmax(means))
    assert len(means) == min(12, epoch + 2)
    for kept, now in zip(weights[epoch - 1], model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)
    # The age tells who never married: it is learnt.
    assert plain(model, data.reported)["never_married"] > 0.9


def test_means_and_deviations_are_of_the_seeds(script):
    def run(click, buy):
        return {
            "auc": {"click": click, "buy": buy},
            "sampling error": {"click": 0.01, "buy": 0.03},
            "weights beside embeddings": 7,
            "seconds": 3.0,
        }

    rows = script.table({"MMoE": [run(0.6, 0.7), run(0.8, 0.7)]}, TASKS)
    assert rows[0] == {
        "model": "MMoE",
        "click": 0.7,
        "click: deviation": 0.1414,
        "buy": 0.7,
        "buy: deviation": 0.0,
        "weights beside embeddings": 7,
        "seconds": 3,
    }
    assert (rows[1]["click"], rows[1]["buy"]) == (0.01, 0.03)


@pytest.mark.slow  # trains nine models
def test_a_small_run_goes_on_after_the_last_line(files, tmp_path):
    command = [sys.executable, FOLDER / "multi_objective.py", "--small"]
    command += ["--results", tmp_path / "results.jsonl"]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TFRS_PRERANK_DATA": str(files),
    }
    for trained in (True, False):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("kuairand: PLE, seed 0" in done.stderr) is trained
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["tables"] for line in lines)
    assert first == second
    assert list(first) == ["census_income", "kuairand"]
    models = ["single-task", "shared bottom", "MMoE", "PLE", "sampling error of an AUC"]
    assert [row["model"] for row in first["kuairand"]] == models
    runs = (tmp_path / "results_runs.jsonl").read_text().splitlines()
    assert len(runs) == 8
    # A single-task run is one model for each task.
    assert [len(json.loads(run)["epochs"]) for run in runs[:2]] == [2, 1]
