"""Products of all pairs of fields."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_known, check_positive_int
from tfrs_prerank.layers._initializers import glorot, glorot_factor
from tfrs_prerank.layers._precision import accumulate

_DENSITY = 0.25
_SEED = 0


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class BilinearInteraction(tf.keras.layers.Layer):
    """Multiplies every pair of fields, with a kernel in between.

    With fields `v_1 .. v_F` of size `D`, rows, and `i < j`:

        product "hadamard"     p_ij = (v_i W) * v_j
        product "inner"        p_ij = sum((v_i W) * v_j) = v_i W v_j^T

    `*` is element-wise. The pairs come in the order of `itertools.combinations`:
    (1, 2), (1, 3) .. (1, F), (2, 3) .. (F - 1, F). `kind` says which pairs share a
    kernel, `kernel` what a kernel is:

        kind "all"             one W for all pairs
        kind "each"            one W_i for each first field of a pair: F - 1
        kind "interaction"     one W_ij for each pair: F (F - 1) / 2

        kernel "full"          D x D                                D^2 weights
        kernel "diagonal"      v_i W = v_i * w                      D
        kernel "identity"      v_i W = v_i: plain products          none
        kernel "sparse"        full, but for places fixed at 0      D^2, a share used
        kernel r, a number     W = U V^T of rank r                  2 D r

    Cost per example, in multiply-adds: hadamard `F(F-1)/2 D` for the products; inner
    the same for `"interaction"`, else `F^2 D`, in one matrix product. For the kernels
    `n D^2`, `n D` (diagonal) or nothing, where `n` is `F - 1`, or `F(F-1)/2` for
    `"interaction"`. Sparse and low-rank kernels are multiplied out first, once a
    batch: they save parameters, not time.

    Memory: hadamard products are `F(F-1)/2 D` numbers an example, and training holds
    them up to four times, 1.3 GB for 50 fields of 16 and a batch of 4,096. Inner
    products of `"all"` and `"each"` need `F^2` numbers instead.

    Differs from the paper: it has `F` kernels for `"each"`, but the last field is never
    the first of a pair; only the `F - 1` that are used are made, as in the authors'
    code. Kernels other than full ones are not in the paper.

    >>> import tensorflow as tf
    >>> cross = BilinearInteraction(kernel="identity")
    >>> fields = tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    >>> cross(fields).numpy().tolist()  # 1 with 2, 1 with 3, 2 with 3
    [[[3.0, 8.0], [5.0, 12.0], [15.0, 24.0]]]
    >>> BilinearInteraction(kernel="identity", product="inner")(fields).numpy().tolist()
    [[11.0, 17.0, 39.0]]

    Args:
        kind: `"all"`, `"each"` or `"interaction"`; must be `"all"` for the kernel
            `"identity"`.
        product: `"hadamard"` or `"inner"`.
        kernel: `"full"`, `"diagonal"`, `"identity"`, `"sparse"`, or a rank from 1 to
            `D`. Diagonal kernels start as ones.
        density: for `"sparse"` only: the share of a kernel that is not fixed at 0.
            Every row keeps one place at least.
        seed: for `"sparse"` only: of the places that are kept. They follow from `seed`
            and the shape, so that they are the same after a reload. A graph holds one
            bit for each of them.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        fields: `[B, F, D]`, floating point.

    Returns:
        `[B, F(F-1)/2, D]` (hadamard) or `[B, F(F-1)/2]` (inner) in the layer's compute
        dtype. Sums are computed in float32.

    Raises:
        ValueError: an argument is out of range, `density` or `seed` is set without
            effect, `F` or `D` is unknown, `F` is less than 2, or a rank is larger
            than `D`.

    References:
        Huang et al., FiBiNET, https://arxiv.org/abs/1905.09433, section 3.4.
        Zhang et al., FiBiNet++, https://arxiv.org/abs/2209.05016 (inner product).
    """

    def __init__(
        self,
        kind: str = "all",
        product: str = "hadamard",
        kernel: str | int = "full",
        density: float = _DENSITY,
        seed: int = _SEED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind = check_choice("kind", kind, ("all", "each", "interaction"))
        self.product = check_choice("product", product, ("hadamard", "inner"))
        self.kernel = _check_kernel(kernel)
        self.density = _check_density(density)
        self.seed = _check_seed(seed)
        if self.kernel == "identity" and self.kind != "all":
            raise ValueError(
                "`kind` does nothing with kernel='identity', which has no weights; "
                f"leave it out. Received: kind={kind!r}"
            )
        if self.kernel != "sparse" and (density, seed) != (_DENSITY, _SEED):
            raise ValueError(
                "`density` and `seed` are for kernel='sparse'; leave them out. "
                f"Received: kernel={kernel!r}, density={density}, seed={seed}"
            )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the kernels."""
        shape = tf.TensorShape(input_shape)
        if shape.rank != 3:
            raise ValueError(
                "BilinearInteraction takes fields of shape [B, F, D]. "
                f"Received: shape {shape}"
            )
        fields = check_known("BilinearInteraction", "number of fields", shape[1])
        size = check_known("BilinearInteraction", "field size", shape[2])
        if fields < 2:
            raise ValueError(
                "BilinearInteraction multiplies pairs: the number of fields F must be "
                f"at least 2. Received: {fields}"
            )
        axes = {1: fields, 2: size}
        self.input_spec = tf.keras.layers.InputSpec(ndim=3, axes=axes)
        pairs = fields * (fields - 1) // 2
        leading = {"all": [], "each": [fields - 1], "interaction": [pairs]}[self.kind]
        if self.kernel == "diagonal":
            self.diagonal = self.add_weight(
                "diagonal", [*leading, size], initializer="ones"
            )
        elif isinstance(self.kernel, int):
            if self.kernel > size:
                raise ValueError(
                    "`kernel` as a rank must not be larger than the field size "
                    f"{size}. Received: {self.kernel}; use kernel='full'"
                )
            for name, matrix in {
                "down": [size, self.kernel],
                "up": [self.kernel, size],
            }.items():
                start = glorot_factor(size, size, self.kernel)
                weight = self.add_weight(name, [*leading, *matrix], initializer=start)
                setattr(self, name, weight)
        elif self.kernel != "identity":
            kept = size
            if self.kernel == "sparse":
                places = _places([*leading, size, size], self.density, self.seed)
                kept = places.mean() * size
                # As bits: an export's graph must not hold large constants.
                self._kept = np.packbits(places)
            self.full = self.add_weight(
                "full", [*leading, size, size], initializer=glorot(kept, kept)
            )
        super().build(input_shape)

    def call(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the products of all pairs."""
        if self.product == "inner" and self.kind != "interaction":
            return self._inner_products(fields)
        products = []
        tail, kernels = fields, self._kernels(fields.shape[1])
        # A loop over the fields: what they multiply lies side by side, and nothing has
        # to be gathered. Gathering the pairs took twice the time, in any layout.
        for rest, kernel in zip(
            range(fields.shape[1] - 1, 0, -1), kernels, strict=True
        ):
            # Split off a rest again and again: the gradient of a slice of the whole is
            # as large as the whole, F times over.
            head, tail = tf.split(tail, [1, rest], axis=1)
            left = self._times(head, kernel)  # [B, 1 or rest, D]
            if self.product == "inner":
                product = tf.reduce_sum(accumulate(left) * accumulate(tail), axis=-1)
                products.append(tf.cast(product, fields.dtype))
            else:
                products.append(left * tail)
        return tf.concat(products, axis=1)

    def _inner_products(self, fields: tf.Tensor) -> tf.Tensor:
        """Returns the inner products where pairs of a first field share a kernel."""
        count = fields.shape[1]
        if self.kernel == "identity":
            left = fields
        elif self.kind == "all":
            left = self._times(fields, self._kernels(count)[0])
        else:
            heads = tf.split(fields, count, axis=1)[:-1]
            pairs = zip(heads, self._kernels(count), strict=True)
            left = tf.concat([self._times(*pair) for pair in pairs], axis=1)
        # All with all, [B, F or F - 1, F]: twice what is needed, in one product.
        products = tf.matmul(left, fields, transpose_b=True)
        return _above_the_diagonal(products)

    def _kernels(self, fields: int) -> list[tf.Tensor | None]:
        """Returns the kernel of each first field: of all its pairs, side by side.

        Args:
            fields: the number of fields `F`.

        Returns:
            `F - 1` kernels, for `_times`.
        """
        if self.kernel == "identity":
            return [None] * (fields - 1)
        diagonal = self.kernel == "diagonal"
        kernel = tf.convert_to_tensor(self.diagonal if diagonal else self._product())
        if self.kind == "all":
            return [kernel] * (fields - 1)
        if self.kind == "each":
            return tf.unstack(kernel)
        rests = range(fields - 1, 0, -1)
        if diagonal:
            return tf.split(kernel, list(rests))
        size = kernel.shape[-1]
        kernel = tf.reshape(tf.transpose(kernel, [1, 0, 2]), [size, -1])
        return tf.split(kernel, [rest * size for rest in rests], axis=1)

    def _product(self) -> tf.Tensor:
        """Returns the kernels as full ones, `[..., D, D]`."""
        if isinstance(self.kernel, int):
            return tf.matmul(self.down, self.up)
        full = tf.convert_to_tensor(self.full)
        if self.kernel == "sparse":
            # Not by a product with 0: what lies in the unused places may be anything.
            full = tf.where(_bits(self._kept, full), full, tf.zeros([], full.dtype))
        return full

    def _times(self, heads: tf.Tensor, kernel: tf.Tensor | None) -> tf.Tensor:
        """Returns fields times one of `_kernels`.

        Args:
            heads: `[B, n, D]`, of which `n` is 1 where a kernel holds several.
            kernel: the kernel.

        Returns:
            `[B, n, D]`, or one row for each of the kernels side by side.
        """
        if kernel is None:
            return heads
        if self.kernel == "diagonal":
            return heads * kernel
        size = heads.shape[2]
        rows = tf.matmul(tf.reshape(heads, [-1, size]), kernel)
        return tf.reshape(rows, [-1, heads.shape[1] * kernel.shape[1] // size, size])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "kind": self.kind,
            "product": self.product,
            "kernel": self.kernel,
            "density": self.density,
            "seed": self.seed,
        }


def _bits(packed: np.ndarray, like: tf.Tensor) -> tf.Tensor:
    """Returns the bits of `np.packbits` as a bool tensor of another one's shape."""
    each = tf.constant(1 << np.arange(7, -1, -1), tf.uint8)
    bits = tf.bitwise.bitwise_and(tf.constant(packed)[:, tf.newaxis], each) > 0
    return tf.reshape(tf.reshape(bits, [-1])[: like.shape.num_elements()], like.shape)


def _above_the_diagonal(matrices: tf.Tensor) -> tf.Tensor:
    """Takes `[:, i, j]` with `i < j` out of matrices.

    Args:
        matrices: `[B, m, n]`; `m` is `n`, or `n - 1` without the last row.

    Returns:
        `[B, n (n - 1) / 2]`.
    """
    rows, columns = matrices.shape[1:]
    # The batch last: every piece is one block of memory, and so is its gradient.
    flat = tf.reshape(tf.transpose(matrices, [1, 2, 0]), [rows * columns, -1])
    sizes = [size for i in range(columns - 1) for size in (i + 1, columns - 1 - i)]
    rest = rows * columns - sum(sizes)
    pieces = tf.split(flat, [*sizes, rest])
    return tf.transpose(tf.concat(pieces[1:-1:2], axis=0))


def _check_kernel(kernel: Any) -> str | int:
    if isinstance(kernel, numbers.Integral):
        return check_positive_int("kernel", kernel)
    return check_choice("kernel", kernel, ("full", "diagonal", "identity", "sparse"))


def _check_density(density: Any) -> float:
    real = isinstance(density, numbers.Real) and not isinstance(density, bool)
    value = float(density) if real else math.nan
    if not 0 < value <= 1:
        raise ValueError(
            f"`density` must be a number above 0 and at most 1. Received: {density!r}"
        )
    return value


def _check_seed(seed: Any) -> int:
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**32:
        raise ValueError(
            f"`seed` must be a whole number from 0 to 2**32 - 1. Received: {seed!r}"
        )
    return int(seed)


def _places(shape: list[int], density: float, seed: int) -> np.ndarray:
    """Draws which places of square kernels are kept.

    Args:
        shape: `[..., D, D]`.
        density: their share, the same in every kernel.
        seed: of the draw.

    Returns:
        Bool of that shape, with at least one true in every row.
    """
    size = shape[-1]
    # RandomState: NumPy never changes its numbers, those of default_rng it may.
    order = np.random.RandomState(seed).random_sample(shape)
    # The lowest of each row goes before all others.
    order[order == order.min(axis=-1, keepdims=True)] -= 1
    order = order.reshape(-1, size * size)
    count = max(size, round(density * size * size))
    kept = np.zeros(order.shape, bool)
    chosen = np.argsort(order, axis=-1, kind="stable")[:, :count]
    np.put_along_axis(kept, chosen, True, axis=-1)
    return kept.reshape(shape)
