"""The columns of a batch as networks read them: checked, packed, matched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tensorflow as tf

from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.declarations import BATCH_COLUMNS
from tfrs_prerank.features.match import Matches
from tfrs_prerank.features.schema import BATCH_OWN_COLUMNS, Column, Schema

_OF_TASKS = ("label/", "weight/", "teacher/")


def check_batch(
    schema: Schema,
    batch: Mapping[str, tf.Tensor],
    training: bool = False,
    ignored: Iterable[str] = (),
) -> None:
    """Checks a batch's columns against the schema, when a graph is traced.

    Args:
        schema: what is declared.
        batch: the batch.
        training: training-only columns must be there too.
        ignored: columns that may be there beside those of the schema.

    Raises:
        KeyError: a column is missing.
        ValueError: a column is neither declared nor one of the batch's own, or has
            another rank.
        TypeError: a column has another type.
    """
    wanted = dict(schema.columns())
    wanted["doc_ids"] = Column("doc_ids", schema.doc_id, None, "doc")
    for name, column in wanted.items():
        if column.training_only and not training and name not in batch:
            continue
        if name not in batch:
            raise KeyError(f"the batch has no {name!r}; {nearest(name, batch)}")
        values = tf.convert_to_tensor(batch[name])
        if values.dtype != tf.dtypes.as_dtype(column.dtype):
            raise TypeError(
                f"{name}: {column.dtype} is declared. "
                f"Received: a tensor of {values.dtype.name}"
            )
        rank = 1 + (column.owner != "query") + (column.length is not None)
        if values.shape.rank != rank:
            raise ValueError(
                f"{name}: {rank} dimensions are declared. "
                f"Received: shape {tuple(values.shape)}"
            )
    if "mask" not in batch:
        raise KeyError("the batch has no 'mask', true where a document is real")
    mask = tf.convert_to_tensor(batch["mask"])
    if mask.dtype != tf.bool or mask.shape.rank != 2:
        raise TypeError(
            "mask: a bool tensor [B, L] is wanted. "
            f"Received: {mask.dtype.name}, shape {tuple(mask.shape)}"
        )
    known = {*wanted, "mask", *BATCH_OWN_COLUMNS, *ignored}
    for name in batch:
        if name not in known and not name.startswith(_OF_TASKS):
            raise ValueError(
                f"the batch's {name!r} is not in the schema; {nearest(name, known)}"
            )
    for feature in schema.training_only:
        if training and feature.name in BATCH_COLUMNS and feature.name not in batch:
            raise KeyError(
                f"the batch has no {feature.name!r}, a training_only feature"
            )


def columns_of(
    schema: Schema, batch: Mapping[str, tf.Tensor], owner: str
) -> dict[str, tf.Tensor]:
    """Returns the columns of a batch that the features of one owner read."""
    return {
        name: batch[name]
        for name, column in schema.columns(owner).items()
        if not column.training_only
    }


def own_columns(schema: Schema, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns what a network of a schema reads of a batch that holds more."""
    wanted = {*schema.columns(), "doc_ids", "mask"}
    return {name: column for name, column in batch.items() if name in wanted}


def match_columns(
    matches: Matches,
    batch: Mapping[str, tf.Tensor],
    query_columns: Mapping[str, tf.Tensor],
    doc_columns: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Returns the matches of requests with their documents, `[B, L]` by name."""
    shape = tf.shape(batch["mask"])
    rows = {name: flatten_rows(column) for name, column in doc_columns.items()}
    doc_keys = {
        name: tf.reshape(key, tf.concat([shape, tf.shape(key)[1:]], axis=0))
        for name, key in matches.keys_of(rows, "doc").items()
    }
    return matches.cross(matches.keys_of(query_columns, "query"), doc_keys)


def bias_columns(
    schema: Schema, batch: Mapping[str, tf.Tensor], index: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Returns what the bias logit reads of the real documents, `[V]` by name."""
    length = tf.shape(batch["mask"], out_type=tf.int64)[1]
    columns = {}
    for feature in schema.training_only:
        values = batch[feature.name]
        if feature.owner == "query":
            values = tf.gather(values, index // length)
        else:
            values = pack({feature.name: values}, index)[feature.name]
        if values.dtype == tf.int32:  # the batch's own position
            values = tf.cast(values, tf.int64)
        columns[feature.name] = values
    return columns


def example_of(schema: Schema) -> dict[str, tf.Tensor]:
    """Makes a batch of one request with one document, all pads."""
    dtype = schema.doc_id
    pad = tf.constant("" if dtype == "string" else -1, tf.dtypes.as_dtype(dtype))
    batch = {
        "mask": tf.ones([1, 1], tf.bool),
        "doc_ids": tf.fill([1, 1], pad),
        "position": tf.fill([1, 1], -1),
        "time": tf.zeros([1], tf.int64),
    }
    for column in schema.columns().values():
        if column.name in batch:
            continue
        shape = [1] if column.owner == "query" else [1, 1]
        shape += [] if column.length is None else [column.length]
        dtype = tf.dtypes.as_dtype(column.dtype)
        batch[column.name] = tf.fill(shape, tf.constant(column.pad, dtype))
    return batch


def real_documents(mask: tf.Tensor) -> tf.Tensor:
    """Returns the place of each real document in the flattened mask, int64 `[V]`."""
    return tf.where(tf.reshape(mask, [-1]))[:, 0]


def flatten_rows(column: tf.Tensor) -> tf.Tensor:
    """Reshapes `[B, L, ...]` to `[B * L, ...]`."""
    shape = tf.shape(column)
    rest = column.shape[2:].as_list()
    return tf.reshape(column, [shape[0] * shape[1], *rest])


def pack(columns: Mapping[str, tf.Tensor], index: tf.Tensor) -> dict[str, tf.Tensor]:
    """Takes the real documents' rows of columns `[B, L, ...]`."""
    return {name: tf.gather(flatten_rows(c), index) for name, c in columns.items()}


def unpack(rows: tf.Tensor, index: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Puts rows `[V, n]` back to their places, `[B, L, n]`; 0 in padding."""
    shape = tf.shape(mask, out_type=tf.int64)
    size = rows.shape[-1]
    flat = tf.scatter_nd(index[:, tf.newaxis], rows, [shape[0] * shape[1], size])
    return tf.reshape(flat, tf.concat([shape, [size]], axis=0))
