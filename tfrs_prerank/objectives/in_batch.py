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
    candidates: tf.Tensor,
    similarity: tf.Tensor,
    hard_negatives: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of (request, positive) pairs over the batch's documents.

    For a request q with the positive d+ and the distinct documents D of the batch,

        l(q, d+) = -log( exp s(q, d+) / (exp s(q, d+) + sum_{d in D'} exp s(q, d)) )

    where D' leaves out every document that is d+ by id and the other positives of q, or
    is the `hard_negatives` of those that remain with the highest s; the first of equal
    ones. Logits are those of query and doc vectors alone; a cross tower cannot take
    part, since it has no inputs for the pairs that the batch makes up.

    A document is a negative as often as it is in a batch, so popular ones are pushed
    down more than they deserve. With their log probabilities, `s(q, d) - log_q(d)`
    stands in the place of every `s(q, d)`, that of d+ as well: the loss then estimates
    the softmax over all documents (equation 5 of Yi et al.). That holds whichever way
    documents come into the batch: where some are clicked and others are drawn from the
    catalogue, `log_q` is of being among either (Q* of Yang et al., up to a constant,
    which cancels). It does not hold for hard negatives, which are chosen by logit.

    A document whose columns are those of a point in time has a vector for each of its
    appearances. With the requests that list it, it is as it was at that request. With
    the others there is no right one, and its first appearance stands for it: it may be
    of a later time than the request, so a query tower that knows the time could tell
    such negatives by it.

    Differs from TFRS: a masked document's probability is exactly 0, positives of the
    request other than the row's are left out too, a probability below 1e-6 is taken
    as it is, and candidates are the documents of all replicas.

    >>> import tensorflow as tf
    >>> ids = tf.constant(["a", "b", "c"])
    >>> values, counts = in_batch_softmax(
    ...     doc_ids=ids,
    ...     rows=tf.constant([True, True, False]),
    ...     positive=tf.constant([True, True, False]),
    ...     weights=tf.ones([3]),
    ...     index=tf.constant([0, 0, 1], tf.int64),
    ...     own=tf.zeros([3]),
    ...     candidates=ids,
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
        index: request of each packed document, int64 `[V]`; none has one twice.
        own: logit of each packed document with its own request, `[V]`; less `log_q`
            to correct.
        candidates: ids of the C documents of all replicas, `[C]`, with the V.
        similarity: logits of every request with every candidate, `[B, C]`; less
            `log_q` to correct.
        hard_negatives: how many negatives a row keeps, those with the highest logits;
            None for all. Where there are fewer, all are kept. Huang et al. found no
            more than two best (section 6.1).

    Returns:
        Values and counts `[P]` of the P rows: weight times loss; 1, or 0 for a row of
        weight 0. Their sums' quotient is the loss, divided by the number of rows.

    References:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
        Recommendations" (RecSys 2019).
        Yang et al., "Mixed Negative Sampling for Learning Two-tower Neural Networks in
        Recommendations" (WWW 2020 companion).
        Huang et al., "Embedding-based Retrieval in Facebook Search" (arXiv:2006.11632).
    """
    first, place = first_rows(tf.concat([candidates, doc_ids], axis=0))
    place = place[tf.size(candidates) :]
    pairs = tf.stack([index, tf.cast(place, index.dtype)], axis=1)
    # The first appearance of a document stands for it, but where a request has its own.
    similarity = tf.gather(similarity, first, axis=1)  # [B, U]
    similarity = tf.tensor_scatter_nd_update(similarity, pairs, own)
    is_positive = tf.scatter_nd(
        tf.boolean_mask(pairs, positive),
        tf.boolean_mask(positive, positive),
        tf.shape(similarity, out_type=index.dtype),
    )
    rows = tf.where(rows)[:, 0]
    request = tf.gather(index, rows)
    others = tf.logical_not(tf.gather(is_positive, request))  # [P, U]
    # Differences first: large logits that are alike would lose them in a sum.
    ahead = tf.gather(similarity, request) - tf.gather(own, rows)[:, tf.newaxis]
    # The lowest finite float: its exponential is exactly 0, its gradient too.
    ahead = tf.where(others, ahead, ahead.dtype.min)
    if hard_negatives is not None:
        count = tf.minimum(hard_negatives, tf.shape(ahead)[1])
        # The values that `top_k` gives have no gradient where there are no documents.
        hardest = tf.math.top_k(ahead, count).indices
        ahead = tf.gather(ahead, hardest, axis=1, batch_dims=1)
    ahead = tf.pad(ahead, [[0, 0], [1, 0]])  # the positive itself
    weight = tf.gather(weights, rows)
    loss = weight * tf.reduce_logsumexp(ahead, axis=1)
    return loss, tf.cast(tf.not_equal(weight, 0.0), tf.float32)


def document_keys(ids: tf.Tensor) -> tf.Tensor:
    """Returns numbers that stand for document ids: replicas exchange no strings.

    >>> import tensorflow as tf
    >>> document_keys(tf.constant([7, 8], tf.int64)).numpy().tolist()
    [7, 8]

    Args:
        ids: strings or int64, `[V]`.

    Returns:
        int64 `[V]`: integers as they are, strings as their 63-bit hashes. Two of 10,000
        documents share one with a probability of about 5e-12.
    """
    if ids.dtype != tf.string:
        return ids
    return tf.strings.to_hash_bucket_fast(ids, 2**63 - 1)


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
