"""The documents table: what it refuses, and how it pads."""

from __future__ import annotations

import numpy as np
import pytest

from tfrs_prerank.features import (
    Categorical,
    Column,
    DocumentTable,
    Numeric,
    Schema,
    Task,
)
from tfrs_prerank.features.documents import as_array

IDS = np.array(["a", "b", "c"])
GENRES = Column("genres", "string", 2, "doc")
CODES = Column("codes", "int64", 3, "doc")
CITY = Column("city", "string", None, "doc")
BORN = Column("born", "int64", None, "doc")
PRICE = Column("price", "float32", None, "doc")
COVER = Column("cover", "float32", 2, "doc")
SCHEMA = Schema(
    [
        Categorical("user_id", "query", buckets=3),
        Categorical("genres", "doc", buckets=3, max_values=2),
        Numeric("price", "doc"),
        Categorical("shown", "doc", buckets=3, training_only=True),
        Numeric("clicks", "cross"),
    ],
    [Task("click")],
)


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        (
            [],
            ValueError,
            "the documents table is empty; it needs at least one document",
        ),
        (
            # The count is that of the id that is named.
            ["a", "b", "b", "a", "b"],
            ValueError,
            "document id 'b' is in the table 3 times; keep one row for each document",
        ),
        (
            [3, 4, 3],
            ValueError,
            "document id 3 is in the table 2 times; keep one row for each document",
        ),
        (
            np.array([b"a", b"a"], object),
            ValueError,
            "document id 'a' is in the table 2 times; keep one row for each document",
        ),
        (
            # The same id in two types.
            np.array([b"a", "a"], object),
            ValueError,
            "document id 'a' is in the table 2 times; keep one row for each document",
        ),
        (
            ["a", "b\tc"],
            ValueError,
            r"document id 'b\tc' is empty or holds a tab or a newline; ids are lines "
            r"of "
            "a file in the export",
        ),
        (
            ["a\nb"],
            ValueError,
            r"document id 'a\nb' is empty or holds a tab or a newline; ids are lines "
            r"of "
            "a file in the export",
        ),
        (
            ["a", ""],
            ValueError,
            "document id '' is empty or holds a tab or a newline; ids are lines of "
            "a file in the export",
        ),
        (
            [1, -1],
            ValueError,
            "document id -1 is the pad value; give it another id",
        ),
        # Both would be decoded to one id.
        (
            np.array([b"\xff", b"\xfe"], object),
            ValueError,
            r"document id b'\xff' is not UTF-8; ids are lines of a file in the export",
        ),
        (
            np.array([b"a", b"b\xe9"]),
            ValueError,
            r"document id b'b\xe9' is not UTF-8; ids are lines of a file in the export",
        ),
        (
            np.array(["a", "\udcff"], object),
            ValueError,
            r"document id '\udcff' is not UTF-8; ids are lines of a file in the export",
        ),
        (
            [1.5, 2.0],
            TypeError,
            "document ids are strings or integers. Received: 1.5 of type float",
        ),
        (
            np.array(["a", None], object),
            TypeError,
            "document ids are strings or integers. Received: None of type NoneType",
        ),
    ],
)
def test_ids_that_are_refused(ids, kind, expected):
    with pytest.raises(kind) as error:
        DocumentTable(np.asarray(ids), {})
    assert str(error.value) == expected


def test_columns_have_a_row_for_each_document():
    with pytest.raises(ValueError) as error:
        DocumentTable(IDS, {"price": [1.0, 2.0]})
    assert str(error.value) == (
        "documents column 'price' has 2 rows, but there are 3 document ids"
    )
    assert len(DocumentTable(IDS, {"price": [1.0, 2.0, 3.0]})) == 3


def test_arrays_of_a_schema():
    table = DocumentTable(
        IDS,
        {
            "genres": [["War", "Drama", "Crime"], [], None],
            "price": [1, 2, 3],
            "unread": [object()] * 3,
        },
    )
    arrays = table.arrays(SCHEMA)
    # Neither columns of other owners, nor training-only, nor undeclared ones.
    assert list(arrays) == ["genres", "price"]
    assert arrays["genres"].tolist() == [["War", "Drama"], ["", ""], ["", ""]]
    assert arrays["price"].tolist() == [1.0, 2.0, 3.0]
    assert arrays["price"].dtype == np.float32


def test_a_missing_column_names_the_nearest():
    table = DocumentTable(IDS, {"genre": [[], [], []], "price": [1, 2, 3]})
    with pytest.raises(KeyError) as error:
        table.arrays(SCHEMA)
    assert error.value.args[0] == (
        "the documents table has no column 'genres'; did you mean 'genre'?"
    )


@pytest.mark.parametrize(
    ("values", "column", "expected"),
    [
        ([["a"], [], ["b", "c", "d"]], GENRES, [["a", ""], ["", ""], ["b", "c"]]),
        ([(7,), np.array([8, 9]), None], CODES, [[7, -1, -1], [8, 9, -1], [-1] * 3]),
        ([[], []], CODES, [[-1] * 3] * 2),
        ([[], []], GENRES, [[""] * 2] * 2),
        # A padded array keeps its pads, a narrow one gets more, a wide one is cut.
        (np.array([["a", ""], ["", ""]]), GENRES, [["a", ""], ["", ""]]),
        (np.array([[1], [2]]), CODES, [[1, -1, -1], [2, -1, -1]]),
        (np.array([[1, 2, 3, 4]]), CODES, [[1, 2, 3]]),
        (["x", b"y"], CITY, ["x", b"y"]),
        (np.array([1, 2], np.uint8), BORN, [1, 2]),
        (np.array([1, 2], object), BORN, [1, 2]),
        ([1_700_000_001], BORN, [1_700_000_001]),
        ([1, 2.5, True], PRICE, [1.0, 2.5, 1.0]),
        (np.array([1, 2.5], object), PRICE, [1.0, 2.5]),
        ([[1, 2], [0, 0]], COVER, [[1.0, 2.0], [0.0, 0.0]]),
        ([], PRICE, []),
    ],
)
def test_padding_and_types(values, column, expected):
    array = as_array(values, column)
    assert array.tolist() == expected
    wanted = {"string": object, "int64": np.int64, "float32": np.float32}
    assert array.dtype == wanted[column.dtype]


@pytest.mark.parametrize(
    ("values", "column", "kind", "expected"),
    [
        (
            [1, 2],
            CITY,
            TypeError,
            "city: strings are declared (dtype='string'). Received: 1 of type int",
        ),
        (
            # However far down; this is what pandas makes of a missing string.
            np.array(["x"] * 5000 + [float("nan")], object),
            CITY,
            TypeError,
            "city: strings are declared (dtype='string'). Received: nan of type float",
        ),
        (
            [["a"], ["b", 3]],
            GENRES,
            TypeError,
            "genres: strings are declared (dtype='string'). Received: 3 of type int",
        ),
        (
            # A string is no list of letters.
            [["a"], "Drama"],
            GENRES,
            TypeError,
            "genres: a list a row is declared (2 values). Received: 'Drama' of type "
            "str",
        ),
        (
            [[1], 2],
            CODES,
            TypeError,
            "codes: a list a row is declared (3 values). Received: 2 of type int",
        ),
        (
            ["1"],
            BORN,
            TypeError,
            "born: integers are declared (dtype='int64'). Received: '1' of type str",
        ),
        (
            [1.0, 2.0],
            BORN,
            TypeError,
            "born: integers are declared (dtype='int64'). Received: 1.0 of type float",
        ),
        (
            np.array([5, None], object),
            BORN,
            TypeError,
            "born: integers are declared (dtype='int64'). Received: None of type "
            "NoneType",
        ),
        (
            np.array([2**63], np.uint64),
            BORN,
            ValueError,
            "born: 9223372036854775808 does not fit int64; declare dtype='string'",
        ),
        (
            ["1.5"],
            PRICE,
            TypeError,
            "price: numbers are declared (dtype='float32'). Received: '1.5' of type "
            "str",
        ),
        (
            [1.0, float("nan")],
            PRICE,
            ValueError,
            "price: nan at value 1; replace missing numbers by a sentinel and declare "
            "it as Numeric(missing=...)",
        ),
        (
            [1e39],
            PRICE,
            ValueError,
            "price: inf at value 0; replace missing numbers by a sentinel and declare "
            "it as Numeric(missing=...)",
        ),
        (
            [[1.0, 2.0], [3.0]],
            COVER,
            ValueError,
            "cover: vectors of 2 are declared. Received: one of 1",
        ),
        (
            [["a"], ["b"]],
            CITY,
            TypeError,
            "city: one value a row is declared (max_values=1). Received: shape (2, 1)",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_values_that_are_refused(values, column, kind, expected):
    with pytest.raises(kind) as error:
        as_array(values, column)
    assert str(error.value) == expected
