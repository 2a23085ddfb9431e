"""Vocabulary files inside the graph: their lines, and tables that find them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf


def read_lines(path: Path, where: str) -> list[str]:
    """Reads the lines of a vocabulary file as TensorFlow does.

    Args:
        path: the file.
        where: what an error begins with.

    Returns:
        The lines without their ends.

    Raises:
        ValueError: the file is empty or not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text: {error}") from None
    # TensorFlow ends lines at a newline, and at one carriage return before it.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if text.endswith("\n") or not text:
        lines.pop()
    if not lines:
        raise ValueError(f"{where} is empty")
    return lines


def read_tokens(path: Path, needed: Iterable[str]) -> dict[str, int]:
    """Reads the vocabulary of a BERT.

    Args:
        path: a file with one token a line.
        needed: tokens that must be in it.

    Returns:
        The number of each token's line, from 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, not UTF-8, holds a token twice or an empty line,
            or lacks one that is needed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; a vocabulary has one token a line, in the order of "
            "their ids"
        )
    tokens: dict[str, int] = {}
    for number, line in enumerate(read_lines(path, str(path))):
        if not line:
            raise ValueError(
                f"{path} has nothing in line {number + 1}; a token's line is its id, "
                "so put a name there that is not used"
            )
        if line in tokens:
            raise ValueError(
                f"{path} holds {line!r} in line {tokens[line] + 1} and line "
                f"{number + 1}; a token's line is its id, so give one of them a name "
                "that is not used"
            )
        tokens[line] = number
    for token in needed:
        if token not in tokens:
            raise ValueError(
                f"{path} has no line {token!r} among its {len(tokens)}; take the "
                "vocabulary that the model was trained with"
            )
    return tokens


def line_table(
    path: Path, name: str, dtype: tf.DType = tf.string
) -> tf.lookup.StaticHashTable:
    """Makes a table from a file's lines to their numbers, int64 from 0.

    The file is an asset of the SavedModel, so `saved_model.pb` does not grow with it.

    Args:
        path: a file with one value a line, each once.
        name: what the table is called; its content is added.
        dtype: type of the values, string or int64.

    Returns:
        The table; what is in no line is -1.
    """
    whole_line = tf.lookup.TextFileIndex.WHOLE_LINE
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    initializer = FileInitializer(
        f"{name}_{content[:16]}",
        str(path.resolve()),
        key_dtype=dtype,
        # TensorFlow parses integers from a column only, not from a whole line.
        key_index=whole_line if dtype == tf.string else 0,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    return tf.lookup.StaticHashTable(initializer, default_value=-1)


class FileInitializer(tf.lookup.TextFileInitializer):
    """Fills a table that is shared by the file's content, not by its path.

    TensorFlow names a table by the path. A vocabulary that is collected anew, to the
    same path and in the same process, would silently keep the old one's rows.
    """

    def __init__(self, table_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table_name = table_name

    @property
    def _shared_name(self) -> str:
        return self._table_name
