"""Share of the relevant categories that the top k holds."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfrs_prerank.metrics._list_metric import ListMetric, check_cutoff, is_positive
from tfrs_prerank.metrics._ties import places_of, row_segment_sum, top


@tf.keras.utils.register_keras_serializable(package="tfrs_prerank")
class IntentCoverage(ListMetric):
    """Which share of a request's relevant intents its k best candidates hold.

    Formula, for one request, with `P_k` its k best candidates, `c` the category of a
    document and `Y` the categories of the candidates with a label above 0:

        IntentCoverage@k = |{c_i: i in P_k} & Y| / |Y|

    and the result is the mean over requests with a relevant category. It is the recall
    of subtopics: a query has a main intent and others, and a set of documents of the
    main one alone fails the users who meant another. An intent is held by any
    document of its category, whether that one has a label or not, so documents without
    a label (NaN) compete.

    Where equal scores straddle the cut the value is the expectation over the orders of
    the n tied candidates for r places; a category that only m of them have is held
    with probability

        1 - C(n - m, r) / C(n, r)

    With k at least as large as the list the value is 1.

    Args:
        column: the batch column `[B, L]` with the category: strings, `""` = none, or
            integers, -1 = none. A document without a category holds none.
        k: size of the forwarded set.
        name: default `"intent_coverage@<k>"`.

    Call arguments: labels `[B, L]`, NaN = absent; scores `[B, L]`; `intents` `[B, L]`,
    the categories; see `update_state`. Strings are compared by a hash of 63 bits.

    Raises:
        ValueError: `k` is not a positive integer, or shapes do not fit.
        TypeError: `intents` is missing, or neither strings nor integers.

    References:
        Zhai, Cohen and Lafferty, "Beyond Independent Relevance: Methods and Evaluation
        Metrics for Subtopic Retrieval" (SIGIR 2003), the S-recall.

    Example:
        >>> import tensorflow as tf
        >>> metric = IntentCoverage("category", k=2)
        >>> labels, scores = [[1.0, 1.0, 1.0, 0.0]], [[4.0, 3.0, 2.0, 1.0]]
        >>> metric.update_state(labels, scores, intents=[["red", "red", "hat", "red"]])
        >>> float(metric.result())  # {red} of {red, hat}
        0.5
    """

    _unlabelled_compete = True

    def __init__(self, column: str, k: int = 100, name: str | None = None):
        check_cutoff("IntentCoverage", k)
        super().__init__(name or f"intent_coverage@{k}")
        self.column = column
        self.k = k

    @property
    def columns(self) -> dict[str, str]:
        """Which column of a batch each argument of `update_state` takes."""
        return {**super().columns, "intents": self.column}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "column": self.column, "k": self.k}

    def _per_list(
        self,
        labels: tf.Tensor,
        scores: tf.Tensor,
        valid: tf.Tensor,
        **columns: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        categories, known = self._categories(columns["intents"])
        known &= valid
        # Documents without one may share the group of a category: they add 0 to it.
        place = places_of(tf.where(known, categories, categories.dtype.min))

        def of_category(documents: tf.Tensor) -> tf.Tensor:
            return row_segment_sum(tf.cast(known & documents, tf.float64), place)

        forwarded = top(scores, valid, self.k)
        relevant = tf.cast(of_category(is_positive(labels) > 0) > 0, tf.float64)
        certain = of_category(forwarded.certain) > 0
        tied = of_category(forwarded.tied)
        missed = _none_drawn(forwarded.ties, tied, forwarded.places)
        held = tf.where(certain, tf.ones([], tf.float64), 1.0 - missed)
        wanted = tf.reduce_sum(relevant, axis=1)
        covered = tf.reduce_sum(relevant * held, axis=1)
        return tf.math.divide_no_nan(covered, wanted), tf.cast(wanted > 0, tf.float64)

    def _categories(self, intents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns int64 `[B, L]` and which documents have one."""
        if intents.dtype == tf.string:
            hashed = tf.strings.to_hash_bucket_fast(intents, 2**63 - 1)
            return hashed, tf.not_equal(intents, "")
        if not intents.dtype.is_integer:
            raise TypeError(
                f"{self.name}: intents has dtype {intents.dtype.name}: give strings or "
                "integers."
            )
        intents = tf.cast(intents, tf.int64)
        return intents, tf.not_equal(intents, -1)


def _none_drawn(n: tf.Tensor, m: tf.Tensor, r: tf.Tensor) -> tf.Tensor:
    """Returns the probability that r draws of n documents hold none of some m."""
    enough = n - m >= r
    left = tf.where(enough, n - m - r, tf.zeros_like(m))
    log = (
        tf.math.lgamma(n - m + 1.0)
        - tf.math.lgamma(left + 1.0)
        + tf.math.lgamma(n - r + 1.0)
        - tf.math.lgamma(n + 1.0)
    )
    return tf.where(enough, tf.exp(tf.minimum(log, 0.0)), tf.zeros_like(m))
