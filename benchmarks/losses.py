"""Losses: a step forward and backward, beside keras-rs, optax and tensors of all pairs.

All losses of a row get the same lists. Before anything is timed, those that compute the
same have to give the same loss and the same gradient, after the same division; keras-rs
has no weights of NDCG, so that `lambdarank` is only timed beside its plain logistic
loss. A step computes the loss of every list, and the gradient of their sum by the
scores, in one `tf.function`, or compiled by JAX. All of a row are run in turn until the
last two runs of each agree within 10%, or at most 12 times.

Memory is what TensorFlow has allocated at most during a step, above what it had before,
the median of seven steps; that of JAX is not counted.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import keras_rs
import measuring
import numpy as np
import optax
import tensorflow as tf
from measuring import Result, peak_mib, significant

from tfrs_prerank import losses

ROUNDS = 12
KERAS_RS = "keras-rs"
NAIVE = "all pairs at once"

# Both take NumPy arrays or tensors [B, L] and return every list's loss [B].
Loss = Callable[[Any, Any], Any]
Step = Callable[[], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Other:
    """What a loss is compared with.

    Attributes:
        loss: from labels and scores to every list's loss, divided as ours is.
        jax: whether it is one of JAX.
        same: whether it computes the same.
    """

    loss: Loss
    jax: bool = False
    same: bool = True


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss, its lists, and what it is compared with.

    Attributes:
        title: the loss and its options.
        lists: what its labels are.
        labels: `[B, L]`.
        own: our loss.
        others: by name.
    """

    title: str
    lists: str
    labels: np.ndarray
    own: Loss
    others: dict[str, Other]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs.

    Attributes:
        lists: number of lists.
        size: documents of each.
        clicks: how many of them are clicked, on average.
    """

    lists: int = 128
    size: int = 500
    clicks: int = 10


# Just large enough for the memory of all pairs to be counted.
SMALL = Sizes(lists=8, size=128, clicks=4)


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "losses").parse_args()
    sizes = SMALL if options.small else Sizes()
    rng = np.random.default_rng(0)
    shape = (sizes.lists, sizes.size)
    scores = rng.normal(size=shape).astype(np.float32)
    graded = rng.integers(0, 5, shape).astype(np.float32)
    clicks = (rng.random(shape) < sizes.clicks / sizes.size).astype(np.float32)
    named = {"graded 0 to 4": graded, f"about {sizes.clicks} clicks": clicks}
    pairs = [
        row
        for name, labels in named.items()
        for case in pair_cases(name, labels)
        for row in rows(case, scores, options.small)
    ]
    lists = [
        row
        for case in list_cases(graded, rng.permuted(order_of(shape), axis=1))
        for row in rows(case, scores, options.small)
    ]
    tables = {"pairs": pairs, "lists": lists, "targets": target_table(pairs)}
    measuring.report("losses", options, tables)


def order_of(shape: tuple[int, int]) -> np.ndarray:
    """Returns labels that are all different."""
    return np.tile(np.arange(shape[1], dtype=np.float32), (shape[0], 1))


# What is compared.


def pair_cases(lists: str, labels: np.ndarray) -> list[Case]:
    """Returns the losses of pairs."""
    count = (labels[:, :, np.newaxis] > labels[:, np.newaxis, :]).sum((1, 2))
    count = np.maximum(count, 1).astype(np.float32)
    logistic = keras_rs.losses.PairwiseLogisticLoss(reduction=None)
    hinge = keras_rs.losses.PairwiseHingeLoss(reduction=None)

    def summed(loss: Any) -> Loss:
        # Theirs sums over the less relevant documents of each document.
        return lambda labels, scores: tf.reduce_sum(loss(labels, scores), -1) / count

    def case(title: str, own: Any, theirs: Loss, naive: Loss, same: bool) -> Case:
        others = {KERAS_RS: Other(theirs, same=same), NAIVE: Other(naive)}
        return Case(title, lists, labels, own_loss(own), others)

    return [
        case(
            "ranknet",
            losses.ranknet,
            summed(logistic),
            lambda labels, scores: naive_ranknet(labels, scores) / count,
            same=True,
        ),
        case(
            "pairwise_hinge",
            losses.pairwise_hinge,
            summed(hinge),
            lambda labels, scores: naive_hinge(labels, scores) / count,
            same=True,
        ),
        case(
            "lambdarank",
            losses.lambdarank,
            summed(logistic),
            naive_lambdarank,
            same=False,
        ),
    ]


def list_cases(graded: np.ndarray, order: np.ndarray) -> list[Case]:
    """Returns the losses of whole lists."""
    size = graded.shape[1]
    total = np.maximum(graded.sum(1), 1.0)

    def softmax(labels: Any, scores: Any) -> Any:
        loss = optax.losses.ranking_softmax_loss(scores, labels, reduce_fn=None)
        return loss / total

    def divergence(teacher: Any, scores: Any) -> Any:
        return 4.0 * optax.losses.kl_divergence_with_log_targets(
            jax.nn.log_softmax(scores / 2.0), jax.nn.log_softmax(teacher / 2.0)
        )

    mle = keras_rs.losses.ListMLELoss(reduction=None)
    return [
        Case(
            "softmax_cross_entropy",
            "graded 0 to 4",
            graded,
            own_loss(losses.softmax_cross_entropy),
            {"optax": Other(softmax, jax=True)},
        ),
        Case(
            "distillation, T = 2",
            "logits",
            graded,
            own_loss(losses.distillation, temperature=2.0),
            {"optax": Other(divergence, jax=True)},
        ),
        Case(
            "list_mle",
            "all different",
            order,
            own_loss(losses.list_mle),
            {KERAS_RS: Other(lambda labels, scores: mle(labels, scores) / size)},
        ),
    ]


def own_loss(loss: Any, **options: Any) -> Loss:
    """Returns a loss of ours for every list."""
    return lambda labels, scores: loss(labels, scores, reduction="none", **options)


def all_pairs(labels: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns which pairs are ordered, and `s_i - s_j`, both `[B, L, L]`."""
    ordered = labels[:, :, tf.newaxis] > labels[:, tf.newaxis, :]
    ahead = scores[:, :, tf.newaxis] - scores[:, tf.newaxis, :]
    return tf.cast(ordered, scores.dtype), ahead


def naive_ranknet(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a list's pairs, of which all are in one tensor."""
    ordered, ahead = all_pairs(labels, scores)
    return tf.reduce_sum(ordered * tf.nn.softplus(-ahead), axis=[1, 2])


def naive_hinge(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a list's pairs, of which all are in one tensor."""
    ordered, ahead = all_pairs(labels, scores)
    return tf.reduce_sum(ordered * tf.nn.relu(1.0 - ahead), axis=[1, 2])


def naive_lambdarank(labels: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a list's pairs, of which all are in one tensor."""
    ordered, ahead = all_pairs(labels, scores)
    places = tf.range(labels.shape[1], dtype=scores.dtype)
    discounts = math.log(2.0) / tf.math.log1p(places + 1.0)
    ranks = tf.argsort(tf.argsort(scores, direction="DESCENDING"))
    discount = tf.gather(discounts, ranks)
    gain = 2.0**labels - 1.0
    idcg = tf.reduce_sum(tf.sort(gain, direction="DESCENDING") * discounts, axis=1)
    change = tf.abs(discount[:, :, tf.newaxis] - discount[:, tf.newaxis, :])
    change *= gain[:, :, tf.newaxis] - gain[:, tf.newaxis, :]
    change = tf.stop_gradient(ordered * change)
    total = tf.reduce_sum(change * tf.nn.softplus(-ahead), axis=[1, 2])
    return tf.math.divide_no_nan(total, idcg)


# How it is measured.


def tf_step(loss: Loss, labels: np.ndarray, scores: np.ndarray) -> Step:
    """Returns a step of TensorFlow."""

    @tf.function(autograph=False)
    def run(labels: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(scores)
            values = loss(labels, scores)
        return values, tape.gradient(values, scores)

    inputs = tf.constant(labels), tf.constant(scores)
    return lambda: run(*inputs)


def jax_step(loss: Loss, labels: np.ndarray, scores: np.ndarray) -> Step:
    """Returns a step of JAX."""

    def total(scores: Any, labels: Any) -> tuple[Any, Any]:
        values = loss(labels, scores)
        return values.sum(), values

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))
    inputs = jax.numpy.asarray(scores), jax.numpy.asarray(labels)

    def run() -> tuple[Any, Any]:
        (_, values), gradient = jax.block_until_ready(compiled(*inputs))
        return values, gradient

    return run


def rows(case: Case, scores: np.ndarray, small: bool) -> list[dict[str, Any]]:
    """Measures a case.

    Args:
        case: what is compared.
        scores: of its lists.
        small: whether it is only to be seen that everything works.

    Returns:
        A row for each loss that ours is compared with.
    """
    measuring.note(f"{case.title}, {case.lists}")
    found = measure(case, scores, small)
    for name, result in found.items():
        measuring.note(f"  {1000 * result.timing.seconds:.3g} ms {name}")
    own = found[""]
    return [
        {
            "labels": case.lists,
            "loss": case.title,
            "ms": significant(1000 * own.timing.seconds),
            "MiB": _mib(own),
            "beside": name if case.others[name].same else f"{name}, without weights",
            "its ms": significant(1000 * found[name].timing.seconds),
            "its MiB": _mib(found[name]),
            "times faster": significant(
                found[name].timing.seconds / own.timing.seconds
            ),
            "two runs within 10%": "yes"
            if own.timing.settled and found[name].timing.settled
            else "no",
        }
        for name in case.others
    ]


def _mib(result: Result) -> float | str:
    return "not counted" if result.mib is None else significant(result.mib)


def measure(case: Case, scores: np.ndarray, small: bool) -> dict[str, Result]:
    """Measures our loss and the others of a case.

    Args:
        case: what is compared.
        scores: of its lists.
        small: whether it is only to be seen that everything works.

    Returns:
        Time and memory by name, `""` for our loss.

    Raises:
        AssertionError: one that should compute the same does not.
    """
    steps = {"": tf_step(case.own, case.labels, scores)}
    for name, other in case.others.items():
        make = jax_step if other.jax else tf_step
        steps[name] = make(other.loss, case.labels, scores)
    want = steps[""]()
    seconds = {}
    for name, step in steps.items():
        found = step()
        if name and case.others[name].same:
            check_same(want, found)
        started = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - started
    mib = {
        name: None if name and case.others[name].jax else peak_mib(step)
        for name, step in steps.items()
    }
    calls = {
        name: max(2, min(100, round(0.2 / s))) if not small else 1
        for name, s in seconds.items()
    }
    subjects = {
        name: lambda name=name: measuring.median_seconds(
            lambda _: steps[name](), range(calls[name])
        )
        for name in steps
    }
    timings = measuring.settle(subjects, rounds=ROUNDS if not small else 2)
    return {name: Result(timings[name], mib[name]) for name in steps}


def check_same(want: tuple[Any, Any], found: tuple[Any, Any]) -> None:
    """Raises unless a step computes what ours computes.

    Raises:
        AssertionError: losses or gradients differ.
    """
    for ours, theirs in zip(want, found, strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        # As a whole: keras-rs gives pairs of equal scores no gradient.
        apart = np.linalg.norm(ours - theirs)
        assert apart <= 1e-3 * np.linalg.norm(ours), apart


def target_table(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    targets = []
    for row in pairs:
        title = f"{row['loss']}, {row['labels']}"
        if row["beside"] == NAIVE:
            if row["MiB"] != "not counted":
                what = f"{title}: MiB"
                targets.append(measuring.target(what, row["MiB"], 3072.0, True))
        else:
            # Two runs of the same may differ by 10%.
            what = f"{title}: times faster than keras-rs"
            targets.append(measuring.target(what, row["times faster"], 0.9, False))
    return targets


if __name__ == "__main__":
    main()
