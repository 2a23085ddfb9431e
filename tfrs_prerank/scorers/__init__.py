"""Scorers: how query, doc and cross vectors become one logit for each task."""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_prerank.scorers.scorer import Scorer as Scorer

if TYPE_CHECKING:
    from tfrs_prerank.scorers.scorer_layer import ScorerLayer as ScorerLayer

__all__ = ["Scorer", "ScorerLayer"]


def __getattr__(name: str) -> Any:
    if name == "ScorerLayer":
        return getattr(importlib.import_module(f"{__name__}.scorer_layer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
