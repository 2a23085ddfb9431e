"""Four replicas train and evaluate as one does."""

from __future__ import annotations

from tests.models import replicas
from tests.processes import Replicas


def test_four_replicas_equal_one(on_replicas: Replicas) -> None:
    on_replicas(replicas.main)
