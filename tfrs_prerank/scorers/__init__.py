"""Scorers: how query, doc and cross vectors become one logit for each task."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfrs_prerank.scorers.scorer import Scorer as Scorer

if TYPE_CHECKING:
    from tfrs_prerank.scorers.scorer_layer import ScorerLayer as ScorerLayer

__all__ = ["Scorer", "ScorerLayer", "make_scorer"]


def make_scorer(scorer: Scorer, tasks: Sequence[str]) -> "ScorerLayer":
    """Makes the learned part of a scorer.

    Args:
        scorer: the declaration.
        tasks: names of the tasks.

    Returns:
        The layer.
    """
    if scorer.kind == "mlp":
        from tfrs_prerank.scorers.mlp_scorer import MlpScorer

        return MlpScorer(scorer, len(tasks))
    if scorer.kind == "max_sim":
        from tfrs_prerank.scorers.max_sim_scorer import MaxSimScorer

        return MaxSimScorer(scorer, len(tasks))
    if scorer.kind == "experts":
        from tfrs_prerank.scorers.experts_scorer import ExpertsScorer

        return ExpertsScorer(scorer, tasks)
    from tfrs_prerank.scorers.vector_scorer import VectorScorer

    return VectorScorer(scorer, len(tasks))


def __getattr__(name: str) -> Any:
    if name == "ScorerLayer":
        return getattr(importlib.import_module(f"{__name__}.scorer_layer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
