"""The declaration of a tower's interaction; `tower_model.py` makes the layer of it."""

from __future__ import annotations

from typing import Any, Literal

from tfrs_prerank.declaration import check_effect, declaration
from tfrs_prerank.towers.gate import idle_options

InteractionKind = Literal[
    "dcn_v1", "dcn_v2", "cin", "bilinear", "fibinet", "fibinet_plus"
]

_OPTIONS = {
    "dcn_v1": ("depth",),
    "dcn_v2": ("depth", "rank", "experts"),
    "cin": ("units", "split_half", "activation", "rank"),
    "bilinear": ("pairs", "product", "kernel", "density", "seed"),
    "fibinet": ("pairs", "kernel", "density", "seed", "reduction"),
    "fibinet_plus": ("pairs", "kernel", "density", "seed", "compressed"),
}


@declaration
class Interaction:
    """How a tower multiplies its fields with each other.

    * `"dcn_v1"`, `"dcn_v2"`: cross networks over the flattened fields, one order more
      per layer (`layers.CrossNetwork`).
    * `"cin"`: vector-wise crosses of all fields, one order more per layer
      (`layers.CIN`).
    * `"bilinear"`: products of all pairs of fields (`layers.BilinearInteraction`);
      `kernel="identity"` makes them plain inner or Hadamard products.
    * `"fibinet"`: bilinear products of the fields and of the fields as a SENet weighs
      them (`layers.FiBiNet`).
    * `"fibinet_plus"`: inner products of all pairs, compressed; put it beside the gate
      `"senet_plus"` for the whole of FiBiNET++.

    Attributes:
        kind: see above.
        depth: of the cross networks: number of layers.
        rank: of `"dcn_v2"` and `"cin"`: rank of the factorised kernels, None for full
            ones.
        experts: of `"dcn_v2"` with a rank: low-rank experts under a gate.
        units: of `"cin"`: feature maps of each layer.
        split_half: of `"cin"`: half of a layer's maps go out, the others on.
        activation: of `"cin"`: `"relu"`, `"tanh"`, `"sigmoid"`, or None.
        pairs: of the bilinear kinds: `"all"` pairs share a kernel, `"each"` first field
            has one, or each pair (`"interaction"`).
        product: of `"bilinear"`: `"hadamard"` (a vector for each pair) or `"inner"` (a
            number).
        kernel: of the bilinear kinds: `"full"`, `"diagonal"`, `"identity"` (none),
            `"sparse"`, or a rank.
        density: share of the kernel that `"sparse"` keeps.
        seed: of the places that `"sparse"` keeps.
        reduction: of `"fibinet"`: that of its SENet.
        compressed: of `"fibinet_plus"`: numbers that come out.

    >>> from tfrs_prerank.towers import Interaction
    >>> Interaction("dcn_v2", depth=3, rank=8).options()
    {'depth': 3, 'rank': 8, 'experts': 1}
    """

    kind: InteractionKind
    depth: int = 2
    rank: int | None = None
    experts: int = 1
    units: tuple[int, ...] = (32, 32)
    split_half: bool = False
    activation: Literal["relu", "tanh", "sigmoid"] | None = None
    pairs: Literal["all", "each", "interaction"] = "all"
    product: Literal["hadamard", "inner"] = "hadamard"
    kernel: int | Literal["full", "diagonal", "identity", "sparse"] = "full"
    density: float = 0.25
    seed: int = 0
    reduction: int = 3
    compressed: int = 50

    def __post_init__(self) -> None:
        check_effect(self, "kind", *idle_options(_OPTIONS, self.kind))
        for name in ("depth", "rank", "experts", "kernel", "reduction", "compressed"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {value}")
        if not self.units or min(self.units) < 1:
            raise ValueError(f"units must be at least 1. Received: {self.units}")
        if self.experts > 1 and self.rank is None:
            raise ValueError(
                f"experts={self.experts} needs a rank: experts are low-rank kernels"
            )
        odd = [unit for unit in self.units[:-1] if unit % 2]
        if self.split_half and odd:
            raise ValueError(
                "split_half needs even units in all layers but the last. "
                f"Received: units={self.units}"
            )
        if not 0 < self.density <= 1:
            raise ValueError(f"density must be in (0, 1]. Received: {self.density}")
        if self.kernel != "sparse":
            check_effect(self, "kernel", "density", "seed")
        if self.kernel == "identity":
            check_effect(self, "kernel", "pairs")

    def options(self) -> dict[str, Any]:
        """Returns the settings that its kind reads."""
        return {name: getattr(self, name) for name in _OPTIONS[self.kind]}
