"""How your own logs are declared; reading them is in `logs.py`.

It is apart from there so that a configuration is checked without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from tfrs_prerank.declaration import declaration
from tfrs_prerank.sampling.mixture import Mixture

ID_COLUMN = "doc_id"
"""What the column of ids is called in a documents file."""


@declaration
class LogColumns:
    """What the columns of a log are called; left out, they have the names here.

    Attributes:
        request_id: the request, strings or integers.
        doc_id: the document, of the type that the schema declares.
        time: when the request was made: seconds, or a timestamp (UTC where it says no
            zone).
        group_id: the user; without such a column each request is its own group.
        stage: how far the document came, names or codes (0 exposed, 1 ranked,
            2 preranked_out, 3 catalog, 4 in_batch); without such a column all documents
            count as exposed.
        position: where it was shown, from 0; empty for not shown.
        log_q: log probability with which a sampled document was drawn.
        rank: place in the production order, 1 = best, empty for none. Only hard
            negatives read it (`Mixture.hard`); no record has it.
        labels: column by task, and by `out_of_scene`; a task that is not named here has
            a column of its own name. An empty cell is an absent label.
        weights: column by task.
        teachers: column of teacher logits by task.
        features: column by feature, for those not called like the feature.
        document_id: the id in the documents file.
        document_features: column of the documents file by feature.

    Example:
    >>> from tfrs_prerank.datasets.log_config import LogColumns
    >>> LogColumns(request_id="sid", labels={"click": "clicked"}).doc_id
    'doc_id'
    """

    request_id: str = "request_id"
    doc_id: str = "doc_id"
    time: str = "time"
    group_id: str | None = None
    stage: str | None = None
    position: str | None = None
    log_q: str | None = None
    rank: str | None = None
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    teachers: dict[str, str] = dataclasses.field(default_factory=dict)
    features: dict[str, str] = dataclasses.field(default_factory=dict)
    document_id: str = ID_COLUMN
    document_features: dict[str, str] = dataclasses.field(default_factory=dict)


@declaration
class LogsConfig:
    """Where logs lie and how they are read.

    Attributes:
        requests: one or more paths or patterns (`logs/*.parquet`), one row for each
            (request, document). The rows of a request may lie anywhere in them.
        documents: a path or pattern, one row for each document.
        columns: what the columns are called.
        split: shares of training, validation and test requests, in time order.
        boundaries: the first seconds of validation and test, instead of shares.
        separator: stands between several values in a string, as in `War|Drama`.
        min_documents: shorter lists are dropped.
        shards: files of each split.
        mixture: what training lists are made of; None takes them as they were logged.
            Validation and test lists are whole in any case.
        source: always `"logs"`, in a configuration file.

    Example:
    >>> from tfrs_prerank.datasets.log_config import LogsConfig
    >>> LogsConfig(requests="logs/*.parquet", documents="docs.csv").split
    (0.8, 0.1, 0.1)
    """

    requests: str | tuple[str, ...]
    documents: str
    columns: LogColumns = LogColumns()
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    boundaries: tuple[int, int] | None = None
    separator: str = "|"
    min_documents: int = 1
    shards: int = 1
    mixture: Mixture | None = None
    source: Literal["logs"] = "logs"

    def __post_init__(self) -> None:
        if min(self.split) < 0 or not math.isclose(sum(self.split), 1, abs_tol=1e-6):
            raise ValueError(
                f"split needs shares that sum to 1. Received: {self.split}"
            )
        if self.boundaries is not None and self.boundaries[0] > self.boundaries[1]:
            raise ValueError(f"boundaries must ascend. Received: {self.boundaries}")
        if not self.separator:
            raise ValueError("separator must not be empty. Received: ''")
        for name in ("min_documents", "shards"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. Received: {getattr(self, name)}"
                )
        hard = None if self.mixture is None else self.mixture.hard
        if hard is not None and self.columns.rank is None:
            raise ValueError(
                "mixture.hard needs the production order; name its column in "
                "columns.rank, or leave mixture.hard out. Received: rank=None"
            )
