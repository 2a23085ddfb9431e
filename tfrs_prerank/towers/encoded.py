"""What a tower computes, for the scorers to choose from."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Encoded(NamedTuple):
    """A tower's results for its rows, float32.

    Attributes:
        outputs: of the last, linear layer: `[rows, tasks, size]`.
        fields: the gated fields, flat: `[rows, F * D]`.
        layers: what each layer of the MLP gives, `[rows, units]`.
    """

    outputs: tf.Tensor
    fields: tf.Tensor
    layers: tuple[tf.Tensor, ...]
