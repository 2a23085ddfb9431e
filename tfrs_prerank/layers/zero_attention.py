"""Attention that may attend to nothing."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._attention import (
    QueryKeysLayer,
    additive_hidden,
    masked_softmax,
    weighted_sum,
)
from tfrs_prerank.layers._checks import check_choice, check_positive_int
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class ZeroAttention(QueryKeysLayer):
    """Attention that lets a query switch the history off.

    One zero vector joins the keys, with the logit `z`:

        u = sum_t exp f(q, k_t) k_t / (exp z + sum_t exp f(q, k_t))

    With `z = 0` the logit 0 is a threshold: when every `f` is far below it, the
    output goes to zero. An empty history gives exactly the zero vector.

    `score` says what `f` is, for a query `q` of size `d` and keys of size `D`:

        "dot"        f = (q A) . k / sqrt(D)
        "additive"   f = v . tanh(q A + k C + b)

    With several heads every head has its own `f`, `z` and zero slot. A head pools
    whole keys; `V_h` (`[D, D / heads]`) then maps what it found, and the heads are
    concatenated. Pooling before `V_h` gives the same as projecting every key and
    costs `T` times less. One head returns `u` as it is.

    Cost per request, in multiply-adds, whatever the number of documents: dot
    `heads d D + 2 heads T D`, additive `d D + T D (D + 1 + heads)`; plus `D^2` with
    several heads.

    Differs from the paper: its query goes through `tanh(q A + b)`, and its heads are
    summed into one logit before a single softmax; here `f` is one of the two above,
    and each head has a softmax of its own. `z` is always 0 there.

    >>> import tensorflow as tf
    >>> attend = ZeroAttention()
    >>> query, keys = tf.ones([2, 3]), tf.ones([2, 5, 4])
    >>> mask = tf.constant([[True] * 5, [False] * 5])
    >>> user = attend(query, keys, mask)
    >>> user.shape
    TensorShape([2, 4])
    >>> user[1].numpy().tolist()  # no history
    [0.0, 0.0, 0.0, 0.0]

    Args:
        heads: number of heads; `D` must be a multiple of it.
        zero_logit: `"fixed"` (`z = 0`), `"learned"` (one trained number per head) or
            `"query"` (a linear function of the query per head). The trained ones
            start at 0.
        score: `"dot"` or `"additive"`.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        query: `[B, d]`, floating point.
        keys: `[B, T, D]`, floating point. Masked keys may hold anything.
        mask: bool `[B, T]`, true = a real key. `None` means all are real.

    Returns:
        `[B, D]` in the layer's compute dtype. Softmax is computed in float32.

    Raises:
        ValueError: an argument is out of range, a shape is of the wrong rank, `d`
            or `D` is unknown, or `D` is no multiple of `heads`.
        TypeError: the mask is not bool.

    References:
        Ai et al., A Zero Attention Model for Personalized Product Search,
        https://arxiv.org/abs/1908.11322.
    """

    def __init__(
        self,
        heads: int = 1,
        zero_logit: str = "fixed",
        score: str = "dot",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.heads = check_positive_int("heads", heads)
        self.zero_logit = check_choice(
            "zero_logit", zero_logit, ("fixed", "learned", "query")
        )
        self.score = check_choice("score", score, ("dot", "additive"))

    def build(self, input_shape: tuple[tf.TensorShape, tf.TensorShape]) -> None:
        """Creates the weights of score, zero logit and heads."""
        query_size, key_size = self.sizes(input_shape)
        if key_size % self.heads:
            raise ValueError(
                f"The key size must be a multiple of `heads`. Received: key size "
                f"{key_size}, heads={self.heads}"
            )
        glorot = "glorot_uniform"
        if self.score == "dot":
            self.query_kernel = self.add_weight(
                "query_kernel", [query_size, self.heads * key_size], initializer=glorot
            )
        else:
            self.query_kernel = self.add_weight(
                "query_kernel", [query_size, key_size], initializer=glorot
            )
            self.key_kernel = self.add_weight(
                "key_kernel", [key_size, key_size], initializer=glorot
            )
            self.score_bias = self.add_weight(
                "score_bias", [key_size], initializer="zeros"
            )
            self.score_kernel = self.add_weight(
                "score_kernel", [self.heads, key_size // self.heads], initializer=glorot
            )
        if self.zero_logit == "query":
            self.zero_kernel = self.add_weight(
                "zero_kernel", [query_size, self.heads], initializer="zeros"
            )
        if self.zero_logit != "fixed":
            self.zero_bias = self.add_weight(
                "zero_bias", [self.heads], initializer="zeros"
            )
        if self.heads > 1:
            # Head h owns columns h D/heads to (h + 1) D/heads. No bias: an empty
            # history must stay zero.
            self.value_kernel = self.add_weight(
                "value_kernel", [key_size, key_size], initializer=glorot
            )
        super().build(input_shape)

    def call(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns what the query finds in the keys."""
        keys = self.real_keys(keys, mask)
        weights = masked_softmax(
            self._scores(query, keys),
            None if mask is None else mask[:, tf.newaxis, :],
            self._zero_logits(query),
        )
        pooled = weighted_sum(weights, keys)  # [B, heads, D]
        if self.heads == 1:
            return tf.squeeze(pooled, axis=1)
        size = keys.shape[-1]
        kernel = tf.reshape(self.value_kernel, [size, self.heads, size // self.heads])
        return tf.reshape(tf.einsum("bhd,dhe->bhe", pooled, kernel), [-1, size])

    def _scores(self, query: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Returns `f`, float32 `[B, heads, T]`."""
        size = keys.shape[-1]
        if self.score == "dot":
            queries = tf.matmul(query, self.query_kernel)
            queries = tf.reshape(queries, [-1, self.heads, size])
            # float32 before the product: float16 would overflow at 65504.
            products = tf.matmul(
                accumulate(queries), accumulate(keys), transpose_b=True
            )
            return products / math.sqrt(size)
        hidden = additive_hidden(
            query, keys, self.query_kernel, self.key_kernel, self.score_bias
        )  # [B, T, D]
        width = size // self.heads
        hidden = tf.reshape(hidden, [-1, tf.shape(keys)[1], self.heads, width])
        return tf.einsum(
            "bthe,he->bht", accumulate(hidden), accumulate(self.score_kernel)
        )

    def _zero_logits(self, query: tf.Tensor) -> tf.Tensor:
        """Returns `z`, float32, broadcastable to `[B, heads, 1]`."""
        if self.zero_logit == "fixed":
            return tf.zeros([1, 1, 1], accumulate(query).dtype)
        logits = self.zero_bias
        if self.zero_logit == "query":
            logits = tf.matmul(query, self.zero_kernel) + logits
        return accumulate(tf.reshape(logits, [-1, self.heads, 1]))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "heads": self.heads,
            "zero_logit": self.zero_logit,
            "score": self.score,
        }
