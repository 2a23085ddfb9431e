"""Texts as vectors: one encoder for fields, several texts and histories."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import Categorical, Schema, Sequence, Task, Text
from tfrs_prerank.features.encoders import FieldEncoder, distinct_tables, make_tables
from tfrs_prerank.features.strings import StringEncoder, encode_lists

CITY = Categorical("city", "doc", buckets=3)


def tables_of(*features: Text | Sequence) -> dict[str, StringEncoder]:
    return make_tables(Schema([*features, CITY], [Task("click")]))


def bucket(word: str, buckets: int) -> int:
    return int(tf.strings.to_hash_bucket_fast(word, buckets)) + 1


def test_a_cnn_reads_tokens_in_their_order():
    feature = Text(
        "query", "query", buckets=20, encoder="cnn", widths=(2,), filters=1, dimension=2
    )
    strings = tables_of(feature)["query"]
    strings(tf.constant(["a"]))
    table = np.zeros([21, 2], "float32")
    table[bucket("red", 20)], table[bucket("hat", 20)] = [1, 0], [0, 3]
    strings.table.embeddings.assign(table)
    # The filter finds the first number of a token beside the second of the next.
    strings.cnn.kernels[0].assign([[[1.0], [0.0]], [[0.0], [1.0]]])
    strings.projection.kernel.assign([[1.0, -2.0]])
    strings.projection.bias.assign([0.5, 0.0])
    vectors, real = strings(tf.constant(["red hat", "hat red", "red", "", "!"]))
    # red hat: 1 + 3; hat red: 0 + 0; red beside nothing: 1. Nothing is zero.
    expected = [[4.5, -8.0], [0.5, 0.0], [1.5, -2.0], [0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert real.numpy().tolist() == [True, True, True, False, False]


def test_a_shared_table_has_filters_of_each_text():
    query = Text("query", "query", buckets=20, encoder="cnn", filters=2)
    title = Text("title", "doc", shares="query", encoder="cnn", filters=4)
    bag = Text("body", "doc", shares="query", max_tokens=64)
    tables = tables_of(query, title, bag)
    assert tables["title"].table is tables["query"].table is tables["body"].table
    assert tables["title"].cnn is not tables["query"].cnn
    assert tables["body"].cnn is None
    assert len(distinct_tables({k: tables[k] for k in ("query", "title")})) == 1


def test_a_text_may_share_one_that_is_declared_later():
    title = Text("title", "doc", shares="query")
    tables = tables_of(title, Text("query", "query", buckets=20))
    assert tables["title"].table is tables["query"].table


@pytest.mark.parametrize("encoder", ["mean", "cnn"])
def test_past_searches_go_through_the_encoder_of_the_query(encoder):
    query = Text("query", "query", buckets=50, encoder=encoder, dimension=4)
    past = Sequence("past", shares="query", max_length=3, encoder="mean")
    tables = tables_of(query, past)
    assert tables["past"] is tables["query"]
    fields = FieldEncoder([query, past], tables, 4)
    columns = {
        "query": tf.constant(["red hat", "shoes"]),
        "past": tf.constant([["red hat", "", ""], ["red hat", "!", "shoes"]]),
    }
    output = fields(columns).numpy()
    np.testing.assert_allclose(output[0, 1], output[0, 0], rtol=1e-5)
    # A text without a word is no behaviour.
    np.testing.assert_allclose(output[1, 1], output[:, 0].mean(axis=0), rtol=1e-5)


def test_lists_of_texts_encode_what_is_there():
    strings = tables_of(Text("query", "query", buckets=9, dimension=2))["query"]
    vectors, real = encode_lists(strings, tf.constant([["a", "", "b"], ["", "", ""]]))
    alone = strings(tf.constant(["a", "b"]))[0]
    np.testing.assert_array_equal(vectors[0], tf.stack([alone[0], [0, 0], alone[1]]))
    np.testing.assert_array_equal(vectors[1], np.zeros([3, 2]))
    assert real.numpy().tolist() == [[True, False, True], [False] * 3]
    assert encode_lists(strings, tf.zeros([0, 3], tf.string))[0].shape == [0, 3, 2]


def test_a_text_for_matches_alone_has_no_table_and_no_field():
    body = Text("body", "doc", encoder=None, max_tokens=200)
    schema = Schema([Text("query", "query", buckets=5), body, CITY], [Task("click")])
    assert [feature.name for feature in schema.owned_by("doc")] == ["city"]
    assert "body" in schema.columns("doc")
    assert "body" not in make_tables(schema)


@pytest.mark.parametrize("texts", [["", "\0", "\ufffd", " ", "a" * 100_000], []])
@pytest.mark.parametrize("tokenizer", ["words", "whitespace", "characters"])
def test_any_text_has_a_finite_vector(texts, tokenizer):
    feature = Text("query", "query", buckets=9, tokenizer=tokenizer, encoder="cnn")
    strings = tables_of(feature)["query"]
    values = tf.constant([t.encode() for t in texts] + [b"\xff\xfe"])
    assert np.isfinite(strings(values)[0]).all()
