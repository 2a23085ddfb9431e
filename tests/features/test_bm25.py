"""BM25 against hand arithmetic and a slow reference over Python lists."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features import (
    Categorical,
    DocumentTable,
    Match,
    Schema,
    Sequence,
    Task,
    Text,
    adapt,
    corpus,
)
from tfrs_prerank.features.match import Matches

IDS = (
    Categorical("user_id", "query", buckets=9),
    Categorical("doc_key", "doc", buckets=9),
)
QUERY = Text("query", "query", encoder=None, max_tokens=6)
TITLE = Text("title", "doc", encoder=None, max_tokens=5)
BM25 = Match("m", "query", "title", "bm25")


def schema_of(*features: Any) -> Schema:
    return Schema([*IDS, *features], [Task("click")])


def with_corpus(
    folder: Path, *features: Any, frequencies: dict[str, int], **numbers: Any
) -> Schema:
    """Gives the one BM25 match of some features a corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, statistics = folder / "tokens.txt", folder / "statistics.json"
    corpus.write_frequencies(tokens, frequencies.items())
    statistics.write_text(json.dumps({"m": numbers}), encoding="utf-8")
    files = {"vocabulary": str(tokens), "statistics": str(statistics)}
    return schema_of(
        *(
            Match(f.name, f.left, f.right, f.op, f.owner, k1=f.k1, b=f.b, **files)
            if isinstance(f, Match) and f.op == "bm25"
            else f
            for f in features
        )
    )


def cross(schema: Schema, query: dict[str, Any], doc: dict[str, Any]) -> dict:
    """Computes cross matches of columns `[B, ...]` with columns `[B, N, ...]`."""
    shape = np.shape(next(iter(doc.values())))[:2]
    flat = {
        k: tf.constant(np.array(v, object).reshape(-1, *np.shape(v)[2:]), tf.string)
        for k, v in doc.items()
    }
    keys = Matches(schema).keys_of(flat, "doc")
    keys = {k: tf.reshape(v, [*shape, *v.shape[1:]]) for k, v in keys.items()}
    columns = {k: tf.constant(np.array(v, object)) for k, v in query.items()}
    found = Matches(schema).cross(Matches(schema).keys_of(columns, "query"), keys)
    return {name: value.numpy() for name, value in found.items()}


# Values.


def test_by_hand(tmp_path):
    schema = with_corpus(
        tmp_path, QUERY, TITLE, BM25,
        frequencies={"red": 3, "shoes": 1}, documents=4, mean_length=2.5,
    )  # fmt: skip
    found = cross(
        schema,
        {"query": ["Red shoes", "red red hat", "", "blue"]},
        {"title": [["RED red hat, shoes", "red", "hat", ""]] * 4},
    )["m"]
    assert found.dtype == np.float32
    # Of 4 documents, 3 hold "red", 1 "shoes", none "hat".
    red, shoes = math.log(1 + 1.5 / 3.5), math.log(1 + 3.5 / 1.5)
    hat = math.log(1 + 4.5 / 0.5)
    # Four tokens of 2.5 on average, and one.
    long, short = 1.2 * (0.25 + 0.75 * 4 / 2.5), 1.2 * (0.25 + 0.75 * 1 / 2.5)
    once, twice = 2.2 / (1 + long), 2 * 2.2 / (2 + long)
    alone = 2.2 / (1 + short)
    expected = [
        [red * twice + shoes * once, red * alone, 0, 0],
        # "red" counts twice, as it does in the query.
        [2 * red * twice + hat * once, 2 * red * alone, hat * alone, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_repetitions_and_length_can_be_ignored(tmp_path):
    corpus_of = {"frequencies": {"a": 1}, "documents": 4, "mean_length": 2.0}
    flat = Match("m", "query", "title", "bm25", k1=0.0)
    even = Match("m", "query", "title", "bm25", b=0.0)
    columns = {"query": ["a"]}, {"title": [["a", "a a", "a b c"]]}
    idf = math.log(1 + 3.5 / 1.5)
    found = [
        cross(with_corpus(tmp_path / name, QUERY, TITLE, match, **corpus_of), *columns)
        for name, match in (("flat", flat), ("even", even))
    ]
    np.testing.assert_allclose(found[0]["m"], [[idf] * 3], rtol=1e-6)
    expected = [[idf, idf * 2 * 2.2 / 3.2, idf]]
    np.testing.assert_allclose(found[1]["m"], expected, rtol=1e-6)


def tokens_of(text: str, form: str, most: int) -> list[str]:
    """Splits texts of plain words, or of one run of characters, without TensorFlow."""
    if form == "words":
        return text.split()[:most]
    return [text[i : i + 2] for i in range(max(len(text) - 1, 0))][:most]


def slow_bm25(query: list[str], document: list[str], texts: list, k1, b) -> float:
    texts = [text for text in texts if text]
    mean = sum(map(len, texts)) / len(texts)
    score = 0.0
    for token in query:
        holding = sum(token in text for text in texts)
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        times = document.count(token)
        norm = k1 * (1 - b + b * len(document) / mean)
        score += idf * times * (k1 + 1) / (times + norm) if times else 0.0
    return score


@st.composite
def searches(draw):
    """Draws (form, texts of a corpus, queries, documents, k1, b)."""
    form = draw(st.sampled_from(["words", "characters"]))
    letters = st.sampled_from("红连衣裙鞋")
    text = (
        st.lists(letters, max_size=9).map(" ".join)
        if form == "words"
        else st.lists(letters, min_size=2, max_size=9).map("".join) | st.just("")
    )
    texts = draw(st.lists(text, min_size=1, max_size=5).filter(any))
    batch, count = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries = [draw(text) for _ in range(batch)]
    documents = [[draw(text) for _ in range(count)] for _ in range(batch)]
    k1 = draw(st.floats(0, 3))
    return form, texts, queries, documents, k1, draw(st.floats(0, 1))


@given(searches())
@settings(max_examples=40, deadline=None)
def test_equals_a_slow_bm25(tmp_path_factory, drawn):
    form, texts, queries, documents, k1, b = drawn
    how = {"tokenizer": form, "encoder": None}
    how |= {"ngrams": (2, 2)} if form == "characters" else {}
    schema = schema_of(
        Text("query", "query", max_tokens=6, **how),
        Text("title", "doc", max_tokens=5, **how),
        Match("m", "query", "title", "bm25", k1=k1, b=b),
    )
    table = DocumentTable(np.arange(len(texts)), {"title": texts})
    schema = adapt(schema, [], table, tmp_path_factory.mktemp("corpus"))
    found = cross(schema, {"query": queries}, {"title": documents})["m"]
    split = [tokens_of(text, form, 5) for text in texts]
    for query, row, scores in zip(queries, documents, found, strict=True):
        wanted = tokens_of(query, form, 6)
        for document, score in zip(row, scores, strict=True):
            slow = slow_bm25(wanted, tokens_of(document, form, 5), split, k1, b)
            assert score == pytest.approx(slow, rel=1e-5, abs=1e-6)


def test_which_side_is_the_document(tmp_path):
    corpus_of = {"frequencies": {"a": 1, "b": 2}, "documents": 9, "mean_length": 2.0}
    columns = {"query": ["a b b"]}, {"title": [["a", "b a a"]]}
    ways = [("query", "title"), ("title", "query")]
    left, right = (
        cross(
            with_corpus(tmp_path / a, QUERY, TITLE, Match("m", a, b, "bm25"),
                        **corpus_of),
            *columns,
        )["m"]
        for a, b in ways
    )  # fmt: skip
    np.testing.assert_array_equal(left, right)
    # Of one owner, the text on the right is the document: its length counts.
    author = Text("author", "doc", encoder=None, max_tokens=5)
    own = {"author": tf.constant(["a"]), "title": tf.constant(["b a a"])}
    for a, b, length, times in (("author", "title", 3, 2), ("title", "author", 1, 1)):
        match = Match("m", a, b, "bm25", owner="doc")
        schema = with_corpus(tmp_path / f"own_{a}", author, TITLE, match, **corpus_of)
        norm = 1.2 * (0.25 + 0.75 * length / 2)
        score = math.log(1 + 8.5 / 1.5) * times * 2.2 / (times + norm)
        score *= 2 if a == "title" else 1  # "a" is twice in the query
        found = Matches(schema).own(own, "doc")["m"].numpy()
        np.testing.assert_allclose(found, [score], rtol=1e-6)


def test_several_texts_are_one_query_and_one_document(tmp_path):
    schema = with_corpus(
        tmp_path,
        Text("query", "query", buckets=9, max_tokens=4),
        Sequence("past", shares="query", max_length=3),
        Text("parts", "doc", encoder=None, max_tokens=3, max_values=2),
        Match("m", "past", "parts", "bm25"),
        frequencies={"a": 1, "b": 2}, documents=9, mean_length=4.0,
    )  # fmt: skip
    found = cross(
        schema,
        {"query": ["", ""], "past": [["A b", "a", ""], ["", "", ""]]},
        {"parts": [[["a x", "b a"], ["y", ""]]] * 2},
    )["m"]
    a, b = math.log(1 + 8.5 / 1.5), math.log(1 + 7.5 / 2.5)
    # Four tokens, as many as the mean.
    expected = 2 * a * 2 * 2.2 / 3.2 + b * 2.2 / 2.2
    np.testing.assert_allclose(found, [[expected, 0], [0, 0]], rtol=1e-6)


def test_past_searches_against_the_query_of_now(tmp_path):
    schema = with_corpus(
        tmp_path,
        Text("query", "query", buckets=9, max_tokens=4),
        Sequence("past", shares="query", max_length=3),
        Match("m", "past", "query", "bm25", owner="query"),
        frequencies={"a": 1}, documents=3, mean_length=1.0,
    )  # fmt: skip
    columns = {
        "query": tf.constant(["a", "a", ""]),
        "past": tf.constant([["a b", "A", ""], ["", "", ""], ["a", "", ""]]),
    }
    found = Matches(schema).own(columns, "query")["m"].numpy()
    np.testing.assert_allclose(found, [2 * math.log(1 + 2.5 / 1.5), 0, 0], rtol=1e-6)


def test_log1p_compresses_it(tmp_path):
    corpus_of = {"frequencies": {"a": 1}, "documents": 3, "mean_length": 1.0}
    plain = with_corpus(tmp_path, QUERY, TITLE, BM25, **corpus_of)
    small = Match("small", "query", "title", "bm25", log1p=True,
                  vocabulary=plain["m"].vocabulary,
                  statistics=plain["m"].statistics)  # fmt: skip
    Path(small.statistics).write_text(
        json.dumps(
            {name: {"documents": 3, "mean_length": 1.0} for name in ("m", "small")}
        )
    )
    schema = schema_of(QUERY, TITLE, plain["m"], small)
    found = cross(schema, {"query": ["a"]}, {"title": [["a", "b"]]})
    np.testing.assert_allclose(found["small"], np.log1p(found["m"]), rtol=1e-6)
    assert found["small"][0, 0] > 0


@pytest.mark.parametrize(("batch", "documents"), [(2, 0), (0, 3)])
def test_no_documents_and_no_requests(tmp_path, batch, documents):
    schema = with_corpus(
        tmp_path, QUERY, TITLE, BM25,
        frequencies={"a": 1}, documents=3, mean_length=1.0,
    )  # fmt: skip
    keys = Matches(schema).keys_of({"title": tf.fill([batch * documents], "a")}, "doc")
    keys = {k: tf.reshape(v, [batch, documents, v.shape[1]]) for k, v in keys.items()}
    query = Matches(schema).keys_of({"query": tf.fill([batch], "a")}, "query")
    assert Matches(schema).cross(query, keys)["m"].shape == (batch, documents)


def test_what_is_stored_of_documents(tmp_path):
    overlap = Match("o", "query", "title", "overlap")
    schema = with_corpus(
        tmp_path, QUERY, TITLE, BM25, overlap,
        frequencies={"a": 1}, documents=3, mean_length=2.0,
    )  # fmt: skip
    keys = Matches(schema).keys_of({"title": tf.constant(["b a b", ""])}, "doc")
    # The tokens once, for both matches, and a weight beside each.
    assert {name: (key.dtype, key.shape) for name, key in keys.items()} == {
        "title": (tf.int64, (2, 5)),
        "m/weights": (tf.float32, (2, 5)),
    }
    hashes, weights = keys["title"].numpy(), keys["m/weights"].numpy()
    assert (np.diff(hashes[0]) >= 0).all()
    assert (hashes != -1).sum(axis=1).tolist() == [2, 0]
    assert ((weights > 0) == (hashes != -1)).all()
    norm = 1.2 * (0.25 + 0.75 * 3 / 2)
    expected = [2.2 / (1 + norm), 2 * 2.2 / (2 + norm)]
    np.testing.assert_allclose(sorted(weights[0, -2:]), expected, rtol=1e-6)


def test_no_tensor_of_all_pairs_of_tokens(tmp_path):
    schema = with_corpus(
        tmp_path,
        Text("query", "query", encoder=None, max_tokens=20),
        Text("title", "doc", encoder=None, max_tokens=30),
        BM25, frequencies={"a": 1}, documents=3, mean_length=1.0,
    )  # fmt: skip

    @tf.function(autograph=False)
    def compute(query, keys):
        return Matches(schema).cross(Matches(schema).keys_of(query, "query"), keys)

    graph = compute.get_concrete_function(
        {"query": tf.TensorSpec([2], tf.string)},
        {
            "title": tf.TensorSpec([2, 7, 30], tf.int64),
            "m/weights": tf.TensorSpec([2, 7, 30]),
        },
    ).graph
    sizes = [
        math.prod(output.shape)
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.is_fully_defined()
    ]
    assert max(sizes) == 2 * 7 * 30


# Corpora.


def documents_of(titles: list[Any]) -> DocumentTable:
    return DocumentTable(np.arange(len(titles)), {"title": titles})


def lines(match: Match) -> list[str]:
    return Path(match.vocabulary).read_text(encoding="utf-8").splitlines()


def test_adapt_counts_the_documents_table(tmp_path):
    titles = ["b a b", "B!", "", "c b a d e f"]
    schema = adapt(
        schema_of(QUERY, TITLE, BM25), [], documents_of(titles), tmp_path / "out"
    )
    # Three texts; "f" is behind the cut at five.
    assert lines(schema["m"]) == ["b\t3", "a\t2", "c\t1", "d\t1", "e\t1"]
    assert json.loads(Path(schema["m"].statistics).read_text())["m"] == {
        "documents": 3,
        "mean_length": 3.0,
        "column": "title",
        "tokenizer": "words",
        "ngrams": [1, 1],
        "max_tokens": 5,
    }
    assert schema["title"] == TITLE
    # It has what it needs, so nothing is counted again.
    again = adapt(schema, [], documents_of(["z"] * 4), tmp_path / "again")
    assert again == schema and not (tmp_path / "again").exists()
    # Where one of the two is gone, both are.
    half = schema_of(QUERY, TITLE, dataclasses.replace(schema["m"], statistics=None))
    again = adapt(half, [], documents_of(["z"] * 4), tmp_path / "again")
    assert lines(again["m"]) == ["z\t4"]
    assert Matches(again).corpora["m"].documents == 4


def test_adapt_counts_requests_where_the_text_is_of_the_moment(tmp_path):
    title = Text("title", "doc", encoder=None, max_tokens=5, point_in_time=True)
    requests = [{"title": ["a b", "a"]}, {"title": [b"a", ""]}, {"title": []}]
    schema = adapt(
        schema_of(QUERY, title, BM25), requests, documents_of([""]), tmp_path / "out"
    )
    assert lines(schema["m"]) == ["a\t3", "b\t1"]
    assert Matches(schema).corpora["m"].documents == 3
    assert Matches(schema).corpora["m"].mean_length == pytest.approx(4 / 3)


def test_adapt_takes_several_strings_for_one_document(tmp_path):
    title = Text("title", "doc", encoder=None, max_tokens=5, max_values=2)
    titles = [["a b", "a"], [], ["b", ""]]
    schema = adapt(
        schema_of(QUERY, title, BM25), [], documents_of(titles), tmp_path / "out"
    )
    assert lines(schema["m"]) == ["b\t2", "a\t1"]
    assert Matches(schema).corpora["m"].mean_length == 2.0


def test_adapt_counts_one_text_of_a_request_as_a_document(tmp_path):
    schema = schema_of(
        Text("query", "query", buckets=9),
        Sequence("past", shares="query", max_length=3),
        Match("m", "query", "past", "bm25", owner="query"),
    )
    requests = [{"past": ["a b", "a"]}, {"past": []}, {"past": ["c"]}]
    schema = adapt(schema, requests, documents_of([""]), tmp_path / "out")
    assert lines(schema["m"]) == ["a\t1", "b\t1", "c\t1"]
    assert Matches(schema).corpora["m"].documents == 2


def test_adapt_counts_alike_in_parts(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(list("abcdefgh"), 4)) for _ in range(50)]
    whole = adapt(
        schema_of(QUERY, TITLE, BM25), [], documents_of(titles), tmp_path / "whole"
    )
    monkeypatch.setattr(corpus, "_STRINGS_AT_ONCE", 7)
    parts = adapt(
        schema_of(QUERY, TITLE, BM25), [], documents_of(titles), tmp_path / "parts"
    )
    assert lines(whole["m"]) == lines(parts["m"])
    counts = collections.Counter(t for title in titles for t in set(title.split()))
    assert dict(line.split("\t") for line in lines(parts["m"])) == {
        token: str(count) for token, count in counts.items()
    }


def test_adapt_refuses_a_corpus_without_a_token(tmp_path):
    with pytest.raises(ValueError, match="m: no text of 'title' in the data has a tok"):
        adapt(
            schema_of(QUERY, TITLE, BM25), [], documents_of(["", "!"]), tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()
    with pytest.raises(TypeError, match=r"title: dtype='string' is declared.*5"):
        adapt(schema_of(QUERY, TITLE, BM25), [], documents_of(["a", 5]), tmp_path / "o")


def test_a_saved_schema_keeps_its_corpus(tmp_path):
    schema = adapt(
        schema_of(QUERY, TITLE, BM25), [], documents_of(["a b"]), tmp_path / "out"
    )
    saved = schema.save(tmp_path / "run")
    for file in (schema["m"].vocabulary, schema["m"].statistics):
        Path(file).unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = Schema.from_yaml(tmp_path / "moved" / "schema.yaml")
    assert lines(moved["m"]) == ["a\t1", "b\t1"]
    assert Matches(moved).corpora["m"].documents == 1
    assert saved["m"].vocabulary == str(tmp_path / "run" / "vocabularies" / "m.txt")


def test_a_corpus_that_is_collected_anew_is_read_anew(tmp_path):
    fresh = schema_of(QUERY, TITLE, BM25)
    first = Matches(adapt(fresh, [], documents_of(["a b"]), tmp_path / "out"))
    # To the same place: an equal schema reads what is there now.
    again = adapt(fresh, [], documents_of(["a", "a"]), tmp_path / "out")
    assert again == first.schema
    assert Matches(again).corpora["m"].table.lookup(tf.constant(["a"])).numpy() == [2]
    assert first.corpora["m"].table.lookup(tf.constant(["a"])).numpy() == [1]


# Bad input.


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a\t1\nb\n", r"holds 'b' in line 2; a line is token<TAB>documents"),
        ("a\tx\n", r"holds 'a\\tx' in line 1"),
        ("\t1\n", r"holds '\\t1' in line 1"),
        ("a\t0\n", r".* in line 1; .* of a corpus of 3 documents"),
        ("a\t4\n", r".* in line 1; .* of a corpus of 3 documents"),
        ("a\t1\na\t2\n", r"holds 'a' twice; keep one line"),
        ("", r"is empty"),
        (b"\xff\t1\n", r"is not UTF-8"),
    ],
)
def test_a_broken_file_of_tokens(tmp_path, content, problem):
    schema = with_corpus(
        tmp_path, QUERY, TITLE, BM25,
        frequencies={}, documents=3, mean_length=1.0,
    )  # fmt: skip
    content = content if isinstance(content, bytes) else content.encode()
    Path(schema["m"].vocabulary).write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.vocabulary: .*tokens\.txt " + problem):
        Matches(schema)


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ({"documents": 3}, "hold mean_length=None, which is no number above 0"),
        ({"documents": 0, "mean_length": 1.0}, "hold documents=0"),
        ({"documents": 3, "mean_length": math.inf}, "hold mean_length=inf"),
        (
            {"documents": 3, "mean_length": 1.0, "max_tokens": 7},
            "were made for max_tokens=7, not 5; run `adapt` again",
        ),
        (
            {"documents": 3, "mean_length": 1.0, "tokenizer": "characters"},
            "were made for tokenizer='characters', not 'words'",
        ),
    ],
)
def test_broken_statistics(tmp_path, numbers, problem):
    schema = with_corpus(
        tmp_path, QUERY, TITLE, BM25, frequencies={"a": 1}, **numbers
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=rf"m: statistics at .*json {re.escape(problem)}"
    ):
        Matches(schema)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m needs statistics .* run `adapt`"):
        Matches(schema_of(QUERY, TITLE, BM25))
    schema = with_corpus(
        tmp_path, QUERY, TITLE, BM25,
        frequencies={"a": 1}, documents=3, mean_length=1.0,
    )  # fmt: skip
    Path(schema["m"].vocabulary).unlink()
    with pytest.raises(FileNotFoundError, match=r"m\.vocabulary: no file at .*tokens"):
        Matches(schema)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"op": "overlap", "k1": 2.0}, "k1 does nothing with op='overlap'"),
        ({"op": "overlap", "vocabulary": "x"}, "vocabulary does nothing with op="),
        ({"op": "bm25", "k1": -1.0}, r"k1 is from 0.*Received: k1=-1.0, b=0.75"),
        ({"op": "bm25", "b": 1.5}, r"b in \[0, 1\]"),
    ],
)
def test_declarations_that_make_no_sense(options, problem):
    with pytest.raises(ConfigurationError, match=problem):
        Match("m", "query", "title", **options)


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (
            (
                Text("query", "query", encoder=None),
                Categorical("title", "doc", buckets=9),
            ),
            r"op='bm25' does not fit 'query' \(text\) and 'title' \(string ids\); it "
            "compares texts",
        ),
        (
            (QUERY, Text("title", "doc", encoder=None, tokenizer="characters")),
            r"m compares tokens, so both texts need the same tokenizer and ngrams\. "
            r"Received: words, ngrams=\(1, 1\), of 'query' and characters, "
            r"ngrams=\(1, 1\), of 'title'",
        ),
        (
            (QUERY, Text("title", "doc", encoder=None, ngrams=(1, 2))),
            "need the same tokenizer and ngrams",
        ),
    ],
)
def test_columns_that_do_not_fit(features, problem):
    with pytest.raises(ConfigurationError, match=problem):
        schema_of(*features, BM25)
