"""Run directories: whole or not there, and refused where they do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.resume import model_of, schema_of
from tests.models.small import (
    assert_same_state,
    dataset,
    random_requests,
    small_model,
    state_of,
    take,
)
from tfrs_prerank.declaration import ConfigurationError

ARRAYS = random_requests(8, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a model with a vocabulary and statistics."""
    folder = tmp_path_factory.mktemp("saved")
    model_of(schema_of(folder / "sources")).save(folder / "run")
    return folder / "run"


def test_a_loaded_model_is_the_one_that_was_saved(tmp_path: Path) -> None:
    objective = tp.Objective((tp.Term("click", "softmax_cross_entropy", weight=0.5),))
    model = small_model(objective=objective, scorer="dot", distinct_documents=True)
    model.compile(
        tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(0.1, 9)),
        metrics=[tp.metrics.NDCG(2)],
    )
    model.fit(dataset(ARRAYS, 4), verbose=0)
    model.save(tmp_path / "run")
    model.save(tmp_path / "run")  # an earlier run directory is replaced
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    loaded = tp.PreRanker.load(tmp_path / "run")
    assert loaded.schema == model.schema
    assert loaded.declarations == model.declarations
    assert loaded.objective == objective
    assert loaded.metrics_names == model.metrics_names
    assert [metric.k for metric in loaded.task_metrics["click"]] == [2]
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    assert loaded.optimizer.iterations == 2
    assert_same_state(state_of(model), state_of(loaded), 0.0)
    for before, after in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(before, after)
    batch = take(ARRAYS, 0, 8)
    np.testing.assert_array_equal(model(batch)["scores"], loaded(batch)["scores"])


def test_a_model_that_was_never_compiled(tmp_path: Path) -> None:
    model = small_model()
    model.save(tmp_path / "run")
    assert_same_state(
        state_of(model), state_of(tp.PreRanker.load(tmp_path / "run")), 0.0
    )


def test_no_file_names_an_absolute_path(saved: Path) -> None:
    names = {path.relative_to(saved).as_posix() for path in saved.rglob("*")}
    assert {
        "config.yaml",
        "schema.yaml",
        "statistics.json",
        "vocabularies/movie_id.txt",
        "checkpoint/model.index",
    } < names
    for path in saved.rglob("*"):
        if path.is_file():
            assert str(saved.parent).encode() not in path.read_bytes(), path


def test_other_directories_are_not_overwritten(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    model = small_model()
    with pytest.raises(FileExistsError, match="is no run directory; choose another"):
        model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(FileExistsError, match="overwrite=False"):
        model.save(saved, overwrite=False)


def test_a_failure_while_writing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    model.save(tmp_path / "run")
    before = state_of(model)
    model.network.fusion.weight.assign([2.0])

    def fail(self: tf.train.Checkpoint, prefix: str) -> None:
        Path(prefix).parent.mkdir()
        Path(prefix).write_text("half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.Checkpoint, "write", fail)
        with pytest.raises(OSError, match="no space left"):
            model.save(tmp_path / "run")
        with pytest.raises(OSError, match="no space left"):
            model.save(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_same_state(before, state_of(tp.PreRanker.load(tmp_path / "run")), 0.0)


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / name).read_text(encoding="utf-8")
        assert old in text
        (run / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def truncate(name: str, share: float = 0.5) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: int(share * len(data))])

    return change


DATA = "checkpoint/model.data-00000-of-00001"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (remove("config.yaml"), FileNotFoundError, "is no run directory"),
        (remove("schema.yaml"), FileNotFoundError, "schema.yaml"),
        (remove("statistics.json"), FileNotFoundError, "no statistics.json"),
        (remove("vocabularies/movie_id.txt"), FileNotFoundError, "movie_id.txt"),
        (remove("checkpoint/model.index"), FileNotFoundError, "no checkpoint at"),
        (remove(DATA), ConfigurationError, "checkpoint is damaged"),
        (truncate(DATA), ConfigurationError, "checkpoint is damaged"),
        (truncate("checkpoint/model.index"), ConfigurationError, "is damaged"),
        (truncate("config.yaml", 0.0), ConfigurationError, "has no 'model'"),
        (
            replace("config.yaml", "  optimizer:", "  optimiser:"),
            ConfigurationError,
            "config.yaml: compile is not understood: 'optimizer'",
        ),
        (
            replace("vocabularies/movie_id.txt", "m3\nm4\n", "m4\nm3\n"),
            ConfigurationError,
            "movie_id.txt is not what the model was trained with",
        ),
        (
            replace("statistics.json", "0.25", "0.5"),
            ConfigurationError,
            "statistics.json is not what the model was trained with",
        ),
        (
            replace("config.yaml", "- 8", "- 16"),
            ConfigurationError,
            "is not of the configuration beside it",
        ),
        (
            replace("config.yaml", "normalization: batch", "normalization: layer"),
            ConfigurationError,
            "is not of the configuration beside it",
        ),
        (
            replace("schema.yaml", "buckets: 20", "buckets: 30"),
            ConfigurationError,
            "is not of the configuration beside it",
        ),
        (
            replace("schema.yaml", "name: user_id", "name: user_number"),
            ConfigurationError,
            "is not of the configuration beside it",
        ),
        (
            replace("config.yaml", "dropout:", "drop_out:"),
            ConfigurationError,
            "config.yaml.*unknown key 'drop_out'",
        ),
    ],
)
def test_what_was_changed_is_named_on_one_line(
    saved: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    kind: type[Exception],
    message: str,
) -> None:
    shutil.copytree(saved, tmp_path / "run")
    change(tmp_path / "run")
    with pytest.raises(kind, match=message) as caught:
        tp.PreRanker.load(tmp_path / "run")
    assert "\n" not in str(caught.value)
