"""Multi-head maximum similarity of a query's layers with a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class MaxSim(tf.keras.layers.Layer):
    """Compares every head of every query layer with the best head of a document.

    With query layers `x_1 .. x_L` and a document vector `d`, each projected to `H`
    heads of size `s`:

        u_li = U_li x_l,   v_j = V_j d
        score = sum_l sum_i max_j u_li . v_j

    The lower layers of the query's tower still hold what its last one has lost. The
    document's side is `V d` alone, `H s` numbers that can be computed once and stored
    (`project_docs`, `similarity`). Cost per document and output: `L H^2 s`
    multiply-adds.

    Differs from the paper: its code takes the inputs of the query's layers, this layer
    whatever it is given. There is no bias in the projections.

    >>> import tensorflow as tf
    >>> layer = MaxSim(heads=2, size=4)
    >>> layers = [tf.ones([3, 5]), tf.ones([3, 6])]
    >>> layer(layers, tf.ones([3, 7])).shape  # one document for each query
    TensorShape([3, 1])
    >>> layer(layers, tf.ones([3, 10, 7])).shape  # ten documents for each query
    TensorShape([3, 10, 1])

    Args:
        heads: number of heads H of either side.
        size: numbers s in a head.
        outputs: number of scores, each with heads of its own.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        query_layers: list of `[B, d_l]`, floating point.
        docs: `[B, D]`, or `[B, N, D]`.

    Returns:
        `[B, outputs]`, or `[B, N, outputs]`, in the layer's compute dtype; sums are
        computed in float32.

    Raises:
        ValueError: an argument is out of range, or a shape is of another rank.

    References:
        Li et al., IntTower, https://arxiv.org/abs/2210.09890, the FE block.
    """

    def __init__(
        self, heads: int = 4, size: int = 16, outputs: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads = check_positive_int("heads", heads)
        self.size = check_positive_int("size", size)
        self.outputs = check_positive_int("outputs", outputs)

    def __call__(
        self, query_layers: Sequence[tf.Tensor], docs: tf.Tensor, **kwargs: Any
    ) -> tf.Tensor:
        """Builds the layer if need be, from both sides' shapes, and compares."""
        # Keras hands a list of one over as its element where it loads a model.
        query_layers = tf.nest.flatten(query_layers)
        self.ensure_built([x.shape for x in query_layers], docs.shape)
        return super().__call__(query_layers, docs=docs, **kwargs)

    def ensure_built(self, queries: Sequence[tf.TensorShape], docs: Any) -> None:
        """Creates the weights, once.

        Args:
            queries: shapes of the query's layers.
            docs: shape of the documents.
        """
        if not self.built:
            # As Keras builds: outside the graph that may be traced just now.
            with tf.init_scope(), tf.name_scope(self.name):
                self.build((list(queries), docs))

    def build(self, input_shape: Any) -> None:
        """Creates the projections from the pair (query layers' shapes, docs' shape)."""
        queries, docs = input_shape
        queries = [tf.TensorShape(shape) for shape in queries]
        docs = tf.TensorShape(docs)
        if not queries or any(q.rank != 2 for q in queries) or docs.rank not in (2, 3):
            raise ValueError(
                "MaxSim takes query layers of shape [B, d] and docs of shape [B, D] or "
                f"[B, N, D]. Received: {[tuple(q) for q in queries]} and {tuple(docs)}"
            )
        width = self.outputs * self.heads * self.size
        self.query_kernels = [
            self.add_weight(
                f"query_kernel_{place}",
                [check_known("MaxSim", "size of a query layer", shape[-1]), width],
                initializer="glorot_uniform",
            )
            for place, shape in enumerate(queries)
        ]
        self.doc_kernel = self.add_weight(
            "doc_kernel",
            [check_known("MaxSim", "document size", docs[-1]), width],
            initializer="glorot_uniform",
        )
        super().build([[list(shape) for shape in queries], list(docs)])

    def project_query(self, query_layers: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns all the query's heads, `[B, outputs * L * heads * size]`."""
        shape = [-1, self.outputs, 1, self.heads, self.size]
        heads = [
            tf.reshape(_project(layer, kernel), shape)
            for layer, kernel in zip(query_layers, self.query_kernels, strict=True)
        ]
        width = self.outputs * len(heads) * self.heads * self.size
        return tf.reshape(tf.concat(heads, axis=2), [-1, width])

    def project_docs(self, docs: tf.Tensor) -> tf.Tensor:
        """Returns a document's heads, `[..., outputs * heads * size]`."""
        return _project(docs, self.doc_kernel)

    def similarity(self, queries: tf.Tensor, docs: tf.Tensor) -> tf.Tensor:
        """Compares projections.

        Args:
            queries: of `project_query`, `[B, ...]`.
            docs: of `project_docs`, `[B, ...]` or `[B, N, ...]`.

        Returns:
            `[B, outputs]` or `[B, N, outputs]`.
        """
        listed = docs.shape.rank == 3
        batch, count = tf.shape(docs)[0], tf.shape(docs)[1] if listed else 1
        rows = len(self.query_kernels) * self.heads
        queries = tf.reshape(accumulate(queries), [-1, self.outputs, rows, self.size])
        docs = tf.reshape(
            accumulate(docs), [batch, count, self.outputs, self.heads, self.size]
        )
        docs = tf.transpose(docs, [0, 2, 1, 3, 4])
        docs = tf.reshape(docs, [batch, self.outputs, count * self.heads, self.size])
        products = tf.matmul(docs, queries, transpose_b=True)
        shape = [batch, self.outputs, count, self.heads, rows]
        best = tf.reduce_max(tf.reshape(products, shape), axis=3)
        scores = tf.transpose(tf.reduce_sum(best, axis=-1), [0, 2, 1])
        return scores if listed else tf.squeeze(scores, axis=1)

    def call(self, query_layers: Sequence[tf.Tensor], docs: tf.Tensor) -> tf.Tensor:
        """Returns the scores."""
        docs = tf.cast(docs, self.compute_dtype)
        scores = self.similarity(
            self.project_query(query_layers), self.project_docs(docs)
        )
        return tf.cast(scores, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "heads": self.heads,
            "size": self.size,
            "outputs": self.outputs,
        }


def _project(rows: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
    return tf.tensordot(rows, tf.cast(kernel, rows.dtype), 1)
