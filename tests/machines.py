"""Processes that train together over `TF_CONFIG`, and what each of them does."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import small_model, state_of, steady_adam
from tests.processes import ROOT
from tfrs_prerank.datasets import read, write
from tfrs_prerank.features import DocumentTable

BATCH = 4
SCHEMA = tp.Schema(
    features=[
        tp.Categorical("user_id", "query", buckets=20, dimension=4),
        tp.Categorical("movie_id", "doc", buckets=20, dimension=4),
        tp.Numeric("year", "doc", dimension=4),
        tp.Match("same", "user_id", "movie_id", "equal", dimension=4),
    ],
    tasks=[tp.Task("click")],
)
DOCUMENTS = DocumentTable(
    np.array([f"d{n}" for n in range(12)]),
    {"movie_id": [f"m{n}" for n in range(12)], "year": np.sin(np.arange(12.0))},
)

State = Mapping[str, np.ndarray]
Process = Any
Start = Callable[..., Process]


def requests_of(number: int) -> list[dict[str, Any]]:
    """Returns requests with lists of 1 to 8 documents."""
    rng = np.random.default_rng(number)
    requests = []
    for place in range(number):
        documents = rng.permutation(12)[: rng.integers(1, 9)]
        user = int(rng.integers(0, 6))
        requests.append(
            {
                "request_id": f"r{place}",
                "user_id": f"u{user}",
                "doc_ids": [f"d{n}" for n in documents],
                "label/click": [float(n % 3 == user % 3) for n in documents],
            }
        )
    return requests


def write_requests(folder: Path, number: int, split: str = "train") -> None:
    """Writes requests into three files."""
    requests = requests_of(number)
    write(folder, split, SCHEMA, requests, documents=DOCUMENTS, shards=3)


def reader_of(folder: Path, split: str = "train") -> Any:
    return read(
        folder,
        split,
        schema=SCHEMA,
        documents=DOCUMENTS,
        batch_size=BATCH,
        seed=3,
        shuffle_block=16,
    )


def model_of(dropout: float = 0.0) -> tp.PreRanker:
    terms = (
        tp.Term("click", "sigmoid_cross_entropy", weight=0.5),
        tp.Term("click", "softmax_cross_entropy"),
        tp.Term(
            "click",
            "in_batch_softmax",
            temperature=0.5,
            log_q=True,
            hard_negatives=3,
        ),
    )
    model = small_model(
        SCHEMA,
        normalization="batch",
        dropout=dropout,
        # The cosine of vectors near 0 has gradients near 1000, and rounding to match.
        scorer="dot",
        objective=tp.Objective(terms),
    )
    model.compile(steady_adam(0.01), metrics=[tp.metrics.NDCG(3)])
    return model


def fit(
    model: tp.PreRanker, folder: Path, epochs: int, callbacks: Sequence[Any] = ()
) -> dict[str, Any]:
    """Trains and returns what was logged."""
    history = model.fit(
        reader_of(folder),
        epochs=epochs,
        validation_data=reader_of(folder, "valid"),
        callbacks=list(callbacks),
        verbose=0,
    )
    logs: dict[str, Any] = history.history
    return logs


# What the processes do.


def mirrored(folder: str, dropout: str, epochs: str, stop: str = "") -> None:
    """One of several workers in step: trains, and writes all that it has and saw."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    place = strategy.cluster_resolver.task_id
    here = Path(folder)
    with strategy.scope():
        model = model_of(float(dropout))
    last = _Last()
    callbacks = [tf.keras.callbacks.BackupAndRestore(str(here / "backup")), last]
    if stop:
        callbacks.append(_Stop(here / f"reached-{place}"))
    logs = fit(model, here, int(epochs), callbacks)
    shared = strategy.experimental_distribute_dataset(reader_of(here)(1))
    local = strategy.experimental_local_results
    batches = [local(batch["request_id"])[0].numpy() for batch in shared]
    seen = [batch.astype(str).tolist() for batch in batches]
    told = {"logs": logs, "last": last.loss, "seen": seen}
    (here / f"log-{place}.json").write_text(json.dumps(told))
    # Moving averages are the mean over workers: all have to read them.
    np.savez(here / f"state-{place}.npz", **state_of(model))
    np.save(here / f"gap-{place}.npy", model.frequency.gap.numpy())


class _Last(tf.keras.callbacks.Callback):
    """Keeps the loss that was shown after the last batch of training."""

    loss = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.loss = float(logs["loss"])


class _Stop(tf.keras.callbacks.Callback):
    """Says that the middle of the second epoch is reached, and waits for the end."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.epochs_trained == 1 and batch == 2:
            self._mark.touch()
            time.sleep(600)


def parameter_servers(folder: str, epochs: str) -> None:
    """Serves variables, computes gradients or coordinates, as `TF_CONFIG` says."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type in ("worker", "ps"):
        tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol="grpc",
        ).join()
    # The tables are 21 x 4 float32: cut in two.
    cut = tf.distribute.experimental.partitioners.MinSizePartitioner(160, 2)
    strategy = tf.distribute.ParameterServerStrategy(resolver, cut)
    here = Path(folder)
    with strategy.scope():
        model = tp.PreRanker.load(here / "start")
        logs = fit(model, here, int(epochs))
    names = [variable.name for variable in model.trainable_variables]
    (here / "log.json").write_text(json.dumps({"logs": logs, "names": names}))
    model.save(here / "trained")


# Starting and ending them.


@contextlib.contextmanager
def processes() -> Iterator[Start]:
    """Gives a function that starts Python in a folder; ends all, whatever happens."""
    started: list[Process] = []

    def start(
        config: Mapping[str, Any], *arguments: str, folder: Path = ROOT
    ) -> Process:
        # A file, not a pipe: nobody reads while they run.
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        process: Process = subprocess.Popen(
            [sys.executable, *arguments],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(config),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        process.output = output
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.output.close()


def wait(process: Process, seconds: float) -> int:
    """Returns the exit code, or fails with what was printed where it takes longer."""
    try:
        code: int = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"not ended in {seconds} s:\n{printed(process)}") from None
    return code


def succeed(process: Process, seconds: float) -> None:
    """Waits for a process; fails with what it printed where it failed."""
    assert wait(process, seconds) == 0, printed(process)


def printed(process: Process) -> str:
    process.output.seek(0)
    return str(process.output.read().decode("utf-8", "replace")[-4000:])


def tasks_of(**numbers: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns the `TF_CONFIG` of each task of a cluster, by job and place."""
    with contextlib.ExitStack() as stack:
        cluster: dict[str, list[str]] = {}
        for job, number in numbers.items():
            # All are bound before one is given back, so that they differ.
            sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            cluster[job] = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    return {
        (job, place): {"cluster": cluster, "task": {"type": job, "index": place}}
        for job, number in numbers.items()
        for place in range(number)
    }


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
