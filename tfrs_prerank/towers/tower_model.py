"""Towers as Keras models: features, a gate, an interaction and an MLP make vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrs_prerank.features.encoders import EmbeddingTable, FieldEncoder
from tfrs_prerank.layers import CrossNetwork, SENet
from tfrs_prerank.layers._batch_normalization import RowBatchNormalization
from tfrs_prerank.towers.tower import Tower


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
        self.mlp = mlp(tower) if tower.units else None
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
        if self.mlp is not None:
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
        # Batch normalisation takes a bias away again.
        use_bias = tower.normalization != "batch"
        layers.append(tf.keras.layers.Dense(unit, use_bias=use_bias))
        if tower.normalization == "batch":
            layers.append(RowBatchNormalization())
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
