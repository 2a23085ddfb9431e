"""Writing and reading requests: contract, round trip, order, errors, training."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import four_replicas
from tfrs_prerank import (
    Categorical,
    Dense,
    Match,
    Numeric,
    PreRanker,
    Schema,
    Sequence,
    Task,
    Text,
    Tower,
)
from tfrs_prerank.datasets.requests import (
    count_records,
    read,
    reader_message,
    write,
)
from tfrs_prerank.features import DocumentTable

SCHEMA = Schema(
    features=[
        Categorical("user_id", "query", buckets=10),
        Categorical("tags", "query", buckets=10, max_values=3),
        Dense("taste", "query", size=2),
        Sequence("history", shares="movie_id", max_length=4),
        Categorical("movie_id", "doc", buckets=10),
        Categorical("genres", "doc", buckets=10, max_values=2),
        Text("title", "doc", buckets=10),
        Numeric("born", "doc", dtype="int64"),
        Dense("cover", "doc", size=2),
        Numeric("clicks", "doc", point_in_time=True),
        Categorical("badges", "doc", buckets=10, max_values=2, point_in_time=True),
        Numeric("co_likes", "cross"),
        Categorical("terms", "cross", buckets=10, dtype="int64", max_values=2),
        Dense("pair", "cross", size=2),
        Categorical("position", "doc", buckets=9, dtype="int64", training_only=True),
        Match("age", left="time", right="born", op="difference"),
    ],
    tasks=[Task("click"), Task("like")],
)
DOCUMENTS = DocumentTable(
    np.array(["a", "b", "c"]),
    {
        "movie_id": ["A", "B", "C"],
        "genres": [["War"], [], ["War", "Drama", "cut off"]],
        "title": ["Film A", "Film B", ""],
        "born": [10, 20, -1],
        "cover": np.array([[1, 2], [3, 4], [0, 0]], np.float32),
        # Snapshots of after the requests; training must not see them.
        "clicks": [100.0, 100.0, 100.0],
        "badges": [["new"], ["new"], ["new"]],
        "unused": [0, 0, 0],
    },
)


SMALL = Schema(
    features=[
        Categorical("user_id", "query", buckets=10),
        Categorical("movie_id", "doc", buckets=10),
        Numeric("clicks", "doc", point_in_time=True),
    ],
    tasks=[Task("click")],
)
SMALL_DOCUMENTS = DocumentTable(
    np.array(["a", "b", "c"]),
    {"movie_id": ["A", "B", "C"], "clicks": [0.0, 0.0, 0.0]},
)


def small_requests(count):
    rng = np.random.default_rng(5)
    for number in range(count):
        ids = rng.permutation(list("abc"))[: rng.integers(1, 4)]
        yield {
            "request_id": f"r{number}",
            "user_id": f"u{number % 4}",
            "doc_ids": ids,
            "clicks": rng.random(len(ids)),
            "label/click": rng.integers(0, 2, len(ids)),
        }


def request(name="r1", ids=("b", "a", "c"), **changes):
    count = len(ids)
    columns = {
        "request_id": name,
        "group_id": "u1",
        "time": 1_700_000_000,
        "user_id": "u1",
        "tags": ["x"],
        "taste": [0.5, -0.5],
        "history": ["A", "B"],
        "doc_ids": list(ids),
        "clicks": [float(i) for i in range(count)],
        "badges": [["old", "x"][: i % 3] for i in range(count)],
        "co_likes": np.arange(count) / 4,
        "terms": [[7, 8, 9][: i % 4] for i in range(count)],
        "pair": np.arange(2 * count).reshape(count, 2),
        "label/click": [1.0] + [0.0] * (count - 1),
        "label/like": [math.nan] * count,
        "position": list(range(count)),
    }
    return {**columns, **changes}


def written(folder, requests, **options):
    schema = options.pop("schema", SCHEMA)
    documents = options.pop("documents", DOCUMENTS)
    write(folder, "train", schema, requests, shards=options.pop("shards", 1))
    options.setdefault("batch_size", 8)
    return read(folder, "train", schema=schema, documents=documents, **options)


def padded(rows, length, pad):
    """Cuts and fills up lists one value at a time."""
    made = []
    for row in rows:
        row = list(row)[:length]
        made.append(row + [pad] * (length - len(row)))
    return made


def test_a_batch_has_every_column_typed_and_padded(tmp_path: Path) -> None:
    requests = [
        request(),
        request("r2", ("a",), tags=[], history=["C", "B", "A", "B", "cut"]),
    ]
    (batch,) = written(tmp_path, requests, shuffle=False)
    expected = {
        "request_id": np.array([b"r1", b"r2"], object),
        "group_id": np.array([b"u1", b"u1"], object),
        "time": np.array([1_700_000_000] * 2),
        "user_id": np.array([b"u1", b"u1"], object),
        "tags": np.array(padded([[b"x"], []], 3, b""), object),
        "taste": np.array([[0.5, -0.5]] * 2, np.float32),
        "history": np.array(
            padded([[b"A", b"B"], [b"C", b"B", b"A", b"B", b"cut"]], 4, b""), object
        ),
        "doc_ids": np.array([[b"b", b"a", b"c"], [b"a", b"", b""]], object),
        "mask": np.array([[True, True, True], [True, False, False]]),
        # From the record, never from the table's snapshot.
        "clicks": np.array([[0, 1, 2], [0, 0, 0]], np.float32),
        "badges": np.array(
            [padded([[], [b"old"], [b"old", b"x"]], 2, b""), [[b"", b""]] * 3], object
        ),
        "co_likes": np.array([[0, 0.25, 0.5], [0, 0, 0]], np.float32),
        "terms": np.array([padded([[], [7], [7, 8]], 2, -1), [[-1, -1]] * 3]),
        "pair": np.array([[[0, 1], [2, 3], [4, 5]], [[0, 1], [0, 0], [0, 0]]], "f"),
        "label/click": np.array([[1, 0, 0], [1, 0, 0]], np.float32),
        "label/like": np.array([[math.nan] * 3, [math.nan, 0, 0]], np.float32),
        "position": np.array([[0, 1, 2], [0, -1, -1]], np.int32),
        # Not in the files: exposed, and -1 where there is no document.
        "stage": np.array([[0, 0, 0], [0, -1, -1]], np.int32),
        # From the documents table.
        "movie_id": np.array([[b"B", b"A", b"C"], [b"A", b"", b""]], object),
        "genres": np.array(
            [
                padded([[], [b"War"], [b"War", b"Drama"]], 2, b""),
                padded([[b"War"], [], []], 2, b""),
            ],
            object,
        ),
        "title": np.array([[b"Film B", b"Film A", b""], [b"Film A", b"", b""]], object),
        "born": np.array([[20, 10, -1], [10, -1, -1]]),
        "cover": np.array([[[3, 4], [1, 2], [0, 0]], [[1, 2], [0, 0], [0, 0]]], "f"),
    }
    assert set(batch) == set(expected)
    for name, values in expected.items():
        assert batch[name].numpy().dtype == values.dtype, name
        np.testing.assert_array_equal(batch[name].numpy(), values, err_msg=name)


def test_static_shapes_are_those_of_the_contract(tmp_path: Path) -> None:
    spec = written(tmp_path, [request()])(0).element_spec
    shapes = {name: column.shape.as_list() for name, column in spec.items()}
    assert shapes["user_id"] == shapes["time"] == shapes["request_id"] == [None]
    assert shapes["tags"] == [None, 3]
    assert shapes["history"] == [None, 4]
    assert shapes["taste"] == [None, 2]
    for name in ("doc_ids", "mask", "clicks", "title", "born", "stage", "label/click"):
        assert shapes[name] == [None, None], name
    for name in ("genres", "cover", "badges", "terms", "pair"):
        assert shapes[name] == [None, None, 2], name


def test_optional_columns_come_through(tmp_path: Path) -> None:
    more = {
        "stage": [3, 0, 1],
        "log_q": [-0.5, 0.0, -2.0],
        "weight/click": [1.0, 2.0, math.nan],
        "teacher/like": [0.5, math.nan, -3.0],
        "label/out_of_scene": [0, 1, 0],
    }
    (batch,) = written(tmp_path, [request(**more)])
    for name, values in more.items():
        np.testing.assert_array_equal(batch[name], [values])
    assert batch["stage"].dtype == tf.int32
    assert batch["teacher/like"].dtype == tf.float32


def test_integer_ids(tmp_path: Path) -> None:
    schema = Schema(
        features=[
            Numeric("age", "query"),
            Numeric("price", "doc"),
        ],
        tasks=[Task("click")],
        doc_id="int64",
    )
    documents = DocumentTable(np.array([7, 2**40]), {"price": [1.5, 2.5]})
    requests = [
        {"age": 30, "doc_ids": np.array([2**40, 7]), "label/click": [True, False]},
        {"age": 31, "doc_ids": [7], "label/click": [0]},
    ]
    options = {"schema": schema, "documents": documents, "shuffle": False}
    (batch,) = written(tmp_path, requests, **options)
    np.testing.assert_array_equal(batch["doc_ids"], [[2**40, 7], [7, -1]])
    np.testing.assert_array_equal(batch["price"], [[2.5, 1.5], [1.5, 0.0]])
    np.testing.assert_array_equal(batch["label/click"], [[1, 0], [0, 0]])
    # Nothing of these was given.
    np.testing.assert_array_equal(batch["time"], [0, 0])
    np.testing.assert_array_equal(batch["group_id"], [b"", b""])
    np.testing.assert_array_equal(batch["position"], [[-1, -1], [-1, -1]])


_names = st.text(st.characters(codec="utf-8"), max_size=3)
_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def _requests(draw):
    ids = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    count = len(ids)

    def lists(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    return request(
        draw(_names),
        ids,
        user_id=draw(_names),
        tags=draw(st.lists(_names, max_size=3)),
        clicks=lists(_floats),
        badges=lists(st.lists(_names, max_size=2)),
        terms=lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=2)),
    )


@pytest.fixture(scope="module")
def round_trips(tmp_path_factory):
    """Writes three requests and reads them, by a dataset that is made once."""
    folder = tmp_path_factory.mktemp("round_trips")
    reader = written(folder, [request()] * 3, batch_size=2, shuffle=False)
    dataset = reader(0)

    def there_and_back(requests):
        (path,) = folder.iterdir()
        path.unlink()
        write(folder, "train", SCHEMA, requests, documents=DOCUMENTS)
        return list(dataset)

    return there_and_back


@settings(max_examples=25, deadline=None)
@given(requests=st.lists(_requests(), min_size=3, max_size=3))
def test_round_trip(round_trips, requests) -> None:
    batches = round_trips(requests)
    rows = [
        {name: column[row].numpy() for name, column in batch.items()}
        for batch in batches
        for row in range(len(batch["mask"]))
    ]
    assert len(rows) == len(requests)
    for row, wanted in zip(rows, requests, strict=True):
        count = len(wanted["doc_ids"])
        assert row["mask"].sum() == count
        assert row["request_id"].decode() == wanted["request_id"]
        assert row["user_id"].decode() == wanted["user_id"]
        assert [v.decode() for v in row["tags"]] == padded([wanted["tags"]], 3, "")[0]
        assert row["clicks"][:count].tolist() == wanted["clicks"]
        assert row["terms"][:count].tolist() == padded(wanted["terms"], 2, -1)
        badges = [[v.decode() for v in of_doc] for of_doc in row["badges"][:count]]
        assert badges == padded(wanted["badges"], 2, "")
        assert not row["clicks"][count:].any()


# Order.


def order(reader, epoch):
    return [
        name.decode() for batch in reader(epoch) for name in batch["request_id"].numpy()
    ]


@pytest.mark.parametrize(("shards", "block"), [(1, 100), (3, 7)])
def test_the_order_is_a_function_of_seed_and_epoch(tmp_path, shards, block) -> None:
    names = [f"r{i}" for i in range(30)]
    write(tmp_path, "train", SMALL, small_requests(30), shards=shards)

    def reader(seed=0):
        return read(
            tmp_path,
            "train",
            schema=SMALL,
            documents=SMALL_DOCUMENTS,
            batch_size=8,
            seed=seed,
            shuffle_block=block,
        )

    one = reader()
    assert (one.num_requests, len(one)) == (30, 4)
    assert one(0).cardinality().numpy() == 4
    first, second = order(one, 0), order(one, 1)
    assert sorted(first) == sorted(second) == sorted(names)
    assert len({tuple(names), tuple(first), tuple(second)}) == 3
    assert order(reader(seed=1), 0) != first

    tf.random.set_seed(1)  # must not matter
    # As the models call it: the epoch is known only when an iteration starts.
    epoch = tf.Variable(1, dtype=tf.int64)
    again = reader()
    late = tf.data.Dataset.from_tensors(0).flat_map(lambda _: again(epoch.read_value()))
    assert order(lambda _: late, None) == second
    epoch.assign(0)
    assert order(lambda _: late, None) == first


def test_without_shuffling_the_order_is_that_of_writing(tmp_path: Path) -> None:
    write(tmp_path, "train", SMALL, small_requests(10), shards=3)
    options = {"schema": SMALL, "documents": SMALL_DOCUMENTS, "batch_size": 4}
    reader = read(tmp_path, "train", shuffle=False, **options)
    assert order(reader, 0) == order(reader, 5) == [f"r{i}" for i in range(10)]


def test_documents_are_captured_not_copied_into_the_graph(tmp_path: Path) -> None:
    count = 50_000
    columns = {
        "movie_id": [f"m{i}" for i in range(count)],
        "genres": [["War"]] * count,
        "title": ["a title of some length"] * count,
        "born": np.zeros(count, np.int64),
        "cover": np.zeros((count, 2), np.float32),
        "clicks": np.zeros(count),
        "badges": [[]] * count,
    }
    documents = DocumentTable(np.array([f"d{i}" for i in range(count)]), columns)
    reader = written(tmp_path, [request(ids=("d1", "d49999"))], documents=documents)
    parse = tf.function(reader._parse).get_concrete_function(
        tf.TensorSpec([None], tf.string)
    )
    assert parse.graph.as_graph_def().ByteSize() < 200_000
    dataset = reader(0)
    del reader  # the dataset keeps table and lookup alive
    (batch,) = dataset
    assert batch["movie_id"].numpy().tolist() == [[b"m1", b"m49999"]]


# What is refused when it is written.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": None}, "column 'user_id': strings .* Received: None"),
        ({"user_id": 5}, "column 'user_id': strings .* Received: 5 of type int"),
        ({"user_id": ["u"]}, "column 'user_id': one value is declared"),
        ({"tags": "x"}, "column 'tags': a list is declared. Received: 'x'"),
        ({"tags": [3]}, "column 'tags': strings are declared .* Received: 3"),
        ({"taste": [1.0]}, "column 'taste': vectors of 2 are declared. .* one of 1"),
        ({"taste": [1, math.inf]}, "column 'taste' holds inf at 1; replace missing"),
        (
            {"clicks": [1, 2, math.nan]},
            "'clicks' holds nan at 2; .*declare it as",
        ),
        ({"clicks": [1, 2, 1e39]}, "column 'clicks' holds inf at 2"),
        ({"clicks": [1, 2]}, "column 'clicks' has 2 values, but 'doc_ids' has 3"),
        ({"clicks": [1, "2", 3]}, "column 'clicks': numbers .* Received: '2' of type"),
        (
            {"clicks": np.zeros((3, 1))},
            "column 'clicks': one value .* shape",
        ),
        ({"badges": [[], []]}, "column 'badges' has 2 values, but 'doc_ids' has 3"),
        ({"badges": ["a", "b", "c"]}, "column 'badges': a list .* Received: 'a'"),
        ({"pair": [[1, 2]] * 2 + [[1]]}, "column 'pair': vectors of 2 .* one of 1"),
        ({"terms": [[1.0], [], []]}, "column 'terms': integers .* Received: 1.0"),
        ({"terms": [[2**63], [], []]}, "column 'terms': 9223372036854775808 does not"),
        ({"time": 1.5}, "column 'time': integers .* Received: 1.5 of type float"),
        ({"doc_ids": []}, "column 'doc_ids' is empty"),
        ({"doc_ids": ["a", "", "c"]}, "column 'doc_ids' holds '', the pad value"),
        ({"doc_ids": ["a", "b", "a"]}, "column 'doc_ids' holds 'a' 2 times"),
        (
            {"doc_ids": [1, 2, 3]},
            "column 'doc_ids': strings .* Received: 1 of type",
        ),
        ({"doc_ids": ["a", "z", "c"]}, "document 'z' is not in the documents table"),
        ({"label/click": [1, 0, math.inf]}, "column 'label/click' holds inf at 2"),
        ({"weight/click": [1, -1, 1]}, "column 'weight/click' holds -1.0 at 1"),
        ({"teacher/click": [math.inf, 0, 0]}, "column 'teacher/click' holds inf at 0"),
        ({"log_q": [0, 0, math.nan]}, "column 'log_q' holds nan at 2"),
        ({"stage": [0, 5, 0]}, "column 'stage' holds 5 at 1; use a code of"),
        ({"stage": ["exposed"] * 3}, "column 'stage': integers .* Received: 'exposed'"),
        ({"position": [0, 1, -2]}, "column 'position' holds -2 at 2"),
        ({"clicsk": [1, 2, 3]}, "'clicsk' is not in the schema; .* 'clicks'\\?"),
        ({"title": ["x"] * 3}, "'title' is a static document column, which comes from"),
        ({"mask": [True] * 3}, "column 'mask' is not in the schema"),
    ],
)
def test_a_bad_request_is_refused(tmp_path: Path, changes, message) -> None:
    good, bad = request("fine"), request("r9", **changes)
    if set(good) != set(bad):  # optional columns are in all requests or in none
        good.update({name: [0, 0, 0] for name in bad if name not in good})
        good = {name: good[name] for name in bad if name in good}
    requests = [bad] if "schema" in message or "static" in message else [good, bad]
    with pytest.raises(
        (ValueError, TypeError), match=f"^request 'r9': .*{message}"
    ) as e:
        write(tmp_path, "train", SCHEMA, requests, documents=DOCUMENTS)
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    bad = request()
    bad["clickz"] = bad.pop("clicks")
    match = "request 'r1': column 'clicks' is missing; did you mean 'clickz'\\?"
    with pytest.raises(ValueError, match=match):
        write(tmp_path, "train", SCHEMA, [bad])
    for name in ("time", "position", "label/like", "doc_ids"):
        bad = request()
        del bad[name]
        with pytest.raises(ValueError, match=f"column '{name}' is missing"):
            write(tmp_path, "train", SCHEMA, [bad])
    bad = request()
    del bad["request_id"], bad["user_id"]
    with pytest.raises(ValueError, match="request number 0: column 'user_id'"):
        write(tmp_path, "train", SCHEMA, [bad])


def test_requests_of_a_split_have_the_same_columns(tmp_path: Path) -> None:
    weighed = request("r2", **{"weight/click": [1, 1, 1]})
    match = "request 'r2': has column 'weight/click', which the requests before it lack"
    with pytest.raises(ValueError, match=match):
        write(tmp_path, "train", SCHEMA, [request(), weighed])


def test_an_earlier_split_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request()], shards=2)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert before == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]
    with pytest.raises(FileExistsError, match="remove the files of split 'train'"):
        write(tmp_path, "train", SCHEMA, [request()])
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# What is refused when it is read.


def opened(folder, split="train", **changes):
    options = {"schema": SCHEMA, "documents": DOCUMENTS, "batch_size": 2, **changes}
    return read(folder, split, **options)


def test_a_truncated_file_is_found_before_training(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request(f"r{i}") for i in range(3)])
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    assert count_records(path) == 3
    for size in (len(data) - 1, len(data) - 20, 5):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError) as error:
            opened(tmp_path)
        message = str(error.value)
        assert str(path) in message
        assert "is cut off or no TFRecord file: record" in message
        assert message.endswith("copy or write the file again")
        assert "\n" not in message


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no files train-\*.* holds: nothing"):
        opened(tmp_path)
    write(tmp_path, "train", SCHEMA, [request()], shards=2)
    with pytest.raises(FileNotFoundError, match="holds: train-00000-of-00002"):
        opened(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="no folder at"):
        opened(tmp_path / "nowhere")
    (tmp_path / "train-00001-of-00002.tfrecord").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file at .*train-00001-of"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="name the split"):
        opened(tmp_path, None)


def test_a_split_without_requests_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "test", SCHEMA, [])
    with pytest.raises(ValueError, match="hold no request"):
        opened(tmp_path, "test")


def test_files_that_lack_a_column_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request()])
    features = [*SCHEMA.features, Numeric("co_like", "cross")]
    schema = Schema(features=features, tasks=SCHEMA.tasks)
    match = "has no column 'co_like'.*did you mean 'co_likes'"
    with pytest.raises(ValueError, match=match):
        opened(tmp_path, schema=schema)


def test_documents_of_another_type_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request()])
    numbered = DocumentTable(np.array([1, 2, 3]), DOCUMENTS.columns)
    with pytest.raises(TypeError, match=r"doc_id='string'.* int64 ids, such as 1"):
        opened(tmp_path, documents=numbered)


def test_an_unknown_document_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request("r0"), request("r1", ("a", "z"))])
    match = "^request r1: document z is not in the documents table; add it there"
    with pytest.raises(ValueError, match=match) as error:
        list(opened(tmp_path, shuffle=False))
    assert "\n" not in str(error.value)


# Brackets, quotes, backslashes, letters beyond ASCII, line ends.
ODD_IDS = ["r[1]] [x", "a\"b'c", "\\x \\u \\", "é中", "two\nlines"]


@pytest.mark.parametrize("odd", ODD_IDS)
def test_a_readers_message_is_found_whatever_the_ids_hold(tmp_path: Path, odd) -> None:
    requests = [request(odd, ("a", odd))]
    reader = written(tmp_path, requests, shuffle=False)
    shown = odd.replace("\n", " ")
    expected = (
        f"request {shown}: document {shown} is not in the documents table; "
        "add it there or leave it out"
    )
    with pytest.raises(ValueError) as caught:
        list(reader)
    assert str(caught.value) == expected
    # Within a training step TensorFlow puts other words around it.
    step = tf.function(lambda batches: next(batches)["mask"])
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        step(iter(reader(0)))
    assert reader_message(error.value) == expected


def test_bytes_that_are_no_text_do_not_hide_a_readers_message(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^request r1: document � is not in the"):
        list(written(tmp_path, [request(ids=("a", b"\xff"))]))


def test_other_errors_are_not_a_readers() -> None:
    @tf.function
    def other():
        tf.debugging.Assert(False, ["request r1: not ours"])

    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        other()
    assert "assertion failed: [request r1: not ours]" in error.value.message
    assert reader_message(error.value) is None
    assert reader_message(ValueError("request r1: is short")) is None


def test_a_request_without_a_document_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request("r0"), request("r1")])
    path = tmp_path / "train-00000-of-00001.tfrecord"
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(records[1])
    for name, column in SCHEMA.columns().items():
        if column.owner != "query" and name in example.features.feature:
            example.features.feature[name].Clear()
    for name in ("doc_ids", "label/click", "label/like", "position"):
        example.features.feature[name].Clear()
    for name in ("badges", "terms", "pair"):
        example.features.feature[f"{name}/lengths"].Clear()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(records[0])
        writer.write(example.SerializeToString())
    match = "^request r1: has no document; leave it out of the data$"
    with pytest.raises(ValueError, match=match):
        list(opened(tmp_path))


def test_columns_of_different_lengths_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train", SCHEMA, [request("r0")])
    path = tmp_path / "train-00000-of-00001.tfrecord"
    (record,) = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
    example = tf.train.Example.FromString(record)
    example.features.feature["clicks"].float_list.value.append(1.0)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(ValueError, match="request r0: column clicks has not one"):
        list(opened(tmp_path))


# Training.


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write(folder, "train", SMALL, small_requests(30), shards=2)
    return folder


def small_reader(folder):
    options = {"schema": SMALL, "documents": SMALL_DOCUMENTS, "batch_size": 4}
    return read(folder, "train", seed=3, **options)


def small_model():
    tf.keras.utils.set_random_seed(0)
    tower = Tower(units=(8,), output=4)
    model = PreRanker(SMALL, tower, tower)
    model.compile(metrics=[])
    return model


def assert_same_weights(model, other):
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def trained_twice(small_folder):
    model = small_model()
    model.fit(small_reader(small_folder), epochs=2, verbose=0)
    return model


def test_an_epoch_more_after_loading_equals_two_at_once(
    small_folder, trained_twice, tmp_path
) -> None:
    model = small_model()
    model.fit(small_reader(small_folder), epochs=1, verbose=0)
    once = [weight.copy() for weight in model.get_weights()]
    model.save(tmp_path / "run")
    tf.random.set_seed(7)  # must not matter
    loaded = PreRanker.load(tmp_path / "run")
    loaded.fit(small_reader(small_folder), epochs=1, verbose=0)
    assert_same_weights(loaded, trained_twice)
    moved = zip(once, loaded.get_weights(), strict=True)
    assert any(np.abs(old - new).max() > 1e-4 for old, new in moved)
    loss = loaded.evaluate(small_reader(small_folder), return_dict=True, verbose=0)
    assert np.isfinite(loss["loss"])


class Interrupted(Exception):
    pass


class Interrupt(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise Interrupted


def test_a_restored_backup_equals_a_training_without_interruption(
    small_folder, trained_twice, tmp_path
) -> None:
    def backup():
        return tf.keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    model = small_model()
    with pytest.raises(Interrupted):
        model.fit(
            small_reader(small_folder),
            epochs=2,
            verbose=0,
            callbacks=[backup(), Interrupt()],
        )
    restored = small_model()
    restored.fit(small_reader(small_folder), epochs=2, verbose=0, callbacks=[backup()])
    assert_same_weights(restored, trained_twice)


def _four_replicas_read_what_one_reads(folder: Path) -> None:
    alone = small_model()
    alone.fit(small_reader(folder), epochs=1, verbose=0)
    with four_replicas().scope():
        model = small_model()
    # 30 requests in batches of 4: the last 2 leave two replicas without any.
    model.fit(small_reader(folder), epochs=1, verbose=0)
    for one, two in zip(alone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5)


def test_four_replicas_read_what_one_reads(small_folder, on_replicas) -> None:
    on_replicas(_four_replicas_read_what_one_reads, small_folder)
