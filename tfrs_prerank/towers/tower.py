"""The declaration of a tower; the Keras model that it becomes is in `tower_model.py`.

It is apart from there so that a configuration is checked without TensorFlow.
"""

from __future__ import annotations

from typing import Literal

from tfrs_prerank.declaration import check_effect, declaration

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

    Fields `[rows, F, D]` pass an optional gate; then an optional cross network and an
    MLP run side by side (`combine="parallel"`, their outputs joined) or one after the
    other (`"stacked"`, the MLP reads the cross network); a linear layer without
    activation gives one vector of size `output` for each task. The cross tower gives
    one logit for each task instead and ignores `output`.

    Attributes:
        units: sizes of the MLP's layers; empty for none.
        activation: of the MLP.
        normalization: `"batch"` or `"layer"` before each activation, or None. Batch
            statistics are those of real documents of all replicas.
        dropout: share of the MLP's units dropped in training.
        gate: `"senet"` weighs the fields, or None.
        interaction: `"dcn_v1"` or `"dcn_v2"`, or None.
        depth: layers of the cross network.
        rank: rank of the `"dcn_v2"` matrices, None for full ones.
        combine: see above.
        dimension: size D of a field.
        output: size of the vector.

    >>> from tfrs_prerank import Tower
    >>> Tower(units=(64,), gate="senet", interaction="dcn_v2").output
    64
    """

    units: tuple[int, ...] = (256, 128)
    activation: Activation = "relu"
    normalization: Literal["batch", "layer"] | None = None
    dropout: float = 0.0
    gate: Literal["senet"] | None = None
    interaction: Literal["dcn_v1", "dcn_v2"] | None = None
    depth: int = 2
    rank: int | None = None
    combine: Literal["parallel", "stacked"] = "parallel"
    dimension: int = 16
    output: int = 64

    def __post_init__(self) -> None:
        for name in ("depth", "dimension", "output"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        if any(unit < 1 for unit in self.units):
            raise ValueError(f"units must be at least 1. Received: {self.units}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1). Received: {self.dropout}")
        if not self.units:
            check_effect(self, "units", "activation", "normalization", "dropout")
        if self.interaction is None:
            check_effect(self, "interaction", "depth")
        if self.rank is not None and self.interaction != "dcn_v2":
            raise ValueError(
                'rank belongs to interaction="dcn_v2". '
                f"Received: interaction={self.interaction!r}"
            )
        if self.combine == "stacked" and not (self.units and self.interaction):
            raise ValueError('combine="stacked" needs both units and an interaction')
