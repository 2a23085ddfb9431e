"""The in-batch softmax: every positive against all the documents of the batch."""

from __future__ import annotations

import tensorflow as tf


def in_batch_softmax(
    doc_ids: tf.Tensor,
    rows: tf.Tensor,
    positive: tf.Tensor,
    weights: tf.Tensor,
    index: tf.Tensor,
    own: tf.Tensor,
    similarity: tf.Tensor,
    log_q: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of (request, positive) pairs over the batch's documents.

    For a request q with the positive d+ and the distinct documents D of the batch,

        l(q, d+) = -log( exp s(q, d+) / (exp s(q, d+) + sum_{d in D'} exp s(q, d)) )

    where D' leaves out every document that is d+ by id and the other positives of q.
    Logits are those of query and doc vectors alone; a cross tower cannot take part,
    since it has no inputs for the pairs that the batch makes up.

    A document is a negative as often as it is in a batch, so popular ones are pushed
    down more than they deserve. With their log probabilities, `s(q, d) - log_q(d)`
    stands in the place of every `s(q, d)`, that of d+ as well: the loss then estimates
    the softmax over all documents (equation 5 of Yi et al.).

    Differs from TFRS: a masked document's probability is exactly 0, positives of the
    request other than the row's are left out too, and a probability below 1e-6 is taken
    as it is.

    >>> import tensorflow as tf
    >>> values, counts = in_batch_softmax(
    ...     doc_ids=tf.constant(["a", "b", "c"]),
    ...     rows=tf.constant([True, True, False]),
    ...     positive=tf.constant([True, True, False]),
    ...     weights=tf.ones([3]),
    ...     index=tf.constant([0, 0, 1], tf.int64),
    ...     own=tf.zeros([3]),
    ...     similarity=tf.zeros([2, 3]),
    ... )
    >>> values.numpy().round(3).tolist()  # a against c and b against c: log 2
    [0.6930000185966492, 0.6930000185966492]

    Args:
        doc_ids: ids of the V packed documents, `[V]`.
        rows: bool `[V]`, true for the positives that have a loss.
        positive: bool `[V]`, true for every positive of its request, rows or not.
        weights: float32 `[V]`, weights of the rows; a row of weight 0 is none, but
            its document still is a positive of its request.
        index: request of each packed document, int64 `[V]`.
        own: logit of each packed document with its own request, `[V]`.
        similarity: logits of every request with every packed document, `[B, V]`.
        log_q: log probability of each packed document to be in the batch, `[V]`; None
            corrects nothing.

    Returns:
        Values and counts `[P]` of the P rows: weight times loss; 1, or 0 for a row of
        weight 0. Their sums' quotient is the loss, divided by the number of rows.

    References:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations" (RecSys 2019).
    """
    if log_q is not None:
        own -= log_q
        similarity -= log_q
    # The first appearance of a document stands for it.
    first, place = first_rows(doc_ids)
    similarity = tf.gather(similarity, first, axis=1)  # [B, U]
    pairs = tf.stack([index, tf.cast(place, index.dtype)], axis=1)
    pairs = tf.boolean_mask(pairs, positive)
    # Equal pairs of one request add up; anything above 0 is a positive.
    shape = tf.shape(similarity, out_type=index.dtype)
    is_positive = tf.scatter_nd(pairs, tf.ones_like(pairs[:, 0], tf.float32), shape) > 0
    rows = tf.where(rows)[:, 0]
    request = tf.gather(index, rows)
    others = tf.logical_not(tf.gather(is_positive, request))  # [P, U]
    scores = tf.gather(similarity, request)
    # The lowest finite float: its exponential is exactly 0, its gradient too.
    scores = tf.where(others, scores, scores.dtype.min)
    own = tf.gather(own, rows)[:, tf.newaxis]
    loss = tf.reduce_logsumexp(tf.concat([own, scores], axis=1), axis=1) - own[:, 0]
    weight = tf.gather(weights, rows)
    return weight * loss, tf.cast(tf.not_equal(weight, 0.0), tf.float32)


def first_rows(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the first appearance of each distinct id.

    >>> import tensorflow as tf
    >>> first, place = first_rows(tf.constant(["b", "a", "b"]))
    >>> first.numpy().tolist(), place.numpy().tolist()
    ([0, 1], [0, 1, 0])

    Args:
        ids: `[V]`.

    Returns:
        The row of each of the U distinct ids, int32 `[U]`, and where among them each
        row's id is, int32 `[V]`.
    """
    distinct, place = tf.unique(ids)
    rows = tf.range(tf.size(ids))
    return tf.math.unsorted_segment_min(rows, place, tf.size(distinct)), place
