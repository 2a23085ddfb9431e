"""The models: the pre-ranker, and the ranker that teaches it."""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_prerank.models.config import RankerConfig as RankerConfig

if TYPE_CHECKING:
    from tfrs_prerank.models.prerank import PreRanker as PreRanker
    from tfrs_prerank.models.ranker import Ranker as Ranker

__all__ = ["PreRanker", "Ranker", "RankerConfig"]


def __getattr__(name: str) -> Any:
    if name == "PreRanker":
        return importlib.import_module(f"{__name__}.prerank").PreRanker
    if name == "Ranker":
        return importlib.import_module(f"{__name__}.ranker").Ranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
