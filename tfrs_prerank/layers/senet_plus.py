"""The bit-wise squeeze-and-excitation gate of FiBiNET++."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int
from tfrs_prerank.layers._field_gate import FieldGate
from tfrs_prerank.layers._precision import accumulate

# Small beside the variance 8e-4 of freshly made embeddings (uniform in +-0.05).
_EPSILON = 1e-5


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SENetPlus(FieldGate):
    """Gives every number of every field a weight that depends on all fields.

    Each field `e_i` of size `D` is cut into `g` groups `e_i1 .. e_ig`, one after the
    other:

        z_i = [max(e_i1) .. max(e_ig), mean(e_i1) .. mean(e_ig)]       squeeze
        a   = relu(z W_1) W_2                                          excitation
        v_i = LN(e_i * a_i + e_i)                                      re-weight, fuse

    `W_1` is `[2 g F, H]` and `W_2` is `[H, F D]` with `H = 2 g F // reduction`; neither
    has a bias. LN normalises the `D` numbers of a field to mean 0 and variance 1, then
    multiplies them with a learned scale and adds a learned offset, `[D]` each, the
    same for all fields. `1e-5` is added to the variance: a field of equal numbers
    gives the offset.

    `field_weights` returns what a field is multiplied with on average: the mean over
    its `D` numbers of `1 + a_i`. It may be negative; LN then rescales every field.

    Cost per example, in multiply-adds: `2 F D + 2 g F H + H F D`, and about `6 F D` to
    re-weight and normalise.

    Differs from other code: the paper does not say over what LN runs, EasyRec
    normalises all `F D` numbers together. Per field, a field keeps its own scale
    whatever the others hold, and the gate treats no field unlike another. EasyRec has
    biases; the formulas of the paper have none.

    >>> import tensorflow as tf
    >>> gate = SENetPlus(groups=2)
    >>> fields = tf.random.normal([2, 6, 4])
    >>> gate(fields).shape
    TensorShape([2, 6, 4])
    >>> [tuple(weight.shape) for weight in gate.weights]  # H = 2 * 2 * 6 // 3 = 8
    [(24, 8), (8, 24), (4,), (4,)]
    >>> gate.field_weights(fields).shape
    TensorShape([2, 6])

    Args:
        groups: number of groups `g`; `D` must be a multiple of it.
        reduction: how many times smaller the hidden layer is than the `2 g F` numbers
            that it reads; at most `2 g F`.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[..., F, D]`, floating point.

    Returns:
        `[..., F, D]` in the layer's compute dtype. Means and LN are computed in
        float32.

    Raises:
        ValueError: an argument is out of range, `F` or `D` is unknown or less than 2,
            `D` is no multiple of `groups`, or `reduction` is larger than `2 g F`.

    References:
        Zhang et al., FiBiNet++, https://arxiv.org/abs/2209.05016, section SENet+.
    """

    def __init__(self, groups: int = 2, reduction: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = check_positive_int("groups", groups)
        self.reduction = check_positive_int("reduction", reduction)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the two kernels, and scale and offset of LN."""
        fields = self.number_of_fields(input_shape)
        size = check_known("SENetPlus", "field size", tf.TensorShape(input_shape)[-1])
        if size < 2:
            raise ValueError(
                "SENetPlus normalises the numbers of a field: the field size D must be "
                f"at least 2. Received: {size}; use SENet"
            )
        if size % self.groups:
            raise ValueError(
                f"The field size must be a multiple of `groups`. Received: field size "
                f"{size}, groups={self.groups}"
            )
        squeezed = 2 * self.groups * fields
        if self.reduction > squeezed:
            raise ValueError(
                "`reduction` must not be larger than 2 * groups * number of fields = "
                f"{squeezed}. Received: {self.reduction}"
            )
        hidden = squeezed // self.reduction
        self.squeeze_kernel = self.add_weight(
            "squeeze_kernel", [squeezed, hidden], initializer="glorot_uniform"
        )
        self.excite_kernel = self.add_weight(
            "excite_kernel", [hidden, fields * size], initializer="glorot_uniform"
        )
        self.scale = self.add_weight("scale", [size], initializer="ones")
        self.offset = self.add_weight("offset", [size], initializer="zeros")
        super().build(input_shape)

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the fields, re-weighted and normalised."""
        x = accumulate(fields) * accumulate(self._multipliers(fields))
        x -= tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x), axis=-1, keepdims=True)
        x *= tf.math.rsqrt(variance + _EPSILON)
        return tf.cast(x, fields.dtype) * self.scale + self.offset

    def _field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the mean multiplier of every field."""
        multipliers = accumulate(self._multipliers(fields))
        return tf.cast(tf.reduce_mean(multipliers, axis=-1), fields.dtype)

    def _multipliers(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns `1 + a`, `[..., F, D]`."""
        count, size = fields.shape[-2:]
        leading = tf.shape(fields)[:-2]
        groups = tf.reshape(
            fields,
            tf.concat([leading, [count, self.groups, size // self.groups]], axis=0),
        )
        squeezed = tf.concat(
            [
                tf.reduce_max(groups, axis=-1),
                tf.cast(tf.reduce_mean(accumulate(groups), axis=-1), fields.dtype),
            ],
            axis=-1,
        )  # [..., F, 2 g]
        squeezed = tf.reshape(
            squeezed, tf.concat([leading, [2 * self.groups * count]], axis=0)
        )
        hidden = tf.nn.relu(self.times(squeezed, self.squeeze_kernel))
        excited = self.times(hidden, self.excite_kernel)
        return 1 + tf.reshape(excited, tf.shape(fields))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "groups": self.groups,
            "reduction": self.reduction,
        }
