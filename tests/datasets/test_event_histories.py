"""Histories beside a slow loop; nothing of the request's own second is in them."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.datasets import histories

EVENT = st.tuples(
    st.sampled_from(["u", "v", None]), st.sampled_from("xy"), st.integers(0, 6)
)


@given(
    st.lists(EVENT, max_size=12),
    st.lists(EVENT, max_size=6),
    st.integers(1, 3),
    st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_histories_equal_a_loop(events, rows, length, delay):
    names = ["user", "scene", "time"]
    table = pd.DataFrame(events, columns=names).astype({"user": object})
    table["doc_id"] = range(len(table))
    wanted = pd.DataFrame(rows, columns=names, index=range(5, 5 + len(rows)))
    wanted = wanted.astype({"user": object, "time": "int64"})
    table = table.astype({"time": "int64"})
    made = histories(
        table,
        ["user", "scene"],
        ["doc_id", "time"],
        rows=wanted,
        length=length,
        delay=delay,
    )
    assert list(made.index) == list(wanted.index)
    for (user, scene, time), (_, row) in zip(rows, made.iterrows(), strict=True):
        before = [
            (event[2], place)
            for place, event in enumerate(events)
            if user is not None
            and event[:2] == (user, scene)
            and event[2] < time - delay
        ]
        expected = sorted(before, reverse=True)[:length]
        assert row["doc_id"] == [place for _, place in expected]
        assert row["time"] == [time for time, _ in expected]


def test_a_planted_target_is_not_in_the_history():
    """The click that a request led to, in its own second, tells its label."""
    clicks = pd.DataFrame(
        {"user": ["u"] * 3, "doc_id": ["a", "b", "target"], "time": [1, 2, 9]}
    )
    request = pd.DataFrame({"user": ["u"], "time": [9]})
    made = histories(clicks, "user", ["doc_id"], rows=request)
    assert made["doc_id"].tolist() == [["b", "a"]]


def test_timestamps_are_listed_in_seconds():
    events = pd.DataFrame(
        {"user": ["u"], "time": pd.to_datetime(["1970-01-01 00:01:00"])}
    )
    rows = pd.DataFrame({"user": ["u"], "time": pd.to_datetime(["1970-01-02"])})
    assert histories(events, "user", ["time"], rows=rows)["time"].tolist() == [[60]]


def test_a_behaviour_without_a_value_is_refused():
    events = pd.DataFrame({"user": ["u"] * 2, "query": [None, "hat"], "time": [1, 2]})
    with pytest.raises(ValueError, match="query: events lack one; drop those rows"):
        histories(events, "user", ["query"], rows=events)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"delay": -1}, "delay not negative. Received: length=50, delay=-1"),
        ({"columns": ["doc"]}, "events have no column 'doc'; did you mean 'doc_id'"),
    ],
)
def test_bad_arguments(options, message):
    events = pd.DataFrame({"user": ["u"], "doc_id": ["a"], "time": [1]})
    columns = options.pop("columns", ["doc_id"])
    with pytest.raises(ValueError, match=message):
        histories(events, "user", columns, rows=events, **options)
