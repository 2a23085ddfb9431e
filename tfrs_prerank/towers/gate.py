"""The declaration of a tower's gate; `tower_model.py` makes the layer of it."""

from __future__ import annotations

from typing import Any, Literal

from tfrs_prerank.declaration import check_effect, declaration

GateKind = Literal["senet", "senet_plus", "light_se", "attention"]

_OPTIONS = {
    "senet": ("reduction", "squeeze", "activations"),
    "senet_plus": ("reduction", "groups"),
    "light_se": (),
    "attention": ("heads",),
}


@declaration
class Gate:
    """How a tower weighs its fields before it crosses them.

    * `"senet"`: one weight for each field, from all fields (`layers.SENet`).
    * `"senet_plus"`: one weight for each number of a field, with a skip connection
      (`layers.SENetPlus`).
    * `"light_se"`: a softmax over the fields, with a skip connection
      (`layers.LightSE`).
    * `"attention"`: self-attention over the fields (`layers.FeatureAttention`).

    Attributes:
        kind: see above.
        reduction: of the SENets: how many times smaller the hidden layer is; at most
            the number of fields of `"senet"`.
        squeeze: of `"senet"`: `"mean"` or `"max"` over a field's numbers.
        activations: of `"senet"`: `("relu", "sigmoid")`, or FiBiNET's
            `("relu", "relu")`.
        groups: of `"senet_plus"`: parts of a field that are squeezed apart.
        heads: of `"attention"`.

    >>> from tfrs_prerank.towers import Gate
    >>> Gate("senet", squeeze="max").options()
    {'reduction': 3, 'squeeze': 'max', 'activations': ('relu', 'sigmoid')}
    """

    kind: GateKind
    reduction: int = 3
    squeeze: Literal["mean", "max"] = "mean"
    activations: tuple[str, str] = ("relu", "sigmoid")
    groups: int = 2
    heads: int = 1

    def __post_init__(self) -> None:
        for name in ("reduction", "groups", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        known = ("relu", "sigmoid", "tanh", "linear", "softplus")
        for activation in self.activations:
            if activation not in known:
                raise ValueError(
                    f"activations must be of {', '.join(known)}. "
                    f"Received: {activation!r}"
                )
        check_effect(self, "kind", *idle_options(_OPTIONS, self.kind))

    def options(self) -> dict[str, Any]:
        """Returns the layer's arguments."""
        return {name: getattr(self, name) for name in _OPTIONS[self.kind]}


def idle_options(options: dict[str, tuple[str, ...]], kind: str) -> list[str]:
    """Returns the options of other kinds that one kind does not read."""
    every = dict.fromkeys(name for names in options.values() for name in names)
    return [name for name in every if name not in options[kind]]
