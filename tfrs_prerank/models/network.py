"""The network of a pre-ranker: towers, scorer and bias, from a batch to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.features.encoders import make_tables
from tfrs_prerank.features.match import Matches
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.columns import (
    bias_columns,
    check_batch,
    columns_of,
    example_of,
    flatten_rows,
    match_columns,
    pack,
    real_documents,
    unpack,
)
from tfrs_prerank.models.fusion import Fusion
from tfrs_prerank.objectives.in_batch import first_rows
from tfrs_prerank.objectives.terms import Forward
from tfrs_prerank.scorers import Scorer, make_scorer
from tfrs_prerank.towers import BiasModel, Tower, TowerModel
from tfrs_prerank.towers.encoded import Encoded
from tfrs_prerank.towers.tower_model import own_fields


class Network(tf.keras.layers.Layer):
    """Query tower, doc tower, cross tower and scorer over request-major batches.

    The query tower runs on the B requests, the others on the V real documents, packed
    by the mask: padding enters no normalisation, no dropout and no loss.

    Args:
        schema: the features and tasks; privileged features are not read.
        query_tower: declaration of the query tower.
        doc_tower: declaration of the document tower.
        cross_tower: declaration of the cross tower, None for two towers.
        scorer: declaration of the scorer.
        distinct_documents: run the document tower once for each distinct document of a
            batch.
    """

    def __init__(
        self,
        schema: Schema,
        query_tower: Tower,
        doc_tower: Tower,
        cross_tower: Tower | None,
        scorer: Scorer,
        distinct_documents: bool,
    ) -> None:
        super().__init__(name="network", autocast=False)
        privileged = {*schema.columns()}
        schema = schema.served
        self.schema = schema
        self._privileged = privileged.difference(schema.columns())
        self.distinct_documents = distinct_documents
        self.tables = make_tables(schema)
        self.matches = Matches(schema)
        names, tasks = schema.task_names, len(schema.tasks)
        of = ("tasks",) if scorer.shares_vectors else names
        self.query_tower = self._tower(query_tower, "query", of, query_tower.output)
        self.doc_tower = self._tower(doc_tower, "doc", of, doc_tower.output)
        self.cross_tower: TowerModel | None = None
        if cross_tower is not None:
            # The network of the scorer reads one vector, whatever the tasks.
            joins = scorer.cross == "concat"
            made = (("cross",), cross_tower.output) if joins else (names, 1)
            self.cross_tower = self._tower(cross_tower, "cross", *made)
        self.bias_model = (
            BiasModel(schema.training_only, self.tables, tasks)
            if schema.training_only
            else None
        )
        self.scorer = make_scorer(scorer, names)
        self.fusion = Fusion(schema.tasks)
        # Every weight exists from here on, so that a backup finds what it restores.
        example = example_of(schema)
        self._build_scorer(example)
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
            The outputs; see `Forward`.
        """
        check_batch(self.schema, batch, training, self._privileged)
        mask = batch["mask"]
        index = real_documents(mask)
        request = index // tf.shape(mask, out_type=tf.int64)[1]

        query_columns = columns_of(self.schema, batch, "query")
        doc_columns = columns_of(self.schema, batch, "doc")
        query_vectors = self.encode_query(query_columns, training)
        doc_vectors = self._encode_packed(batch, doc_columns, index, training)
        cross = None
        if self.cross_tower is not None:
            cross = columns_of(self.schema, batch, "cross")
            cross |= match_columns(self.matches, batch, query_columns, doc_columns)
            cross = pack(cross, index)
        queries = tf.gather(query_vectors, request)
        logits = self.compare(queries, doc_vectors, cross, training)
        served = unpack(logits, index, mask)
        if self.bias_model is not None and training:
            logits += self.bias_model(
                bias_columns(self.schema, batch, index), training=True
            )
        logits = unpack(logits, index, mask)
        return Forward(
            logits=logits,
            # Several tasks' sigmoids of 0 would put padding before documents.
            scores=self.scores(logits) * tf.cast(mask, tf.float32),
            query_vectors=query_vectors,
            doc_vectors=doc_vectors,
            index=index,
            served_logits=served,
        )

    # The parts, as an export traces them.

    def encode_query(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Encodes query columns to what the scorer keeps of them, `[B, q]`."""
        columns = {**columns, **self.matches.own(columns, "query")}
        return self.scorer.query_side(self._encoded("query", columns, training))

    def encode_docs(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Encodes document columns `[M, ...]` to what the scorer stores, `[M, p]`."""
        columns = {**columns, **self.matches.own(columns, "doc")}
        return self.scorer.doc_side(self._encoded("doc", columns, training))

    def compare(
        self,
        queries: tf.Tensor,
        docs: tf.Tensor,
        cross: Mapping[str, tf.Tensor] | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Computes logits from encoded queries and documents.

        Args:
            queries: `[B, q]`.
            docs: one document for each query `[B, p]`, or lists `[B, N, p]`.
            cross: columns of the cross tower for every document in order, `[rows]` or
                `[rows, T]`; None without one.
            training: drops units of the cross tower.

        Returns:
            `[B, tasks]` or `[B, N, tasks]`.
        """
        if self.cross_tower is None or cross is None:
            return self.scorer.compare(queries, docs, None)
        outputs = self.cross_tower(cross, training=training).outputs
        if self.scorer.scorer.cross == "concat":
            context = outputs[:, 0]
            if docs.shape.rank == 3:
                shape = [*tf.unstack(tf.shape(docs)[:2]), context.shape[-1]]
                context = tf.reshape(context, shape)
            return self.scorer.compare(queries, docs, context)
        logits = self.scorer.compare(queries, docs, None)
        return logits + tf.reshape(outputs[:, :, 0], tf.shape(logits))

    def scores(self, logits: tf.Tensor) -> tf.Tensor:
        """Fuses logits `[..., tasks]` into the pre-rank scores `[...]`."""
        return self.fusion(logits)

    def field_weights(
        self, batch: Mapping[str, tf.Tensor], side: str
    ) -> tf.Tensor | None:
        """Returns the weights that a tower's gate gives its fields.

        Args:
            batch: a batch.
            side: `"query"`, `"doc"` or `"cross"`.

        Returns:
            float32 `[rows, F]`, a row for each request or real document; None for a
            tower without a gate.
        """
        tower = getattr(self, f"{side}_tower")
        if tower is None or tower.gate is None:
            return None
        return tower.field_weights(self._tower_columns(batch, side))

    def expert_gates(self, batch: Mapping[str, tf.Tensor], side: str) -> Any:
        """Returns how much a tower's experts count for each task.

        Args:
            batch: a batch.
            side: `"query"`, `"doc"`, `"cross"`, or `"scorer"` for those on top.

        Returns:
            Gates `[rows, experts]`, a row for each request or real document, by task
            (`layers.MMoE.gates`) or by level (`layers.PLE.gates`); None for a side
            without experts.
        """
        if side == "scorer":
            return self._scorer_gates(batch)
        tower = getattr(self, f"{side}_tower")
        if tower is None or tower.experts is None:
            return None
        return tower.expert_gates(self._tower_columns(batch, side))

    def _scorer_gates(self, batch: Mapping[str, tf.Tensor]) -> Any:
        if self.scorer.scorer.kind != "experts":
            return None
        index = real_documents(batch["mask"])
        request = index // tf.shape(batch["mask"], out_type=tf.int64)[1]
        queries = self.encode_query(columns_of(self.schema, batch, "query"))
        docs = pack(columns_of(self.schema, batch, "doc"), index)
        context = None
        if self.cross_tower is not None and self.scorer.scorer.cross == "concat":
            cross = self._tower_columns(batch, "cross")
            context = self.cross_tower(cross).outputs[:, 0]
        queries = tf.gather(queries, request)
        return self.scorer.gates(queries, self.encode_docs(docs), context)

    # Columns of a batch.

    def _tower_columns(
        self, batch: Mapping[str, tf.Tensor], side: str
    ) -> dict[str, tf.Tensor]:
        """Returns what a tower reads, of requests or of real documents."""
        columns = columns_of(self.schema, batch, side)
        if side == "cross":
            query, doc = (
                columns_of(self.schema, batch, "query"),
                columns_of(self.schema, batch, "doc"),
            )
            columns |= match_columns(self.matches, batch, query, doc)
        if side != "query":
            columns = pack(columns, real_documents(batch["mask"]))
        if side != "cross":
            columns = {**columns, **self.matches.own(columns, side)}
        return columns

    def _encoded(
        self, side: str, columns: Mapping[str, tf.Tensor], training: bool
    ) -> Encoded:
        tower = self.query_tower if side == "query" else self.doc_tower
        return tower(columns, training=training)

    def _build_scorer(self, example: Mapping[str, tf.Tensor]) -> None:
        query = columns_of(self.schema, example, "query")
        query |= self.matches.own(query, "query")
        doc = {
            n: flatten_rows(c)
            for n, c in columns_of(self.schema, example, "doc").items()
        }
        doc |= self.matches.own(doc, "doc")
        joins = self.cross_tower is not None and self.scorer.scorer.cross == "concat"
        self.scorer.ensure_built(
            self._encoded("query", query, False),
            self._encoded("doc", doc, False),
            self.cross_tower.size if joins else None,  # type: ignore[union-attr]
        )

    def _tower(
        self, tower: Tower, owner: str, tasks: Sequence[str], size: int
    ) -> TowerModel:
        fields = own_fields(tower, self.schema.owned_by(owner), self.tables)
        return TowerModel(tower, fields, tasks, size, f"{owner}_tower")

    def _encode_packed(
        self,
        batch: Mapping[str, tf.Tensor],
        doc_columns: Mapping[str, tf.Tensor],
        index: tf.Tensor,
        training: bool,
    ) -> tf.Tensor:
        columns = pack(doc_columns, index)
        if not self.distinct_documents:
            return self.encode_docs(columns, training)
        ids = tf.gather(tf.reshape(batch["doc_ids"], [-1]), index)
        first, place = first_rows(ids)
        columns = {name: tf.gather(column, first) for name, column in columns.items()}
        return tf.gather(self.encode_docs(columns, training), place)
