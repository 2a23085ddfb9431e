"""The attention of Deep Interest Network, with the query as the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._attention import (
    QueryKeysLayer,
    masked_softmax,
    weighted_sum,
)
from tfrs_prerank.layers._checks import check_positive_int
from tfrs_prerank.layers._precision import accumulate
from tfrs_prerank.layers.dice import Dice


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class TargetAttention(QueryKeysLayer):
    """Sums the keys, each weighted by an MLP that compares it with the query.

        a_t = MLP([q, k_t, q - k_t, q * k_t]),   output = sum_t a_t k_t     (DIN, eq. 3)

    Without softmax the weights need not add up to 1, so a user with many behaviours
    like the query gets a longer vector than one with few. A masked key has weight 0.

    With `W = [W_q, W_k, W_d, W_m]` the first kernel (`[4 D, units[0]]`), the first
    layer is computed as

        q (W_q + W_d) + k_t (W_k - W_d + diag(q) W_m) + b

    which is the same, and needs neither the query once per key nor the concatenation:
    a quarter of the multiply-adds and `[B, T, 4 D]` numbers less.

    Cost per request, in multiply-adds, with `h` the sizes of the MLP: `T D h_1 + 2 D
    h_1 + T (h_1 h_2 + ... + h_n) + T D`, plus `d D` where the query is projected. It
    does not grow with the number of documents.

    Differs from the paper: there the target is the document, which costs this much for
    every document of a request and forbids vectors of documents that are computed in
    advance; here it is the query. The paper's figure has the outer product of query and
    key, its authors' code and this layer `q - k` and `q * k`. A query of another size
    than the keys is first projected (`[d, D]`, no bias).

    >>> import tensorflow as tf
    >>> attend = TargetAttention(units=(8, 4))
    >>> query, keys = tf.ones([2, 3]), tf.ones([2, 5, 4])
    >>> mask = tf.constant([[True] * 5, [False] * 5])
    >>> user = attend(query, keys, mask)
    >>> user.shape
    TensorShape([2, 4])
    >>> user[1].numpy().tolist()  # no history
    [0.0, 0.0, 0.0, 0.0]

    Args:
        units: sizes of the MLP's hidden layers, at least one.
        activation: of the hidden layers: `"dice"`, or the name of an activation or a
            function.
        softmax: whether the weights go through a softmax over the real keys. The MLP
            then ends without a bias, which would change nothing.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        query: `[B, d]`, floating point.
        keys: `[B, T, D]`, floating point. Masked keys may hold anything; they enter no
            statistics of `Dice`.
        mask: bool `[B, T]`, true = a real key. `None` means all are real.
        training: whether `Dice` uses the batch's own statistics.

    Returns:
        `[B, D]` in the layer's compute dtype. Weights and sum are computed in float32.

    Raises:
        ValueError: an argument is out of range, a shape is of the wrong rank, or `d`
            or `D` is unknown.
        TypeError: the mask is not bool.

    References:
        Zhou et al., Deep Interest Network, https://arxiv.org/abs/1706.06978, eq. 3
        and section 4.3.
    """

    def __init__(
        self,
        units: Sequence[int] = (80, 40),
        activation: str | Callable = "dice",
        softmax: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(units, Sequence) or isinstance(units, str) or not units:
            raise ValueError(
                "`units` must be the sizes of one or more layers, for example "
                f"(80, 40). Received: {units!r}"
            )
        self.units = tuple(check_positive_int("units", size) for size in units)
        self.activation: Any = activation
        self.dices: list[Dice] = []
        if activation == "dice":
            # float32, as all else before the sum.
            dtype = "float64" if self.compute_dtype == "float64" else "float32"
            self.dices = [
                Dice(dtype=dtype, name=f"dice_{place}")
                for place in range(len(self.units))
            ]
        else:
            self.activation = tf.keras.activations.get(activation)
        self.softmax = bool(softmax)

    def build(self, input_shape: tuple[tf.TensorShape, tf.TensorShape]) -> None:
        """Creates the MLP, and the projection if query and keys differ in size."""
        query_size, key_size = self.sizes(input_shape)
        self.query_kernel = None
        if query_size != key_size:
            self.query_kernel = self.add_weight(
                "query_kernel", [query_size, key_size], initializer="glorot_uniform"
            )
        self.kernels, self.biases = [], []
        sizes = (4 * key_size, *self.units)
        for place, size in enumerate(self.units):
            self.kernels.append(
                self.add_weight(
                    f"kernel_{place}",
                    [sizes[place], size],
                    initializer="glorot_uniform",
                )
            )
            self.biases.append(
                self.add_weight(f"bias_{place}", [size], initializer="zeros")
            )
        self.output_kernel = self.add_weight(
            "output_kernel", [sizes[-1], 1], initializer="glorot_uniform"
        )
        self.output_bias = None
        if not self.softmax:
            self.output_bias = self.add_weight("output_bias", [1], initializer="zeros")
        for dice, size in zip(self.dices, self.units, strict=False):
            with tf.name_scope(dice.name):
                dice.build([None, None, size])
        super().build(input_shape)

    def call(
        self,
        query: tf.Tensor,
        keys: tf.Tensor,
        mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Returns the weighted sum of the keys."""
        keys = self.real_keys(keys, mask)
        if self.query_kernel is not None:
            query = tf.matmul(query, self.query_kernel)
        # float32 before the products: float16 would overflow at 65504.
        hidden = self._first(accumulate(query), accumulate(keys))
        hidden = self._activate(0, hidden, mask, training)
        for place in range(1, len(self.units)):
            hidden = tf.tensordot(hidden, accumulate(self.kernels[place]), 1)
            hidden += accumulate(self.biases[place])
            hidden = self._activate(place, hidden, mask, training)
        logits = tf.tensordot(hidden, accumulate(self.output_kernel), 1)
        weights = tf.squeeze(logits, -1)  # [B, T]
        if self.softmax:
            weights = masked_softmax(weights, mask)
        else:
            weights += accumulate(self.output_bias)
            if mask is not None:
                weights = tf.where(mask, weights, 0.0)
        return weighted_sum(weights, keys)

    def _first(self, query: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Returns the first layer before its activation, `[B, T, units[0]]`."""
        kernel, bias = accumulate(self.kernels[0]), accumulate(self.biases[0])
        of_query, of_key, of_difference, of_product = tf.split(kernel, 4)
        per_query = tf.matmul(query, of_query + of_difference) + bias
        per_key = of_key - of_difference + query[:, :, tf.newaxis] * of_product
        return tf.matmul(keys, per_key) + per_query[:, tf.newaxis, :]

    def _activate(
        self, place: int, hidden: tf.Tensor, mask: tf.Tensor | None, training: bool
    ) -> tf.Tensor:
        if self.dices:
            return self.dices[place](hidden, mask=mask, training=training)
        return self.activation(hidden)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        activation = self.activation
        if activation != "dice":
            activation = tf.keras.activations.serialize(activation)
        return {
            **super().get_config(),
            "units": list(self.units),
            "activation": activation,
            "softmax": self.softmax,
        }
