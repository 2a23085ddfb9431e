"""What a training of the pipeline begins with."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from tests.small_movielens import write_config, write_folder
from tfrs_prerank import pipeline
from tfrs_prerank.cli import main
from tfrs_prerank.config import Config
from tfrs_prerank.datasets.vectors import VectorTable, write_vectors
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.models.ranker import Ranker


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration with vectors of three movies, one of which nobody knows."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "vectors").mkdir()
    vectors = np.arange(48.0).reshape(3, 16) / 100 + 1
    table = VectorTable(np.array(["1", "2", "unheard of"]), vectors)
    write_vectors(table, folder / "vectors" / "movies.parquet")
    path = write_config(
        folder / "c.yaml",
        write_folder(folder / "ml"),
        training={
            "batch_size": 16,
            "metrics": [],
            "initial_vectors": {"movie_id": "vectors/movies.parquet"},
        },
    )
    return Config.from_yaml(path)


@pytest.fixture(scope="module")
def data(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prepared") / "data"
    pipeline.prepare(config, directory)
    return directory


@pytest.fixture(scope="module")
def run(config: Config, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a first day."""
    directory = tmp_path_factory.mktemp("runs") / "first"
    pipeline.train(config, data, directory, say=lambda line: None)
    return directory


def begun(
    config: Config,
    data: Path,
    directory: Path,
    warm_start: Path | None,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[PreRanker, list[str]]:
    """The model as `fit` got it, and what was said before."""
    said: list[str] = []
    models: list[PreRanker] = []
    with monkeypatch.context() as patch:
        patch.setattr(PreRanker, "fit", lambda self, *_, **__: models.append(self))
        pipeline.train(config, data, directory, warm_start=warm_start, say=said.append)
    return models[0], said


def movie(model: PreRanker, name: str) -> np.ndarray:
    table = model.network.tables["movie_id"]
    row: np.ndarray = table(table.rows_of(tf.constant([name]))).numpy()[0]
    return row


def test_embeddings_begin_at_given_vectors(
    config: Config, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = begun(config, data, tmp_path / "run", None, monkeypatch)
    np.testing.assert_allclose(movie(model, "2"), np.arange(16, 32) / 100 + 1, 1e-6)
    known = len((data / "vocabularies" / "movie_id.txt").read_text().split())
    assert said[1] == (
        f"movie_id: 2 rows set; {known - 2} of the vocabulary without a vector; "
        "1 given ids not in the vocabulary (unheard of)"
    )
    assert said[0] == model.memory_report().total
    assert " parameters: 0.0 MiB of weights" in said[0]


@pytest.mark.slow  # takes long
def test_what_was_learned_wins_over_given_vectors(
    config: Config,
    data: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learned = PreRanker.load(run)
    model, said = begun(config, data, tmp_path / "run", run, monkeypatch)
    assert said[2].startswith(f"warm start from {run}\n")
    np.testing.assert_array_equal(movie(model, "2"), movie(learned, "2"))
    assert model.optimizer.iterations == learned.optimizer.iterations > 0
    assert model.epochs_trained == 0


@pytest.mark.slow  # takes long
def test_a_run_may_go_on_in_its_own_place(
    config: Config, data: Path, run: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    shutil.copytree(run, place)
    pipeline.train(config, data, place, warm_start=place, say=lambda line: None)
    first = PreRanker.load(run).optimizer.iterations
    assert PreRanker.load(place).optimizer.iterations == 2 * first


class Interrupted(Exception):
    """Stands for a machine that goes away."""


@pytest.fixture
def interrupted(
    config: Config,
    data: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """The place of a training that ended after its only epoch, before it was saved."""

    def stop(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(PreRanker, "save", stop)
        with pytest.raises(Interrupted):
            pipeline.train(
                config, data, tmp_path / "run", warm_start=run, say=lambda line: None
            )
    return tmp_path / "run"


@pytest.mark.slow  # takes long
def test_what_is_resumed_begins_once_and_with_the_same(
    config: Config, data: Path, run: Path, interrupted: Path
) -> None:
    (file,) = config.training.initial_vectors.values()
    before = Path(file).read_bytes()
    refused = pytest.raises(ValueError, match="keeps an interrupted training of")
    with refused:
        pipeline.train(config, data, interrupted)
    write_vectors(VectorTable(np.array(["1"]), np.ones([1, 16])), file)
    with refused:
        pipeline.train(config, data, interrupted, warm_start=run)
    Path(file).write_bytes(before)
    said: list[str] = []
    model = pipeline.train(config, data, interrupted, warm_start=run, say=said.append)
    assert len(said) == 1  # the sizes
    first = PreRanker.load(run).optimizer.iterations
    assert model.optimizer.iterations == 2 * first


def test_a_ranker_starts_from_a_ranker(
    config: Config, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranker, "fit", lambda *_, **__: None)
    said: list[str] = []
    for _ in range(2):
        place = tmp_path / "ranker"
        before = place if place.exists() else None
        pipeline.train_ranker(config, data, place, warm_start=before, say=said.append)
    assert said[-1].startswith(f"warm start from {place}\n")
    with pytest.raises(ConfigurationError, match=r"load it with Ranker\.load"):
        pipeline.train(config, data, tmp_path / "run", warm_start=place)
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]


def test_the_command_takes_a_run_and_tells(
    config: Config,
    data: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PreRanker, "fit", lambda *_, **__: None)
    yaml = write_config(tmp_path / "c.yaml", tmp_path, training={"batch_size": 16})
    places = ("--data", str(data), "--output", str(tmp_path / "run"))
    done = CliRunner().invoke(
        main, ["train", str(yaml), *places, "--warm-start", str(run)]
    )
    assert done.exit_code == 0, done.output
    sizes, *started, last = done.output.splitlines()
    assert "MiB of weights and" in sizes
    assert started[0] == f"warm start from {run}"
    assert last == f"run directory in {tmp_path / 'run'}"


def with_vectors(config: Config, **files: str) -> Config:
    training = dataclasses.replace(config.training, initial_vectors=files)
    return dataclasses.replace(config, training=training)


def test_what_cannot_be_begun_leaves_nothing(
    config: Config, data: Path, tmp_path: Path
) -> None:
    (file,) = config.training.initial_vectors.values()
    assert os.path.isabs(file)
    with pytest.raises(
        ConfigurationError,
        match=r"training\.initial_vectors: no feature 'movi_id'; did you mean 'movie_i",
    ):
        with_vectors(config, movi_id=file)
    with pytest.raises(
        FileNotFoundError, match=r"training\.initial_vectors\.movie_id: no file at nowh"
    ):
        pipeline.train(with_vectors(config, movie_id="nowhere"), data, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        pipeline.train(config, data, tmp_path / "run", warm_start=data)
    assert list(tmp_path.iterdir()) == []
