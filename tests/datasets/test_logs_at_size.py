"""Logs that are longer than memory: pieces, parts, threads, kills and resumption."""

from __future__ import annotations

import collections
import fcntl
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank import Categorical, Numeric, Schema, Sequence, Task
from tfrs_prerank.datasets import _log_lists, _log_parts, _log_rows, _log_steps
from tfrs_prerank.datasets import _log_work as work
from tfrs_prerank.datasets.logs import LogColumns, LogsConfig, convert

SCHEMA = Schema(
    features=[
        Categorical("user_id", "query", buckets=9),
        Numeric("hour", "query", standardize=True),
        Sequence("history", shares="movie", max_length=3),
        Categorical("movie", "doc"),
        Categorical("tags", "doc", buckets=9, max_values=2, point_in_time=True),
        Numeric("clicks", "doc", point_in_time=True, standardize=True, log1p=True),
    ],
    tasks=[Task("click"), Task("like")],
)
IDS = [f"d{number}" for number in range(8)]
OF_REQUEST = ("time", "user_id", "hour", "history")
STAGES = {"exposed": 0, "ranked": 1}


def frame(seed: int, requests: int = 30) -> pd.DataFrame:
    """Rows in no order, with all that can be wrong with them."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(requests):
        request = {
            "request_id": f"r{number:02}",
            "time": 1_000 + int(rng.integers(20)),
            "user_id": f"u{rng.integers(4)}",
            "hour": float(rng.integers(24)),
            "history": list(rng.choice(IDS, rng.integers(3))),
        }
        # Some twice, and with other values.
        for document in rng.choice([*IDS, "unknown"], rng.integers(1, 9)):
            rows.append(
                {
                    **request,
                    "doc_id": document,
                    "stage": rng.choice([*STAGES, "recall"], p=[0.5, 0.45, 0.05]),
                    "position": rng.choice([None, 0.0, 1.0]),
                    "tags": list(rng.choice(["x", "y"], rng.integers(3))),
                    "clicks": float(rng.choice([0.0, 1.0, 2.0, 5.0])),
                    "click": float(rng.integers(2)),
                    "like": rng.choice([None, 0.0, 1.0]),
                }
            )
    data = pd.DataFrame(rows)
    for name, empty in (("request_id", None), ("doc_id", None), ("clicks", np.inf)):
        data.loc[rng.choice(len(data), 2), name] = empty
    data.loc[rng.choice(len(data), 2), "history"] = pd.Series([["other"]])
    data.loc[rng.choice(len(data), 1), "user_id"] = "another"
    data["history"] = [row if isinstance(row, list) else [] for row in data["history"]]
    return data.sample(frac=1, random_state=seed)


def save(data: pd.DataFrame, folder: Path, name="log.parquet", group=1_000_000) -> None:
    folder.mkdir(exist_ok=True)
    data.to_parquet(folder / name, row_group_size=group)
    documents = {"doc_id": IDS, "movie": IDS, "clicks": np.full(len(IDS), 9.0)}
    documents["tags"] = [["snapshot"]] * len(IDS)
    pd.DataFrame(documents).to_parquet(folder / "docs.parquet")


def config(folder: Path, **changes) -> LogsConfig:
    given = {
        "requests": str(folder / "log*.parquet"),
        "documents": str(folder / "docs.parquet"),
        "columns": LogColumns(group_id="user_id"),
        "split": (0.6, 0.2, 0.2),
        "shards": 2,
    }
    return LogsConfig(**{**given, **changes})


def records(folder: Path) -> dict[str, list[bytes]]:
    """Returns the records of each file, their columns in one order."""
    found = {}
    for path in sorted(folder.glob("*.tfrecord")):
        read = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        found[path.name] = [
            tf.train.Example.FromString(record).SerializeToString(deterministic=True)
            for record in read
        ]
    return found


def others(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of all other files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".tfrecord"
    }


def assert_same(one: Path, two: Path) -> None:
    assert records(one) == records(two)
    assert others(one) == others(two)


# A slow reference.


def reference(data: pd.DataFrame):
    """Returns the requests by time and id, and the dropped rows and requests."""
    dropped_rows, dropped_requests = collections.Counter(), collections.Counter()
    requests = collections.defaultdict(list)
    for row in data.to_dict("records"):
        if pd.isna(row["request_id"]):
            dropped_rows["no_request_id"] += 1
            continue
        usable = requests[row["request_id"]]
        if pd.isna(row["doc_id"]):
            dropped_rows["no_document_id"] += 1
        elif row["doc_id"] not in IDS:
            dropped_rows["unknown_document"] += 1
        elif row["stage"] not in STAGES:
            dropped_rows["unknown_stage"] += 1
        elif not math.isfinite(row["clicks"]):
            dropped_rows["missing_or_not_finite"] += 1
        else:
            usable.append(row)
    made = []
    for name, usable in requests.items():
        best = {}
        for row in sorted(usable, key=worth):
            best.setdefault(row["doc_id"], row)
        dropped_rows["duplicate"] += len(usable) - len(best)
        said = {repr([row[column] for column in OF_REQUEST]) for row in best.values()}
        if not best:
            dropped_requests["no_usable_row"] += 1
        elif len(said) > 1:
            dropped_requests["rows_disagree"] += 1
            dropped_rows["of_a_dropped_request"] += len(best)
        else:
            made.append((next(iter(best.values()))["time"], name, best))
    made.sort(key=lambda request: request[:2])
    return made, dropped_rows, dropped_requests


def worth(row):
    """Orders rows of one document: the first one stays."""
    position = math.inf if math.isnan(number(row["position"])) else row["position"]
    labels = sum(np.nan_to_num([number(row["click"]), number(row["like"])]))
    # Of equal ones any may stay; see `test_rows_that_differ_in_little`.
    return STAGES[row["stage"]], position, -labels


def number(value) -> float:
    return math.nan if value is None else float(value)


def parsed(record: bytes):
    feature = tf.train.Example.FromString(record).features.feature
    values = {
        name: list(one.bytes_list.value or one.int64_list.value or one.float_list.value)
        for name, one in feature.items()
    }
    return {
        name: [v.decode() if isinstance(v, bytes) else v for v in value]
        for name, value in values.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_lists_equal_a_slow_reference(tmp_path: Path, monkeypatch, seed) -> None:
    data = frame(seed)
    # Rows that tie in all that the reference looks at.
    data["labels"] = data["click"] + data["like"].astype(float).fillna(0)
    ties = ["request_id", "doc_id", "stage", "position", "labels"]
    data = data.drop_duplicates(ties)
    wanted, dropped_rows, dropped_requests = reference(data)
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 40)
    save(data, tmp_path / "in", group=23)
    out = tmp_path / "out"
    report = convert(config(tmp_path / "in"), SCHEMA, out, chunk_rows=11)
    assert report.rows_read == len(data)
    assert report.rows_dropped == {n: c for n, c in dropped_rows.items() if c}
    assert report.requests_dropped == {n: c for n, c in dropped_requests.items() if c}
    found = []
    for split in ("train", "validation", "test"):
        shards = [
            records(out)[f"{split}-0000{shard}-of-00002.tfrecord"] for shard in range(2)
        ]
        # They went to the shards in turn.
        turns = itertools.chain.from_iterable(itertools.zip_longest(*shards))
        found += [parsed(record) for record in turns if record is not None]
    assert len(found) == len(wanted) == sum(report.requests_written.values())
    for record, (time, name, best) in zip(found, wanted, strict=True):
        assert record["request_id"] == [name]
        assert record["time"] == [time]
        rows = [best.pop(document) for document in record["doc_ids"]]
        assert not best
        assert record["user_id"] == record["group_id"] == [rows[0]["user_id"]]
        assert record["hour"] == [rows[0]["hour"]]
        assert record["history"] == rows[0]["history"]
        assert record["stage"] == [STAGES[row["stage"]] for row in rows]
        positions = [number(row["position"]) for row in rows]
        assert record["position"] == [-1 if p != p else p for p in positions]
        assert record["clicks"] == [row["clicks"] for row in rows]
        assert record["tags"] == [tag for row in rows for tag in row["tags"]]
        assert record["tags/lengths"] == [len(row["tags"]) for row in rows]
        for task in ("click", "like"):
            labels = [number(row[task]) for row in rows]
            np.testing.assert_array_equal(record[f"label/{task}"], labels)


@pytest.mark.parametrize("chunk_rows", [1, 16, 100_000])
@pytest.mark.parametrize("part", [5, 50])
def test_nothing_depends_on_chunks_parts_threads_or_order(
    tmp_path: Path, monkeypatch, chunk_rows, part
) -> None:
    data = frame(7)
    save(data, tmp_path / "in")
    plain = convert(config(tmp_path / "in"), SCHEMA, tmp_path / "plain")
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", part)
    monkeypatch.setattr(_log_steps, "_MOST_PARTS", 4)  # deals out again
    monkeypatch.setattr(work, "_MOST_THREADS", 1 if part == 5 else 3)
    shuffled = data.sample(frac=1, random_state=chunk_rows)
    for file in range(2):
        save(shuffled[file::2], tmp_path / "more", f"log-{file}.parquet", group=9)
    more, out = config(tmp_path / "more"), tmp_path / "out"
    assert convert(more, SCHEMA, out, chunk_rows=chunk_rows) == plain
    assert_same(out, tmp_path / "plain")


def test_rows_that_differ_in_little(tmp_path: Path) -> None:
    # Of rows that tie in stage, position and labels the same one stays in any order.
    row = {
        "request_id": "r", "time": 5, "user_id": "u", "hour": 1.0, "history": [],
        "doc_id": "d0", "stage": "exposed", "position": 0, "click": 1.0, "like": None,
    }  # fmt: skip
    rows = [
        {**row, "clicks": clicks, "tags": tags}
        for clicks, tags in itertools.product((1.0, 2.0), (["x"], ["y"], ["x", "y"]))
    ]
    rows += [{**row, "clicks": 3.0, "tags": ["x"], "doc_id": "d1"}]
    for turn in (0, 2, 5):
        save(pd.DataFrame(rows[turn:] + rows[:turn]), tmp_path / f"in{turn}")
        given = config(tmp_path / f"in{turn}", split=(1, 0, 0))
        report = convert(given, SCHEMA, tmp_path / f"out{turn}")
        assert report.rows_dropped == {"duplicate": 5}
        assert_same(tmp_path / f"out{turn}", tmp_path / "out0")


def test_columns_as_other_programs_write_them(tmp_path: Path) -> None:
    data = frame(3)
    save(data, tmp_path / "plain")
    wanted = convert(config(tmp_path / "plain"), SCHEMA, tmp_path / "one")
    table = pa.Table.from_pandas(data, preserve_index=False)
    kinds = {
        "request_id": pa.dictionary(pa.int32(), pa.string()),
        "user_id": pa.large_string(),
        "doc_id": pa.string_view(),
        "time": pa.timestamp("us", "UTC"),
        "hour": pa.float32(),
        "history": pa.large_list(pa.large_string()),
    }
    table = table.set_column(
        table.schema.get_field_index("time"),
        "time",
        pa.array([second * 1_000_000 for second in table["time"].to_pylist()]),
    )
    for name, kind in kinds.items():
        column = table[name]
        made = column.dictionary_encode() if name == "request_id" else column.cast(kind)
        table = table.set_column(table.schema.get_field_index(name), name, made)
    save(data, tmp_path / "other")
    pq.write_table(table, tmp_path / "other" / "log.parquet", row_group_size=30)
    assert convert(config(tmp_path / "other"), SCHEMA, tmp_path / "two") == wanted
    assert_same(tmp_path / "one", tmp_path / "two")


# What rows of a request share is kept once.


def test_of_a_chunk_a_request_is_kept_once(tmp_path: Path) -> None:
    data = frame(1).dropna(subset=["request_id"])
    for name in OF_REQUEST:
        first = data.groupby("request_id")[name].first()
        data[name] = data["request_id"].map(first)
    save(data, tmp_path)
    made, wanted = split_of(tmp_path)
    assert len(made.requests) == data["request_id"].nunique()
    assert len(made.rows) == len(data)
    # Each row finds its request.
    place = made.rows.column(_log_parts.REQUEST).to_numpy()
    names = made.requests.column("request_id").to_pylist()
    assert [names[row] for row in place] == data["request_id"].tolist()
    assert {"request_id", "hour", "history"} <= set(made.requests.schema.names)
    assert "history" not in made.rows.schema.names
    assert [item.source for item in wanted].count("history") == 1


def split_of(folder: Path):
    from tfrs_prerank.datasets import logs

    given = config(folder)
    (file,) = _log_rows.find_files(given.requests, "requests")
    wanted = logs._wanted(given.columns, SCHEMA, _log_rows.names_in(file))
    (piece,) = _log_rows.pieces(file, 1_000_000)
    (chunk,) = _log_rows.read_chunks(piece, wanted, 1_000_000)
    return _log_parts.split(chunk, wanted, pa.array(IDS), "|", file), wanted


VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(0, 2)), max_size=6),
    st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b"])), max_size=6),
    st.lists(st.one_of(st.none(), st.sampled_from([0.0, 1.5, math.nan])), max_size=6),
    st.lists(
        st.one_of(st.none(), st.lists(st.sampled_from(["a", "b"]), max_size=2)),
        max_size=6,
    ),
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_values_differ_as_python_says(values) -> None:
    array = pa.array(values)
    pairs = list(itertools.product(range(len(values)), repeat=2))
    left = np.array([pair[0] for pair in pairs], np.int64)
    right = np.array([pair[1] for pair in pairs], np.int64)

    def plain(value):
        if value is None and any(isinstance(v, list) for v in values):
            return "[]"  # a missing list has no values
        return repr(value)

    wanted = [plain(values[a]) != plain(values[b]) for a, b in pairs]
    assert _log_parts.differs(array, left, right).tolist() == wanted


def test_values_that_cannot_be_compared_all_differ() -> None:
    array = pa.array([{"a": 1}, {"a": 1}])
    rows = np.array([0, 1])
    assert _log_parts.differs(array, rows, rows[::-1]).tolist() == [True, True]
    # Zeros of another sign are other bytes.
    zeros = pa.array([0.0, -0.0])
    assert _log_parts.differs(zeros, rows, rows[::-1]).tolist() == [True, True]
    vectors = pa.array([[1.0, 2.0], [1.0, 2.0]], pa.list_(pa.float32(), 2))
    assert _log_parts.differs(vectors, rows, rows[::-1]).tolist() == [False, False]


def test_pieces_are_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pd.DataFrame({"x": range(95)}).to_parquet(path, row_group_size=10)
    pieces = _log_rows.pieces(path, 25)
    assert [piece.rows for piece in pieces] == [30, 30, 30, 5]
    assert [piece.row_groups for piece in pieces] == [
        (0, 1, 2),
        (3, 4, 5),
        (6, 7, 8),
        (9,),
    ]
    (tmp_path / "log.csv").write_text("x\n" + "1\n" * 1000)
    assert len(_log_rows.pieces(tmp_path / "log.csv", 5)) == 1


# Killed and resumed.

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.datasets import test_logs_at_size as test
from tfrs_prerank.datasets import _log_parts, _log_steps
_log_steps.ROWS_OF_A_PART = 20
deal_out, calls = _log_parts.deal_out, []

def killing(splits, *arguments, **options):
    calls.append(None)
    if len(calls) == 4:
        next(iter(splits))
        os.kill(os.getpid(), signal.SIGKILL)
    return deal_out(splits, *arguments, **options)

_log_parts.deal_out = killing
test.work._MOST_THREADS = 1
folder = Path({folder!r})
test.convert(test.config(folder / "in"), test.SCHEMA, folder / "out", chunk_rows=7)
"""


@pytest.mark.slow  # it starts a process with TensorFlow
def test_a_killed_conversion_goes_on(tmp_path: Path, monkeypatch) -> None:
    save(frame(5), tmp_path / "in", group=20)
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.run(
        [sys.executable, "-c", KILLED.format(root=root, folder=str(tmp_path))],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr[-3000:]
    left = tmp_path / ".tmp-out-log"
    assert not (tmp_path / "out").exists()
    assert len(list(left.glob("dealt/*.json"))) == 3
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 20)
    pieces = counted(monkeypatch, _log_parts, "deal_out")
    report = convert(config(tmp_path / "in"), SCHEMA, tmp_path / "out")
    assert len(pieces) == -(-len(frame(5)) // 20) - 3
    assert not left.exists()
    again = convert(config(tmp_path / "in"), SCHEMA, tmp_path / "fresh")
    assert report == again
    assert_same(tmp_path / "out", tmp_path / "fresh")


def counted(monkeypatch, module, name, fail_at=None):
    """Counts the calls of a function; one of them is interrupted."""
    function, calls = getattr(module, name), []

    def counting(*arguments, **options):
        calls.append(arguments)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counting)
    return calls


@pytest.mark.parametrize(
    ("module", "name", "kept"),
    [
        (_log_parts, "deal_out", (2, 0)),  # pieces, parts
        (_log_lists, "group", (9, 2)),
        (_log_lists, "times", None),
    ],
)
def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, monkeypatch, module, name, kept
) -> None:
    save(frame(5).iloc[:100], tmp_path / "in", group=12)  # 9 pieces and parts
    given = config(tmp_path / "in")
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 12)
    monkeypatch.setattr(work, "_MOST_THREADS", 1)
    with monkeypatch.context() as patch:
        dealt = counted(patch, _log_parts, "deal_out")
        grouped = counted(patch, _log_lists, "group")
        fresh = convert(given, SCHEMA, tmp_path / "fresh")
        all_calls = len(dealt), len(grouped)
    with monkeypatch.context() as patch:
        counted(patch, module, name, fail_at=3)
        with pytest.raises(KeyboardInterrupt):
            convert(given, SCHEMA, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    dealt = counted(monkeypatch, _log_parts, "deal_out")
    grouped = counted(monkeypatch, _log_lists, "group")
    assert convert(given, SCHEMA, tmp_path / "out") == fresh
    for calls, total, done in zip(
        (dealt, grouped), all_calls, kept or all_calls, strict=True
    ):
        assert len(calls) == total - done
    assert_same(tmp_path / "out", tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "in", "out"]


def interrupted(folder: Path, monkeypatch, given: LogsConfig) -> None:
    with monkeypatch.context() as patch:
        counted(patch, _log_lists, "times", fail_at=1)
        with pytest.raises(KeyboardInterrupt):
            convert(given, SCHEMA, folder / "out")
    assert (folder / ".tmp-out-log" / "lists.json").exists()


@pytest.mark.parametrize("what", ["configuration", "log files", "documents"])
def test_what_has_changed_starts_anew(tmp_path: Path, monkeypatch, what) -> None:
    save(frame(5), tmp_path / "in")
    given = config(tmp_path / "in")
    interrupted(tmp_path, monkeypatch, given)
    if what == "configuration":
        given = config(tmp_path / "in", min_documents=3)
    elif what == "log files":
        frame(6).to_parquet(tmp_path / "in" / "log.parquet")
    else:
        os.utime(tmp_path / "in" / "docs.parquet", (1, 1))
    grouped = counted(monkeypatch, _log_lists, "group")
    with pytest.warns(UserWarning, match=rf"with other {what}; starting anew$"):
        report = convert(given, SCHEMA, tmp_path / "out")
    assert len(grouped) == 1
    assert report == convert(given, SCHEMA, tmp_path / "fresh")
    assert_same(tmp_path / "out", tmp_path / "fresh")


def test_two_conversions_do_not_meet(tmp_path: Path, monkeypatch) -> None:
    save(frame(5), tmp_path / "in")
    given = config(tmp_path / "in")
    interrupted(tmp_path, monkeypatch, given)
    with (tmp_path / ".tmp-out-log" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match=r"another process is making .*out;"):
            convert(given, SCHEMA, tmp_path / "out")
    # What the other one holds is left alone.
    grouped = counted(monkeypatch, _log_lists, "group")
    convert(given, SCHEMA, tmp_path / "out")
    assert grouped == []


# What is refused.


def refused(folder: Path, given: LogsConfig, error, match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        convert(given, SCHEMA, folder / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["in"]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(frame(2), folder, "log-0.parquet")
    whole = (folder / "log-0.parquet").read_bytes()
    (folder / "log-1.parquet").write_bytes(whole[: len(whole) // 2])
    match = r"log-1\.parquet cannot be read: "
    refused(tmp_path, config(folder), ValueError, match)
    # The footer is whole, what it points at is not.
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    broken = b"PAR1" + b"\xff" * (len(whole) - footer - 4) + whole[-footer:]
    (folder / "log-1.parquet").write_bytes(broken)
    refused(tmp_path, config(folder), ValueError, match)


def test_a_log_without_rows_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(frame(2).iloc[:0], folder)
    assert pq.read_metadata(folder / "log.parquet").num_rows == 0
    match = r"requests: .*log\*\.parquet holds no row; give a log with requests in it"
    refused(tmp_path, config(folder), ValueError, match)
    # Beside a file with rows it does not matter.
    data = frame(2)
    kept = pa.Table.from_pandas(data, preserve_index=False)
    pq.write_table(kept.slice(0, 0), folder / "log.parquet")
    pq.write_table(kept, folder / "log-2.parquet")
    assert convert(config(folder), SCHEMA, tmp_path / "out").rows_read == len(data)


def test_files_of_other_columns(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    data = frame(2)
    save(data.drop(columns="stage"), folder, "log-0.parquet")
    save(data, folder, "log-1.parquet")
    # It is not taken for a log without stages.
    match = r"log-0\.parquet has no column 'stage' \(for stage\)"
    refused(tmp_path, config(folder), ValueError, match)
    save(data.assign(clicks="many"), folder, "log-0.parquet")
    match = r"log-0\.parquet: column 'clicks': float32 .* as 'many'"
    refused(tmp_path, config(folder), TypeError, match)
    # Integers will do where floats are declared.
    other = data[np.isfinite(data["clicks"])].astype({"clicks": int})
    save(other, folder, "log-0.parquet")
    report = convert(config(folder), SCHEMA, tmp_path / "out")
    assert report.rows_read == len(other) + len(data)


# Threads.


def test_results_come_in_the_order_of_the_tasks() -> None:
    after = threading.Event()

    def first(step):
        step()
        assert after.wait(10)  # the second runs beside it
        return "first"

    def second(step):
        after.set()
        return "second"

    assert work.in_threads([first, second], "testing", 2) == ["first", "second"]
    assert work.in_threads([], "testing", 0) == []


def test_an_error_ends_the_others() -> None:
    begun, ended = threading.Event(), []

    def failing(step):
        assert begun.wait(10)
        raise ValueError("one line")

    def endless(step):
        try:
            while True:
                begun.set()
                step()
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="one line"):
        work.in_threads([failing, endless, ended.append], "testing", 9)
    assert ended == [True]  # the third was never begun
