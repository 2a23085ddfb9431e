"""What goes into a model: the declarations of features and tasks.

What belongs here: frozen declarations and their own checks. Checks that need more than
one of them are in `schema.py`; turning them into Keras layers is in `encoders.py`.
"""

from __future__ import annotations

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
        names = ("dimension", "l2", "min_count", "max_vocabulary")
        check_effect(feature, "shares", *names)


@declaration
class Categorical:
    """An id or a set of ids, such as a user, a city or the genres of a film.

    A value's embedding is a row of a table. Row 0 stands for every value that the
    vocabulary lacks and for a missing value; `id_dropout` sends known ids there in
    training, so that it is trained. With `buckets`, values are hashed instead.

    Attributes:
        name: the column.
        owner: the tower that reads it: `"query"`, `"doc"` or `"cross"`.
        vocabulary: a file with one value a line. Without it and without `buckets`, the
            vocabulary is collected from training data by `adapt`.
        buckets: number of hash buckets, for ids without a vocabulary.
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

    >>> from tfrs_prerank import Categorical
    >>> Categorical("user_id", "query", buckets=100_000, id_dropout=0.1).dimension
    16
    """

    name: str
    owner: Owner
    vocabulary: str | None = None
    buckets: int | None = None
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
        _check_positive(
            buckets=self.buckets,
            max_values=self.max_values,
            dimension=self.dimension,
            min_count=self.min_count,
            max_vocabulary=self.max_vocabulary,
        )
        _check_share(id_dropout=self.id_dropout)
        if self.l2 < 0:
            raise ValueError(f"l2 must not be negative. Received: l2={self.l2}")
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

    NaN and infinity are refused in training. An export must answer the other requests
    of a batch, so there they count as missing: they get the `missing` vector or, where
    no sentinel is declared, the field of the mean (0 without `standardize`) or of the
    middle bucket; a `Match` of them is 0.

    Attributes:
        name: the column.
        owner: the tower that reads it.
        log1p: compress the range; it would not change buckets, so not with them.
        standardize: subtract the mean and divide by the standard deviation.
        buckets: number of quantile buckets, with boundaries from training data.
        boundaries: bucket boundaries, ascending; a bucket begins at its boundary.
        statistics: JSON file with the mean, deviation and boundaries that `adapt`
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
    """

    name: str
    owner: Owner
    log1p: bool = False
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
        return self.standardize or self.buckets is not None


@declaration
class Dense:
    """A given vector, such as an image embedding.

    An all-zero vector means missing and gets a learned vector of its own. NaN and
    infinity are refused in training; a vector with one of them counts as missing in an
    export, and a `Match` of it is 0.

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
    """Raw strings, tokenised inside the graph; the field is the mean of the tokens.

    Attributes:
        name: the column of strings.
        owner: the tower that reads it.
        tokenizer: `"words"` lower-cases by Unicode case folding and splits at spaces,
            punctuation and symbols; `"wordpiece"` splits words further into the pieces
            of `vocabulary`. Either way a Chinese or Japanese character is a word.
        vocabulary: a file with one token a line; `adapt` collects it for `"words"`.
        buckets: number of hash buckets for the tokens, instead of a vocabulary.
        shares: name of another `Text` of the same tokeniser, whose table it uses.
        max_tokens: tokens kept of each string.
        max_values: strings per row, such as past queries; above 1 the column is padded.
        dimension: size of the token embedding, where no table is shared.
        l2: see `Categorical`.
        min_count: see `Categorical`.
        max_vocabulary: see `Categorical`.
        point_in_time: see `Categorical`.
        training_only: see `Categorical`.
        privileged: see `Categorical`.

    >>> from tfrs_prerank import Text
    >>> Text("title", "doc", shares="query").max_tokens
    32
    """

    name: str
    owner: Owner
    tokenizer: Literal["words", "wordpiece"] = "words"
    vocabulary: str | None = None
    buckets: int | None = None
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
        _check_positive(
            buckets=self.buckets,
            max_tokens=self.max_tokens,
            max_values=self.max_values,
            dimension=self.dimension,
            min_count=self.min_count,
            max_vocabulary=self.max_vocabulary,
        )
        if self.shares is not None and (self.vocabulary or self.buckets):
            raise ValueError(
                f"shares={self.shares!r} brings its own vocabulary; "
                "leave out vocabulary and buckets"
            )
        if self.tokenizer == "wordpiece" and not (self.vocabulary or self.shares):
            raise ValueError('tokenizer="wordpiece" needs vocabulary=FILE')
        _check_idle(self)


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
        _check_positive(
            buckets=self.buckets,
            max_length=self.max_length,
            heads=self.heads,
            blocks=self.blocks,
            dimension=self.dimension,
            min_count=self.min_count,
            max_vocabulary=self.max_vocabulary,
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

    `Text` columns are compared by their tokens, and for `"equal"` as whole strings, in
    both cases without regard to upper and lower case; so are ids beside a text. Where
    either side is missing, the result is 0.

    Cost per request: O(N T log T) for N documents of T values.

    Attributes:
        name: what the field is called.
        left: a column, or `time` (the request's second).
        right: the other column.
        op: see above.
        owner: `"cross"` pairs a query column with a document column; `"query"` and
            `"doc"` pair two columns of their own.
        log1p: compress the result to sign(x) log(1 + |x|), for large differences.
        dimension: size of the field.
        privileged: see `Categorical`.

    >>> from tfrs_prerank import Match
    >>> Match("title_match", left="query", right="title", op="overlap").owner
    'cross'
    """

    name: str
    left: str
    right: str
    op: Literal["overlap", "equal", "contains", "difference", "log_ratio", "distance"]
    owner: Owner = "cross"
    log1p: bool = False
    dimension: int = 16
    privileged: bool = False
    kind: Literal["match"] = "match"

    point_in_time = False
    training_only = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_positive(dimension=self.dimension)


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
