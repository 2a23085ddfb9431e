"""Counters as of each event, against a slow loop."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.datasets import counters, counters_at

EVENT = st.fixed_dictionaries(
    {
        "query": st.sampled_from(["red", "hat", None]),
        "doc_id": st.integers(0, 3),
        "author": st.sampled_from(["x", "y"]),
        "click": st.integers(0, 1),
        "like": st.integers(0, 3).map(float),
        "time": st.integers(100, 112),
    }
)
TYPES = {"query": object, "doc_id": np.int64, "click": np.int64, "like": np.float64}
KEYS = [("query", "doc_id"), "doc_id", ("author",)]
WINDOWS = [1, 5]


def frame(events: list[dict]) -> pd.DataFrame:
    columns = ["query", "doc_id", "author", "click", "like", "time"]
    table = pd.DataFrame(events, columns=columns)
    return table.astype({**TYPES, "author": object, "time": np.int64})


def slowly(events, key, row, *, window=None, delay=0) -> list[dict]:
    """Returns the events that a row's counters count, one after the other."""
    if any(row[name] is None for name in key):
        return []
    end = row["time"] - delay
    return [
        event
        for event in events
        if all(event[name] == row[name] for name in key)
        and event["time"] < end
        and (window is None or event["time"] >= end - window)
    ]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(EVENT, max_size=25), st.lists(EVENT, max_size=6), st.sampled_from([0, 3])
)
def test_equals_a_slow_loop(events, others, delay):
    for rows, given_rows in ((events, None), (others, frame(others))):
        found = counters(
            frame(events),
            KEYS,
            ["click", "like"],
            rows=given_rows,
            windows=WINDOWS,
            delay=delay,
        )
        expected = {}
        for key in KEYS:
            names = (key,) if isinstance(key, str) else key
            for window in (None, *WINDOWS):
                seen = [
                    slowly(events, names, row, window=window, delay=delay)
                    for row in rows
                ]
                start = "_".join(names)
                end = "" if window is None else f"_{window}s"
                expected[f"{start}_exposures{end}"] = [len(part) for part in seen]
                for name in ("click", "like"):
                    expected[f"{start}_{name}{end}"] = [
                        int(sum(event[name] for event in part)) for part in seen
                    ]
        assert {name: found[name].tolist() for name in found} == expected
        assert (found.dtypes == np.int64).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(EVENT, min_size=1, max_size=25), st.integers(98, 116), st.integers(0, 3)
)
def test_a_snapshot_is_what_a_row_of_that_time_has(events, time, delay):
    table = frame(events)
    options = {"windows": WINDOWS, "delay": delay}
    found = counters_at(table, ("query", "doc_id"), ["click"], time, **options)
    keys = ["query", "doc_id"]
    distinct = table[keys].dropna().drop_duplicates()
    assert found[keys].to_numpy().tolist() == distinct.to_numpy().tolist()
    late = pd.DataFrame([{**event, "time": time} for event in events]).astype(TYPES)
    rows = counters(table, [keys], ["click"], rows=late, **options)
    joined = late[keys].merge(found, how="left", on=keys).drop(columns=keys)
    known = late["query"].notna().to_numpy()
    assert joined[known].to_numpy().tolist() == rows[known].to_numpy().tolist()
    assert (rows[~known] == 0).all(axis=None)


def test_by_hand_with_an_index_and_timestamps():
    seconds = [10, 10, 20, 90]
    times = pd.to_datetime(pd.Series(seconds), unit="s") + pd.Timedelta("0.4s")
    events = pd.DataFrame(
        {"doc_id": ["a", "a", "a", "a"], "click": [True, False, True, False]}
    )
    events.index = [7, 3, 9, 1]
    for column in (seconds, times, times.dt.tz_localize("UTC")):
        events["time"] = np.array(column) if column is seconds else column.to_list()
        found = counters(events, ["doc_id"], ["click"], windows=[70])
        assert found.index.tolist() == [7, 3, 9, 1]
        # Two at once see nothing of each other; a window begins at its first second.
        assert found["doc_id_exposures"].tolist() == [0, 0, 2, 3]
        assert found["doc_id_click"].tolist() == [0, 0, 1, 2]
        assert found["doc_id_exposures_70s"].tolist() == [0, 0, 2, 1]
        assert found["doc_id_click_70s"].tolist() == [0, 0, 1, 1]


def test_the_order_of_events_does_not_matter():
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {
            "user_id": rng.integers(0, 9, 500).astype(str),
            "doc_id": rng.integers(0, 9, 500),
            "click": rng.integers(0, 2, 500),
            "time": rng.integers(0, 200, 500),
        }
    )
    keys = [("user_id", "doc_id"), "user_id"]
    found = counters(events, keys, ["click"], windows=[20], delay=2)
    shuffled = counters(
        events.sample(frac=1, random_state=1), keys, ["click"], windows=[20], delay=2
    )
    pd.testing.assert_frame_equal(found, shuffled.sort_index())


def test_a_rows_own_label_is_in_no_counter():
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {"doc_id": rng.integers(0, 3, 200), "time": rng.integers(0, 50, 200)}
    )
    clicks = rng.integers(0, 2, 200)
    before = counters(events.assign(click=clicks), ["doc_id"], ["click"], windows=[9])
    for row in range(0, 200, 17):
        changed = clicks.copy()
        changed[row] = 9
        after = counters(
            events.assign(click=changed), ["doc_id"], ["click"], windows=[9]
        )
        differs = (before != after).any(axis=1)
        later = events["time"] > events["time"][row]
        assert not differs[row] and not (differs & ~later).any()
        assert (
            differs.any() == (later & (events["doc_id"] == events["doc_id"][row])).any()
        )


GOOD = {"doc_id": ["a", "b"], "click": [0, 1], "time": [1, 2]}


@pytest.mark.parametrize(
    ("columns", "options", "kind", "expected"),
    [
        ({}, {"keys": []}, ValueError, "keys name no column. Received: keys=[]"),
        (
            {},
            {"keys": ["docid"]},
            ValueError,
            "events have no column 'docid'; did you mean 'doc_id'?",
        ),
        (
            {},
            {"behaviors": ["exposures"]},
            ValueError,
            "'exposures' are the events, which are always counted; leave it out of the "
            "behaviors",
        ),
        ({}, {"windows": [0]}, ValueError, "windows are seconds from 1. Received: [0]"),
        ({}, {"delay": -1}, ValueError, "delay must not be negative. Received: -1"),
        (
            {"click": [0.5, 1.0]},
            {},
            ValueError,
            "click: a behaviour is a whole number from 0 in each event. Received: 0.5",
        ),
        (
            {"click": [1.0, np.nan]},
            {},
            ValueError,
            "click: a behaviour is a whole number from 0 in each event. Received: nan",
        ),
        (
            {"click": [1, -1]},
            {},
            ValueError,
            "click: a behaviour is a whole number from 0 in each event. Received: -1.0",
        ),
        (
            {"time": [1.0, None]},
            {},
            ValueError,
            "time: events lack one; drop those rows",
        ),
        (
            {"time": ["1", "2"]},
            {},
            TypeError,
            "time: seconds or timestamps are wanted. Received: str",
        ),
        (
            {},
            {"rows": pd.DataFrame({"doc_id": [1], "time": [3]})},
            TypeError,
            "doc_id: int64 in the rows, but str in the events; make them one type",
        ),
        (
            {},
            {"rows": pd.DataFrame({"doc_id": ["a"]})},
            ValueError,
            "rows have no column 'time'; known: doc_id",
        ),
    ],
)
def test_errors_are_one_line(columns, options, kind, expected):
    arguments = {"keys": ["doc_id"], "behaviors": ["click"], **options}
    with pytest.raises(kind) as error:
        counters(pd.DataFrame({**GOOD, **columns}), **arguments)
    assert str(error.value) == expected


def test_there_is_no_loop_over_rows():
    rng = np.random.default_rng(0)
    size = 100_000
    events = pd.DataFrame(
        {
            "query": rng.integers(0, 2_000, size),
            "doc_id": rng.integers(0, 5_000, size),
            "click": rng.integers(0, 2, size),
            "time": rng.integers(0, 10**6, size),
        }
    )
    start = time.perf_counter()
    found = counters(
        events, [("query", "doc_id"), "doc_id"], ["click"], windows=[86_400]
    )
    assert len(found) == size
    # Measured: .2 s; a loop over rows would take minutes.
    assert time.perf_counter() - start < 10


def test_counters_of_a_log_become_rates(tmp_path):
    from tfrs_prerank import Categorical, Numeric, Schema, Task
    from tfrs_prerank.datasets import logs, read_documents
    from tfrs_prerank.features.schema import read_statistics

    # Three requests, of two documents each; the last one is the test.
    log = pd.DataFrame(
        {
            "request_id": ["r1", "r1", "r2", "r2", "r3", "r3"],
            "user_id": ["u", "u", "v", "v", "u", "u"],
            "doc_id": ["a", "b", "a", "b", "a", "b"],
            "click": [1, 0, 1, 0, 0, 1],
            "time": [100, 100, 200, 200, 300, 300],
        }
    )
    keys = ["doc_id", ("user_id", "doc_id")]
    log = log.join(counters(log, keys, ["click"]))
    log.to_parquet(tmp_path / "log.parquet")
    snapshot = counters_at(log, "doc_id", ["click"], 301)
    documents = pd.DataFrame({"doc_id": ["a", "b", "new"], "city": ["x", "y", "z"]})
    documents = documents.merge(snapshot, how="left", on="doc_id").fillna(0)
    documents.to_parquet(tmp_path / "docs.parquet")

    def rate(name: str, owner: str, **options) -> list[Numeric]:
        exposures = f"{name}_exposures"
        return [
            Numeric(f"{name}_click", owner, per=exposures, **options),
            Numeric(exposures, owner, log1p=True, **options),
        ]

    schema = Schema(
        [
            Categorical("user_id", "query", buckets=9),
            Categorical("city", "doc", buckets=9),
            *rate("doc_id", "doc", point_in_time=True),
            *rate("user_id_doc_id", "cross"),
        ],
        [Task("click")],
    )
    config = logs.LogsConfig(
        requests=str(tmp_path / "log.parquet"),
        documents=str(tmp_path / "docs.parquet"),
        split=(0.7, 0.0, 0.3),
    )
    # Nothing was known of a pair before the last request: a rate needs a click.
    with pytest.raises(ValueError, match="user_id_doc_id_click: the totals are 0"):
        logs.convert(config, schema, tmp_path / "data")
    config = dataclasses.replace(config, split=(1.0, 0.0, 0.0))
    logs.convert(config, schema, tmp_path / "data")
    made = Schema.from_yaml(tmp_path / "data" / "schema.yaml")
    # Of documents, in the requests: 0/0, 0/0, 1/1, 0/1, 2/2, 0/2. Of pairs: 1/1, 0/1.
    assert read_statistics(made["doc_id_click"])["rate"] == 3 / 6
    assert read_statistics(made["user_id_doc_id_click"])["rate"] == 1 / 2
    # The table is as of now.
    columns = read_documents(tmp_path / "data" / "documents.parquet").columns
    assert columns["doc_id_exposures"].tolist() == [3, 3, 0]
    assert columns["doc_id_click"].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("events", "keys", "options", "message"),
    [
        ({"u": ["a"], "n": [np.inf]}, ["u"], {}, "n: a behaviour is a whole number"),
        (
            {"u": ["a"], "d": ["b"], "u_d": ["c"], "n": [1]},
            ["u_d", ("u", "d")],
            {},
            "two counters are called 'u_d_exposures'",
        ),
        (
            {"u": ["a"], "n": [1], "n_75s": [1]},
            ["u"],
            {"windows": [75], "behaviors": ["n", "n_75s"]},
            "two counters would end in 'n_75s'; rename a behaviour",
        ),
    ],
)
def test_what_would_count_wrongly_is_refused(events, keys, options, message):
    table = pd.DataFrame({**events, "time": 1})
    options = {"behaviors": ["n"], **options}
    with pytest.raises(ValueError, match=message):
        counters(table, keys, **options)


def test_ids_are_not_compared_as_rounded_numbers():
    events = pd.DataFrame({"u": [2**53 + 1], "time": [1]})
    rows = pd.DataFrame({"u": [float(2**53)], "time": [9]})
    with pytest.raises(TypeError, match="u: float64 in the rows, but int64 in the"):
        counters(events, ["u"], [], rows=rows)
    with pytest.raises(ValueError, match="time: events hold infinity"):
        counters(events.assign(time=np.inf), ["u"], [])
