"""Losses over lists of documents: pure functions and their Keras classes.

Every function has the signature `(labels, scores, *, where=None, weights=None,
reduction="mean")` and options of its own, reads tensors `[..., list_size]` and computes
in float32, or in float64 where the scores are that. Every function also has an
attribute `terms` that returns the parts of the mean, for training on several replicas;
`tfrs_prerank.losses._reduction` describes both.
"""

from tfrs_prerank.losses._distillation import distillation as distillation
from tfrs_prerank.losses._keras_documents import Contrastive as Contrastive
from tfrs_prerank.losses._keras_documents import (
    SigmoidCrossEntropy as SigmoidCrossEntropy,
)
from tfrs_prerank.losses._keras_lists import Distillation as Distillation
from tfrs_prerank.losses._keras_lists import HierarchicalSoftmax as HierarchicalSoftmax
from tfrs_prerank.losses._keras_lists import ListMLE as ListMLE
from tfrs_prerank.losses._keras_lists import (
    MultiPositiveSoftmax as MultiPositiveSoftmax,
)
from tfrs_prerank.losses._keras_lists import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from tfrs_prerank.losses._keras_pairs import LambdaRank as LambdaRank
from tfrs_prerank.losses._keras_pairs import PairwiseHinge as PairwiseHinge
from tfrs_prerank.losses._keras_pairs import RankNet as RankNet
from tfrs_prerank.losses._keras_pairs import Triplet as Triplet
from tfrs_prerank.losses._lambdarank import lambdarank as lambdarank
from tfrs_prerank.losses._list_mle import list_mle as list_mle
from tfrs_prerank.losses._listwise import softmax_cross_entropy as softmax_cross_entropy
from tfrs_prerank.losses._multi_positive import (
    hierarchical_softmax as hierarchical_softmax,
)
from tfrs_prerank.losses._multi_positive import (
    multi_positive_softmax as multi_positive_softmax,
)
from tfrs_prerank.losses._pairwise import pairwise_hinge as pairwise_hinge
from tfrs_prerank.losses._pairwise import ranknet as ranknet
from tfrs_prerank.losses._pairwise import triplet as triplet
from tfrs_prerank.losses._pointwise import contrastive as contrastive
from tfrs_prerank.losses._pointwise import (
    sigmoid_cross_entropy as sigmoid_cross_entropy,
)

__all__ = [
    "Contrastive",
    "Distillation",
    "HierarchicalSoftmax",
    "LambdaRank",
    "ListMLE",
    "MultiPositiveSoftmax",
    "PairwiseHinge",
    "RankNet",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "Triplet",
    "contrastive",
    "distillation",
    "hierarchical_softmax",
    "lambdarank",
    "list_mle",
    "multi_positive_softmax",
    "pairwise_hinge",
    "ranknet",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "triplet",
]
