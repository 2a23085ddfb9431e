"""Matches against a slow reference over Python sets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.features import (
    Categorical,
    Dense,
    Match,
    Numeric,
    Schema,
    Sequence,
    Task,
    Text,
)
from tfrs_prerank.features.match import (
    Matches,
    key_columns,
)


def ids(name: str, owner: str, dtype: str = "string", width: int = 1) -> Categorical:
    return Categorical(name, owner, buckets=9, dtype=dtype, max_values=width)


def schema_of(*features: Any) -> Schema:
    extra = [ids("user_id", "query"), ids("doc_key", "doc")]
    return Schema([*extra, *features], [Task("click")])


def cross(schema: Schema, query: dict[str, Any], doc: dict[str, Any]) -> dict:
    """Computes cross matches of columns `[B, ...]` with columns `[B, N, ...]`."""
    query = {k: tf.convert_to_tensor(v) for k, v in query.items()}
    doc = {k: tf.convert_to_tensor(v) for k, v in doc.items()}
    shape = next(iter(doc.values())).shape[:2] if doc else None
    flat = {
        k: tf.reshape(v, [shape[0] * shape[1], *v.shape[2:]]) for k, v in doc.items()
    }
    keys = Matches(schema).keys_of(flat, "doc")
    keys = {k: tf.reshape(v, [*shape, *v.shape[1:]]) for k, v in keys.items()}
    found = Matches(schema).cross(Matches(schema).keys_of(query, "query"), keys)
    return {name: value.numpy() for name, value in found.items()}


def expected_of(op: str, left: list, right: list, pad: Any) -> float:
    """The definition, with Python sets."""
    left, right = ({v for v in side if v != pad} for side in (left, right))
    if op == "overlap":
        return len(left & right) / len(left) if left else 0.0
    if op == "equal":
        return float(bool(left) and left == right)
    return float(len(right) == 1 and right <= left)


# Sets of ids.

VALUES = {"string": ["", "a", "b", "A", "c d", "é"], "int64": [-1, -9, 0, 1, 2, 2**62]}


@st.composite
def pairs(draw):
    """Draws (op, dtype, widths, query [B, Tq], doc [B, N, Td])."""
    op = draw(st.sampled_from(["overlap", "equal", "contains"]))
    dtype = draw(st.sampled_from(["string", "int64"]))
    left = 1 if op == "equal" else draw(st.integers(1, 4))
    right = draw(st.integers(1, 4)) if op == "overlap" else 1
    query_is_left = draw(st.booleans())
    query_width, doc_width = (left, right) if query_is_left else (right, left)
    batch, documents = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    value = st.sampled_from(VALUES[dtype])

    def array(*shape):
        size = math.prod(shape)
        flat = draw(st.lists(value, min_size=size, max_size=size))
        return np.array(flat, object if dtype == "string" else np.int64).reshape(shape)

    query, doc = array(batch, query_width), array(batch, documents, doc_width)
    return op, dtype, query_is_left, query, doc


@given(pairs())
@settings(max_examples=120, deadline=None)
def test_id_matches_equal_sets(drawn):
    op, dtype, query_is_left, query, doc = drawn
    left, right = ("q", "d") if query_is_left else ("d", "q")
    schema = schema_of(
        ids("q", "query", dtype, query.shape[1]),
        ids("d", "doc", dtype, doc.shape[2]),
        Match("m", left, right, op),
    )
    columns = [
        tf.constant(array[..., 0] if array.shape[-1] == 1 else array, dtype)
        for array in (query, doc)
    ]
    found = cross(schema, {"q": columns[0]}, {"d": columns[1]})["m"]
    assert found.dtype == np.float32
    assert found.shape == doc.shape[:2]
    pad = VALUES[dtype][0]
    for b in range(doc.shape[0]):
        for n in range(doc.shape[1]):
            sides = list(query[b]), list(doc[b, n])
            sides = sides if query_is_left else sides[::-1]
            expected = np.float32(expected_of(op, *sides, pad))
            assert found[b, n] == expected


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_own_pairs_equal_sets(drawn):
    op, dtype, query_is_left, query, doc = drawn
    right = doc[0]
    left = np.repeat(query[:1], len(right), axis=0)
    left, right = (left, right) if query_is_left else (right, left)
    schema = schema_of(
        ids("l", "doc", dtype, left.shape[1]),
        ids("r", "doc", dtype, right.shape[1]),
        Match("m", "l", "r", op, owner="doc"),
    )
    columns = {
        name: tf.constant(array[:, 0] if array.shape[1] == 1 else array, dtype)
        for name, array in (("l", left), ("r", right))
    }
    found = Matches(schema).own(columns, "doc")["m"].numpy()
    pad = VALUES[dtype][0]
    expected = [
        expected_of(op, list(a), list(b), pad) for a, b in zip(left, right, strict=True)
    ]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_overlap_by_hand_both_ways():
    schema = schema_of(
        Sequence("history", buckets=9, max_length=4),
        ids("tags", "doc", width=3),
        Match("of_history", "history", "tags", "overlap"),
        Match("of_tags", "tags", "history", "overlap"),
    )
    found = cross(
        schema,
        {"history": [["a", "b", "a", ""], ["", "", "", ""]]},
        {"tags": [[["b", "c", "b"], ["", "", ""]], [["a", "", ""], ["b", "c", ""]]]},
    )
    # {a, b} and {b, c}: one of two, either way. Nothing has nothing in common.
    assert found["of_history"].tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert found["of_tags"].tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_query_pairs_of_one_tower():
    schema = schema_of(
        Sequence("history", buckets=9, max_length=3),
        ids("favourite", "query"),
        Match("again", "history", "favourite", "contains", owner="query"),
    )
    columns = {
        "history": tf.constant([["a", "b", ""], ["a", "", ""], ["", "", ""]]),
        "favourite": tf.constant(["b", "b", ""]),
    }
    found = Matches(schema).own(columns, "query")
    assert found["again"].numpy().tolist() == [1.0, 0.0, 0.0]
    assert Matches(schema).own(columns, "doc") == {}


# Texts.


def text(name: str, owner: str, **kwargs: Any) -> Text:
    return Text(name, owner, buckets=9, max_tokens=5, **kwargs)


def test_texts_overlap_by_token():
    schema = schema_of(
        text("query", "query"), text("title", "doc"),
        Match("m", "query", "title", "overlap"),
        Match("of_title", "title", "query", "overlap"),
    )  # fmt: skip
    found = cross(
        schema,
        {"query": ["Red shoes, red!", ""]},
        {"title": [["RED hat", "shoes red", "", "blue"], ["red", "", "a", "b"]]},
    )
    # {red, shoes}.
    assert found["m"].tolist() == [[0.5, 1.0, 0.0, 0.0], [0.0] * 4]
    assert found["of_title"].tolist() == [[0.5, 1.0, 0.0, 0.0], [0.0] * 4]


def test_texts_beside_ids_are_compared_without_case():
    schema = schema_of(
        text("query", "query"), text("past", "query", max_values=2),
        ids("brand", "doc"), ids("tags", "doc", width=2),
        Match("names", "query", "brand", "contains"),
        Match("named", "past", "brand", "contains"),
        Match("tagged", "tags", "query", "overlap"),
        Match("kind", "query", "brand", "equal"),
    )  # fmt: skip
    found = cross(
        schema,
        {"query": ["ADIDAS shoes", "Sci-Fi"], "past": [["nike", ""], ["a", "Puma b"]]},
        {
            "brand": [["Adidas", "Nike"], ["puma", "SCI-FI"]],
            "tags": [[["Shoes", "men"], ["", ""]], [["Sci-Fi", ""], ["fi", "x"]]],
        },
    )
    # An id is never split: "Sci-Fi" is none of the tokens sci and fi.
    assert found["names"].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert found["named"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert found["tagged"].tolist() == [[0.5, 0.0], [0.0, 0.5]]
    # Equality reads the whole text.
    assert found["kind"].tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_equal_texts_are_equal_as_a_whole():
    schema = schema_of(
        text("query", "query"),
        text("title", "doc"),
        Match("m", "query", "title", "equal"),
        Match("common", "query", "title", "overlap"),
    )
    found = cross(
        schema,
        {"query": ["Red Hat", ""]},
        {"title": [["RED hat", "hat red", "red"], ["", "a", "b"]]},
    )
    assert found["m"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert found["common"].tolist() == [[1.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    # Both readings of one column are stored side by side.
    assert key_columns(schema, "doc") == {
        "title/folded": ("title", True),
        "title": ("title", False),
    }


def test_keys_are_distinct_hashes_and_pads():
    schema = schema_of(
        text("query", "query"),
        ids("tags", "doc", width=3),
        ids("code", "doc", "int64", width=2),
        Sequence("codes", buckets=9, dtype="int64", max_length=1),
        Match("m", "query", "tags", "overlap"),
        Match("n", "codes", "code", "overlap"),
    )
    columns = {
        "tags": tf.constant([["B", "b", "c"], ["", "", ""]]),
        "code": tf.constant([[5, 5], [-1, 7]], tf.int64),
    }
    keys = Matches(schema).keys_of(columns, "doc")
    assert list(keys) == ["tags/folded", "code"]
    tags = keys["tags/folded"].numpy()
    assert tags.dtype == np.int64
    # "B" and "b" are one value, kept once.
    assert sorted(tags[0] == -1) == [False, False, True]
    assert tags[1].tolist() == [-1, -1, -1]
    assert sorted(keys["code"].numpy()[0]) == [-1, 5]
    assert sorted(keys["code"].numpy()[1]) == [-1, 7]


# Numbers and vectors.


def number(name: str, owner: str, **kwargs: Any) -> Numeric:
    return Numeric(name, owner, **kwargs)


def test_number_operations_by_hand():
    schema = schema_of(
        number("budget", "query"), number("price", "doc"),
        Match("left", "budget", "price", "difference"),
        Match("right", "price", "budget", "difference"),
        Match("far", "price", "budget", "distance"),
        Match("ratio", "budget", "price", "log_ratio"),
        Match("inverse", "price", "budget", "log_ratio"),
        Match("small", "budget", "price", "difference", log1p=True),
    )  # fmt: skip
    found = cross(schema, {"budget": [3.0, 0.0]}, {"price": [[1.0, 7.0], [0.0, -4.0]]})
    assert found["left"].tolist() == [[2.0, -4.0], [0.0, 4.0]]
    assert found["right"].tolist() == [[-2.0, 4.0], [0.0, -4.0]]
    assert found["far"].tolist() == [[2.0, 4.0], [0.0, 4.0]]
    # log(4 / 2), log(4 / 8); below 0 counts as 0.
    ratio = [[math.log(2), -math.log(2)], [0.0, 0.0]]
    np.testing.assert_allclose(found["ratio"], ratio, rtol=1e-6)
    np.testing.assert_allclose(found["inverse"], np.negative(ratio), rtol=1e-6)
    small = [[math.log(3), -math.log(5)], [0.0, math.log(5)]]
    np.testing.assert_allclose(found["small"], small, rtol=1e-6)


def test_seconds_are_subtracted_exactly():
    schema = schema_of(
        number("born", "doc", dtype="int64"), number("seen", "doc"),
        Match("age", "time", "born", "difference"),
        Match("ahead", "born", "time", "difference"),
        Match("gap", "born", "time", "distance"),
        Match("rough", "time", "seen", "difference"),
    )  # fmt: skip
    now = 1_700_000_001
    found = cross(
        schema,
        {"time": tf.constant([now], tf.int64)},
        {
            # float32 would hold all but the last as the same second.
            "born": tf.constant([[now - 1, now, now + 1, now - 10**6]], tf.int64),
            "seen": tf.constant([[1.7e9, 1.0, 2.0, 3.0]]),
        },
    )
    assert found["age"].tolist() == [[1.0, 0.0, -1.0, 1e6]]
    assert found["ahead"].tolist() == [[-1.0, 0.0, 1.0, -1e6]]
    assert found["gap"].tolist() == [[1.0, 0.0, 1.0, 1e6]]
    # A float32 column has lost what it has lost, but the request's second has not.
    assert found["rough"][0, 0] == now - float(np.float32(1.7e9))


def test_one_hour_of_a_request_against_its_own_column():
    schema = schema_of(
        number("last", "query", dtype="int64", missing=0),
        Match("since", "time", "last", "difference", owner="query"),
    )
    columns = {
        "time": tf.constant([1_700_003_600, 1_700_000_000], tf.int64),
        "last": tf.constant([1_700_000_000, 0], tf.int64),
    }
    found = Matches(schema).own(columns, "query")["since"]
    assert found.numpy().tolist() == [3600.0, 0.0]


@pytest.mark.parametrize("op", ["difference", "log_ratio", "distance"])
def test_a_missing_number_on_either_side_gives_zero(op):
    schema = schema_of(
        number("budget", "query", missing=-7), number("price", "doc", missing=0.1),
        Match("m", "budget", "price", op),
        Match("n", "price", "budget", op, log1p=True),
    )  # fmt: skip
    found = cross(schema, {"budget": [5.0, -7.0]}, {"price": [[0.1, 2.0], [0.1, 2.0]]})
    for name in ("m", "n"):
        assert (found[name] == 0).tolist() == [[True, False], [True, True]]


def test_a_large_sentinel_is_exact():
    # 9,999,999,999 is 10,000,000,000 in float32.
    schema = schema_of(
        number("born", "doc", dtype="int64", missing=9_999_999_999),
        Match("m", "time", "born", "difference"),
    )
    born = tf.constant([[9_999_999_999, 10_000_000_000]], tf.int64)
    found = cross(schema, {"time": tf.constant([0], tf.int64)}, {"born": born})
    assert found["m"].tolist() == [[0.0, -1e10]]


def test_distance_of_vectors():
    schema = schema_of(
        Dense("taste", "query", size=2), Dense("cover", "doc", size=2),
        Match("m", "taste", "cover", "distance"),
        Match("n", "cover", "taste", "distance", log1p=True),
    )  # fmt: skip
    found = cross(
        schema,
        {"taste": [[1.0, 2.0], [0.0, 0.0]]},
        {"cover": [[[4.0, 6.0], [1.0, 2.0], [0.0, 0.0]], [[3.0, 4.0]] * 3]},
    )
    # All zeros is a missing vector, on either side.
    assert found["m"].tolist() == [[5.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(found["n"][0], [math.log(6), 0.0, 0.0], rtol=1e-6)


def test_distance_of_vectors_of_one_tower():
    schema = schema_of(
        Dense("front", "doc", size=2), Dense("back", "doc", size=2),
        Match("m", "front", "back", "distance", owner="doc"),
    )  # fmt: skip
    columns = {
        "front": tf.constant([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]),
        "back": tf.constant([[4.0, 6.0], [3.0, 1.0], [1.0, 1.0]]),
    }
    found = Matches(schema).own(columns, "doc")["m"]
    assert found.numpy().tolist() == [5.0, 1.0, 0.0]


def test_inner_product_of_a_profile_and_topics():
    schema = schema_of(
        Dense("profile", "query", size=2), Dense("topics", "doc", size=2),
        Match("m", "profile", "topics", "dot"),
        Match("n", "topics", "profile", "dot", log1p=True),
    )  # fmt: skip
    found = cross(
        schema,
        {"profile": [[1.0, 2.0], [0.0, 0.0]]},
        {"topics": [[[3.0, 4.0], [-2.0, 0.5], [0.0, 0.0]], [[3.0, 4.0]] * 3]},
    )
    # 3 + 8 and -2 + 1.
    assert found["m"].tolist() == [[11.0, -1.0, 0.0], [0.0, 0.0, 0.0]]
    compressed = [math.log(12), -math.log(2), 0.0]
    np.testing.assert_allclose(found["n"][0], compressed, rtol=1e-6)


def test_inner_product_of_an_author_and_the_document():
    schema = schema_of(
        Dense("author", "doc", size=2), Dense("topics", "doc", size=2),
        Match("m", "author", "topics", "dot", owner="doc"),
    )  # fmt: skip
    columns = {
        "author": tf.constant([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]),
        "topics": tf.constant([[3.0, 4.0], [2.0, 7.0], [1.0, 1.0]]),
    }
    found = Matches(schema).own(columns, "doc")["m"]
    assert found.numpy().tolist() == [11.0, 6.0, 0.0]


# What a search has: entities, categories, names, the user, places.


def test_entities_categories_and_the_user():
    schema = schema_of(
        ids("entities", "query", width=3), ids("mentions", "doc", width=3),
        ids("intent", "query"), ids("category", "doc"),
        ids("preferred", "query", width=2),
        Dense("home", "query", size=2), Dense("shop", "doc", size=2),
        Match("common", "entities", "mentions", "overlap"),
        Match("same", "intent", "category", "equal"),
        Match("liked", "preferred", "category", "contains"),
        Match("far", "home", "shop", "distance"),
    )  # fmt: skip
    query = {
        "entities": [["rome", "pope", ""]],
        "intent": ["food"],
        "preferred": [["travel", "food"]],
        "home": [[1.0, 2.0]],
    }
    doc = {
        "mentions": [[["pope", "x", "y"], ["rome", "pope", ""], ["", "", ""]]],
        "category": [["food", "travel", ""]],
        "shop": [[[4.0, 6.0], [1.0, 2.0], [0.0, 0.0]]],
    }
    found = cross(schema, query, doc)
    assert found["common"].tolist() == [[0.5, 1.0, 0.0]]
    assert found["same"].tolist() == [[1.0, 0.0, 0.0]]
    assert found["liked"].tolist() == [[1.0, 1.0, 0.0]]
    assert found["far"].tolist() == [[5.0, 0.0, 0.0]]


def test_the_name_of_an_author():
    schema = schema_of(
        text("query", "query"), text("author", "doc"), ids("author_id", "doc"),
        Match("named", "author", "query", "overlap"),
        Match("given", "query", "author_id", "contains"),
    )  # fmt: skip
    found = cross(
        schema,
        {"query": ["poems by Maya ANGELOU", ""]},
        {
            "author": [["Maya Angelou", "Angelou", "Maya Lin", ""], ["A", "", "", ""]],
            "author_id": [["angelou", "maya", "lin", ""], ["", "a", "b", "c"]],
        },
    )
    # The share of the author's name, not of the query.
    assert found["named"].tolist() == [[1.0, 1.0, 0.5, 0.0], [0.0] * 4]
    assert found["given"].tolist() == [[1.0, 1.0, 0.0, 0.0], [0.0] * 4]


# Sequences of texts, and texts looked for among several.


def test_past_searches_are_compared_by_their_words():
    schema = schema_of(
        text("query", "query"), text("title", "doc"), ids("brand", "doc"),
        Sequence("past", shares="query", max_length=3),
        Match("words", "past", "title", "overlap"),
        Match("of_title", "title", "past", "overlap"),
        Match("brand_named", "past", "brand", "contains"),
    )  # fmt: skip
    found = cross(
        schema,
        {"past": [["Red shoes", "blue SHOES", ""], ["", "", ""]]},
        {
            "title": [["Shoes, red and big", "hat"]] * 2,
            "brand": [["BLUE", "red shoes"]] * 2,
        },
    )
    # {red, shoes, blue}, and {shoes, red, and, big}.
    np.testing.assert_allclose(found["words"], [[2 / 3, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found["of_title"], [[2 / 4, 0], [0, 0]], rtol=1e-6)
    assert found["brand_named"].tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("several", ["sequence", "texts"])
def test_the_very_query_was_searched_before(several):
    past = (
        Sequence("past", shares="query", max_length=2)
        if several == "sequence"
        else text("past", "query", max_values=2)
    )
    schema = schema_of(
        text("query", "query"), past, text("title", "doc"),
        Match("again", "past", "query", "contains", owner="query"),
        Match("titled", "past", "title", "contains"),
    )  # fmt: skip
    columns = {
        "query": tf.constant(["Red shoes", "red", "", "shoes red"]),
        "past": tf.constant([["x", "red SHOES"], ["red shoes", ""]] * 2),
    }
    found = Matches(schema).own(columns, "query")["again"]
    # As a whole: "red" alone was not, nor were the words in another order.
    assert found.numpy().tolist() == [1.0, 0.0, 0.0, 0.0]
    query = {"past": [["a b", "C"]]}
    found = cross(schema, query, {"title": [["A B", "a", "c", ""]]})
    assert found["titled"].tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_texts_are_compared_by_the_tokens_that_they_declare():
    runs = {"tokenizer": "characters", "ngrams": (2, 2)}
    schema = schema_of(
        text("query", "query", **runs),
        text("title", "doc", **runs),
        Match("m", "query", "title", "overlap"),
    )
    found = cross(
        schema, {"query": ["连衣裙"]}, {"title": [["衣裙", "裙衣连", "红连衣裙"]]}
    )
    assert found["m"].tolist() == [[0.5, 0.0, 1.0]]


def test_word_pieces_are_compared_as_words(tmp_path):
    pieces = tmp_path / "pieces.txt"
    pieces.write_text("[UNK]\nsho\n##es\n")
    query = Text(
        "query", "query", tokenizer="wordpiece", vocabulary=str(pieces), max_tokens=4
    )
    schema = schema_of(
        query, text("title", "doc"), Match("m", "query", "title", "overlap")
    )
    found = cross(schema, {"query": ["Red shoes"]}, {"title": [["shoes", "sho es"]]})
    assert found["m"].tolist() == [[0.5, 0.0]]


# Size and shape.


def every_op() -> tuple[Schema, dict[str, Any], dict[str, Any]]:
    """Returns a schema with each operation, and specs of its columns."""
    schema = schema_of(
        text("query", "query"), text("title", "doc"),
        Sequence("history", buckets=9, max_length=64), ids("tags", "doc", width=48),
        ids("movie_id", "doc"), number("budget", "query"), number("price", "doc"),
        Dense("taste", "query", size=3), Dense("cover", "doc", size=3),
        Match("m1", "query", "title", "overlap"),
        Match("m2", "history", "tags", "overlap"),
        Match("m3", "tags", "history", "overlap"),
        Match("m4", "history", "movie_id", "contains"),
        Match("m5", "tags", "user_id", "contains"),
        Match("m6", "user_id", "movie_id", "equal"),
        Match("m7", "budget", "price", "log_ratio"),
        Match("m8", "taste", "cover", "distance"),
        Match("m9", "taste", "cover", "dot"),
    )  # fmt: skip
    return schema, *(
        {
            name: tf.TensorSpec(
                [None] + ([] if c.length is None else [c.length]),
                tf.dtypes.as_dtype(c.dtype),
            )
            for name, c in schema.columns(owner).items()
        }
        for owner in ("query", "doc")
    )


def test_no_tensor_of_all_pairs_of_values():
    schema, query_specs, doc_specs = every_op()
    batch, documents = 2, 5

    @tf.function
    def compute(query, doc):
        query_keys = Matches(schema).keys_of(query, "query")
        doc_keys = {
            name: tf.reshape(key, [batch, documents, *key.shape[1:]])
            for name, key in Matches(schema).keys_of(doc, "doc").items()
        }
        return Matches(schema).cross(query_keys, doc_keys)

    concrete = compute.get_concrete_function(
        {
            k: tf.TensorSpec([batch, *v.shape[1:]], v.dtype)
            for k, v in query_specs.items()
        },
        {
            k: tf.TensorSpec([batch * documents, *v.shape[1:]], v.dtype)
            for k, v in doc_specs.items()
        },
    )
    sizes = [
        math.prod(output.shape)
        for operation in concrete.graph.get_operations()
        for output in operation.outputs
        if output.shape.is_fully_defined()
    ]
    # The largest side is documents x 48 tags; all pairs with 64 behaviours would be
    # 64 times that.
    assert max(sizes) == batch * documents * 48
    assert set(concrete.structured_outputs) == {f"m{n}" for n in range(1, 10)}
    for output in concrete.structured_outputs.values():
        assert output.shape == [batch, documents]


@pytest.mark.parametrize("op", ["difference", "log_ratio", "distance"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_served_number_that_is_not_finite_is_missing(op, bad):
    schema = schema_of(
        number("budget", "query"),
        number("price", "doc"),
        Match("m", "budget", "price", op),
    )
    found = cross(schema, {"budget": [5.0, bad]}, {"price": [[bad, 2.0], [2.0, 3.0]]})
    assert found["m"][0, 0] == 0.0 and found["m"][0, 1] > 0.5
    assert found["m"][1].tolist() == [0.0, 0.0]
    vectors = schema_of(
        Dense("taste", "query", size=2),
        Dense("cover", "doc", size=2),
        Match("m", "taste", "cover", "distance"),
        Match("n", "taste", "cover", "dot"),
    )
    covers = {"cover": [[[1.0, bad], [3.0, 4.0]]]}
    found = cross(vectors, {"taste": [[6.0, 8.0]]}, covers)
    assert found["m"].tolist() == [[0.0, 5.0]]
    assert found["n"].tolist() == [[0.0, 50.0]]


@pytest.mark.parametrize(("batch", "documents"), [(2, 0), (0, 3), (1, 1)])
def test_no_documents_and_no_requests(batch, documents):
    schema, query_specs, doc_specs = every_op()

    def filled(spec, rows):
        value = tf.constant("a" if spec.dtype == tf.string else 1, spec.dtype)
        return tf.fill([rows, *spec.shape[1:]], value)

    query = {k: filled(spec, batch) for k, spec in query_specs.items()}
    doc = {
        k: tf.reshape(
            filled(spec, batch * documents), [batch, documents, *spec.shape[1:]]
        )
        for k, spec in doc_specs.items()
    }
    for value in cross(schema, query, doc).values():
        assert value.shape == (batch, documents)
        assert np.isfinite(value).all()


def test_memory_of_long_lists_is_linear():
    # All pairs would be 1 x 200 x 2,000 x 2,000 values: 800 million.
    schema = schema_of(
        Sequence("history", buckets=9, dtype="int64", max_length=2000),
        ids("tags", "doc", "int64", width=2000),
        Match("m", "history", "tags", "overlap"),
    )
    history = tf.range(2000, dtype=tf.int64)[tf.newaxis]
    tags = tf.reshape(tf.range(200 * 2000, dtype=tf.int64), [1, 200, 2000])
    found = cross(schema, {"history": history}, {"tags": tags})["m"]
    assert found[0, 0] == 1.0 and found[0, 1:].max() == 0.0
