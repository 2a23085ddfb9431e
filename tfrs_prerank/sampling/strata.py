"""Drawing documents from strata, with the exact probability of each."""

from __future__ import annotations

import numpy as np

from tfrs_prerank.sampling.randomness import Stream


class Strata:
    """Draws different documents, so many from each stratum, uniformly within it.

    With N_s documents of stratum s that are left once some are excluded, and the weight
    w_s, stratum s gets in the mean

        m_s = min(N_s, lambda w_s),   sum_s m_s = min(count, sum_s N_s),

    and a document that is left is drawn with the probability m_s / N_s exactly. The
    numbers of a draw are m_s rounded up or down, at random, so that their sum is exact
    too (systematic sampling over the strata in a random order); the documents are drawn
    without replacement.

    Args:
        stratum: int `[M]`, the stratum of each document, from 0.
        weights: float `[S]`, the weight of each stratum; 0 is never drawn.
        count: documents to draw.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.sampling.randomness import Stream
    >>> from tfrs_prerank.sampling.strata import Strata
    >>> strata = Strata(np.array([0, 0, 0, 1]), np.array([1.0, 1.0]), count=2)
    >>> rows, log_q = strata.draw(Stream(0, "r1"), excluded=np.array([2]))
    >>> sorted(zip(rows.tolist(), np.exp(log_q).tolist()))[-1]  # 3, always
    (3, 1.0)
    """

    def __init__(self, stratum: np.ndarray, weights: np.ndarray, count: int) -> None:
        self.count = count
        self._weights = np.asarray(weights, np.float64)
        self._stratum = np.asarray(stratum, np.int64)
        # The documents of a stratum are neighbours.
        self._rows = np.argsort(self._stratum, kind="stable")
        self._sizes = np.bincount(self._stratum, minlength=len(self._weights))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._place = np.empty(len(self._rows), np.int64)
        self._place[self._rows] = np.arange(len(self._rows))

    def draw(
        self, stream: Stream, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws documents.

        Args:
            stream: random numbers.
            excluded: rows that must not be drawn, each once.

        Returns:
            The rows, int64 `[count]` or fewer where fewer are left, and the log of the
            probability that each had to be among them, float64. Their order says
            nothing.
        """
        taken = np.sort(self._place[excluded])
        left = self._sizes - np.bincount(
            self._stratum[excluded], minlength=len(self._sizes)
        )
        means = self.means(left)
        numbers = rounded(means, left, stream)
        drawn = np.repeat(np.arange(len(left)), numbers)
        nth = _distinct(drawn, left[drawn], numbers, stream)
        # From the place among those left to the place among all: taken[t] - t are left
        # before the excluded document t, so it lies before the i-th where that is <= i.
        all_left = np.cumsum(left) - left
        among_left = all_left[drawn] + nth
        before = np.searchsorted(taken - np.arange(len(taken)), among_left, "right")
        log_q = np.log(means[drawn] / left[drawn])
        return self._rows[among_left + before], np.minimum(log_q, 0.0)

    def means(self, left: np.ndarray) -> np.ndarray:
        """Returns how many documents each stratum gets in the mean.

        Args:
            left: int `[S]`, documents of each stratum that may be drawn.

        Returns:
            m_s of the class, float64 `[S]`.
        """
        means = np.zeros(len(left))
        open_ = (left > 0) & (self._weights > 0)
        rest = min(self.count, int(left[open_].sum()))
        while rest > 0:
            # Shares of the open strata only: next to one of them, the weight of a
            # full one may be beyond all numbers.
            share = np.zeros(len(left))
            weights = self._weights[open_]
            share[open_] = rest * (weights / weights.sum())
            full = open_ & (share >= left)
            if not full.any():
                means[open_] = share[open_]
                break
            means[full] = left[full]
            rest -= int(left[full].sum())
            open_ &= ~full
        return means


def rounded(means: np.ndarray, limits: np.ndarray, stream: Stream) -> np.ndarray:
    """Rounds means up or down so that each is right in the mean and the sum is exact.

    Systematic sampling: with the cumulative means c_s and one uniform u, part s gets
    floor(c_s + u) - floor(c_{s-1} + u). The parts are taken in a random order, since
    neighbours exclude each other.

    Args:
        means: float `[S]`, not negative.
        limits: int `[S]`; no number is above it.
        stream: random numbers.

    Returns:
        int64 `[S]`. Their sum is that of the means, rounded down or up where it is not
        whole.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.sampling.randomness import Stream
    >>> numbers = rounded(np.array([0.5, 1.5]), np.array([9, 9]), Stream(0))
    >>> int(numbers.sum())
    2
    """
    numbers = np.zeros(len(means), np.int64)
    # A mean that is whole needs no rounding; one at its limit must get none.
    whole = means == np.floor(means)
    numbers[whole] = means[whole]
    parts = np.flatnonzero(~whole)
    if len(parts):
        parts = parts[np.argsort(stream.uniform(len(parts)))]
        sums = np.cumsum(means[parts])
        total = np.round(sums[-1])
        if abs(sums[-1] - total) < 1e-6:  # whole but for the rounding of floats
            sums[-1] = total
        ends = np.floor(sums + stream.uniform(1)[0]).astype(np.int64)
        numbers[parts] = np.minimum(np.diff(ends, prepend=0), limits[parts])
    return numbers


def _distinct(
    part: np.ndarray, size: np.ndarray, numbers: np.ndarray, stream: Stream
) -> np.ndarray:
    """Draws for each place a number below its part's size, different within a part.

    Args:
        part: int `[k]`, the part of each place, ascending.
        size: int `[k]`, how many numbers its part has.
        numbers: int `[S]`, places of each part.
        stream: random numbers.
    """
    drawn = np.zeros(len(part), np.int64)
    # Where more than half is wanted, drawing again until all differ takes long.
    many = 2 * numbers[part] > size
    for which in np.unique(part[many]):
        places = part == which
        order = np.argsort(stream.uniform(int(size[places][0])), kind="stable")
        drawn[places] = order[: numbers[which]]
    again = np.flatnonzero(~many)
    while len(again):
        # Which of two equal ones is drawn again does not depend on what they are, so
        # that every set of different numbers stays as likely as any other.
        drawn[again] = (stream.uniform(len(again)) * size[again]).astype(np.int64)
        order = np.lexsort([drawn, part])
        same = (np.diff(drawn[order]) == 0) & (np.diff(part[order]) == 0)
        again = order[1:][same]
    return drawn
