"""Keras layers that turn columns into fields: `[rows, F, D]` for a tower.

One encoder per kind of feature gives `[rows, dimension]`; `FieldEncoder` brings those
of a tower to one size and stacks them. Embedding tables are made once for the whole
model, since features may share them across towers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfrs_prerank.features.declarations import (
    Categorical,
    Dense,
    Match,
    Numeric,
    Sequence,
    Text,
)
from tfrs_prerank.features.lookups import is_missing, is_pad
from tfrs_prerank.features.pooling import pool
from tfrs_prerank.features.schema import Schema, read_statistics
from tfrs_prerank.features.strings import StringEncoder, encode_lists
from tfrs_prerank.features.tables import EmbeddingTable
from tfrs_prerank.layers import (
    AdditiveAttention,
    BehaviorTransformer,
    DotProductAttention,
    TargetAttention,
    ZeroAttention,
)


class CategoricalEncoder(tf.keras.layers.Layer):
    """An id's embedding, or the mean or sum of several.

    Args:
        feature: the declaration.
        table: its embedding table.
    """

    def __init__(self, feature: Categorical, table: EmbeddingTable) -> None:
        super().__init__(name=feature.name, autocast=False)
        self.feature = feature
        self.table = table

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[rows, dimension]` for ids `[rows]` or `[rows, T]`."""
        rows = self.table.rows_of(values, training)
        if values.shape.rank == 1:
            return self.table(rows, training=training)
        used = tf.logical_not(is_pad(values))
        embedded = self.table(rows, used=used, training=training)
        return pool(embedded, used, self.feature.pooling)


class TextEncoder(tf.keras.layers.Layer):
    """A text's vector, or the mean of those of several texts.

    Args:
        feature: the declaration.
        strings: what encodes each string.
    """

    def __init__(self, feature: Text, strings: StringEncoder) -> None:
        super().__init__(name=feature.name, autocast=False)
        self.feature = feature
        self.strings = strings

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[rows, dimension]` for strings `[rows]` or `[rows, T]`."""
        if values.shape.rank == 1:
            return self.strings(values, training=training)[0]
        vectors, real = encode_lists(self.strings, values, training)
        return pool(vectors, real, "mean")


class NumericEncoder(tf.keras.layers.Layer):
    """A number as `x * w + b`, or its bucket's embedding.

    Args:
        feature: the declaration, a `Numeric` or a `Match`.
        table: the buckets' embedding table, where there are buckets.
    """

    def __init__(
        self, feature: Numeric | Match, table: EmbeddingTable | None = None
    ) -> None:
        super().__init__(name=feature.name, autocast=False)
        self.feature = feature
        self.table = table
        # A match is compressed where it is computed, and its values are ready to use.
        self.numeric = feature if isinstance(feature, Numeric) else None
        self.mean, self.std = 0.0, 1.0
        if self.numeric is not None and self.numeric.standardize:
            statistics = read_statistics(self.numeric)
            self.mean, self.std = statistics["mean"], statistics["std"]
        elif table is not None:
            # Of the middle bucket, which begins at its boundary.
            self.mean = float(table.boundaries[(table.boundaries.size - 1) // 2])
        self.kernel: Any = None
        self.bias: Any = None
        if table is None:
            # Kept in float32: a half-precision kernel would round every product.
            self.kernel = self.add_weight(
                "kernel",
                [feature.dimension],
                initializer="glorot_uniform",
                experimental_autocast=False,
            )
            self.bias = self.add_weight(
                "bias",
                [feature.dimension],
                initializer="zeros",
                experimental_autocast=False,
            )
        self.missing: Any = None
        if self.numeric is not None and self.numeric.missing is not None:
            self.missing = self.add_weight(
                "missing", [feature.dimension], initializer="glorot_uniform"
            )
        self.built = True

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[rows, dimension]` for numbers `[rows]`."""
        if training and self.numeric is not None and values.dtype.is_floating:
            values = tf.debugging.check_numerics(
                values,
                f"{self.name}: NaN or infinity; replace missing numbers by a sentinel "
                "and declare Numeric(missing=...)",
            )
        # float32 holds seconds since 1970 to two minutes only.
        wide = tf.float64 if values.dtype == tf.int64 else tf.float32
        numbers = tf.cast(values, wide)
        if self.numeric is not None and self.numeric.log1p:
            numbers = tf.sign(numbers) * tf.math.log1p(tf.abs(numbers))
        if self.numeric is not None and values.dtype.is_floating:
            # An error would fail the requests that a server batches with this one.
            numbers = tf.where(tf.math.is_finite(numbers), numbers, self.mean)
        if self.table is not None:
            field = self.table(self.table.rows_of(numbers), training=training)
        else:
            numbers = tf.cast((numbers - self.mean) / self.std, tf.float32)
            field = numbers[:, tf.newaxis] * self.kernel + self.bias
        if self.numeric is not None and self.missing is not None:
            unknown = is_missing(self.numeric, values)[:, tf.newaxis]
            field = tf.where(unknown, tf.cast(self.missing, field.dtype), field)
        return tf.cast(field, self.compute_dtype)


class RateEncoder(tf.keras.layers.Layer):
    """The log of a smoothed rate as `x * w + b`.

    Args:
        feature: the declaration, with `per`.
    """

    def __init__(self, feature: Numeric) -> None:
        super().__init__(name=feature.name, autocast=False)
        assert feature.per is not None
        self.feature = feature
        self.columns = (feature.name, feature.per)
        statistics = read_statistics(feature)
        self.rate = statistics["rate"]
        self.mean, self.std = 0.0, 1.0
        if feature.standardize:
            self.mean, self.std = statistics["mean"], statistics["std"]
        # Kept in float32: a half-precision kernel would round every product.
        self.kernel, self.bias = (
            self.add_weight(
                name,
                [feature.dimension],
                initializer=initializer,
                experimental_autocast=False,
            )
            for name, initializer in (("kernel", "glorot_uniform"), ("bias", "zeros"))
        )
        self.missing: Any = None
        if feature.missing is not None:
            self.missing = self.add_weight(
                "missing", [feature.dimension], initializer="glorot_uniform"
            )
        self.built = True

    def call(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Returns `[rows, dimension]` for the two columns of counts, `[rows]` each."""
        counts = [columns[name] for name in self.columns]
        wide = [tf.cast(values, tf.float64) for values in counts]
        unknown = tf.reduce_all(
            [is_missing(self.feature, values) for values in counts], axis=0
        )
        if training:
            wide = [self._checked(values, unknown) for values in wide]
        broken = tf.reduce_any(
            [tf.logical_not(tf.math.is_finite(values)) for values in wide], axis=0
        )
        # A count is from 0, also where a client sends something else.
        nothing = tf.zeros_like(wide[0])
        some, all_ = (
            tf.where(unknown | broken, nothing, tf.maximum(values, 0.0))
            for values in wide
        )
        # The log of both over the prior's, which is exactly 0 where both are 0.
        weight = self.feature.smoothing
        numbers = tf.math.log1p(some / (weight * self.rate))
        numbers -= tf.math.log1p(all_ / weight)
        numbers = tf.cast((numbers - self.mean) / self.std, tf.float32)
        field = numbers[:, tf.newaxis] * self.kernel + self.bias
        if self.missing is not None:
            unknown = (unknown | broken)[:, tf.newaxis]
            field = tf.where(unknown, tf.cast(self.missing, field.dtype), field)
        return tf.cast(field, self.compute_dtype)

    def _checked(self, values: tf.Tensor, unknown: tf.Tensor) -> tf.Tensor:
        """Refuses what is no count; one op, which a graph can hold everywhere."""
        negative = tf.logical_not(unknown) & (values < 0)
        return tf.debugging.check_numerics(
            tf.where(negative, tf.constant(math.nan, values.dtype), values),
            f"{self.name}: NaN, infinity or a negative count in it or in "
            f"{self.feature.per}; declare a sentinel as Numeric(missing=...) for both",
        )


class DenseEncoder(tf.keras.layers.Layer):
    """A given vector, projected and normalised; all zeros means missing.

    Args:
        feature: the declaration.
    """

    def __init__(self, feature: Dense) -> None:
        super().__init__(name=feature.name, autocast=False)
        self.feature = feature
        self.projection = tf.keras.layers.Dense(feature.dimension, name="projection")
        self.normalization = tf.keras.layers.LayerNormalization(name="normalization")
        self.missing = self.add_weight(
            "missing", [feature.dimension], initializer="glorot_uniform"
        )

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[rows, dimension]` for vectors `[rows, size]`."""
        if training:
            values = tf.debugging.check_numerics(
                values,
                f"{self.name}: NaN or infinity; a vector of zeros means missing",
            )
        field = self.normalization(self.projection(values))
        unknown = is_missing(self.feature, values)[:, tf.newaxis]
        return tf.where(unknown, tf.cast(self.missing, field.dtype), field)


class BehaviorEncoder(tf.keras.layers.Layer):
    """A history's behaviours as vectors, seen by each other where it has a Transformer.

    Args:
        feature: the declaration.
        table: its embedding table, or the one it shares.
    """

    def __init__(self, feature: Sequence, table: EmbeddingTable) -> None:
        super().__init__(name="behaviors", autocast=False)
        self.feature = feature
        self.table = table
        self.transformer = (
            BehaviorTransformer(
                blocks=feature.blocks,
                heads=feature.heads,
                dropout=feature.dropout,
                positions=feature.positions,
                max_length=(
                    feature.max_length if feature.positions == "learned" else None
                ),
                name="transformer",
            )
            if feature.encoder == "transformer"
            else None
        )

    def call(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes histories.

        Args:
            columns: ids or texts `[B, T]` under the feature's name; where it has
                `times`, those and the request's `time` too.
            training: drops ids and units, adds the L2 penalty.

        Returns:
            The behaviours `[B, T, dimension]` and which are real, bool `[B, T]`.
        """
        embedded, used = self._embedded(columns[self.feature.name], training)
        if self.transformer is not None:
            times = self.feature.times
            gaps = None if times is None else _gaps(columns, times)
            embedded = self.transformer(
                embedded, mask=used, gaps=gaps, training=training
            )
        return embedded, used

    def _embedded(
        self, values: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if isinstance(self.table, StringEncoder):
            return encode_lists(self.table, values, training)
        used = tf.logical_not(is_pad(values))
        rows = self.table.rows_of(values, training)
        return self.table(rows, used=used, training=training), used


class SequenceEncoder(tf.keras.layers.Layer):
    """A history as one vector: its mean, or what the request's other fields find.

    Args:
        feature: the declaration.
        table: its embedding table, or the one it shares.
    """

    def __init__(self, feature: Sequence, table: EmbeddingTable) -> None:
        super().__init__(name=feature.name, autocast=False)
        self.feature = feature
        self.table = table
        self.behaviors = BehaviorEncoder(feature, table)
        self.attention = _attention(feature)

    def call(
        self,
        columns: Mapping[str, tf.Tensor],
        context: tf.Tensor | None,
        training: bool = False,
    ) -> tf.Tensor:
        """Encodes histories.

        Args:
            columns: as `BehaviorEncoder` takes them.
            context: what attends, `[B, d]`: the request's other fields.
            training: drops ids and units, adds the L2 penalty.

        Returns:
            `[B, dimension]`; zero for an empty history.
        """
        embedded, used = self.behaviors(columns, training=training)
        if self.attention is None:
            return pool(embedded, used, "mean")
        return self.attention(context, embedded, used, training=training)


class FieldEncoder(tf.keras.layers.Layer):
    """All features of one tower as fields of one size.

    Args:
        features: the tower's declarations.
        tables: embedding tables by feature name, from `make_tables`.
        dimension: size D of a field; a feature of another size is projected to it.
    """

    def __init__(
        self,
        features: Iterable[Any],
        tables: Tables,
        dimension: int,
    ) -> None:
        super().__init__(name="fields", autocast=False)
        self.features = tuple(features)
        self.dimension = dimension
        self.encoders = {f.name: make_encoder(f, tables) for f in self.features}
        self.projections = {
            feature.name: tf.keras.layers.Dense(
                dimension, use_bias=False, name=f"{feature.name}_projection"
            )
            for feature in self.features
            if _dimension(feature, tables) != dimension
        }

    @property
    def field_names(self) -> list[str]:
        """The names of the F fields, in order."""
        return [feature.name for feature in self.features]

    def call(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Encodes columns `[rows]` or `[rows, T]` to fields `[rows, F, D]`."""
        fields = {
            feature.name: self._encode(feature, columns, None, training)
            for feature in self.features
            if not isinstance(feature, Sequence)
        }
        context = tf.concat(list(fields.values()), axis=-1) if fields else None
        for feature in self.features:
            if isinstance(feature, Sequence):
                fields[feature.name] = self._encode(feature, columns, context, training)
        return tf.stack([fields[name] for name in self.field_names], axis=1)

    def _encode(
        self,
        feature: Any,
        columns: Mapping[str, tf.Tensor],
        context: tf.Tensor | None,
        training: bool,
    ) -> tf.Tensor:
        encoder = self.encoders[feature.name]
        if isinstance(feature, Sequence):
            field = encoder(columns, context, training=training)
        elif isinstance(encoder, RateEncoder):
            field = encoder(columns, training=training)
        else:
            field = encoder(columns[feature.name], training=training)
        projection = self.projections.get(feature.name)
        return field if projection is None else projection(field)


Tables = Mapping[str, EmbeddingTable | StringEncoder]
"""Embedding tables and string encoders, by feature name."""


def make_tables(
    schema: Schema, given: Tables | None = None
) -> dict[str, EmbeddingTable | StringEncoder]:
    """Makes the embedding tables and string encoders of a schema, each once.

    Args:
        schema: the declarations.
        given: tables that are there already, by feature name; they are taken.

    Returns:
        Tables by feature name; a feature that shares one has it under its own name too.
        A `Text` has a string encoder, of its own or another's token embeddings, and so
        has a `Sequence` of texts.
    """
    tables: dict[str, Any] = dict(given or {})
    # A feature may share the table of one that is declared after it.
    for feature in sorted(schema.features, key=lambda feature: _shares(feature) != ""):
        name, shares = feature.name, _shares(feature)
        if name in tables:
            continue
        if isinstance(feature, Text) and feature.encoder is not None:
            tables[name] = StringEncoder(feature, tables.get(shares))
        elif shares:
            tables[name] = tables[shares]
        elif _has_table(feature):
            tables[name] = EmbeddingTable(feature)
    return tables


def distinct_tables(tables: Tables) -> list[EmbeddingTable]:
    """Returns all embedding tables, those within string encoders too, each once.

    Args:
        tables: from `make_tables`.
    """
    found: dict[int, EmbeddingTable] = {}
    for table in tables.values():
        own = table.table if isinstance(table, StringEncoder) else table
        if own is not None:
            found[id(own)] = own
    return list(found.values())


def make_encoder(feature: Any, tables: Tables) -> Any:
    """Makes the encoder of one feature.

    Args:
        feature: the declaration.
        tables: embedding tables by feature name.

    Returns:
        A layer from a column to `[rows, dimension]`.
    """
    if isinstance(feature, Categorical):
        return CategoricalEncoder(feature, tables[feature.name])
    if isinstance(feature, Text):
        return TextEncoder(feature, tables[feature.name])
    if isinstance(feature, Sequence):
        return SequenceEncoder(feature, tables[feature.name])
    if isinstance(feature, Dense):
        return DenseEncoder(feature)
    if isinstance(feature, Numeric) and feature.per is not None:
        return RateEncoder(feature)
    return NumericEncoder(feature, tables.get(feature.name))


def _attention(feature: Sequence) -> Any:
    """Makes the layer that attends to a sequence, None for its mean."""
    if feature.encoder in ("zero_attention", "transformer"):
        return ZeroAttention(
            heads=feature.heads,
            zero_logit=feature.zero_logit,
            score=feature.score,
            name="attention",
        )
    if feature.encoder == "target_attention":
        return TargetAttention(softmax=feature.softmax, name="attention")
    if feature.encoder == "dot_attention":
        return DotProductAttention(name="attention")
    if feature.encoder == "additive_attention":
        return AdditiveAttention(name="attention")
    return None


def _gaps(columns: Mapping[str, tf.Tensor], times: str) -> tf.Tensor:
    """Returns int64 seconds from behaviours to the request, -1 where not known."""
    known = tf.logical_not(is_pad(columns[times]))
    # float32 holds seconds since 1970 to two minutes only, so int64 it stays.
    gaps = columns["time"][:, tf.newaxis] - columns[times]
    return tf.where(known, gaps, tf.constant(-1, tf.int64))


def _has_table(feature: Any) -> bool:
    if isinstance(feature, Numeric):
        return feature.bucketed
    return isinstance(feature, Categorical | Sequence)


def _dimension(feature: Any, tables: Tables) -> int:
    table = tables.get(feature.name)
    size: int = feature.dimension if table is None else table.size
    return size


def _shares(feature: Any) -> str:
    """Returns the name of the feature whose table another uses, `""` for its own."""
    return getattr(feature, "shares", None) or ""
