"""Metrics over lists of documents, as `tf.keras.metrics.Metric` with float64 state.

All have `update_state(labels, scores, *, where=None, weights=None)`, `usable` and
`reads`, and `columns`: which column of a batch each argument takes, as metrics against
the ranker read its scores in the place of labels, and some read a further column. Give
them the mask of real documents as `where`; each treats documents without a label as its
docstring says.

Most are a mean over lists and have `per_list(labels, scores, *, where=None)`. Where
`additive` is true, `list_sums` returns what each list adds, and `value_of` the metric
of any sum of them, which is what a bootstrap needs.

Tied scores count as the expectation over random orders of the tied documents, so no
result depends on the order of a list.
"""

from tfrs_prerank.metrics.ash import ASH as ASH
from tfrs_prerank.metrics.catalog_coverage import CatalogCoverage as CatalogCoverage
from tfrs_prerank.metrics.ece import ECE as ECE
from tfrs_prerank.metrics.gauc import GAUC as GAUC
from tfrs_prerank.metrics.hit_rate import HitRate as HitRate
from tfrs_prerank.metrics.in_scene_hit_rate import InSceneHitRate as InSceneHitRate
from tfrs_prerank.metrics.intent_coverage import IntentCoverage as IntentCoverage
from tfrs_prerank.metrics.kendall_tau import KendallTau as KendallTau
from tfrs_prerank.metrics.mrr import MRR as MRR
from tfrs_prerank.metrics.ndcg import NDCG as NDCG
from tfrs_prerank.metrics.never_exposed_share import (
    NeverExposedShare as NeverExposedShare,
)
from tfrs_prerank.metrics.normalized_entropy import (
    NormalizedEntropy as NormalizedEntropy,
)
from tfrs_prerank.metrics.overlap import Overlap as Overlap
from tfrs_prerank.metrics.pauc import PAUC as PAUC
from tfrs_prerank.metrics.pcoc import PCOC as PCOC
from tfrs_prerank.metrics.popularity_gini import PopularityGini as PopularityGini
from tfrs_prerank.metrics.ranker_hit_rate import RankerHitRate as RankerHitRate
from tfrs_prerank.metrics.score_recall import ScoreRecall as ScoreRecall
from tfrs_prerank.metrics.tail_share import TailShare as TailShare
from tfrs_prerank.metrics.weighted_recall import WeightedRecall as WeightedRecall

__all__ = [
    "ASH",
    "ECE",
    "GAUC",
    "MRR",
    "NDCG",
    "PAUC",
    "PCOC",
    "CatalogCoverage",
    "HitRate",
    "InSceneHitRate",
    "IntentCoverage",
    "KendallTau",
    "NeverExposedShare",
    "NormalizedEntropy",
    "Overlap",
    "PopularityGini",
    "RankerHitRate",
    "ScoreRecall",
    "TailShare",
    "WeightedRecall",
]
