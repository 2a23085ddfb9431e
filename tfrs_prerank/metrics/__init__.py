"""Metrics over lists of documents, as `tf.keras.metrics.Metric` with float64 state.

All have `update_state(labels, scores, *, where=None, weights=None)`,
`per_list(labels, scores, *, where=None)`, `usable` and `reads`. Tied scores count as
the expectation over random orders of the tied documents, so no result depends on the
order of a list.
"""

from tfrs_prerank.metrics.gauc import GAUC as GAUC
from tfrs_prerank.metrics.hit_rate import HitRate as HitRate
from tfrs_prerank.metrics.mrr import MRR as MRR
from tfrs_prerank.metrics.ndcg import NDCG as NDCG

__all__ = ["GAUC", "MRR", "NDCG", "HitRate"]
