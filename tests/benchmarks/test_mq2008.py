"""The benchmark of learning to rank reads, trains, chooses and counts as it says."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("mq2008")


@pytest.fixture(scope="module")
def letor(script_named):
    """The reader as a module."""
    return script_named("letor")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data made up in the form of their files: the sum of two features tells grades."""
    folder = tmp_path_factory.mktemp("data") / "mq2008"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in ("S1", "S2", "S3", "S4"):
        lines = []
        for query in range(40):
            for _ in range(rng.integers(5, 15)):
                values = rng.random(46)
                grade = 0 if query == 7 else int((values[3] + values[8]) * 1.49)
                pairs = " ".join(f"{i}:{v:.6f}" for i, v in enumerate(values, 1))
                lines.append(f"{grade} qid:{part}{query} {pairs} #docid = GX{query}")
        write(folder / f"{part}.txt.gz", lines)
    return folder.parent


@pytest.fixture(scope="module")
def data(script, files):
    """The queries of the made-up files."""
    return script.load(files / "mq2008")


def write(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def queries(letor, features, grades):
    """Queries of one feature: lists of values and grades, None where a list ends."""
    grades = np.array(grades, np.float32)
    return letor.Queries(np.array(features, np.float32)[..., np.newaxis], grades, 0)


# The reader -------------------------------------------------------------------------


def test_lists_are_padded_and_queries_without_a_relevant_document_left_out(
    letor, tmp_path
):
    first = write(
        tmp_path / "a.gz",
        ["0 qid:7 1:.5 3:2 # a comment", "2 qid:7 2:-1", "0 qid:8 1:9", "0 qid:8 1:8"],
    )
    second = write(tmp_path / "b.gz", ["1 qid:10 1:1 2:2 3:3"])
    read = letor.read([first, second], 3)
    assert read.left_out == 1  # query 8
    nan = np.nan
    np.testing.assert_array_equal(read.grades, [[0, 2], [1, nan]])
    # A feature that is not there is 0, and so is what a list has not.
    np.testing.assert_array_equal(
        read.features, [[[0.5, 0, 2], [0, -1, 0]], [[1, 2, 3], [0, 0, 0]]]
    )
    assert read.sizes.tolist() == [2, 1]
    features, grades = read.rows
    np.testing.assert_array_equal(features, [[0.5, 0, 2], [0, -1, 0], [1, 2, 3]])
    np.testing.assert_array_equal(grades, [0, 2, 1])


@pytest.mark.parametrize(
    "line", ["1 7 1:1", "1 qid:7 4:1", "1 qid:7 0:1", "1 qid:7 1:x", "x qid:7 1:1", ""]
)
def test_a_line_of_another_form_is_named(letor, tmp_path, line):
    path = write(tmp_path / "a.gz", ["1 qid:6 1:1", line])
    with pytest.raises(ValueError, match=r"a\.gz, line 2: must be .* from 1 to 3"):
        letor.read([path], 3)


def test_a_scattered_query_and_files_without_a_relevant_document_are_refused(
    letor, tmp_path
):
    lines = ["1 qid:6 1:1", "1 qid:7 1:1"]
    path = write(tmp_path / "a.gz", [*lines, lines[0]])
    with pytest.raises(ValueError, match="'6' do not follow each other"):
        letor.read([path], 3)
    with pytest.raises(ValueError, match="do not follow each other"):
        letor.read([write(tmp_path / "b.gz", lines)] * 2, 3)
    path = write(tmp_path / "c.gz", ["0 qid:6 1:1"])
    with pytest.raises(ValueError, match=r"no query has a grade above 0 in .*c\.gz"):
        letor.read([path], 3)


def test_s1_and_s2_train_s3_chooses_and_s4_is_reported(script, data, files):
    assert [len(part.grades) for part in (data.train, data.choosing)] == [78, 39]
    assert (data.train.left_out, data.reported.left_out) == (2, 1)
    with gzip.open(files / "mq2008" / "S4.txt.gz", "rt") as file:
        s4 = file.readline().split()
    np.testing.assert_allclose(
        data.reported.features[0, 0], [float(v.split(":")[1]) for v in s4[2:48]]
    )
    with pytest.raises(FileNotFoundError, match=r"S1\.txt\.gz.*TFRS_PRERANK_DATA"):
        script.load(files / "elsewhere")


# The measure ------------------------------------------------------------------------


def test_ndcg_is_the_mean_over_queries_with_its_error(script, letor):
    nan = np.nan
    own = queries(letor, [[0, 0, 0], [0, 0, 0]], [[2, 0, 1], [1, 0, nan]])
    # 2 before 1 before 0 is the best order; then 0 before 1, and no third document.
    value, error = script.ndcg(own, np.array([[3, 1, 2], [1, 2, 9.0]]))
    second = 1 / math.log2(3)
    assert value == pytest.approx((1 + second) / 2)
    # Two values: their deviation is their distance / sqrt(2), the error that / sqrt(2).
    assert error == pytest.approx((1 - second) / 2)
    with pytest.raises(ValueError, match="the training diverged"):
        script.ndcg(own, np.array([[3, 1, nan], [1, 2, 9.0]]))


# The MLP ----------------------------------------------------------------------------


def test_features_are_standardised_over_a_query_or_over_training(script, letor):
    nan = np.nan
    train = queries(letor, [[0, 4, 0], [7, 7, 7]], [[1, 0, nan], [1, 0, 0]])
    other = queries(letor, [[5, 5, 11]], [[0, 0, 2]])
    data = script.Data(train, other, other)
    found = script.standardised(data, "query")
    # 0 and 4: mean 2, deviation 2. Three times 7: constant. 5, 5, 11: mean 7, deviation
    # sqrt((4 + 4 + 16) / 3).
    expected = [[-1, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(found.train.features[..., 0], expected)
    expected = np.array([[-2, -2, 4]]) / math.sqrt(8)
    np.testing.assert_allclose(found.reported.features[..., 0], expected, rtol=1e-6)
    found = script.standardised(data, "all")
    # 0, 4, 7, 7, 7: mean 5, deviation sqrt((25 + 1 + 3 * 4) / 5).
    deviation = math.sqrt(38 / 5)
    expected = np.array([[-5, -1, 0], [2, 2, 2]]) / deviation
    np.testing.assert_allclose(found.train.features[..., 0], expected, rtol=1e-6)
    expected = np.array([[0, 0, 6]]) / deviation
    np.testing.assert_allclose(found.choosing.features[..., 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.choosing.grades, other.grades)


def test_draws_are_of_what_is_declared(script):
    drawn = [script.drawn_setting(draw) for draw in range(20)]
    assert drawn == [script.drawn_setting(draw) for draw in range(20)]
    for name, values in script.SETTINGS.items():
        # Every value comes at least once.
        assert {getattr(setting, name) for setting in drawn} == set(values), name


def test_parameters_lie_between_their_ends(script):
    drawn = [script.drawn_parameters(draw) for draw in range(20)]
    assert drawn[3] == script.drawn_parameters(3)
    for name, (low, high, is_log) in script.PARAMETERS.items():
        values = np.array([parameters[name] for parameters in drawn])
        assert low <= values.min() < values.max() <= high, name
        middle = math.sqrt(low * high) if is_log else (low + high) / 2
        assert 4 <= (values < middle).sum() <= 16, name
        assert np.issubdtype(values.dtype, np.integer) == isinstance(low, int), name


def test_a_document_is_scored_by_itself(script):
    setting = script.Setting("query", (8, 4), "tanh", 0.5, 1e-3)
    model = script.make("ranknet", setting)
    assert model.count_params() == 46 * 8 + 8 + 8 * 4 + 4 + 4 + 1
    features = np.random.default_rng(0).normal(size=[2, 5, 46]).astype(np.float32)
    scores = model.predict_on_batch(features)
    assert scores.shape == (2, 5)
    np.testing.assert_allclose(
        model.predict_on_batch(features[:, 3:4])[:, 0], scores[:, 3], rtol=1e-5
    )


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "list_mle"])
def test_each_epoch_has_every_list_once_and_pointwise_half_the_grade(
    script, data, monkeypatch, loss
):
    seen = []
    monkeypatch.setattr(
        tf.keras.Model, "train_on_batch", lambda self, x, y: seen.append((x, y))
    )
    monkeypatch.setattr(script, "_BATCH", 39)
    script.fit(loss, script.drawn_setting(0), data, seed=0, epochs=2)
    assert [len(labels) for _, labels in seen] == [39] * 4  # 78 lists, twice
    whole = data.train.grades / (2 if loss == "sigmoid_cross_entropy" else 1)
    first = [list(f[:, 0, 0]) for f in (data.train.features, seen[0][0], seen[1][0])]
    assert sorted(first[1] + first[2]) == sorted(first[0])
    places = [first[0].index(value) for value in first[1]]
    np.testing.assert_array_equal(seen[0][1], whole[places])
    assert not np.array_equal(seen[0][1], seen[2][1], equal_nan=True)  # another order


def test_the_best_epoch_stays_and_the_test_part_is_not_read(script, data, monkeypatch):
    monkeypatch.setattr(script, "_PATIENCE", 2)
    reached, weights = [0.1, 0.5, 0.3, 0.4, 0.9], []
    plain = script.scores_of

    def scores_of(model, queries):
        assert queries is data.choosing
        weights.append(model.get_weights())
        return plain(model, queries)

    monkeypatch.setattr(script, "scores_of", scores_of)
    monkeypatch.setattr(script, "ndcg", lambda *args: (reached[len(weights) - 1], 0.0))
    unread = dataclasses.replace(data, reported=None)
    fitted = script.fit("ranknet", script.drawn_setting(0), unread, seed=0, epochs=9)
    # Two epochs after the second there was none better.
    assert (len(weights), fitted.epoch, fitted.validation) == (4, 2, 0.5)
    for best, kept in zip(weights[1], fitted.model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, best)
    assert not np.array_equal(weights[1][0], weights[3][0])


def test_the_mlp_learns(script, data):
    own = script.standardised(data, "all")
    setting = script.Setting("all", (16,), "relu", 0.0, 3e-2)
    fitted = script.fit("lambdarank", setting, own, seed=0, epochs=15)
    value, _ = script.ndcg(own.reported, script.scores_of(fitted.model, own.reported))
    assert value > 0.9


def test_a_setting_is_judged_by_the_mean_of_three_losses(script, data, monkeypatch):
    reached = dict(zip(script.SCREENED, (0.2, 0.4, 0.9), strict=True))

    def fit(loss, setting, own, seed, epochs):
        assert (setting, seed, epochs) == (script.drawn_setting(3), 0, 9)
        assert own.train.features.mean() == pytest.approx(0, abs=1e-3)
        return script.Fitted(None, 1, reached[loss])

    monkeypatch.setattr(script, "fit", fit)
    found = script.screen(data, 9, 3)
    assert found.pop("validation") == pytest.approx(0.5)
    assert script.Setting(**found) == script.drawn_setting(3)


def test_a_run_is_measured_on_the_test_part(script, data, monkeypatch):
    class Known:
        def predict_on_batch(self, features):
            return features[..., 3]

    monkeypatch.setattr(script, "fit", lambda *args: script.Fitted(Known(), 5, 0.25))
    setting = script.Setting("all", (8,), "relu", 0.0, 1e-3)
    found = script.measure("ranknet", setting, data, 9, 1)
    own = script.standardised(data, "all").reported
    expected = script.ndcg(own, Known().predict_on_batch(own.features))
    assert (found["test"], found["sampling error"]) == expected
    assert expected != script.ndcg(data.choosing, data.choosing.features[..., 3])
    assert (found["validation"], found["rounds"]) == (0.25, 5)


# LightGBM ---------------------------------------------------------------------------


def test_trees_score_the_documents_in_their_places(script, data):
    run = script.measure_trees(data, 200, 0)
    assert run["parameters"] == script.drawn_parameters(0)
    assert 1 <= run["rounds"] <= 200
    assert min(run["validation"], run["test"]) > 0.85
    again = script.measure_trees(data, 200, 0)
    assert again["test"] == run["test"]


# Tables -----------------------------------------------------------------------------


def run(validation, test):
    return {
        "validation": validation,
        "test": test,
        "rounds": 4,
        "sampling error": test / 10,
        "seconds": 2.0,
    }


def test_means_and_deviations_are_of_the_runs(script):
    fitted = {
        "ranknet": [run(0.5, 0.7)] * 2,
        "list_mle": [run(0.6, 0.5), run(0.8, 0.7)],
    }
    forests = [run(0.9, 0.4), run(0.7, 0.6)]
    rows = script.ndcg_table(fitted, forests)
    # The test's order would be the other one.
    assert [row["what"].split(", ")[1] for row in rows[:4]] == [
        "2 draws",
        "the best draw on S3",
        "list_mle",
        "ranknet",
    ]
    assert rows[2] == {
        "what": "MLP, list_mle",
        "validation NDCG@10": 0.7,
        "test NDCG@10": 0.6,
        "deviation": 0.1414,  # 0.2 / sqrt(2)
        "epochs or trees": 4,
        "seconds": 2.0,
    }
    assert (rows[1]["test NDCG@10"], rows[1]["deviation"]) == (0.4, "one run")
    # .07 twice, .05, .07, .04 and .06.
    assert rows[4]["test NDCG@10"] == 0.06


def test_the_loss_is_chosen_in_validation_and_compared_in_the_test(script):
    forests = [run(0.9, 0.4), run(0.7, 0.6)]  # mean .5, deviation .1414
    fitted = {"ranknet": [run(0.5, 0.9)], "list_mle": [run(0.6, 0.36)]}
    assert script.target_table(fitted, forests) == [
        {
            "what": "MLP, list_mle: test NDCG@10",
            "measured": 0.36,
            "target": "at least 0.3586",
            "reached": "yes",
        }
    ]
    fitted["list_mle"] = [run(0.6, 0.35)]
    assert script.target_table(fitted, forests)[0]["reached"] == "not reached"


def test_queries_are_counted(script, data):
    rows = script.queries_table(data)
    assert [row["queries"] for row in rows] == [78, 39, 39]
    assert [row["queries left out"] for row in rows] == [2, 1, 1]
    assert rows[0]["their documents"] == len(data.train.rows[1])


def test_settings_are_listed_with_the_best_first(script):
    worse, better = (
        {
            "standardised": "all",
            "units": [64, 32],
            "activation": "relu",
            "dropout": 0.2,
            "rate": 1e-3,
            "validation": value,
            "seed": seed,
        }
        for seed, value in enumerate((0.5, 0.7))
    )
    assert script.best_of([worse, better]) is better
    rows = script.settings_table([worse, better])
    assert [row["validation NDCG@10"] for row in rows] == [0.7, 0.5]
    assert rows[0]["units"] == "64 x 32"


def test_the_digest_follows_setting_and_data(script, data):
    code = script.digest(data, 1)
    assert code == script.digest(data, 1)
    assert code != script.digest(data, 2)
    assert code != script.digest(script.Data(data.train, data.train, data.train), 1)


@pytest.mark.slow  # trains sixteen models
def test_a_small_run_goes_on_after_the_last_line(script, files, tmp_path):
    command = [sys.executable, FOLDER / "mq2008.py", "--small"]
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
        assert ("list_mle, seed 1" in done.stderr) is trained
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["tables"] for line in lines)
    assert first == second
    assert list(first) == ["queries", "settings", "ndcg", "targets"]
    assert len(first["ndcg"]) == 2 + len(script.LOSSES) + 1
    runs = (tmp_path / "results_runs.jsonl").read_text().splitlines()
    assert len(runs) == 2 + len(script.LOSSES) + 2
