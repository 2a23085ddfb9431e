"""Every loss with the options it is tested with."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.losses import reference
from tfrs_prerank import losses

NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss and what is known of it.

    Attributes:
        function: the loss.
        slow: its reference.
        pointwise: whether its terms belong to documents, else to lists.
        options: for both.
        high: highest label, for draws of them.
        bad: a label that is refused.
        relative: whether only differences of scores count.
    """

    function: Any
    slow: Callable[..., Any]
    pointwise: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    high: int = 3
    bad: float = -1.0
    relative: bool = True

    @property
    def name(self):
        return "-".join([self.function.__name__, *map(str, self.options.values())])

    @property
    def loss(self):
        """The loss with its options."""
        loss = functools.partial(self.function, **self.options)
        loss.terms = functools.partial(self.function.terms, **self.options)
        return loss

    def batch(self, seed=0, lists=5, size=6):
        """Returns labels, scores, where and weights with all that may occur."""
        rng = np.random.default_rng(seed)
        grades = [0.0, 0.0, *range(self.high + 1)]
        labels = rng.choice(grades, [lists, size])
        labels[0] = 0.0  # a list without a positive
        labels[1, 0] = 1.0
        labels[1, 2] = NAN
        scores = rng.normal(size=[lists, size])
        where = rng.random([lists, size]) < 0.8
        where[2] = False  # a list without a document
        weights = rng.choice([0.0, 0.5, 1.0, 2.0, NAN], [lists, size])
        return labels, scores, where, weights

    def float32(self, seed=0, **sizes):
        """Returns a batch in float32."""
        labels, scores, where, weights = self.batch(seed, **sizes)
        return tuple(
            x if x.dtype == bool else x.astype(np.float32)
            for x in (labels, scores, where, weights)
        )

    def expected(self, labels, scores, where, weights):
        """Returns the reference's mean and sum."""
        terms = self.slow(labels, scores, where, weights, **self.options)
        return reference.mean_and_sum(self.pointwise, terms)


CASES = [
    Case(
        losses.sigmoid_cross_entropy,
        reference.sigmoid_cross_entropy,
        pointwise=True,
        high=1,
        bad=1.5,
        relative=False,
    ),
    Case(
        losses.contrastive,
        reference.contrastive,
        pointwise=True,
        options={"margin": 1.5},
        high=1,
        bad=-0.5,
        relative=False,
    ),
    Case(losses.softmax_cross_entropy, reference.softmax_cross_entropy),
    Case(losses.ranknet, reference.ranknet, bad=INF),
    Case(
        losses.pairwise_hinge,
        reference.pairwise_hinge,
        options={"margin": 0.75},
        bad=-INF,
    ),
    Case(losses.triplet, reference.triplet, options={"margin": 0.5}),
    Case(
        losses.triplet,
        reference.triplet,
        options={"margin": 0.5, "hard_negatives": 1},
    ),
    Case(losses.lambdarank, reference.lambdarank),
    Case(losses.lambdarank, reference.lambdarank, options={"k": 2}),
    Case(losses.multi_positive_softmax, reference.multi_positive_softmax),
    Case(
        losses.hierarchical_softmax,
        reference.hierarchical_softmax,
        options={"level_weights": (1.0, 2.0, 0.5)},
        bad=4.0,
    ),
    Case(losses.list_mle, reference.list_mle, bad=INF),
    Case(
        losses.distillation,
        reference.softmax_distillation,
        options={"temperature": 2.0},
        bad=INF,
    ),
    Case(
        losses.distillation,
        lambda *batch, form, **options: reference.sigmoid_distillation(
            *batch, **options
        ),
        pointwise=True,
        options={"temperature": 2.0, "form": "sigmoid"},
        bad=-INF,
        relative=False,
    ),
]


def value_and_gradient(loss, labels, scores, **options):
    """Returns a loss and its gradient by the scores, as tensors."""
    scores = tf.convert_to_tensor(scores)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(labels, scores, **options)
    return value, tape.gradient(value, scores)
