"""What goes into a model: the declarations of features and tasks.

What belongs here: frozen declarations and their own checks. Checks that need more than
one of them are in `schema.py`; turning them into Keras layers is in `encoders.py`.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field

from tfrs_prerank.declaration import check_effect, declaration

Owner = Literal["query", "doc", "cross"]
IdType = Literal["string", "int64"]

STAGES = {
    "exposed": 0,
    "ranked": 1,
    "preranked_out": 2,
    "catalog": 3,
    "in_batch": 4,
}
"""Stage names of a candidate and their codes in a batch; -1 is padding."""

RESERVED_NAMES = frozenset(
    {
        "doc_ids",
        "doc_id",
        "mask",
        "stage",
        "position",
        "log_q",
        "request_id",
        "group_id",
        "time",
        "scores",
        "found",
        "positions",
        "num_docs",
        "query_vector",
        "doc_vector",
        "signature_name",
        "loss",
    }
)
"""Names of a batch's own columns and of an export's inputs and outputs."""

BATCH_COLUMNS = ("position", "time")
"""Batch columns that `training_only` features may name; a `Match` may name `time`."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str) -> None:
    """Raises ValueError unless a feature's or task's name is usable everywhere."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a name has lower-case letters, digits and _, starting with a letter. "
            f"Received: {name!r}"
        )
    if name.endswith("_bytes"):
        raise ValueError(
            "a name must not end in _bytes, which TensorFlow Serving base64-codes. "
            f"Received: {name!r}"
        )


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {name}={value}")


def _check_table(feature: Categorical | Text | Sequence) -> None:
    """Checks what every feature with an embedding table has."""
    _check_positive(
        buckets=feature.buckets,
        dimension=feature.dimension,
        min_count=feature.min_count,
        max_vocabulary=feature.max_vocabulary,
    )
    if feature.l2 < 0:
        raise ValueError(f"l2 must not be negative. Received: l2={feature.l2}")


def _check_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1). Received: {name}={value}")


def _check_ids(vocabulary: str | None, buckets: int | None) -> None:
    if vocabulary is not None and buckets is not None:
        raise ValueError(
            "give a vocabulary file or a number of hash buckets, not both. "
            f"Received: vocabulary={vocabulary!r}, buckets={buckets}"
        )


def _check_idle(feature: Categorical | Text | Sequence) -> None:
    """Refuses what belongs to a vocabulary or a table that a feature does not have."""
    # A collected vocabulary keeps the limits that it was collected with.
    if feature.buckets is not None:
        check_effect(feature, "buckets", "min_count", "max_vocabulary")
    if not isinstance(feature, Categorical) and feature.shares is not None:
        names = ("l2", "min_count", "max_vocabulary")
        # What a BERT gives is projected by each text for itself.
        is_bert = isinstance(feature, Text) and feature.encoder == "sentence_bert"
        check_effect(feature, "shares", *names, *(() if is_bert else ("dimension",)))


@declaration
class Categorical:
    """An id or a set of ids, such as a user, a city or the genres of a film.

    A value's embedding is a row of a table. Row 0 stands for every value that the
    vocabulary lacks and for a missing value; `id_dropout` sends known ids there in
    training, so that it is trained. With `buckets`, values are hashed instead.

    Values that share a bucket cannot be told apart. With several `hashes` h_1 .. h_H
    into the one table E a value v is the mean of as many rows,

        e(v) = (E[h_1(v)] + ... + E[h_H(v)]) / H,

    so that two values are one only where all their rows are: of 100,000 values in as
    many buckets 37% have an embedding of their own with one hash, and all but a few
    with two. A missing or dropped value is row 0 as a whole.

    Differs from the papers: hash embeddings weigh the rows by a learned number of each
    value, and both papers add rows up. The mean keeps the size of an embedding, and the
    length of Adam's steps, whatever the number of hashes.

    Attributes:
        name: the column.
        owner: the tower that reads it: `"query"`, `"doc"` or `"cross"`.
        vocabulary: a file with one value a line. Without it and without `buckets`, the
            vocabulary is collected from training data by `adapt`.
        buckets: number of hash buckets, for ids without a vocabulary.
        hashes: number of hash functions into the buckets.
        dtype: `"string"` or `"int64"`.
        max_values: values per row; above 1 the column is padded, `[rows, max_values]`.
        pooling: how several values become one vector.
        dimension: size of the embedding.
        id_dropout: share of the values replaced by the unknown id in training.
        l2: L2 penalty on the rows that a batch looks up (never on the whole table).
        min_count: values seen less often stay out of a collected vocabulary.
        max_vocabulary: size limit of a collected vocabulary; the most frequent stay.
        point_in_time: the column comes from the request's record in training (as it was
            then) and from the documents table at export.
        training_only: feeds the bias logit that serving leaves out.
        privileged: read by a `Ranker` alone, as what is too costly for a pre-ranker: a
            pre-ranker learns from it by distillation only, and serving never sees it.

    References:
        Svenstrup et al., Hash embeddings for efficient word representations,
        https://arxiv.org/abs/1709.03933, section 2.
        Serrà and Karatzoglou, Getting deep recommenders fit: Bloom embeddings for
        sparse binary input/output networks, https://arxiv.org/abs/1706.03993.

    >>> from tfrs_prerank import Categorical
    >>> Categorical("user_id", "query", buckets=100_000, id_dropout=0.1).dimension
    16
    """

    name: str
    owner: Owner
    vocabulary: str | None = None
    buckets: int | None = None
    hashes: int = 1
    dtype: IdType = "string"
    max_values: int = 1
    pooling: Literal["mean", "sum"] = "mean"
    dimension: int = 16
    id_dropout: float = 0.0
    l2: float = 0.0
    min_count: int = 1
    max_vocabulary: int | None = None
    point_in_time: bool = False
    training_only: bool = False
    privileged: bool = False
    kind: Literal["categorical"] = "categorical"

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_ids(self.vocabulary, self.buckets)
        _check_table(self)
        _check_positive(
            hashes=self.hashes,
            max_values=self.max_values,
        )
        _check_share(id_dropout=self.id_dropout)
        if self.buckets is None:
            check_effect(self, "buckets", "hashes")
        _check_idle(self)


@declaration
class Numeric:
    """A number, such as a price, an age or a counter.

    It becomes a bucket's embedding, with buckets at the quantiles of training data or
    at given boundaries, or the field `x * w + b` with vectors w and b. There x has
    passed, in this order and where asked for, `log1p` (sign(x) log(1 + |x|), so that
    negative numbers stay finite) and standardisation with the mean and standard
    deviation of training data; it is computed in float32 under every policy. A field
    beyond 65,504 is infinite under `mixed_float16`, so bring large numbers into range.

    With `per`, which names the column of what it is a share of, such as clicks per
    exposure, x is the log of the smoothed rate over the rate of all:

        x = log((clicks + s p) / (exposures + s) / p)

    with s the `smoothing`, exposures at the rate p that each row is given, and p the
    total of clicks over that of exposures in training data. x is 0 where nothing is
    known. Negative counts are refused in training and are 0 in an export. Counters of a
    document or its author are `point_in_time`; those of a pair of query or user and
    document belong to `cross`, and the client sends them.

    NaN and infinity are refused in training. An export must answer the other requests
    of a batch, so there they count as missing: they get the `missing` vector or, where
    no sentinel is declared, the field of the mean (0 without `standardize`) or of the
    middle bucket; a `Match` of them is 0.

    Attributes:
        name: the column.
        owner: the tower that reads it.
        log1p: compress the range; it would not change buckets, so not with them.
        per: name of the `Numeric` that this one is a share of. It has the same owner
            and comes from the same place; with `missing` it has the same sentinel, and
            a row without either is one where both columns hold it.
        smoothing: how many of `per` weigh as much as the rate of all.
        standardize: subtract the mean and divide by the standard deviation.
        buckets: number of quantile buckets, with boundaries from training data.
        boundaries: bucket boundaries, ascending; a bucket begins at its boundary.
        statistics: JSON file with the mean, deviation, boundaries and rate that `adapt`
            found.
        missing: the value that means "not known"; it gets a learned vector of its own.
        dtype: `"float32"`, or `"int64"` for times in seconds that a `Match` subtracts.
        dimension: size of the field.
        point_in_time: see `Categorical`.
        training_only: see `Categorical`.
        privileged: see `Categorical`.

    >>> from tfrs_prerank import Numeric
    >>> Numeric("price", "doc", log1p=True, standardize=True).log1p
    True
    >>> Numeric("clicks", "cross", per="exposures", smoothing=50.0).needs_statistics
    True
    """

    name: str
    owner: Owner
    log1p: bool = False
    per: str | None = None
    smoothing: float = 20.0
    standardize: bool = False
    buckets: int | None = None
    boundaries: tuple[float, ...] | None = None
    statistics: str | None = None
    missing: float | None = None
    dtype: Literal["float32", "int64"] = "float32"
    dimension: int = 16
    point_in_time: bool = False
    training_only: bool = False
    privileged: bool = False
    kind: Literal["numeric"] = "numeric"

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_positive(dimension=self.dimension)
        if self.buckets is not None and self.buckets < 2:
            raise ValueError(f"buckets must be at least 2. Received: {self.buckets}")
        if self.buckets is not None and self.boundaries is not None:
            raise ValueError(
                "give buckets (boundaries from data) or boundaries, not both. "
                f"Received: buckets={self.buckets}, boundaries={self.boundaries}"
            )
        self._check_rate()
        for name in ("log1p", "standardize"):
            if getattr(self, name) and self.bucketed:
                raise ValueError(
                    f"{name} does nothing where there are buckets; leave one of the "
                    "two out"
                )
        if (
            self.dtype == "int64"
            and self.missing is not None
            and not self.missing.is_integer()
        ):
            raise ValueError(
                f"missing must be a whole number for int64. Received: {self.missing}"
            )
        if self.boundaries is not None and (
            not self.boundaries
            or any(
                low >= high
                for low, high in zip(self.boundaries, self.boundaries[1:], strict=False)
            )
        ):
            raise ValueError(
                f"boundaries must ascend strictly. Received: {self.boundaries}"
            )

    @property
    def bucketed(self) -> bool:
        """Whether the number becomes a bucket's embedding."""
        return self.buckets is not None or self.boundaries is not None

    @property
    def needs_statistics(self) -> bool:
        """Whether training data must be seen before a model can be built."""
        return self.standardize or self.buckets is not None or self.per is not None

    def _check_rate(self) -> None:
        if self.per is None:
            check_effect(self, "per", "smoothing")
            return
        check_effect(self, "per", "log1p", "buckets", "boundaries")
        if not 0 < self.smoothing < math.inf:
            raise ValueError(
                f"smoothing must be above 0 and finite. Received: {self.smoothing}"
            )


@declaration
class Dense:
    """A given vector, such as an image embedding.

    It is projected and layer-normalised. An all-zero vector means missing and gets a
    learned vector of its own in the place of the field. That is an indicator too: what
    reads the field multiplies the learned vector by its own weights, which adds to its
    output what the weights of an indicator would.

    NaN and infinity are refused in training; a vector with one of them counts as
    missing in an export, and a `Match` of it is 0. `datasets.reduce_vectors` makes long
    vectors shorter, `datasets.embed_texts` makes some of texts.

    Attributes:
        name: the column, float32 `[rows, size]`.
        owner: the tower that reads it.
        size: length of the vector.
        dimension: size of the field that it is projected to.
        point_in_time: see `Categorical`.
        training_only: see `Categorical`.
        privileged: see `Categorical`.

    >>> from tfrs_prerank import Dense
    >>> Dense("cover", "doc", size=512).dimension
    16
    """

    name: str
    owner: Owner
    size: int
    dimension: int = 16
    point_in_time: bool = False
    training_only: bool = False
    privileged: bool = False
    kind: Literal["dense"] = "dense"

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_positive(size=self.size, dimension=self.dimension)


@declaration
class Text:
    """Raw strings, tokenised inside the graph and encoded to one vector each.

    How a string is split (`tokenizer`):

    * `"words"`: lower-cased by Unicode case folding, split at spaces, punctuation and
      symbols; a Chinese or Japanese character is a word.
    * `"whitespace"`: lower-cased in the same way, split at spaces only.
    * `"characters"`: lower-cased and freed of punctuation as for `"words"`, then split
      into characters; runs of them (`ngrams`) do not cross a space.
    * `"wordpiece"`: the word pieces of a BERT `vocabulary`, as Hugging Face splits,
      lower-cased and without accents (a BERT of `pretrained` as it says itself).
    * `"fast_wordpiece"`: the same pieces by another algorithm, which keeps the
      vocabulary inside the graph: `saved_model.pb` grows with it.

    What becomes of its tokens (`encoder`):

    * `"mean"`: the mean of their embeddings.
    * `"cnn"`: `layers.TextCNN` over their embeddings, projected to `dimension`.
    * `"sentence_bert"`: `layers.SentenceBert` with the weights of `pretrained`,
      projected to `dimension` and layer-normalised.
    * None: nothing; the text is for `Match` alone and makes no field.

    A text without a token has the vector zero. Several strings (`max_values`) are
    encoded one by one, and their mean is the field.

    Attributes:
        name: the column of strings.
        owner: the tower that reads it.
        tokenizer: see above.
        ngrams: shortest and longest run of tokens that becomes a token; `(1, 1)` are
            the tokens themselves, `(1, 2)` those and their pairs. A shorter text is one
            run as a whole. Not for word pieces.
        encoder: see above.
        vocabulary: a file with one token a line; `adapt` collects it unless the tokens
            are word pieces.
        buckets: number of hash buckets for the tokens, instead of a vocabulary.
        pretrained: the folder of a Hugging Face BERT; brings its own vocabulary.
        trainable_blocks: how many of its last blocks are trained, 0 for none, `"all"`
            for its embeddings too.
        layer_decay: learning rate of each block, as a share of that of the next.
        widths: the numbers of tokens that a filter of `"cnn"` spans.
        filters: the number of filters of each width.
        shares: name of another `Text` of the same tokeniser, whose token embeddings (or
            whole BERT) it uses; the filters of `"cnn"` and projections are its own.
        max_tokens: tokens kept of each string; of runs, as many of each length. A
            BERT's two special tokens count.
        max_values: strings per row, such as past queries; above 1 the column is padded.
        dimension: size of the vector, where no table is shared.
        l2: see `Categorical`.
        min_count: see `Categorical`.
        max_vocabulary: see `Categorical`.
        point_in_time: see `Categorical`.
        training_only: see `Categorical`.
        privileged: see `Categorical`.

    >>> from tfrs_prerank import Text
    >>> Text("title", "doc", shares="query").max_tokens
    32
    >>> Text("query", "query", tokenizer="characters", ngrams=(1, 2)).token_width
    64
    """

    name: str
    owner: Owner
    tokenizer: Literal[
        "words", "whitespace", "characters", "wordpiece", "fast_wordpiece"
    ] = "words"
    ngrams: tuple[int, int] = (1, 1)
    encoder: Literal["mean", "cnn", "sentence_bert"] | None = "mean"
    vocabulary: str | None = None
    buckets: int | None = None
    pretrained: str | None = None
    trainable_blocks: int | Literal["all"] = 0
    layer_decay: float = 1.0
    widths: tuple[int, ...] = (1, 2, 3)
    filters: int = 32
    shares: str | None = None
    max_tokens: int = 32
    max_values: int = 1
    dimension: int = 16
    l2: float = 0.0
    min_count: int = 1
    max_vocabulary: int | None = None
    point_in_time: bool = False
    training_only: bool = False
    privileged: bool = False
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_ids(self.vocabulary, self.buckets)
        _check_table(self)
        _check_positive(
            filters=self.filters,
            max_tokens=self.max_tokens,
            max_values=self.max_values,
        )
        if self.shares is not None and (
            self.vocabulary or self.buckets or self.pretrained
        ):
            raise ValueError(
                f"shares={self.shares!r} brings its own vocabulary; "
                "leave out vocabulary, buckets and pretrained"
            )
        self._check_tokens()
        self._check_encoder()
        _check_idle(self)

    @property
    def by_pieces(self) -> bool:
        """Whether the tokens are word pieces of a BERT vocabulary."""
        return self.tokenizer in ("wordpiece", "fast_wordpiece")

    @property
    def token_width(self) -> int:
        """The number of tokens that a string is padded to."""
        return self.max_tokens * (1 + self.ngrams[1] - self.ngrams[0])

    def _check_tokens(self) -> None:
        shortest, longest = self.ngrams
        if not 1 <= shortest <= longest:
            raise ValueError(
                "ngrams are the shortest and the longest run, from 1. Received: "
                f"ngrams={self.ngrams}"
            )
        if not self.by_pieces:
            return
        if longest > 1:
            raise ValueError(
                f"ngrams are runs of words or characters, tokenizer={self.tokenizer!r} "
                f"has none; leave ngrams out. Received: ngrams={self.ngrams}"
            )
        if self.encoder not in (None, "sentence_bert") and not (
            self.vocabulary or self.shares
        ):
            raise ValueError(f"tokenizer={self.tokenizer!r} needs vocabulary=FILE")

    def _check_encoder(self) -> None:
        if self.encoder == "cnn":
            if not self.widths or min(self.widths) < 1:
                raise ValueError(
                    "widths are numbers of tokens, at least one of them. Received: "
                    f"widths={self.widths}"
                )
            if self.ngrams[0] != self.ngrams[1]:
                raise ValueError(
                    "encoder='cnn' reads tokens in their order, so it takes runs of "
                    f"one length. Received: ngrams={self.ngrams}"
                )
        else:
            check_effect(self, "encoder", "widths", "filters")
        if self.encoder is None:
            # A match compares words.
            fields = ("dimension", "shares", "training_only", *_OF_TABLES)
            check_effect(self, "encoder", *fields)
            if self.by_pieces:
                check_effect(self, "encoder", "tokenizer")
        if self.encoder != "sentence_bert":
            names = ("pretrained", "trainable_blocks", "layer_decay")
            check_effect(self, "encoder", *names)
            return
        if not self.by_pieces:
            raise ValueError(
                "encoder='sentence_bert' reads word pieces; declare "
                f"tokenizer='wordpiece'. Received: tokenizer={self.tokenizer!r}"
            )
        if self.pretrained is None and self.shares is None:
            raise ValueError("encoder='sentence_bert' needs pretrained=FOLDER")
        if self.max_tokens < 3:
            raise ValueError(
                "max_tokens must be at least 3 for a BERT, whose special tokens are "
                f"two. Received: max_tokens={self.max_tokens}"
            )
        blocks = 0 if self.trainable_blocks == "all" else self.trainable_blocks
        if blocks < 0 or not 0 < self.layer_decay <= 1:
            raise ValueError(
                "trainable_blocks is from 0 or 'all', layer_decay in (0, 1]. Received: "
                f"trainable_blocks={self.trainable_blocks}, "
                f"layer_decay={self.layer_decay}"
            )
        # The vocabulary is that of the pretrained folder.
        check_effect(self, "encoder", *_OF_TABLES)
        if self.trainable_blocks == 0:
            check_effect(self, "trainable_blocks", "layer_decay")
        if self.shares is not None:
            check_effect(self, "shares", "trainable_blocks", "layer_decay")


_OF_TABLES = ("vocabulary", "buckets", "l2", "min_count", "max_vocabulary")
"""The options of a text's own token embeddings."""


@declaration
class Sequence:
    """A user's past behaviours, most recent first, encoded once per request.

    The encoder makes one vector of them; that of an empty history is zero. All but
    `"mean"` let the request's other fields (those of no sequence) attend to them:

    * `"mean"`: their mean, for long histories.
    * `"zero_attention"`: attention with a zero vector to attend to when no behaviour
      matters.
    * `"dot_attention"`, `"additive_attention"`: a weighted mean.
    * `"target_attention"`: a sum weighted by an MLP, of Deep Interest Network.
    * `"transformer"`: self-attention among the behaviours, then zero attention.

    Attributes:
        name: the column of ids or texts, `[requests, max_length]`.
        owner: always `"query"`.
        shares: name of a `Categorical` whose table the ids use, such as the document's
            own id, or of a `Text`: the values then are texts, such as past searches,
            and a behaviour is the mean of its tokens. It may belong to another tower.
        vocabulary: a file with one value a line, where no table is shared.
        buckets: number of hash buckets, where no table is shared.
        dtype: `"string"` or `"int64"`; that of the shared feature where there is one.
        max_length: behaviours kept.
        encoder: see above.
        heads: attention heads of `"zero_attention"` and `"transformer"`; the size of
            the embedding is a multiple of them.
        score: what zero attention, also that of `"transformer"`, compares with: `"dot"`
            or `"additive"`.
        zero_logit: logit of its zero vector: `"fixed"` at 0, `"learned"`, or a function
            of the `"query"`.
        softmax: whether the weights of `"target_attention"` add up to 1.
        blocks: blocks of the Transformer.
        positions: what the Transformer knows of the order: `"learned"` places,
            `"time_gap"` (from `times` to the request's `time`, in powers of two) or
            None.
        times: name of the int64 column `[requests, max_length]` of the behaviours'
            times in seconds, padded with -1, for `positions="time_gap"`. Sequences of
            one length may name the same column.
        dropout: share of what a sub-layer of the Transformer adds that is dropped in
            training.
        dimension: size of the embedding, where no table is shared.
        l2: see `Categorical`.
        min_count: see `Categorical`.
        max_vocabulary: see `Categorical`.
        privileged: see `Categorical`.

    >>> from tfrs_prerank import Sequence
    >>> Sequence("history", shares="movie_id", max_length=20).encoder
    'zero_attention'
    """

    name: str
    owner: Literal["query"] = "query"
    shares: str | None = None
    vocabulary: str | None = None
    buckets: int | None = None
    dtype: IdType = "string"
    max_length: int = 50
    encoder: Literal[
        "mean",
        "zero_attention",
        "dot_attention",
        "additive_attention",
        "target_attention",
        "transformer",
    ] = "zero_attention"
    heads: int = 1
    score: Literal["dot", "additive"] = "dot"
    zero_logit: Literal["fixed", "learned", "query"] = "fixed"
    softmax: bool = False
    blocks: int = 1
    positions: Literal["learned", "time_gap"] | None = "learned"
    times: str | None = None
    dropout: float = 0.0
    dimension: int = 16
    l2: float = 0.0
    min_count: int = 1
    max_vocabulary: int | None = None
    privileged: bool = False
    kind: Literal["sequence"] = "sequence"

    point_in_time = False
    training_only = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_ids(self.vocabulary, self.buckets)
        _check_table(self)
        _check_positive(
            max_length=self.max_length,
            heads=self.heads,
            blocks=self.blocks,
        )
        _check_share(dropout=self.dropout)
        if self.shares is not None and (self.vocabulary or self.buckets):
            raise ValueError(
                f"shares={self.shares!r} brings its own table; "
                "leave out vocabulary and buckets"
            )
        _check_idle(self)
        options = {name for names in _OPTIONS.values() for name in names}
        idle = options.difference(_OPTIONS.get(self.encoder, ()))
        check_effect(self, "encoder", *idle)
        if self.positions == "time_gap" and self.times is None:
            raise ValueError(
                "positions='time_gap' needs times=COLUMN, the behaviours' times in "
                "seconds. Received: times=None"
            )
        if self.times is not None:
            check_name(self.times)
            if self.positions != "time_gap":
                check_effect(self, "positions", "times")


_ZERO_ATTENTION = ("heads", "score", "zero_logit")
_OPTIONS = {
    "zero_attention": _ZERO_ATTENTION,
    "target_attention": ("softmax",),
    "transformer": (*_ZERO_ATTENTION, "blocks", "positions", "times", "dropout"),
}
"""The options of a sequence that an encoder reads, by encoder; others read none."""


@declaration
class Match:
    """How a request's columns match a document's, computed inside the graph.

    Nothing is sent by the client: the request's side is hashed once per request, the
    document's side is stored in the export (strings as int64 hashes). With L and R the
    distinct values of the left and the right column:

    * `"overlap"`: |L and R in common| / |L|; 0 where L is empty.
    * `"equal"`: 1 where both are given and the same, else 0.
    * `"contains"`: 1 where the single value on the right is among those on the left.
    * `"difference"`: left - right, of two numbers (int64 ones are subtracted as such).
    * `"log_ratio"`: log((1 + left) / (1 + right)), of two numbers from 0.
    * `"distance"`: Euclidean distance of two vectors, |left - right| of two numbers.
    * `"dot"`: inner product of two vectors.
    * `"bm25"`: relevance of a text, the document, to another one, the query:

        sum over the query's tokens t, each as often as it is there, of
        log(1 + (M - m(t) + 1/2) / (m(t) + 1/2))
        * f(t) (k1 + 1) / (f(t) + k1 (1 - b + b |document| / mean length))

      with f(t) the times that t is in the document and |document| the number of its
      tokens, of M documents of which m(t) hold t. The document is the document's
      column; where both are of one owner, the one on the right.

    `Text` columns, and sequences of texts, are compared by their tokens, those within
    `max_tokens`, without regard to upper and lower case; so are ids beside a text, each
    as one token: for names of several words or of Chinese characters declare a text of
    them (`encoder=None`) and `"overlap"`, with the name on the left. Word pieces count
    as words. Texts are compared as a whole for `"equal"`, and by
    `"contains"` where a text is looked for among several. Where either side is missing,
    the result is 0.

    What to use for what:

    * the query's words in a title: `"bm25"`, and `"overlap"` for their share;
    * an author's name in the query: `"overlap"` with the name on the left;
    * a brand or a tag named in the query: `"contains"` with the id on the right;
    * entities in common: `"overlap"` of several ids;
    * the same category, author or string: `"equal"`;
    * a category that the user prefers, a document seen before, the very query searched
      before: `"contains"` with the several on the left;
    * a user's profile and a document's topics: `"dot"` of two vectors;
    * an age, a price: `"difference"` (with `time`) or `"log_ratio"`;
    * kilometres or degrees between two places: `"distance"` of vectors of 2.

    The corpus of `"bm25"`, that is M, m and the mean length, is counted by `adapt`: in
    the documents table where the document's column is static, else in the training
    requests. An export keeps it as it is. New documents may hold tokens of which it
    knows nothing, with m(t) = 0.

    Differs from the paper: the 1 in the logarithm, as Lucene has it, keeps tokens of
    more than half of the documents above 0; the factor k1 + 1 makes a token that is
    once in a text of mean length count its logarithm.

    Cost per request, for N documents: O(N S log T) for `"bm25"` and for ids and texts
    where the request has S values and a document T, or O(N T log S) where S > T. An
    export stores 8 bytes for each of the T places of a document, and `"bm25"` 4 more.

    Attributes:
        name: what the field is called.
        left: a column, or `time` (the request's second).
        right: the other column.
        op: see above.
        owner: `"cross"` pairs a query column with a document column; `"query"` and
            `"doc"` pair two columns of their own.
        log1p: compress the result to sign(x) log(1 + |x|), for large differences.
        k1: of `"bm25"`: how slowly repeated tokens saturate; 0 ignores repetitions.
        b: of `"bm25"`: how much long documents are held back, in [0, 1].
        vocabulary: of `"bm25"`: a file with `token<TAB>documents` a line; a token that
            is in none of them has m(t) = 0.
        statistics: of `"bm25"`: a JSON file with `documents` and `mean_length` under
            the match's name. Where one of the two files is not given, `adapt` collects
            both.
        dimension: size of the field.
        privileged: see `Categorical`.

    References:
        Robertson and Zaragoza, The probabilistic relevance framework: BM25 and beyond,
        Foundations and Trends in Information Retrieval 3(4), 2009, section 3.4.

    >>> from tfrs_prerank import Match
    >>> Match("title_match", left="query", right="title", op="overlap").owner
    'cross'
    >>> Match("title_bm25", left="query", right="title", op="bm25", b=0.5).k1
    1.2
    """

    name: str
    left: str
    right: str
    op: Literal[
        "overlap",
        "equal",
        "contains",
        "difference",
        "log_ratio",
        "distance",
        "dot",
        "bm25",
    ]
    owner: Owner = "cross"
    log1p: bool = False
    k1: float = 1.2
    b: float = 0.75
    vocabulary: str | None = None
    statistics: str | None = None
    dimension: int = 16
    privileged: bool = False
    kind: Literal["match"] = "match"

    point_in_time = False
    training_only = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_positive(dimension=self.dimension)
        if self.op != "bm25":
            check_effect(self, "op", "k1", "b", "vocabulary", "statistics")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ValueError(
                f"k1 is from 0, b in [0, 1]. Received: k1={self.k1}, b={self.b}"
            )


@declaration
class Task:
    """Something a model predicts for a document: the probability of a behaviour.

    Attributes:
        name: the behaviour; a batch holds its labels as `label/<name>`.
        fuse: its weight in the pre-rank score of a model with several tasks,
            `scores = sum_k fuse_k * sigmoid(logit_k)`.

    >>> from tfrs_prerank import Task
    >>> Task("click", fuse=0.5)
    Task(name='click', fuse=0.5)
    """

    name: str
    fuse: float = 1.0

    def __post_init__(self) -> None:
        check_name(self.name)


Feature = Annotated[
    Categorical | Numeric | Dense | Text | Sequence | Match,
    Field(discriminator="kind"),
]
"""Any feature; in YAML its `kind` says which."""
