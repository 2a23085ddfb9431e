"""What the gates over fields share."""

from __future__ import annotations

import abc

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known


class FieldGate(tf.keras.layers.Layer, abc.ABC):
    """Base of layers that weigh the fields of an example, `[..., F, D]` to the same.

    A subclass computes its weights in `_field_weights`.
    """

    def number_of_fields(self, input_shape: tf.TensorShape) -> int:
        """Returns `F` from the shape given to `build`."""
        name = type(self).__name__
        shape = tf.TensorShape(input_shape)
        if shape.rank is None or shape.rank < 2:
            raise ValueError(
                f"{name} takes fields of shape [..., F, D]. Received: shape {shape}"
            )
        fields = check_known(name, "number of fields", shape[-2])
        if fields < 2:
            raise ValueError(
                f"{name} weighs fields against each other: the number of fields F must "
                f"be at least 2. Received: {fields}; leave the gate out"
            )
        return fields

    def field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns how much every field counts, to explain or to log.

        What is compared is the fields of one example: a field of twice the weight
        counts twice as much. The class says what its weights are and their range.

        Args:
            fields: `[..., F, D]`, the layer's input.

        Returns:
            `[..., F]` in the layer's compute dtype.

        Raises:
            ValueError: the layer has not been built.
        """
        if not self.built:
            raise ValueError(
                f"{self.name} has no weights yet. Received: fields of shape "
                f"{tuple(fields.shape)}; call the layer on a batch first"
            )
        # Keras casts inputs only inside `__call__`.
        return self._field_weights(tf.cast(fields, self.compute_dtype))

    @abc.abstractmethod
    def _field_weights(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the weights of fields in the compute dtype."""

    def times(self, x: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
        """Returns `x @ kernel`, `[..., m]` for an `x` of `[..., n]`."""
        # Keras casts weights only inside `__call__`.
        return tf.tensordot(x, tf.cast(kernel, x.dtype), 1)
