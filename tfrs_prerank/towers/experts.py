"""The declaration of experts; `tower_model.py` makes the layer of it."""

from __future__ import annotations

from typing import Any, Literal

from tfrs_prerank.declaration import check_effect, declaration
from tfrs_prerank.towers.gate import idle_options

ExpertsKind = Literal["mmoe", "ple"]

_OPTIONS = {
    "mmoe": ("count", "units"),
    "ple": ("shared", "own", "levels", "units"),
}


@declaration
class Experts:
    """How a tower, or a scorer on top of the towers, gives each task its own vector.

    * `"mmoe"`: a mixture of experts that all tasks share (`layers.MMoE`).
    * `"ple"`: a mixture of a task's own experts and of shared ones, level by level
      (`layers.PLE`).

    With one task, `"mmoe"` is a plain mixture of experts.

    Attributes:
        kind: see above.
        count: of `"mmoe"`: number of experts.
        shared: of `"ple"`: number of shared experts of each level.
        own: of `"ple"`: number of each task's own experts of each level.
        levels: of `"ple"`: number of levels.
        units: sizes of each expert's layers.

    >>> from tfrs_prerank.towers import Experts
    >>> Experts("mmoe", units=(32,)).options()
    {'count': 4, 'units': (32,)}
    """

    kind: ExpertsKind
    count: int = 4
    shared: int = 1
    own: int = 1
    levels: int = 2
    units: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        check_effect(self, "kind", *idle_options(_OPTIONS, self.kind))
        for name in ("count", "shared", "own", "levels"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        if not self.units or min(self.units) < 1:
            raise ValueError(
                "units must list at least one size, each at least 1. Received: "
                f"{self.units}"
            )

    def options(self) -> dict[str, Any]:
        """Returns the settings that its kind reads."""
        return {name: getattr(self, name) for name in _OPTIONS[self.kind]}
