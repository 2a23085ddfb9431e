"""A small network over a query's and a document's vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class LateInteraction(tf.keras.layers.Layer):
    """Scores a query with documents by an MLP instead of a product.

    With vectors `q` and `d`, a context `c` of the pair, and skip inputs `f_q` and
    `f_d` from below the towers' last layers:

        h = s(W_q [q, f_q] + W_d [d, f_d] + W_m (q * d) + W_a |q - d| + W_c c + b)
        h = h + V_2 s(V_1 h + b_1) + b_2            for each residual block
        score = W_o h + b_o

    That is the MLP over `[q, f_q, d, f_d, q*d, |q-d|, c]` with its first kernel in
    parts: `W_q [q, f_q]` is computed once for each query, and `W_d [d, f_d]` once for
    each document, to be stored (`project_query`, `project_docs`, `interact`). Skip
    inputs therefore cost nothing per pair. Cost per pair, in multiply-adds, with `H`
    units: `2 d H + c H + 2 blocks H^2 + H outputs`.

    Differs from the source, which names an MLP in place of the inner product, more
    inputs and ResNet connections, and fixes none of them.

    >>> import tensorflow as tf
    >>> layer = LateInteraction(units=8)
    >>> query, docs = tf.ones([2, 4]), tf.ones([2, 10, 4])
    >>> layer(query, docs).shape
    TensorShape([2, 10, 1])

    Args:
        units: size H of the hidden layer.
        blocks: number of residual blocks.
        outputs: number of scores.
        activation: name or function.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        query: `[B, d]`, floating point.
        docs: `[B, d]`, or `[B, N, d]`.
        context: `[B, c]` or `[B, N, c]`, or None.
        query_skip: `[B, e]`, or None.
        doc_skip: `[B, g]` or `[B, N, g]`, or None.

    Returns:
        `[B, outputs]`, or `[B, N, outputs]`, in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range, the vectors differ in size, or a shape
            is of another rank.

    References:
        The source article, "introducing a late interaction layer".
    """

    def __init__(
        self,
        units: int = 64,
        blocks: int = 1,
        outputs: int = 1,
        activation: str | Callable = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = check_positive_int("units", units)
        if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 0:
            raise ValueError(
                f"`blocks` must be a whole number of at least 0. Received: {blocks!r}"
            )
        self.blocks = blocks
        self.outputs = check_positive_int("outputs", outputs)
        self.activation = tf.keras.activations.get(activation)

    def __call__(
        self,
        query: tf.Tensor,
        docs: tf.Tensor,
        context: tf.Tensor | None = None,
        query_skip: tf.Tensor | None = None,
        doc_skip: tf.Tensor | None = None,
        **kwargs: Any,
    ) -> tf.Tensor:
        """Builds the layer if need be, from all the shapes, and scores."""
        inputs = (query, docs, context, query_skip, doc_skip)
        self.ensure_built(*(None if x is None else x.shape for x in inputs))
        return super().__call__(
            query,
            docs=docs,
            context=context,
            query_skip=query_skip,
            doc_skip=doc_skip,
            **kwargs,
        )

    def ensure_built(self, *shapes: Any) -> None:
        """Creates the weights, once.

        Args:
            *shapes: of query, docs, context, query_skip and doc_skip; None for none.
        """
        if not self.built:
            # As Keras builds: outside the graph that may be traced just now.
            with tf.init_scope(), tf.name_scope(self.name):
                self.build(shapes)

    def build(self, input_shape: Any) -> None:
        """Creates the weights from the five shapes of a call."""
        # Keras makes a shape of unknown rank of None where it loads a model.
        shapes = [tf.TensorShape(shape) for shape in input_shape]
        shapes = [None if shape.rank is None else shape for shape in shapes]
        query, docs, context, query_skip, doc_skip = [*shapes, None, None, None][:5]
        if query is None or query.rank != 2 or docs is None or docs.rank not in (2, 3):
            raise ValueError(
                "LateInteraction takes a query of shape [B, d] and docs of shape "
                f"[B, d] or [B, N, d]. Received: {query} and {docs}"
            )
        size = check_known("LateInteraction", "query size", query[-1])
        if docs[-1] != size:
            raise ValueError(
                "LateInteraction takes a query and docs of one size. "
                f"Received: sizes {size} and {docs[-1]}"
            )

        def rows(*parts: tf.TensorShape | None) -> int:
            return sum(
                check_known("LateInteraction", "size of each input", part[-1])
                for part in parts
                if part is not None
            )

        def kernel(name: str, first: int, last: int) -> tf.Variable:
            return self.add_weight(name, [first, last], initializer="glorot_uniform")

        units = self.units
        self.query_kernel = kernel("query_kernel", rows(query, query_skip), units)
        self.doc_kernel = kernel("doc_kernel", rows(docs, doc_skip), units)
        self.product_kernel = kernel("product_kernel", size, units)
        self.difference_kernel = kernel("difference_kernel", size, units)
        self.context_kernel = (
            None if context is None else kernel("context_kernel", rows(context), units)
        )
        self.bias = self.add_weight("bias", [units], initializer="zeros")
        self.residuals = [
            (
                kernel(f"block_{block}_kernel_1", units, units),
                self.add_weight(f"block_{block}_bias_1", [units], initializer="zeros"),
                kernel(f"block_{block}_kernel_2", units, units),
                self.add_weight(f"block_{block}_bias_2", [units], initializer="zeros"),
            )
            for block in range(self.blocks)
        ]
        self.output_kernel = kernel("output_kernel", units, self.outputs)
        self.output_bias = self.add_weight(
            "output_bias", [self.outputs], initializer="zeros"
        )
        super().build([None if shape is None else list(shape) for shape in shapes])

    def project_query(
        self, query: tf.Tensor, skip: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns `W_q [q, f_q]`, `[..., units]`."""
        return _project(_joined(query, skip), self.query_kernel)

    def project_docs(self, docs: tf.Tensor, skip: tf.Tensor | None = None) -> tf.Tensor:
        """Returns `W_d [d, f_d]`, `[..., units]`."""
        return _project(_joined(docs, skip), self.doc_kernel)

    def interact(
        self,
        query: tf.Tensor,
        projected_query: tf.Tensor,
        docs: tf.Tensor,
        projected_docs: tf.Tensor,
        context: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scores vectors with their projections.

        Args:
            query: `[B, d]`.
            projected_query: `[B, units]`.
            docs: `[B, d]` or `[B, N, d]`.
            projected_docs: `[B, units]` or `[B, N, units]`.
            context: `[B, c]` or `[B, N, c]`, where the layer was built with one.

        Returns:
            `[B, outputs]` or `[B, N, outputs]`.
        """
        if docs.shape.rank == 3:
            query, projected_query = (
                query[:, tf.newaxis],
                projected_query[:, tf.newaxis],
            )
        hidden = (
            projected_query
            + projected_docs
            + _project(query * docs, self.product_kernel)
            + _project(tf.abs(query - docs), self.difference_kernel)
            + tf.cast(self.bias, docs.dtype)
        )
        if self.context_kernel is not None:
            hidden += _project(context, self.context_kernel)
        hidden = self.activation(hidden)
        for kernel_1, bias_1, kernel_2, bias_2 in self.residuals:
            inner = _project(hidden, kernel_1) + tf.cast(bias_1, hidden.dtype)
            inner = _project(self.activation(inner), kernel_2)
            hidden += inner + tf.cast(bias_2, hidden.dtype)
        scores = _project(hidden, self.output_kernel)
        return scores + tf.cast(self.output_bias, scores.dtype)

    def call(
        self,
        query: tf.Tensor,
        docs: tf.Tensor,
        context: tf.Tensor | None = None,
        query_skip: tf.Tensor | None = None,
        doc_skip: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the scores."""
        # Keras casts the first argument only.
        query, docs, context, query_skip, doc_skip = (
            None if x is None else tf.cast(x, self.compute_dtype)
            for x in (query, docs, context, query_skip, doc_skip)
        )
        return self.interact(
            query,
            self.project_query(query, query_skip),
            docs,
            self.project_docs(docs, doc_skip),
            context,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "blocks": self.blocks,
            "outputs": self.outputs,
            "activation": tf.keras.activations.serialize(self.activation),
        }


def _project(rows: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
    return tf.tensordot(rows, tf.cast(kernel, rows.dtype), 1)


def _joined(vector: tf.Tensor, skip: tf.Tensor | None) -> tf.Tensor:
    return vector if skip is None else tf.concat([vector, skip], axis=-1)
