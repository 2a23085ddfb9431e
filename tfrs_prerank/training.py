"""Training on a prepared directory: from configuration to run directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tfrs_prerank.config import Config, make_metrics
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.datasets.requests import read
from tfrs_prerank.datasets.vectors import read_vectors
from tfrs_prerank.declaration import ConfigurationError, to_mapping
from tfrs_prerank.features.declarations import Numeric
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.models.ranker import Ranker
from tfrs_prerank.models.run_directory import check_place
from tfrs_prerank.objectives.objective import make_objective
from tfrs_prerank.optimizers import LazyAdam

_Model = TypeVar("_Model", PreRanker, Ranker)

_MADE_OF = "made_of"
"""File of a backup with the digest of what was trained."""

_PREPARED_KEYS = (
    "kind",
    "owner",
    "dtype",
    "size",
    "point_in_time",
    "training_only",
    "tokenizer",
    "ngrams",
    "min_count",
    "max_vocabulary",
)
"""Keys of a feature that a prepared directory depends on."""

_MEASURED_KEYS = ("log1p", "buckets", "missing", "per", "smoothing")
"""Those of a number, whose statistics are taken when a directory is prepared."""


def train(
    config: Config,
    data: str | Path,
    directory: str | Path,
    teacher: str | Path | None = None,
    warm_start: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> PreRanker:
    """Trains a model on a prepared directory and writes its run directory.

    An interrupted training goes on where it was when it is started again with the same
    configuration and data: its state is kept beside the run directory until that is
    written. (The patience of `early_stopping` starts anew.)

    What embeddings begin with: `training.initial_vectors` of the configuration, and
    over them what is taken over from the run of `warm_start`, so that given vectors are
    those of new values only.

    Args:
        config: the configuration; vocabularies and statistics come from the prepared
            directory.
        data: the prepared directory.
        directory: the run directory; an earlier one is replaced.
        teacher: run directory of a `Ranker`, whose logits stand in the place of the
            teacher's in the data; None for those.
        warm_start: run directory of a previous model, whose weights are taken over
            before the first epoch; see `PreRanker.warm_start`. It may be `directory`.
        say: called with what is told before the first epoch.

    Returns:
        The trained model.

    Raises:
        FileExistsError: the directory exists and is no run directory.
        ConfigurationError: the schema wants data that was prepared otherwise, or
            `early_stopping` has no validation requests, or the objective does not
            learn from the teacher, or nothing of the previous model fits.
        ValueError: an interrupted training of another configuration lies beside it.
    """
    if teacher is not None:
        _check_teacher(Path(teacher), config)

    def make(schema: Schema) -> PreRanker:
        return PreRanker(schema, objective=config.objective, **config.model.arguments())

    starts = _Starts(teacher, warm_start)
    return _train(make, config, Path(data), Path(directory), starts, say)


def train_ranker(
    config: Config,
    data: str | Path,
    directory: str | Path,
    warm_start: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Ranker:
    """Trains the configuration's ranker and writes its run directory.

    It learns from the terms of the objective that read labels. Otherwise as `train`.

    Args:
        config: the configuration.
        data: the prepared directory.
        directory: the run directory; an earlier one is replaced.
        warm_start: run directory of a previous ranker; see `train`.
        say: called with what is told before the first epoch.

    Returns:
        The trained ranker.
    """

    def make(schema: Schema) -> Ranker:
        objective = make_objective(config.objective, schema).of_ranker()
        return Ranker(schema, objective=objective, **config.ranker.arguments())

    starts = _Starts(None, warm_start)
    return _train(make, config, Path(data), Path(directory), starts, say)


@dataclasses.dataclass(frozen=True)
class _Starts:
    """The run directories that a training begins with.

    Attributes:
        teacher: that of a teacher.
        previous: that of the model before.
    """

    teacher: str | Path | None
    previous: str | Path | None


def _check_teacher(directory: Path, config: Config) -> None:
    """Raises ConfigurationError where a teacher would teach nothing."""
    objective = make_objective(config.objective, config.schema)
    if all(term.loss != "distillation" for term in objective.terms):
        raise ConfigurationError(
            f"a teacher is given ({directory}), and no term of the objective learns "
            "from it; add one of the loss 'distillation'"
        )
    if config.model.ranker is not None:
        raise ConfigurationError(
            f"a teacher is given ({directory}), and model.ranker is trained jointly; "
            "leave out one"
        )


def _train(
    make: Callable[[Schema], _Model],
    config: Config,
    data: Path,
    directory: Path,
    starts: _Starts,
    say: Callable[[str], None],
) -> _Model:
    """Trains what a function makes of the fitted schema; see `train`."""
    import tensorflow as tf

    training = config.training
    check_place(directory)
    for name, file in training.initial_vectors.items():
        if not Path(file).is_file():
            raise FileNotFoundError(
                f"training.initial_vectors.{name}: no file at {file}"
            )
    schema = fitted_schema(config.schema, data)
    documents = read_documents(data / "documents.parquet")
    options: dict[str, Any] = {"schema": schema, "documents": documents}
    options["batch_size"] = training.batch_size
    requests: Any = read(data, "train", seed=training.seed, **options)
    validation: Any = None
    if any(file.stat().st_size for file in data.glob("validation-*.tfrecord")):
        validation = read(data, "validation", shuffle=False, **options)
    elif training.early_stopping is not None:
        raise ConfigurationError(
            f"training.early_stopping={training.early_stopping}: {data} has no "
            "validation requests; leave it out, or prepare data with some"
        )
    backup = directory.with_name(f".{directory.name}-backup")
    made_of = _digest(config, data, make.__qualname__, starts)
    _check_backup(backup, made_of)

    teacher = starts.teacher
    if teacher is not None:
        ranker = Ranker.load(teacher)
        _check_tasks(config, ranker, Path(teacher))
        requests = _taught(requests, ranker)
        validation = None if validation is None else _taught(validation, ranker)
    tf.keras.utils.set_random_seed(training.seed)
    model = make(schema)
    model.compile(
        LazyAdam(training.learning_rate), metrics=make_metrics(training.metrics)
    )
    say(model.memory_report().total)
    # An interrupted training goes on from its own weights.
    if not _holds_state(backup):
        _begin(model, training.initial_vectors, starts.previous, say)
    backup.mkdir(parents=True, exist_ok=True)
    (backup / _MADE_OF).write_text(made_of, "ascii")
    callbacks: list[Any] = [
        tf.keras.callbacks.BackupAndRestore(str(backup), delete_checkpoint=False)
    ]
    if training.early_stopping is not None:
        callbacks.append(
            tf.keras.callbacks.EarlyStopping(
                patience=training.early_stopping, restore_best_weights=True
            )
        )
    try:
        model.fit(
            requests,
            epochs=training.epochs,
            validation_data=validation,
            callbacks=callbacks,
            # A bar redrawn for every step is for a person, not for a log file.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except BaseException:
        if not _holds_state(backup):
            shutil.rmtree(backup, ignore_errors=True)
        raise
    model.save(directory)
    shutil.rmtree(backup, ignore_errors=True)
    return model


def _begin(
    model: PreRanker | Ranker,
    initial_vectors: Mapping[str, str],
    previous: str | Path | None,
    say: Callable[[str], None],
) -> None:
    """Sets weights before the first epoch; what was learned wins over given vectors."""
    for feature, file in initial_vectors.items():
        ids, vectors = read_vectors(file)
        say(str(model.initialize_embeddings(feature, ids, vectors)))
    if previous is not None:
        say(str(model.warm_start(previous)))


# Prepared directories.


def prepared_schema(data: str | Path) -> Schema:
    """Returns the schema of a prepared directory.

    Args:
        data: the directory.

    Raises:
        FileNotFoundError: it is no prepared directory.
    """
    path = Path(data) / "schema.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{data} is no prepared directory: no schema.yaml in it; "
            "make one with `tfrs-prerank prepare`"
        )
    return Schema.from_yaml(path)


def fitted_schema(schema: Schema, data: str | Path) -> Schema:
    """Gives a schema the vocabularies and statistics of a prepared directory.

    What the data does not depend on, such as sizes, dropout and the tasks' weights, may
    have changed since the directory was made.

    Args:
        schema: the declarations.
        data: the directory.

    Returns:
        The schema with paths filled in.

    Raises:
        ConfigurationError: a declaration that the data depends on has changed; the key
            is named.
    """
    prepared = prepared_schema(data)
    made = {feature.name: feature for feature in prepared.features}
    features = []
    for feature in schema.features:
        if feature.name not in made:
            raise ConfigurationError(
                f"{data} was prepared without {feature.name!r}; prepare it again"
            )
        before = made[feature.name]
        is_number = isinstance(feature, Numeric)
        keys = _PREPARED_KEYS + _MEASURED_KEYS if is_number else _PREPARED_KEYS
        for key in keys:
            now, then = getattr(feature, key, None), getattr(before, key, None)
            if now != then:
                raise ConfigurationError(
                    f"{feature.name}.{key}: {data} was prepared with {then!r}; prepare "
                    f"it again. Received: {now!r}"
                )
        for key in ("vocabulary", "statistics"):
            path = getattr(before, key, None)
            # A vocabulary may have given way to hash buckets or to a shared one.
            gone = not is_number and (
                getattr(feature, "buckets", None) or getattr(feature, "shares", None)
            )
            gone = gone or getattr(feature, "op", "bm25") != "bm25"
            if path is not None and not gone:
                feature = dataclasses.replace(feature, **{key: path})
        features.append(feature)
    if schema.doc_id != prepared.doc_id:
        raise ConfigurationError(
            f"schema.doc_id: {data} was prepared with {prepared.doc_id!r}; prepare it "
            f"again. Received: {schema.doc_id!r}"
        )
    fitted: Schema = dataclasses.replace(schema, features=tuple(features))
    return fitted


# Teachers and backups.


def _check_tasks(config: Config, ranker: Ranker, directory: Path) -> None:
    """Raises ConfigurationError where a teacher does not teach all that is learned."""
    objective = make_objective(config.objective, config.schema)
    for term in objective.terms:
        if term.loss == "distillation" and term.task not in ranker.schema.task_names:
            raise ConfigurationError(
                f"the ranker of {directory} has no task {term.task!r}, which the term "
                f"{term.name} learns from it; train it with that task, or leave the "
                "term out"
            )


def _taught(requests: Any, teacher: Ranker) -> Any:
    """Returns a function from an epoch to its requests with a teacher's logits."""
    return lambda epoch: requests(epoch).map(teacher.teach)


def _digest(config: Config, data: Path, made_by: str, starts: _Starts) -> str:
    """Returns a digest of what is trained, on which data, beginning with what."""
    told = made_by + json.dumps(to_mapping(config), default=str)
    digest = hashlib.sha256(told.encode())
    files = [data / name for name in ("schema.yaml", "report.json")]
    files += map(Path, config.training.initial_vectors.values())
    for run in (starts.teacher, starts.previous):
        # One as teacher is another training than the same as previous model.
        digest.update(b"none" if run is None else b"run")
        if run is not None:
            files += sorted(file for file in Path(run).rglob("*") if file.is_file())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _check_backup(backup: Path, made_of: str) -> None:
    """Raises ValueError for the state of another configuration or other data."""
    file = backup / _MADE_OF
    if not _holds_state(backup) or not file.is_file():
        return
    if file.read_text("ascii") != made_of:
        raise ValueError(
            f"{backup} keeps an interrupted training of another configuration or other "
            "data; remove that folder to start afresh"
        )


def _holds_state(backup: Path) -> bool:
    """Says whether a checkpoint was written, of an epoch at least."""
    return any(backup.rglob("*.index"))
