"""An Adam for large embedding tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class LazyAdam(tf.keras.optimizers.Adam):
    """Adam that touches only the embedding rows of the batch.

    A dense gradient is applied as `tf.keras.optimizers.Adam` applies it. The sparse
    gradient of an embedding table (`tf.IndexedSlices`) updates only the rows it
    names, with step `t` and the sum `g` of a row's gradients in the batch:

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g^2
        row -= learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    All other rows of the table, of `m` and of `v` keep their bits, so a step costs as
    much as the batch has rows, however large the table is. Plain Adam decays `m` and
    `v` of all rows, and moves all rows, in every step.

    Differs from the paper: the moments of a row do not decay while it is not in a
    batch. `t` counts the steps of the optimiser, not those of the row: a row first
    seen late is corrected as if its moments had had `t` steps to grow. With the
    defaults its first step is up to `0.1 / sqrt(0.001) = 3.2` learning rates long.

    There is no `weight_decay`, `amsgrad` or moving average of weights here, as each
    of them works on whole tables. A `constraint` on a table does so as well: leave it
    out. `clipnorm` and `global_clipnorm` measure sparse gradients as Keras does,
    before the gradients of a repeated row are added up. The update is never compiled
    with XLA: the number of rows differs from batch to batch, and each new number
    would be compiled anew.

    Variables may learn at shares of the learning rate (`scale_learning_rate`), as the
    layers of a pretrained encoder do.

    >>> import tensorflow as tf
    >>> table = tf.Variable([[1.0], [2.0], [3.0]])
    >>> optimizer = LazyAdam(learning_rate=0.5)
    >>> gradient = tf.IndexedSlices(tf.constant([[4.0]]), tf.constant([1]))
    >>> _ = optimizer.apply_gradients([(gradient, table)])
    >>> table.numpy().round(3).tolist()
    [[1.0], [1.5], [3.0]]

    Args:
        learning_rate: a float or a `tf.keras.optimizers.schedules` schedule.
        beta_1: decay of the mean of gradients, in `[0, 1)`.
        beta_2: decay of the mean of squared gradients, in `[0, 1)`.
        epsilon: added to the root of `v`, before its bias correction.
        clipnorm: largest norm of each variable's gradient.
        clipvalue: largest absolute value in a gradient.
        global_clipnorm: largest norm of all gradients together.
        name: name of the optimiser.
        **kwargs: accepted by Keras for its own use when it restores an optimiser.

    Raises:
        ValueError: a decay is outside `[0, 1)`, or `epsilon` is negative.
        TypeError: an argument is unknown.

    References:
        Kingma and Ba, Adam, https://arxiv.org/abs/1412.6980, the last formula of
        section 2 before 2.1.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str = "LazyAdam",
        **kwargs: Any,
    ) -> None:
        for argument, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"`{argument}` must be in [0, 1). Received: {value!r}")
        if epsilon < 0:
            raise ValueError(f"`epsilon` must not be negative. Received: {epsilon!r}")
        # Keras marks the configuration of every new-style optimiser with this.
        kwargs.pop("is_legacy_optimizer", None)
        if kwargs:
            raise TypeError(
                f"LazyAdam has no argument {sorted(kwargs)[0]!r}. Received: {kwargs}; "
                "use tf.keras.optimizers.Adam where whole tables may be updated"
            )
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            jit_compile=False,
            name=name,
        )
        self._scales: dict[str, float] = self._no_dependency({})

    def scale_learning_rate(self, scales: Iterable[tuple[tf.Variable, float]]) -> None:
        """Lets variables learn at shares of the learning rate.

        The shares are no state: they are in no configuration and no checkpoint. `fit`
        of a compiled `PreRanker` has those of its layers.

        Args:
            scales: variables and what their learning rate is multiplied by; others
                have 1. They take the place of those given before.

        Raises:
            ValueError: a factor is not a positive number.

        >>> import tensorflow as tf
        >>> from tfrs_prerank import LazyAdam
        >>> slow, fast = tf.Variable(1.0), tf.Variable(1.0)
        >>> optimizer = LazyAdam(learning_rate=0.5)
        >>> optimizer.scale_learning_rate([(slow, 0.1)])
        >>> _ = optimizer.apply_gradients([(tf.ones([]), slow), (tf.ones([]), fast)])
        >>> round(float(slow), 3), round(float(fast), 3)
        (0.95, 0.5)
        """
        factors = {}
        for variable, factor in scales:
            if not 0 < factor < math.inf:
                raise ValueError(
                    f"the learning rate of {variable.name} must be multiplied by a "
                    f"positive number. Received: {factor!r}"
                )
            factors[self._var_key(variable)] = float(factor)
        self._scales = self._no_dependency(factors)

    def update_step(
        self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable
    ) -> None:
        """Applies one gradient; Keras has added up repeated rows before."""
        key = self._var_key(variable)
        slot = self._index_dict[key]
        mean, square = self._momentums[slot], self._velocities[slot]
        dtype = variable.dtype
        # float32 scalars: in float16 the power of beta_2 would stay 1.
        step = tf.cast(self.iterations + 1, tf.float32)
        rate = (
            tf.cast(self.learning_rate, tf.float32)
            * self._scales.get(key, 1.0)
            * tf.sqrt(1.0 - tf.pow(self.beta_2, step))
            / (1.0 - tf.pow(self.beta_1, step))
        )
        if not isinstance(gradient, tf.IndexedSlices):
            mean.assign_add((gradient - mean) * (1 - self.beta_1))
            square.assign_add((tf.square(gradient) - square) * (1 - self.beta_2))
            variable.assign_sub(
                mean * tf.cast(rate, dtype) / (tf.sqrt(square) + self.epsilon)
            )
            return
        rows, values = gradient.indices, tf.cast(gradient.values, dtype)
        # Gather, compute, scatter: nothing here is as large as the table.
        mean_rows = self.beta_1 * tf.gather(mean, rows) + (1 - self.beta_1) * values
        square_rows = self.beta_2 * tf.gather(square, rows) + (
            1 - self.beta_2
        ) * tf.square(values)
        change = (
            tf.cast(rate, dtype) * mean_rows / (tf.sqrt(square_rows) + self.epsilon)
        )
        mean.scatter_update(tf.IndexedSlices(mean_rows, rows))
        square.scatter_update(tf.IndexedSlices(square_rows, rows))
        variable.scatter_sub(tf.IndexedSlices(change, rows))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        for argument in (
            "amsgrad",
            "weight_decay",
            "use_ema",
            "ema_momentum",
            "ema_overwrite_frequency",
            "jit_compile",
        ):
            del config[argument]
        return config


def slots_of(optimizer: Any) -> dict[str, list[tf.Variable]]:
    """Returns what an optimiser keeps of each variable that it was built for.

    Args:
        optimizer: of `tf.keras.optimizers`, built.

    Returns:
        Lists of slots in the order of the variables, by their kind; without kinds for
        an optimiser that keeps nothing, such as SGD without momentum.

    >>> import tensorflow as tf
    >>> from tfrs_prerank.optimizers import LazyAdam, slots_of
    >>> optimizer = LazyAdam()
    >>> optimizer.build([tf.Variable([1.0, 2.0])])
    >>> {kind: len(slots) for kind, slots in slots_of(optimizer).items()}
    {'_momentums': 1, '_velocities': 1}
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    count = len(getattr(optimizer, "_index_dict", {}))
    lists = {
        name: [slot for slot in value if isinstance(slot, tf.Variable)]
        for name, value in vars(optimizer).items()
        # All of them together, and what else the optimiser counts with.
        if isinstance(value, list) and name != "_variables"
    }
    return {
        name: slots for name, slots in lists.items() if slots and len(slots) == count
    }
