"""Self-attention over fields."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int
from tfrs_prerank.layers._field_gate import FieldGate
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class FeatureAttention(FieldGate):
    """Adds to every field what it finds in the fields that matter to it.

    With fields `e_1 .. e_F` of size `D`, and for each head its own `Q`, `K` and `V`,
    all `[D, D / heads]`:

        a_ij = softmax_j((e_i Q) . (e_j K) / sqrt(D / heads))
        v_i  = e_i + [sum_j a_ij e_j V], the heads one after the other

    `field_weights` returns the attention that each field `j` receives: the mean of
    `a_ij` over the heads and over the attending fields `i`. It adds up to 1.

    The kernels are the same for all fields: permuting the fields permutes the output,
    and a field is known by its content alone. Weights: `3 D^2`, whatever `F` is. Cost
    per example: `3 F D^2 + 2 F^2 D` multiply-adds.

    Differs from AutoInt, whose layer is `relu([...] + e_i R)` with a kernel `R` and
    unscaled products. That layer is stacked to make all of a model's crosses; this one
    is a gate before other layers, as `SENet` is, and has to let the fields through:
    `e_i` itself is kept, and there is no ReLU to cut off the negative half of what
    comes next. The scale keeps softmax from saturating as `D` grows.

    >>> import tensorflow as tf
    >>> gate = FeatureAttention(heads=2)
    >>> fields = tf.random.normal([2, 6, 4])
    >>> gate(fields).shape
    TensorShape([2, 6, 4])
    >>> gate.field_weights(tf.zeros([1, 4, 4])).numpy().tolist()  # all the same
    [[0.25, 0.25, 0.25, 0.25]]

    Args:
        heads: number of heads; `D` must be a multiple of it.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[..., F, D]`, floating point.

    Returns:
        `[..., F, D]` in the layer's compute dtype. Logits and softmax are computed in
        float32.

    Raises:
        ValueError: an argument is out of range, `F` or `D` is unknown, `F` is less
            than 2, or `D` is no multiple of `heads`.

    References:
        Song et al., AutoInt, https://arxiv.org/abs/1810.11921, eq. 5-8.
        Vaswani et al., Attention Is All You Need,
        https://arxiv.org/abs/1706.03762, eq. 1.
    """

    def __init__(self, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = check_positive_int("heads", heads)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the kernels of queries, keys and values."""
        self.number_of_fields(input_shape)
        size = check_known(
            "FeatureAttention", "field size", tf.TensorShape(input_shape)[-1]
        )
        if size % self.heads:
            raise ValueError(
                f"The field size must be a multiple of `heads`. Received: field size "
                f"{size}, heads={self.heads}"
            )
        # Head h owns columns h D/heads to (h + 1) D/heads of each kernel.
        self.query_kernel, self.key_kernel, self.value_kernel = (
            self.add_weight(name, [size, size], initializer="glorot_uniform")
            for name in ("query_kernel", "key_kernel", "value_kernel")
        )
        super().build(input_shape)

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the fields, each with what it attends to."""
        attention = tf.cast(self._attention(fields), fields.dtype)
        found = tf.matmul(attention, self._heads(fields, self.value_kernel))
        return fields + tf.concat(tf.unstack(found, self.heads), axis=-1)

    def _field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the attention that each field receives."""
        received = tf.reduce_mean(self._attention(fields), axis=[0, -2])
        return tf.cast(received, fields.dtype)

    def _attention(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns `a`, at least float32 `[heads, ..., F, F]`."""
        # float32 before the product: float16 would overflow at 65504.
        queries = accumulate(self._heads(fields, self.query_kernel))
        keys = accumulate(self._heads(fields, self.key_kernel))
        logits = tf.matmul(queries, keys, transpose_b=True)
        return tf.nn.softmax(logits / math.sqrt(fields.shape[-1] // self.heads))

    def _heads(self, fields: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
        """Returns the projected fields of every head, `[heads, ..., F, D / heads]`."""
        # Heads first and plain matmuls: einsum over [..., F, heads, d] is slower.
        return tf.stack(tf.split(self.times(fields, kernel), self.heads, axis=-1))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "heads": self.heads}
