"""Chi-square by hand: no statistics package is among the requirements."""

from __future__ import annotations

import math

import numpy as np


def chi_square(observed, expected) -> float:
    """Returns sum (O - E)^2 / E."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    return float(((observed - expected) ** 2 / expected).sum())


def critical(df: int, z: float = 3.09) -> float:
    """Returns the value that chance passes once in a thousand (Wilson and Hilferty)."""
    return df * (1 - 2 / (9 * df) + z * math.sqrt(2 / (9 * df))) ** 3
