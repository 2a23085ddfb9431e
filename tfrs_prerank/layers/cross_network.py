"""The cross networks of DCN and DCN-V2."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_choice, check_known, check_positive_int
from tfrs_prerank.layers._initializers import glorot, glorot_factor
from tfrs_prerank.layers._precision import accumulate


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class CrossNetwork(tf.keras.layers.Layer):
    """Multiplies features with each other, one order more per layer.

    Every layer `l` of `depth` crosses its input `x` with the network's input `x0`:

        v1                    x' = x0 (x . w) + b + x                 (eq. 11)
        v2                    x' = x0 * (W x + b) + x                 (eq. 12)
        v2, rank              x' = x0 * (U V^T x + b) + x
        v2, rank, experts     x' = x0 * (sum_i g_i U_i h_i + b) + x
                              h_i = tanh(C_i tanh(V_i^T x)),  g = softmax(G x)

    `*` is element-wise. Weights per layer, but for the bias, and multiply-adds per row
    and layer: v1 `d`; v2 `d^2`; low rank `2 d r`; mixture of `K` experts
    `K (2 d r + r^2 + d)`.

    The input must be what is crossed: concatenate or flatten the fields first.
    Without biases the output of v1 is a multiple of `x0` (eq. 13); v1 without
    biases is v2 with `W = 1 w^T`. (eq. 11-13 are the source article's.)

    Differs from the sources: `w` of v1 is a vector (the article calls it a matrix);
    eq. 13 holds only for `b = 0`, which the article leaves out. The bias of the
    mixture is one per layer: as the gates add up to 1, one per expert would differ
    from it only by a gated bias. Kernels are stored to be multiplied from the
    right: `x @ kernel`, so the v2 kernel is `W^T`.

    >>> import tensorflow as tf
    >>> cross = CrossNetwork(depth=1)
    >>> cross.build([None, 2])
    >>> _ = cross.kernels[0]["kernel"].assign([1.0, 2.0])
    >>> _ = cross.kernels[0]["bias"].assign([0.0, 0.5])
    >>> cross(tf.constant([[3.0, 4.0]])).numpy().tolist()  # x . w = 11
    [[36.0, 48.5]]

    Args:
        depth: number of layers; the output holds products of up to `depth + 1`
            features.
        version: `"v1"` or `"v2"`.
        rank: v2 only. Rank `r` of the factorised kernel; `None` means a full one.
        experts: v2 with a `rank` only. Number of low-rank experts.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        inputs: `[B, d]`, floating point.

    Returns:
        `[B, d]` in the layer's compute dtype. The gates are computed in float32.

    Raises:
        ValueError: an argument is out of range, `rank` or `experts` is given for
            v1, `experts` without a `rank`, or a `rank` larger than `d`.

    References:
        Wang et al., Deep & Cross Network, https://arxiv.org/abs/1708.05123, eq. 3.
        Wang et al., DCN V2, https://arxiv.org/abs/2008.13535, eq. 1 (full), eq. 2
        (low rank) and the mixture of low-rank experts in the same section.
    """

    def __init__(
        self,
        depth: int,
        version: str = "v1",
        rank: int | None = None,
        experts: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depth = check_positive_int("depth", depth)
        self.version = check_choice("version", version, ("v1", "v2"))
        self.rank = None if rank is None else check_positive_int("rank", rank)
        self.experts = check_positive_int("experts", experts)
        if self.version == "v1" and (self.rank is not None or self.experts > 1):
            raise ValueError(
                "`rank` and `experts` are for version 'v2': the weight of v1 is a "
                f"vector. Received: version='v1', rank={rank}, experts={experts}"
            )
        if self.experts > 1 and self.rank is None:
            raise ValueError(
                "`experts` needs a `rank`: experts are low-rank kernels. "
                f"Received: rank=None, experts={experts}"
            )

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights of all layers."""
        shape = tf.TensorShape(input_shape)
        if shape.rank != 2:
            raise ValueError(
                f"CrossNetwork takes rows of shape [B, d]. Received: shape {shape}; "
                "flatten the fields first"
            )
        size = check_known("CrossNetwork", "row size", shape[-1])
        if self.rank is not None and self.rank > size:
            raise ValueError(
                f"`rank` must not be larger than the row size {size}. Received: "
                f"{self.rank}; use rank=None for a full kernel"
            )
        self.kernels: list[dict[str, tf.Variable]] = []
        for layer in range(self.depth):
            kernels = {
                name: self.add_weight(f"{name}_{layer}", shape, initializer=start)
                for name, (shape, start) in self._kernels(size).items()
            }
            kernels["bias"] = self.add_weight(
                f"bias_{layer}", [size], initializer="zeros"
            )
            self.kernels.append(kernels)
        super().build(input_shape)

    def _kernels(
        self, size: int
    ) -> dict[str, tuple[list[int], tf.keras.initializers.Initializer]]:
        """Returns shape and initialiser of one layer's kernels by name."""
        if self.version == "v1":
            return {"kernel": ([size], glorot(size, 1))}
        if self.rank is None:
            return {"kernel": ([size, size], glorot(size, size))}
        rank, experts = self.rank, self.experts
        if experts == 1:
            return {
                "down": ([size, rank], glorot_factor(size, size, rank)),
                "up": ([rank, size], glorot_factor(size, size, rank)),
            }
        # Kernels of experts lie side by side in one matrix: one matmul for all.
        packed = rank * experts
        return {
            "down": ([size, packed], glorot(size, rank)),
            "inner": ([rank, packed], glorot(rank, rank)),
            "up": ([packed, size], glorot(rank, size)),
            "gate": ([size, experts], glorot(size, experts)),
        }

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the crossed rows."""
        x = inputs
        for kernels in self.kernels:
            if self.version == "v1":
                # The scalar first: d multiplications instead of the d^2 of x0 x^T.
                scalar = tf.matmul(x, kernels["kernel"][:, tf.newaxis])  # [B, 1]
                x = inputs * scalar + kernels["bias"] + x
            else:
                x = inputs * (self._project(x, kernels) + kernels["bias"]) + x
        return x

    def _project(self, x: tf.Tensor, kernels: dict[str, tf.Variable]) -> tf.Tensor:
        """Returns `W x` of one v2 layer, `[B, d]`."""
        if self.rank is None:
            return tf.matmul(x, kernels["kernel"])
        down = tf.matmul(x, kernels["down"])  # [B, K r]
        if self.experts == 1:
            return tf.matmul(down, kernels["up"])
        hidden = tf.reshape(tf.tanh(down), [-1, self.experts, self.rank])
        inner = tf.reshape(kernels["inner"], [self.rank, self.experts, self.rank])
        hidden = tf.tanh(tf.einsum("bkr,rks->bks", hidden, inner))
        logits = tf.matmul(accumulate(x), accumulate(kernels["gate"]))
        gates = tf.cast(tf.nn.softmax(logits), hidden.dtype)  # [B, K]
        # Gating before the last kernel keeps [B, K, d] from ever existing.
        hidden = tf.reshape(
            gates[..., tf.newaxis] * hidden, [-1, self.experts * self.rank]
        )
        return tf.matmul(hidden, kernels["up"])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "depth": self.depth,
            "version": self.version,
            "rank": self.rank,
            "experts": self.experts,
        }
