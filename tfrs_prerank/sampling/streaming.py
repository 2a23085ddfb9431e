"""How likely a document is to be in a batch: from counts, or from the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank.distribution import global_concat


def in_batch_log_q(counts: Any, requests: int, batch_size: int) -> np.ndarray:
    """Returns the log probability that a document is in a batch, from counts.

    A batch is B of R requests, all different and each set of them as likely as any
    other, as in an epoch that is shuffled. A document that is in c of the R requests is
    in the batch with the probability

        1 - C(R - c, B) / C(R, B) = 1 - prod_{i < B} (1 - c / (R - i)).

    Args:
        counts: int `[M]`, c of each document: the training lists that have it.
        requests: R.
        batch_size: B.

    Returns:
        float64 `[M]`; minus infinity for a document that no request has.

    Raises:
        ValueError: a count is not between 0 and R, or B is not between 1 and R.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.sampling import in_batch_log_q
    >>> # One of four requests: in half of the batches of two. Three: in all of them.
    >>> log_q = in_batch_log_q([1, 3], requests=4, batch_size=2)
    >>> np.exp(log_q).round(6).tolist()
    [0.5, 1.0]
    """
    counts = np.asarray(counts, np.int64)
    if not 1 <= batch_size <= requests:
        raise ValueError(
            f"batch_size must be from 1 to {requests}, the number of requests. "
            f"Received: {batch_size}"
        )
    if len(counts) and not 0 <= counts.min() <= counts.max() <= requests:
        raise ValueError(
            f"counts must be from 0 to {requests}, the number of requests. Received: "
            f"{counts.min()} to {counts.max()}"
        )
    distinct, place = np.unique(counts, return_inverse=True)
    log_missed = np.zeros(len(distinct))
    with np.errstate(divide="ignore"):
        for i in range(batch_size):  # [U] a step: counts repeat, so that U is small
            log_missed += np.log1p(-np.minimum(distinct / (requests - i), 1.0))
        log_q: np.ndarray = np.log(-np.expm1(log_missed))
    return log_q[place]


class StreamingFrequency(tf.Module):
    """Estimates how likely a document is to be in a batch, from the batches alone.

    Of each document it keeps the step t at which it was seen last, A, and the mean gap
    between two appearances, B, in two arrays of hash buckets:

        B[h(d)] <- (1 - alpha) B[h(d)] + alpha (t - A[h(d)]),   A[h(d)] <- t,

    so that 1 / B is the probability. Documents that share a bucket make the gap too
    short; of several hash functions the longest gap is taken, which is the one with the
    fewest collisions. The estimate follows the stream when popularity changes.

    It is that of being in a batch for whatever reason. Of a document that is clicked in
    a batch with probability p and drawn from the catalogue with r, it is of
    1 - (1 - p)(1 - r): for small ones p + r, the mixture that mixed negatives need.

    Differs from the paper: the first gap is taken as it is, and not mixed with the
    zero that the arrays begin with. A mean gap is then right in the mean from the first
    appearance on; otherwise a document that was seen n times would keep the part
    (1 - alpha)^n of that zero, and rare ones would seem frequent for long.

    The arrays are variables: in-graph, and in the checkpoints of a model that holds it.
    They take 12 bytes for each bucket and hash. Replicas that train in step share them,
    and the documents of all replicas are one batch.

    Args:
        buckets: of each hash function; some times the number of documents.
        hashes: number of hash functions.
        alpha: weight of the newest gap.
        seed: of the hash functions.

    Raises:
        ValueError: a number is not positive, or alpha is above 1.

    References:
        Yi et al., Sampling-bias-corrected neural modeling for large corpus item
        recommendations (RecSys 2019), algorithms 2 and 3.

    Example:
    >>> import numpy as np
    >>> from tfrs_prerank.sampling import StreamingFrequency
    >>> frequency = StreamingFrequency(buckets=1000)
    >>> for step in range(100):  # b is in every fourth batch
    ...     log_q = frequency.update(["a", "b"] if step % 4 == 3 else ["a"])
    >>> np.exp(log_q.numpy()).round(3).tolist()
    [1.0, 0.25]
    """

    def __init__(
        self,
        buckets: int = 1_000_000,
        hashes: int = 2,
        alpha: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(name="streaming_frequency")
        if buckets < 1 or hashes < 1 or not 0 < alpha <= 1:
            raise ValueError(
                "buckets and hashes must be at least 1, and alpha in (0, 1]. Received: "
                f"buckets={buckets}, hashes={hashes}, alpha={alpha}"
            )
        self.buckets = buckets
        self.hashes = hashes
        self.alpha = alpha
        self.seed = seed
        self.step = _state(tf.zeros([], tf.int64), "step")
        # The hashes' arrays one after the other.
        self.last_step = _state(tf.zeros([hashes * buckets], tf.int64), "last_step")
        self.gap = _state(tf.zeros([hashes * buckets]), "gap")

    def update(self, ids: Any) -> tf.Tensor:
        """Takes in a batch, which is one step.

        Args:
            ids: `[n]` the documents of the batch, strings or integers; one that is
                there several times counts once.

        Returns:
            Their log probabilities with this batch taken in, float32 `[n]`.
        """
        self.step.assign_add(1)
        step = tf.identity(self.step)
        own = self._places(ids)
        places = tf.reshape(global_concat(own), [-1])
        gap = _rows(self.gap, places)
        newest = tf.cast(step - _rows(self.last_step, places), tf.float32)
        mixed = gap + self.alpha * (newest - gap)
        gap = tf.where(gap > 0, mixed, newest)
        # Ids that share a bucket all write the same.
        self.gap.scatter_update(tf.IndexedSlices(gap, places))
        steps = tf.fill(tf.shape(places, out_type=tf.int64), step)
        self.last_step.scatter_update(tf.IndexedSlices(steps, places))
        return _log_q(_rows(self.gap, own))

    def log_q(self, ids: Any) -> tf.Tensor:
        """Returns log probabilities and takes nothing in.

        Args:
            ids: `[n]` documents. One that was never seen has the probability
                1 / (steps + 1), as if it came next.

        Returns:
            float32 `[n]`.
        """
        gap = _rows(self.gap, self._places(ids))
        never = tf.cast(self.step + 1, tf.float32)
        return _log_q(tf.where(gap > 0, gap, never))

    def _places(self, ids: Any) -> tf.Tensor:
        """Returns where each id is in each hash's array, int64 `[n, hashes]`."""
        ids = tf.convert_to_tensor(ids)
        if ids.dtype != tf.string:
            ids = tf.strings.as_string(ids)
        rows = [
            tf.strings.to_hash_bucket_strong(ids, self.buckets, [self.seed, number])
            for number in range(self.hashes)
        ]
        starts = self.buckets * tf.range(self.hashes, dtype=tf.int64)
        return tf.stack(rows, axis=1) + starts


def _state(value: tf.Tensor, name: str) -> tf.Variable:
    # All replicas write the same.
    same = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, trainable=False, name=name, aggregation=same)


def _rows(array: tf.Variable, places: tf.Tensor) -> tf.Tensor:
    """Returns elements of an array, also of one that is cut over parameter servers.

    `tf.gather` would return those in the order of the parts.
    """
    return tf.nn.embedding_lookup(getattr(array, "variables", array), places)


def _log_q(gap: tf.Tensor) -> tf.Tensor:
    return -tf.math.log(tf.maximum(tf.reduce_max(gap, axis=1), 1.0))
