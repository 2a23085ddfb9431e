"""Training across machines: real processes over `TF_CONFIG` on this one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests import machines
from tests.machines import (
    BATCH,
    State,
    fit,
    model_of,
    processes,
    reader_of,
    succeed,
    tasks_of,
    wait,
    write_requests,
)
from tests.models.small import assert_same_state, state_of
from tests.processes import ROOT
from tfrs_prerank.datasets import prepare
from tfrs_prerank.models.epochs import for_keras, start_epoch

WAIT = 900.0
"""Seconds until a process counts as stuck; on a busy machine its start takes many."""


MIRRORED = ("-m", "tests.machines", "mirrored")
SERVERS = ("-m", "tests.machines", "parameter_servers")
PAGE = ROOT / "docs" / "training.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Requests whose last batch has rows for the first of two workers only."""
    write_requests(tmp_path, 5 * BATCH + 1)
    write_requests(tmp_path, BATCH + 1, "valid")
    return tmp_path


def in_step(folder: Path, *arguments: str) -> tuple[list[dict], list[State]]:
    """Trains with two workers; returns what each logged and ended with."""
    with processes() as start:
        workers = [
            start(config, *MIRRORED, str(folder), *arguments)
            for config in tasks_of(worker=2).values()
        ]
        for worker in workers:
            succeed(worker, WAIT)
    return results(folder)


def results(folder: Path) -> tuple[list[dict], list[State]]:
    logs = [json.loads((folder / f"log-{n}.json").read_text()) for n in (0, 1)]
    return logs, [dict(np.load(folder / f"state-{n}.npz")) for n in (0, 1)]


@pytest.mark.slow  # replicas of one process show most of it
def test_two_workers_equal_one(folder: Path) -> None:
    logs, states = in_step(folder, "0.0", "2")

    alone = model_of()
    start = state_of(alone)
    of_one = fit(alone, folder, 2)
    assert alone.optimizer.iterations == 12
    for state in states:
        assert_same_state(state_of(alone), state, 1e-5)
    # Steps were taken, and statistics moved, that the comparison can see.
    moved = {n: np.abs(v - start[n]).max() for n, v in state_of(alone).items()}
    assert min(v for n, v in moved.items() if "moving" in n) > 1e-3
    assert min(v for n, v in moved.items() if "embeddings" in n) > 1e-2
    for place in (0, 1):
        gap = np.load(folder / f"gap-{place}.npy")
        np.testing.assert_allclose(gap, alone.frequency.gap, rtol=1e-5)
    # Three terms, their sum and a metric, in training and in validation.
    assert len(of_one) == 10
    for log in logs:
        # What is shown within an epoch is not added up over the workers either.
        np.testing.assert_allclose(log["last"], of_one["loss"][-1], rtol=1e-5)
        assert log["logs"].keys() == of_one.keys()
        for name, values in log["logs"].items():
            np.testing.assert_allclose(values, of_one[name], rtol=1e-5, err_msg=name)

    # Each batch of one worker is the two workers' batches, one after the other.
    batches = [
        b["request_id"].numpy().astype(str).tolist() for b in reader_of(folder)(1)
    ]
    parts = list(zip(*(log["seen"] for log in logs), strict=True))
    assert [[len(part) for part in step] for step in parts] == [[2, 2]] * 5 + [[1, 0]]
    assert [first + second for first, second in parts] == batches
    requests = [request for batch in batches for request in batch]
    assert sorted(requests) == sorted(f"r{n}" for n in range(21))


def servers_of(workers: int) -> mock.Mock:
    """Stands for the strategy of a cluster with so many workers."""
    strategy = mock.MagicMock(spec=tf.distribute.ParameterServerStrategy)
    cluster = tf.train.ClusterSpec({"worker": ["localhost:1"] * workers})
    strategy._cluster_resolver = mock.Mock(cluster_spec=lambda: cluster)
    return strategy


PS = servers_of(2)
# What TensorFlow gives every worker.
CONTEXT = tf.distribute.InputContext(1, 0, 1)


def three_batches(epoch: tf.Tensor) -> tf.data.Dataset:
    return tf.data.Dataset.range(10 * epoch, 10 * epoch + 3)


def test_workers_of_parameter_servers_take_turns() -> None:
    creator, steps = for_keras(three_batches, tf.Variable(2, dtype=tf.int64), PS)
    assert steps == 3
    first, second = (
        list(creator(CONTEXT).take(5).as_numpy_iterator()) for _ in range(2)
    )
    # Epochs 2, 3 and 4, and of 5 the first.
    assert first == [20, 22, 31, 40, 42]
    assert second == [21, 30, 32, 41, 50]


def test_workers_of_parameter_servers_take_turns_in_validation() -> None:
    creator, steps = for_keras(three_batches, 0, PS)
    first, second = (
        list(creator(CONTEXT).take(4).as_numpy_iterator()) for _ in range(2)
    )
    # The same three batches again and again, every other one.
    assert (first, second, steps) == ([0, 2, 1, 0], [1, 0, 2, 1], 3)


def test_input_of_a_function_is_shared_by_rows() -> None:
    policy = tf.data.experimental.AutoShardPolicy.DATA
    for epoch in (0, tf.Variable(0, dtype=tf.int64)):
        data, steps = for_keras(three_batches, epoch, tf.distribute.get_strategy())
        options = data.options().experimental_distribute
        assert (options.auto_shard_policy, steps) == (policy, None)


def test_what_is_no_function_of_an_epoch_goes_to_keras_as_it_is() -> None:
    creator = tf.keras.utils.experimental.DatasetCreator(three_batches)
    for data in (creator, three_batches(tf.constant(0, tf.int64)), None):
        assert for_keras(data, 0, PS) == (data, None)
        assert for_keras(data, 0, tf.distribute.get_strategy()) == (data, None)


def test_parameter_servers_need_the_number_of_batches() -> None:
    def unknown(epoch: tf.Tensor) -> tf.data.Dataset:
        return three_batches(epoch).filter(lambda batch: batch > 0)

    with pytest.raises(ValueError, match=r"needs the number of batches; end the"):
        for_keras(unknown, 0, PS)


def test_random_numbers_are_a_function_of_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int, before: Sequence[int]) -> list[float]:
        """Draws at an epoch's start, having drawn before each epoch up to it."""
        generator = tf.random.Generator.from_seed(seed)
        for place, number in enumerate(before, start=epoch - len(before) + 1):
            start_epoch(generator, tf.constant(place, tf.int64))
            generator.uniform([number])
        start_epoch(generator, tf.constant(epoch, tf.int64))
        return generator.uniform([4]).numpy().tolist()

    assert draw(5, 2, []) == draw(5, 2, [7]) == draw(5, 2, [1000, 1])
    others = [draw(5, 2, []), draw(5, 3, []), draw(6, 2, []), draw(6, 3, [])]
    assert len({number for numbers in others for number in numbers}) == 16


@pytest.mark.slow
def test_a_killed_worker_resumes_from_the_backup(folder: Path) -> None:
    """With dropout: the random numbers go on where they were, too."""
    _, (expected, _) = in_step(folder, "0.3", "3")
    for file in folder.glob("*-[01].*"):
        file.unlink()
    assert not list((folder / "backup").rglob("*.index"))

    with processes() as start:
        tasks = tasks_of(worker=2)
        first, second = (
            start(config, *MIRRORED, str(folder), "0.3", "3", stop)
            for config, stop in zip(tasks.values(), ("", "stop"), strict=True)
        )
        until = time.monotonic() + WAIT
        while not (folder / "reached-1").exists():
            assert second.poll() is None, machines.printed(second)
            assert time.monotonic() < until, machines.printed(second)
            time.sleep(0.1)
        second.kill()
        # The other one cannot go on alone: it ends with an error, to be started again.
        assert wait(first, WAIT) != 0
        assert not list(folder.glob("state-*"))
        assert list((folder / "backup" / "chief").glob("*.index"))

    logs, states = in_step(folder, "0.3", "3")
    # The first of the three epochs was not trained again.
    assert [len(log["logs"]["loss"]) for log in logs] == [2, 2]
    for state in states:
        assert_same_state(expected, state, 1e-5)


@pytest.mark.slow
def test_parameter_servers(tmp_path: Path) -> None:
    write_requests(tmp_path, 200)
    write_requests(tmp_path, 60, "valid")
    local = model_of()
    local.save(tmp_path / "start")
    of_local = fit(local, tmp_path, 3)

    with processes() as start:
        tasks = tasks_of(chief=1, worker=1, ps=1)
        all_of_them = {
            job: start(config, *SERVERS, str(tmp_path), "3")
            for (job, _), config in tasks.items()
        }
        succeed(all_of_them["chief"], WAIT)

    log = json.loads((tmp_path / "log.json").read_text())
    assert sum("embeddings/part_" in name for name in log["names"]) == 4
    losses = log["logs"]["val_loss"]
    assert len(losses) == 3
    np.testing.assert_allclose(losses[-1], of_local["val_loss"][-1], rtol=0.02)
    # Training took the loss down by far more than that.
    assert of_local["loss"][0] > 1.2 * of_local["loss"][-1]
    assert log["logs"]["loss"][0] > 1.2 * log["logs"]["loss"][-1]
    # The run directory holds whole tables, for one machine.
    trained = tp.PreRanker.load(tmp_path / "trained")
    assert trained.epochs_trained == 3
    found = trained.evaluate(reader_of(tmp_path, "valid"), return_dict=True, verbose=0)
    np.testing.assert_allclose(found["loss"], losses[-1], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "cluster", "directory"),
    [
        (0, {"worker": 2}, "in_step"),
        (2, {"chief": 1, "worker": 2, "ps": 2}, "with_servers"),
    ],
    ids=["workers in step", "parameter servers"],
)
def test_scripts_of_the_page(
    place: int, cluster: dict[str, int], directory: str, tmp_path: Path
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.S | re.M)
    assert len(blocks) == 3
    (tmp_path / "train.py").write_text(blocks[place], encoding="utf-8")
    # Without the match: the page's models have no cross tower.
    schema = tp.Schema(machines.SCHEMA.features[:3], machines.SCHEMA.tasks)
    parts = [machines.requests_of(number) for number in (150, 70, 1)]
    prepare(schema, *parts, machines.DOCUMENTS, tmp_path / "data")

    with processes() as start:
        first, *_ = [
            start(config, "train.py", folder=tmp_path)
            for config in tasks_of(**cluster).values()
        ]
        succeed(first, WAIT)
    trained = tp.PreRanker.load(tmp_path / "runs" / directory)
    assert trained.epochs_trained == 2
    # 150 requests in batches of 64.
    assert trained.optimizer.iterations == 6
