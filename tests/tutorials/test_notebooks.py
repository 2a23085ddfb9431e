"""The tutorials run, and are stored as a reader needs them."""

import ast
import json
import math
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tfrs_prerank.datasets import _movielens_files as movielens_files

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def movielens(request, monkeypatch) -> None:
    """Lets a notebook find MovieLens-100K, or skips."""
    try:
        movielens_files.find(None, download=False)
    except FileNotFoundError:
        folder = request.getfixturevalue("data_dir") / "ml-100k"
        monkeypatch.setenv(movielens_files.ENVIRONMENT_VARIABLE, str(folder))


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Runs a notebook from top to bottom, in a process of its own."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources
    )
    # The kernel finds this project also where it is not installed.
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    client.execute(env=env)
    return notebook


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Returns what each code cell of a notebook shows as text."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts = [
                output.get("text", "") or output.get("data", {}).get("text/plain", "")
                for output in cell.outputs
            ]
            texts.append("\n".join(parts))
    return texts


def key_numbers(notebook: nbformat.NotebookNode) -> dict[str, float]:
    """Returns the numbers by name that a notebook prints as one line of JSON."""
    lines = "\n".join(printed(notebook)).splitlines()
    (line,) = [line for line in lines if re.match(r'\{"[^"]+": -?\d', line)]
    return json.loads(line)


def check_quickstart(notebook: nbformat.NotebookNode) -> None:
    numbers = key_numbers(notebook)
    assert numbers["model"] > numbers["random"] + 0.2
    # The served answer: four movies of the table, then the one that is not in it.
    (answer,) = [t for t in printed(notebook) if t.startswith("POST ")]
    outputs = json.loads(answer[answer.index('{"outputs"') :])["outputs"]
    assert outputs["found"] == [[True, True, True, True, False]]
    best_first = sorted(outputs["scores"][0], reverse=True)
    assert outputs["scores"][0] == best_first


def check_feature_crossing(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(printed(notebook))
    rows = re.findall(r"by hand (\[.*?\]) +layer (\[.*?\])$", text, re.M)
    assert len(rows) == 6
    for by_hand, layer in rows:
        assert json.loads(by_hand) == json.loads(layer)
    # The label is a product whose weights add up to 0: neither a linear model nor sums
    # of unweighted products see any of it, and the Hadamard product sees all of it.
    numbers = key_numbers(notebook)
    assert numbers["linear"] == pytest.approx(0.5, abs=0.03)
    assert numbers["CIN"] == pytest.approx(0.5, abs=0.03)
    assert numbers["oracle"] - 0.03 < numbers["Hadamard"] < numbers["oracle"] + 1e-3
    assert numbers["cross v2"] > numbers["linear"] + 0.1
    assert 0 < numbers["plain NDCG@10"] < 1


def check_samples_and_bias(notebook: nbformat.NotebookNode) -> None:
    numbers = key_numbers(notebook)
    assert numbers["truth best"] == 1.0
    assert numbers["random best"] == pytest.approx(40 / 120, abs=1e-4)
    assert numbers["exposed best"] > numbers["random best"] + 0.05
    # Popularity alone gives the exposure to the fewest, the truth to the most.
    assert numbers["truth Gini"] < numbers["exposed Gini"]
    assert numbers["exposed Gini"] < numbers["clicks so far Gini"]


def check_many_objectives(notebook: nbformat.NotebookNode) -> None:
    numbers = key_numbers(notebook)
    for task in ("click", "follow"):
        for model in ("shared bottom", "MMoE", "PLE"):
            assert 0.4 < numbers[f"{model} {task}"] < numbers[f"oracle {task}"]
    # What a purchase is worth moves the truth's own choice from clicks to purchases.
    assert numbers["truth clicks kept"] > numbers["model clicks kept"] > 0
    cheap, dear = (numbers[f"truth purchases kept, worth {n}"] for n in (0, 1000))
    assert cheap < dear


def check_losses_and_distillation(notebook: nbformat.NotebookNode) -> None:
    numbers = key_numbers(notebook)
    assert numbers["truth best"] == 1.0
    for name in ("two towers", "distilled", "distilled jointly", "ranker"):
        # The ten best of 120 among 40: a random order holds a third of them.
        assert 40 / 120 < numbers[f"{name} best"] < 1
        assert 0.5 < numbers[f"{name} AUC"] < 1
    assert numbers["two towers best"] == numbers["softmax_cross_entropy best"]
    # Nothing of the privileged features and of the ranker is in the export.
    text = "\n".join(printed(notebook))
    (inputs,) = re.findall(r"^inputs: (.*)$", text, re.M)
    assert "doc_ids" in inputs and "query" in inputs and "match" not in inputs
    in_export = re.findall(r"^(\w+) is in the export's schema: (\w+)$", text, re.M)
    assert in_export == [("title_match", "False"), ("interest_match", "False")]
    assert "as many as without a ranker: True" in text


def check_text_and_ids(notebook: nbformat.NotebookNode) -> None:
    numbers = key_numbers(notebook)
    text = "\n".join(printed(notebook))
    assert "牛奶 · 奶巧 · 巧克 · 克力" in text
    # Ids that share a bucket: 1 - 1/e of as many as there are buckets.
    assert numbers["1 hashes shared"] == pytest.approx(1 - math.exp(-1), abs=0.01)
    assert numbers["2 hashes shared"] < 0.001
    # What leaks is good in training alone.
    assert numbers["today's training"] > numbers["today's day 8"] + 0.1
    honest = numbers["as of the request training"]
    assert numbers["as of the request day 8"] == pytest.approx(honest, abs=0.05)
    assert numbers["day 9, one epoch, warm"] > numbers["day 9, one epoch, anew"] + 0.02
    assert re.search(r"^  user +\d+ rows kept, \d+ new \(new\d+", text, re.M)
    (answer,) = [t for t in printed(notebook) if t.startswith("POST ")]
    assert "巧克力牛奶" in answer
    found = json.loads(answer[answer.index('{"outputs"') :].splitlines()[0])
    assert found["outputs"]["found"][0][-2:] == [True, False]


CHECKS = {
    "01_quickstart": check_quickstart,
    "02_feature_crossing": check_feature_crossing,
    "03_samples_and_bias": check_samples_and_bias,
    "04_losses_and_distillation": check_losses_and_distillation,
    "05_many_objectives": check_many_objectives,
    "06_text_and_ids": check_text_and_ids,
}
"""What a notebook must show when it runs on little data, by its name."""

QUICK = "01_quickstart"
"""The notebook that stands for the others where time is short."""

UNTRAINED = {"popularity", "co-likes", "random", "oracle"}
"""Key numbers that no training goes into."""


def test_there_are_notebooks():
    assert NOTEBOOKS


# What is stored.


def test_stored_outputs_are_there_and_in_order(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # From top to bottom, each cell once.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        last = cell.source.strip().splitlines()[-1]
        if last.lstrip().startswith(("print(", "plt.show(")):
            assert cell.outputs, cell.source
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error"]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    assert any("image/png" in out.get("data", {}) for out in outputs)


def test_stored_notebook_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    # Images are base64, in which anything may occur.
    text = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|Users|work|usr|opt)/", text)
    assert not re.search(r"127\.0\.0\.1:\d+", text)


def test_stored_outputs_show_no_user(path):
    text = "\n".join(printed(nbformat.read(path, as_version=4)))
    # A request's id begins with its user; a filled user_id names one.
    assert not re.search(r"\b\d{1,4}-8\d{8}-\d\b", text)
    assert not re.search(r'"?user_id"?\W+\d', text)


def test_header_installs_from_one_address(path):
    notebook = nbformat.read(path, as_version=4)
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (address,) = re.findall(r'^REPOSITORY_URL = "(https://\S+)"$', codes[0], re.M)
    assert "\n".join(codes).count(address) == 1
    assert "print(" in codes[0] and "find_spec" in codes[0]
    # The package comes before all that could touch Keras.
    first = ast.parse(codes[1]).body[0]
    assert isinstance(first, ast.Import) and first.names[0].name == "tfrs_prerank"
    assert not re.search(r"^\s*(import|from) (tensorflow|keras)", codes[0], re.M)
    header = notebook.cells[0].source
    place = f"{address.removeprefix('https://')}/blob/main/tutorials/{path.name}"
    assert "colab-badge.svg" in header
    assert (
        f"(https://colab.research.google.com/{place.replace('.com', '', 1)})" in header
    )


def test_links_of_notebooks_exist(path):
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("https:"):
            assert (path.parent / link.partition("#")[0]).exists(), link


# What running it gives.


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=[pytest.mark.slow] * (path.stem != QUICK)
        )
        for path in NOTEBOOKS
    ],
)
def test_notebook_runs_on_few_requests(path, movielens, tmp_path, monkeypatch):
    monkeypatch.setenv("TFRS_PRERANK_SMALL", "1")
    CHECKS[path.stem](execute(path, tmp_path))
    assert not list(tmp_path.iterdir())  # nothing is left beside the notebook


@pytest.mark.slow
def test_whole_notebook_gives_its_stored_numbers(
    path, movielens, tmp_path, monkeypatch
):
    monkeypatch.delenv("TFRS_PRERANK_SMALL", raising=False)
    stored = key_numbers(nbformat.read(path, as_version=4))
    numbers = key_numbers(execute(path, tmp_path))
    assert numbers.keys() == stored.keys()
    for name, value in stored.items():
        # Some are arithmetic; training differs a little between machines.
        tolerance = 1e-3 if name in UNTRAINED else 0.02
        assert numbers[name] == pytest.approx(value, abs=tolerance), name
