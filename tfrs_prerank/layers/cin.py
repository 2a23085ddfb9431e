"""The compressed interaction network of xDeepFM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int
from tfrs_prerank.layers._initializers import glorot_factor
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class CIN(tf.keras.layers.Layer):
    """Crosses whole fields with each other, one order more per layer.

    With the fields as the rows of `X^0` (`[F, D]`), layer `k` makes `H_k` feature maps
    of size `D` out of the `H_{k-1}` of the layer before (`H_0 = F`):

        X^k_h = s(sum_{i,j} W^{k,h}_ij (X^{k-1}_i * X^0_j))     eq. 6
        p^k_h = sum_d X^k_{h,d}                                 eq. 7
        output = [p^1, p^2, .. p^T]                             eq. 8

    `*` is element-wise: maps are crossed as vectors, their `D` numbers stay apart
    until they are added up. `s` is the activation.

    With `split_half` the first half of the maps of a layer goes on to the next and the
    second half to the output, as in the authors' code; the last layer gives all its
    maps to the output. With a `rank` every `W^{k,h} = U V^T`.

    Weights: `sum_k H_k H_{k-1} F`, where `H_{k-1}` counts the maps that go on; with a
    rank `r`, `sum_k H_k r (H_{k-1} + F)`. The paper counts `H_k` more, of the linear
    layer on top.

    Cost per example, in multiply-adds, of the maps that go on: first layer
    `D H F (F+1) / 2`, others `D H_k H_{k-1} F`; with a rank `D H_k r (H_{k-1} + F)`.
    Maps that only go to the output, those of the last layer and of halves, are never
    made where there is no activation: `sum_d` and `sum_{i,j}` change places, and they
    cost `H_{k-1} F (D + H_k)`, about `D` times less. All this is exact.

    Memory: training holds, per example and layer whose maps go on, `D F (F+1) / 2`
    numbers for the first and `D H_k F` for others, and as many for their gradients;
    layers that only go to the output hold `H_{k-1} F`. With a rank `2 D H_k r`.

    Differs from the paper: no activation, or any; the paper finds the identity best.
    DeepCTR adds a bias to every map, the formulas have none.

    >>> import tensorflow as tf
    >>> cross = CIN((1,))
    >>> cross.build([None, 2, 3])
    >>> kernel = [[1.0], [10.0], [100.0], [1000.0]]  # W_11, W_12, W_21, W_22
    >>> _ = cross.kernels[0]["full"].assign(kernel)
    >>> fields = tf.constant([[[1.0, 1.0, 1.0], [0.0, 2.0, 0.0]]])
    >>> cross(fields).numpy().tolist()  # 3 * 1 + 2 * 10 + 2 * 100 + 4 * 1000
    [[4223.0]]

    Args:
        units: number of feature maps `H_1 .. H_T` of each layer.
        split_half: whether half of a layer's maps go to the output and only the others
            on; all units but the last must then be even.
        activation: name or function of `s`; `None` is the identity.
        rank: rank of every `W^{k,h}`; `None` means full ones.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[B, F, D]`, floating point.

    Returns:
        `[B, sum(units)]`, with `split_half` half of all but the last, in the layer's
        compute dtype. Sums over `d` are computed in float32.

    Raises:
        ValueError: an argument is out of range, units are odd with `split_half`, `F` or
            `D` is unknown, or the rank is larger than a kernel's smaller side.

    References:
        Lian et al., xDeepFM, https://arxiv.org/abs/1803.05170, eq. 6-8 and section
        3.2.1 (low rank).
    """

    def __init__(
        self,
        units: Sequence[int],
        split_half: bool = False,
        activation: str | Callable | None = None,
        rank: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(units, (str, int)) or not units:
            raise ValueError(
                "`units` must list the number of maps of each layer, for example "
                f"(32, 32). Received: {units!r}"
            )
        self.units = tuple(check_positive_int("units", unit) for unit in units)
        if not isinstance(split_half, bool):
            raise ValueError(
                f"`split_half` must be True or False. Received: {split_half!r}"
            )
        self.split_half = split_half
        if split_half and any(unit % 2 for unit in self.units[:-1]):
            raise ValueError(
                "`units` must be even with `split_half`, but for the last layer. "
                f"Received: {tuple(units)}"
            )
        self.activation = tf.keras.activations.get(activation)
        self.rank = None if rank is None else check_positive_int("rank", rank)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the kernels of all layers."""
        shape = tf.TensorShape(input_shape)
        if shape.rank != 3:
            raise ValueError(
                f"CIN takes fields of shape [B, F, D]. Received: shape {shape}"
            )
        fields = check_known("CIN", "number of fields", shape[1])
        size = check_known("CIN", "field size", shape[2])
        # Other shapes might fit the reshapes, and mix examples.
        axes = {1: fields, 2: size}
        self.input_spec = tf.keras.layers.InputSpec(ndim=3, axes=axes)
        inputs = [fields, *(self._passed_on(unit) for unit in self.units[:-1])]
        smallest = min(inputs)
        if self.rank is not None and self.rank > smallest:
            raise ValueError(
                "`rank` must not be larger than the number of fields or of maps that "
                f"go into a layer, here {smallest}. Received: {self.rank}"
            )
        self.kernels: list[dict[str, tf.Variable]] = []
        for layer, (maps, unit) in enumerate(zip(inputs, self.units, strict=True)):
            if self.rank is None:
                # Row i F + j, column h.
                kernel = self.add_weight(
                    f"kernel_{layer}",
                    [maps * fields, unit],
                    initializer="glorot_uniform",
                )
                self.kernels.append({"full": kernel})
                continue
            self.kernels.append(
                {
                    side: self.add_weight(
                        f"{side}_{layer}",
                        [rows, unit, self.rank],
                        initializer=glorot_factor(maps * fields, unit, self.rank),
                    )
                    for side, rows in (("left", maps), ("right", fields))
                }
            )
        super().build(input_shape)

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the sums of all maps that go to the output."""
        # [B, D, F]: matrix products then run over fields and maps.
        first = maps = tf.transpose(fields, [0, 2, 1])
        linear = self.activation is tf.keras.activations.linear
        outputs = []
        for layer, kernels in enumerate(self.kernels):
            unit = self.units[layer]
            last = layer == len(self.units) - 1
            passed_on = 0 if last else self._passed_on(unit)
            if linear and passed_on < unit:
                going = {
                    name: kernel[:, :passed_on] for name, kernel in kernels.items()
                }
                staying = {
                    name: kernel[:, passed_on:] for name, kernel in kernels.items()
                }
                outputs.append(self._sums(maps, first, staying))
                if passed_on:
                    maps = self._maps(maps, first, going)
            else:
                made = self.activation(self._maps(maps, first, kernels))
                # Where all maps go on, they go to the output as well.
                outputs.append(_summed(made[..., passed_on % unit :]))
                maps = made[..., :passed_on]
        return tf.concat(outputs, axis=1)

    def _passed_on(self, unit: int) -> int:
        """Returns how many maps of a layer go on to the next."""
        return unit // 2 if self.split_half else unit

    def _maps(
        self, maps: tf.Tensor, first: tf.Tensor, kernels: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns eq. 6 without the activation.

        Args:
            maps: `X^{k-1}`, `[B, D, H]`.
            first: `X^0`, `[B, D, F]`.
            kernels: those of some maps, by name.

        Returns:
            `X^k`, `[B, D, H_k]`.
        """
        size, fields = first.shape[1:]
        before = maps.shape[2]
        if self.rank is not None:
            left = tf.einsum("bdi,ihr->bdhr", maps, kernels["left"])
            right = tf.einsum("bdj,jhr->bdhr", first, kernels["right"])
            total = tf.reduce_sum(accumulate(left) * accumulate(right), axis=-1)
            return tf.cast(total, maps.dtype)
        kernel = kernels["full"]
        unit = kernel.shape[1]
        if maps is first:
            rows = tf.matmul(
                _squares(first), _symmetric(kernel, fields), transpose_a=True
            )
            return tf.reshape(rows, [-1, size, unit])
        # The kernel first, then the products: the outer products of maps and fields,
        # [B, D, H F], never exist.
        kernel = tf.reshape(kernel, [before, fields * unit])
        rows = tf.matmul(tf.reshape(maps, [-1, before]), kernel)
        rows = tf.matmul(
            tf.reshape(first, [-1, 1, fields]), tf.reshape(rows, [-1, fields, unit])
        )
        return tf.reshape(rows, [-1, size, unit])

    def _sums(
        self, maps: tf.Tensor, first: tf.Tensor, kernels: dict[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns the sums over `d` of what `_maps` would return, `[B, H_k]`."""
        wide = {name: accumulate(kernel) for name, kernel in kernels.items()}
        if self.rank is None:
            kernel = wide["full"]
        else:
            kernel = tf.einsum("ihr,jhr->ijh", wide["left"], wide["right"])
            kernel = tf.reshape(kernel, [-1, kernel.shape[2]])
        products = tf.matmul(accumulate(maps), accumulate(first), transpose_a=True)
        products = tf.reshape(products, [-1, kernel.shape[0]])  # [B, H F]
        return tf.cast(tf.matmul(products, kernel), maps.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": list(self.units),
            "split_half": self.split_half,
            "activation": tf.keras.activations.serialize(self.activation),
            "rank": self.rank,
        }


def _summed(maps: tf.Tensor) -> tf.Tensor:
    """Returns eq. 7: `[B, D, H]` to `[B, H]`."""
    return tf.cast(tf.reduce_sum(accumulate(maps), axis=1), maps.dtype)


def _squares(first: tf.Tensor) -> tf.Tensor:
    """Returns the products of all fields with themselves and those after them.

    Args:
        first: `[B, D, F]`.

    Returns:
        `[F (F + 1) / 2, B D]`, in the order of `np.triu_indices`.
    """
    fields = first.shape[2]
    # Fields along the first axis: parts of it are taken without a copy.
    tail = tf.transpose(tf.reshape(first, [-1, fields]))
    products = []
    for rest in range(fields - 1, -1, -1):
        products.append(tail[:1] * tail)
        if rest:
            _, tail = tf.split(tail, [1, rest])
    return tf.concat(products, axis=0)


def _symmetric(kernel: tf.Tensor, fields: int) -> tf.Tensor:
    """Returns the first layer's kernel for `_squares`: `W_ij + W_ji`, once for both."""
    square = tf.reshape(kernel, [fields, fields, -1])
    both = tf.reshape(square + tf.transpose(square, [1, 0, 2]), tf.shape(kernel))
    rows, columns = np.triu_indices(fields)
    # W_ii is in there twice.
    share = tf.constant(np.where(rows == columns, 0.5, 1.0), both.dtype)
    return tf.gather(both, rows * fields + columns) * share[:, tf.newaxis]
