"""Losses over lists of documents: pure functions and their Keras classes.

Every function has the signature `(labels, scores, *, where=None, weights=None,
reduction="mean")`, reads tensors `[..., list_size]` and computes in float32. Every
function also has an attribute `terms` that returns the parts of the mean, for
training on several replicas; `tfrs_prerank.losses._reduction` describes both.
"""

from tfrs_prerank.losses._keras import SigmoidCrossEntropy as SigmoidCrossEntropy
from tfrs_prerank.losses._keras import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from tfrs_prerank.losses._listwise import (
    softmax_cross_entropy as softmax_cross_entropy,
)
from tfrs_prerank.losses._pointwise import (
    sigmoid_cross_entropy as sigmoid_cross_entropy,
)

__all__ = [
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
]
