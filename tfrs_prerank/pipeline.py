"""The commands of `tfrs-prerank` as functions: from configuration to served scores."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrs_prerank.config import Config, FunnelConfig, make_metrics
from tfrs_prerank.datasets import funnel, logs, movielens
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.datasets.log_config import LogsConfig
from tfrs_prerank.datasets.prepared import check_is_new
from tfrs_prerank.datasets.prepared import prepare as write_prepared
from tfrs_prerank.datasets.requests import RequestReader, read
from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.evaluation import Evaluation
from tfrs_prerank.evaluation import evaluate as evaluate_rankings
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import BATCH_OWN_COLUMNS, Schema
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.models.ranker import Ranker
from tfrs_prerank.models.run_directory import holds_ranker
from tfrs_prerank.sampling.sampler import check as check_mixture
from tfrs_prerank.training import fitted_schema as fitted_schema
from tfrs_prerank.training import prepared_schema as prepared_schema
from tfrs_prerank.training import train as train
from tfrs_prerank.training import train_ranker as train_ranker

if TYPE_CHECKING:
    from tfrs_prerank.serving.exporter import Exported


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
    from tfrs_prerank.serving.version_directory import versions_of

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
