"""The metrics of the stage on long lists, beside a loop over requests.

1. All metrics but `KendallTau` in one graph, and `KendallTau`, as an evaluation runs
   them: a `tf.function` over every `update_state`, batch by batch.
2. Each metric in a graph of its own. For the usual ones also what one would write
   without the package, a call of NumPy, scikit-learn or SciPy for each request. It runs
   on the first requests, and is checked to give the same value there.
3. How much memory the process takes above what it had, after a tenth of the requests
   and after all of them.

The batches are in memory before any time is taken, and what counts is their number of
rows: rows come again where there are more requests.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import measuring
import numpy as np
from measuring import significant

from tfrs_prerank import metrics  # first of all, so that tf.keras is Keras 2

# isort: split
import tensorflow as tf
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score, roc_auc_score

TASK = "click"
DOCUMENTS = 100_000
CATEGORIES = 50
TAU = "KendallTau"
_DISTINCT = 8
"""Batches with different rows: the processor's caches do not hold them."""

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        requests: how many there are.
        length: candidates of each.
        batch: requests in a batch.
        looped: requests that the loops run on.
        k: size of the forwarded set.
    """

    requests: int
    length: int
    batch: int
    looped: int
    k: int


FULL = Size(requests=10_000, length=1_000, batch=256, looped=200, k=100)
SMALL = Size(requests=200, length=50, batch=32, looped=20, k=10)


class Spent(NamedTuple):
    """What something took.

    Attributes:
        seconds: on the clock.
        processor: of all cores together.
    """

    seconds: float
    processor: float


def made_metrics(k: int) -> dict[str, Any]:
    """Returns one metric of every kind, by the name of its class."""
    made = [
        metrics.NDCG(10),
        metrics.MRR(),
        metrics.HitRate(k),
        metrics.InSceneHitRate(k),
        metrics.WeightedRecall(k, values="price"),
        metrics.ASH(k),
        metrics.RankerHitRate(k, 10),
        metrics.Overlap(k),
        metrics.ScoreRecall(k),
        metrics.KendallTau(),
        metrics.GAUC(),
        metrics.PAUC(),
        metrics.IntentCoverage("category", k),
        metrics.CatalogCoverage(DOCUMENTS, k),
        metrics.PopularityGini(DOCUMENTS, k),
        metrics.TailShare("exposures", head_from=100.0, k=k),
        metrics.NeverExposedShare("exposures", k),
        metrics.PCOC(),
        metrics.ECE(),
        metrics.NormalizedEntropy(),
    ]
    return {type(metric).__name__: metric for metric in made}


def batch_of(size: Size, seed: int) -> dict[str, tf.Tensor]:
    """Returns a batch of requests with all columns that metrics read.

    The pre-ranker follows the ranker with noise, a document in fifty is liked, and up
    to a tenth of a list is padding.

    Args:
        size: of the batch.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    shape = (size.batch, size.length)
    ranker = random.normal(size=shape)
    likes = random.random(shape) < np.where(ranker > 1, 0.1, 0.006)
    likes[:, 0] = True  # every request has a positive and a negative
    likes[:, 1] = False
    lengths = random.integers(size.length * 9 // 10, size.length + 1, shape[0])
    columns = {
        f"label/{TASK}": likes,
        "label/out_of_scene": random.random(shape) < 0.02,
        "price": random.lognormal(size=shape),
        "exposures": random.geometric(0.01, shape) - 1,
    }
    return {
        "mask": tf.constant(np.arange(size.length) < lengths[:, np.newaxis]),
        "doc_ids": tf.constant(random.integers(0, DOCUMENTS, shape)),
        "category": tf.constant(random.integers(0, CATEGORIES, shape)),
        # In float64 no two are equal, so that every loop has the same order.
        "scores": tf.constant(ranker + random.normal(size=shape) - 4.0),
        f"teacher/{TASK}": tf.constant(ranker),
        **{name: tf.constant(c, tf.float32) for name, c in columns.items()},
    }


def updater(chosen: Sequence[Any]) -> Callable[[Batch], Any]:
    """Returns one graph that adds a batch to all of some metrics."""

    @tf.function(autograph=False)
    def update(batch: Batch) -> None:
        for metric in chosen:
            arguments = metric.arguments(batch, TASK)
            metric.update_state(
                scores=batch["scores"], where=batch["mask"], **arguments
            )

    return update


def cut(batches: Sequence[Batch], requests: int) -> Iterator[Batch]:
    """Yields batches, again and again, until they hold so many requests."""
    place = 0
    while requests > 0:
        batch = batches[place % len(batches)]
        rows = len(batch["mask"])
        if rows > requests:
            batch = {name: column[:requests] for name, column in batch.items()}
        yield batch
        requests, place = requests - rows, place + 1


def spent_on(
    update: Callable[[Batch], Any], batches: Sequence[Batch], requests: int
) -> Spent:
    """Returns what some requests take, the tracing of the graph left out."""
    rows = len(batches[0]["mask"])
    for count in {rows, requests % rows} - {0}:  # the last batch has a shape of its own
        update(next(cut(batches, count)))
    started, worked = time.perf_counter(), time.process_time()
    for batch in cut(batches, requests):
        update(batch)
    return Spent(time.perf_counter() - started, time.process_time() - worked)


def ranked(batch: Batch, row: int, *names: str) -> list[np.ndarray]:
    """Returns columns of one request's documents, the best score first."""
    valid = batch["mask"][row]
    order = np.argsort(-batch["scores"][row][valid])
    return [batch[name][row][valid][order] for name in names]


def _ndcg(batch: Batch, row: int, k: int) -> float:
    likes, scores = ranked(batch, row, f"label/{TASK}", "scores")
    return float(ndcg_score([likes], [scores], k=10, ignore_ties=True))


def _mrr(batch: Batch, row: int, k: int) -> float:
    (likes,) = ranked(batch, row, f"label/{TASK}")
    return 1.0 / float(1 + np.flatnonzero(likes)[0])


def _hit_rate(batch: Batch, row: int, k: int) -> float:
    (likes,) = ranked(batch, row, f"label/{TASK}")
    return np.count_nonzero(likes[:k]) / np.count_nonzero(likes)


def _ranker_hit_rate(batch: Batch, row: int, k: int) -> float:
    (ranker,) = ranked(batch, row, f"teacher/{TASK}")
    return float(np.mean(np.argsort(-ranker)[:10] < k))


def _auc(batch: Batch, row: int, k: int) -> float:
    likes, scores = ranked(batch, row, f"label/{TASK}", "scores")
    return float(roc_auc_score(likes, scores))


def _tau(batch: Batch, row: int, k: int) -> float:
    ranker, scores = ranked(batch, row, f"teacher/{TASK}", "scores")
    return float(kendalltau(scores, ranker).statistic)


LOOPS: dict[str, tuple[str, Callable[[Batch, int, int], float]]] = {
    "NDCG": ("scikit-learn", _ndcg),
    "MRR": ("NumPy", _mrr),
    "HitRate": ("NumPy", _hit_rate),
    "RankerHitRate": ("NumPy", _ranker_hit_rate),
    "GAUC": ("scikit-learn", _auc),
    TAU: ("SciPy", _tau),
}
"""What one would write for a request, by metric; the value of one row of a batch."""


def looped(name: str, batches: Sequence[Batch], size: Size) -> float:
    """Returns the seconds of a loop over all requests, from its first ones.

    Raises:
        AssertionError: a request's value is not that of the metric.
    """
    metric, (_, function) = made_metrics(size.k)[name], LOOPS[name]
    values, expected, seconds = [], [], 0.0
    for batch in cut(batches, size.looped):
        arguments = metric.arguments(batch, TASK)
        expected.append(
            metric.per_list(scores=batch["scores"], where=batch["mask"], **arguments)[0]
        )
        arrays = {name: column.numpy() for name, column in batch.items()}
        started = time.perf_counter()
        values += [function(arrays, row, size.k) for row in range(len(arrays["mask"]))]
        seconds += time.perf_counter() - started
    np.testing.assert_allclose(values, np.concatenate(expected), rtol=1e-9, atol=1e-12)
    return seconds * size.requests / len(values)


def together_table(batches: Sequence[Batch], size: Size) -> list[dict[str, Any]]:
    """Times the metrics of one graph, the faster of two runs of each."""
    made = made_metrics(size.k)
    tau = made.pop(TAU)
    rows = []
    for what, chosen in (
        (f"all {len(made)} but {TAU}", list(made.values())),
        (TAU, [tau]),
    ):
        update = updater(chosen)
        spent = min(spent_on(update, batches, size.requests) for _ in range(2))
        rows.append(
            {
                "metrics": what,
                "requests": size.requests,
                "candidates": size.length,
                "seconds": significant(spent.seconds),
                "CPU seconds": significant(spent.processor),
            }
        )
    return rows


def each_table(batches: Sequence[Batch], size: Size) -> list[dict[str, Any]]:
    """Times each metric, and a loop over requests where there is one."""
    rows = []
    for name, metric in made_metrics(size.k).items():
        spent = spent_on(updater([metric]), batches, size.requests)
        row = {
            "metric": name,
            "seconds": significant(spent.seconds),
            "CPU seconds": significant(spent.processor),
            "loop over requests": "-",
            "its seconds": "-",
            "times faster": "-",
        }
        if name in LOOPS:
            seconds = looped(name, batches, size)
            row["loop over requests"] = LOOPS[name][0]
            row["its seconds"] = significant(seconds)
            row["times faster"] = significant(seconds / spent.seconds)
        rows.append(row)
        measuring.note(f"{name}: {row['seconds']} s")
    return rows


def memory_table(size: Size) -> list[dict[str, Any]]:
    """Measures the memory of all metrics together, with small and large batches."""
    rows = []
    made = list(made_metrics(size.k).values())
    # What TensorFlow needs for itself is there before anything is measured.
    updater(made)(batch_of(dataclasses.replace(size, batch=1), 0))
    for requests in (size.batch // 4, size.batch):
        batches = [batch_of(dataclasses.replace(size, batch=requests), 0)]
        update = updater(made)
        before = measuring.resident_mib()
        measuring.forget_peak()
        row: dict[str, Any] = {"requests in a batch": requests}
        for what, share in (("a tenth", 10), ("all", 1)):
            spent_on(update, batches, size.requests // share)
            row[f"peak above, MiB, after {what}"] = significant(
                measuring.resident_mib("VmHWM") - before
            )
        rows.append(row)
    return rows


def run(size: Size, options: argparse.Namespace) -> None:
    """Measures everything and reports it."""
    memory = memory_table(size)  # first: a process keeps what it once had
    batches = [batch_of(size, seed) for seed in range(_DISTINCT)]
    together = together_table(batches, size)
    rest, tau = (row["seconds"] for row in together)
    targets = [
        measuring.target(f"all but {TAU}: seconds", rest, 10.0, True),
        measuring.target(f"{TAU}: seconds", tau, 15.0, True),
    ]
    tables = {
        "together": together,
        "each": each_table(batches, size),
        "memory": memory,
        "targets": targets,
    }
    measuring.report("metrics", options, tables)


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "metrics").parse_args()
    run(SMALL if options.small else FULL, options)


if __name__ == "__main__":
    main()
