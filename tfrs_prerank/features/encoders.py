"""Keras layers that turn columns into fields: `[rows, F, D]` for a tower.

One encoder per kind of feature gives `[rows, dimension]`; `FieldEncoder` brings those
of a tower to one size and stacks them. Embedding tables are made once for the whole
model, since features may share them across towers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.distribution import global_sum
from tfrs_prerank.features.declarations import (
    Categorical,
    Dense,
    Match,
    Numeric,
    Sequence,
    Text,
)
from tfrs_prerank.features.lookups import (
    UNKNOWN_ROW,
    is_missing,
    is_pad,
    make_lookup,
)
from tfrs_prerank.features.schema import Schema, read_statistics
from tfrs_prerank.features.tokens import pieces, words
from tfrs_prerank.layers import (
    AdditiveAttention,
    BehaviorTransformer,
    DotProductAttention,
    TargetAttention,
    ZeroAttention,
)


class EmbeddingTable(tf.keras.layers.Layer):
    """An embedding matrix with the lookup from values to its rows.

    Args:
        feature: the declaration that owns it: `Categorical`, `Text`, `Sequence`, or a
            `Numeric` with buckets.
    """

    def __init__(self, feature: Any) -> None:
        super().__init__(name=f"{feature.name}_table", autocast=False)
        self.feature = feature
        self.lookup: Any = None
        if isinstance(feature, Numeric):
            self.boundaries = _boundaries(feature)
            rows = self.boundaries.size + 1
        else:
            dtype = "string" if isinstance(feature, Text) else feature.dtype
            self.lookup = make_lookup(feature, dtype)
            rows = self.lookup.rows
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=[rows, feature.dimension],
            initializer=tf.keras.initializers.RandomUniform(-0.05, 0.05),
            dtype=self.variable_dtype,
            experimental_autocast=False,
        )
        share = getattr(feature, "id_dropout", 0.0)
        # A generator, whose state a `PreRanker` keeps in its checkpoints.
        self.id_dropout = (
            tf.keras.layers.Dropout(share, rng_type="stateful", dtype="float32")
            if share
            else None
        )
        self.l2 = getattr(feature, "l2", 0.0)
        self.built = True

    def rows_of(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the int64 rows of values, some of them dropped in training."""
        if isinstance(self.feature, Numeric):
            # Bucketize would round boundaries to float32, where seconds are lost, and
            # tf.searchsorted cannot take an empty batch, the op under it can.
            buckets = tf.raw_ops.UpperBound(
                sorted_inputs=tf.constant(self.boundaries[np.newaxis]),
                values=tf.cast(values, tf.float64)[tf.newaxis],
                out_type=tf.int64,
            )
            return buckets[0]
        rows = self.lookup(values)
        if self.id_dropout is not None:
            kept = self.id_dropout(tf.ones_like(rows, tf.float32), training=training)
            rows = tf.where(kept > 0, rows, tf.constant(UNKNOWN_ROW, tf.int64))
        return rows

    def call(
        self, rows: tf.Tensor, used: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Looks rows up.

        Args:
            rows: int64 rows of any shape.
            used: bool, false for padding that the L2 penalty must not count.
            training: adds the L2 penalty.

        Returns:
            Embeddings `rows.shape + [dimension]`.
        """
        # tf.gather would return the rows of a table that is cut over parameter servers
        # in the order of the parts.
        parts = getattr(self.embeddings, "variables", self.embeddings)
        embedded = tf.nn.embedding_lookup(parts, rows)
        if training and self.l2:
            squares = tf.reduce_sum(tf.square(embedded), axis=-1)
            weight = (
                tf.ones_like(squares) if used is None else tf.cast(used, tf.float32)
            )
            count = tf.maximum(global_sum(tf.reduce_sum(weight)), 1.0)
            self.add_loss(self.l2 * tf.reduce_sum(squares * weight) / count)
        return tf.cast(embedded, self.compute_dtype)


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
    """The mean of a text's (or several texts') token embeddings.

    Args:
        feature: the declaration.
        table: its embedding table, or the one it shares.
    """

    def __init__(self, feature: Text, table: EmbeddingTable) -> None:
        super().__init__(name=feature.name, autocast=False)
        self.feature = feature
        self.table = table

    def call(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `[rows, dimension]` for strings `[rows]` or `[rows, T]`."""
        feature = self.feature
        texts = tf.reshape(values, [-1])
        rows, used = _tokens(self.table, texts, feature.max_tokens, training)
        width = feature.max_tokens * feature.max_values
        rows, used = tf.reshape(rows, [-1, width]), tf.reshape(used, [-1, width])
        return pool(self.table(rows, used=used, training=training), used, "mean")


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
        text = self.table.feature
        if not isinstance(text, Text):
            used = tf.logical_not(is_pad(values))
            rows = self.table.rows_of(values, training)
            return self.table(rows, used=used, training=training), used
        texts = tf.reshape(values, [-1])
        rows, used = _tokens(self.table, texts, text.max_tokens, training)
        means = pool(self.table(rows, used=used, training=training), used, "mean")
        length = self.feature.max_length
        # A text without a token says nothing; a pad is one.
        real = tf.reshape(tf.reduce_any(used, axis=-1), [-1, length])
        return tf.reshape(means, [-1, length, means.shape[-1]]), real


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
        tables: Mapping[str, EmbeddingTable],
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
        else:
            field = encoder(columns[feature.name], training=training)
        projection = self.projections.get(feature.name)
        return field if projection is None else projection(field)


def make_tables(
    schema: Schema, given: Mapping[str, EmbeddingTable] | None = None
) -> dict[str, EmbeddingTable]:
    """Makes the embedding tables of a schema, each once.

    Args:
        schema: the declarations.
        given: tables that are there already, by feature name; they are taken.

    Returns:
        Tables by feature name; a feature that shares a table has it under its own name
        too.
    """
    tables = dict(given or {})
    for feature in schema.features:
        if _has_table(feature) and feature.name not in tables:
            tables[feature.name] = EmbeddingTable(feature)
    for feature in schema.features:
        shares = getattr(feature, "shares", None)
        if shares is not None:
            tables[feature.name] = tables[shares]
    return tables


def make_encoder(feature: Any, tables: Mapping[str, EmbeddingTable]) -> Any:
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
    return NumericEncoder(feature, tables.get(feature.name))


def pool(embedded: tf.Tensor, used: tf.Tensor, pooling: str) -> tf.Tensor:
    """Pools vectors `[rows, T, D]` over the used ones to `[rows, D]`.

    >>> import tensorflow as tf
    >>> vectors = tf.constant([[[1.0], [5.0], [9.0]]])
    >>> used = tf.constant([[True, True, False]])
    >>> pool(vectors, used, "mean").numpy().tolist()
    [[3.0]]

    Args:
        embedded: the vectors.
        used: bool `[rows, T]`.
        pooling: `"mean"` or `"sum"`.

    Returns:
        The pooled vectors; zero where none is used. Summed in float32.
    """
    weights = tf.cast(used, tf.float32)
    total = tf.einsum("rt,rtd->rd", weights, tf.cast(embedded, tf.float32))
    if pooling == "mean":
        total /= tf.maximum(tf.reduce_sum(weights, axis=-1, keepdims=True), 1.0)
    return tf.cast(total, embedded.dtype)


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


def _tokens(
    table: EmbeddingTable, texts: tf.Tensor, max_tokens: int, training: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the tokens of texts `[R]` as rows of a table, and which are real.

    Args:
        table: that of a `Text`, which says how texts are split.
        texts: the texts.
        max_tokens: tokens kept of each.
        training: drops ids.

    Returns:
        int64 and bool, `[R, max_tokens]`.
    """
    if table.feature.tokenizer == "wordpiece":
        rows = pieces(texts, max_tokens, table.lookup)
        return tf.maximum(rows, 0), rows >= 0
    tokens = words(texts, max_tokens)
    return table.rows_of(tokens, training), tf.logical_not(is_pad(tokens))


def _has_table(feature: Any) -> bool:
    if isinstance(feature, Numeric):
        return feature.bucketed
    if isinstance(feature, Categorical):
        return True
    return isinstance(feature, Text | Sequence) and feature.shares is None


def _dimension(feature: Any, tables: Mapping[str, EmbeddingTable]) -> int:
    table = tables.get(feature.name)
    size: int = feature.dimension if table is None else table.feature.dimension
    return size


def _boundaries(feature: Numeric) -> np.ndarray:
    """Returns float64 boundaries that float32 values can be equal to."""
    boundaries: Any = feature.boundaries
    if boundaries is None:
        boundaries = read_statistics(feature)["boundaries"]
    if feature.dtype == "float32":
        boundaries = np.asarray(boundaries, np.float32)
    return np.asarray(boundaries, np.float64)
