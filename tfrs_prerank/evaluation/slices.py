"""How lists, or documents, are told apart: by a column, a function, their length."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.declaration import nearest

_MOST = 30
NONE = "(none)"
"""The bucket of what has no value: a pad or NaN."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """By what an evaluation is taken apart, and where numbers are cut.

    A value per request `[B]` takes the lists apart: each bucket is measured with all
    metrics, as if there were no other lists. A value per document `[B, L]`, such as a
    document's age, takes the *positives* apart: hit rates say which share of the
    positives of a bucket is kept, in competition with all candidates, and `PCOC` and
    `NormalizedEntropy` read the labels of the bucket alone. Other metrics have no such
    part, and `ECE`, `CatalogCoverage` and `PopularityGini`, which are no sums over
    lists, are in no slice. `Evaluation.findings` names those that are left out.

    Strings are buckets of their own, at most 30. Numbers are cut at `edges`; without
    them, numbers of requests are cut into `buckets` of similar size where they have
    more distinct values than that. A bucket holds its lower edge and not its upper one.
    `""`, -1 among integers and NaN mean that there is no value.

    Args:
        source: a batch column, or a function from a batch to values.
        edges: ascending numbers, for values that are numbers.
        buckets: how many, where there are no edges.

    Raises:
        ValueError: edges do not ascend, or there are less than two buckets.

    Example:
    >>> Slice("age_days", edges=(1, 30)).names()
    ['< 1', '[1, 30)', '>= 30']
    """

    source: str | Callable[[Mapping[str, tf.Tensor]], Any]
    edges: Sequence[float] | None = None
    buckets: int = 4

    def __post_init__(self) -> None:
        edges = self.edges
        if edges is not None:
            ascends = all(low < high for low, high in itertools.pairwise(edges))
            if not edges or not ascends or not all(map(math.isfinite, edges)):
                raise ValueError(f"Slice: edges must ascend. Received: {edges!r}")
        if self.buckets < 2:
            raise ValueError(
                f"Slice: buckets must be at least 2. Received: {self.buckets}"
            )

    def values(self, name: str, batch: Mapping[str, tf.Tensor]) -> np.ndarray:
        """Reads the values of a batch.

        Args:
            name: the slice's name, for errors.
            batch: the batch.

        Returns:
            `[B]` or `[B, L]`: strings as bytes, or float64 with NaN for none.

        Raises:
            KeyError: there is no such column.
            ValueError: the shape is neither `[B]` nor `[B, L]`.
            TypeError: values are neither strings nor numbers, or strings with edges.
        """
        if isinstance(self.source, str):
            if self.source not in batch:
                raise KeyError(
                    f"slices[{name!r}]: the batch has no column {self.source!r}; "
                    f"{nearest(self.source, batch)}"
                )
            values = batch[self.source]
        else:
            values = tf.convert_to_tensor(self.source(batch))
        shape = batch["mask"].shape
        if values.shape not in (shape, shape[:1]):
            raise ValueError(
                f"slices[{name!r}] has shape {tuple(values.shape)}: give one value per "
                f"request, {tuple(shape[:1])}, or per document, {tuple(shape)}"
            )
        if values.dtype == tf.string:
            if self.edges is not None:
                raise TypeError(
                    f"slices[{name!r}] gives strings, which edges cannot cut: leave "
                    f"edges out. Received: edges={self.edges!r}"
                )
            return values.numpy()
        if not (values.dtype.is_integer or values.dtype.is_floating):
            raise TypeError(
                f"slices[{name!r}] gives {values.dtype.name}: give strings or numbers"
            )
        numbers = values.numpy().astype(np.float64)
        if values.dtype.is_integer:
            numbers[numbers == -1] = np.nan
        return numbers

    def names(self) -> list[str]:
        """Returns the names of the buckets between edges."""
        return interval_names(self.edges or ())

    def members(
        self, name: str, values: np.ndarray, mask: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Says which documents of a batch are in which bucket.

        Args:
            name: the slice's name, for errors.
            values: `[B, L]`, as `values` returns them.
            mask: bool `[B, L]`.

        Returns:
            bool `[B, L]` by bucket, of buckets that are not empty.

        Raises:
            ValueError: numbers without edges, as where to cut is known only when all
                data has gone by; or there are more than 30 distinct strings.
        """
        if values.dtype != object and self.edges is None:
            raise ValueError(
                f"slices[{name!r}] holds a number per document: give edges to cut at, "
                "Slice(..., edges=(1, 7, 30))"
            )
        names, places = self.cut(name, values[mask])
        found = {}
        for place in np.unique(places).tolist():
            inside = np.zeros(mask.shape, bool)
            inside[mask] = places == place
            found[names[place]] = inside
        return found

    def ordered(self, name: str, found: Iterable[str]) -> list[str]:
        """Puts the names of buckets of documents into their order.

        Args:
            name: the slice's name, for errors.
            found: the names.

        Raises:
            ValueError: there are more than 30.
        """
        found = set(found)
        order = [
            *(sorted(found - {NONE}) if self.edges is None else self.names()),
            NONE,
        ]
        _check_number(name, len(found))
        return [bucket for bucket in order if bucket in found]

    def cut(self, name: str, values: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Puts every value into a bucket.

        Args:
            name: the slice's name, for errors.
            values: `[n]`, as `values` returns them.

        Returns:
            The buckets in their order, and the place of each value's, int `[n]`.

        Raises:
            ValueError: there are more than 30 distinct strings.
        """
        if values.dtype == object:
            return _cut_strings(name, values)
        none = np.isnan(values)
        known = values[~none]
        distinct = np.unique(known)
        edges = None if self.edges is None else np.asarray(self.edges, np.float64)
        if edges is None and len(distinct) > self.buckets:
            edges = quantiles(known, self.buckets)
        if edges is None:
            names = _different([f"{value:g}" for value in distinct], distinct)
            places = np.searchsorted(distinct, values)
        else:
            names = interval_names(edges)
            places = np.searchsorted(edges, values, side="right")
        return [*names, NONE], np.where(none, len(names), places)


def _different(names: list[str], values: np.ndarray) -> list[str]:
    """Writes numbers in full where a few digits would give two of them one name."""
    if len(set(names)) == len(names):
        return names
    return [np.format_float_positional(value, trim="-") for value in values]


def by_length(edges: Sequence[float] | None = None, buckets: int = 4) -> Slice:
    """Slices by the number of candidates of a list.

    Args:
        edges: see `Slice`.
        buckets: see `Slice`.

    Example:
    >>> by_length(edges=(50, 200)).names()
    ['< 50', '[50, 200)', '>= 200']
    """
    return Slice(list_length, edges, buckets)


def list_length(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns how many candidates each list holds, int32 `[B]`.

    Args:
        batch: a batch.
    """
    return tf.reduce_sum(tf.cast(batch["mask"], tf.int32), axis=1)


def interval_names(edges: Sequence[float] | np.ndarray) -> list[str]:
    """Returns the names of the intervals between edges.

    Args:
        edges: ascending numbers.

    Example:
    >>> interval_names([0.5, 2])
    ['< 0.5', '[0.5, 2)', '>= 2']
    """
    if not len(edges):
        return ["all"]
    for digits in (4, 8, 17):  # as few as tell them apart
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(texts)) == len(texts):
            break
    between = [f"[{low}, {high})" for low, high in itertools.pairwise(texts)]
    return [f"< {texts[0]}", *between, f">= {texts[-1]}"]


def quantiles(values: np.ndarray, parts: int) -> np.ndarray:
    """Returns the inner edges that cut numbers into parts of similar size.

    Fewer, where a value is so frequent that it fills a part alone.

    Args:
        values: `[n]`, n > 0.
        parts: how many.

    Example:
    >>> import numpy as np
    >>> quantiles(np.array([1.0, 2.0, 3.0, 4.0, 4.0, 4.0]), 3).tolist()
    [3.0, 4.0]
    """
    shares = np.arange(1, parts) / parts
    edges = np.unique(np.quantile(values, shares, method="higher"))
    return edges[edges > values.min()]


def _cut_strings(name: str, values: np.ndarray) -> tuple[list[str], np.ndarray]:
    distinct, places = np.unique(values, return_inverse=True)
    _check_number(name, len(distinct))
    names = [value.decode("utf-8", "replace") or NONE for value in distinct]
    return names, places.reshape(-1)


def _check_number(name: str, number: int) -> None:
    if number > _MOST:
        raise ValueError(
            f"slices[{name!r}] has {number} values: at most {_MOST} can be told "
            "apart; group them by a function"
        )
