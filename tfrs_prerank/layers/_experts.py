"""What the mixtures of experts share."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._checks import check_known, check_positive_int
from tfrs_prerank.layers._initializers import glorot
from tfrs_prerank.layers._precision import accumulate

Kernels = list[dict[str, tf.Variable]]
"""Kernel and bias of each layer of a branch's experts."""


class TaskExperts(tf.keras.layers.Layer, abc.ABC):
    """Base of layers that turn `[..., d]` into one vector for each task.

    An expert is an MLP. A subclass creates the weights in `_create_weights` and says in
    `_mix` which experts a task's gate mixes.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        units: Sequence[int],
        activation: str | Callable | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tasks = _check_tasks(tasks)
        if isinstance(units, (str, int)) or not units:
            raise ValueError(
                "`units` must list the sizes of an expert's layers, for example "
                f"(64, 32). Received: {units!r}"
            )
        self.units = tuple(check_positive_int("units", unit) for unit in units)
        self.activation = tf.keras.activations.get(activation)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the weights."""
        shape = tf.TensorShape(input_shape)
        name = type(self).__name__
        if shape.rank is None or shape.rank < 2:
            raise ValueError(
                f"{name} takes rows of shape [..., d]. Received: shape {shape}"
            )
        size = check_known(name, "row size", shape[-1])
        self.input_spec = tf.keras.layers.InputSpec(min_ndim=2, axes={-1: size})
        self._create_weights(size)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `[..., e]` for each task."""
        vectors, _ = self._mix(_rows(inputs))
        return dict(
            zip(self.tasks, [_like(inputs, vector) for vector in vectors], strict=True)
        )

    def _read_gates(self, inputs: tf.Tensor) -> Any:
        """Returns the gates that `call` computes on the way, `[..., experts]` each."""
        if not self.built:
            raise ValueError(
                f"{self.name} has no weights yet. Received: rows of shape "
                f"{tuple(inputs.shape)}; call the layer on a batch first"
            )
        # Keras casts inputs only inside `__call__`.
        inputs = tf.cast(inputs, self.compute_dtype)
        _, gates = self._mix(_rows(inputs))
        return tf.nest.map_structure(
            lambda gate: None if gate is None else _like(inputs, gate), gates
        )

    @abc.abstractmethod
    def _create_weights(self, size: int) -> None:
        """Creates the weights for rows of a size."""

    @abc.abstractmethod
    def _mix(self, rows: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        """Returns the tasks' vectors of rows `[N, d]`, and the gates that made them."""

    def _add_experts(self, name: str, size: int, count: int) -> Kernels:
        """Creates the weights of experts that read the same rows.

        Kernels of the first layer lie side by side, `[size, count * units[0]]`: one
        matrix product for all experts. Those of the others lie one after the other,
        `[count, units[l - 1], units[l]]`. Each starts as it would alone.
        """
        kernels = []
        for layer, unit in enumerate(self.units):
            shape = [count, size, unit] if layer else [size, count * unit]
            kernels.append(
                {
                    "kernel": self.add_weight(
                        f"{name}_kernel_{layer}", shape, initializer=glorot(size, unit)
                    ),
                    "bias": self.add_weight(
                        f"{name}_bias_{layer}", [count, unit], initializer="zeros"
                    ),
                }
            )
            size = unit
        return kernels

    def _run_experts(self, rows: tf.Tensor, kernels: Kernels) -> tf.Tensor:
        """Returns what experts make of rows `[N, size]`, `[N, count, e]`."""
        first, *others = kernels
        count, unit = first["bias"].shape
        # Keras casts weights only inside `__call__`.
        hidden = tf.matmul(rows, tf.cast(first["kernel"], rows.dtype))
        hidden = tf.reshape(hidden, [-1, count, unit])
        hidden = self.activation(hidden + tf.cast(first["bias"], rows.dtype))
        for layer in others:
            # Experts as the batch of a matrix product.
            product = tf.matmul(
                tf.transpose(hidden, [1, 0, 2]), tf.cast(layer["kernel"], rows.dtype)
            )
            hidden = tf.transpose(product, [1, 0, 2])
            hidden = self.activation(hidden + tf.cast(layer["bias"], rows.dtype))
        return hidden

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that all mixtures have."""
        return {
            **super().get_config(),
            "tasks": list(self.tasks),
            "units": list(self.units),
            "activation": tf.keras.activations.serialize(self.activation),
        }


def gate_logits(rows: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
    """Returns `rows @ kernel` in float32, or wider."""
    return tf.matmul(accumulate(rows), accumulate(tf.cast(kernel, rows.dtype)))


def mix_experts(gates: tf.Tensor, experts: tf.Tensor) -> tf.Tensor:
    """Returns the experts' vectors `[N, count, e]` as gates `[N, m, count]` mix them.

    Returns:
        `[N, m, e]` in the dtype of the experts.
    """
    return tf.matmul(tf.cast(gates, experts.dtype), experts)


def _check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    named = not isinstance(tasks, str) and all(
        isinstance(task, str) and task for task in tasks
    )
    if not named or not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(
            "`tasks` must list different names, for example ('click', 'buy'). "
            f"Received: {tasks!r}"
        )
    return tuple(tasks)


def _rows(inputs: tf.Tensor) -> tf.Tensor:
    """Reshapes `[..., d]` to `[N, d]`."""
    return tf.reshape(inputs, [-1, inputs.shape[-1]])


def _like(inputs: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Reshapes `[N, m]` to `[..., m]` for inputs of `[..., d]`."""
    shape = tf.concat([tf.shape(inputs)[:-1], [rows.shape[-1]]], axis=0)
    return tf.reshape(rows, shape)
