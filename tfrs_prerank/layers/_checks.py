"""Argument checks that several layers share."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Returns `value` if it is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}. Received: {value!r}")
    return value


def check_positive_int(name: str, value: Any) -> int:
    """Returns `value` as an int if it is a whole number of at least 1."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(
            f"`{name}` must be a whole number of at least 1. Received: {value!r}"
        )
    return int(value)


def check_known(layer: str, what: str, size: int | None) -> int:
    """Returns a dimension's size if it is known when the layer is built."""
    if size is None:
        raise ValueError(
            f"{layer} needs a known {what} to create its weights. Received: None; "
            "set the shape of the input, for example with `tf.ensure_shape`"
        )
    return int(size)
