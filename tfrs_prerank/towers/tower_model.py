"""Towers as Keras models: features, gate, interaction, MLP and experts make vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrs_prerank import layers
from tfrs_prerank.features.encoders import FieldEncoder, Tables
from tfrs_prerank.layers._batch_normalization import RowBatchNormalization
from tfrs_prerank.towers.encoded import Encoded
from tfrs_prerank.towers.experts import Experts
from tfrs_prerank.towers.gate import Gate
from tfrs_prerank.towers.interaction import Interaction
from tfrs_prerank.towers.tower import Tower


class TowerModel(tfrs.Model):
    """One tower: columns in, `[rows, tasks, size]` out.

    It is trained as a part of a model; on its own it has no loss.

    Args:
        tower: the declaration.
        fields: what makes fields `[rows, F, D]` of columns: `own_fields`, or a layer
            like it, with the F `field_names`.
        tasks: names of the tasks.
        size: numbers for each task: `tower.output`, or 1 for a logit.
        name: name of the model.
    """

    def __init__(
        self,
        tower: Tower,
        fields: tf.keras.layers.Layer,
        tasks: Sequence[str],
        size: int,
        name: str,
    ) -> None:
        # Numbers must reach their encoders in the type they came in.
        super().__init__(name=name, autocast=False)
        self.tower = tower
        self.tasks = tuple(tasks)
        self.size = size
        self.fields = fields
        gate: Any = tower.gate
        interaction: Any = tower.interaction
        experts: Any = tower.experts
        self.gate = None if gate is None else gate_layer(gate)
        self.interaction = (
            None if interaction is None else interaction_layer(interaction)
        )
        self.mlp = MLP(tower) if tower.units else None
        if experts is None:
            self.experts = None
            self.head = tf.keras.layers.Dense(len(self.tasks) * size, name="head")
        else:
            self.experts = experts_layer(experts, self.tasks, tower.activation)
            self.head = TaskHeads(self.tasks, size)

    def call(self, columns: Mapping[str, tf.Tensor], training: bool = False) -> Encoded:
        """Encodes columns `[rows]` or `[rows, T]`; see `Encoded`."""
        flat, hidden, steps = self._hidden(columns, training)
        if self.experts is not None:
            hidden = self.experts(hidden)
        output = tf.cast(self.head(hidden), tf.float32)
        return Encoded(
            outputs=tf.reshape(output, [-1, len(self.tasks), self.size]),
            fields=tf.cast(flat, tf.float32),
            layers=tuple(tf.cast(step, tf.float32) for step in steps),
        )

    def field_weights(self, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns how much the gate lets each field count, float32 `[rows, F]`."""
        assert self.gate is not None
        return tf.cast(self.gate.field_weights(self.fields(columns)), tf.float32)

    def expert_gates(self, columns: Mapping[str, tf.Tensor]) -> Any:
        """Returns how much each expert counts, `[rows, experts]`.

        By task, as of `layers.MMoE.gates`, or by level, as of `layers.PLE.gates`.
        """
        assert self.experts is not None
        _, hidden, _ = self._hidden(columns, training=False)
        return self.experts.gates(hidden)

    def _hidden(
        self, columns: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns the gated fields, flat, what the head or experts read, and steps."""
        fields = self.fields(columns, training=training)
        if self.gate is not None:
            fields = self.gate(fields)
        flat = _flat(fields)
        hidden, parts, steps = flat, [], []
        if self.interaction is not None:
            is_cross = isinstance(self.interaction, layers.CrossNetwork)
            crossed = _flat(self.interaction(flat if is_cross else fields))
            if self.tower.combine == "stacked":
                hidden = crossed
            else:
                parts.append(crossed)
        if self.mlp is not None:
            steps = self.mlp(hidden, training=training)
            parts.append(steps[-1])
        return flat, tf.concat(parts or [hidden], axis=-1), steps


def own_fields(tower: Tower, features: Iterable[Any], tables: Tables) -> FieldEncoder:
    """Makes the fields of a tower that reads the features of one owner.

    Args:
        tower: the declaration.
        features: the features.
        tables: embedding tables by feature name.

    Raises:
        ValueError: the features belong to several owners, or there is none.
    """
    features = tuple(features)
    if len({feature.owner for feature in features}) != 1:
        owned = ", ".join(f"{f.name} of {f.owner}" for f in features)
        raise ValueError(
            "a tower reads the features of one owner, at least one. "
            f"Received: {owned or 'none'}"
        )
    return FieldEncoder(features, tables, tower.dimension)


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

    def __init__(self, features: Iterable[Any], tables: Tables, tasks: int) -> None:
        super().__init__(name="bias_model", autocast=False)
        self.fields = FieldEncoder(features, tables, tasks)

    def call(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Returns float32 `[rows, tasks]`."""
        fields = self.fields(columns, training=training)
        return tf.reduce_sum(tf.cast(fields, tf.float32), axis=1)


class MLP(tf.keras.layers.Layer):
    """The MLP of a tower: dense, normalisation, activation, dropout, repeated.

    Args:
        tower: the declaration.
    """

    def __init__(self, tower: Tower) -> None:
        super().__init__(name="mlp", autocast=False)
        self.steps: list[list[tf.keras.layers.Layer]] = []
        for unit in tower.units:
            # Batch normalisation takes a bias away again.
            use_bias = tower.normalization != "batch"
            step = [tf.keras.layers.Dense(unit, use_bias=use_bias)]
            if tower.normalization == "batch":
                step.append(RowBatchNormalization())
            elif tower.normalization == "layer":
                step.append(tf.keras.layers.LayerNormalization())
            step.append(tf.keras.layers.Activation(tower.activation))
            if tower.dropout:
                step.append(
                    # The generator's state is in every checkpoint: a resumed training
                    # drops the units that an uninterrupted one would have dropped.
                    tf.keras.layers.Dropout(tower.dropout, rng_type="stateful")
                )
            self.steps.append(step)

    @property
    def layers(self) -> list[tf.keras.layers.Layer]:
        """All the layers, in order."""
        return [layer for step in self.steps for layer in step]

    def call(self, rows: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Returns what each step gives, the last of them the MLP's output."""
        outputs = []
        for step in self.steps:
            for layer in step:
                takes_mode = isinstance(
                    layer, tf.keras.layers.Dropout | RowBatchNormalization
                )
                rows = layer(rows, training=training) if takes_mode else layer(rows)
            outputs.append(rows)
        return outputs


class TaskHeads(tf.keras.layers.Layer):
    """A linear layer for each task, over the task's own vector.

    Args:
        tasks: names of the tasks.
        size: numbers for each task.
    """

    def __init__(self, tasks: Sequence[str], size: int) -> None:
        super().__init__(name="heads", autocast=False)
        self.tasks = tuple(tasks)
        self.heads = [tf.keras.layers.Dense(size) for _ in tasks]

    def call(self, vectors: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns `[rows, tasks * size]` from vectors `[rows, e]` by task."""
        outputs = [
            head(vectors[task])
            for task, head in zip(self.tasks, self.heads, strict=True)
        ]
        return tf.concat(outputs, axis=-1)


_GATES = {
    "senet": "SENet",
    "senet_plus": "SENetPlus",
    "light_se": "LightSE",
    "attention": "FeatureAttention",
}


def gate_layer(gate: Gate) -> tf.keras.layers.Layer:
    """Makes the layer of a gate."""
    layer_class = getattr(layers, _GATES[gate.kind])
    return layer_class(**gate.options(), name="gate")


def interaction_layer(interaction: Interaction) -> tf.keras.layers.Layer:
    """Makes the layer of an interaction.

    A `CrossNetwork` reads flat rows, every other one fields.
    """
    kind, options = interaction.kind, interaction.options()
    name = "interaction"
    if kind in ("dcn_v1", "dcn_v2"):
        version = kind.removeprefix("dcn_")
        return layers.CrossNetwork(version=version, name=name, **options)
    if kind == "cin":
        return layers.CIN(name=name, **options)
    options["kind"] = options.pop("pairs")
    if kind == "bilinear":
        return layers.BilinearInteraction(name=name, **options)
    if kind == "fibinet_plus":
        options["units"] = options.pop("compressed")
        return layers.FiBiNet("plus", name=name, **options)
    return layers.FiBiNet("original", name=name, **options)


def experts_layer(
    experts: Experts, tasks: Sequence[str], activation: str, **kwargs: Any
) -> tf.keras.layers.Layer:
    """Makes the layer of experts; what is left over are arguments of a Keras layer."""
    options = {**experts.options(), "activation": activation, "name": "experts"}
    options |= kwargs
    if experts.kind == "mmoe":
        return layers.MMoE(tasks, options.pop("count"), **options)
    return layers.PLE(tasks, **options)


def _flat(rows: tf.Tensor) -> tf.Tensor:
    """Reshapes `[rows, ...]` to `[rows, n]`."""
    return tf.reshape(rows, [-1, math.prod(rows.shape[1:])])
