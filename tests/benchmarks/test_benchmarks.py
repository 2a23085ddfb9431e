"""The benchmarks run, and their ratios are those of the numbers beside them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small runs of all scripts, at the same time: what they print and write."""
    folder = tmp_path_factory.mktemp("results")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = {
        name: subprocess.Popen(
            [sys.executable, FOLDER / f"{name}.py", "--small", "--results", file],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("serving", "training", "layers")
        for file in [folder / f"{name}.jsonl"]
    }
    found = {}
    for name, process in started.items():
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        (line,) = (folder / f"{name}.jsonl").read_text().splitlines()
        found[name] = (printed, json.loads(line))
    return folder, found


def ratio(above, below):
    # All three are rounded to three digits.
    return pytest.approx(above / below, rel=0.011)


def test_serving_compares_with_the_floor_and_with_the_tower(runs):
    tables = runs[1]["serving"][1]["tables"]
    names = ["numpy floor", "export, int64 ids", "export, string ids"]
    for length in (50, 200):
        rows = [row for row in tables["latency"] if row["candidates"] == length]
        assert [row["what"] for row in rows] == [
            *names,
            "document tower online",
            "document tower online, by id",
        ]
        for row in rows:
            assert row["ms"] > 0
            assert row["times the floor"] == ratio(row["ms"], rows[0]["ms"])
            assert row["faster than online"] == ratio(rows[3]["ms"], row["ms"])
    (memory,) = tables["memory"]  # of the only export of a fresh process
    assert memory["documents"] == 500
    assert memory["matrix MiB"] == ratio(500 * 64 * 4, 2**20)
    # The process grows by more than the matrix: the peak is not that of nothing.
    assert memory["peak above, MiB"] > 1
    assert memory["times the matrix"] == ratio(
        memory["peak above, MiB"], memory["matrix MiB"]
    )


def test_the_graph_does_not_grow(runs):
    rows = runs[1]["serving"][1]["tables"]["graph"]
    assert {row["documents"] for row in rows} == {10, 500}
    assert {row["largest vocabulary"] for row in rows} == {10, 10_000}
    sizes = [row["saved_model.pb, bytes"] for row in rows]
    # TensorFlow numbers functions in a process: later ones have more digits. The ids
    # of 490 documents would be 2,000 bytes at least.
    assert max(sizes) - min(sizes) < 500
    assert min(sizes) > 10_000


def test_training_compares_data_and_optimisers(runs):
    tables = runs[1]["training"][1]["tables"]
    ratios = []  # under zero attention and under a Transformer
    for table in (tables["data"], tables["behaviours"]):
        lists, pairs = (row["pairs per second"] for row in table)
        slower = min(lists, pairs)
        for row in table:
            assert row["times the slower"] == ratio(row["pairs per second"], slower)
        ratios.append(ratio(lists, pairs))
    steps = {
        (row["optimiser"], row["rows of each table"]): row["ms a step"]
        for row in tables["optimizers"]
    }
    many, few = 20_000, 1_000
    assert set(steps) == {
        ("LazyAdam", many),
        ("Adam", many),
        ("Adagrad", many),
        ("LazyAdam", few),
    }
    lazy = steps["LazyAdam", many]
    measured = [row["measured"] for row in tables["targets"]]
    assert measured == [
        *ratios,
        ratio(steps["Adam", many], lazy),
        ratio(lazy, steps["LazyAdam", few]),
    ]


def test_layers_are_compared_with_published_forms(runs):
    tables = runs[1]["layers"][1]["tables"]
    crosses, attention = tables["crosses"], tables["attention"]
    for row in [*crosses, *attention]:
        assert row["times faster"] == ratio(row["its ms"], row["ms"])
        assert row["MiB"] >= 0 and row["its MiB"] >= 0
    assert {row["fields"] for row in crosses} == {4}
    # A row for each layer and published form; one has two of them, as has DCN v1.
    pairs = [row for row in crosses if row["layer"] == "bilinear, interaction"]
    assert [row["beside"] for row in pairs] == [
        "DeepCTR: loop over pairs",
        "loop over pairs, fields by number",
    ]
    assert pairs[0]["ms"] == pairs[1]["ms"]
    first, *others = tables["targets"]
    assert first["measured"] == pairs[1]["times faster"]
    names = {row["layer"] for row in [*crosses, *attention]}
    assert len(crosses) + len(attention) == len(names) + 2 == len(others) + 2
    slowest = min(row["times faster"] for row in pairs)
    (own,) = (row for row in others if row["what"].startswith("bilinear, interaction"))
    assert own["measured"] == slowest


@pytest.mark.parametrize("name", ["serving", "training", "layers"])
def test_runs_say_where_they_ran_and_print_what_they_write(runs, name):
    printed, line = runs[1][name]
    assert line["benchmark"] == name and line["small"] is True
    assert re.match(r"20\d\d-\d\d-\d\dT", line["date"])
    assert line["machine"]["cores"] == os.cpu_count()
    assert line["machine"]["tensorflow"].startswith("2.")
    assert 0 <= line["machine"]["taken by others"] <= os.cpu_count()
    for title, rows in line["tables"].items():
        assert f"{name}: {title}\n" in printed
        assert all(str(next(iter(row.values()))) in printed for row in rows)
    for row in line["tables"]["targets"]:
        word, limit = re.fullmatch(r"at (most|least) (.*)", row["target"]).groups()
        distance = row["measured"] - float(limit)
        if abs(distance) > 0.01 * float(limit):  # as written, it is rounded
            reached = distance < 0 if word == "most" else distance > 0
            assert row["reached"] == ("yes" if reached else "not reached")


def run_tables(*arguments):
    return subprocess.run(
        [sys.executable, FOLDER / "tables.py", *arguments],
        capture_output=True,
        text=True,
    )


def test_the_page_is_made_from_full_runs_only(runs, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- serving: graph -->\nold\n<!-- end -->\n\nend\n")
    done = run_tables("--page", page, "--results", runs[0])
    assert done.returncode != 0 and "no full run" in done.stderr
    assert "old" in page.read_text()
    line = runs[1]["serving"][1]
    line = {**line, "small": False, "tables": {"graph": [{"a": 1.5, "b": 1000}]}}
    (tmp_path / "serving.jsonl").write_text(json.dumps(line) + "\n")
    assert run_tables("--page", page, "--results", tmp_path).returncode == 0
    table = "| a   | b     |\n| --- | ----- |\n| 1.5 | 1,000 |"
    assert page.read_text() == (
        f"# A\n\n<!-- serving: graph -->\n\n{table}\n\n<!-- end -->\n\nend\n"
    )


def test_the_tables_of_the_documentation_are_those_of_the_results(tmp_path):
    page = ROOT / "docs" / "results.md"
    copy = tmp_path / "results.md"
    copy.write_text(page.read_text("utf-8"), "utf-8")
    assert run_tables("--page", copy).returncode == 0
    assert copy.read_text("utf-8") == page.read_text("utf-8")


def test_help_names_the_options():
    done = run_tables("--help")
    assert done.returncode == 0 and "--page" in done.stdout
    # Of the scripts that import TensorFlow, without waiting for that.
    code = "import measuring; measuring.parser('Speed.', 'x').parse_args(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert all(part in done.stdout for part in ("Speed.", "--small", "x.jsonl"))
