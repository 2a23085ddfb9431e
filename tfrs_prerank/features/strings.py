"""From strings to vectors: the one way that a text is encoded, wherever it appears."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.features.declarations import Text
from tfrs_prerank.features.lookups import is_pad
from tfrs_prerank.features.pooling import pool
from tfrs_prerank.features.schema import existing_folder
from tfrs_prerank.features.tables import EmbeddingTable
from tfrs_prerank.features.tokens import split
from tfrs_prerank.layers import SentenceBert, TextCNN


class StringEncoder(tf.keras.layers.Layer):
    """Encodes strings to vectors as a `Text` declares it.

    A field of single texts, one of several texts and a history of texts go through the
    same encoder, with the same weights.

    Args:
        feature: the declaration.
        source: the encoder of the text whose token embeddings, or whole BERT, are used;
            None for its own.

    Attributes:
        table: the embeddings of its tokens, None for a BERT.
        bert: the BERT, None for other encoders.
    """

    def __init__(self, feature: Text, source: StringEncoder | None = None) -> None:
        super().__init__(name=f"{feature.name}_strings", autocast=False)
        self.feature = feature
        self.table: EmbeddingTable | None = None
        self.bert: SentenceBert | None = None
        self.cnn: TextCNN | None = None
        self.projection: Any = None
        self.normalization: Any = None
        if feature.encoder == "sentence_bert":
            self.bert = _bert(feature) if source is None else source.bert
            self.size = feature.dimension
            # Of a frozen BERT this is all that is trained.
            self.projection = tf.keras.layers.Dense(self.size, name="projection")
            self.normalization = tf.keras.layers.LayerNormalization(
                name="normalization"
            )
            return
        self.table = EmbeddingTable(feature) if source is None else source.table
        assert self.table is not None
        self.size = self.table.size
        if feature.encoder == "cnn":
            self.cnn = TextCNN(feature.widths, feature.filters, name="cnn")
            self.projection = tf.keras.layers.Dense(self.size, name="projection")

    def call(
        self, texts: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes texts.

        Args:
            texts: strings `[R]`.
            training: drops units, adds the L2 penalty.

        Returns:
            Vectors `[R, size]`, zero where there is no token, and whether there is one,
            bool `[R]`.
        """
        if self.bert is not None:
            vectors, real = self._sentences(texts, training)
        else:
            vectors, real = self._tokens(texts, training)
        if self.projection is not None:
            vectors = self.projection(vectors)
        if self.normalization is not None:
            vectors = self.normalization(vectors)
        vectors = tf.cast(vectors, self.compute_dtype)
        return tf.where(real[:, tf.newaxis], vectors, tf.zeros_like(vectors)), real

    @property
    def lookups(self) -> list[tf.lookup.StaticHashTable]:
        """The hash tables that are filled from files."""
        if self.bert is not None:
            table = self.bert.tokenizer.table
            return [] if table is None else [table]
        assert self.table is not None
        return self.table.lookups

    def _tokens(self, texts: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        assert self.table is not None
        if self.feature.by_pieces:
            rows = self.table.lookup.pieces(texts, self.feature.max_tokens)
            rows, used = tf.maximum(rows, 0), rows >= 0
        else:
            tokens = split(self.feature, texts)
            rows = self.table.rows_of(tokens, training)
            used = tf.logical_not(is_pad(tokens))
        embedded = self.table(rows, used=used, training=training)
        real = tf.reduce_any(used, axis=-1)
        if self.cnn is not None:
            return self.cnn(embedded, mask=used), real
        return pool(embedded, used, "mean"), real

    def _sentences(
        self, texts: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        assert self.bert is not None
        ids, mask = self.bert.tokens(texts)
        # Two of them are special tokens.
        real = tf.reduce_sum(tf.cast(mask, tf.int32), axis=-1) > 2
        return self.bert.vectors_of(ids, mask, training=training), real


def encode_lists(
    strings: StringEncoder, values: tf.Tensor, training: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Encodes several texts a row, pads not at all.

    Args:
        strings: the encoder.
        values: strings `[rows, T]`, padded with `""`.
        training: see `StringEncoder`.

    Returns:
        Vectors `[rows, T, size]` and which texts have a token, bool `[rows, T]`.
    """
    shape = tf.shape(values)
    flat = tf.reshape(values, [-1])
    # A history of 50 places holds few texts, and a BERT is dear.
    place = tf.where(tf.logical_not(is_pad(flat)))
    vectors, real = strings(tf.gather_nd(flat, place), training=training)
    length = values.shape[1]
    vectors = tf.scatter_nd(
        place, vectors, tf.stack([tf.size(flat, tf.int64), strings.size])
    )
    real = tf.scatter_nd(
        place, tf.cast(real, tf.int32), tf.size(flat, tf.int64)[tf.newaxis]
    )
    vectors = tf.reshape(vectors, [shape[0], length, strings.size])
    return vectors, tf.reshape(real > 0, [shape[0], length])


def _bert(feature: Text) -> SentenceBert:
    assert feature.pretrained is not None
    folder = existing_folder(feature.pretrained, feature.name, "pretrained")
    try:
        return SentenceBert.from_pretrained(
            folder,
            max_length=feature.max_tokens,
            trainable_blocks=feature.trainable_blocks,
            layer_decay=feature.layer_decay,
            fast=feature.tokenizer == "fast_wordpiece",
            name="bert",
        )
    except ValueError as error:
        # A layer knows nothing of features.
        raise ValueError(
            f"{feature.name}: {error} (its `max_length` is the feature's max_tokens)"
        ) from None
