"""Counters as of each event: how often something had happened before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tfrs_prerank.declaration import nearest

EXPOSURES = "exposures"
"""What the counter of the events themselves is called."""

Key = str | Sequence[str]
"""The column, or columns, whose values are counted apart."""


def counters(
    events: pd.DataFrame,
    keys: Iterable[Key],
    behaviors: Sequence[str],
    *,
    rows: pd.DataFrame | None = None,
    windows: Sequence[int] = (),
    delay: int = 0,
) -> pd.DataFrame:
    """Counts, for each row, the events of its key before its time.

        exposures(k, t) = |{events of key k with time < t - delay}|
        clicks(k, t)    = the sum of their clicks

    and for a window of w seconds those with t - delay - w <= time. Events of one second
    see nothing of each other, so no counter holds the row's own label or one that came
    with it. A column is called `<key>_<behavior>`, with the names of a key's columns
    joined by `_` and `_<w>s` for a window: `query_doc_id_click_86400s`. Rows whose key
    has an empty column have zeros, and their events count for nobody.

    Joined to the log, the columns are features: a pair of query or user and document
    gives `Numeric(..., "cross")`, a document or its author
    `Numeric(..., "doc", point_in_time=True)`, both with `per` for a smoothed rate. The
    documents table gets the same columns from `counters_at`, and a client sends those
    of pairs as of its request.

    Time and memory: O(n log n) and O(n) for n events and rows, for each key and window.

    Args:
        events: one row for each exposure, in any order: the columns of the keys, the
            behaviours as whole numbers from 0 (mostly 0 and 1), and `time`, seconds or
            timestamps.
        keys: columns, or tuples of columns.
        behaviors: columns that are added up.
        rows: rows that counters are wanted for, with the keys' columns and `time`, such
            as all candidates; the events themselves by default.
        windows: lengths in seconds, beside the count of all that came before.
        delay: seconds until an event is in the counters, as in the pipeline that will
            serve them. 0 is too good to be true for most of them.

    Returns:
        int64 counters with the index of the rows.

    Raises:
        TypeError: a column is of another type in the rows than in the events, or `time`
            is neither seconds nor timestamps.
        ValueError: a column is missing, a behaviour is not a whole number from 0, a
            time is missing, or a window or the delay is out of range.

    Example:
    >>> import pandas as pd
    >>> from tfrs_prerank.datasets import counters
    >>> events = pd.DataFrame(
    ...     {"doc_id": ["a", "b", "a", "a"], "click": [1, 1, 0, 1],
    ...      "time": [10, 10, 20, 90]}
    ... )
    >>> counters(events, ["doc_id"], ["click"], windows=[75]).T
                            0  1  2  3
    doc_id_exposures        0  0  1  2
    doc_id_click            0  0  1  1
    doc_id_exposures_75s    0  0  1  1
    doc_id_click_75s        0  0  1  0
    """
    keys = [(key,) if isinstance(key, str) else tuple(key) for key in keys]
    _check_settings(keys, behaviors, windows, delay)
    check_columns(events, "events", [*behaviors, "time"], keys)
    added_up = _added_up(events, behaviors)
    if rows is None:
        rows = events
    else:
        check_columns(rows, "rows", ["time"], keys)
    # Times are replaced by their ranks among those of the events, so that a key and a
    # time fit into one integer, by which everything is looked up.
    times, happened = np.unique(
        seconds_of(events["time"], "events"), return_inverse=True
    )
    ends = seconds_of(rows["time"], "rows") - delay
    end_ranks = np.searchsorted(times, ends)
    start_ranks = {"": np.zeros_like(end_ranks)}
    for window in windows:
        start_ranks[f"_{window}s"] = np.searchsorted(times, ends - window)
    made: dict[str, np.ndarray] = {}
    for key in keys:
        of_events, of_rows = codes_of(events, rows, key)
        counted = _count(
            of_events * (len(times) + 1) + happened,
            of_rows * (len(times) + 1) + end_ranks,
            {
                suffix: of_rows * (len(times) + 1) + ranks
                for suffix, ranks in start_ranks.items()
            },
            added_up,
        )
        for name, values in counted.items():
            values[of_rows < 0] = 0
            column = f"{'_'.join(key)}_{name}"
            if column in made:
                raise ValueError(
                    f"two counters are called {column!r}; rename a column of the key "
                    "or a behaviour"
                )
            made[column] = values
    return pd.DataFrame(made, index=rows.index)


def counters_at(
    events: pd.DataFrame,
    key: Key,
    behaviors: Sequence[str],
    time: int | pd.Timestamp,
    *,
    windows: Sequence[int] = (),
    delay: int = 0,
) -> pd.DataFrame:
    """Counts the events of each key before a time, as `counters` does for a row.

    The snapshot that an export or a refresh takes: join it to the documents table by
    the key, with 0 for documents that it lacks.

    Args:
        events: see `counters`.
        key: a column, or several.
        behaviors: see `counters`.
        time: seconds, or a timestamp.
        windows: see `counters`.
        delay: see `counters`; that of training, so that both count alike.

    Returns:
        The key's columns and the counters, a row for each of its values, in the order
        in which the events have them; those with an empty column are left out.

    Raises:
        TypeError: see `counters`.
        ValueError: see `counters`.

    Example:
    >>> import pandas as pd
    >>> from tfrs_prerank.datasets import counters_at
    >>> events = pd.DataFrame(
    ...     {"doc_id": ["a", "b", "a"], "click": [1, 0, 1], "time": [10, 20, 30]}
    ... )
    >>> counters_at(events, "doc_id", ["click"], 30)
      doc_id  doc_id_exposures  doc_id_click
    0      a                 1             1
    1      b                 1             0
    """
    names = [key] if isinstance(key, str) else list(key)
    check_columns(events, "events", ["time"], [tuple(names)])
    values = events[names].dropna().drop_duplicates(ignore_index=True)
    rows = values.assign(time=time)
    counted = counters(
        events, [names], behaviors, rows=rows, windows=windows, delay=delay
    )
    return pd.concat([values, counted], axis=1)


def _count(
    places: np.ndarray,
    ends: np.ndarray,
    starts: dict[str, np.ndarray],
    added_up: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Counts and adds up the events between two places, for each row.

    Args:
        places: of the events.
        ends: first place after those of each row.
        starts: first place of each row, by what the counters' names end with.
        added_up: what is added up, by name.

    Returns:
        Counters by name.
    """
    order = np.argsort(places)
    places = places[order]
    sums = {
        name: np.concatenate([[0], np.cumsum(values[order])])
        for name, values in added_up.items()
    }
    # In the order of their places, rows find neighbours in the cache.
    by_place = np.argsort(ends)
    last = np.searchsorted(places, ends[by_place])
    found: dict[str, np.ndarray] = {}
    for suffix, begin in starts.items():
        first = np.searchsorted(places, begin[by_place])
        columns = {EXPOSURES: last - first}
        columns |= {name: total[last] - total[first] for name, total in sums.items()}
        for name, values in columns.items():
            found[name + suffix] = np.empty_like(values)
            found[name + suffix][by_place] = values
    return found


def codes_of(
    events: pd.DataFrame, rows: pd.DataFrame, key: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a number for each value of a key, -1 where a column is empty.

    Args:
        events: the events.
        rows: those that counters or histories are wanted for.
        key: the key's columns.

    Returns:
        int64, of the events and of the rows.
    """
    codes = np.zeros(len(events) + (0 if rows is events else len(rows)), np.int64)
    for name in key:
        column = events[name]
        if rows is not events:
            own, other = column.dtype, rows[name].dtype
            if _kind(events[name]) != _kind(rows[name]):
                raise TypeError(
                    f"{name}: {other} in the rows, but {own} in the events; make them "
                    "one type"
                )
            column = pd.concat([column, rows[name]], ignore_index=True)
        part, values = pd.factorize(column)
        # Small again after each column: their product never overflows.
        joined = np.where((codes < 0) | (part < 0), -1, codes * len(values) + part)
        codes = pd.factorize(joined)[0]
        codes[joined < 0] = -1
    return codes[: len(events)], codes[len(codes) - len(rows) :]


def _kind(column: pd.Series) -> str:
    """Returns what tells values of two columns apart that are written alike."""
    if pd.api.types.is_float_dtype(column.dtype):
        return "float"  # which whole numbers with gaps become, and lose digits
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "number"
    first = column.dropna()
    return "bytes" if len(first) and isinstance(first.iloc[0], bytes) else "text"


def seconds_of(times: Any, where: str) -> np.ndarray:
    """Returns seconds as int64, from seconds or timestamps.

    Args:
        times: a column.
        where: what errors call its table.
    """
    if times.isna().any():
        raise ValueError(f"time: {where} lack one; drop those rows")
    kind = times.dtype
    if isinstance(kind, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(kind):
        times = times.dt.tz_convert(None) if times.dt.tz is not None else times
        return times.to_numpy().astype("datetime64[s]").astype(np.int64)
    if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        raise TypeError(f"time: seconds or timestamps are wanted. Received: {kind}")
    seconds = np.floor(times.to_numpy())
    if not np.isfinite(seconds).all():
        raise ValueError(f"time: {where} hold infinity; drop those rows")
    return seconds.astype(np.int64)


def _added_up(events: pd.DataFrame, names: Sequence[str]) -> dict[str, np.ndarray]:
    found = {}
    for name in names:
        values = events[name].to_numpy(np.float64, na_value=np.nan)
        bad = ~(np.isfinite(values) & (values >= 0) & (values == np.floor(values)))
        if bad.any():
            raise ValueError(
                f"{name}: a behaviour is a whole number from 0 in each event. "
                f"Received: {values[bad][0]}"
            )
        found[name] = values.astype(np.int64)
    return found


def _check_settings(
    keys: Sequence[Any], behaviors: Sequence[str], windows: Sequence[int], delay: int
) -> None:
    if not keys or not all(keys):
        raise ValueError(f"keys name no column. Received: keys={keys}")
    if EXPOSURES in behaviors:
        raise ValueError(
            f"{EXPOSURES!r} are the events, which are always counted; leave it out of "
            "the behaviors"
        )
    for window in windows:
        for name in (EXPOSURES, *behaviors):
            if f"{name}_{window}s" in behaviors:
                raise ValueError(
                    f"two counters would end in '{name}_{window}s'; rename a behaviour"
                )
    if any(window < 1 for window in windows):
        raise ValueError(f"windows are seconds from 1. Received: {list(windows)}")
    if delay < 0:
        raise ValueError(f"delay must not be negative. Received: {delay}")


def check_columns(
    table: pd.DataFrame, what: str, names: Sequence[str], keys: Sequence[Any]
) -> None:
    """Raises ValueError for a column that a table lacks.

    Args:
        table: the table.
        what: what errors call it.
        names: columns that it needs.
        keys: more of them, by key.
    """
    for name in [*names, *(name for key in keys for name in key)]:
        if name not in table.columns:
            raise ValueError(
                f"{what} have no column {name!r}; {nearest(name, table.columns)}"
            )
