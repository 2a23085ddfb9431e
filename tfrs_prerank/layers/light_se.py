"""The light squeeze-and-excitation gate of IntTower."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.layers._field_gate import FieldGate
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class LightSE(FieldGate):
    """Shares one unit of extra weight between the fields of an example.

    With fields `e_1 .. e_F` of size `D`:

        z_i = mean(e_i)                        squeeze
        a   = softmax(z W + b)                 excitation, over the fields
        v_i = e_i + a_i e_i                    re-weighting with a skip connection

    `W` is `[F, F]` and `b` is `[F]`. `field_weights` returns `1 + a`: between 1 and 2,
    `1 + 1 / F` on average, so no field can be switched off.

    Cost: `2 F D + F^2` multiply-adds per example, in one product where `SENet` takes
    two, one after the other.

    Differs from other code: IntTower's has versions with a bias and without one, and
    an older one with ReLU before softmax. Here the bias is there: without it fields
    whose means are 0 all count the same.

    >>> import tensorflow as tf
    >>> gate = LightSE()
    >>> fields = tf.constant([[[1.0, -1.0], [2.0, -2.0]]])  # means 0: a = 1/2
    >>> gate(fields).numpy().tolist()
    [[[1.5, -1.5], [3.0, -3.0]]]
    >>> gate.field_weights(fields).numpy().tolist()
    [[1.5, 1.5]]

    Args:
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[..., F, D]`, floating point.

    Returns:
        `[..., F, D]` in the layer's compute dtype. Means and softmax are computed in
        float32.

    Raises:
        ValueError: `F` is unknown or less than 2.

    References:
        Li et al., IntTower, https://arxiv.org/abs/2210.09890, Light-SE block.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates kernel and bias."""
        fields = self.number_of_fields(input_shape)
        self.kernel = self.add_weight(
            "kernel", [fields, fields], initializer="glorot_uniform"
        )
        self.bias = self.add_weight("bias", [fields], initializer="zeros")
        super().build(input_shape)

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the fields, each multiplied by its weight."""
        return fields * self._field_weights(fields)[..., tf.newaxis]

    def _field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns `1 + a`."""
        squeezed = tf.reduce_mean(accumulate(fields), axis=-1)
        logits = self.times(squeezed, self.kernel) + tf.cast(self.bias, squeezed.dtype)
        return tf.cast(1 + tf.nn.softmax(logits), fields.dtype)
