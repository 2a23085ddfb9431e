"""Towers: what turns one side's features into vectors."""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_prerank.towers.experts import Experts as Experts
from tfrs_prerank.towers.gate import Gate as Gate
from tfrs_prerank.towers.interaction import Interaction as Interaction
from tfrs_prerank.towers.tower import Tower as Tower

if TYPE_CHECKING:
    from tfrs_prerank.towers.tower_model import BiasModel as BiasModel
    from tfrs_prerank.towers.tower_model import TowerModel as TowerModel

__all__ = ["BiasModel", "Experts", "Gate", "Interaction", "Tower", "TowerModel"]


def __getattr__(name: str) -> Any:
    if name in ("BiasModel", "TowerModel"):
        return getattr(importlib.import_module(f"{__name__}.tower_model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
