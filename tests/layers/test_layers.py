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
_ATTENTION = [_QUERY, _KEYS, _MASK]

# Class name -> (arguments, inputs, weight shapes, output shape), several if need be.
CASES: dict[str, list[tuple[dict[str, Any], list[np.ndarray], list, tuple]]] = {
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
    "DotProductAttention": [
        ({}, _ATTENTION, [(5, 6)], (3, 6)),
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
    assert sorted(CASES) == sorted(layers.__all__)


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, cases in CASES.items() for case in cases],
    ids=[f"{name}-{i}" for name, cases in CASES.items() for i in range(len(cases))],
)
def test_layer(name: str, case: tuple, tmp_path: Path) -> None:
    run_layer_test(getattr(layers, name), *case, tmp_path)
