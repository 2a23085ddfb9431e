"""Vocabularies and statistics against counts by hand and NumPy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tfrs_prerank.features import (
    Categorical,
    DocumentTable,
    Numeric,
    Schema,
    Sequence,
    Task,
    Text,
    adapt,
)

USER = Categorical("user_id", "query", buckets=3)
CITY = Categorical("city", "doc", buckets=3)


def run(tmp_path: Path, features, requests, columns=None, documents=3) -> Schema:
    """Adapts a schema of the given features and a query and document feature."""
    table = DocumentTable(np.arange(documents), columns or {})
    schema = Schema([USER, CITY, *features], [Task("click")])
    return adapt(schema, requests, table, tmp_path / "out")


def lines(feature) -> list[str]:
    return Path(feature.vocabulary).read_text(encoding="utf-8").splitlines()


def test_counts_in_requests_are_by_hand(tmp_path):
    # "rome" 3 times, "oslo" 2 (once as bytes), "bern" and "bonn" once; pads are none.
    requests = [
        {"town": "rome", "tags": ["x", "y"], "code": [5, -1]},
        {"town": b"oslo", "tags": np.array(["x", ""]), "code": [5, 7]},
        {"town": "rome", "tags": [], "code": np.array([], np.int64)},
        {"town": "oslo", "tags": ["z"], "code": [9]},
        {"town": "rome", "tags": ["x"], "code": [7]},
        {"town": "bonn", "tags": ["z"], "code": [10]},
        {"town": "bern", "tags": [""], "code": [5]},
        {"town": "", "tags": [b"z"], "code": [-1]},
    ]
    adapted = run(
        tmp_path,
        [
            Categorical("town", "query"),
            Categorical("tags", "query", max_values=2),
            Categorical("code", "query", dtype="int64", max_values=2),
        ],
        requests,
    )
    # By count, then by value.
    assert lines(adapted["town"]) == ["rome", "oslo", "bern", "bonn"]
    assert lines(adapted["tags"]) == ["x", "z", "y"]
    # 9 before 10: integers are not ordered as text.
    assert lines(adapted["code"]) == ["5", "7", "9", "10"]
    assert adapted["user_id"] == USER and adapted["city"] == CITY
    assert [f.name for f in adapted.features] == [
        "user_id", "city", "town", "tags", "code",
    ]  # fmt: skip


def test_min_count_and_max_vocabulary(tmp_path):
    requests = [{"town": t, "tag": t} for t in "aaabbccd"]
    adapted = run(
        tmp_path,
        [
            Categorical("town", "query", min_count=2),
            Categorical("tag", "query", min_count=2, max_vocabulary=2),
        ],
        requests,
    )
    assert lines(adapted["town"]) == ["a", "b", "c"]
    assert lines(adapted["tag"]) == ["a", "b"]


def test_static_columns_count_once_a_document(tmp_path):
    # "b" is in three requests but in one document only.
    requests = [
        {"genre": ["b"], "seen": ["b"], "shown": ["b"]},
        {"genre": ["b"], "seen": ["b", "a"], "shown": ["a", "a"]},
        {"genre": ["b"], "seen": ["b"], "shown": [""]},
    ]
    features = [
        Categorical("genre", "doc", max_values=2),
        Categorical("seen", "doc", point_in_time=True),
        Categorical("shown", "doc", training_only=True),
    ]
    columns = {"genre": [["a", "b"], ["a"], None], "seen": ["z"] * 3}
    adapted = run(tmp_path, features, requests, columns)
    assert lines(adapted["genre"]) == ["a", "b"]
    # Point-in-time and training-only columns come from the requests: the table's
    # snapshot is from after them.
    assert lines(adapted["seen"]) == ["b", "a"]
    assert lines(adapted["shown"]) == ["a", "b"]


def test_requests_are_read_once_and_only_if_needed(tmp_path):
    requests = iter([{"town": "rome", "age": 3.0}])
    adapted = run(
        tmp_path,
        [Categorical("town", "query"), Numeric("age", "query", standardize=True)],
        requests,
    )
    assert lines(adapted["town"]) == ["rome"]
    unread = iter([{}])
    run(tmp_path, [Categorical("genre", "doc")], unread, {"genre": ["a", "b", "c"]})
    assert list(unread) == [{}]


def test_tokens_of_texts(tmp_path):
    requests = [
        {"query": "Red SHOES", "past": ["blue", "Red"]},
        {"query": b"red, red-ish hat", "past": [""]},
        {"query": "鞋子 \xe9te\u0301", "past": []},
        {"query": b"caf\xe9 red", "past": ["red"]},
    ]
    adapted = run(
        tmp_path,
        [
            Text("query", "query"),
            Text("past", "query", max_values=2),
            Text("title", "doc", shares="query"),
            Text("short", "doc", max_tokens=2),
        ],
        requests,
        {"short": ["one two three", "two", "three two one"]},
    )
    # A byte that is no UTF-8 ends a word: "caf". Ties are by value.
    assert lines(adapted["query"]) == [
        "red", "caf", "hat", "ish", "shoes", "\xe9t\xe9", "子", "鞋",
    ]  # fmt: skip
    assert lines(adapted["past"]) == ["red", "blue"]
    # Tokens that the model would cut are not counted.
    assert lines(adapted["short"]) == ["two", "one", "three"]
    assert adapted["title"].vocabulary is None


def test_a_sharing_sequence_gets_no_vocabulary(tmp_path):
    adapted = run(
        tmp_path,
        [Sequence("history", shares="city"), Sequence("clicks", min_count=2)],
        [{"clicks": ["b", "a", "b", ""]}],
    )
    assert adapted["history"].vocabulary is None
    assert lines(adapted["clicks"]) == ["b"]


@pytest.mark.parametrize("log1p", [False, True])
def test_statistics_equal_numpy(tmp_path, log1p):
    rng = np.random.default_rng(0)
    values = rng.normal(100, 1000, 500).astype(np.float32)
    requests = [{"age": part, "views": part} for part in np.split(values, 50)]
    adapted = run(
        tmp_path,
        [
            Numeric("age", "cross", standardize=True, log1p=log1p),
            Numeric("views", "doc", buckets=4, point_in_time=True),
        ],
        requests,
    )
    raw = wide = values.astype(np.float64)
    if log1p:
        wide = np.sign(wide) * np.log(1 + np.abs(wide))
    found = json.loads(Path(adapted["age"].statistics).read_text())
    np.testing.assert_allclose(found["age"]["mean"], np.mean(wide), rtol=1e-12)
    np.testing.assert_allclose(found["age"]["std"], np.std(wide), rtol=1e-12)
    assert "boundaries" not in found["age"]
    # What a file was made for is in it.
    assert (found["age"]["log1p"], found["views"]["buckets"]) == (log1p, 4)
    np.testing.assert_allclose(
        found["views"]["boundaries"], np.percentile(raw, [25, 50, 75]), rtol=1e-7
    )


def test_boundaries_are_numbers_of_the_columns_own_type(tmp_path):
    # The model sees 0.7 as a float32, which is less than 0.7.
    requests = [{"rate": x, "born": 1_700_000_000 + i} for i, x in enumerate([0.7] * 3)]
    features = [
        Numeric("rate", "query", buckets=2),
        Numeric("born", "query", buckets=2, dtype="int64"),
    ]
    adapted = run(tmp_path, features, requests)
    found = json.loads(Path(adapted["rate"].statistics).read_text())
    assert found["rate"]["boundaries"] == [float(np.float32(0.7))]
    # A float32 has steps of 128 there.
    assert found["born"]["boundaries"] == [1_700_000_001.0]


def test_statistics_by_hand_without_missing(tmp_path):
    features = [
        Numeric("age", "query", standardize=True, missing=-1),
        # 0.1 is not a float32, and 9,999,999,999 is none either.
        Numeric("rate", "query", standardize=True, missing=0.1),
        Numeric(
            "born", "query", standardize=True, missing=9_999_999_999, dtype="int64"
        ),
        Numeric("year", "doc", buckets=2),
    ]
    requests = [
        {"age": 1.0, "rate": np.float32(0.1), "born": 9_999_999_999},
        {"age": -1.0, "rate": np.float32(3), "born": 10},
        {"age": 4.0, "rate": np.float32(5), "born": 10_000_000_000},
    ]
    adapted = run(tmp_path, features, requests, {"year": [1990, 2010, 2000]})
    found = json.loads(Path(adapted["age"].statistics).read_text())
    # age: (1, 4); rate: (3, 5); born: (10, 10^10); year: the median of three.
    assert found["age"] == {"mean": 2.5, "std": 1.5, "log1p": False}
    assert found["rate"] == {"mean": 4.0, "std": 1.0, "log1p": False}
    assert found["born"] == {"mean": 5e9 + 5, "std": 5e9 - 5, "log1p": False}
    assert found["year"]["boundaries"] == [2000.0]


def test_a_constant_column_is_not_divided_by_rounding(tmp_path):
    assert 0 < np.std([0.1] * 3) < 1e-16  # which is what it must not be divided by
    requests = [{"age": 0.1, "rank": 7}] * 3
    adapted = run(
        tmp_path,
        [
            Numeric("age", "query", standardize=True),
            Numeric("rank", "query", buckets=5),
        ],
        requests,
    )
    found = json.loads(Path(adapted["age"].statistics).read_text())
    assert found["age"]["std"] == 1.0
    # Equal quantiles are one boundary; buckets need ascending ones.
    assert found["rank"]["boundaries"] == [7.0]


def test_what_is_declared_stays(tmp_path):
    (tmp_path / "v.txt").write_text("kept\n")
    (tmp_path / "s.json").write_text("{}")
    declared = [
        Categorical("town", "query", vocabulary=str(tmp_path / "v.txt")),
        Numeric("age", "query", standardize=True, statistics=str(tmp_path / "s.json")),
        Numeric("rank", "query", boundaries=(1.0, 2.0)),
    ]
    adapted = run(tmp_path, declared, [{}])
    assert adapted.features[2:] == tuple(declared)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("feature", "requests", "kind", "expected"),
    [
        (
            Categorical("town", "query"),
            [{"city": "a"}],
            KeyError,
            "no column 'town' in the data; it is declared in the schema",
        ),
        (
            Categorical("town", "query"),
            [{"town": "a"}, {"town": 3}],
            TypeError,
            "town: dtype='string' is declared. Received: 3 of type int",
        ),
        (
            Categorical("town", "query"),
            [{"town": None}],
            TypeError,
            "town: dtype='string' is declared. Received: None of type NoneType",
        ),
        (
            Categorical("town", "query", dtype="int64"),
            [{"town": "3"}],
            TypeError,
            "town: dtype='int64' is declared. Received: '3' of type str",
        ),
        (
            Categorical("town", "query"),
            [{"town": b"\xff"}],
            ValueError,
            r"town: b'\xff' is not UTF-8; a vocabulary cannot hold it, use buckets",
        ),
        (
            Categorical("town", "query"),
            [{"town": "a\nb"}],
            ValueError,
            r"town: 'a\nb' holds a newline; remove it",
        ),
        (
            Categorical("town", "query", min_count=2),
            [{"town": "a"}, {"town": "b"}],
            ValueError,
            "town: no value was seen 2 times in 2 distinct ones; lower min_count or "
            "check the column",
        ),
        (
            Numeric("age", "query", standardize=True),
            [{"age": 1.0}, {"age": float("nan")}],
            ValueError,
            "age: nan in the training data; replace missing numbers by a sentinel and "
            "declare it as Numeric(missing=...)",
        ),
        (
            Numeric("age", "query", standardize=True),
            [{"age": "7"}],
            TypeError,
            "age: numbers are declared. Received: '7' among values of type <U1",
        ),
        (
            Numeric("age", "query", buckets=2, missing=0),
            [{"age": 0.0}],
            ValueError,
            "age: no value was seen in the training data",
        ),
    ],
)
def test_errors_are_one_line_and_leave_no_file(
    tmp_path, feature, requests, kind, expected
):
    first = Categorical("first", "doc")  # counted before the one that fails
    with pytest.raises(kind) as error:
        run(tmp_path, [first, feature], requests, {"first": ["a", "b", "c"]})
    assert error.value.args[0] == expected
    assert not (tmp_path / "out").exists()


# Values on disk.

# The package's `adapt` is the function; this is its module.
ADAPT = sys.modules[adapt.__module__]


def test_most_values_on_disk_change_no_vocabulary(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    words = np.array(["ant", "bee", "cat", "dog", "eel", "fly", "gnu", "hen"])
    requests = [
        {
            "town": str(rng.choice(words)),
            "tags": [*rng.choice(words, 2), b"bee"],
            "code": int(rng.integers(-1, 9)),
            "query": " ".join(rng.choice(words, 3)),
        }
        for _ in range(200)
    ]
    features = [
        Categorical("town", "query"),
        Categorical("tags", "query", max_values=3, min_count=40),
        Categorical("code", "query", dtype="int64", max_vocabulary=4),
        Text("query", "query"),
        Categorical("genre", "doc"),
    ]
    columns = {"genre": ["x", "y", "y"]}
    whole = run(tmp_path / "whole", features, requests, columns)
    monkeypatch.setattr(ADAPT, "_IN_MEMORY", 5)  # one for each vocabulary
    monkeypatch.setattr(ADAPT, "_TOKENISE_AT_ONCE", 7)
    monkeypatch.setattr("tfrs_prerank.features.counting._AT_ONCE", 1)
    monkeypatch.setattr("tfrs_prerank.features.counting._FAN_IN", 5)
    small = run(tmp_path / "small", features, requests, columns)
    for feature in features:
        assert lines(small[feature.name]) == lines(whole[feature.name])
    assert len(lines(whole["town"])) == len(lines(whole["query"])) == 8
    names = sorted(path.name for path in (tmp_path / "small").rglob("*"))
    assert names == [
        "code.txt", "genre.txt", "out", "query.txt", "tags.txt", "town.txt",
        "vocabularies",
    ]  # fmt: skip


def test_no_run_is_left_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(ADAPT, "_IN_MEMORY", 1)
    monkeypatch.setattr("tfrs_prerank.features.counting._AT_ONCE", 1)
    seen = []

    def requests():
        yield from ({"town": "a"}, {"town": "b"})
        (folder,) = tmp_path.iterdir()
        seen.extend(folder.iterdir())
        yield {"town": 3}

    with pytest.raises(TypeError, match="town: dtype='string' is declared"):
        run(tmp_path, [Categorical("town", "query")], requests())
    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == []
