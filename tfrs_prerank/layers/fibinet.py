"""The interaction part of FiBiNET and of FiBiNET++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_positive_int
from tfrs_prerank.layers.bilinear_interaction import BilinearInteraction
from tfrs_prerank.layers.senet import SENet

_REDUCTION = 3
_ACTIVATIONS = ("relu", "relu")
_UNITS = 50


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class FiBiNet(tf.keras.layers.Layer):
    """Multiplies all pairs of fields, as they are and as a SENet weighs them.

    With the fields `E` (`[F, D]`) and the hadamard and inner products of
    `BilinearInteraction`:

        version "original"     [hadamard(E), hadamard'(SENet(E))]     eq. 2-8
        version "plus"         inner(E) W                             W: F(F-1)/2 x m

    The two products of "original" have kernels of their own, of the same kind. Its
    output is flattened, the products of `E` first.

    "plus" is the bi-linear+ module of FiBiNET++: one number for each pair, compressed
    to `m` numbers by a linear layer without a bias. The other half of that model is
    the gate `SENetPlus`: it feeds the MLP beside this output, flattened; nothing is
    multiplied after it.

    Cost per example: "original" twice that of `BilinearInteraction` and that of
    `SENet`; "plus" that of inner products and `m F (F-1) / 2` multiply-adds.

    Memory: "original" gives `F (F-1) D` numbers an example, and training holds them
    about five times; "plus" `F^2` with the kinds `"all"` and `"each"`.

    Differs from the papers: the linear part of FiBiNET and its MLP are left to the
    model, as is the normalisation of fields in FiBiNET++. The compression of the
    authors' FiBiNET++ code has a bias, that of the paper's formula has none.

    >>> import tensorflow as tf
    >>> fields = tf.ones([2, 6, 4])
    >>> FiBiNet()(fields).shape  # 6 * 5 * 4
    TensorShape([2, 120])
    >>> FiBiNet("plus", units=8)(fields).shape
    TensorShape([2, 8])

    Args:
        version: `"original"` or `"plus"`.
        kind: which pairs share a kernel, see `BilinearInteraction`. `"all"` is what
            FiBiNET++ uses.
        kernel: what a kernel is, see `BilinearInteraction`.
        density: for the kernel `"sparse"`, see `BilinearInteraction`.
        seed: for the kernel `"sparse"`, see `BilinearInteraction`.
        reduction: "original" only: that of the SENet.
        activations: "original" only: those of the SENet; twice ReLU in the paper.
        units: "plus" only: `m`, the size of the output.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[B, F, D]`, floating point.

    Returns:
        `[B, F (F-1) D]` ("original") or `[B, m]` ("plus") in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range or set where it has no effect, `F` or
            `D` is unknown, `F` is less than 2, `reduction` is larger than `F`, or a
            rank is larger than `D`.

    References:
        Huang et al., FiBiNET, https://arxiv.org/abs/1905.09433, sections 3.3-3.5.
        Zhang et al., FiBiNet++, https://arxiv.org/abs/2209.05016.
    """

    def __init__(
        self,
        version: str = "original",
        kind: str = "all",
        kernel: str | int = "full",
        density: float = 0.25,
        seed: int = 0,
        reduction: int = _REDUCTION,
        activations: Sequence[str | Callable] = _ACTIVATIONS,
        units: int = _UNITS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = check_choice("version", version, ("original", "plus"))
        self.units = check_positive_int("units", units)
        if self.version == "original" and units != _UNITS:
            raise ValueError(
                "`units` is for version 'plus': the size of the output of 'original' "
                f"follows from its input; leave it out. Received: units={units}"
            )
        options: dict[str, Any] = {
            "kind": kind,
            "kernel": kernel,
            "density": density,
            "seed": seed,
            "dtype": self.dtype_policy,
        }
        # It checks its arguments, for "plus" too.
        senet = SENet(
            reduction, activations=activations, name="senet", dtype=self.dtype_policy
        )
        self.reduction = senet.reduction
        self.activations = senet.activations
        if self.version == "original":
            self.plain = BilinearInteraction(name="plain", **options)
            self.senet = senet
            self.weighed = BilinearInteraction(name="weighed", **options)
        else:
            default = tuple(tf.keras.activations.get(a) for a in _ACTIVATIONS)
            if (self.reduction, self.activations) != (_REDUCTION, default):
                raise ValueError(
                    "`reduction` and `activations` are for version 'original': 'plus' "
                    "has no SENet; set those of the gate `SENetPlus` beside it. "
                    f"Received: reduction={reduction}, activations={activations}"
                )
            self.plain = BilinearInteraction(product="inner", name="plain", **options)
        self.kind = self.plain.kind
        self.kernel = self.plain.kernel
        self.density = self.plain.density
        self.seed = self.plain.seed

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights of all parts."""
        with tf.name_scope(self.plain.name):
            self.plain.build(input_shape)
        if self.version == "original":
            with tf.name_scope(self.senet.name):
                self.senet.build(input_shape)
            with tf.name_scope(self.weighed.name):
                self.weighed.build(input_shape)
        else:
            fields = tf.TensorShape(input_shape)[1]
            self.compression = self.add_weight(
                "compression",
                [fields * (fields - 1) // 2, self.units],
                initializer="glorot_uniform",
            )
        super().build(input_shape)

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the products of all pairs, flattened or compressed."""
        products = self.plain(fields)
        if self.version == "plus":
            return tf.matmul(products, self.compression)
        both = tf.concat([products, self.weighed(self.senet(fields))], axis=1)
        return tf.reshape(both, [-1, both.shape[1] * both.shape[2]])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "version": self.version,
            "kind": self.kind,
            "kernel": self.kernel,
            "density": self.density,
            "seed": self.seed,
            "reduction": self.reduction,
            "activations": [
                tf.keras.activations.serialize(a) for a in self.activations
            ],
            "units": self.units,
        }
