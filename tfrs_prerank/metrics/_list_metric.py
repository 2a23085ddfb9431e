"""The base of all list metrics: masks, weights, state."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import tensorflow as tf


class ListMetric(tf.keras.metrics.Metric):
    """The weighted mean, over lists, of a number that every list has.

    A subclass implements `_per_list(labels, scores, valid) -> (values, weights)`.

    Attributes:
        reads: `"scores"` where the metric ranks by the fused scores, `"logits"` where
            it reads the logit of its task.
    """

    reads: ClassVar[Literal["scores", "logits"]] = "scores"

    def __init__(self, name: str):
        super().__init__(name=name, dtype=tf.float64)
        self.total = self.add_weight(
            name="total", initializer="zeros", dtype=tf.float64
        )
        self.count = self.add_weight(
            name="count", initializer="zeros", dtype=tf.float64
        )

    @abc.abstractmethod
    def _per_list(
        self, labels: tf.Tensor, scores: tf.Tensor, valid: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns values and weights, float64 `[B]`.

        Args:
            labels: float64 `[B, L]`, 0 where not valid.
            scores: float64 `[B, L]`, anything where not valid.
            valid: bool `[B, L]`.
        """

    def per_list(
        self, labels: Any, scores: Any, *, where: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns every list's own value and its weight in the mean; keeps no state.

        Args:
            labels: `[B, L]`, NaN = absent.
            scores: `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.

        Returns:
            `(values, weights)`, float64 `[B]`. A list that cannot be used has weight
            0 and value 0. A NaN score of a valid document makes its list's value NaN.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool.
        """
        labels = tf.cast(tf.convert_to_tensor(labels), tf.float64)
        scores = tf.cast(tf.convert_to_tensor(scores), tf.float64)
        if labels.shape.rank not in (2, None) or not labels.shape.is_compatible_with(
            scores.shape
        ):
            raise ValueError(
                f"{self.name}: labels has shape {labels.shape} and scores "
                f"{scores.shape}: give both as [B, L]."
            )
        valid = tf.logical_not(tf.math.is_nan(labels))
        if where is not None:
            where = tf.convert_to_tensor(where)
            if where.dtype != tf.bool:
                raise TypeError(
                    f"{self.name}: where has dtype {where.dtype.name}: "
                    "give a bool mask, true = valid."
                )
            if not where.shape.is_compatible_with(scores.shape):
                raise ValueError(
                    f"{self.name}: where has shape {where.shape} and scores "
                    f"{scores.shape}: give both as [B, L]."
                )
            valid = tf.logical_and(valid, where)
        zero = tf.zeros([], tf.float64)
        values, weights = self._per_list(tf.where(valid, labels, zero), scores, valid)
        # A model that diverged must not look like one that ranks badly.
        broken = tf.reduce_any(valid & tf.math.is_nan(scores), axis=-1)
        values = tf.where(broken, tf.constant(float("nan"), tf.float64), values)
        return tf.where(weights > 0, values, zero), weights

    def update_state(
        self, labels: Any, scores: Any, *, where: Any = None, weights: Any = None
    ) -> None:
        """Adds a batch of lists.

        Args:
            labels: `[B, L]`, NaN = absent.
            scores: `[B, L]`.
            where: bool `[B, L]`, true = valid; default all.
            weights: non-negative. `[B]`: weights of lists, default 1; they multiply
                the list's own weight. `[B, L]`: weights of documents; 0 takes the
                document out of its list, any other value leaves it in and changes
                nothing, as a document holds one place in a ranking whatever its
                weight. NaN means that no weight is known and is read as 1.

        Raises:
            ValueError: shapes do not fit.
            TypeError: `where` is not bool.
        """
        if weights is None:
            values, counts = self.per_list(labels, scores, where=where)
        else:
            weights = tf.cast(tf.convert_to_tensor(weights), tf.float64)
            scores = tf.convert_to_tensor(scores)
            if weights.shape.rank == 2 and weights.shape.is_compatible_with(
                scores.shape
            ):
                kept = tf.not_equal(weights, 0)
                if where is not None:
                    kept = tf.logical_and(kept, where)
                values, counts = self.per_list(labels, scores, where=kept)
            elif weights.shape.rank == 1 and weights.shape.is_compatible_with(
                scores.shape[:1]
            ):
                values, counts = self.per_list(labels, scores, where=where)
                one = tf.ones([], tf.float64)
                counts *= tf.where(tf.math.is_nan(weights), one, weights)
                # Not NaN * 0: a list of weight 0 is out, whatever its scores hold.
                values = tf.where(counts > 0, values, tf.zeros([], tf.float64))
            else:
                raise ValueError(
                    f"{self.name}: weights has shape {weights.shape} and scores "
                    f"{scores.shape}: give weights [B] for lists or [B, L] for "
                    "documents."
                )
        self.total.assign_add(tf.reduce_sum(values * counts))
        self.count.assign_add(tf.reduce_sum(counts))

    def result(self) -> tf.Tensor:
        """Returns the mean so far, float64; NaN before the first usable list."""
        mean = tf.math.divide_no_nan(self.total, self.count)
        return tf.where(self.usable, mean, tf.constant(float("nan"), tf.float64))

    @property
    def usable(self) -> tf.Tensor:
        """Whether any list could be used so far (bool scalar)."""
        return tf.convert_to_tensor(self.count) > 0

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments (the state is float64 always)."""
        return {"name": self.name}


def check_cutoff(name: str, k: int | None, *, optional: bool) -> None:
    """Raises ValueError unless `k` is a positive integer (or None if `optional`)."""
    if k is None and optional:
        return
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        fix = "a positive integer" + (" or None for no cut-off" if optional else "")
        raise ValueError(f"{name}: k={k!r} is not a cut-off: give {fix}.")


def is_positive(labels: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for labels above 0, else 0.0 (float64)."""
    return tf.cast(labels > 0, tf.float64)
