"""All features as fields of (request, document) pairs, for a ranker's single tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import tensorflow as tf

from tfrs_prerank.features.declarations import Sequence
from tfrs_prerank.features.encoders import (
    BehaviorEncoder,
    FieldEncoder,
    Tables,
)
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.layers import TargetAttention, ZeroAttention

PairAttention = Literal["target_attention", "zero_attention"]
"""What a pair attends to histories with."""


class Pairs(NamedTuple):
    """The columns of B requests and their V real documents.

    Attributes:
        query: of the requests, `[B]` or `[B, T]` by name, their own matches too.
        doc: of the documents, `[V]` or `[V, T]`, their own matches too.
        cross: of the pairs, `[V]` or `[V, T]`, with their matches.
        request: which request each document is of, int64 `[V]`.
    """

    query: Mapping[str, tf.Tensor]
    doc: Mapping[str, tf.Tensor]
    cross: Mapping[str, tf.Tensor]
    request: tf.Tensor


class PairFields(tf.keras.layers.Layer):
    """Encodes (request, document) pairs to fields `[V, F, D]`.

    What belongs to the request is encoded once for it: its fields, and the behaviours
    of its histories, with their Transformer where they have one. Then each document's
    pair attends to them, with all the pair's other fields (Deep Interest Network, with
    the document as the target): a sequence's own `encoder` does so with the request's
    fields alone.

    Cost of a history for each document: see `layers.TargetAttention`; `T D` for zero
    attention.

    Args:
        schema: the features, all of which are read.
        tables: from `make_tables`.
        dimension: size D of a field; a feature of another size is projected to it.
        attention: see `Ranker`.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Tables,
        dimension: int,
        attention: PairAttention,
    ) -> None:
        super().__init__(name="pair_fields", autocast=False)
        owned = {owner: schema.owned_by(owner) for owner in ("query", "doc", "cross")}
        histories = [f for f in owned["query"] if isinstance(f, Sequence)]
        owned["query"] = tuple(f for f in owned["query"] if f not in histories)
        self.encoders = {
            owner: FieldEncoder(features, tables, dimension)
            for owner, features in owned.items()
            if features
        }
        self.behaviors = {f.name: BehaviorEncoder(f, tables[f.name]) for f in histories}
        layer = {"target_attention": TargetAttention, "zero_attention": ZeroAttention}
        self.attentions = {
            f.name: layer[attention](name=f"{f.name}_attention") for f in histories
        }
        self.projections = {
            f.name: tf.keras.layers.Dense(
                dimension, use_bias=False, name=f"{f.name}_projection"
            )
            for f in histories
            if tables[f.name].size != dimension
        }

    @property
    def field_names(self) -> list[str]:
        """The names of the F fields, in order."""
        encoders = self.encoders.values()
        return [
            *(name for encoder in encoders for name in encoder.field_names),
            *self.behaviors,
        ]

    def call(self, pairs: Pairs, training: bool = False) -> tf.Tensor:
        """Encodes pairs to fields `[V, F, D]`, in the order of `field_names`."""
        parts = []
        for owner, encoder in self.encoders.items():
            fields = encoder(getattr(pairs, owner), training=training)
            parts.append(
                tf.gather(fields, pairs.request) if owner == "query" else fields
            )
        joined = tf.concat(parts, axis=1)
        size = joined.shape[1] * joined.shape[2]
        target = tf.reshape(joined, [-1, size])
        for name, encoder in self.behaviors.items():
            embedded, used = encoder(pairs.query, training=training)
            history = self.attentions[name](
                target,
                tf.gather(embedded, pairs.request),
                tf.gather(used, pairs.request),
                training=training,
            )
            if name in self.projections:
                history = self.projections[name](history)
            joined = tf.concat([joined, history[:, tf.newaxis]], axis=1)
        return joined
