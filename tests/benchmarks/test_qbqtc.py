"""The benchmark of Chinese search text reads, trains and counts as it says."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfrs_prerank.models.columns import columns_of, match_columns

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CHARACTERS = "红连衣裙海三江汇流天地人山水木火土金"


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("qbqtc")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data made up in the form of their files: a title's grade is what it shares."""
    folder = tmp_path_factory.mktemp("data") / "qbqtc"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, queries in (("train", 50), ("dev", 5)):
        with gzip.open(folder / f"{name}.json.gz", "wt", encoding="utf-8") as file:
            for number in range(queries):
                query = "".join(random.choice(list(CHARACTERS), 4, replace=False))
                for grade in (0, 2, 1, 0, *random.integers(0, 3, number % 3)):
                    shared = query[: 2 * grade]
                    rest = "".join(random.choice(list("甲乙丙丁戊己庚辛"), 5))
                    row = {"query": query, "title": shared + rest}
                    row |= {"id": 1, "relevant": str(grade)}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder.parent


@pytest.fixture(scope="module")
def queries(script, files):
    """The queries of the made-up files."""
    return script.load(files / "qbqtc")


def test_queries_of_both_files_are_read_with_their_titles(script, queries, files):
    with gzip.open(files / "qbqtc" / "train.json.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert queries.texts[0] == rows[0]["query"]
    assert queries.titles[0].tolist() == [row["title"] for row in rows[:4]] + ["", ""]
    np.testing.assert_array_equal(queries.grades[0], [0, 2, 1, 0, np.nan, np.nan])
    assert queries.ids[0].tolist() == [0, 1, 2, 3, -1, -1]
    assert queries.ids[1, 0] == 6
    assert len(queries.texts) == 55
    assert len(script.load(files / "qbqtc", 7).texts) == 7
    with pytest.raises(FileNotFoundError, match=r"train\.json\.gz.*TFRS_PRERANK_DATA"):
        script.load(files / "elsewhere")


def test_a_query_of_both_files_is_one(script, tmp_path):
    for name, grade in (("train", 0), ("dev", 1)):
        row = {"query": "红", "title": f"红{grade}", "relevant": str(grade)}
        with gzip.open(tmp_path / f"{name}.json.gz", "wt", encoding="utf-8") as file:
            file.write(json.dumps(row))
    read = script.load(tmp_path)
    assert read.titles.tolist() == [["红0", "红1"]]
    assert script.queries_table(read) == [
        {"queries": 1, "titles": 2, "of grade 0": 1, "of grade 1": 1, "of grade 2": 0}
    ]


def test_ndcg_is_of_single_queries(script):
    grades = np.array([[1, 0, 2], [0, 1, np.nan]], np.float32)
    own = script.Queries(np.array(["a", "b"]), np.full([2, 3], "t"), grades)
    found = script.ndcg(own, np.array([1, 0]), np.array([[2, 1, 9.0], [3, 1, 2]]))
    second, third = 1 / math.log2(3), 0.5
    assert third * 2 == 1
    # Grades 1, 2, 0 in this order; gains 1 and 3.
    np.testing.assert_allclose(found, [second, (1 + 3 * second) / (3 + second)])


def test_bm25_in_the_graph_is_that_of_the_inverted_index(script, queries, tmp_path):
    model = script.make_model(
        script.THREE, "lambdarank", queries, np.arange(40), tmp_path
    )
    network = model.network
    batch = script.batch_of(queries, np.arange(55), model.schema)
    own = [columns_of(model.schema, batch, owner) for owner in ("query", "doc")]
    matches = match_columns(network.matches, batch, *own)
    for match, title in (("bm25", "title"), ("bm25_runs", "title_runs")):
        expected = script.bm25_scores(queries, model.schema[title])
        assert (expected > 0).any()
        np.testing.assert_allclose(matches[match], expected, rtol=1e-5)


def test_words_are_of_training_and_every_tower_reads_its_own(script, queries, tmp_path):
    few, many = (
        script.make_model(
            script.THREE, "lambdarank", queries, np.arange(n), tmp_path / str(n)
        )
        for n in (3, 50)
    )
    rows = [
        model.network.tables["title"].table.embeddings.shape[0] for model in (few, many)
    ]
    assert rows[0] < rows[1]
    batch = script.batch_of(queries, np.arange(4), few.schema)
    titles = [[title.decode() for title in row] for row in batch["title"].numpy()]
    assert titles == queries.titles[:4].tolist()
    two = script.make_model(
        script.TWO, "lambdarank", queries, np.arange(3), tmp_path / "two"
    )
    assert set(two.schema.columns()) == {"query", "title"}
    assert two.network.cross_tower is None


@pytest.mark.slow  # trains two models
def test_training_reads_neither_queries_nor_grades_of_the_test(
    script, script_named, queries
):
    (fold, *_) = script_named("text_search").folds(55, 5, seed=0)
    unread = [np.array(a) for a in (queries.texts, queries.titles, queries.grades)]
    unread[0][fold.test] = "?"
    unread[2][fold.test] = np.where(queries.real[fold.test], 2.0, np.nan)
    found = []
    for own in (queries, script.Queries(*unread)):
        _, run = script.train(
            script.THREE, "lambdarank", own, fold, 2, 3, fold.validation
        )
        found.append(run["validation"])
    assert found[0] == found[1]
    assert found[0] > 0.7


def test_rows_that_are_not_trained(script, queries):
    values = script.fixed_rows(queries)
    assert {name: own.shape for name, own in values.items()} == {
        script.RANDOM: (1, 55),
        script.BM25: (1, 55),
        script.BM25_WORDS: (1, 55),
    }
    # All titles that share something are told from those that do not.
    assert values[script.BM25].mean() > 0.95 > values[script.RANDOM].mean() > 0.4


def test_means_are_of_queries_and_deviations_of_seeds(script):
    values = {
        "fixed": np.array([[0.2, 0.4]]),
        "model": np.array([[0.3, 0.5], [0.5, 0.9]]),
    }
    runs = {"model": [{"epoch": 2, "seconds": 4.0}, {"epoch": 3, "seconds": 5.0}]}
    assert script.ndcg_table(values, runs) == [
        {
            "what": "model",
            "ndcg@10": 0.55,
            "deviation over seeds": 0.2121,  # of .4 and .7: .3 / sqrt(2)
            "sampling error": 0.15,  # of .4 and .7: .2121 / sqrt(2)
            "epoch": 2.5,
            "seconds of a run": 4.5,
        },
        {
            "what": "fixed",
            "ndcg@10": 0.3,
            "deviation over seeds": "-",
            "sampling error": 0.1,
            "epoch": "-",
            "seconds of a run": "-",
        },
    ]


def test_losses_are_listed_with_the_share_that_chose_them(script):
    first, second = script.LOSSES
    runs = [{"loss": loss} for loss in (first, second, first, first)]
    assert script.losses_table(runs) == [
        {"loss": first, "share of the folds": 0.75},
        {"loss": second, "share of the folds": 0.25},
    ]


@pytest.mark.slow  # trains six models
def test_a_small_run_goes_on_after_the_last_line(script, files, tmp_path):
    command = [sys.executable, FOLDER / "qbqtc.py", "--small"]
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
        assert (f"{script.THREE}, lambdarank, seed 1" in done.stderr) is trained
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["tables"] for line in lines)
    assert first == second
    assert list(first) == ["queries", "ndcg", "losses", "differences"]
    assert len(first["ndcg"]) == 5
    runs = (tmp_path / "results_runs.jsonl").read_text().splitlines()
    assert len(runs) == 2 + 4
