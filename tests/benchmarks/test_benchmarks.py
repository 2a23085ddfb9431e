"""The benchmarks run, and their ratios are those of the numbers beside them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def run_of(script_named, tmp_path_factory):
    """Returns a function from a script's name to what a small run prints and writes."""
    folder = tmp_path_factory.mktemp("results")

    @functools.cache
    def run(name):
        file = folder / f"{name}.jsonl"
        with pytest.MonkeyPatch.context() as patch, io.StringIO() as printed:
            patch.setattr("sys.argv", [name, "--small", "--results", str(file)])
            patch.chdir(folder)
            with contextlib.redirect_stdout(printed):
                script_named(name).main()
            (line,) = file.read_text().splitlines()
            return printed.getvalue(), json.loads(line)

    return run


# A small run takes half a minute, but that of the losses.
SCRIPTS = [
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("serving", "training", "layers")
    ),
    "losses",
]


MIB = ("MiB", "its MiB")


def ratio(above, below):
    # All three are rounded to three digits.
    return pytest.approx(above / below, rel=0.011)


@pytest.mark.slow
def test_serving_compares_with_the_floor_and_with_the_tower(run_of):
    tables = run_of("serving")[1]["tables"]
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


@pytest.mark.slow
def test_the_graph_does_not_grow(run_of):
    rows = run_of("serving")[1]["tables"]["graph"]
    assert {row["documents"] for row in rows} == {10, 500}
    assert {row["largest vocabulary"] for row in rows} == {10, 10_000}
    sizes = [row["saved_model.pb, bytes"] for row in rows]
    # TensorFlow numbers functions in a process: later ones have more digits. The ids
    # of 490 documents would be 2,000 bytes at least.
    assert max(sizes) - min(sizes) < 500
    assert min(sizes) > 10_000


@pytest.mark.slow
def test_training_compares_data_and_optimisers(run_of):
    tables = run_of("training")[1]["tables"]
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


# What a layer returns for one example of 4 fields, or behaviours, of 8 numbers.
OUTPUTS = {
    "SENet, ReLU twice": 4 * 8,
    "SENetPlus": 4 * 8,
    "LightSE": 4 * 8,
    "FeatureAttention, 2 heads": 4 * 8,
    "Hadamard product": 6 * 8,  # 6 pairs
    "bilinear, all": 6 * 8,
    "bilinear, each": 6 * 8,
    "bilinear, interaction": 6 * 8,
    "inner product": 6,
    "bilinear inner, all": 6,
    "bilinear inner, interaction": 6,
    "bilinear inner, interaction, diagonal": 6,
    "FiBiNet, all": 2 * 6 * 8,
    "FiBiNet, plus": 50,
    "CIN, 64 and 64 maps": 64 + 64,
    "CIN, ReLU, halves": 32 + 64,
    "CIN, rank 2": 64 + 64,
    "DCN v1, 3 layers": 4 * 8,
    "DCN v2, 3 layers": 4 * 8,
    "DCN v2, rank 8": 4 * 8,
    "DCN v2, 4 experts of rank 8": 4 * 8,
    "DotProductAttention": 8,
    "ZeroAttention": 8,
    "AdditiveAttention": 8,
    "TargetAttention, ReLU": 8,
    "BehaviorTransformer, 2 heads": 4 * 8,
    "Dice, training": 4 * 8,
}


@pytest.mark.slow
def test_layers_are_compared_with_published_forms(run_of):
    tables = run_of("layers")[1]["tables"]
    crosses, attention = tables["crosses"], tables["attention"]
    rows = [*crosses, *attention]
    assert {row["layer"] for row in rows} == set(OUTPUTS)
    assert {row["fields"] for row in crosses} == {4}
    assert {row["behaviours"] for row in attention} == {4}
    counted = {isinstance(row[name], float) for row in rows for name in MIB}
    assert len(counted) == 1  # the allocator counts always or never
    for row in rows:
        assert row["times faster"] == ratio(row["its ms"], row["ms"])
        # 2,048 examples of float32: the gradient of 4 * 8 numbers, and the output.
        # Tensors of less than 256 KiB, 32 numbers an example, are not counted.
        output = OUTPUTS[row["layer"]]
        least = 2048 * 4 * (4 * 8 + (output if output >= 32 else 0)) / 2**20
        for name in MIB:
            # Rounded to three digits.
            assert row[name] == "not counted" or row[name] >= 0.995 * least, row
    # A row for each layer and published form; one layer has two, as has DCN v1.
    assert len(rows) == len(OUTPUTS) + 2
    forms = {}
    for row in rows:
        forms.setdefault(row["layer"], {})[row["beside"]] = row["times faster"]
    loops = forms["bilinear, interaction"]
    deepctr = loops["DeepCTR: loop over pairs, fields split"]
    by_number = loops["loop over pairs, fields by number"]
    first, second, *others = tables["targets"]
    start = "bilinear, interaction, 4 fields: times faster than the loop over pairs, "
    columns = ("what", "measured", "target")
    assert [[row[name] for name in columns] for row in (first, second)] == [
        [start + "fields by number", by_number, "at least 3"],
        [start + "fields split (DeepCTR)", deepctr, "at least 0.9"],
    ]
    slowest = {row["what"]: row["measured"] for row in others}
    assert slowest == {
        f"{layer}: times faster, at least": min(ratios.values())
        for layer, ratios in forms.items()
    }


@pytest.fixture(scope="module")
def layers(script_named):
    """The script as a module."""
    return script_named("layers")


def step(layers, call, *weights):
    """What a step returns for one input, `[[1, 2]]`."""
    form = layers.Form(call, list(weights))
    return layers.step_of(form, [tf.constant([[1.0, 2.0]])])()


def test_forms_with_other_outputs_or_gradients_are_refused(layers):
    kernel = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
    turned = tf.Variable([[1.0, 3.0], [2.0, 4.0]])
    want = step(layers, lambda x: tf.matmul(x, kernel), kernel)

    def check(call, weight, arrange=list):
        layers.check_same(want, step(layers, call, weight), arrange)

    # The gradient of the transposed kernel is that of the kernel, transposed.
    def transposed(x):
        return tf.matmul(x, turned, transpose_b=True)

    check(transposed, turned, lambda arrays: [array.T for array in arrays])
    with pytest.raises(AssertionError):
        check(transposed, turned)
    with pytest.raises(AssertionError):
        check(lambda x: 1.01 * tf.matmul(x, kernel), kernel)
    # The same output, [1 + 6, 2 + 8], with half the gradient of the kernel and with
    # none of the input.
    still = tf.stop_gradient
    with pytest.raises(AssertionError):
        check(lambda x: tf.matmul(x, (kernel + still(kernel)) / 2), kernel)
    with pytest.raises(AssertionError):
        check(lambda x: tf.matmul(still(x) + 0 * x, kernel), kernel)


def test_weights_without_a_gradient_are_refused(layers):
    kernel = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="kernel")
    unused = tf.Variable(1.0, name="unused")
    with pytest.raises(ValueError, match="does not depend on unused"):
        step(layers, lambda x: tf.matmul(x, kernel), kernel, unused)


def test_memory_is_the_median_of_steps(script_named, monkeypatch):
    found = iter(
        {"current": 2**20, "peak": (1 + mib) * 2**20}
        for mib in (5, 1, 1, 1, 4, 2, 3)  # their median is 2
        for _ in ("before", "after")
    )
    memory = tf.config.experimental
    monkeypatch.setattr(memory, "reset_memory_stats", lambda device: None)
    monkeypatch.setattr(memory, "get_memory_info", lambda device: next(found))
    assert script_named("measuring").peak_mib(lambda: None) == 2.0


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_say_where_they_ran_and_print_what_they_write(run_of, name):
    printed, line = run_of(name)
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


def test_the_page_is_made_from_full_runs_only(run_of, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- losses: pairs -->\nold\n<!-- end -->\n\nend\n")
    _, line = run_of("losses")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "losses.jsonl").write_text(json.dumps(line) + "\n")
    done = run_tables("--page", page, "--results", tmp_path / "small")
    assert done.returncode != 0 and "no full run" in done.stderr
    assert "old" in page.read_text()
    line = {**line, "small": False, "tables": {"pairs": [{"a": 1.5, "b": 1000}]}}
    (tmp_path / "losses.jsonl").write_text(json.dumps(line) + "\n")
    assert run_tables("--page", page, "--results", tmp_path).returncode == 0
    table = "| a   | b     |\n| --- | ----- |\n| 1.5 | 1,000 |"
    assert page.read_text() == (
        f"# A\n\n<!-- losses: pairs -->\n\n{table}\n\n<!-- end -->\n\nend\n"
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
