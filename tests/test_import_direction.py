"""Imports go one way, and Keras is reached as ``tf.keras`` only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tfrs_prerank

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tfrs_prerank"

# What each part of the package may import, besides itself. The base knows nothing of
# the rest; a part without an entry has no place yet, and the test says so.
BASE = {"_guard", "declaration", "distribution", "progress"}
PURE = {"layers", "losses", "metrics"}
CHAIN = [
    "features",
    "towers",
    "scorers",
    "objectives",
    "models",
    "serving",
    "evaluation",
    "config",
    "training",
    "pipeline",
    "cli",
]
ALLOWED: dict[str, set[str]] = {name: {"_guard"} for name in BASE}
ALLOWED |= {name: set(BASE) for name in PURE}
ALLOWED["optimizers"] = set(BASE)
for place, name in enumerate(CHAIN):
    ALLOWED[name] = BASE | PURE | {"optimizers"} | set(CHAIN[:place])
ALLOWED["sampling"] = BASE | {"features"}
ALLOWED["datasets"] = BASE | {"features", "sampling"}
# How likely a document is in a batch is part of a model's state.
ALLOWED["models"] |= {"sampling"}
for name in ("evaluation", "config", "training", "pipeline", "cli"):
    ALLOWED[name] |= {"sampling", "datasets"}

NOT_KERAS = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python")


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of everything that a module's source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", ""))
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno, str(node.args[0].value)


def part_of(name: str) -> str | None:
    """Returns the part of the package that a dotted name belongs to."""
    steps = name.split(".")
    if steps[0] != PACKAGE or len(steps) == 1 or steps[1] == "__version__":
        return None
    # A public name stands for the part that defines it.
    module = tfrs_prerank._MODULE_OF.get(steps[1])
    return module.split(".")[1] if module else steps[1]


def wrong_way(source: str, module: str) -> list[str]:
    """Returns one line per import that goes against the order."""
    own = module.split(".")[1]
    if own not in ALLOWED:
        return [f"{module}: no place in ALLOWED. Fix: give {own!r} one"]
    return [
        f"{module}:{line}: {own} must not import {name}"
        for line, name in imported(source, module)
        if part_of(name) not in (None, own, *ALLOWED[own])
    ]


def not_tf_keras(source: str, module: str) -> list[str]:
    """Returns one line per import that goes around ``tf.keras``."""
    return [
        f"{module}:{line}: {name}. Fix: use tf.keras"
        for line, name in imported(source, module)
        if any(name == bad or name.startswith(f"{bad}.") for bad in NOT_KERAS)
    ]


def sources(folder: str) -> dict[str, str]:
    """Returns {path from the root, as a dotted name with its file name: source}."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        # A package's own __init__ is named in full, so that relative imports count
        # from the package in both cases.
        found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path.read_text(
            encoding="utf-8"
        )
    return found


def test_imports_go_one_way():
    modules = sources(PACKAGE)
    del modules[f"{PACKAGE}.__init__"]  # The public names stand above all parts.
    assert modules
    assert [line for m in modules for line in wrong_way(modules[m], m)] == []


@pytest.mark.parametrize("folder", [PACKAGE, "tests", "benchmarks", "tools"])
def test_keras_is_reached_as_tf_keras(folder):
    modules = sources(folder)
    assert [line for m in modules for line in not_tf_keras(modules[m], m)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers.senet", "from tfrs_prerank.features import Schema"),
        ("layers.senet", "from tfrs_prerank import Schema"),
        ("layers.senet", "from tfrs_prerank import losses"),
        ("layers.senet", "from ..features import schema"),
        ("layers.__init__", "from .. import models"),
        ("layers.senet", "def f():\n    import tfrs_prerank.models.preranker"),
        ("layers.senet", "importlib.import_module('tfrs_prerank.cli')"),
        ("features.schema", "from tfrs_prerank.datasets import logs"),
        ("features.schema", "from tfrs_prerank.towers import Tower"),
        ("datasets.logs", "from tfrs_prerank.models import PreRanker"),
        ("towers", "from tfrs_prerank.scorers import dot"),
        ("models.preranker", "from tfrs_prerank import export"),
        ("serving.exporter", "from tfrs_prerank.datasets import movielens"),
        ("evaluation.bootstrap", "from tfrs_prerank.cli import main"),
        ("distribution", "from tfrs_prerank.layers import SENet"),
        ("unheard_of", "import os"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(wrong_way(source, f"{PACKAGE}.{module}")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers.senet", "from . import _checks"),
        ("layers.__init__", "from .senet import SENet"),
        ("layers.senet", "from tfrs_prerank import __version__, distribution"),
        ("sampling.mixture", "from tfrs_prerank.features import Schema"),
        ("models.preranker", "from tfrs_prerank.optimizers import LazyAdam"),
        ("evaluation.evaluate", "from tfrs_prerank.datasets import movielens"),
        ("cli", "from tfrs_prerank import PreRanker, datasets, export"),
    ],
)
def test_a_right_import_passes(module, source):
    assert wrong_way(source, f"{PACKAGE}.{module}") == []


@pytest.mark.parametrize(
    "source",
    [
        "import keras",
        "from keras import layers",
        "import tf_keras as keras",
        "from tensorflow import keras",
        "from tensorflow.keras import layers",
        "from tensorflow.python.ops import math_ops",
    ],
)
def test_a_way_around_tf_keras_is_found(source):
    assert len(not_tf_keras(source, "tests.test_x")) == 1
