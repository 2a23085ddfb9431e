"""The signatures of an export, and nothing else of the model.

A `tf.Module` that tracks the variables and lookup tables which the signatures read. It
does not track the Keras layers: SavedModel would store their training functions too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfrs_prerank.features.schema import Column, Schema
from tfrs_prerank.models.columns import flatten_rows
from tfrs_prerank.models.network import Network
from tfrs_prerank.serving.table import ServedTable

_BLOCK = 65_536
"""Documents that `retrieve` compares at once."""


class Signatures(tf.Module):
    """Scoring, encoding and exact retrieval over a documents table.

    Args:
        network: the trained network.
        table: the documents.
        k: length of the answers of `rank` and `retrieve`.
        task: the task that `retrieve` and `score_vectors` rank by.
    """

    def __init__(self, network: Network, table: ServedTable, k: int, task: str) -> None:
        super().__init__(name="signatures")
        self.table = table
        self._k = k
        self._schema = network.schema
        self._tasks = len(network.schema.tasks)
        self._task = network.schema.task_names.index(task)
        self._size = network.query_tower.size
        # What a refresh needs: the weights behind the fingerprint, and what it may
        # change.
        self.weights, self._lookups = read_by(network)
        self.fusion = network.fusion.weight
        self.encode_keys: Any = None
        # A closure, since an attribute would be tracked.
        self._network: Callable[[], Network] = lambda: network

    def all(self) -> dict[str, Any]:
        """Traces every signature.

        Returns:
            Concrete functions by signature name.
        """
        query = self._specs("query")
        # Matches with a document read the time; the query tower may not.
        alone = {
            name: spec
            for name, spec in query.items()
            if name != "time" or self._schema.query_tower_reads_time
        }
        cross = self._specs("cross")
        doc_ids = {"doc_ids": tf.TensorSpec([None, None], self.table.id_dtype)}
        num_docs = {"num_docs": tf.TensorSpec([None], tf.int32)}
        candidates = {**query, **doc_ids, **cross}
        signatures = {
            "serving_default": _trace(self.serving_default, candidates),
            "rank": _trace(self.rank, {**candidates, **num_docs}),
            "encode_query": _trace(self.encode_query, alone),
            "encode_docs": _trace(self.encode_docs, self._specs("doc")),
        }
        scorer = self._network().scorer.scorer
        if scorer.compares_vectors:
            signatures["retrieve"] = _trace(self.retrieve, alone)
        if scorer.compares_without_cross:
            outputs = signatures["encode_query"].structured_outputs
            size = outputs["query_vector"].shape[1]
            vector = {"query_vector": tf.TensorSpec([None, size], tf.float32)}
            signatures["score_vectors"] = _trace(
                self.score_vectors, {**vector, **doc_ids}
            )
        if self.table.key_names:
            # No signature: match keys are of use inside the export only.
            self.encode_keys = _trace(self._encode_keys, self._specs("doc"))
        return signatures

    def serving_default(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Scores each request's candidates: scores, probabilities, found `[B, N]`."""
        logits, found = self._candidate_logits(inputs)
        probabilities = tf.where(found[:, :, tf.newaxis], tf.sigmoid(logits), 0.0)
        outputs = {
            task: probabilities[:, :, place]
            for place, task in enumerate(self._schema.task_names)
        }
        return {**outputs, "scores": self._scores(logits, found), "found": found}

    def rank(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns each request's best k candidates, best first."""
        logits, found = self._candidate_logits(inputs)
        doc_ids = inputs["doc_ids"]
        count = tf.shape(doc_ids)[1]
        listed = tf.range(count) < inputs["num_docs"][:, tf.newaxis]
        found = found & listed
        # top_k keeps the order of equal scores.
        scores, places = tf.math.top_k(
            self._scores(logits, found), k=tf.minimum(self._k, count)
        )
        found = tf.gather(found, places, batch_dims=1)
        pad = tf.constant("" if doc_ids.dtype == tf.string else -1, doc_ids.dtype)
        return {
            "doc_ids": tf.where(found, tf.gather(doc_ids, places, batch_dims=1), pad),
            "scores": scores,
            "positions": tf.where(found, places, -1),
            "found": found,
        }

    def encode_query(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes queries to what the scorer keeps of them, `[B, q]`."""
        return {"query_vector": self._network().encode_query(inputs)}

    def encode_docs(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes documents to what the scorer stores, `[M, p]`."""
        return {"doc_vector": self._network().encode_docs(inputs)}

    def retrieve(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the best k documents of the whole table, by one task's vectors."""
        first = self._task * self._size
        scorer = self._network().scorer
        query = scorer.task_vectors(self._network().encode_query(inputs), self._task)
        table = self.table.vectors.read_value()
        count = tf.shape(table)[0]
        batch = tf.shape(query)[0]
        k = self._k

        def add_block(
            start: tf.Tensor, scores: tf.Tensor, rows: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            block = table[start : start + _BLOCK]
            if self._tasks > 1:  # Whole rows cost no copy.
                block = block[:, first : first + self._size]
            found = tf.range(start, start + tf.shape(block)[0])
            found = tf.broadcast_to(found, [batch, tf.shape(block)[0]])
            similarity = tf.matmul(query, block, transpose_b=True)
            scores = tf.concat([scores, similarity], axis=1)
            rows = tf.concat([rows, found], axis=1)
            scores, places = tf.math.top_k(scores, k=k)
            return start + _BLOCK, scores, tf.gather(rows, places, batch_dims=1)

        _, scores, rows = tf.while_loop(
            lambda start, *_: start < count,
            add_block,
            (
                tf.constant(0),
                tf.fill([batch, k], tf.float32.min),
                tf.fill([batch, k], -1),
            ),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([None, k]),
                tf.TensorShape([None, k]),
            ),
        )
        best = tf.minimum(k, count)
        scores = scorer.task_logits(scores[:, :best], self._task)
        return {"doc_ids": tf.gather(self.table.ids, rows[:, :best]), "scores": scores}

    def score_vectors(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Scores candidates by vectors alone: logits, the named task's as scores."""
        rows, found = self.table.rows(inputs["doc_ids"])
        docs = self.table.vectors_of(rows)
        logits = self._network().compare(inputs["query_vector"], docs)
        logits = tf.where(found[:, :, tf.newaxis], logits, logits.dtype.min)
        outputs = {
            task: logits[:, :, place]
            for place, task in enumerate(self._schema.task_names)
        }
        return {**outputs, "scores": logits[:, :, self._task], "found": found}

    # Parts.

    def _encode_keys(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the match keys of documents, as the table stores them."""
        return self._network().matches.keys_of(inputs, "doc")

    def _candidate_logits(
        self, inputs: Mapping[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns logits `[B, N, tasks]` and whether each candidate is known."""
        network = self._network()
        query = {name: inputs[name] for name in self._specs("query")}
        rows, found = self.table.rows(inputs["doc_ids"])
        queries = network.encode_query(query)
        docs = self.table.vectors_of(rows)  # [B, N, p]
        flat = None
        if network.cross_tower is not None:
            columns = {name: inputs[name] for name in self._specs("cross")}
            query_keys = network.matches.keys_of(query, "query")
            columns |= network.matches.cross(query_keys, self.table.keys_of(rows))
            flat = {name: flatten_rows(column) for name, column in columns.items()}
        return network.compare(queries, docs, flat), found

    def _scores(self, logits: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        return tf.where(found, self._network().scores(logits), tf.float32.min)

    def _specs(self, owner: str) -> dict[str, tf.TensorSpec]:
        return {
            name: spec_of(column)
            for name, column in self._schema.columns(owner).items()
            if not column.training_only
        }


def spec_of(column: Column) -> tf.TensorSpec:
    """Returns a column's type at the border of an export.

    Args:
        column: the column.

    Returns:
        `[B]` or `[B, T]` for a query's or (in `encode_docs`) a document's column,
        `[B, N]` or `[B, N, T]` for a cross column.
    """
    shape: list[int | None] = [None, None] if column.owner == "cross" else [None]
    shape += [] if column.length is None else [column.length]
    return tf.TensorSpec(shape, tf.dtypes.as_dtype(column.dtype), name=column.name)


def _trace(function: Callable[..., Any], specs: Mapping[str, tf.TensorSpec]) -> Any:
    named = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in specs.items()
    }
    return tf.function(function, autograph=False).get_concrete_function(named)


def read_by(network: Network) -> tuple[list[tf.Variable], list[Any]]:
    """Returns what serving reads of a network.

    Args:
        network: the network.

    Returns:
        The variables, in the order of the layers, without the weights of the fusion,
        which a refresh may change; and the lookup tables.
    """
    layers: list[tf.keras.layers.Layer] = [
        network.query_tower,
        network.doc_tower,
        network.scorer,
    ]
    if network.cross_tower is not None:
        layers.append(network.cross_tower)
    weights = [variable for layer in layers for variable in layer.variables]
    names = [f.name for f in _served_features(network.schema)]
    tables = {id(t): t for n, t in network.tables.items() if n in names}
    files: dict[int, Any] = {}
    for table in tables.values():
        files |= {id(lookup): lookup for lookup in table.lookups}
    for corpus in network.matches.corpora.values():
        files[id(corpus)] = corpus.table
    unique = {id(variable): variable for variable in weights}
    return list(unique.values()), list(files.values())


def _served_features(schema: Schema) -> list[Any]:
    return [feature for feature in schema.features if not feature.training_only]
