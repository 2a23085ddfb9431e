"""Every public layer passes the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.layers.harness import run_layer_test
from tfrs_prerank import layers

_RNG = np.random.default_rng(7)
_FIELDS = [_RNG.normal(size=(3, 6, 4)).astype("float32")]
_ROWS = [_RNG.normal(size=(3, 6)).astype("float32")]
_QUERY = _RNG.normal(size=(3, 5)).astype("float32")
_KEYS = _RNG.normal(size=(3, 4, 6)).astype("float32")
_MASK = np.array([[True] * 4, [True, False, True, False], [False] * 4])
_MASK_FIRST = np.array([[True] * 4, [True, True, False, False], [False] * 4])
_DOCS = _RNG.normal(size=(3, 4, 5)).astype("float32")
_ATTENTION = [_QUERY, _KEYS, _MASK]
_GAPS = np.array([[0, 3, 9, -1], [50, -1, 600, -1], [-1] * 4])
_BLOCK = [(6, 18), (6, 6), (6, 24), (24,), (24, 6), *[(6,)] * 5]

# Class name -> (arguments, inputs, weight shapes, output shape), several if need be.
CASES: dict[str, list[tuple[dict[str, Any], list[np.ndarray], list, tuple]]] = {
    "AdditiveAttention": [
        ({}, _ATTENTION, [(5, 6), (6, 6), (6,), (6, 1)], (3, 6)),
        ({"units": 2}, _ATTENTION, [(5, 2), (6, 2), (2,), (2, 1)], (3, 6)),
    ],
    "BehaviorTransformer": [
        ({}, _ATTENTION[1:], [(4, 6), *_BLOCK, (6,), (6,)], (3, 4, 6)),
        (
            {"blocks": 2, "heads": 3, "positions": None},
            _ATTENTION[1:],
            [*_BLOCK, *_BLOCK, (6,), (6,)],
            (3, 4, 6),
        ),
        (
            {"heads": 2, "positions": "time_gap", "gap_buckets": 8},
            [*_ATTENTION[1:], _GAPS],
            [(9, 6), *_BLOCK, (6,), (6,)],
            (3, 4, 6),
        ),
    ],
    "BilinearInteraction": [
        ({}, _FIELDS, [(4, 4)], (3, 15, 4)),
        (
            {"kind": "each", "product": "inner", "kernel": "diagonal"},
            _FIELDS,
            [(5, 4)],
            (3, 15),
        ),
        (
            {"kind": "interaction", "kernel": "sparse", "density": 0.5, "seed": 3},
            _FIELDS,
            [(15, 4, 4)],
            (3, 15, 4),
        ),
        (
            {"kind": "interaction", "product": "inner", "kernel": 2},
            _FIELDS,
            [(15, 4, 2), (15, 2, 4)],
            (3, 15),
        ),
        ({"kernel": "identity"}, _FIELDS, [], (3, 15, 4)),
        ({"kind": "each", "product": "inner"}, _FIELDS, [(5, 4, 4)], (3, 15)),
    ],
    "CIN": [
        ({"units": (5, 3)}, _FIELDS, [(36, 5), (30, 3)], (3, 8)),
        (
            {"units": (4, 2, 3), "split_half": True},
            _FIELDS,
            [(36, 4), (12, 2), (6, 3)],
            (3, 6),
        ),
        (
            {"units": (4, 3), "split_half": True, "activation": "tanh", "rank": 2},
            _FIELDS,
            [(6, 4, 2), (6, 4, 2), (2, 3, 2), (6, 3, 2)],
            (3, 5),
        ),
        (
            {"units": (3, 4), "rank": 1},
            _FIELDS,
            [(6, 3, 1), (6, 3, 1), (3, 4, 1), (6, 4, 1)],
            (3, 7),
        ),
    ],
    "CrossNetwork": [
        ({"depth": 2}, _ROWS, [(6,)] * 4, (3, 6)),
        ({"depth": 1, "version": "v2"}, _ROWS, [(6, 6), (6,)], (3, 6)),
        (
            {"depth": 1, "version": "v2", "rank": 2},
            _ROWS,
            [(6, 2), (2, 6), (6,)],
            (3, 6),
        ),
        (
            {"depth": 2, "version": "v2", "rank": 2, "experts": 3},
            _ROWS,
            [(6, 6), (2, 6), (6, 6), (6, 3), (6,)] * 2,
            (3, 6),
        ),
    ],
    "Dice": [
        ({}, [_KEYS, _MASK], [(6,)] * 3, (3, 4, 6)),
        ({"momentum": 0.5, "epsilon": 0.1}, _ROWS, [(6,)] * 3, (3, 6)),
    ],
    "DotProductAttention": [
        ({}, _ATTENTION, [(5, 6)], (3, 6)),
    ],
    "FiBiNet": [
        (
            {"kind": "each"},
            _FIELDS,
            [(5, 4, 4), (6, 2), (2, 6), (5, 4, 4)],
            (3, 120),
        ),
        (
            {"kernel": "identity", "reduction": 2, "activations": ("relu", "tanh")},
            _FIELDS,
            [(6, 3), (3, 6)],
            (3, 120),
        ),
        (
            {"version": "plus", "kernel": 2, "units": 7},
            _FIELDS,
            [(15, 7), (4, 2), (2, 4)],
            (3, 7),
        ),
    ],
    "LateInteraction": [
        (
            {"units": 3},
            [_QUERY, _QUERY[::-1].copy()],
            [(5, 3)] * 4 + [(3,), (3, 3), (3,), (3, 3), (3,), (3, 1), (1,)],
            (3, 1),
        ),
        (
            {"units": 3, "blocks": 0, "outputs": 2, "activation": "tanh"},
            [_QUERY, _DOCS, _DOCS[..., :2], _ROWS[0], _DOCS[..., 1:]],
            [(11, 3), (9, 3), (5, 3), (5, 3), (2, 3), (3,), (3, 2), (2,)],
            (3, 4, 2),
        ),
    ],
    "MaxSim": [
        (
            {"heads": 2, "size": 3},
            [[_QUERY, _ROWS[0]], _ROWS[0]],
            [(5, 6), (6, 6), (6, 6)],
            (3, 1),
        ),
        (
            {"heads": 2, "size": 3, "outputs": 2},
            [[_QUERY], _DOCS],
            [(5, 12), (5, 12)],
            (3, 4, 2),
        ),
    ],
    "FeatureAttention": [
        ({}, _FIELDS, [(4, 4)] * 3, (3, 6, 4)),
        ({"heads": 2}, [_FIELDS[0][:, np.newaxis]], [(4, 4)] * 3, (3, 1, 6, 4)),
    ],
    "LightSE": [
        ({}, _FIELDS, [(6, 6), (6,)], (3, 6, 4)),
        ({}, [_FIELDS[0][:, np.newaxis]], [(6, 6), (6,)], (3, 1, 6, 4)),
    ],
    "MMoE": [
        (
            {"tasks": ["click", "buy"], "experts": 3, "units": [4, 2]},
            _ROWS,
            [(6, 12), (3, 4), (3, 4, 2), (3, 2), (6, 6)],
            (3, 4),
        ),
        (
            {"tasks": ["click"], "experts": 2, "units": [5], "activation": "tanh"},
            [_DOCS],
            [(5, 10), (2, 5), (5, 2)],
            (3, 4, 5),
        ),
    ],
    "PLE": [
        (
            {
                "tasks": ["click", "click_buy"],
                "shared": 1,
                "own": 2,
                "levels": 2,
                "units": [4, 3],
                "activation": "tanh",
            },
            _ROWS,
            [
                # The branches of both tasks and the shared one, which sees 5 experts.
                *[(6, 8), (2, 4), (2, 4, 3), (2, 3), (6, 3)] * 2,
                *[(6, 4), (1, 4), (1, 4, 3), (1, 3), (6, 5)],
                *[(3, 8), (2, 4), (2, 4, 3), (2, 3), (3, 3)] * 2,
                *[(3, 4), (1, 4), (1, 4, 3), (1, 3)],  # no gate at the last level
            ],
            (3, 6),
        ),
        (
            {"tasks": ["buy"], "shared": 2, "own": 1, "levels": 1, "units": [4]},
            [_DOCS],
            [(5, 4), (1, 4), (5, 3), (5, 8), (2, 4)],
            (3, 4, 4),
        ),
    ],
    "SENet": [
        ({}, _FIELDS, [(6, 2), (2, 6)], (3, 6, 4)),
        (
            {"reduction": 2, "squeeze": "max", "activations": ("tanh", "relu")},
            [_FIELDS[0][:, np.newaxis]],
            [(6, 3), (3, 6)],
            (3, 1, 6, 4),
        ),
    ],
    "SENetPlus": [
        ({}, _FIELDS, [(24, 8), (8, 24), (4,), (4,)], (3, 6, 4)),
        (
            {"groups": 4, "reduction": 2},
            [_FIELDS[0][:, np.newaxis]],
            [(48, 24), (24, 24), (4,), (4,)],
            (3, 1, 6, 4),
        ),
    ],
    "TargetAttention": [
        (
            {"units": (4, 3)},
            _ATTENTION,
            [
                *[(5, 6), (24, 4), (4,), (4, 3), (3,), (3, 1), (1,)],
                *[(4,), (3,), (4,), (4,), (3,), (3,)],  # Dice: alpha, mean, variance
            ],
            (3, 6),
        ),
        (
            {"units": (4,), "activation": "tanh", "softmax": True},
            [_ROWS[0], _KEYS, _MASK],
            [(24, 4), (4,), (4, 1)],
            (3, 6),
        ),
    ],
    "TextCNN": [
        (
            {"widths": [1, 3], "filters": 4, "activation": "tanh"},
            [_KEYS, _MASK_FIRST],
            [(1, 6, 4), (4,), (3, 6, 4), (4,)],
            (3, 8),
        ),
    ],
    "ZeroAttention": [
        ({}, _ATTENTION, [(5, 6)], (3, 6)),
        (
            {"heads": 2, "zero_logit": "query"},
            _ATTENTION,
            [(5, 12), (5, 2), (2,), (6, 6)],
            (3, 6),
        ),
        (
            {"heads": 3, "zero_logit": "learned", "score": "additive"},
            _ATTENTION,
            [(5, 6), (6, 6), (6,), (3, 2), (3,), (6, 6)],
            (3, 6),
        ),
    ],
}


def test_no_public_layer_is_left_out() -> None:
    # A SentenceBert has its weights before it is called, and tests of its own.
    assert sorted([*CASES, "SentenceBert"]) == sorted(layers.__all__)


def _params(cases: slice) -> list[Any]:
    return [
        pytest.param(name, number, id=f"{name}-{number}")
        for name in CASES
        for number in range(len(CASES[name]))[cases]
    ]


def _run(name: str, number: int, *options: Any) -> None:
    run_layer_test(getattr(layers, name), *CASES[name][number], *options)


@pytest.mark.parametrize(("name", "number"), _params(slice(0, 1)))
def test_layer(name: str, number: int, tmp_path: Path) -> None:
    _run(name, number, tmp_path)


@pytest.mark.parametrize(("name", "number"), _params(slice(1, None)))
def test_variant(name: str, number: int, tmp_path: Path) -> None:
    """The older format asks nothing of a variant that its class has not answered."""
    _run(name, number, tmp_path, ["model.keras"])


@pytest.mark.slow  # writes a graph of every variant
@pytest.mark.parametrize(("name", "number"), _params(slice(1, None)))
def test_variant_in_saved_model_format(name: str, number: int, tmp_path: Path) -> None:
    _run(name, number, tmp_path, ["saved_model"])
