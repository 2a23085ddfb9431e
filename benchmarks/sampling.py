"""Sampling of training lists: its cost for a request, beside reading and bare draws.

The requests are those of the simulated funnel, whole, as their records are read. One
round over all of them is timed for each of:

1. `datasets.read`, which parses the record of the whole list into a batch;
2. `Sampler.sample` with mixtures, from the default one to that of the example
   configuration: it returns a list with all columns and the chance of every draw;
3. NumPy's `Generator.choice` without replacement, of as many places as the mixture
   draws: no seeds by request, no probabilities, no columns.

Beside them stands what preparing the same log costs without a mixture and with the
last one: there, a request is made of the log's rows, sampled twice, for vocabularies
and for the record, and written.

Times are CPU seconds of all threads, since reading and preparing have several.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from measuring import Timing, significant

from tfrs_prerank import pipeline
from tfrs_prerank.config import Config
from tfrs_prerank.datasets import funnel, logs
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.sampling import Catalog, DocumentLog, Mixture, Sampler

SEED = 7
BATCH = 64
PASSES = 8  # so many that what is read ahead of time hardly counts
SMALL = dataclasses.replace(
    funnel.small(SEED), documents=200, requests=60, candidates=40, ranked=20, block=20
)
FULL = funnel.small(SEED)
MIXTURES = {
    "10 ranked, 40 preranked_out": Mixture(),
    "+ 20 of the catalogue": Mixture(catalog=Catalog(20)),
    "+ by category (funnel.yaml)": Mixture(
        catalog=Catalog(20, by=("exposures", "category"))
    ),
}
WHOLE = "whole list"


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "sampling").parse_args()
    made = funnel.simulate(SMALL if options.small else FULL)
    rounds = 2 if options.small else 6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made.write(folder / "log")
        measuring.note("preparing")
        mixtures = dict([next(reversed(MIXTURES.items()))])
        converted = conversions(folder, mixtures, 2 if options.small else 3)
        data = folder / f"{WHOLE} 0"
        requests = requests_of(data)
        measuring.note(f"sampling from {len(requests):,} requests")
        samplers = samplers_of(data, requests)
        subjects: dict[str, Callable[[], float]] = {
            WHOLE: lambda: seconds_to_read(data)
        }
        for mixture, sampler in samplers.items():
            subjects[mixture] = lambda sampler=sampler: seconds_to_sample(
                sampler, requests
            )
            subjects[f"choice, {mixture}"] = lambda mixture=mixture: seconds_to_choose(
                MIXTURES[mixture], requests, made.settings.documents
            )
        found = measuring.settle(subjects, rounds)
    sampling = sampling_table(found, len(requests))
    tables = {
        "sampling": sampling,
        "preparing": preparing_table(converted, made.settings.requests),
    }
    measuring.report("sampling", options, tables)


def conversions(
    folder: Path, mixtures: dict[str, Mixture], rounds: int
) -> dict[str, Timing]:
    """Times the conversion of the log in a folder, with every mixture and with none.

    Args:
        folder: holds `log`; prepared directories are left beside it.
        mixtures: by name.
        rounds: the most runs of each.
    """
    example = Config.example("funnel")

    def run(name: str, mixture: Mixture | None) -> float:
        place = next(
            folder / f"{name} {number}"
            for number in range(rounds)
            if not (folder / f"{name} {number}").exists()
        )
        data = dataclasses.replace(example.data, mixture=mixture)
        config = data.of_log(folder / "log")
        started = time.process_time()
        logs.convert(config, example.schema, place)
        return time.process_time() - started

    subjects = {
        name: lambda name=name, mixture=mixture: run(name, mixture)
        for name, mixture in {WHOLE: None, **mixtures}.items()
    }
    return measuring.settle(subjects, rounds)


def requests_of(data: Path) -> list[dict[str, Any]]:
    """Returns the training requests of a prepared directory, as `write` takes them.

    Args:
        data: the directory, whose lists are whole.
    """
    columns = pipeline.prepared_schema(data).columns()
    static = {name for name, column in columns.items() if column.static}
    requests = []
    for batch in pipeline.open_requests(data, "train", batch_size=1):
        requests.append(
            {
                name: _unpadded(column.numpy()[0], columns.get(name))
                for name, column in batch.items()
                if name not in static and name != "mask"
            }
        )
    return requests


def _unpadded(values: Any, column: Any) -> Any:
    """Returns a value without the pads of a batch, strings as Python's own."""
    if isinstance(values, bytes):
        return values.decode()
    if values.dtype == object:
        values = np.char.decode(values.astype(bytes), "utf-8")
    if column is not None and column.owner == "query" and values.ndim:
        values = values[values != column.pad]
    return values.tolist() if values.dtype.kind == "U" else values


def samplers_of(data: Path, requests: list[dict[str, Any]]) -> dict[str, Sampler]:
    """Returns a sampler for each mixture.

    Args:
        data: the prepared directory.
        requests: its training requests.
    """
    schema = pipeline.prepared_schema(data)
    documents = read_documents(data / "documents.parquet")
    log = DocumentLog(requests, documents, schema, with_values=True)
    return {name: Sampler(mixture, schema, log) for name, mixture in MIXTURES.items()}


def seconds_to_read(data: Path) -> float:
    """Reads all training requests in batches, once they have been read before."""
    requests = pipeline.open_requests(data, "train", BATCH)
    batches = iter(requests(0).repeat(1 + PASSES))
    for _ in range(-(-requests.num_requests // BATCH)):
        next(batches)
    started = time.process_time()
    for _ in batches:
        pass
    return (time.process_time() - started) / PASSES


def seconds_to_sample(sampler: Sampler, requests: list[dict[str, Any]]) -> float:
    """Draws a training list from every request; returns CPU seconds."""
    started = time.process_time()
    for request in requests:
        sampler.sample(request)
    return time.process_time() - started


def seconds_to_choose(
    mixture: Mixture, requests: list[dict[str, Any]], documents: int
) -> float:
    """Draws as many places as a mixture does, and nothing else.

    Args:
        mixture: says how many.
        requests: whose documents are counted before any time is taken.
        documents: how many the catalogue has.
    """
    generator = np.random.default_rng(SEED)
    draws = [
        [
            *(
                (size, int(min(mixture.quota(stage), size)))
                for stage in ("ranked", "preranked_out")
                for size in [int((request["stage"] == STAGES[stage]).sum())]
            ),
            (documents, mixture.drawn_from_catalog),
        ]
        for request in requests
    ]
    started = time.process_time()
    for of_request in draws:
        for size, count in of_request:
            if count:
                generator.choice(size, count, replace=False)
    return time.process_time() - started


def sampling_table(found: dict[str, Timing], requests: int) -> list[dict[str, Any]]:
    """Lays out the time of a request for each mixture, beside reading and choosing."""

    def micros(name: str) -> float:
        return found[name].seconds / requests * 1e6

    return [
        {
            "mixture": mixture,
            "sample, CPU us": significant(micros(mixture)),
            "choice, CPU us": significant(micros(f"choice, {mixture}")),
            "times choice": significant(micros(mixture) / micros(f"choice, {mixture}")),
            "read, CPU us": significant(micros(WHOLE)),
            "times read": significant(micros(mixture) / micros(WHOLE)),
            "two runs within 10%": _settled(found, mixture, WHOLE),
        }
        for mixture in MIXTURES
    ]


def preparing_table(found: dict[str, Timing], requests: int) -> list[dict[str, Any]]:
    """Lays out the time of a request from the log's rows to its record."""
    whole = found[WHOLE].seconds
    return [
        {
            "training lists": name,
            "CPU us a request": significant(timing.seconds / requests * 1e6),
            "times the whole list": significant(timing.seconds / whole),
            "two runs within 10%": _settled(found, name),
        }
        for name, timing in found.items()
    ]


def _settled(found: dict[str, Timing], *names: str) -> str:
    return "yes" if all(found[name].settled for name in names) else "no"


if __name__ == "__main__":
    main()
