"""The declaration of a tower; the Keras model that it becomes is in `tower_model.py`.

It is apart from there so that a configuration is checked without TensorFlow.
"""

from __future__ import annotations

from typing import Literal

from tfrs_prerank.declaration import check_effect, declaration
from tfrs_prerank.towers.experts import Experts, ExpertsKind
from tfrs_prerank.towers.gate import Gate, GateKind
from tfrs_prerank.towers.interaction import Interaction, InteractionKind

Activation = Literal[
    "elu",
    "gelu",
    "linear",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "softplus",
    "swish",
    "tanh",
]
"""Activations of `tf.keras.activations` that suit a hidden layer."""


@declaration
class Tower:
    """How one side's fields become vectors.

    Fields `[rows, F, D]` pass an optional gate; then an optional interaction and an MLP
    run side by side (`combine="parallel"`, their outputs joined) or one after the other
    (`"stacked"`, the MLP reads the interaction); optional experts then make of it
    another vector for each task; a linear layer without activation gives one vector of
    size `output` for each task. The cross tower gives one logit for each task instead
    and ignores `output`, unless the scorer reads its vector.

    Experts on top of the fields themselves, as in their papers, need `units=()`; with
    units the MLP is a bottom that the tasks share.

    Attributes:
        units: sizes of the MLP's layers; empty for none.
        activation: of the MLP and of the experts.
        normalization: `"batch"` or `"layer"` before each activation, or None. Batch
            statistics are those of real documents of all replicas.
        dropout: share of the MLP's units dropped in training.
        gate: what weighs the fields: a `Gate`, its kind alone, or None.
        interaction: what crosses them: an `Interaction`, its kind alone, or None.
        combine: see above.
        experts: what gives each task its own vector: `Experts`, their kind alone, or
            None. Vectors keep their size: scorers, export and table are as without.
        dimension: size D of a field.
        output: size of the vector.

    >>> from tfrs_prerank import Tower
    >>> from tfrs_prerank.towers import Interaction
    >>> tower = Tower((64,), gate="senet", interaction=Interaction("cin", units=(8,)))
    >>> tower.gate.kind, tower.output
    ('senet', 64)
    """

    units: tuple[int, ...] = (256, 128)
    activation: Activation = "relu"
    normalization: Literal["batch", "layer"] | None = None
    dropout: float = 0.0
    gate: Gate | GateKind | None = None
    interaction: Interaction | InteractionKind | None = None
    combine: Literal["parallel", "stacked"] = "parallel"
    experts: Experts | ExpertsKind | None = None
    dimension: int = 16
    output: int = 64

    def __post_init__(self) -> None:
        if isinstance(self.gate, str):
            object.__setattr__(self, "gate", Gate(self.gate))
        if isinstance(self.interaction, str):
            object.__setattr__(self, "interaction", Interaction(self.interaction))
        if isinstance(self.experts, str):
            object.__setattr__(self, "experts", Experts(self.experts))
        for name in ("dimension", "output"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        if any(unit < 1 for unit in self.units):
            raise ValueError(f"units must be at least 1. Received: {self.units}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1). Received: {self.dropout}")
        if not self.units:
            check_effect(self, "units", "normalization", "dropout")
            if self.experts is None:
                check_effect(self, "units", "activation")
        if self.combine == "stacked" and not (self.units and self.interaction):
            raise ValueError('combine="stacked" needs both units and an interaction')
