"""What the training log says of documents, and never of their future."""

from __future__ import annotations

import numpy as np
import pytest

from tfrs_prerank import Categorical, Dense, Numeric, Schema, Task, Text
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.sampling import DocumentLog, Mixture, Sampler

SCHEMA = Schema(
    features=[
        Categorical("user_id", "query", buckets=9),
        Categorical("city", "doc", buckets=9),
        Numeric("clicks", "doc", point_in_time=True),
        Numeric("price", "doc", point_in_time=True, missing=-7),
        Numeric("born", "doc", point_in_time=True, dtype="int64"),
        Categorical("state", "doc", buckets=9, point_in_time=True),
        Categorical("tags", "doc", buckets=9, max_values=3, point_in_time=True),
        Dense("cover", "doc", size=2, point_in_time=True),
        Text("co", "cross", buckets=9),
    ],
    tasks=[Task("click"), Task("buy")],
)
IDS = np.array(["a", "b", "c"], object)
DOCUMENTS = DocumentTable(IDS, {"city": ["x", "x", "y"]})


def request(name, time, ids, clicks, **changes):
    count = len(ids)
    return {
        "request_id": name,
        "time": time,
        "user_id": "u",
        "doc_ids": ids,
        "clicks": np.array(clicks, np.float32),
        "price": np.arange(count) + 0.5,
        "born": [time] * count,
        "state": [f"{name}{i}" for i in ids],
        "tags": [[name, str(i)][: place + 1] for place, i in enumerate(ids)],
        "cover": np.array([[time, place] for place in range(count)], np.float32),
        "co": [""] * count,
        "label/click": np.zeros(count),
        "label/buy": np.zeros(count),
        **changes,
    }


REQUESTS = [
    request("r1", 10, ["a", "b"], [1, 2]),
    request("r2", 20, ["b"], [3]),
    request("r4", 30, ["a"], [5]),
    request("r3", 30, ["a"], [4]),
]


def test_counts_are_by_hand():
    requests = [
        request("r1", 1, ["a", "b", "c"], [0] * 3, stage=[0, 0, 1],
                **{"label/click": [1, 0, 1]}),
        request("r2", 2, [b"a", b"b"], [0] * 2, stage=np.array([0, 2]),
                **{"label/buy": [0, 1], "label/click": [np.nan, 0]}),
        request("r3", 3, ["a"], [0], **{"label/buy": [1]}),  # no stages: exposed
    ]  # fmt: skip
    log = DocumentLog(requests, DOCUMENTS, SCHEMA)
    # a in all three, b in r1 only; c was never exposed.
    assert log.exposures.tolist() == [3, 1, 0]
    # a in r1 and r3; the engagements of c and of b in r2 are of no exposure.
    assert log.engagements.tolist() == [2, 0, 0]
    assert log.rows(["c", b"a"]).tolist() == [2, 0]
    with pytest.raises(ValueError, match="document 'z' is not in the documents table"):
        log.rows(["a", "z"])


@pytest.mark.parametrize("requests", [REQUESTS, REQUESTS[::-1]])
def test_the_last_value_at_or_before_a_time(requests):
    log = DocumentLog(requests, DOCUMENTS, SCHEMA)
    rows = np.array([1, 0, 2])  # b, a, c

    def clicks(time):
        return log.values(rows, time)["clicks"].tolist()

    assert clicks(9) == [0.0, 0.0, 0.0]
    assert clicks(10) == [2.0, 1.0, 0.0]
    assert clicks(19) == [2.0, 1.0, 0.0]
    assert clicks(20) == [3.0, 1.0, 0.0]
    # Of r3 and r4 in one second, r4.
    assert clicks(30) == clicks(10**12) == [3.0, 5.0, 0.0]
    found = log.values(rows, 10)
    assert found["price"].tolist() == [1.5, 0.5, -7.0]
    assert found["born"].tolist() == [10, 10, -1]
    assert found["born"].dtype == np.int64
    assert found["state"].tolist() == ["r1b", "r1a", ""]
    assert found["tags"] == [["r1", "b"], ["r1"], []]
    assert found["cover"].tolist() == [[10.0, 1.0], [10.0, 0.0], [0.0, 0.0]]
    assert found.keys() == {"clicks", "price", "born", "state", "tags", "cover"}


def test_against_a_slow_search():
    rng = np.random.default_rng(0)
    requests = []
    for number in range(80):
        ids = [str(i) for i in rng.permutation(6)[: rng.integers(1, 5)]]
        time = int(rng.integers(0, 30))
        requests.append(request(f"r{number:02}", time, ids, rng.random(len(ids))))
    table = DocumentTable(np.array(list("0123456"), object), {"city": [""] * 7})
    log = DocumentLog(requests, table, SCHEMA)
    in_order = sorted(requests, key=lambda r: (r["time"], r["request_id"]))
    for time in range(-1, 32):
        found = log.values(np.arange(7), time)["clicks"]
        for row in range(7):
            wanted = 0.0
            for r in in_order:
                if r["time"] <= time and str(row) in r["doc_ids"]:
                    wanted = r["clicks"][r["doc_ids"].index(str(row))]
            assert found[row] == wanted


def test_what_is_known_after_the_event_cannot_leak():
    # The counter equals the label, which is known a second after each request; before
    # it is 0. Every document is asked for in every second.
    rng = np.random.default_rng(1)
    ids = [f"d{i}" for i in range(40)]
    table = DocumentTable(np.array(ids, object), {"city": [""] * 40})
    labels = rng.integers(0, 2, 40).astype(np.float32)
    after = [request(f"z{i}", 2 * i + 1, ids[i : i + 1], labels[i : i + 1] + 10)
             for i in range(40)]  # fmt: skip
    events = [request(f"e{i}", 2 * i, ids[i : i + 1], [0], **{"label/click": [1]})
              for i in range(40)]  # fmt: skip
    log = DocumentLog(after + events, table, SCHEMA)
    sampler = Sampler(Mixture(catalog=39), SCHEMA, log)
    early = late = 0
    for number, event in enumerate(events):
        made = sampler.sample(event).request
        clicks = dict(zip(made["doc_ids"], made["clicks"], strict=True))
        assert len(clicks) == 40
        for i, name in enumerate(ids):
            if i < number:  # its event is over
                assert clicks[name] == labels[i] + 10
                late += 1
            else:
                assert clicks[name] == 0.0
                early += 1
    assert (early, late) == (820, 780)


def test_requests_without_id_or_time_are_refused():
    for name, message in (
        ("request_id", "no request_id"),
        ("time", "'r1' has no time"),
    ):
        broken = {k: v for k, v in REQUESTS[0].items() if k != name}
        with pytest.raises(ValueError, match=message) as raised:
            DocumentLog([broken], DOCUMENTS, SCHEMA)
        assert "\n" not in str(raised.value)
        # Counts alone need neither.
        log = DocumentLog([broken], DOCUMENTS, SCHEMA, with_values=False)
        assert log.exposures.tolist() == [1, 1, 0]
        assert log.values(np.array([0]), 50) == {}
