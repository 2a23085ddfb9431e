"""Statistics of a corpus for BM25: how many texts hold a token, how long texts are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfrs_prerank.features.counting import Counted, ValueCounts
from tfrs_prerank.features.declarations import Match, Text
from tfrs_prerank.features.schema import (
    Schema,
    stored_statistics,
    text_of,
    token_form,
)

_STRINGS_AT_ONCE = 2_000


@dataclasses.dataclass(frozen=True)
class CorpusStatistics:
    """What BM25 knows of a corpus, apart from its tokens.

    Attributes:
        documents: the number of texts with a token.
        mean_length: tokens in one of them, on average.
    """

    documents: int
    mean_length: float


class CorpusCounts:
    """Counts the tokens of a corpus, text after text.

    Args:
        text: how strings are split.
        folder: where surplus counts are written; who made it removes it.
        capacity: distinct tokens in memory.
    """

    def __init__(self, text: Text, folder: str | Path, capacity: int) -> None:
        self._text = text
        self._counts = ValueCounts(folder, capacity, clean=bytes.decode)
        self._waiting: list[list[str]] = []
        self._strings = 0
        self._documents = 0
        self._tokens = 0

    def update(self, documents: Iterable[list[str]]) -> None:
        """Takes in documents, each of one string or several."""
        for strings in documents:
            self._waiting.append(strings)
            self._strings += len(strings)
            if self._strings >= _STRINGS_AT_ONCE:
                self._count()

    def frequencies(self) -> list[Counted]:
        """Returns each token with its documents, most first, ties by token."""
        self._count()
        return sorted(self._counts.items(), key=lambda item: -item[1])

    def statistics(self) -> CorpusStatistics:
        """Returns the rest; texts without a token count for nothing."""
        self._count()
        return CorpusStatistics(self._documents, self._tokens / max(self._documents, 1))

    def _count(self) -> None:
        import tensorflow as tf

        from tfrs_prerank.features.tokens import split

        strings = [string for document in self._waiting for string in document]
        rows = split(self._text, tf.constant(strings, tf.string)).numpy()
        start = 0
        for document in self._waiting:
            found = rows[start : start + len(document)]
            start += len(document)
            tokens = found[found != b""].tolist()
            if tokens:
                self._documents += 1
                self._tokens += len(tokens)
                self._counts.update(set(tokens))
        self._waiting, self._strings = [], 0


def document_column(schema: Schema, match: Match) -> str:
    """Returns which side of a BM25 match is the document.

    Args:
        schema: the declarations.
        match: one of its matches with `op="bm25"`.
    """
    # A pair of one owner has the query on the left.
    left_is_document = match.owner == "cross" and schema[match.left].owner == "doc"
    return match.left if left_is_document else match.right


def query_column(schema: Schema, match: Match) -> str:
    """Returns which side of a BM25 match is the query; see `document_column`."""
    document = document_column(schema, match)
    return match.left if document == match.right else match.right


def made_for(schema: Schema, match: Match) -> dict[str, Any]:
    """Returns what of the declarations the statistics of a match depend on."""
    column = document_column(schema, match)
    text = text_of(schema, column)
    assert text is not None
    tokenizer, ngrams = token_form(text)
    return {
        "column": column,
        "tokenizer": tokenizer,
        "ngrams": list(ngrams),
        "max_tokens": text.max_tokens,
    }


def read_statistics(schema: Schema, match: Match) -> CorpusStatistics:
    """Reads the statistics of a BM25 match.

    Args:
        schema: the declarations.
        match: one of its matches.

    Raises:
        FileNotFoundError: the file is gone, or no corpus has been seen yet.
        KeyError: the file does not hold this match.
        ValueError: a number is missing or no number above 0, or the file was made for
            another declaration. A file by another hand may leave out what it was made
            for.
    """
    found = stored_statistics(match)
    problems = []
    for key in ("documents", "mean_length"):
        value = found.get(key)
        if not isinstance(value, int | float) or not 0 < value < float("inf"):
            problems.append(f"hold {key}={value!r}, which is no number above 0")
    for key, own in made_for(schema, match).items():
        if found.get(key, own) != own:
            problems.append(f"were made for {key}={found[key]!r}, not {own!r}")
    if problems:
        raise ValueError(
            f"{match.name}: statistics at {match.statistics} {problems[0]}; run "
            "`adapt` again"
        )
    return CorpusStatistics(found["documents"], found["mean_length"])


def write_frequencies(path: Path, frequencies: Iterable[Counted]) -> None:
    """Writes `token<TAB>documents` lines."""
    text = "".join(f"{token}\t{count}\n" for token, count in frequencies)
    path.write_bytes(text.encode("utf-8"))
