"""The commands of `tfrs-prerank` as functions: from configuration to served scores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tfrs_prerank.config import Config, FunnelConfig, make_metrics
from tfrs_prerank.datasets import funnel, logs, movielens
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.datasets.log_config import LogsConfig
from tfrs_prerank.datasets.prepared import check_is_new
from tfrs_prerank.datasets.prepared import prepare as write_prepared
from tfrs_prerank.datasets.requests import RequestReader, read
from tfrs_prerank.declaration import ConfigurationError, to_mapping
from tfrs_prerank.evaluation import Evaluation
from tfrs_prerank.evaluation import evaluate as evaluate_rankings
from tfrs_prerank.features.declarations import Numeric
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import BATCH_OWN_COLUMNS, Schema
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.models.ranker import Ranker
from tfrs_prerank.models.run_directory import check_place, holds_ranker
from tfrs_prerank.objectives.objective import make_objective
from tfrs_prerank.optimizers import LazyAdam
from tfrs_prerank.sampling.sampler import check as check_mixture

if TYPE_CHECKING:
    from tfrs_prerank.serving.exporter import Exported

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
    "min_count",
    "max_vocabulary",
)
"""Keys of a feature that a prepared directory depends on."""

_MEASURED_KEYS = ("log1p", "buckets", "missing")
"""Those of a number, whose statistics are taken when a directory is prepared."""


def prepare(config: Config, directory: str | Path) -> Schema:
    """Turns a configuration's data into a prepared directory.

    Args:
        config: the configuration.
        directory: the folder to make; it must not exist.

    Returns:
        The schema with vocabularies and statistics.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError: the data is not there; the ways to get it are named.
    """
    if isinstance(config.data, FunnelConfig):
        _prepare_funnel(config.data, config.schema, Path(directory))
        return prepared_schema(directory)
    if isinstance(config.data, LogsConfig):
        logs.convert(config.data, config.schema, directory)
        return prepared_schema(directory)
    options = dataclasses.asdict(config.data)
    del options["source"]
    made = movielens.load(options.pop("path"), **options)
    return write_prepared(
        config.schema,
        _declared(made.train, config.schema),
        _declared(made.validation, config.schema),
        _declared(made.test, config.schema),
        made.documents,
        directory,
        report=made.report,
    )


def _prepare_funnel(config: FunnelConfig, schema: Schema, directory: Path) -> None:
    # What would be refused after the simulation is refused before it.
    check_is_new(directory)
    if config.mixture is not None:
        check_mixture(config.mixture, schema)
    if config.teacher is not None and "click" not in schema.task_names:
        raise ConfigurationError(
            f"data.teacher is of the task 'click'; set teacher: null. Received: "
            f"{config.teacher!r}, for the tasks {', '.join(schema.task_names)}"
        )
    preset = funnel.small if config.preset == "small" else funnel.full
    made = funnel.simulate(preset(config.seed))
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = tempfile.TemporaryDirectory(
        prefix=f".{directory.name}-log-", dir=directory.parent
    )
    with place as folder:
        log = Path(folder) / "log"
        made.write(log, truth=config.teacher == "true_utility")
        logs.convert(config.of_log(log), schema, directory)


def train(
    config: Config,
    data: str | Path,
    directory: str | Path,
    teacher: str | Path | None = None,
) -> PreRanker:
    """Trains a model on a prepared directory and writes its run directory.

    An interrupted training goes on where it was when it is started again with the same
    configuration and data: its state is kept beside the run directory until that is
    written. (The patience of `early_stopping` starts anew.)

    Args:
        config: the configuration; vocabularies and statistics come from the prepared
            directory.
        data: the prepared directory.
        directory: the run directory; an earlier one is replaced.
        teacher: run directory of a `Ranker`, whose logits stand in the place of the
            teacher's in the data; None for those.

    Returns:
        The trained model.

    Raises:
        FileExistsError: the directory exists and is no run directory.
        ConfigurationError: the schema wants data that was prepared otherwise, or
            `early_stopping` has no validation requests, or the objective does not
            learn from the teacher.
        ValueError: an interrupted training of another configuration lies beside it.
    """
    if teacher is not None:
        _check_teacher(Path(teacher), config)

    def make(schema: Schema) -> PreRanker:
        return PreRanker(schema, objective=config.objective, **config.model.arguments())

    return _train(make, config, Path(data), Path(directory), teacher)


def train_ranker(config: Config, data: str | Path, directory: str | Path) -> Ranker:
    """Trains the configuration's ranker and writes its run directory.

    It learns from the terms of the objective that read labels. Otherwise as `train`.

    Args:
        config: the configuration.
        data: the prepared directory.
        directory: the run directory; an earlier one is replaced.

    Returns:
        The trained ranker.
    """

    def make(schema: Schema) -> Ranker:
        objective = make_objective(config.objective, schema).of_ranker()
        return Ranker(schema, objective=objective, **config.ranker.arguments())

    return _train(make, config, Path(data), Path(directory))


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
    teacher: str | Path | None = None,
) -> _Model:
    """Trains what a function makes of the fitted schema; see `train`."""
    import tensorflow as tf

    training = config.training
    check_place(directory)
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
    made_of = _digest(config, data, make.__qualname__, teacher)
    _check_backup(backup, made_of)

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


def evaluate(
    model: PreRanker | Ranker | Path,
    config: Config,
    data: str | Path,
    split: str = "test",
    slices: Sequence[str] = (),
    teacher: str | Path | None = None,
) -> Evaluation:
    """Measures a model beside the ranker, the baselines and a random order.

    The rows are `model`, the configuration's baselines, `ranker` where the data has its
    scores (`ranker (<task>)` for several tasks), and `random`.

    Args:
        model: the model, or the path of an export.
        config: names the metrics, the baselines and the slices.
        data: the prepared directory.
        split: `"test"`, `"validation"` or `"train"`.
        slices: columns of the batch that the table is also taken apart by; none takes
            those of the configuration.
        teacher: run directory of a `Ranker`, whose logits stand in the place of the
            teacher's in the data; None for those.

    Returns:
        The table.
    """
    return evaluate_rankings(**_measured(model, config, data, split, slices, teacher))


def report(
    model: PreRanker | Ranker | Path,
    config: Config,
    data: str | Path,
    path: str | Path,
    split: str = "test",
    slices: Sequence[str] = (),
    popularity: str | None = None,
    teacher: str | Path | None = None,
) -> Evaluation:
    """Measures as `evaluate` does, and writes a page with tables and plots.

    The size of the forwarded set is `export.k` of the configuration.

    Args:
        model: the model, or the path of an export.
        config: names the metrics, the baselines and the slices.
        data: the prepared directory.
        path: the file, such as `report.html`.
        split: `"test"`, `"validation"` or `"train"`.
        slices: columns of the batch that the table is also taken apart by; none takes
            those of the configuration.
        popularity: the numeric column that says how popular a document was; None takes
            that of the configuration.
        teacher: run directory of a `Ranker`, whose logits stand in the place of the
            teacher's in the data; None for those.

    Returns:
        The table.

    Raises:
        ImportError: Matplotlib or Jinja is not installed.
    """
    from tfrs_prerank.evaluation import report as write_report

    settings = config.evaluation
    of_config = settings.popularity or settings.baselines.get("popularity")
    return write_report(
        **_measured(model, config, data, split, slices, teacher),
        path=path,
        k=config.export.k,
        doc_ids=read_documents(Path(data) / "documents.parquet").ids,
        popularity=popularity or of_config,
        about={"data": f"{data}, {split} requests"},
    )


def open_model(directory: str | Path) -> PreRanker | Ranker | Path:
    """Returns what `evaluate` measures of a folder: a model, or an export as its path.

    Args:
        directory: a run directory, an export's version, or a folder of versions.

    Raises:
        FileNotFoundError: it is none of these.
    """
    from tfrs_prerank.serving.exporter import versions_of

    directory = Path(directory)
    if (directory / "saved_model.pb").is_file() or versions_of(directory):
        return directory
    return (Ranker if holds_ranker(directory) else PreRanker).load(directory)


def _measured(
    model: PreRanker | Ranker | Path,
    config: Config,
    data: str | Path,
    split: str,
    slices: Sequence[str],
    teacher: str | Path | None,
) -> dict[str, Any]:
    """Returns what is measured, as arguments of `evaluation.evaluate`."""
    settings = config.evaluation
    requests = open_requests(data, split, settings.batch_size)
    batches: Any = requests
    there = requests(0).element_spec
    if teacher is not None:
        batches = requests(0).map(Ranker.load(teacher).teach)
        there = batches.element_spec
    scored = [t for t in requests.schema.task_names if f"teacher/{t}" in there]
    rankers = {f"ranker ({task})": f"teacher/{task}" for task in scored}
    if len(scored) == 1:
        rankers = {"ranker": f"teacher/{scored[0]}"}
    doc_ids = read_documents(Path(data) / "documents.parquet").ids
    return {
        "rankings": {
            "model": model,
            **settings.baselines,
            **rankers,
            "random": "random",
        },
        "data": batches,
        "metrics": make_metrics(settings.metrics, doc_ids),
        "slices": {column: column for column in slices or settings.slices},
        "samples": settings.samples,
    }


def export(
    model: PreRanker,
    config: Config,
    data: str | Path,
    directory: str | Path,
    version: int | None = None,
) -> Exported:
    """Exports a model with the documents of a prepared directory.

    Args:
        model: the model.
        config: what the export holds.
        data: the prepared directory.
        directory: the model's directory, such as `saved_models/movielens`.
        version: its number; None takes the next one.

    Returns:
        What was written.
    """
    from tfrs_prerank.serving.exporter import export as export_model

    settings = config.export
    documents = read_documents(Path(data) / "documents.parquet")
    return export_model(
        model,
        documents,
        directory,
        version=version,
        k=settings.k,
        task=settings.task,
        warmup_lengths=settings.warmup_lengths,
        serving_version=settings.serving_version,
    )


@dataclasses.dataclass(frozen=True)
class Ranked:
    """One place of a served ranking.

    Attributes:
        rank: from 1.
        doc_id: the document.
        score: its pre-rank score.
        title: its title, or its id where the documents have none.
        labels: its labels in the logged request, by task.
    """

    rank: int
    doc_id: str
    score: float
    title: str
    labels: Mapping[str, float]


def query(
    target: str,
    model: str,
    data: str | Path,
    number: int = 0,
    split: str = "test",
    protocol: str | None = None,
    top: int = 10,
    title: str = "title",
) -> tuple[dict[str, Any], list[Ranked]]:
    """Sends a logged request to a server and returns the ranking that comes back.

    Args:
        target: `host:port` for gRPC, `http://host:port` for REST.
        model: the model's name on the server.
        data: the prepared directory that the request is taken from.
        number: which request of the split, from 0.
        split: the split.
        protocol: `"grpc"` or `"rest"`; None goes by the target.
        top: places to return.
        title: the documents' column that holds their titles.

    Returns:
        The request's query features, and the best documents, best first.

    Raises:
        IndexError: the split has fewer requests.
    """
    from tfrs_prerank.serving.client import Client

    documents = read_documents(Path(data) / "documents.parquet")
    schema = prepared_schema(data).served
    batch = _request(data, split, number)
    inputs = {
        name: batch[name]
        for name, column in schema.columns().items()
        if column.owner in ("query", "cross") and not column.training_only
    }
    doc_ids = batch["doc_ids"]
    inputs |= {"doc_ids": doc_ids, "num_docs": np.array([doc_ids.shape[1]], np.int32)}
    with Client(target, model=model, protocol=protocol) as client:
        answer = client.predict(inputs, signature="rank")
    titles = _titles(documents, title)
    ranking = []
    for place in range(min(top, answer["doc_ids"].shape[1])):
        if not answer["found"][0, place]:
            break
        position = int(answer["positions"][0, place])
        doc_id = _text(answer["doc_ids"][0, place])
        labels = {
            task: float(batch[f"label/{task}"][0, position])
            for task in schema.task_names
            if f"label/{task}" in batch
        }
        score = float(answer["scores"][0, place])
        ranking.append(
            Ranked(place + 1, doc_id, score, titles.get(doc_id, doc_id), labels)
        )
    shown = {
        name: _shown(batch[name][0])
        for name, column in schema.columns("query").items()
        if not column.training_only
    }
    return shown, ranking


@dataclasses.dataclass(frozen=True)
class Demo:
    """What the demo made and found.

    Attributes:
        data: the prepared directory.
        run: the run directory.
        exported: what was exported.
        evaluation: the table of the test requests.
        request: the query features of the request that was sent.
        rest: the ranking that came back over REST.
        grpc: the ranking that came back over gRPC.
    """

    data: Path
    run: Path
    exported: Exported
    evaluation: Evaluation
    request: Mapping[str, Any]
    rest: list[Ranked]
    grpc: list[Ranked]


def demo(
    config: Config,
    runs: str | Path = "runs/movielens",
    saved_models: str | Path = "saved_models/movielens",
    say: Callable[[str], None] = print,
) -> Demo:
    """Goes the whole way: data, training, evaluation, export, server, two requests.

    Args:
        config: the configuration.
        runs: where the prepared data and the run directory go; both are replaced.
        saved_models: where the export goes, as its next version.
        say: called with a line before each part.

    Returns:
        Everything that was made.
    """
    from tfrs_prerank.serving.server import LocalServer

    data, run = Path(runs) / "data", Path(runs) / "model"
    if data.exists() and not (data / "report.json").is_file():
        raise FileExistsError(
            f"{data} exists and is no prepared directory; give another --runs"
        )
    say("[1/5] making search requests")
    new = data.with_name(".new-data")
    shutil.rmtree(new, ignore_errors=True)
    prepare(config, new)
    shutil.rmtree(data, ignore_errors=True)
    new.rename(data)
    say("[2/5] training")
    model = train(config, data, run)
    say("[3/5] evaluating on the test requests")
    evaluation = evaluate(model, config, data)
    say("[4/5] exporting")
    exported = export(model, config, data, saved_models)
    say("[5/5] serving and asking")
    with LocalServer(saved_models, rest_port=0, grpc_port=0) as server:
        request, rest = query(server.rest_url, server.name, data)
        _, grpc = query(server.grpc_target, server.name, data)
    return Demo(data, run, exported, evaluation, request, rest, grpc)


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


def open_requests(data: str | Path, split: str, batch_size: int) -> RequestReader:
    """Opens a split of a prepared directory, in the order of its requests.

    Args:
        data: the directory.
        split: `"train"`, `"validation"` or `"test"`.
        batch_size: requests of a batch.
    """
    return read(
        data,
        split,
        schema=prepared_schema(data),
        documents=read_documents(Path(data) / "documents.parquet"),
        batch_size=batch_size,
        shuffle=False,
    )


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


def _digest(
    config: Config, data: Path, made_by: str, teacher: str | Path | None
) -> str:
    """Returns a digest of what is trained, on which data, by which teacher."""
    told = made_by + json.dumps(to_mapping(config), default=str)
    digest = hashlib.sha256(told.encode())
    files = [data / name for name in ("schema.yaml", "report.json")]
    if teacher is not None:
        files += sorted(file for file in Path(teacher).rglob("*") if file.is_file())
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


def _declared(requests: list[dict[str, Any]], schema: Schema) -> list[dict[str, Any]]:
    """Leaves out the columns that a schema does not declare."""
    known = {"doc_ids", *BATCH_OWN_COLUMNS, *schema.columns()}
    return [
        {name: value for name, value in request.items() if name in known or "/" in name}
        for request in requests
    ]


def _request(data: str | Path, split: str, number: int) -> dict[str, np.ndarray]:
    requests = open_requests(data, split, batch_size=1)
    if not 0 <= number < requests.num_requests:
        raise IndexError(
            f"{split} has {requests.num_requests} requests, numbered from 0. "
            f"Received: {number}"
        )
    for batch in requests(0).skip(number).take(1):
        return {name: value.numpy() for name, value in batch.items()}
    raise IndexError(f"{split} has no request {number}")


def _titles(documents: DocumentTable, column: str) -> dict[str, str]:
    if column not in documents.columns:
        return {}
    titles = documents.columns[column]
    return {
        _text(doc_id): _text(title)
        for doc_id, title in zip(documents.ids, titles, strict=True)
    }


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _shown(value: Any) -> Any:
    """Turns a column's value into what a person reads, pads left out."""
    if isinstance(value, np.ndarray):
        return [_shown(item) for item in value if item not in (b"", "", -1)]
    return value.decode("utf-8") if isinstance(value, bytes) else value
