"""Progressive layered extraction: experts of each task beside shared ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfrs_prerank.layers._checks import check_positive_int
from tfrs_prerank.layers._experts import TaskExperts, gate_logits, mix_experts
from tfrs_prerank.layers._initializers import glorot


class LevelGates(NamedTuple):
    """The gates of one level of `PLE`, `[..., experts]` each, adding up to 1.

    Attributes:
        tasks: by task: its own experts, then the shared ones.
        shared: of the shared branch: the experts of every task in order, then the
            shared ones; None at the last level, which has no such gate.
    """

    tasks: dict[str, tf.Tensor]
    shared: tf.Tensor | None


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class PLE(TaskExperts):
    """Gives each task a mixture of its own experts and of shared ones, level by level.

    Every task `k` is a branch, and what they share is another, `s`. All start at `x`;
    level `j` makes the branches' next vectors, by the experts `E_k` and `E_s` (MLPs)
    that read their own branch:

        g^{k,j} = w^{k,j}(g^{k,j-1}) S^{k,j}                    eq. 5 (one level: eq. 1)
        w^{k,j}(z) = softmax(W_{k,j} z)                         eq. 2
        S^{k,j} = [E_k(g^{k,j-1}), E_s(g^{s,j-1})]              eq. 3
        g^{s,j} = w^{s,j}(g^{s,j-1}) [E_1, .. E_T, E_s]         shared gate: all experts

    The last level has no shared gate: nothing reads it. At one level (CGC) a task's
    loss reaches its own and the shared experts only; above that, the shared branch
    carries it to all experts of the levels below. With one task, shared experts differ
    from its own only in that branch.

    Cost per row, in multiply-adds, of a level of `m` own experts for each of `T` tasks
    and `m_s` shared ones, with layers `u_1 .. u_n` and an input of `d` (`u_n` above
    the first level): `(T m + m_s) (d u_1 + u_1 u_2 + ..)` for experts,
    `T (m + m_s) (d + u_n)` for the tasks' gates and `(T m + m_s) (d + u_n)` for the
    shared one.

    Differs from the paper: every task has the same number of own experts. The tasks'
    towers are not in here; put them behind. FuxiCTR's shared gate reads the shared
    experts only, the paper's and this one all.

    >>> import tensorflow as tf
    >>> mixture = PLE(["click", "buy"], shared=1, own=1, levels=1, units=[1])
    >>> mixture.build([None, 1])
    >>> for branch, factor in zip(mixture.branches[0], [1.0, 10.0, 100.0]):
    ...     _ = branch["experts"][0]["kernel"].assign([[factor]])
    >>> for branch in mixture.branches[0][:2]:
    ...     _ = branch["gate"].assign([[0.0, 0.0]])
    >>> outputs = mixture(tf.constant([[2.0]]))  # half own, half shared: 100 x
    >>> outputs["click"].numpy().tolist(), outputs["buy"].numpy().tolist()
    ([[101.0]], [[110.0]])

    Args:
        tasks: names of the tasks.
        shared: number of shared experts of each level.
        own: number of experts that each task has for itself at each level.
        levels: number of levels.
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
        Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
        (MTL) Model for Personalized Recommendations, RecSys 2020,
        https://doi.org/10.1145/3383313.3412236, eq. 1-3 (CGC) and eq. 5 (levels).
    """

    def __init__(
        self,
        tasks: Sequence[str],
        shared: int,
        own: int,
        levels: int,
        units: Sequence[int],
        activation: str | Callable | None = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, units, activation, **kwargs)
        self.shared = check_positive_int("shared", shared)
        self.own = check_positive_int("own", own)
        self.levels = check_positive_int("levels", levels)

    def gates(self, inputs: tf.Tensor) -> list[LevelGates]:
        """Returns how much each expert counts for each branch, to explain or to plot.

        Args:
            inputs: `[..., d]`, the layer's input.

        Returns:
            The gates of every level, float32 or wider.

        Raises:
            ValueError: the layer has not been built.
        """
        return self._read_gates(inputs)

    def _create_weights(self, size: int) -> None:
        every = len(self.tasks) * self.own + self.shared
        # By level: the branches of the tasks in order, then the shared one.
        self.branches: list[list[dict[str, Any]]] = []
        for level in range(self.levels):
            sizes = [(self.own, self.own + self.shared)] * len(self.tasks)
            sizes.append((self.shared, every))
            branches = []
            for number, (count, seen) in enumerate(sizes):
                name = f"level_{level}_branch_{number}"
                branch: dict[str, Any] = {
                    "experts": self._add_experts(name, size, count)
                }
                if level < self.levels - 1 or number < len(self.tasks):
                    branch["gate"] = self.add_weight(
                        f"{name}_gate", [size, seen], initializer=glorot(size, seen)
                    )
                branches.append(branch)
            self.branches.append(branches)
            size = self.units[-1]

    def _mix(self, rows: tf.Tensor) -> tuple[list[tf.Tensor], list[LevelGates]]:
        tasks = len(self.tasks)
        inputs = [rows] * (tasks + 1)
        levels = []
        for branches in self.branches:
            experts = [
                self._run_experts(z, branch["experts"])
                for z, branch in zip(inputs, branches, strict=True)
            ]
            gates = [
                tf.nn.softmax(gate_logits(z, branch["gate"]))
                for z, branch in zip(inputs, branches, strict=True)
                if "gate" in branch
            ]
            *owns, shared = experts
            seen = [tf.concat([own, shared], axis=1) for own in owns]
            if len(gates) > tasks:
                seen.append(tf.concat(experts, axis=1))
            inputs = [
                mix_experts(gate[:, tf.newaxis], some)[:, 0]
                for gate, some in zip(gates, seen, strict=True)
            ]
            levels.append(
                LevelGates(
                    tasks=dict(zip(self.tasks, gates, strict=False)),
                    shared=gates[tasks] if len(gates) > tasks else None,
                )
            )
        return inputs, levels

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "shared": self.shared,
            "own": self.own,
            "levels": self.levels,
        }
