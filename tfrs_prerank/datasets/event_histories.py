"""Histories as of each request: what a user had done before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tfrs_prerank.datasets.event_counters import (
    Key,
    check_columns,
    codes_of,
    seconds_of,
)


def histories(
    events: pd.DataFrame,
    key: Key,
    columns: Sequence[str],
    *,
    rows: pd.DataFrame,
    length: int = 50,
    delay: int = 0,
) -> pd.DataFrame:
    """Lists, for each row, the last events of its key before its time.

    For `Sequence` features: documents that a user liked, words that he searched for,
    and their times. Events of the row's own second are left out, so that no history
    holds the target event or one that came with it.

    Args:
        events: one row for each behaviour, in any order: the columns of the key, those
            that are listed, and `time`, seconds or timestamps. Those of one second stay
            in their order.
        key: the column, or columns, whose events belong together, such as `user_id`.
        columns: what is listed; `time` is listed in seconds.
        rows: the requests: the key's columns and `time`.
        length: most events in a history.
        delay: seconds until an event is in the histories, as in the pipeline that will
            serve them.

    Returns:
        Lists, the most recent event first, in columns of those names with the index of
        the rows. A row whose key has an empty column has empty ones.

    Raises:
        TypeError: a column is of another type in the rows than in the events, or `time`
            is neither seconds nor timestamps.
        ValueError: a column is missing, or a value or a time in it, or `length` or
            `delay` is out of range.

    Example:
    >>> import pandas as pd
    >>> from tfrs_prerank.datasets import histories
    >>> events = pd.DataFrame(
    ...     {"user": ["u", "u", "v", "u"], "query": ["hat", "red hat", "tea", "shoes"],
    ...      "time": [10, 20, 20, 30]}
    ... )
    >>> histories(events, "user", ["query", "time"], rows=events, length=1)
           query  time
    0         []    []
    1      [hat]  [10]
    2         []    []
    3  [red hat]  [20]
    """
    names = [key] if isinstance(key, str) else list(key)
    if length < 1 or delay < 0:
        raise ValueError(
            "length must be at least 1 and delay not negative. Received: "
            f"length={length}, delay={delay}"
        )
    check_columns(events, "events", [*columns, "time"], [names])
    check_columns(rows, "rows", ["time"], [names])
    for name in columns:
        if events[name].isna().any():
            raise ValueError(f"{name}: events lack one; drop those rows")
    seconds = seconds_of(events["time"], "events")
    # Ranks among the events' times, so that a key and a time fit into one integer.
    times, happened = np.unique(seconds, return_inverse=True)
    ends = np.searchsorted(times, seconds_of(rows["time"], "rows") - delay)
    of_events, of_rows = codes_of(events, rows, names)
    places = of_events * (len(times) + 1) + happened
    order = np.argsort(places, kind="stable")
    places = places[order]
    first = np.searchsorted(places, of_rows * (len(times) + 1))
    last = np.searchsorted(places, of_rows * (len(times) + 1) + ends)
    last = np.where(of_rows < 0, first, last)
    first = np.maximum(first, last - length)
    made = {}
    for name in columns:
        values = seconds if name == "time" else events[name].to_numpy()
        # Most recent first.
        values = values[order][::-1]
        begin, end = len(values) - last, len(values) - first
        made[name] = [values[a:b].tolist() for a, b in zip(begin, end, strict=True)]
    return pd.DataFrame(made, index=rows.index)
