"""Search requests on disk: TFRecord files, one request a record."""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.datasets._records import (
    RecordFormat,
    Values,
    id_array,
    optional_columns,
    required_columns,
)
from tfrs_prerank.declaration import nearest
from tfrs_prerank.distribution import shared_by_rows
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Column, Schema
from tfrs_prerank.progress import track

_FILES_AT_ONCE = 16
_DEFAULTS = {"stage": 0, "position": -1}
"""Values of real documents where the files lack the column."""
_END_MARK = "tfrs_prerank reader"
"""Follows what a check says: ids may hold anything, so brackets alone do not end it."""


def write(
    directory: str | Path,
    split: str,
    schema: Schema,
    requests: Iterable[Mapping[str, Any]],
    *,
    documents: DocumentTable | None = None,
    shards: int = 1,
) -> int:
    """Writes requests as TFRecord files, `<split>-00000-of-00004.tfrecord` and so on.

    A record is one `tf.train.Example`. A column with a value for each of the L
    documents is one list; a column with several values for each is the joined values
    and `<name>/lengths`. Static document columns are not written: readers take them
    from the documents table. Files get their names when all are complete.

    Args:
        directory: the folder, made where it is missing.
        split: such as `"train"`.
        schema: the features and tasks.
        requests: dicts of query features by name (a value or a list), `doc_ids`,
            point-in-time document columns and cross columns (L values, or L lists or an
            array `[L, T]`), `label/<task>` (NaN = absent), and where there are any
            `weight/<task>`, `teacher/<task>`, `label/out_of_scene`, `stage`,
            `position`, `log_q` (L values), `request_id`, `group_id`, `time` (one). All
            requests of a split have the same columns.
        documents: where given, every candidate must be in it.
        shards: number of files; requests go to them in turn.

    Returns:
        The number of requests.

    Raises:
        FileExistsError: there are files of this split already.
        ValueError: a column is missing or unknown, a list is empty or of another length
            than `doc_ids`, a document is unknown or there twice, or a value cannot be
            used. The message names request, column, value and fix; nothing stays
            behind.
        TypeError: a value has another type than declared.

    Example:
    >>> import tempfile
    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("user_id", "query", buckets=10),
    ...         Categorical("city", "doc", buckets=10),
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> request = {"user_id": "u1", "doc_ids": ["a", "b"], "label/click": [1, 0]}
    >>> write(tempfile.mkdtemp(), "train", schema, [request])
    1
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1. Received: shards={shards}")
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise ValueError(
            f"a split's name has letters, digits and _. Received: {split!r}"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    earlier = sorted(directory.glob(f"{split}-*.tfrecord"))
    if earlier:
        raise FileExistsError(
            f"{earlier[0]} exists; remove the files of split {split!r} or choose "
            "another directory"
        )
    paths = [
        directory / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord"
        for shard in range(shards)
    ]
    temporary = [path.with_name(f".tmp-{path.name}") for path in paths]
    record_format = RecordFormat(schema, documents)
    count = 0
    try:
        with contextlib.ExitStack() as stack:
            writers = [
                stack.enter_context(tf.io.TFRecordWriter(str(path)))
                for path in temporary
            ]
            for request in track(requests, f"writing {split}"):
                record = _encode(record_format.flatten(request, count))
                writers[count % shards].write(record)
                count += 1
        for path, place in zip(temporary, paths, strict=True):
            path.rename(place)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return count


def read(
    files_or_directory: str | Path | Iterable[str | Path],
    split: str | None = None,
    *,
    schema: Schema,
    documents: DocumentTable,
    batch_size: int,
    shuffle: bool = True,
    seed: int = 0,
    shuffle_block: int = 10_000,
) -> RequestReader:
    """Opens the files that `write` made, to train or evaluate with.

    Args:
        files_or_directory: files, or the folder of a split.
        split: the split, for a folder.
        schema: the features and tasks; columns that it does not declare are not read.
        documents: the documents table, which holds the static document columns.
        batch_size: requests of a batch.
        shuffle: whether each epoch has an order of its own; give False for evaluation.
        seed: of the order.
        shuffle_block: requests that are held in memory and shuffled at once.

    Returns:
        The reader, for `model.fit(reader)`, `model.evaluate(reader)` or a loop.

    Raises:
        FileNotFoundError: there are no such files, or some of a split are missing.
        ValueError: a file is cut off, holds no request, or lacks a column.
        KeyError: the documents table lacks a column.
        TypeError: ids or columns of the documents table have another type than
            declared.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> from tfrs_prerank.features import DocumentTable
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("user_id", "query", buckets=10),
    ...         Categorical("city", "doc", buckets=10),
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> documents = DocumentTable(np.array(["a", "b"]), {"city": ["Rome", "Oslo"]})
    >>> folder = tempfile.mkdtemp()
    >>> request = {"user_id": "u1", "doc_ids": ["b", "a"], "label/click": [1, 0]}
    >>> _ = write(folder, "train", schema, [request])
    >>> reader = read(
    ...     folder, "train", schema=schema, documents=documents, batch_size=8
    ... )
    >>> for batch in reader:
    ...     print(batch["city"].numpy(), batch["label/click"].numpy())
    [[b'Oslo' b'Rome']] [[1. 0.]]
    """
    files = _find(files_or_directory, split)
    return RequestReader(
        files, schema, documents, batch_size, shuffle, seed, shuffle_block
    )


class RequestReader:
    """Batches of requests, in an order that is a function of (seed, epoch).

    A batch is a dict with every feature of the schema by its name (query features `[B]`
    or `[B, T]`, document and cross features `[B, L]` or `[B, L, T]`), `doc_ids`, `mask`
    (bool, true = real), `label/<task>` (float32), `stage` and `position` (int32), all
    `[B, L]`, and `request_id`, `group_id` (string) and `time` (int64) of `[B]`; also
    `log_q`, `weight/<task>`, `teacher/<task>`, `label/out_of_scene` where they exist.
    L is the batch's longest list; rows are filled up with `""`, -1 and 0. Lists within
    lists are cut or filled up to the declared length. Where the files lack `stage`,
    documents count as exposed; without `position` it is -1, without `time` 0.

    With `shuffle` the files are read in a new order, and blocks of requests are
    shuffled in memory. The order does not depend on `tf.random.set_seed`, on the
    number of threads, or on what was read before. Workers of a distributed training
    each take their rows of every batch, so the order does not depend on their number.

    Args:
        files: TFRecord files.
        schema: see `read`.
        documents: see `read`.
        batch_size: see `read`.
        shuffle: see `read`.
        seed: see `read`.
        shuffle_block: see `read`.

    Raises:
        ValueError: a file is cut off, holds no request, or lacks a column. When batches
            are made: a document is not in the table, or a request has none.
    """

    def __init__(
        self,
        files: Sequence[Path],
        schema: Schema,
        documents: DocumentTable,
        batch_size: int,
        shuffle: bool,
        seed: int,
        shuffle_block: int,
    ) -> None:
        for name, value in (
            ("batch_size", batch_size),
            ("shuffle_block", shuffle_block),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {value}")
        self.files = tuple(files)
        self.schema = schema
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.shuffle_block = shuffle_block
        self.num_requests = sum(
            count_records(file) for file in track(self.files, "counting requests")
        )
        if self.num_requests == 0:
            raise ValueError(f"{self.files[0]} and the files beside it hold no request")
        self._columns = self._columns_in_files()
        self._make_table(documents)

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return -(-self.num_requests // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, tf.Tensor]]:
        """Yields the batches of epoch 0; errors are one line, as ValueError."""
        try:
            yield from self(0)
        except tf.errors.InvalidArgumentError as error:
            message = reader_message(error)
            if message is None:
                raise
            raise ValueError(message) from None

    def __call__(self, epoch: Any) -> tf.data.Dataset:
        """Returns the batches of one epoch.

        Args:
            epoch: its number, an int or an int64 tensor.

        Returns:
            A dataset of `len(self)` batches.
        """
        seed = tf.stack([tf.cast(self.seed, tf.int64), tf.cast(epoch, tf.int64)])
        files = tf.constant([str(file) for file in self.files])
        if self.shuffle:
            files = tf.random.experimental.stateless_shuffle(files, seed)
        # As many files at once on every machine: the order depends on it.
        dataset = tf.data.Dataset.from_tensor_slices(files).interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(len(self.files), _FILES_AT_ONCE),
            block_length=1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if self.shuffle:
            dataset = dataset.batch(self.shuffle_block).enumerate()
            dataset = dataset.flat_map(
                lambda place, block: _shuffled(block, seed, place)
            )
        dataset = dataset.batch(self.batch_size).map(
            self._parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        # Shuffling by blocks hides the length.
        length = tf.data.experimental.assert_cardinality(len(self))
        return shared_by_rows(dataset.apply(length)).prefetch(tf.data.AUTOTUNE)

    def _columns_in_files(self) -> dict[str, Column]:
        """Returns the columns to parse: those required and those that are there."""
        first = next(file for file in self.files if file.stat().st_size)
        record = next(iter(tf.data.TFRecordDataset(str(first)).take(1)))
        there = set(tf.train.Example.FromString(record.numpy()).features.feature)
        columns = required_columns(self.schema)
        for name in columns:
            if name not in there:
                raise ValueError(
                    f"{first} has no column {name!r}, which the schema declares; "
                    f"write it again with it, or: {nearest(name, there)}"
                )
        for name, column in optional_columns(self.schema).items():
            if name in there:
                columns[name] = column
        return columns

    def _make_table(self, documents: DocumentTable) -> None:
        """Makes the document columns as tensors, with a row of pads at the end."""
        ids = id_array(documents, self.schema)
        arrays = documents.arrays(self.schema)
        with tf.device("CPU:0"):
            self._row_of = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(
                    tf.constant(ids, self.schema.doc_id),
                    tf.range(len(ids), dtype=tf.int64),
                ),
                default_value=-1,
            )
            self._table = {}
            for name, column in self.schema.columns("doc").items():
                if column.static:
                    pad = np.full_like(arrays[name][:1], column.pad)
                    rows = np.concatenate([arrays[name], pad])
                    self._table[name] = tf.constant(rows, column.dtype)
        self._pad_row = len(ids)

    def _parse(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(
            records, {name: _spec(column) for name, column in self._columns.items()}
        )
        requests = tf.size(records)
        batch = {}
        for name in ("request_id", "group_id", "time"):
            if name not in parsed:
                kind = tf.int64 if name == "time" else tf.string
                batch[name] = tf.zeros([requests], kind)
        ids = parsed["doc_ids"]
        lengths = ids.row_lengths()
        _check(lengths > 0, parsed, "has no document; leave it out of the data")
        for name, values in parsed.items():
            column = self._columns[name]
            if column.owner != "query":
                message = f"column {name} has not one value for each of doc_ids"
                _check(values.row_lengths() == lengths, parsed, message)
            batch[name] = _padded(values, column)
        mask = tf.sequence_mask(lengths)
        batch["mask"] = mask
        for name, default in _DEFAULTS.items():
            if name not in parsed:
                batch[name] = tf.where(mask, default, -1)
        rows = self._row_of.lookup(batch["doc_ids"])
        unknown = mask & (rows < 0)
        _check(
            tf.logical_not(tf.reduce_any(unknown, axis=1)),
            parsed,
            lambda: tf.strings.join(
                [
                    "document ",
                    _text(tf.boolean_mask(batch["doc_ids"], unknown)[0]),
                    " is not in the documents table; add it there or leave it out",
                ]
            ),
        )
        # Unknown ones too: a failure to gather must not come before the message.
        rows = tf.where(rows < 0, tf.constant(self._pad_row, tf.int64), rows)
        for name, table in self._table.items():
            batch[name] = tf.gather(table, rows)
        return batch


def reader_message(error: BaseException) -> str | None:
    r"""Returns what a reader's own check says, out of TensorFlow's words around it.

    Batches are made inside TensorFlow, in `model.fit(reader)` within the training step,
    so what is wrong with a request arrives in the midst of a graph's error.

    Args:
        error: such as `tf.errors.InvalidArgumentError` from `model.fit`.

    Returns:
        One line that names request, value and fix; None for any other error.

    Example:
    >>> from tfrs_prerank.datasets.requests import reader_message
    >>> reader_message(ValueError("something else")) is None
    True
    """
    text = str(getattr(error, "message", error))
    pattern = rf"assertion failed: \[(request .*?)\] \[{_END_MARK}\]"
    found = re.search(pattern, text, re.DOTALL)
    if found is None:
        return None
    # TensorFlow escapes quotes, backslashes and line ends.
    said = found[1].encode().decode("unicode_escape").encode("latin-1")
    return " ".join(said.decode("utf-8").splitlines())


def count_records(path: str | Path) -> int:
    """Counts the records of a TFRecord file by their lengths alone.

    Args:
        path: the file, not compressed.

    Returns:
        The number of records.

    Raises:
        ValueError: the file ends within a record.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        return 0
    # A record: its length (8 bytes), a checksum (4), the data, a checksum (4).
    at = count = 0
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        while at < size:
            end = at + 16
            if end <= size:
                end += struct.unpack_from("<Q", data, at)[0]
            if end > size:
                raise ValueError(
                    f"{path} is cut off or no TFRecord file: record {count} ends "
                    f"beyond the file's {size} bytes; copy or write the file again"
                )
            at, count = end, count + 1
    return count


def _find(
    files_or_directory: str | Path | Iterable[str | Path], split: str | None
) -> list[Path]:
    if not isinstance(files_or_directory, str | Path):
        files = [Path(file) for file in files_or_directory]
        if not files:
            raise FileNotFoundError("no files are given; name at least one")
        return [_existing(file) for file in files]
    path = Path(files_or_directory)
    if split is None:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name the split to read")
        return [_existing(path)]
    if not path.is_dir():
        raise FileNotFoundError(f"no folder at {path}")
    files = sorted(path.glob(f"{split}-*-of-*.tfrecord"))
    if not files:
        there = sorted(file.name for file in path.iterdir())
        raise FileNotFoundError(
            f"no files {split}-*.tfrecord in {path}; it holds: "
            f"{', '.join(there) or 'nothing'}"
        )
    _, _, total = files[0].stem.rpartition("-")
    for shard in range(int(total)):
        _existing(path / f"{split}-{shard:05d}-of-{total}.tfrecord")
    if len(files) != int(total):
        raise ValueError(
            f"{path} holds {len(files)} files of split {split!r}, but they are "
            f"numbered to {int(total)}; remove those of an earlier writing"
        )
    return files


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}")
    return file


def _encode(columns: Mapping[str, Values]) -> bytes:
    example = tf.train.Example()
    feature = example.features.feature
    for name, (flat, lengths) in columns.items():
        if isinstance(flat, list):
            feature[name].bytes_list.value.extend(flat)
        elif flat.dtype == np.float32:
            feature[name].float_list.value.extend(flat.tolist())
        else:
            feature[name].int64_list.value.extend(flat.tolist())
        if lengths is not None:
            feature[f"{name}/lengths"].int64_list.value.extend(lengths.tolist())
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _spec(column: Column) -> Any:
    dtype = tf.dtypes.as_dtype("int64" if column.dtype == "int32" else column.dtype)
    if column.owner == "query" and column.length is None:
        return tf.io.FixedLenFeature([], dtype)
    if column.owner == "query" or column.length is None:
        return tf.io.RaggedFeature(dtype)
    lengths = tf.io.RaggedFeature.RowLengths(f"{column.name}/lengths")
    return tf.io.RaggedFeature(dtype, value_key=column.name, partitions=[lengths])


def _padded(values: Any, column: Column) -> tf.Tensor:
    if isinstance(values, tf.RaggedTensor):
        shape: list[int | None] = [None] if column.owner == "query" else [None, None]
        shape += [] if column.length is None else [column.length]
        pad = tf.constant(column.pad, values.dtype)
        values = values.to_tensor(pad, shape=shape)
    return tf.cast(values, tf.int32) if column.dtype == "int32" else values


def _shuffled(block: tf.Tensor, seed: tf.Tensor, place: tf.Tensor) -> tf.data.Dataset:
    seed = tf.random.experimental.stateless_fold_in(seed, place)
    block = tf.random.experimental.stateless_shuffle(block, seed)
    return tf.data.Dataset.from_tensor_slices(block)


def _check(
    fine: tf.Tensor,
    parsed: Mapping[str, Any],
    message: str | Callable[[], tf.Tensor],
) -> None:
    """Fails with one line that names the first request that is not fine."""

    def fail() -> tf.Operation:
        first = tf.argmin(tf.cast(fine, tf.int32))
        name: Any = tf.strings.as_string(first)
        called = tf.strings.join(["number ", name, " of a batch"])
        if "request_id" in parsed:
            called = parsed["request_id"][first]
        text = message if isinstance(message, str) else message()
        line = tf.strings.join(["request ", called, ": ", text])
        # TensorFlow cannot raise an error whose message is no UTF-8.
        line = tf.strings.unicode_transcode(line, "UTF-8", "UTF-8")
        return tf.debugging.Assert(False, [line, _END_MARK])

    tf.cond(tf.reduce_all(fine), tf.no_op, fail)


def _text(value: tf.Tensor) -> tf.Tensor:
    return value if value.dtype == tf.string else tf.strings.as_string(value)
