"""Converting your own logs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfrs_prerank import (
    Categorical,
    Dense,
    Match,
    Numeric,
    Schema,
    Sequence,
    Task,
    Text,
)
from tfrs_prerank.datasets import _log_lists, _log_parts, _log_rows, _log_steps
from tfrs_prerank.datasets.documents_file import read_documents, write_documents
from tfrs_prerank.datasets.logs import LogColumns, LogsConfig, convert
from tfrs_prerank.datasets.prepared import prepare
from tfrs_prerank.datasets.requests import read
from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.features import DocumentTable

SCHEMA = Schema(
    features=[
        Categorical("user_id", "query"),
        Text("query", "query", buckets=10),
        Sequence("history", shares="movie", max_length=3),
        Categorical("movie", "doc"),
        Categorical("genres", "doc", max_values=3),
        Numeric("price", "doc", standardize=True, point_in_time=True, missing=-1),
        Dense("cover", "doc", size=2),
        Numeric("co", "cross"),
        Match("genre_match", left="query", right="genres", op="overlap"),
    ],
    tasks=[Task("click"), Task("like")],
)
COLUMNS = LogColumns(
    request_id="sid",
    doc_id="item",
    group_id="user",
    stage="cascade",
    labels={"like": "liked"},
    weights={"click": "w"},
    features={"user_id": "user", "co": "co_count"},
    document_id="item",
    document_features={"movie": "item"},
)
DOCUMENTS = pd.DataFrame(
    {
        "item": ["a", "b", "c", "d"],
        "genres": [["War", "Drama"], ["War"], [], ["Comedy"]],
        "price": [9.0, 9.0, 9.0, None],
        "cover": [[1.0, 2.0], [3.0, 4.0], [], [5.0, 6.0]],
        "not_declared": [0, 0, 0, 0],
    }
)


def frame(requests=10):
    """One row for each (request, document): 3 candidates in each request."""
    rows = []
    for number in range(requests):
        for place, item in enumerate("abc"):
            rows.append(
                {
                    "sid": f"s{number}",
                    "user": f"u{number % 3}",
                    "time": 1000 + number,
                    "query": f"war {number}",
                    "history": ["d", "a"][: number % 3],
                    "item": item,
                    "cascade": ["exposed", "ranked", "catalog"][place],
                    "position": [0, None, None][place],
                    "price": [1.5, 2.5, None][place] if number else float(place),
                    "co_count": float(number + place),
                    "click": float(place == number % 3),
                    "liked": [1.0, 0.0, None][place],
                    "w": 1.0 + place,
                    "unused": "x",
                }
            )
    return pd.DataFrame(rows)


def save(data, path):
    if path.suffix == ".parquet":
        data.to_parquet(path)
    else:
        joined = data.copy()
        for name in ("history", "genres", "cover"):
            if name in joined:
                joined[name] = ["|".join(map(str, row)) for row in joined[name]]
        joined.to_csv(path, index=False)
    return str(path)


def converted(
    folder, data, *, kind="parquet", out="out", chunk_rows=100_000, **changes
):
    config = LogsConfig(
        requests=save(data, folder / f"log.{kind}"),
        documents=save(DOCUMENTS, folder / f"docs.{kind}"),
        **{"columns": COLUMNS, **changes},
    )
    report = convert(config, SCHEMA, folder / out, chunk_rows=chunk_rows)
    return report, folder / out


OF_REQUEST = ("request_id", "group_id", "time", "user_id", "query", "history")


def records(folder, split):
    """Reads a split back as {request: {document: {column: value}}}."""
    schema = Schema.from_yaml(folder / "schema.yaml")
    documents = read_documents(folder / "documents.parquet")
    options = {"schema": schema, "documents": documents, "batch_size": 100}
    found = {}
    for batch in read(folder, split, shuffle=False, **options):
        for row, name in enumerate(batch["request_id"].numpy()):
            per_document = found[name.decode()] = {}
            for place in range(int(batch["mask"][row].numpy().sum())):
                values = {
                    column: (
                        tensor[row] if column in OF_REQUEST else tensor[row, place]
                    )
                    for column, tensor in batch.items()
                }
                values = {column: value.numpy() for column, value in values.items()}
                per_document[values["doc_ids"].decode()] = values
    return found


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
def test_a_prepared_directory(tmp_path: Path, kind) -> None:
    report, folder = converted(tmp_path, frame(), kind=kind)
    assert report.rows_read == report.rows_written == 30
    assert report.requests_written == {"train": 8, "validation": 1, "test": 1}
    assert report.rows_dropped == report.requests_dropped == {}
    assert (report.validation_starts, report.test_starts) == (1008, 1009)
    assert report.documents == 4
    saved = json.loads((folder / "report.json").read_text())
    assert saved == json.loads(report.to_json())
    assert "requests written: train" in str(report)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "schema.yaml",
        "vocabularies",
        "statistics.json",
        "documents.parquet",
        "report.json",
        "train-00000-of-00001.tfrecord",
        "validation-00000-of-00001.tfrecord",
        "test-00000-of-00001.tfrecord",
    }
    # Users 0-2 are in training; u0 has requests 0, 3, 6, u1 1, 4, 7, u2 2, 5.
    users = (folder / "vocabularies" / "user_id.txt").read_text().split()
    assert users == ["u0", "u1", "u2"]
    # Training prices: 0, 1, 2 of request 0, then 1.5 and 2.5 seven times, the third
    # missing: (3 + 7 * 4) / 17. The snapshot of 9 is not among them.
    statistics = json.loads((folder / "statistics.json").read_text())
    assert statistics["price"]["mean"] == pytest.approx(31 / 17)
    # Nothing is left beside it.
    assert {path.name for path in tmp_path.iterdir()} == {
        f"log.{kind}",
        f"docs.{kind}",
        "out",
    }

    (record,) = records(folder, "validation").values()  # request 8
    a, b, c = record["a"], record["b"], record["c"]
    assert a["group_id"] == a["user_id"] == b"u2"
    assert a["time"] == 1008
    assert a["query"] == b"war 8"
    assert a["history"].tolist() == [b"d", b"a", b""]
    assert [x["stage"] for x in (a, b, c)] == [0, 1, 3]
    assert [x["position"] for x in (a, b, c)] == [0, -1, -1]
    assert [x["price"] for x in (a, b, c)] == [1.5, 2.5, -1.0]
    assert [x["co"] for x in (a, b, c)] == [8.0, 9.0, 10.0]
    assert [x["label/click"] for x in (a, b, c)] == [0.0, 0.0, 1.0]
    np.testing.assert_array_equal(
        [x["label/like"] for x in (a, b, c)], [1.0, 0.0, np.nan]
    )
    assert [x["weight/click"] for x in (a, b, c)] == [1.0, 2.0, 3.0]
    # Static columns come from the documents.
    assert a["movie"] == b"a"
    assert a["genres"].tolist() == [b"War", b"Drama", b""]
    assert [x["cover"].tolist() for x in (b, c)] == [[3.0, 4.0], [0.0, 0.0]]
    assert read_documents(folder / "documents.parquet").columns["price"].tolist() == [
        9.0,
        9.0,
        9.0,
        -1.0,
    ]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_order_of_rows_chunks_and_files_do_not_matter(
    tmp_path: Path, monkeypatch, kind
) -> None:
    data = pd.concat([frame(40), frame(40).iloc[5:9]])  # with duplicates
    report, plain = converted(tmp_path, data, kind=kind)
    assert report.rows_dropped == {"duplicate": 4}
    shuffled = data.sample(frac=1, random_state=3)
    again, folder = converted(
        tmp_path, shuffled, kind=kind, out="shuffled", chunk_rows=7
    )
    assert again == report
    assert files_of(folder) == files_of(plain)

    for part in range(2):
        save(shuffled.iloc[part::2], tmp_path / f"many-{part}.{kind}")
    config = LogsConfig(
        requests=str(tmp_path / f"many-*.{kind}"),
        documents=str(tmp_path / f"docs.{kind}"),
        columns=COLUMNS,
    )
    assert convert(config, SCHEMA, tmp_path / "many") == report
    assert files_of(tmp_path / "many") == files_of(plain)

    # Many parts too.
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 10)
    report_of_parts, folder = converted(tmp_path, shuffled, kind=kind, out="parts")
    assert report_of_parts == report
    assert files_of(folder) == files_of(plain)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_no_part_is_larger_than_the_bound(tmp_path: Path, monkeypatch, kind) -> None:
    # The guess for a CSV is far too small: its rows have some 60 bytes, not 200.
    data = frame(200)
    save(DOCUMENTS, tmp_path / f"docs.{kind}")
    report, plain = converted(tmp_path, data, kind=kind)
    sizes = []
    group = _log_lists.group

    def measured(chunks, *arguments):
        chunks = list(chunks)
        sizes.append(sum(len(chunk.rows) for chunk in chunks))
        return group(chunks, *arguments)

    monkeypatch.setattr(_log_lists, "group", measured)
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 20)
    monkeypatch.setattr(_log_steps, "_MOST_PARTS", 4)
    again, folder = converted(tmp_path, data, kind=kind, out="parts")
    assert again == report
    assert sum(sizes) == 600
    assert max(sizes) <= 2 * 20  # not 600 / 4
    assert files_of(folder) == files_of(plain)


def test_a_request_beyond_the_bound_stays_whole(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 1)
    report, folder = converted(tmp_path, frame(5), split=(1, 0, 0))
    assert report.rows_written == 15
    assert {len(record) for record in records(folder, "train").values()} == {3}


def test_parquet_and_csv_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "c").mkdir()
    _, one = converted(tmp_path / "p", frame())
    _, two = converted(tmp_path / "c", frame(), kind="csv")
    for split in ("train", "test"):
        np.testing.assert_equal(records(one, split), records(two, split))


def test_dropped_rows_are_counted_by_reason(tmp_path: Path) -> None:
    data = frame(10)
    data.loc[0, "sid"] = None  # s0 keeps b and c
    data.loc[4, "item"] = None  # s1 keeps a and c
    data["time"] = data["time"].astype(object)
    data.loc[7, "time"] = None  # s2 keeps a and c
    data["time"] = data["time"].astype("Int64")
    data.loc[9, "item"] = "unknown"  # s3
    data.loc[10, "cascade"] = "recall"  # s3 keeps c
    data.loc[12, "co_count"] = np.inf  # s4
    data.loc[13, "co_count"] = np.nan  # s4
    data.loc[14, "liked"] = -np.inf  # s4: nothing is left
    data.loc[15, "query"] = "another"  # s5: its rows disagree
    data.loc[[18, 19, 20], "click"] = 0.0  # s6: without a positive it stays
    data = pd.concat([data, data.iloc[[21]]])  # s7 has a twice
    report, _ = converted(tmp_path, data, min_documents=2)
    assert report.rows_read == 31
    assert report.rows_dropped == {
        "no_request_id": 1,
        "no_document_id": 1,
        "no_time": 1,
        "unknown_document": 1,
        "unknown_stage": 1,
        "missing_or_not_finite": 3,
        "duplicate": 1,
        "of_a_dropped_request": 1 + 3,  # the last row of s3, and s5
    }
    assert report.requests_dropped == {
        "no_usable_row": 1,
        "rows_disagree": 1,
        "under_min_documents": 1,
    }
    assert report.rows_written == 31 - 13 == 2 + 2 + 2 + 4 * 3
    # Seven are left, s0 s1 s2 s6 s7 s8 s9: .8 of 7 are 5, .9 are 6.
    assert report.requests_written == {"train": 5, "validation": 1, "test": 1}


def test_equal_numbers_agree_whatever_their_sign(tmp_path: Path) -> None:
    schema = Schema(
        features=[
            Numeric("lat", "query"),
            Dense("taste", "query", size=2),
            Categorical("movie", "doc"),
        ],
        tasks=[Task("click")],
    )
    columns = LogColumns(
        request_id="sid",
        doc_id="item",
        document_id="item",
        document_features={"movie": "item"},
    )
    data = frame(10).assign(lat=0.0)
    data["taste"] = [[0.0, 1.0]] * len(data)
    negative = data.assign(lat=-0.0)
    negative["taste"] = [[-0.0, 1.0]] * len(data)
    mixed = data.copy()
    mixed.loc[::2] = negative.loc[::2]
    made = []
    for name, log in (("one", data), ("two", mixed), ("three", negative)):
        config = LogsConfig(
            requests=save(log, tmp_path / f"{name}.parquet"),
            documents=save(DOCUMENTS, tmp_path / "docs.parquet"),
            columns=columns,
        )
        report = convert(config, schema, tmp_path / name)
        assert report.requests_dropped == {}
        made.append(files_of(tmp_path / name))
    assert made[0] == made[1] == made[2]


def test_of_duplicates_the_best_stays(tmp_path: Path) -> None:
    data = frame(10)
    other = data.iloc[[24, 24, 24]].copy()  # s8, document a, exposed at 0
    other["cascade"] = ["ranked", "exposed", "exposed"]
    other["position"] = [0.0, 3.0, 0.0]
    other["co_count"] = [101.0, 102.0, 103.0]
    other["click"] = [1.0, 1.0, 1.0]
    for name, table in (
        ("one", pd.concat([data, other])),
        ("two", pd.concat([other[::-1], data])),
    ):
        _, folder = converted(tmp_path, table, out=name)
        # Exposed at position 0 like the first, and with a click.
        assert records(folder, "validation")["s8"]["a"]["co"] == 103.0


def test_requests_of_one_second_stay_in_one_part(tmp_path: Path) -> None:
    data = frame(10)
    data["time"] = data["time"].clip(upper=1006)
    report, folder = converted(tmp_path, data)
    # Place 8 and place 9 are both second 1006: so is all from request 6 on.
    assert report.requests_written == {"train": 6, "validation": 0, "test": 4}
    assert set(records(folder, "test")) == {"s6", "s7", "s8", "s9"}


def test_given_boundaries_and_timestamps(tmp_path: Path) -> None:
    data = frame(10)
    data["time"] = pd.to_datetime(data["time"], unit="s", utc=True)
    report, _ = converted(tmp_path, data, boundaries=(1003, 1005))
    assert report.requests_written == {"train": 3, "validation": 2, "test": 5}
    data["time"] = data["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
    again, _ = converted(tmp_path, data, kind="csv", out="csv", boundaries=(1003, 1005))
    assert again == report


def test_other_columns_by_default(tmp_path: Path) -> None:
    schema = Schema(
        features=[Categorical("city", "query"), Numeric("price", "doc")],
        tasks=[Task("click")],
        doc_id="int64",
    )
    (tmp_path / "log.csv").write_text(
        "request_id,time,doc_id,city,click\n1,5,7,Rome,1\n1,5,8,Rome,\n2,6,7,Oslo,0\n"
    )
    (tmp_path / "docs.csv").write_text("doc_id,price\n7,1.5\n8,2.5\n")
    config = LogsConfig(
        requests=[str(tmp_path / "log.csv")],
        documents=str(tmp_path / "docs.csv"),
        split=(1, 0, 0),
    )
    report = convert(config, schema, tmp_path / "out")
    assert report.requests_written == {"train": 2, "validation": 0, "test": 0}
    assert report.validation_starts is report.test_starts is None
    documents = read_documents(tmp_path / "out" / "documents.parquet")
    saved = Schema.from_yaml(tmp_path / "out" / "schema.yaml")
    options = {"schema": saved, "documents": documents, "batch_size": 2}
    (batch,) = read(tmp_path / "out", "train", shuffle=False, **options)
    assert sorted(batch["doc_ids"][0].numpy().tolist()) == [7, 8]
    first = int(np.argmin(batch["doc_ids"][0]))
    np.testing.assert_array_equal(
        batch["label/click"][0].numpy()[[first, 1 - first]], [1, np.nan]
    )
    np.testing.assert_array_equal(batch["price"][0].numpy()[first], 1.5)
    np.testing.assert_array_equal(batch["group_id"], [b"", b""])
    np.testing.assert_array_equal(batch["stage"], [[0, 0], [0, -1]])


def test_the_times_of_a_history(tmp_path: Path) -> None:
    schema = Schema(
        features=[
            Categorical("city", "query"),
            Sequence(
                "seen",
                shares="item",
                max_length=3,
                encoder="transformer",
                positions="time_gap",
                times="seen_times",
            ),
            Categorical("item", "doc"),
        ],
        tasks=[Task("click")],
    )
    log = {"request_id": ["r"], "time": [50], "doc_id": ["a"], "city": ["Rome"]}
    log |= {"seen": [["b", "a"]], "seen_times": [[40, -1]], "click": [1.0]}
    pd.DataFrame(log).to_parquet(tmp_path / "log.parquet")
    table = {"doc_id": ["a", "b"], "item": ["a", "b"]}
    pd.DataFrame(table).to_parquet(tmp_path / "docs.parquet")
    config = LogsConfig(
        requests=str(tmp_path / "log.parquet"),
        documents=str(tmp_path / "docs.parquet"),
        split=(1, 0, 0),
    )
    convert(config, schema, tmp_path / "out")
    documents = read_documents(tmp_path / "out" / "documents.parquet")
    saved = Schema.from_yaml(tmp_path / "out" / "schema.yaml")
    options = {"schema": saved, "documents": documents, "batch_size": 1}
    (batch,) = read(tmp_path / "out", "train", shuffle=False, **options)
    assert batch["seen_times"].numpy().tolist() == [[40, -1, -1]]
    assert batch["time"].numpy().tolist() == [50]


def test_the_order_of_a_list_says_nothing(tmp_path: Path) -> None:
    _, folder = converted(tmp_path, frame(40), split=(1, 0, 0))
    orders = {tuple(record) for record in records(folder, "train").values()}
    assert len(orders) > 3  # of 6: neither the log's order nor that of the ids


def test_a_name_with_brackets_is_taken_as_it_is_first(tmp_path: Path) -> None:
    for name in ("exp[1]", "exp1"):
        (tmp_path / name).mkdir()
        for file in ("a[b].csv", "ab.csv", "c.csv"):
            (tmp_path / name / file).write_text("x\n1\n")

    def found(pattern):
        files = _log_rows.find_files(str(tmp_path / pattern), "requests")
        return [str(file.relative_to(tmp_path)) for file in files]

    assert found("exp[1]/a[b].csv") == ["exp[1]/a[b].csv"]
    assert found("exp[1]/c.csv") == ["exp[1]/c.csv"]
    # The folder is there, the rest is a pattern.
    assert found("exp[1]/[ac]*.csv") == [
        "exp[1]/a[b].csv",
        "exp[1]/ab.csv",
        "exp[1]/c.csv",
    ]
    assert found("exp?/c.csv") == ["exp1/c.csv"]
    assert found("**/c.csv") == ["exp1/c.csv", "exp[1]/c.csv"]
    assert found("exp[12]/[a]*.csv") == ["exp1/a[b].csv", "exp1/ab.csv"]
    with pytest.raises(FileNotFoundError, match=r"no file at .*exp\[1\]/d\*\.csv"):
        found("exp[1]/d*.csv")


# What is refused.


def broken(change):
    data = frame()
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (frame().drop(columns="co_count"), ValueError, "no column 'co_count'.*for co"),
        (
            frame().rename(columns={"query": "qurey"}),
            ValueError,
            "did you mean 'qurey'",
        ),
        (frame().assign(user=5), TypeError, "'user': strings are declared. .* as 5"),
        (frame().assign(co_count="x"), TypeError, "'co_count': float32 .* such as 'x'"),
        (frame().assign(history=7), TypeError, "'history': lists are declared"),
        (frame().assign(time="noon"), TypeError, "'time': a time in seconds"),
        (
            frame().iloc[:0],
            ValueError,
            r"requests: .*log.parquet holds no row; give a log with requests",
        ),
        (
            frame().assign(position=2**31),
            ValueError,
            r"'position': places up to 2147483647 are wanted. Received: 2147483648; "
            "correct the cell",
        ),
        (frame().assign(item="z"), ValueError, "{'unknown_document': 30}"),
    ],
)
def test_a_bad_log_is_refused(tmp_path: Path, data, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        converted(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"log.parquet", "docs.parquet"}


def test_a_bad_cell_of_a_csv_is_named(tmp_path: Path) -> None:
    data = frame().astype({"co_count": object})
    data.loc[3, "co_count"] = "many"
    match = r"log.csv: column 'co_count': float32 numbers .*'many'"
    with pytest.raises(ValueError, match=match) as caught:
        converted(tmp_path, data, kind="csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item": ["a", "a", "c", "d"]}, "document id 'a' is in the table 2 times"),
        ({"item": ["a", "b\tb", "c", "d"]}, "'b\\\\tb' is empty or holds a tab"),
        ({"cover": [[1.0, 2.0]] * 3 + [[1.0]]}, "'d' has wrong vector length"),
        ({"price": [1.0, 2.0, np.inf, 4.0]}, "'c' has missing or not finite"),
    ],
)
def test_bad_documents_are_refused(
    tmp_path: Path, monkeypatch, changes, message
) -> None:
    monkeypatch.setitem(globals(), "DOCUMENTS", DOCUMENTS.assign(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        converted(tmp_path, frame())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_configuration_is_refused(tmp_path: Path) -> None:
    def read_config(**changes):
        value = {"requests": "r.csv", "documents": "d.csv", **changes}
        return from_mapping(LogsConfig, value, "config.yaml")

    with pytest.raises(ConfigurationError, match="did you mean 'separator'"):
        read_config(seperator=",")
    with pytest.raises(ConfigurationError, match="shares that sum to 1"):
        read_config(split=[0.5, 0.1, 0.1])
    with pytest.raises(ConfigurationError, match="boundaries must ascend"):
        read_config(boundaries=[5, 4])
    with pytest.raises(ConfigurationError, match="min_documents must be at least 1"):
        read_config(min_documents=0)
    with pytest.raises(FileNotFoundError, match=r"requests: no file at r\.csv"):
        convert(read_config(), SCHEMA, tmp_path / "out")
    for where, mapping, message in (
        (
            "labels",
            {"clik": "x"},
            "columns.labels: unknown 'clik'; did you mean 'click'",
        ),
        ("features", {"pryce": "x"}, "columns.features: unknown 'pryce'; .*'price'"),
        ("features", {"genres": "x"}, "unknown 'genres'.*: document_features"),
        ("document_features", {"co": "x"}, "columns.document_features: unknown 'co'"),
    ):
        config = read_config(columns={where: mapping})
        with pytest.raises(ConfigurationError, match=message):
            convert(config, SCHEMA, tmp_path / "out")
    config = read_config(columns={"labels": {"click": "x"}}, split=[0.7, 0.2, 0.1])
    assert from_mapping(LogsConfig, to_mapping(config), "again") == config


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(FileExistsError, match="exists; remove it"):
        converted(tmp_path, frame())
    assert files_of(tmp_path / "out") == {"mine": b"kept"}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    save(DOCUMENTS, tmp_path / "docs.parquet")
    config = LogsConfig(
        requests=str(tmp_path / "bad.parquet"), documents=str(tmp_path / "docs.parquet")
    )
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read") as caught:
        convert(config, SCHEMA, tmp_path / "out")
    assert "\n" not in str(caught.value)


# Parts of it.


def test_hashes_are_the_same_in_every_process() -> None:
    values = np.array(["a", "b", "a"], object)
    hashes = _log_parts.hashes(values)
    assert hashes[0] == hashes[2] != hashes[1]
    # Golden, since files written today must be those written tomorrow.
    assert hashes[0] == np.uint64(13950350942979735504)


def test_documents_round_trip(tmp_path: Path) -> None:
    table = DocumentTable(
        np.array(["a", "b"]),
        {
            "title": np.array(["x", "é"], object),
            "tags": [["t"], []],
            "bytes": [[b"t"], [b"u"]],
            "year": np.array([1990, -1]),
            "cover": np.array([[1, 2], [3, 4]], np.float32),
            "padded": np.array([["a", ""], ["b", "c"]]),
        },
    )
    write_documents(table, tmp_path / "d.parquet")
    again = read_documents(tmp_path / "d.parquet")
    assert again.ids.tolist() == ["a", "b"]
    assert again.columns["title"].tolist() == ["x", "é"]
    assert again.columns["tags"] == [["t"], []]
    assert again.columns["bytes"] == [["t"], ["u"]]
    assert again.columns["year"].dtype == np.int64
    np.testing.assert_array_equal(again.columns["cover"], table.columns["cover"])
    assert again.columns["cover"].dtype == np.float32
    assert again.columns["padded"].tolist() == [["a", ""], ["b", "c"]]
    with pytest.raises(FileNotFoundError, match="no documents table at"):
        read_documents(tmp_path / "nowhere.parquet")
    with pytest.raises(TypeError, match="documents column 'mixed'"):
        bad = DocumentTable(np.array(["a", "b"]), {"mixed": ["x", 1]})
        write_documents(bad, tmp_path / "bad.parquet")
    assert not (tmp_path / "bad.parquet").exists()


def test_prepare_leaves_nothing_behind(tmp_path: Path) -> None:
    schema = Schema(
        features=[Categorical("user_id", "query"), Numeric("price", "doc")],
        tasks=[Task("click")],
    )
    documents = DocumentTable(np.array(["a"]), {"price": [1.0]})
    good = {"user_id": "u", "doc_ids": ["a"], "label/click": [1]}
    bad = {**good, "doc_ids": ["z"]}
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match="document 'z' is not in the documents table"):
        prepare(schema, [good], [good], [bad], documents, folder)
    with pytest.raises(TypeError, match=r"give a list\. Received: generator"):
        prepare(schema, (r for r in [good]), [good], [good], documents, folder)
    with pytest.raises(ValueError, match="no training request"):
        prepare(schema, [], [good], [good], documents, folder)
    assert list(tmp_path.iterdir()) == []
    saved = prepare(schema, [good], [], [], documents, folder, shards=2)
    assert saved["user_id"].vocabulary == str(folder / "vocabularies" / "user_id.txt")
    assert (folder / "train-00001-of-00002.tfrecord").is_file()
    folder.rename(tmp_path / "moved")  # paths are relative
    moved = Schema.from_yaml(tmp_path / "moved" / "schema.yaml")
    assert Path(moved["user_id"].vocabulary).read_text() == "u\n"
