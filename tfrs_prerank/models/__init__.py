"""The models: the pre-ranker."""

from tfrs_prerank.models.prerank import PreRanker as PreRanker

__all__ = ["PreRanker"]
