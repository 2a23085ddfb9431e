"""Embedding tables: a matrix and the way from a value to its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.distribution import global_sum
from tfrs_prerank.features.declarations import Numeric, Text
from tfrs_prerank.features.lookups import (
    UNKNOWN_ROW,
    make_lookup,
)
from tfrs_prerank.features.schema import read_statistics


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
        self.hashes = getattr(self.lookup, "hashes", 1)
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
        self.size: int = feature.dimension
        self.built = True

    @property
    def lookups(self) -> list[tf.lookup.StaticHashTable]:
        """The hash tables that are filled from files."""
        table = getattr(self.lookup, "table", None)
        return [] if table is None else [table]

    def rows_of(self, values: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the int64 rows of values, some of them dropped in training.

        Of the shape of the values, with `[hashes]` behind it for several hashes.
        """
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
            ones = tf.ones_like(values, tf.float32)
            kept = self.id_dropout(ones, training=training) > 0
            if self.hashes > 1:  # A value is dropped with all its rows.
                kept = kept[..., tf.newaxis]
            rows = tf.where(kept, rows, tf.constant(UNKNOWN_ROW, tf.int64))
        return rows

    def call(
        self, rows: tf.Tensor, used: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """Looks values' rows up.

        Args:
            rows: int64 rows of values, as `rows_of` gives them.
            used: bool of the values' shape, false for padding that the L2 penalty must
                not count.
            training: adds the L2 penalty, of every row of a value.

        Returns:
            Embeddings, the values' shape + `[dimension]`.
        """
        # tf.gather would return the rows of a table that is cut over parameter servers
        # in the order of the parts.
        parts = getattr(self.embeddings, "variables", self.embeddings)
        embedded = tf.nn.embedding_lookup(parts, rows)
        if training and self.l2:
            squares = tf.reduce_sum(tf.square(embedded), axis=-1)
            weight = tf.ones_like(squares)
            if used is not None:
                used = used if self.hashes == 1 else used[..., tf.newaxis]
                weight *= tf.cast(used, tf.float32)
            count = tf.maximum(global_sum(tf.reduce_sum(weight)), 1.0)
            self.add_loss(self.l2 * tf.reduce_sum(squares * weight) / count)
        if self.hashes > 1:
            embedded = tf.reduce_mean(embedded, axis=-2)
        return tf.cast(embedded, self.compute_dtype)


def _boundaries(feature: Numeric) -> np.ndarray:
    """Returns float64 boundaries that float32 values can be equal to."""
    boundaries: Any = feature.boundaries
    if boundaries is None:
        boundaries = read_statistics(feature)["boundaries"]
    if feature.dtype == "float32":
        boundaries = np.asarray(boundaries, np.float32)
    return np.asarray(boundaries, np.float64)
