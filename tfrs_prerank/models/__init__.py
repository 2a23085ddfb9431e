"""The models: the pre-ranker."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfrs_prerank.models.prerank import PreRanker as PreRanker

__all__ = ["PreRanker"]


def __getattr__(name: str) -> Any:
    if name == "PreRanker":
        return importlib.import_module(f"{__name__}.prerank").PreRanker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
