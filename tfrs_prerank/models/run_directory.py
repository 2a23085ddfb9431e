"""Run directories: a trained model as files that can be moved and loaded."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tensorflow as tf

import tfrs_prerank.metrics  # noqa: F401 - Keras makes them again by their names
from tfrs_prerank.declaration import (
    ConfigurationError,
    from_mapping,
    on_one_line,
    read_yaml,
    to_mapping,
    write_yaml,
)
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.config import ModelConfig, RankerConfig
from tfrs_prerank.objectives.objective import Objective

if TYPE_CHECKING:
    from tfrs_prerank.models.request_model import RequestModel

Model = TypeVar("Model", bound="RequestModel")

_CONFIG = "config.yaml"
_CHECKPOINT = "checkpoint/model"
_SECTIONS: dict[type, str] = {ModelConfig: "model", RankerConfig: "ranker"}
"""Where in the configuration the declarations are, by their class."""


def save(model: RequestModel, directory: str | Path) -> None:
    """Writes a model's run directory; see `RequestModel.save`."""
    directory = Path(directory)
    check_place(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.schema.save(temporary)
        config: dict[str, Any] = {
            _SECTIONS[model.declared_by]: to_mapping(model.declarations),
            "objective": to_mapping(model.objective),
        }
        if model.optimizer is not None:
            config["compile"] = {
                "optimizer": _plain(tf.keras.optimizers.serialize(model.optimizer)),
                "metrics": {
                    task: [_serialized(task, metric) for metric in metrics]
                    for task, metrics in model.task_metrics.items()
                },
            }
        config["files"] = _digests(temporary)
        write_yaml(temporary / _CONFIG, config)
        model.checkpoint().write(str(temporary / _CHECKPOINT))
        _replace(directory, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_place(directory: Path) -> None:
    """Raises FileExistsError where something else than a run directory lies.

    Args:
        directory: where a run directory is to be written.
    """
    if directory.exists() and not (directory / _CONFIG).is_file():
        raise FileExistsError(
            f"{directory} exists and is no run directory; choose another place"
        )


def holds_ranker(directory: str | Path) -> bool:
    """Says whether a run directory is that of a `Ranker`.

    Args:
        directory: the run directory.

    Raises:
        FileNotFoundError: it is none.
        ConfigurationError: its configuration is not understood.
    """
    return _SECTIONS[RankerConfig] in _read_config(Path(directory))


def load(cls: type[Model], directory: str | Path) -> Model:
    """Makes the model of a run directory; see `RequestModel.load`."""
    directory = Path(directory)
    config = _read_config(directory)
    where = str(directory / _CONFIG)
    declared = cls.declared_by
    section = _SECTIONS[declared]
    if section not in config:
        (found,) = (name for name in _SECTIONS.values() if name in config)
        raise ConfigurationError(
            f"{where}: has no {section!r} but a {found!r}; load it with "
            f"{'Ranker' if found == 'ranker' else 'PreRanker'}.load"
        )
    declarations: Any = from_mapping(declared, config[section], where)
    objective: Objective = from_mapping(Objective, config.get("objective"), where)
    _check_files(directory, config.get("files") or {})
    schema = Schema.from_yaml(directory / "schema.yaml")
    model = cls(schema, objective=objective, **declarations.arguments())
    compiled = config.get("compile")
    if compiled is not None:
        try:
            optimizer = tf.keras.optimizers.deserialize(compiled["optimizer"])
            metrics = {
                task: [tf.keras.metrics.deserialize(metric) for metric in of_task]
                for task, of_task in compiled["metrics"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{where}: compile is not understood: {_in_one_line(error)}"
            ) from error
        model.compile(optimizer=optimizer, metrics=metrics)
    _restore(model, directory)
    return model


def _read_config(directory: Path) -> dict[str, Any]:
    if not (directory / _CONFIG).is_file():
        raise FileNotFoundError(f"{directory} is no run directory: no {_CONFIG} in it")
    config = read_yaml(directory / _CONFIG)
    if not isinstance(config, dict) or not {*_SECTIONS.values()} & {*config}:
        raise ConfigurationError(f"{directory / _CONFIG}: has no 'model'")
    return config


def _restore(model: RequestModel, directory: Path) -> None:
    prefix = str(directory / _CHECKPOINT)
    if not tf.io.gfile.exists(f"{prefix}.index"):
        raise FileNotFoundError(f"{directory} has no checkpoint at {_CHECKPOINT}")
    try:
        model.checkpoint().read(prefix).assert_consumed()
    # TensorFlow turns what its reader finds into built-in errors of several kinds.
    except (AssertionError, LookupError, ValueError, tf.errors.OpError) as error:
        raise ConfigurationError(
            f"{directory}: the checkpoint is damaged, or is not of the configuration "
            f"beside it; copy it again. TensorFlow says: {_in_one_line(error)}"
        ) from error


def _in_one_line(error: Exception) -> str:
    return on_one_line(error)[:200]


def _digests(directory: Path) -> dict[str, str]:
    """Fingerprints the files that weights belong to, line by line."""
    files = [*directory.glob("vocabularies/*"), *directory.glob("statistics.json")]
    return {
        file.relative_to(directory).as_posix(): hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in sorted(files)
    }


def _check_files(directory: Path, digests: dict[str, str]) -> None:
    found = _digests(directory)
    for name, digest in digests.items():
        if name not in found:
            raise FileNotFoundError(f"{directory} has no {name}; copy it again")
        if found[name] != digest:
            raise ConfigurationError(
                f"{directory / name} is not what the model was trained with; "
                "copy it again"
            )


def _serialized(task: str, metric: tf.keras.metrics.Metric) -> dict[str, Any]:
    serialized: dict[str, Any] = _plain(tf.keras.metrics.serialize(metric))
    config = serialized["config"]
    config["name"] = config["name"].removeprefix(f"{task}/")
    return serialized


def _plain(value: Any) -> Any:
    """Turns NumPy scalars and tuples of a Keras config into what YAML can hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _replace(directory: Path, temporary: Path) -> None:
    if not directory.exists():
        temporary.rename(directory)
        return
    old = directory.with_name(f".old-{directory.name}")
    shutil.rmtree(old, ignore_errors=True)
    directory.rename(old)
    temporary.rename(directory)
    shutil.rmtree(old)
