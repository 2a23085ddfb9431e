"""Vectors of a documents table's texts, by an encoder that counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfrs_prerank.datasets import embed_texts, read_documents, text_vectors


def lengths(batch: tf.Tensor) -> tf.Tensor:
    """An encoder: the number of bytes, and of words."""
    words = tf.strings.split(batch).row_lengths()
    columns = [tf.strings.length(batch), tf.cast(words, tf.int32)]
    return tf.cast(tf.stack(columns, axis=1), tf.float32)


def documents(path: Path, titles: list[str | None], **columns: list) -> Path:
    table = {"doc_id": list(range(len(titles))), "title": titles, **columns}
    frame = pd.DataFrame(table)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["docs.parquet", "docs.csv"])
def test_each_document_gets_the_vector_of_its_own_texts(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_vectors, "_ROWS", 4)  # three chunks
    titles = ["a bb", "", "ccc", None, "d e f", "红 帽", "g", "h" * 50, "i", "", "k"]
    notes = ["x", "", None, None, "y", "z", "1", "2", "3", "w", "5"]
    prices = [0.5 + i for i in range(11)]
    source = documents(tmp_path / name, titles, note=notes, price=prices)
    batches = []

    def encoder(batch):
        batches.append([len(text.decode()) for text in batch.numpy()])
        return lengths(batch)

    rows = embed_texts(
        encoder,
        source,
        tmp_path / "out.parquet",
        columns=["title", "note"],
        into="text_vector",
        batch_size=3,
    )
    assert rows == 11
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert list(found.columns) == ["doc_id", "title", "note", "price", "text_vector"]
    assert found["doc_id"].tolist() == list(range(11))
    assert found["price"].tolist() == prices
    expected = []
    for title, note in zip(titles, notes, strict=True):
        text = " ".join(part for part in (title, note) if part)
        # Nothing to encode is a missing vector, not the encoder's of "".
        expected.append([len(text.encode()), len(text.split())])
    np.testing.assert_array_equal(np.stack(found["text_vector"]), expected)
    # Each chunk from its longest text on, in batches of three at the most.
    assert all(len(batch) <= 3 and batch == sorted(batch)[::-1] for batch in batches)
    assert sum(map(len, batches)) == 9
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([name, "out.parquet"])


def test_the_vectors_are_a_dense_column(tmp_path):
    source = documents(tmp_path / "docs.parquet", ["red hat", "", "hat"])
    out = tmp_path / "out.parquet"
    embed_texts(lengths, source, out, columns=["title"], into="v")
    vectors = read_documents(out).columns["v"]
    assert vectors.tolist() == [[7, 2], [0, 0], [3, 1]]


def test_texts_that_are_all_empty(tmp_path):
    source = documents(tmp_path / "docs.parquet", ["", None])
    out = tmp_path / "out.parquet"
    embed_texts(lengths, source, out, columns=["title"], into="v")
    assert pq.read_table(out).column("v").to_pylist() == [[0, 0], [0, 0]]


def broken(batch):
    return tf.fill([len(batch), 2], np.nan)


def flat(batch):
    return tf.zeros([len(batch)])


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({"columns": ["titel"]}, ValueError, "no column 'titel'; did you mean 'title'"),
        ({"columns": ["doc_id"]}, TypeError, "'doc_id' holds no texts. Received: int"),
        ({"columns": []}, ValueError, "columns names no column of texts"),
        ({"into": "title"}, ValueError, "have a column 'title'; choose another name"),
        ({"into": "Vector"}, ValueError, "a name has lower-case letters"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1. Received: 0"),
        ({"encoder": broken}, ValueError, "the encoder's vectors: NaN or infinity"),
        ({"encoder": flat}, ValueError, r"\[2, d\] of 2 strings. Received: shape \(2,"),
        ({"documents": "none.csv"}, FileNotFoundError, "no file at"),
        ({"documents": "docs.txt"}, ValueError, "is neither Parquet nor CSV"),
        ({"documents": "empty.parquet"}, ValueError, "holds no documents"),
        ({"documents": "cut.parquet"}, ValueError, "cannot be read"),
        ({"output": "docs.parquet"}, FileExistsError, "exists; remove it or choose"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tmp_path, options, kind, expected):
    documents(tmp_path / "docs.parquet", ["a", "b"])
    documents(tmp_path / "empty.parquet", [])
    (tmp_path / "docs.txt").write_text("title\n")
    (tmp_path / "cut.parquet").write_bytes(
        (tmp_path / "docs.parquet").read_bytes()[:99]
    )
    before = sorted(tmp_path.iterdir())
    given_options = {
        "encoder": lengths, "documents": "docs.parquet", "output": "out.parquet",
        "columns": ["title"], "into": "v", **options,
    }  # fmt: skip
    encoder = given_options.pop("encoder")
    for name in ("documents", "output"):
        given_options[name] = tmp_path / given_options[name]
    with pytest.raises(kind, match=expected) as error:
        embed_texts(encoder, **given_options)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
