"""Towers: features, a gate, an interaction and an MLP make the vectors of one side.

`Tower` declares one; `TowerModel` is the Keras model that it becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrs_prerank.declaration import declaration
from tfrs_prerank.features.encoders import EmbeddingTable, FieldEncoder
from tfrs_prerank.layers import CrossNetwork, SENet


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
    activation: str = "relu"
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
        try:
            tf.keras.activations.get(self.activation)
        except ValueError:
            raise ValueError(
                "activation must be one of tf.keras.activations, such as 'relu'. "
                f"Received: {self.activation!r}"
            ) from None
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1). Received: {self.dropout}")
        if self.rank is not None and self.interaction != "dcn_v2":
            raise ValueError(
                'rank belongs to interaction="dcn_v2". '
                f"Received: interaction={self.interaction!r}"
            )
        if self.combine == "stacked" and not (self.units and self.interaction):
            raise ValueError('combine="stacked" needs both units and an interaction')


class TowerModel(tfrs.Model):
    """One tower: columns of one owner in, `[rows, tasks, size]` out.

    It is trained as a part of a `PreRanker`; on its own it has no loss.

    Args:
        tower: the declaration.
        features: the features that it reads.
        tables: embedding tables by feature name.
        tasks: number of tasks.
        size: numbers for each task: `tower.output`, or 1 for a logit.
        name: name of the model.

    Raises:
        ValueError: the features belong to several owners, or there is none.
    """

    def __init__(
        self,
        tower: Tower,
        features: Iterable[Any],
        tables: Mapping[str, EmbeddingTable],
        tasks: int,
        size: int,
        name: str,
    ) -> None:
        features = tuple(features)
        if len({feature.owner for feature in features}) != 1:
            owned = ", ".join(f"{f.name} of {f.owner}" for f in features)
            raise ValueError(
                f"{name} reads the features of one owner, at least one. "
                f"Received: {owned or 'none'}"
            )
        # Numbers must reach their encoders in the type they came in.
        super().__init__(name=name, autocast=False)
        self.tower = tower
        self.tasks = tasks
        self.size = size
        self.fields = FieldEncoder(features, tables, tower.dimension)
        self.gate = SENet(name="gate") if tower.gate == "senet" else None
        self.interaction = (
            CrossNetwork(
                tower.depth,
                version=tower.interaction.removeprefix("dcn_"),
                rank=tower.rank,
                name="interaction",
            )
            if tower.interaction is not None
            else None
        )
        self.mlp = mlp(tower)
        self.head = tf.keras.layers.Dense(tasks * size, name="head")

    def call(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Returns float32 `[rows, tasks, size]` for columns `[rows]` or `[rows, T]`."""
        fields = self.fields(columns, training=training)
        if self.gate is not None:
            fields = self.gate(fields)
        flat = tf.reshape(fields, [-1, fields.shape[1] * fields.shape[2]])
        parts = []
        if self.interaction is not None:
            crossed = self.interaction(flat)
            if self.tower.combine == "stacked":
                flat = crossed
            else:
                parts.append(crossed)
        if self.tower.units:
            parts.append(self.mlp(flat, training=training))
        hidden = tf.concat(parts or [flat], axis=-1)
        output = tf.cast(self.head(hidden), tf.float32)
        return tf.reshape(output, [-1, self.tasks, self.size])


class BiasModel(tf.keras.layers.Layer):
    """The shallow logit of training-only features, such as the position shown.

    A sum of one learned number for each feature's value, as in position-debiased
    training: it takes up what the place of a document explains, and serving leaves it
    out.

    Args:
        features: the training-only features.
        tables: embedding tables by feature name.
        tasks: number of tasks.
    """

    def __init__(
        self, features: Iterable[Any], tables: Mapping[str, EmbeddingTable], tasks: int
    ) -> None:
        super().__init__(name="bias_model", autocast=False)
        self.fields = FieldEncoder(features, tables, tasks)

    def call(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Returns float32 `[rows, tasks]`."""
        fields = self.fields(columns, training=training)
        return tf.reduce_sum(tf.cast(fields, tf.float32), axis=1)


def mlp(tower: Tower) -> tf.keras.Sequential:
    """Makes the MLP of a tower: dense, normalisation, activation, dropout, repeated."""
    layers: list[tf.keras.layers.Layer] = []
    for unit in tower.units:
        layers.append(tf.keras.layers.Dense(unit))
        if tower.normalization == "batch":
            layers.append(tf.keras.layers.BatchNormalization(synchronized=True))
        elif tower.normalization == "layer":
            layers.append(tf.keras.layers.LayerNormalization())
        layers.append(tf.keras.layers.Activation(tower.activation))
        if tower.dropout:
            layers.append(
                # The generator's state is in every checkpoint: a resumed training
                # drops the units that an uninterrupted one would have dropped.
                tf.keras.layers.Dropout(tower.dropout, rng_type="stateful")
            )
    return tf.keras.Sequential(layers, name="mlp")
