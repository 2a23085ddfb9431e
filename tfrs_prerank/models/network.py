"""The network of a pre-ranker: towers, scorer and bias, from a batch to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.declarations import BATCH_COLUMNS
from tfrs_prerank.features.encoders import make_tables
from tfrs_prerank.features.match import cross_matches, keys_of, own_matches
from tfrs_prerank.features.schema import BATCH_OWN_COLUMNS, Column, Schema
from tfrs_prerank.objectives.in_batch import first_rows
from tfrs_prerank.objectives.terms import Forward
from tfrs_prerank.scorers import Scorer, make_scorer
from tfrs_prerank.towers import BiasModel, Tower, TowerModel
from tfrs_prerank.towers.encoded import Encoded

_OF_TASKS = ("label/", "weight/", "teacher/")


class Network(tf.keras.layers.Layer):
    """Query tower, doc tower, cross tower and scorer over request-major batches.

    The query tower runs on the B requests, the others on the V real documents, packed
    by the mask: padding enters no normalisation, no dropout and no loss.

    Args:
        schema: the features and tasks.
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
        self.schema = schema
        self.distinct_documents = distinct_documents
        self.tables = make_tables(schema)
        names, tasks = schema.task_names, len(schema.tasks)
        self.query_tower = self._tower(query_tower, "query", names, query_tower.output)
        self.doc_tower = self._tower(doc_tower, "doc", names, doc_tower.output)
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
        self.scorer = make_scorer(scorer, tasks)
        self.fusion = self.add_weight(
            name="fusion",
            shape=[tasks],
            dtype=tf.float32,
            initializer=tf.keras.initializers.Constant(
                [task.fuse for task in schema.tasks]
            ),
            trainable=False,
            # Scores are float32 under every policy.
            experimental_autocast=False,
        )
        # Every weight exists from here on, so that a backup finds what it restores.
        example = self._example()
        self._build_scorer(example)
        self(example)
        if self.bias_model is not None:
            self.bias_model(self._bias_columns(example, tf.zeros([1], tf.int64)))

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
        check_batch(self.schema, batch, training)
        mask = batch["mask"]
        shape = tf.shape(mask, out_type=tf.int64)
        index = tf.where(tf.reshape(mask, [-1]))[:, 0]
        request = index // shape[1]

        query_columns = self._columns(batch, "query")
        doc_columns = self._columns(batch, "doc")
        query_vectors = self.encode_query(query_columns, training)
        doc_vectors = self._encode_packed(batch, doc_columns, index, training)
        cross = None
        if self.cross_tower is not None:
            cross = self._columns(batch, "cross")
            cross |= self._matches(batch, query_columns, doc_columns)
            cross = _pack(cross, index)
        queries = tf.gather(query_vectors, request)
        logits = self.compare(queries, doc_vectors, cross, training)
        if self.bias_model is not None and training:
            logits += self.bias_model(self._bias_columns(batch, index), training=True)
        places = index[:, tf.newaxis]
        tasks = len(self.schema.tasks)
        flat = tf.scatter_nd(places, logits, [shape[0] * shape[1], tasks])
        logits = tf.reshape(flat, tf.concat([shape, [tasks]], axis=0))
        return Forward(
            logits=logits,
            # Several tasks' sigmoids of 0 would put padding before documents.
            scores=self.scores(logits) * tf.cast(mask, tf.float32),
            query_vectors=query_vectors,
            doc_vectors=doc_vectors,
            index=index,
        )

    # The parts, as an export traces them.

    def encode_query(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Encodes query columns to what the scorer keeps of them, `[B, q]`."""
        columns = {**columns, **own_matches(self.schema, columns, "query")}
        return self.scorer.query_side(self._encoded("query", columns, training))

    def encode_docs(
        self, columns: Mapping[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Encodes document columns `[M, ...]` to what the scorer stores, `[M, p]`."""
        columns = {**columns, **own_matches(self.schema, columns, "doc")}
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
        if len(self.schema.tasks) == 1:
            return logits[..., 0]
        return tf.reduce_sum(tf.sigmoid(logits) * self.fusion, axis=-1)

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
            side: `"query"`, `"doc"` or `"cross"`.

        Returns:
            Gates `[rows, experts]`, a row for each request or real document, by task
            (`layers.MMoE.gates`) or by level (`layers.PLE.gates`); None for a tower
            without experts.
        """
        tower = getattr(self, f"{side}_tower")
        if tower is None or tower.experts is None:
            return None
        return tower.expert_gates(self._tower_columns(batch, side))

    # Columns of a batch.

    def _tower_columns(
        self, batch: Mapping[str, tf.Tensor], side: str
    ) -> dict[str, tf.Tensor]:
        """Returns what a tower reads, of requests or of real documents."""
        columns = self._columns(batch, side)
        if side == "cross":
            query, doc = self._columns(batch, "query"), self._columns(batch, "doc")
            columns |= self._matches(batch, query, doc)
        if side != "query":
            index = tf.where(tf.reshape(batch["mask"], [-1]))[:, 0]
            columns = _pack(columns, index)
        if side != "cross":
            columns = {**columns, **own_matches(self.schema, columns, side)}
        return columns

    def _encoded(
        self, side: str, columns: Mapping[str, tf.Tensor], training: bool
    ) -> Encoded:
        tower = self.query_tower if side == "query" else self.doc_tower
        return tower(columns, training=training)

    def _build_scorer(self, example: Mapping[str, tf.Tensor]) -> None:
        query = self._columns(example, "query")
        query |= own_matches(self.schema, query, "query")
        doc = {n: flatten_rows(c) for n, c in self._columns(example, "doc").items()}
        doc |= own_matches(self.schema, doc, "doc")
        joins = self.cross_tower is not None and self.scorer.scorer.cross == "concat"
        self.scorer.ensure_built(
            self._encoded("query", query, False),
            self._encoded("doc", doc, False),
            self.cross_tower.size if joins else None,  # type: ignore[union-attr]
        )

    def _tower(
        self, tower: Tower, owner: str, tasks: Sequence[str], size: int
    ) -> TowerModel:
        features = self.schema.owned_by(owner)
        return TowerModel(tower, features, self.tables, tasks, size, f"{owner}_tower")

    def _columns(
        self, batch: Mapping[str, tf.Tensor], owner: str
    ) -> dict[str, tf.Tensor]:
        return {
            name: batch[name]
            for name, column in self.schema.columns(owner).items()
            if not column.training_only
        }

    def _matches(
        self,
        batch: Mapping[str, tf.Tensor],
        query_columns: Mapping[str, tf.Tensor],
        doc_columns: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        shape = tf.shape(batch["mask"])
        rows = {name: flatten_rows(column) for name, column in doc_columns.items()}
        doc_keys = {
            name: tf.reshape(key, tf.concat([shape, tf.shape(key)[1:]], axis=0))
            for name, key in keys_of(self.schema, rows, "doc").items()
        }
        query_keys = keys_of(self.schema, query_columns, "query")
        return cross_matches(self.schema, query_keys, doc_keys)

    def _bias_columns(
        self, batch: Mapping[str, tf.Tensor], index: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        length = tf.shape(batch["mask"], out_type=tf.int64)[1]
        columns = {}
        for feature in self.schema.training_only:
            values = batch[feature.name]
            if feature.owner == "query":
                values = tf.gather(values, index // length)
            else:
                values = _pack({feature.name: values}, index)[feature.name]
            if values.dtype == tf.int32:  # the batch's own position
                values = tf.cast(values, tf.int64)
            columns[feature.name] = values
        return columns

    def _encode_packed(
        self,
        batch: Mapping[str, tf.Tensor],
        doc_columns: Mapping[str, tf.Tensor],
        index: tf.Tensor,
        training: bool,
    ) -> tf.Tensor:
        columns = _pack(doc_columns, index)
        if not self.distinct_documents:
            return self.encode_docs(columns, training)
        ids = tf.gather(tf.reshape(batch["doc_ids"], [-1]), index)
        first, place = first_rows(ids)
        columns = {name: tf.gather(column, first) for name, column in columns.items()}
        return tf.gather(self.encode_docs(columns, training), place)

    def _example(self) -> dict[str, tf.Tensor]:
        """Makes a batch of one request with one document, all pads."""
        dtype = self.schema.doc_id
        pad = tf.constant("" if dtype == "string" else -1, tf.dtypes.as_dtype(dtype))
        batch = {
            "mask": tf.ones([1, 1], tf.bool),
            "doc_ids": tf.fill([1, 1], pad),
            "position": tf.fill([1, 1], -1),
            "time": tf.zeros([1], tf.int64),
        }
        for column in self.schema.columns().values():
            if column.name in batch:
                continue
            shape = [1] if column.owner == "query" else [1, 1]
            shape += [] if column.length is None else [column.length]
            dtype = tf.dtypes.as_dtype(column.dtype)
            batch[column.name] = tf.fill(shape, tf.constant(column.pad, dtype))
        return batch


def check_batch(
    schema: Schema, batch: Mapping[str, tf.Tensor], training: bool = False
) -> None:
    """Checks a batch's columns against the schema, when a graph is traced.

    Args:
        schema: what is declared.
        batch: the batch.
        training: training-only columns must be there too.

    Raises:
        KeyError: a column is missing.
        ValueError: a column is neither declared nor one of the batch's own, or has
            another rank.
        TypeError: a column has another type.
    """
    wanted = dict(schema.columns())
    wanted["doc_ids"] = Column("doc_ids", schema.doc_id, None, "doc")
    for name, column in wanted.items():
        if column.training_only and not training and name not in batch:
            continue
        if name not in batch:
            raise KeyError(f"the batch has no {name!r}; {nearest(name, batch)}")
        values = tf.convert_to_tensor(batch[name])
        if values.dtype != tf.dtypes.as_dtype(column.dtype):
            raise TypeError(
                f"{name}: {column.dtype} is declared. "
                f"Received: a tensor of {values.dtype.name}"
            )
        rank = 1 + (column.owner != "query") + (column.length is not None)
        if values.shape.rank != rank:
            raise ValueError(
                f"{name}: {rank} dimensions are declared. "
                f"Received: shape {tuple(values.shape)}"
            )
    if "mask" not in batch:
        raise KeyError("the batch has no 'mask', true where a document is real")
    mask = tf.convert_to_tensor(batch["mask"])
    if mask.dtype != tf.bool or mask.shape.rank != 2:
        raise TypeError(
            "mask: a bool tensor [B, L] is wanted. "
            f"Received: {mask.dtype.name}, shape {tuple(mask.shape)}"
        )
    known = {*wanted, "mask", *BATCH_OWN_COLUMNS}
    for name in batch:
        if name not in known and not name.startswith(_OF_TASKS):
            raise ValueError(
                f"the batch's {name!r} is not in the schema; {nearest(name, known)}"
            )
    for feature in schema.training_only:
        if training and feature.name in BATCH_COLUMNS and feature.name not in batch:
            raise KeyError(
                f"the batch has no {feature.name!r}, a training_only feature"
            )


def flatten_rows(column: tf.Tensor) -> tf.Tensor:
    """Reshapes `[B, L, ...]` to `[B * L, ...]`."""
    shape = tf.shape(column)
    rest = column.shape[2:].as_list()
    return tf.reshape(column, [shape[0] * shape[1], *rest])


def _pack(columns: Mapping[str, tf.Tensor], index: tf.Tensor) -> dict[str, tf.Tensor]:
    """Takes the real documents' rows of columns `[B, L, ...]`."""
    return {name: tf.gather(flatten_rows(c), index) for name, c in columns.items()}
