"""Four replicas train and evaluate as one does."""

from __future__ import annotations

from tests.processes import run


def test_four_replicas_equal_one() -> None:
    assert run("tests.models.replicas").endswith("equal")
