"""A pretrained BERT that turns texts into vectors."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfrs_prerank.layers._bert import BertBlock, BertConfig, BertEmbeddings, Packing
from tfrs_prerank.layers._checks import check_choice, check_positive_int
from tfrs_prerank.layers._precision import accumulate
from tfrs_prerank.layers._pretrained import POOLINGS, open_weights, read_folder
from tfrs_prerank.layers._vocabulary import read_tokens
from tfrs_prerank.layers._wordpiece import WordPiece

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class SentenceBert(tf.keras.layers.Layer):
    r"""Encodes texts with a pretrained BERT, from raw strings to vectors.

    A text becomes the tokens `[CLS] w_1 ... w_n [SEP]`, each the sum of the vectors of
    its word piece, its position and the kind of text; each block computes, with heads
    of size `d / heads` and biases in every linear map,

        x = Norm(x + W_o softmax(Q K^T / sqrt(d / heads)) V)
        x = Norm(x + W_2 gelu(W_1 x + b_1) + b_2)

    and the vector is the mean of the last block's over all tokens, or that of `[CLS]`,
    of unit length where `normalize`.

    Cost per text of `T` tokens, in multiply-adds: in each block `T (4 d^2 + 2 d inner)
    + 2 T^2 d`; 6 blocks of 384 and inner 1,536 take 11 million a token. Memory: the
    weights in float32 (91 MB of that model, half of it word pieces), and while it runs
    `T (3 d + inner)` and `heads T^2` numbers a text. Padding goes as far as the longest
    text of the batch, and enters the products of attention only.

    Differs from the papers: one text, never a pair; `[CLS]` is taken as it leaves the
    last block, without BERT's pooling layer; the maximum over tokens, which Sentence-
    BERT also tries, is not offered. What is frozen has no dropout either.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import tensorflow as tf
    >>> from tfrs_prerank.layers._bert import BertConfig
    >>> file = Path(tempfile.mkdtemp(), "vocab.txt")
    >>> _ = file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\nshoe\n##s\n")
    >>> config = BertConfig(7, 8, num_hidden_layers=1, num_attention_heads=2)
    >>> encode = SentenceBert(config, file)
    >>> encode(tf.constant(["Red shoes", ""])).shape
    TensorShape([2, 8])
    >>> ids, mask = encode.tokens(tf.constant(["Red shoes", ""]))
    >>> ids.numpy().tolist()
    [[2, 4, 5, 6, 3], [2, 3, 0, 0, 0]]

    Args:
        config: the sizes, a `BertConfig` or a mapping of its fields. Weights are drawn
            at random; `from_pretrained` reads them from a folder.
        vocabulary: file with one token a line, among them `[PAD]`, `[UNK]`, `[CLS]` and
            `[SEP]`. It becomes an asset of the SavedModel.
        max_length: most tokens of a text, the special ones included; what is behind
            them is cut. `None` means as many as there are positions.
        pooling: `"mean"` or `"cls"`.
        normalize: whether vectors become of unit length.
        lower: whether letters become small.
        strip_accents: whether accents go. `None` means where `lower`.
        chinese: whether a Chinese ideograph is a word of its own.
        trainable_blocks: how many of the last blocks are trained, 0 for none, `"all"`
            for the embeddings too.
        layer_decay: learning rate of each block, as a share of that of the next; see
            `learning_rate_scales`.
        fast: whether word pieces are found by TF-Text's Fast WordPiece: the same ids,
            but `saved_model.pb` holds the vocabulary.
        **kwargs: arguments of `tf.keras.layers.Layer`.

    Call arguments:
        texts: strings `[B]`, UTF-8. What is not UTF-8 in them is dropped. An empty text
            is `[CLS] [SEP]`.
        training: whether dropout is at work in what is trained.

    Returns:
        `[B, d]`, float32 also under mixed precision, where norms, softmax and the mean
        are computed in float32.

    Raises:
        ValueError: an argument is out of range, the vocabulary has not
            `config.vocab_size` tokens, holds one twice or lacks a special one, or (when
            called) the input is not strings `[B]`.
        FileNotFoundError: there is no such vocabulary.

    References:
        Reimers and Gurevych, Sentence-BERT, https://arxiv.org/abs/1908.10084,
        section 3.
        Devlin et al., BERT, https://arxiv.org/abs/1810.04805, section 3.
        Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762,
        eq. 1-2.
    """

    def __init__(
        self,
        config: BertConfig | Mapping[str, Any],
        vocabulary: str | os.PathLike[str],
        max_length: int | None = None,
        pooling: str = "mean",
        normalize: bool = False,
        lower: bool = True,
        strip_accents: bool | None = None,
        chinese: bool = True,
        trainable_blocks: int | str = 0,
        layer_decay: float = 1.0,
        fast: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = BertConfig.of(config)
        self.vocabulary = os.fspath(vocabulary)
        self.max_length = self._check_length(max_length)
        self.pooling = check_choice("pooling", pooling, POOLINGS)
        self.normalize = normalize
        self.lower = lower
        self.strip_accents = strip_accents
        self.chinese = chinese
        self.trainable_blocks = self._check_blocks(trainable_blocks)
        if not 0 < layer_decay <= 1:
            raise ValueError(
                f"`layer_decay` must be in (0, 1]. Received: {layer_decay}"
            )
        self.layer_decay = layer_decay
        self.fast = fast

        self._pad, self._cls, self._sep = self._special_ids()
        self.tokenizer = WordPiece(vocabulary, lower, strip_accents, chinese, fast)
        blocks = self.config.num_hidden_layers
        everything = trainable_blocks == "all"
        trained = blocks if everything else int(trainable_blocks)
        # Created here and not when first called: an unbuilt layer is not restored.
        with tf.name_scope(self.name):
            self.embeddings = BertEmbeddings(
                self.config, everything, dtype=self.dtype_policy, name="embeddings"
            )
            self.blocks = [
                BertBlock(
                    self.config,
                    number >= blocks - trained,
                    dtype=self.dtype_policy,
                    name=f"block_{number}",
                )
                for number in range(blocks)
            ]
        self.built = True

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        pooling: str | None = None,
        trainable_blocks: int | str = 0,
        layer_decay: float = 1.0,
        fast: bool = False,
        **kwargs: Any,
    ) -> SentenceBert:
        """Makes the layer from a folder of Hugging Face or sentence-transformers.

        Args:
            directory: holds `config.json`, `vocab.txt` and `model.safetensors`; if they
                are there, `tokenizer_config.json`, `sentence_bert_config.json`,
                `modules.json` and the pooling's `config.json` are followed.
            max_length: taken instead of the folder's own.
            pooling: taken instead of the folder's own.
            trainable_blocks: see `SentenceBert`.
            layer_decay: see `SentenceBert`.
            fast: see `SentenceBert`.
            **kwargs: arguments of `tf.keras.layers.Layer`.

        Returns:
            The layer with the folder's weights.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, the model is no BERT or not pooled by mean or
                `[CLS]`, the vocabulary does not fit, or a tensor is missing or of
                another shape.
        """
        found = read_folder(Path(directory), pooling)
        with open_weights(found.weights) as read:
            layer = cls(
                found.config,
                found.vocabulary,
                max_length or found.max_length,
                found.pooling,
                found.normalize,
                found.lower,
                found.strip_accents,
                found.chinese,
                trainable_blocks,
                layer_decay,
                fast,
                **kwargs,
            )
            layer.embeddings.assign(read)
            for number, block in enumerate(layer.blocks):
                block.assign(read, number)
        return layer

    def call(self, texts: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Encodes texts."""
        return self.vectors_of(*self.tokens(texts), training=training)

    def vectors_of(
        self, ids: tf.Tensor, mask: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Encodes tokens, as `tokens` gives them.

        Args:
            ids: int64 `[B, T]`.
            mask: bool `[B, T]`.
            training: see the call.

        Returns:
            See the call.
        """
        packing = Packing.of(mask)
        x = self.embeddings(packing.pack(ids), packing.places[:, 1], training=training)
        for block in self.blocks:
            x = block(x, packing, training=training)
        x = accumulate(x)
        if self.pooling == "cls":
            x = tf.gather(x, packing.rows[:, 0])
        else:
            x = tf.math.segment_mean(x, packing.places[:, 0])
        # torch's eps bounds the length, this one its square.
        return tf.math.l2_normalize(x, axis=-1, epsilon=1e-24) if self.normalize else x

    def tokens(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the tokens that a text is encoded from.

        Args:
            texts: strings `[B]`.

        Returns:
            Ids, int64 `[B, T]` with the `T` of the longest text, and which of them are
            no padding, bool `[B, T]`.
        """
        texts = tf.convert_to_tensor(texts)
        if texts.shape.rank not in (None, 1) or texts.dtype != tf.string:
            raise ValueError(
                f"{self.name} takes strings of shape [B]. Received: {texts.dtype.name} "
                f"of shape {texts.shape}"
            )
        pieces = self.tokenizer(texts, self.max_length - 2)
        ends = pieces.row_lengths()[:, tf.newaxis] + 1
        ids = pieces.to_tensor(tf.constant(self._pad, tf.int64))
        ids = tf.pad(ids, [[0, 0], [1, 1]], constant_values=self._pad)
        places = tf.range(tf.shape(ids, tf.int64)[1])
        ids = tf.where(places == 0, tf.constant(self._cls, tf.int64), ids)
        ids = tf.where(places == ends, tf.constant(self._sep, tf.int64), ids)
        return ids, places <= ends

    def learning_rate_scales(self) -> list[tuple[tf.Variable, float]]:
        """Returns what is trained, with the share of the learning rate for each.

        The last block has 1, and every part below it `layer_decay` times what the next
        has; the embeddings stand below the first block.
        """
        parts: list[tf.keras.layers.Layer] = [self.embeddings, *self.blocks]
        return [
            (variable, self.layer_decay**above)
            for above, part in enumerate(reversed(parts))
            for variable in part.trainable_variables
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "config": dataclasses.asdict(self.config),
            "vocabulary": self.vocabulary,
            "max_length": self.max_length,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "lower": self.lower,
            "strip_accents": self.strip_accents,
            "chinese": self.chinese,
            "trainable_blocks": self.trainable_blocks,
            "layer_decay": self.layer_decay,
            "fast": self.fast,
        }

    def _check_length(self, max_length: int | None) -> int:
        positions = self.config.max_position_embeddings
        if max_length is None:
            return positions
        length = check_positive_int("max_length", max_length)
        # [CLS] and [SEP] alone say nothing.
        if not 3 <= length <= positions:
            raise ValueError(
                f"`max_length` must be from 3 to the {positions} positions of the "
                f"model. Received: {max_length}"
            )
        return length

    def _check_blocks(self, trained: int | str) -> int | str:
        blocks = self.config.num_hidden_layers
        if trained == "all" or trained in range(blocks + 1):
            return trained
        raise ValueError(
            f"`trainable_blocks` must be 'all', or from 0 to {blocks}, which the model "
            f"has. Received: {trained!r}"
        )

    def _special_ids(self) -> tuple[int, int, int]:
        tokens = read_tokens(Path(self.vocabulary), _SPECIAL)
        if len(tokens) != self.config.vocab_size:
            raise ValueError(
                f"{self.vocabulary} has {len(tokens)} tokens, but vocab_size is "
                f"{self.config.vocab_size}; take both from the same model"
            )
        return tokens["[PAD]"], tokens["[CLS]"], tokens["[SEP]"]
