"""Keys of match features: int64 hashes that stand for ids and tokens."""

from __future__ import annotations

import tensorflow as tf

from tfrs_prerank.features.lookups import is_pad

# 2^62 buckets: a collision among a million values has a chance of about 1e-7.
_HASHES = 2**62

NO_KEY = -1
"""The key of a pad, and what fills up rows."""


def hashed(strings: tf.Tensor) -> tf.Tensor:
    """Returns keys of strings, of the same shape; those of pads are `NO_KEY`."""
    hashes = tf.strings.to_hash_bucket_fast(strings, _HASHES)
    return tf.where(is_pad(strings), tf.constant(NO_KEY, tf.int64), hashes)


def is_key(keys: tf.Tensor) -> tf.Tensor:
    """Returns true where a key stands for a value."""
    return tf.not_equal(keys, NO_KEY)


def distinct(keys: tf.Tensor) -> tf.Tensor:
    """Returns each row's `[R, T]` keys once, ascending, filled up with `NO_KEY`."""
    if keys.shape[-1] == 1:
        return keys
    keys = tf.sort(keys, axis=-1)
    again = tf.equal(keys[:, 1:], keys[:, :-1])
    again = tf.concat([tf.zeros_like(again[:, :1]), again], axis=-1)
    return tf.sort(tf.where(again, tf.constant(NO_KEY, keys.dtype), keys), axis=-1)


def search(keys: tf.Tensor, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds values among the keys of their row.

    Args:
        keys: ascending, `[R, T]`.
        values: `[R, S]`.

    Returns:
        The place of each value, int32 `[R, S]`, and whether it is there. `NO_KEY` is
        nowhere.
    """
    # tf.searchsorted cannot take an empty list of documents, the op under it can.
    place = tf.raw_ops.LowerBound(sorted_inputs=keys, values=values)
    place = tf.minimum(place, tf.shape(keys)[1] - 1)
    found = tf.equal(tf.gather(keys, place, batch_dims=1), values)
    return place, found & is_key(values)
