"""Self-attention over a request's behaviours."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_known, check_positive_int
from tfrs_prerank.layers._precision import accumulate

_EPSILON = 1e-6
_GAP_BUCKETS = 32


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class BehaviorTransformer(tf.keras.layers.Layer):
    """Lets every behaviour of a history take up what the others say.

    Each of `blocks` blocks computes, for all behaviours `x_t` of a request,

        x = x + Attention(Norm(x))
        x = x + W_2 relu(W_1 Norm(x) + b_1) + b_2

    and `Norm` follows the last one. `Attention` has `heads` heads: queries, keys and
    values of size `D / heads` are linear in its input, padded behaviours are no keys,
    and `W_o` mixes what the heads found; none of these four kernels has a bias. Padded
    behaviours come out as zeros.

    `positions` says what tells the behaviours apart besides their content; a learned
    vector is added to each at the start:

        "learned"    one for each place in the history
        "time_gap"   one for each power of two of the seconds from the behaviour to the
                     request: bucket 1 for a gap below 1, bucket b for a gap from
                     2^(b - 2) to 2^(b - 1), the last for all longer ones, and bucket 0
                     for a gap that is negative or NaN, which means not known
        None         nothing: the order of the behaviours does not count

    Cost per request, in multiply-adds, of a block: `T (4 D^2 + 2 D units) + 2 T^2 D`.
    It does not grow with the number of documents.

    Differs from the paper: norms stand before the sub-layers and after the last block
    instead of after each sub-layer, so that training needs no warm-up; positions are
    learned or time gaps instead of sines.

    >>> import tensorflow as tf
    >>> encode = BehaviorTransformer(heads=2)
    >>> history = tf.random.normal([2, 5, 4])
    >>> mask = tf.constant([[True] * 5, [True] + [False] * 4])
    >>> encoded = encode(history, mask)
    >>> encoded.shape
    TensorShape([2, 5, 4])
    >>> encoded[1, 1].numpy().tolist()  # padding
    [0.0, 0.0, 0.0, 0.0]

    Args:
        blocks: number of blocks.
        heads: number of heads; `D` must be a multiple of it.
        units: size of `W_1`'s output. `None` means `4 D`.
        dropout: share of what a sub-layer adds that is dropped in training.
        positions: `"learned"`, `"time_gap"` or `None`.
        max_length: most behaviours of a history, for learned positions. `None` means
            the `T` of the first input.
        gap_buckets: number of buckets of known time gaps.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        sequence: `[B, T, D]`, floating point. Padding may hold anything.
        mask: bool `[B, T]`, true = a real behaviour. `None` means all are real.
        gaps: `[B, T]`, seconds from a behaviour to the request, floating point or
            integer; with `positions="time_gap"` only.
        training: whether dropout is at work.

    Returns:
        `[B, T, D]` in the layer's compute dtype. Norms and softmax are computed in
        float32.

    Raises:
        ValueError: an argument is out of range or has no effect, a shape is of the
            wrong rank, `D` is unknown or no multiple of `heads`, there are more
            behaviours than `max_length`, or gaps are missing or given for nothing.
        TypeError: the mask is not bool.

    References:
        Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762,
        eq. 1-2 and section 3.2.2.
        Xiong et al., On Layer Normalization in the Transformer Architecture,
        https://arxiv.org/abs/2002.04745, table 1, right column.
    """

    def __init__(
        self,
        blocks: int = 1,
        heads: int = 1,
        units: int | None = None,
        dropout: float = 0.0,
        positions: str | None = "learned",
        max_length: int | None = None,
        gap_buckets: int = _GAP_BUCKETS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.blocks = check_positive_int("blocks", blocks)
        self.heads = check_positive_int("heads", heads)
        self.units = None if units is None else check_positive_int("units", units)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: {dropout!r}")
        self.dropout = dropout
        self.positions = None
        if positions is not None:
            choices = ("learned", "time_gap")
            self.positions = check_choice("positions", positions, choices)
        if max_length is not None:
            max_length = check_positive_int("max_length", max_length)
            self._check_effect("max_length", max_length, "learned")
        self.max_length = max_length
        self.gap_buckets = check_positive_int("gap_buckets", gap_buckets)
        if gap_buckets != _GAP_BUCKETS:
            self._check_effect("gap_buckets", gap_buckets, "time_gap")
        self.stack = [
            _Block(heads, units, dropout, dtype=self.dtype_policy, name=f"block_{n}")
            for n in range(blocks)
        ]
        self.norm = _Norm(dtype=self.dtype_policy, name="norm")

    def _check_effect(self, name: str, value: int, positions: str) -> None:
        if self.positions != positions:
            raise ValueError(
                f"`{name}` does nothing with positions={self.positions!r}; leave it "
                f"out or use positions={positions!r}. Received: {name}={value}"
            )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the positions and the blocks."""
        shape = tf.TensorShape(input_shape)
        if shape.rank != 3:
            raise ValueError(
                "BehaviorTransformer takes behaviours of shape [B, T, D]. "
                f"Received: shape {shape}"
            )
        size = check_known("BehaviorTransformer", "behaviour size", shape[-1])
        if size % self.heads:
            raise ValueError(
                "The size of a behaviour must be a multiple of `heads`. Received: size "
                f"{size}, heads={self.heads}"
            )
        self.position_vectors = None
        if self.positions is not None:
            rows = self._position_rows(shape[1])
            self.position_vectors = self.add_weight(
                "position_vectors", [rows, size], initializer="uniform"
            )
        parts: list[tf.keras.layers.Layer] = [*self.stack, self.norm]
        for part in parts:
            with tf.name_scope(part.name):
                part.build(shape)
        super().build(input_shape)

    def _position_rows(self, length: int | None) -> int:
        """Returns the number of position vectors."""
        if self.positions == "time_gap":
            return self.gap_buckets + 1
        length = self.max_length or length
        if length is None:
            raise ValueError(
                "Learned positions need a known number of behaviours. Received: "
                "T=None, max_length=None; give `max_length`"
            )
        return length

    def call(
        self,
        sequence: tf.Tensor,
        mask: tf.Tensor | None = None,
        gaps: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Encodes the behaviours of each request."""
        if mask is not None and mask.dtype != tf.bool:
            raise TypeError(
                "The mask of BehaviorTransformer must be bool, true = a real "
                f"behaviour. Received: dtype {mask.dtype.name}; pass `mask > 0`"
            )
        x = _real(sequence, mask)
        vectors = self._positions(x, gaps)
        if vectors is not None:
            x += vectors
        for block in self.stack:
            x = block(x, mask=mask, training=training)
        return _real(self.norm(x), mask)

    def _positions(self, x: tf.Tensor, gaps: tf.Tensor | None) -> tf.Tensor | None:
        """Returns what is added to the behaviours, `[T, D]` or `[B, T, D]`."""
        if (gaps is not None) != (self.positions == "time_gap"):
            raise ValueError(
                "`gaps` belongs to positions='time_gap'. Received: "
                f"gaps={None if gaps is None else tuple(gaps.shape)}, "
                f"positions={self.positions!r}"
            )
        if gaps is not None:
            return tf.gather(self.position_vectors, gap_bucket(gaps, self.gap_buckets))
        if self.position_vectors is None:
            return None
        rows, length = self.position_vectors.shape[0], x.shape[1]
        if length is not None and length > rows:
            raise ValueError(
                f"There are vectors for {rows} positions. Received: {length} "
                "behaviours; raise `max_length` or cut the history"
            )
        # A slice beyond the last row is shorter, and adding it to `x` then fails.
        return self.position_vectors[: tf.shape(x)[1]]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "blocks": self.blocks,
            "heads": self.heads,
            "units": self.units,
            "dropout": self.dropout,
            "positions": self.positions,
            "max_length": self.max_length,
            "gap_buckets": self.gap_buckets,
        }


def gap_bucket(gaps: tf.Tensor, buckets: int) -> tf.Tensor:
    """Returns the bucket of each time gap; see `BehaviorTransformer`.

    >>> import tensorflow as tf
    >>> gaps = tf.constant([-1, 0, 1, 2, 3, 4, 2**40], tf.int64)
    >>> gap_bucket(gaps, 32).numpy().tolist()
    [0, 1, 2, 3, 3, 4, 32]

    Args:
        gaps: seconds, of any shape, floating point or integer.
        buckets: number of buckets of known gaps.

    Returns:
        int32, 0 to `buckets`.
    """
    gaps = tf.convert_to_tensor(gaps)
    if not gaps.dtype.is_floating:
        gaps = tf.cast(gaps, tf.int64)
    # Comparisons, since a logarithm in floating point puts some powers of two below
    # their own exponent. NaN is not at least 0 either. The bounds are those that an
    # int64 can hold.
    bounds = [0, *(2**power for power in range(min(buckets - 1, 63)))]
    reached = gaps[..., tf.newaxis] >= tf.constant(bounds, gaps.dtype)
    return tf.reduce_sum(tf.cast(reached, tf.int32), axis=-1)


def _real(x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Returns `x` with zeros in place of padding, which may hold anything."""
    if mask is None:
        return x
    return tf.where(mask[..., tf.newaxis], x, tf.zeros([], x.dtype))


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class _Block(tf.keras.layers.Layer):
    """One block; its arguments are those of `BehaviorTransformer`."""

    def __init__(
        self, heads: int, units: int | None, dropout: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.units = units
        self.rate = dropout
        self.norms = [
            _Norm(dtype=self.dtype_policy, name=f"{name}_norm")
            for name in ("attention", "hidden")
        ]
        # Generators, whose state a `PreRanker` keeps in its checkpoints.
        self.dropouts = [
            tf.keras.layers.Dropout(
                dropout, rng_type="stateful", dtype=self.dtype_policy
            )
            for _ in range(2 if dropout else 0)
        ]

    def build(self, input_shape: tf.TensorShape) -> None:
        size = input_shape[-1]
        units = self.units or 4 * size
        for norm in self.norms:
            with tf.name_scope(norm.name):
                norm.build(input_shape)
        glorot = "glorot_uniform"
        # Three square kernels beside each other: Glorot's range for one of them.
        limit = math.sqrt(3 / size)
        self.projections = self.add_weight(
            "projections",
            [size, 3 * size],
            initializer=tf.keras.initializers.RandomUniform(-limit, limit),
        )
        self.mixing = self.add_weight("mixing", [size, size], initializer=glorot)
        self.hidden_kernel = self.add_weight(
            "hidden_kernel", [size, units], initializer=glorot
        )
        self.hidden_bias = self.add_weight("hidden_bias", [units], initializer="zeros")
        self.output_kernel = self.add_weight(
            "output_kernel", [units, size], initializer=glorot
        )
        self.output_bias = self.add_weight("output_bias", [size], initializer="zeros")
        super().build(input_shape)

    def call(
        self, x: tf.Tensor, mask: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        first, second = self.norms
        x += self._kept(0, self._attend(first(x), mask), training)
        hidden = tf.nn.relu(
            tf.tensordot(second(x), self.hidden_kernel, 1) + self.hidden_bias
        )
        added = tf.tensordot(hidden, self.output_kernel, 1) + self.output_bias
        return x + self._kept(1, added, training)

    def _attend(self, x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Returns multi-head self-attention, `[B, T, D]`."""
        size = x.shape[-1]
        width = size // self.heads
        shape = tf.shape(x)
        projected = tf.tensordot(x, self.projections, 1)  # [B, T, 3 D]
        if self.heads == 1:
            queries, keys, values = tf.split(projected, 3, axis=-1)  # [B, T, D]
        else:
            parts = tf.reshape(projected, [-1, shape[1], 3, self.heads, width])
            queries, keys, values = tf.unstack(
                tf.transpose(parts, [2, 0, 3, 1, 4])
            )  # [B, heads, T, width]
        # float32 before the product: float16 would overflow at 65504.
        queries = accumulate(queries) / math.sqrt(width)
        logits = tf.matmul(queries, accumulate(keys), transpose_b=True)
        if mask is not None:
            # Half of the lowest float is below every logit, and adding one to it does
            # not overflow. Where nothing is real all weights are equal, and what comes
            # out is dropped as padding.
            low = tf.where(mask, tf.zeros([], logits.dtype), logits.dtype.min / 2)
            ones = [1] * (logits.shape.rank - 2)
            logits += tf.reshape(low, [shape[0], *ones, shape[1]])
        found = tf.matmul(tf.nn.softmax(logits), accumulate(values))
        found = tf.cast(found, x.dtype)
        if self.heads > 1:
            found = tf.transpose(found, [0, 2, 1, 3])
            found = tf.reshape(found, [-1, shape[1], size])
        return tf.tensordot(found, self.mixing, 1)

    def _kept(self, place: int, added: tf.Tensor, training: bool) -> tf.Tensor:
        if not self.dropouts:
            return added
        return self.dropouts[place](added, training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "heads": self.heads,
            "units": self.units,
            "dropout": self.rate,
        }


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class _Norm(tf.keras.layers.Layer):
    """Layer normalisation over the last axis.

    `tf.keras.layers.LayerNormalization` raises a small epsilon to 1e-5 in its fast
    form, a hundredth of the variance of a fresh embedding.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        size = input_shape[-1]
        self.gamma = self.add_weight("gamma", [size], initializer="ones")
        self.beta = self.add_weight("beta", [size], initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        values = accumulate(x)
        centred = values - tf.reduce_mean(values, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        scale = tf.math.rsqrt(variance + _EPSILON) * accumulate(self.gamma)
        return tf.cast(centred * scale + accumulate(self.beta), x.dtype)
