"""The network of a ranker: one tower over (request, document) pairs."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tfrs_prerank.features.encoders import (
    Tables,
    distinct_tables,
    make_tables,
)
from tfrs_prerank.features.match import Matches
from tfrs_prerank.features.pair_fields import PairFields, Pairs
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.columns import (
    bias_columns,
    check_batch,
    columns_of,
    example_of,
    match_columns,
    own_columns,
    pack,
    real_documents,
    unpack,
)
from tfrs_prerank.models.config import RankerConfig
from tfrs_prerank.models.fusion import Fusion
from tfrs_prerank.objectives.terms import Forward
from tfrs_prerank.towers import BiasModel, TowerModel


class RankerNetwork(tf.keras.layers.Layer):
    """One tower over all features of (request, document) pairs.

    It runs on the V real documents, packed by the mask; what belongs to a request alone
    is encoded once for it. See `features.pair_fields.PairFields`.

    Args:
        schema: the features and tasks; privileged features are read too.
        config: the declaration.
        tables: embedding tables that are there already, by feature name, to share.
    """

    def __init__(
        self,
        schema: Schema,
        config: RankerConfig,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(name="ranker", autocast=False)
        self.schema = schema
        self.tables = make_tables(schema, tables)
        self.matches = Matches(schema)
        fields = PairFields(
            schema, self.tables, config.tower.dimension, config.attention
        )
        self.tower = TowerModel(
            config.tower, fields, schema.task_names, size=1, name="ranker_tower"
        )
        self.bias_model = (
            BiasModel(schema.training_only, self.tables, len(schema.tasks))
            if schema.training_only
            else None
        )
        self.fusion = Fusion(schema.tasks)
        # Every weight exists from here on, so that a backup finds what it restores.
        example = example_of(schema)
        self(example)
        if self.bias_model is not None:
            self.bias_model(bias_columns(schema, example, tf.zeros([1], tf.int64)))

    # Nothing here branches on a tensor; without AutoGraph tracing takes half the time.
    @tf.autograph.experimental.do_not_convert
    def call(self, batch: Mapping[str, tf.Tensor], training: bool = False) -> Forward:
        """Computes logits for a batch.

        Args:
            batch: the features, `doc_ids` and `mask`.
            training: adds the training-only bias, drops ids and units.

        Returns:
            The outputs, without vectors; see `Forward`.
        """
        check_batch(self.schema, batch, training)
        mask = batch["mask"]
        index = real_documents(mask)
        encoded = self.tower(self._pairs(batch, index), training=training)
        logits = encoded.outputs[:, :, 0]
        served = unpack(logits, index, mask)
        if self.bias_model is not None and training:
            columns = bias_columns(self.schema, batch, index)
            logits += self.bias_model(columns, training=True)
        logits = unpack(logits, index, mask)
        # Several tasks' sigmoids of 0 would put padding before documents.
        scores = self.fusion(logits) * tf.cast(mask, tf.float32)
        return Forward(logits, scores, index, served_logits=served)

    @tf.autograph.experimental.do_not_convert
    def teach(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns a batch with `teacher/<task>`, the logits, NaN in padding."""
        forward = self(self._checked(batch), training=False)
        known = tf.where(batch["mask"][:, :, tf.newaxis], forward.logits, float("nan"))
        logits = {
            f"teacher/{task}": known[:, :, place]
            for place, task in enumerate(self.schema.task_names)
        }
        return {**batch, **logits}

    def penalties_apart_from(self, tables: Tables) -> list[tf.Tensor]:
        """Returns the penalties of the last call but those of some shared tables."""
        shared = {id(table) for table in distinct_tables(tables)}
        return [
            loss
            for table in distinct_tables(self.tables)
            if id(table) not in shared
            for loss in table.losses
        ]

    def _checked(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the columns to be read; a number that is none is an error.

        Outside of training it would stand for the mean, and whoever learns from the
        logit would not see the column.
        """
        columns = own_columns(self.schema, batch)
        mask = tf.convert_to_tensor(batch["mask"])
        for name, column in self.schema.columns().items():
            if column.dtype != "float32" or column.training_only:
                continue
            values = columns[name]
            if column.owner != "query":
                # Padding may hold anything.
                is_real = mask[:, :, tf.newaxis] if values.shape.rank == 3 else mask
                values = tf.where(is_real, values, 0.0)
            columns[name] = tf.debugging.check_numerics(
                values, f"teach: {name}: NaN or infinity"
            )
        return columns

    def _pairs(self, batch: Mapping[str, tf.Tensor], index: tf.Tensor) -> Pairs:
        schema = self.schema
        query = columns_of(schema, batch, "query")
        doc = columns_of(schema, batch, "doc")
        cross = columns_of(schema, batch, "cross")
        cross |= match_columns(self.matches, batch, query, doc)
        packed = pack(doc, index)
        length = tf.shape(batch["mask"], out_type=tf.int64)[1]
        return Pairs(
            query={**query, **self.matches.own(query, "query")},
            doc={**packed, **self.matches.own(packed, "doc")},
            cross=pack(cross, index),
            request=index // length,
        )
