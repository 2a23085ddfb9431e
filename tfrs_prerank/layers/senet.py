"""The squeeze-and-excitation gate over fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_positive_int
from tfrs_prerank.layers._field_gate import FieldGate
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SENet(FieldGate):
    """Gives every field a weight that depends on all fields of the example.

    With fields `e_1 .. e_F` of size `D`:

        z_i = mean(e_i)                        squeeze, eq. 2
        a   = s2(s1(z W_1) W_2)                excitation, eq. 3
        v_i = a_i e_i                          re-weighting, eq. 4

    `W_1` is `[F, H]` and `W_2` is `[H, F]` with `H = F // reduction`. Neither has a
    bias. `field_weights` returns `a`. Cost: `2 F D + 2 F H` multiply-adds per example.

    Differs from the sources: the paper of FiBiNET uses ReLU twice, the original
    network (and the default here) ReLU and then sigmoid. With ReLU last a field can
    be switched off for good; with sigmoid every weight stays between 0 and 1.

    >>> import tensorflow as tf
    >>> gate = SENet()
    >>> fields = tf.ones([2, 6, 4])
    >>> gate(fields).shape
    TensorShape([2, 6, 4])
    >>> gate.field_weights(fields).shape
    TensorShape([2, 6])

    Args:
        reduction: how many times smaller the hidden layer is than `F`; at most `F`.
        squeeze: `"mean"` or `"max"` over the `D` values of a field.
        activations: the two activations `(s1, s2)`, names or functions.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[..., F, D]`, floating point.

    Returns:
        `[..., F, D]` in the layer's compute dtype. Means are computed in float32.

    Raises:
        ValueError: an argument is out of range, `F` is unknown or less than 2, or
            `reduction` is larger than `F`.

    References:
        Huang et al., FiBiNET, https://arxiv.org/abs/1905.09433, eq. 2-5.
        Hu et al., Squeeze-and-Excitation Networks,
        https://arxiv.org/abs/1709.01507, eq. 2-4.
    """

    def __init__(
        self,
        reduction: int = 3,
        squeeze: str = "mean",
        activations: Sequence[str | Callable] = ("relu", "sigmoid"),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(activations, str) or len(activations) != 2:
            raise ValueError(
                "`activations` must be a pair of activations, for example "
                f"('relu', 'sigmoid'). Received: {activations!r}"
            )
        self.reduction = check_positive_int("reduction", reduction)
        self.squeeze = check_choice("squeeze", squeeze, ("mean", "max"))
        self.activations = tuple(tf.keras.activations.get(a) for a in activations)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the two kernels."""
        fields = self.number_of_fields(input_shape)
        if self.reduction > fields:
            raise ValueError(
                f"`reduction` must not be larger than the number of fields {fields}. "
                f"Received: {self.reduction}"
            )
        hidden = fields // self.reduction
        self.squeeze_kernel = self.add_weight(
            "squeeze_kernel", [fields, hidden], initializer="glorot_uniform"
        )
        self.excite_kernel = self.add_weight(
            "excite_kernel", [hidden, fields], initializer="glorot_uniform"
        )
        super().build(input_shape)

    def _field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns `a`."""
        first, second = self.activations
        reduce = tf.reduce_mean if self.squeeze == "mean" else tf.reduce_max
        squeezed = tf.cast(reduce(accumulate(fields), axis=-1), fields.dtype)
        hidden = first(self.times(squeezed, self.squeeze_kernel))  # [..., H]
        return second(self.times(hidden, self.excite_kernel))

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the fields, each multiplied by its weight."""
        return fields * self._field_weights(fields)[..., tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "reduction": self.reduction,
            "squeeze": self.squeeze,
            "activations": [
                tf.keras.activations.serialize(a) for a in self.activations
            ],
        }
