"""The encoder of BERT, over the real tokens of a batch only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_positive_int
from tfrs_prerank.layers._precision import accumulate

# Reads a tensor of a given name and shape.
Read = Callable[[str, tuple[int, ...]], np.ndarray]

_ACTIVATIONS: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: tf.nn.gelu(x, approximate=True),
    "relu": tf.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT, named as in Hugging Face's `config.json`.

    >>> BertConfig(vocab_size=30522, hidden_size=384, num_attention_heads=12).hidden_act
    'gelu'

    Attributes:
        vocab_size: number of tokens.
        hidden_size: size `d` of a token's vector.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of heads; `d` is a multiple of it.
        intermediate_size: size of the inner layer of a block.
        hidden_act: `"gelu"`, `"gelu_new"` (its approximation by tanh) or `"relu"`.
        hidden_dropout_prob: share of what enters a sum that is dropped in training.
        attention_probs_dropout_prob: share of the attention that is dropped in
            training.
        max_position_embeddings: most tokens of a text.
        type_vocab_size: number of kinds of text; all tokens are of the first.
        layer_norm_eps: what is added to a variance.
        initializer_range: standard deviation of the initial weights.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @classmethod
    def of(cls, config: BertConfig | Mapping[str, Any]) -> BertConfig:
        """Returns a configuration that is one, or a mapping of its fields."""
        return config if isinstance(config, BertConfig) else cls(**config)

    def __post_init__(self) -> None:
        """Checks the values."""
        for field in dataclasses.fields(self):
            if field.type == "int":
                check_positive_int(field.name, getattr(self, field.name))
        check_choice("hidden_act", self.hidden_act, list(_ACTIVATIONS))
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            rate = getattr(self, name)
            if not 0 <= rate < 1:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {rate!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "`hidden_size` must be a multiple of `num_attention_heads`. Received: "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where the real tokens of a padded batch stand.

    Padding enters nothing but the products of attention: all else is computed over the
    `N` real tokens, in the order of the texts.

    Attributes:
        places: row and column of each token, int64 `[N, 2]`.
        rows: the token at each place, int32 `[B, T]`; at a padded one, any.
        bias: added to the logits of attention, float32 `[B, 1, 1, T]`.
    """

    places: tf.Tensor
    rows: tf.Tensor
    bias: tf.Tensor

    @classmethod
    def of(cls, mask: tf.Tensor) -> Packing:
        """Packs by a mask, bool `[B, T]`."""
        count = tf.cumsum(tf.cast(tf.reshape(mask, [-1]), tf.int32))
        # Half of the lowest float: adding a logit to it does not overflow.
        bias = tf.where(mask, 0.0, tf.float32.min / 2)
        return cls(
            places=tf.where(mask),
            rows=tf.reshape(tf.maximum(count - 1, 0), tf.shape(mask)),
            bias=bias[:, tf.newaxis, tf.newaxis],
        )

    def pack(self, x: tf.Tensor) -> tf.Tensor:
        """Returns `[N, ...]` of `[B, T, ...]`."""
        return tf.gather_nd(x, self.places)

    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """Returns `[B, T, d]` of `[N, d]`; padding holds anything."""
        return tf.gather(x, self.rows)


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class BertEmbeddings(tf.keras.layers.Layer):
    """Sum of the vectors of token, position and kind of text, normalised."""

    def __init__(self, config: BertConfig, trained: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config = BertConfig.of(config)
        self.trained = trained
        add = _Adder(self, config, trained)
        size = config.hidden_size
        # Rows are taken out before they are cast, not the other way round.
        self.words = add.table("words", config.vocab_size)
        self.positions = add.table("positions", config.max_position_embeddings)
        self.kind = add.kernel("kind", [size])
        self.norm = add.norm("norm", size)
        self.dropout = _dropout(config.hidden_dropout_prob, self)

    def call(
        self, ids: tf.Tensor, positions: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Returns vectors `[N, d]` of tokens `[N]`."""
        x = _rows(self.words, ids) + _rows(self.positions, positions)
        x += tf.cast(self.kind, x.dtype)
        x = _normalized(x, self.norm, self.config.layer_norm_eps)
        return self.dropout(tf.cast(x, self.compute_dtype), training=training)

    def assign(self, read: Read) -> None:
        """Takes over Hugging Face's weights."""
        size = self.config.hidden_size
        at = "embeddings."
        for variable, name in (
            (self.words, "word_embeddings"),
            (self.positions, "position_embeddings"),
        ):
            variable.assign(read(f"{at}{name}.weight", tuple(variable.shape)))
        kinds = (self.config.type_vocab_size, size)
        self.kind.assign(read(f"{at}token_type_embeddings.weight", kinds)[0])
        _assign_norm(self.norm, read, f"{at}LayerNorm", size)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "trained": self.trained,
        }


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class BertBlock(tf.keras.layers.Layer):
    """Self-attention and a feed-forward layer, each added and then normalised."""

    def __init__(self, config: BertConfig, trained: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config = BertConfig.of(config)
        self.trained = trained
        add = _Adder(self, config, trained)
        size, inner = config.hidden_size, config.intermediate_size
        # Queries, keys and values beside each other: one product instead of three.
        self.attention = add.dense("attention", size, 3 * size)
        self.mixing = add.dense("mixing", size, size)
        self.mixing_norm = add.norm("mixing_norm", size)
        self.hidden = add.dense("hidden", size, inner)
        self.output_layer = add.dense("output", inner, size)
        self.output_norm = add.norm("output_norm", size)
        rate = config.hidden_dropout_prob
        self.dropout = _dropout(rate, self)
        rate = config.attention_probs_dropout_prob
        self.attention_dropout = _dropout(rate, self)

    def call(self, x: tf.Tensor, packing: Packing, training: bool = False) -> tf.Tensor:
        """Returns vectors `[N, d]` of vectors `[N, d]`."""
        found = _linear(self._attend(x, packing, training), self.mixing)
        x = self._added(x, found, self.mixing_norm, training)
        hidden = _ACTIVATIONS[self.config.hidden_act](_linear(x, self.hidden))
        found = _linear(hidden, self.output_layer)
        return self._added(x, found, self.output_norm, training)

    def _attend(self, x: tf.Tensor, packing: Packing, training: bool) -> tf.Tensor:
        heads, size = self.config.num_attention_heads, self.config.hidden_size
        width = size // heads
        shape = tf.shape(packing.rows)
        projected = packing.pad(_linear(x, self.attention))  # [B, T, 3 d]
        parts = tf.reshape(projected, [shape[0], shape[1], 3, heads, width])
        queries, keys, values = tf.unstack(
            tf.transpose(parts, [2, 0, 3, 1, 4])
        )  # [B, heads, T, width]
        # float32 before the product: float16 would overflow at 65504.
        queries = accumulate(queries) / math.sqrt(width)
        logits = tf.matmul(queries, accumulate(keys), transpose_b=True)
        weights = tf.nn.softmax(logits + tf.cast(packing.bias, logits.dtype))
        weights = self.attention_dropout(weights, training=training)
        found = tf.matmul(weights, accumulate(values))
        found = tf.reshape(
            tf.transpose(found, [0, 2, 1, 3]), [*tf.unstack(shape), size]
        )
        return tf.cast(packing.pack(found), x.dtype)

    def _added(
        self, x: tf.Tensor, found: tf.Tensor, norm: tuple[Any, Any], training: bool
    ) -> tf.Tensor:
        x = accumulate(x) + accumulate(self.dropout(found, training=training))
        return tf.cast(
            _normalized(x, norm, self.config.layer_norm_eps), self.compute_dtype
        )

    def assign(self, read: Read, number: int) -> None:
        """Takes over Hugging Face's weights of a block."""
        size, inner = self.config.hidden_size, self.config.intermediate_size
        at = f"encoder.layer.{number}."
        names = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        for dense, denses, rows, columns in (
            (self.attention, names, size, size),
            (self.mixing, [f"{at}attention.output.dense"], size, size),
            (self.hidden, [f"{at}intermediate.dense"], size, inner),
            (self.output_layer, [f"{at}output.dense"], inner, size),
        ):
            kernel, bias = dense
            kernels = [read(f"{name}.weight", (columns, rows)) for name in denses]
            kernel.assign(np.concatenate(kernels).T)
            biases = [read(f"{name}.bias", (columns,)) for name in denses]
            bias.assign(np.concatenate(biases))
        _assign_norm(self.mixing_norm, read, f"{at}attention.output.LayerNorm", size)
        _assign_norm(self.output_norm, read, f"{at}output.LayerNorm", size)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "trained": self.trained,
        }


@dataclasses.dataclass(frozen=True)
class _Adder:
    """Adds the weights of one part of a BERT, which are all trained, or none."""

    layer: tf.keras.layers.Layer
    config: BertConfig
    trainable: bool

    def kernel(self, name: str, shape: list[int], autocast: bool = True) -> Any:
        spread = self.config.initializer_range
        return self.layer.add_weight(
            f"{self.layer.name}/{name}",
            shape,
            initializer=tf.keras.initializers.TruncatedNormal(stddev=spread),
            trainable=self.trainable,
            experimental_autocast=autocast,
        )

    def table(self, name: str, rows: int) -> Any:
        return self.kernel(name, [rows, self.config.hidden_size], autocast=False)

    def vector(self, name: str, size: int, initializer: str) -> Any:
        return self.layer.add_weight(
            f"{self.layer.name}/{name}",
            [size],
            initializer=initializer,
            trainable=self.trainable,
        )

    def dense(self, name: str, rows: int, columns: int) -> tuple[Any, Any]:
        kernel = self.kernel(f"{name}_kernel", [rows, columns])
        return kernel, self.vector(f"{name}_bias", columns, "zeros")

    def norm(self, name: str, size: int) -> tuple[Any, Any]:
        gamma = self.vector(f"{name}_gamma", size, "ones")
        return gamma, self.vector(f"{name}_beta", size, "zeros")


def _rows(table: Any, ids: tf.Tensor) -> tf.Tensor:
    # tf.gather would return the rows of a table that is cut over parameter servers in
    # the order of the parts.
    return tf.nn.embedding_lookup(getattr(table, "variables", table), ids)


def _dropout(rate: float, part: BertEmbeddings | BertBlock) -> Any:
    """Returns dropout for a part that is trained; what is frozen is as in serving."""
    if not part.trained:
        rate = 0.0
    # A generator, whose state a `PreRanker` keeps in its checkpoints. Without autocast,
    # as attention stays in the precision that it comes in.
    kind = "stateful" if rate else None
    return tf.keras.layers.Dropout(rate, rng_type=kind, autocast=False)


def _linear(x: tf.Tensor, dense: tuple[Any, Any]) -> tf.Tensor:
    kernel, bias = dense
    return tf.nn.bias_add(tf.matmul(x, kernel), bias)


def _normalized(x: tf.Tensor, norm: tuple[Any, Any], epsilon: float) -> tf.Tensor:
    """Normalises the last axis in float32."""
    gamma, beta = (tf.cast(weight, x.dtype) for weight in norm)
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def _assign_norm(norm: tuple[Any, Any], read: Read, name: str, size: int) -> None:
    gamma, beta = norm
    gamma.assign(read(f"{name}.weight", (size,)))
    beta.assign(read(f"{name}.bias", (size,)))
