"""Random numbers that depend on names alone: the seed, the request, the purpose.

NumPy's own generators may change their numbers with the version, and cost more to make
than the draws of a list. These are SplitMix64 (Steele, Lea and Flood, 2014), computed
for a whole array at once from a key that BLAKE2b makes.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_THIRTY, _TWENTY_SEVEN, _THIRTY_ONE = np.uint64(30), np.uint64(27), np.uint64(31)


class Stream:
    """Uniform random numbers, the same for the same names.

    Streams of other names are independent of each other, so that a change in one draw
    moves no other.

    Args:
        seed: of the whole.
        names: such as the request's id and what the numbers are for.

    Example:
    >>> from tfrs_prerank.sampling.randomness import Stream
    >>> first, again = Stream(7, "r1", "order"), Stream(7, "r1", "order")
    >>> first.uniform(3).tolist() == again.uniform(3).tolist()
    True
    """

    def __init__(self, seed: int, *names: str) -> None:
        # JSON-like: lengths keep ("ab", "c") and ("a", "bc") apart.
        text = "".join(f"{len(name)}:{name}" for name in (str(seed), *names))
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
        self._key = np.uint64(int.from_bytes(digest.digest(), "little"))
        self._used = 0

    def uniform(self, count: int) -> np.ndarray:
        """Returns the next numbers.

        Args:
            count: how many.

        Returns:
            float64 `[count]` in [0, 1), multiples of 2^-53.
        """
        places = np.arange(self._used + 1, self._used + 1 + count, dtype=np.uint64)
        self._used += count
        bits = places * _GOLDEN + self._key  # modulo 2^64, as all that follows
        bits = (bits ^ (bits >> _THIRTY)) * _FIRST
        bits = (bits ^ (bits >> _TWENTY_SEVEN)) * _SECOND
        bits ^= bits >> _THIRTY_ONE
        return (bits >> np.uint64(11)) * 2.0**-53
