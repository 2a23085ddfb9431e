"""How good logits of binary labels are, over all rows at once."""

from __future__ import annotations

import numpy as np


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the share of (positive, negative) pairs in order; a tie counts half.

    >>> auc(np.array([1, 0, 1, 0]), np.array([3.0, 2.0, 2.0, 1.0]))
    0.875

    Raises:
        ValueError: a score is not finite.
    """
    higher, _ = placements(labels, scores)
    return float(higher.mean())


def sampling_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the standard error of an AUC that comes from which rows were drawn.

    By the placements of DeLong et al. (1988): how much the AUC would vary over other
    draws of as many rows, with the same model.
    """
    higher, lower = placements(labels, scores)
    return float(
        np.sqrt(higher.var(ddof=1) / len(higher) + lower.var(ddof=1) / len(lower))
    )


def placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each positive the share of negatives below, and the reverse.

    Args:
        labels: 0 or 1, `[N]`.
        scores: `[N]`.

    Returns:
        `[P]`, the negatives below each positive, and `[N - P]`, the positives above
        each negative, as shares; a tie counts half.

    Raises:
        ValueError: a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"scores must be finite. Received: {np.sum(~np.isfinite(scores))} of "
            f"{len(scores)} that are not; the training diverged"
        )
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below = sum(np.searchsorted(negative, positive, side) for side in ("left", "right"))
    above = sum(np.searchsorted(positive, negative, side) for side in ("left", "right"))
    return below / (2 * len(negative)), 1 - above / (2 * len(positive))


def log_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    """Returns the mean cross entropy of logits.

    >>> round(log_loss(np.array([1, 0]), np.array([0.0, 0.0])), 6)
    0.693147
    """
    scores = np.asarray(scores, np.float64)
    return float(np.mean(np.logaddexp(0.0, scores) - labels * scores))
