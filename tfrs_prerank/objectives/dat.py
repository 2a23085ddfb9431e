"""Losses of augmented vectors (DAT): each tower learns what the other one finds."""

from __future__ import annotations

import tensorflow as tf


def adaptive_mimic(
    query_augmented: tf.Tensor,
    doc_augmented: tf.Tensor,
    query_vectors: tf.Tensor,
    doc_vectors: tf.Tensor,
    positive: tf.Tensor,
) -> tf.Tensor:
    """Draws augmented vectors to the other tower's vectors, for positives.

    A query's id and a document's id have an augmented vector each, a_u and a_v, which
    the towers read beside their other fields. With the towers' vectors p_u and p_v

        l = y (|a_u - sg(p_v)|^2 + |a_v - sg(p_u)|^2)

    for y = 1 of a positive and 0 of a negative, where a vector mimics nothing; sg stops
    the gradient. So a_u comes to hold what the documents that it likes have in common:
    information of one tower reaches the other, and serving costs one field.

    Differs from the paper: both halves are one loss with one weight, which are two of
    the same weight there.

    >>> import tensorflow as tf
    >>> ones, zeros = tf.ones([2, 3]), tf.zeros([2, 3])
    >>> positive = tf.constant([True, False])
    >>> adaptive_mimic(ones, ones, zeros, 2 * ones, positive).numpy().tolist()
    [6.0, 0.0]

    Args:
        query_augmented: a_u of each document's query, `[V, d]`.
        doc_augmented: a_v, `[V, d]`.
        query_vectors: p_u of each document's query, `[V, d]`.
        doc_vectors: p_v, `[V, d]`.
        positive: bool `[V]`.

    Returns:
        The loss of each document, `[V]`.

    References:
        Yu et al., A Dual Augmented Two-tower Model for Online Large-scale
        Recommendation, DLP-KDD 2021, section 3.2.2.
    """
    loss = _distance(query_augmented, doc_vectors)
    loss += _distance(doc_augmented, query_vectors)
    return tf.where(positive, loss, 0.0)


def category_alignment(
    vectors: tf.Tensor, categories: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Brings the spread of each category's vectors to that of the largest one.

        L = 1 / (n - 1) sum_{i >= 2} |C(S_1) - C(S_i)|_F^2
        C(S) = 1 / (|S| - 1) sum_{v in S} (p_v - mean_S) (p_v - mean_S)^T

    with S_1 the category with the most documents (the first to appear of equal ones)
    and n the number of categories. One document has no covariance: such categories do
    not count. It takes `V d^2` numbers of memory.

    Differs from the paper: it is the mean over categories, not their sum, so that its
    share does not change with their number.

    >>> import tensorflow as tf
    >>> vectors = tf.constant([[1.0], [3.0], [5.0], [0.0], [2.0]])
    >>> value, count = category_alignment(vectors, tf.constant(list("aaabb")))
    >>> float(value), float(count)  # variances 4 and 2
    (4.0, 1.0)

    Args:
        vectors: of documents, `[V, d]`.
        categories: of documents, of any type, `[V]`.

    Returns:
        The sum of the distances and the number of categories that have one, scalars.

    References:
        Yu et al., A Dual Augmented Two-tower Model for Online Large-scale
        Recommendation, DLP-KDD 2021, section 3.2.3.
    """
    _, place, sizes = tf.unique_with_counts(categories)
    count = tf.size(sizes)
    centered = vectors - tf.gather(
        tf.math.unsorted_segment_mean(vectors, place, count), place
    )
    products = centered[:, :, tf.newaxis] * centered[:, tf.newaxis, :]
    degrees = tf.cast(tf.maximum(sizes - 1, 1), vectors.dtype)
    covariances = (
        tf.math.unsorted_segment_sum(products, place, count)
        / degrees[:, tf.newaxis, tf.newaxis]
    )
    # An axis of one, or of none where there are no documents.
    largest = tf.math.top_k(sizes, tf.minimum(count, 1)).indices
    apart = tf.square(covariances - tf.gather(covariances, largest))
    is_compared = (sizes > 1) & tf.not_equal(tf.range(count), largest)
    distances = tf.where(is_compared, tf.reduce_sum(apart, axis=[1, 2]), 0.0)
    return tf.reduce_sum(distances), tf.reduce_sum(tf.cast(is_compared, vectors.dtype))


def _distance(augmented: tf.Tensor, vectors: tf.Tensor) -> tf.Tensor:
    """Returns the squared distance of rows, which moves the augmented vectors only."""
    apart = augmented - tf.stop_gradient(vectors)
    return tf.reduce_sum(tf.square(apart), axis=-1)
