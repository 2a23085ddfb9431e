"""The multi-gate mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_positive_int
from tfrs_prerank.layers._experts import TaskExperts, gate_logits, mix_experts
from tfrs_prerank.layers._initializers import glorot


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class MMoE(TaskExperts):
    """Gives each task its own mixture of experts that all tasks share.

    For `K` experts `f_i` (MLPs, eq. 20) and a gate of each task `k`:

        f^k(x) = sum_i g^k(x)_i f_i(x)      (eq. 22)
        g^k(x) = softmax(W_gk x)            (eq. 21)

    With equal gates it is the shared bottom. With one task it is a plain mixture of
    experts, with one expert an MLP. (eq. 20-22 are the source article's.)

    Cost per row, in multiply-adds, for layers `u_1 .. u_n` of an expert and `T` tasks:
    `K (d u_1 + u_1 u_2 + ..) + T K (d + u_n)`.

    Differs from the paper: the tasks' own networks `h^k` are not in here; put them
    behind. The source article's gate has the bias that the paper's has not.

    >>> import tensorflow as tf
    >>> mixture = MMoE(["click", "buy"], experts=2, units=[1])
    >>> mixture.build([None, 1])
    >>> _ = mixture.kernels[0]["kernel"].assign([[1.0, 10.0]])  # f_1 = x, f_2 = 10 x
    >>> _ = mixture.gate.assign([[0.0, 0.0, 0.0, 99.0]])  # of click, then of buy
    >>> outputs = mixture(tf.constant([[2.0]]))
    >>> outputs["click"].numpy().tolist(), outputs["buy"].numpy().tolist()
    ([[11.0]], [[20.0]])

    Args:
        tasks: names of the tasks.
        experts: number of experts `K`.
        units: sizes of the layers of each expert; the last is `e`.
        activation: name or function, after every layer of an expert.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        inputs: `[..., d]`, floating point, with at least one axis before the last.

    Returns:
        `{task: [..., e]}` in the layer's compute dtype. The gates are computed in
        float32.

    Raises:
        ValueError: an argument is out of range, two tasks have one name, or `d` is
            unknown.

    References:
        Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts, KDD 2018, https://doi.org/10.1145/3219819.3220007, section
        4.2.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        experts: int,
        units: Sequence[int],
        activation: str | Callable | None = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, units, activation, **kwargs)
        self.experts = check_positive_int("experts", experts)

    def gates(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns how much each expert counts for each task, to explain or to plot.

        Args:
            inputs: `[..., d]`, the layer's input.

        Returns:
            `{task: [..., experts]}`, float32 or wider; each adds up to 1.

        Raises:
            ValueError: the layer has not been built.
        """
        return self._read_gates(inputs)

    def _create_weights(self, size: int) -> None:
        self.kernels = self._add_experts("expert", size, self.experts)
        # The tasks' gates side by side: one matrix product for all.
        self.gate = self.add_weight(
            "gate",
            [size, len(self.tasks) * self.experts],
            initializer=glorot(size, self.experts),
        )

    def _mix(self, rows: tf.Tensor) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        logits = gate_logits(rows, self.gate)
        gates = tf.nn.softmax(
            tf.reshape(logits, [-1, len(self.tasks), self.experts])
        )  # [N, T, K]
        experts = self._run_experts(rows, self.kernels)
        vectors = tf.unstack(mix_experts(gates, experts), axis=1)
        return vectors, dict(zip(self.tasks, tf.unstack(gates, axis=1), strict=True))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "experts": self.experts}
