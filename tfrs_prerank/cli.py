"""The command `tfrs-prerank`, whose commands are functions of the package.

Most of them are of `pipeline`, the others of `datasets` and `serving`. TensorFlow is
imported by the commands that need it, so that `--help` and configuration errors answer
at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

import tfrs_prerank
from tfrs_prerank.declaration import on_one_line

_FOLDER = click.Path(file_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)
_CONFIG = click.argument(
    "config", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
_DATA = click.option(
    "--data",
    type=_EXISTING,
    required=True,
    help="Prepared directory, from `tfrs-prerank prepare`.",
)

_SPLIT = click.option(
    "--split", default="test", show_default=True, help="Which requests."
)
_TEACHER = click.option(
    "--teacher",
    type=_EXISTING,
    help="Run directory of a ranker, in the place of the data's teacher.",
)
_SLICES = click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN",
    help="Take the table apart by a column; may be given again.",
)


class _OneLineErrors(click.Group):
    """Shows errors that name their fix as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            line = _one_line(error)
            if line is None or os.environ.get("TFRS_PRERANK_TRACEBACK"):
                raise
            click.echo(f"tfrs-prerank: {line}", err=True)
            ctx.exit(1)


def _one_line(error: Exception) -> str | None:
    """Returns what a person needs of an error, None where only a traceback helps."""
    if isinstance(error, KeyError | IndexError):
        # The package's own say what to do; Python's hold a bare key.
        text = str(error.args[0]) if error.args else ""
        return text if " " in text else None
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        return on_one_line(error)
    if type(error).__name__ == "ServingError":
        return str(error)
    if type(error).__module__.startswith("tensorflow"):
        from tfrs_prerank.datasets.requests import reader_message

        found = reader_message(error)
        return found or str(getattr(error, "message", error)).strip().splitlines()[0]
    return None


@click.group(
    cls=_OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
\b
A whole round on your own data:
  tfrs-prerank prepare shop.yaml --output runs/data
  tfrs-prerank train shop.yaml --data runs/data --output runs/model
  tfrs-prerank evaluate runs/model shop.yaml --data runs/data
  tfrs-prerank report runs/model shop.yaml --data runs/data
  tfrs-prerank export runs/model shop.yaml --data runs/data --output saved_models/shop
  tfrs-prerank serve saved_models/shop
  tfrs-prerank query localhost:8500 --model shop --data runs/data

\b
A pre-ranker that learns from a ranker:
  tfrs-prerank train shop.yaml --data runs/data --output runs/ranker --ranker
  tfrs-prerank train shop.yaml --data runs/data --output runs/model \\
    --teacher runs/ranker

`tfrs-prerank demo` does all of it on MovieLens. TFRS_PRERANK_TRACEBACK=1 shows the
traceback of an error.""",
)
@click.version_option(tfrs_prerank.__version__, prog_name="tfrs-prerank")
def main() -> None:
    """Search pre-ranking: from logs to a model behind TensorFlow Serving."""
    # TensorFlow's start-up notices are no part of a command's output.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@main.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration; MovieLens-100K by default.",
)
@click.option("--movielens", type=_EXISTING, help="Folder of the MovieLens files.")
@click.option(
    "--download", is_flag=True, help="Fetch MovieLens-100K from GroupLens if needed."
)
@click.option(
    "--runs",
    type=_FOLDER,
    default="runs/movielens",
    show_default=True,
    help="Folder for data/ and model/, which are made anew.",
)
@click.option(
    "--output",
    type=_FOLDER,
    default="saved_models/movielens",
    show_default=True,
    help="Folder of the export, which becomes its next version.",
)
def demo(
    config_file: Path | None,
    movielens: Path | None,
    download: bool,
    runs: Path,
    output: Path,
) -> None:
    """Train on MovieLens, evaluate, export, serve, and ask for a ranking."""
    import dataclasses

    from tfrs_prerank.config import MovieLensConfig, example_path

    config = _settings(config_file or example_path("movielens"))
    from tfrs_prerank import pipeline

    data = config.data
    if isinstance(data, MovieLensConfig):
        path = data.path if movielens is None else str(movielens)
        data = dataclasses.replace(data, path=path, download=download or data.download)
    config = dataclasses.replace(config, data=data)
    made = pipeline.demo(config, runs, output, say=click.echo)
    click.echo(f"\n{made.evaluation}\n")
    _echo_request(made.request)
    for protocol, ranking in (("REST", made.rest), ("gRPC", made.grpc)):
        click.echo(f"\nranked over {protocol}:")
        _echo_ranking(ranking)
    click.echo(f"\nprepared data   {made.data}")
    click.echo(f"run directory   {made.run}")
    _echo_export(made.exported)
    click.echo("\nserve it with:")
    click.echo(f"  tfrs-prerank serve {output}")
    click.echo(
        "  docker run -p 8500:8500 -p 8501:8501 "
        f'-v "{output.resolve()}:/models/{output.name}" '
        f"-e MODEL_NAME={output.name} tensorflow/serving:2.20.0"
    )


@main.command()
@_CONFIG
@click.option("--output", type=_FOLDER, required=True, help="Folder to make.")
def prepare(config: Path, output: Path) -> None:
    """Turn logs into TFRecord files, vocabularies and statistics."""
    settings = _settings(config)
    from tfrs_prerank import pipeline

    pipeline.prepare(settings, output)
    click.echo((output / "report.json").read_text(encoding="utf-8"), nl=False)
    click.echo(f"prepared data in {output}")


@main.command()
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--model", type=_EXISTING, required=True, help="Folder of a Hugging Face BERT."
)
@click.option(
    "--documents",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Parquet or CSV file, one row for each document.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    required=True,
    help="Column of texts; given again, the texts are joined by a space.",
)
@click.option("--into", required=True, help="The new column, for a `dense` feature.")
def embed(
    output: Path, model: Path, documents: Path, columns: tuple[str, ...], into: str
) -> None:
    """Add vectors of the documents' texts to a documents table.

    OUTPUT is a copy of the table, as Parquet, with one more column. Give Parquet where
    ids are strings of digits: in a CSV, 007 is the number 7.
    """
    import tensorflow as tf

    from tfrs_prerank.datasets import embed_texts
    from tfrs_prerank.layers import SentenceBert

    encoder = tf.function(
        SentenceBert.from_pretrained(model),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    rows = embed_texts(encoder, documents, output, columns=columns, into=into)
    click.echo(f"{rows} documents with {into!r} in {output}")


@main.command()
@_CONFIG
@_DATA
@click.option("--output", type=_FOLDER, required=True, help="Run directory to write.")
@click.option(
    "--ranker", is_flag=True, help="Train the configuration's ranker, a teacher."
)
@_TEACHER
@click.option(
    "--warm-start",
    type=_EXISTING,
    metavar="RUN",
    help="Run directory of a previous model, whose weights are taken over.",
)
def train(
    config: Path,
    data: Path,
    output: Path,
    ranker: bool,
    teacher: Path | None,
    warm_start: Path | None,
) -> None:
    """Train a model and write its run directory."""
    if ranker and teacher is not None:
        raise click.UsageError("--ranker trains a teacher; leave out --teacher")
    settings = _settings(config)
    from tfrs_prerank import pipeline

    if ranker:
        pipeline.train_ranker(settings, data, output, warm_start, click.echo)
    else:
        pipeline.train(settings, data, output, teacher, warm_start, click.echo)
    click.echo(f"run directory in {output}")


@main.command()
@click.argument("run", type=_EXISTING)
@_CONFIG
@_DATA
@_SPLIT
@_SLICES
@_TEACHER
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    run: Path,
    config: Path,
    data: Path,
    split: str,
    slices: tuple[str, ...],
    teacher: Path | None,
    as_json: bool,
) -> None:
    """Print the metrics of a model or an export beside its baselines.

    RUN is a run directory, an export's version or a folder of versions.
    """
    settings = _settings(config)
    from tfrs_prerank import pipeline

    model = pipeline.open_model(run)
    evaluation = pipeline.evaluate(model, settings, data, split, slices, teacher)
    click.echo(evaluation.to_json() if as_json else str(evaluation))


@main.command()
@click.argument("run", type=_EXISTING)
@_CONFIG
@_DATA
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="report.html",
    show_default=True,
    help="File to write.",
)
@_SPLIT
@_SLICES
@_TEACHER
@click.option(
    "--popularity",
    help="Numeric column of how popular documents are; that of the baseline called "
    "popularity by default.",
)
def report(
    run: Path,
    config: Path,
    data: Path,
    output: Path,
    split: str,
    slices: tuple[str, ...],
    teacher: Path | None,
    popularity: str | None,
) -> None:
    """Write a page with the metrics and plots of a model or an export.

    RUN is a run directory, an export's version or a folder of versions.
    """
    settings = _settings(config)
    from tfrs_prerank import pipeline

    model = pipeline.open_model(run)
    pipeline.report(model, settings, data, output, split, slices, popularity, teacher)
    click.echo(f"report in {output}")


@main.command()
@click.argument("run", type=_EXISTING)
@_CONFIG
@_DATA
@click.option(
    "--output", type=_FOLDER, required=True, help="Such as saved_models/shop."
)
@click.option("--version", type=int, help="Version number; the next one by default.")
def export(
    run: Path, config: Path, data: Path, output: Path, version: int | None
) -> None:
    """Write a SavedModel for TensorFlow Serving."""
    settings = _settings(config)
    from tfrs_prerank import PreRanker, pipeline

    _echo_export(pipeline.export(PreRanker.load(run), settings, data, output, version))


@main.command()
@click.argument("directory", type=_EXISTING)
@click.argument(
    "documents", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--version", type=int, help="Version number; the next one by default.")
@click.option(
    "--previous", type=int, help="Version to start from; the latest by default."
)
@click.option(
    "--fuse",
    multiple=True,
    metavar="TASK=WEIGHT",
    help="New weight of a task in the pre-rank score; may be given again.",
)
def refresh(
    directory: Path,
    documents: Path,
    version: int | None,
    previous: int | None,
    fuse: tuple[str, ...],
) -> None:
    """Write the next version of an export with the documents of now.

    DIRECTORY holds the versions, such as saved_models/shop. DOCUMENTS is a Parquet file
    with all documents, their ids in the column doc_id. No model and no training data
    are needed; documents that did not change are not encoded again.
    """
    weights = dict(map(_weight, fuse))
    from tfrs_prerank.datasets import read_documents
    from tfrs_prerank.serving import refresh_documents

    done = refresh_documents(
        directory,
        read_documents(documents),
        version=version,
        previous=previous,
        fuse=weights,
    )
    click.echo(
        f"refreshed       {done.path}  ({done.documents} documents: "
        f"{done.unchanged} unchanged, {done.changed} changed, {done.added} added; "
        f"{done.removed} removed)"
    )


def _weight(text: str) -> tuple[str, float]:
    task, _, number = text.partition("=")
    try:
        return task, float(number)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not TASK=WEIGHT, such as like=2.5", param_hint="--fuse"
        ) from None


@main.command()
@click.argument("directory", type=_EXISTING)
@click.option("--name", help="Model name; the directory's name by default.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--rest-port", default=8501, show_default=True)
@click.option("--grpc-port", default=8500, show_default=True)
@click.option(
    "--poll-seconds",
    default=1.0,
    show_default=True,
    help="How often to look for a new version.",
)
def serve(
    directory: Path,
    name: str | None,
    host: str,
    rest_port: int,
    grpc_port: int,
    poll_seconds: float,
) -> None:
    """Serve an export with TensorFlow Serving's REST and gRPC API, on this machine."""
    from tfrs_prerank.serving.server import LocalServer

    server = LocalServer(
        directory,
        name=name,
        host=host,
        rest_port=rest_port,
        grpc_port=grpc_port,
        poll_seconds=poll_seconds,
    )
    with server:
        click.echo(f"REST  {server.rest_url}/v1/models/{server.name}")
        click.echo(f"gRPC  {server.grpc_target}")
        click.echo(f"serving version {max(server.versions)}; stop with Ctrl-C")
        sys.stdout.flush()
        server.wait()


@main.command()
@click.argument("target")
@click.option("--model", required=True, help="The model's name on the server.")
@_DATA
@click.option(
    "--request", "number", default=0, show_default=True, help="Which logged request."
)
@click.option("--split", default="test", show_default=True)
@click.option("--top", default=10, show_default=True, help="Places to print.")
@click.option(
    "--title", default="title", show_default=True, help="Column of the titles."
)
def query(
    target: str, model: str, data: Path, number: int, split: str, top: int, title: str
) -> None:
    """Send a logged request to TARGET and print the ranked titles.

    TARGET is host:port for gRPC or http://host:port for REST.
    """
    from tfrs_prerank import pipeline

    request, ranking = pipeline.query(
        target, model, data, number, split, top=top, title=title
    )
    _echo_request(request)
    _echo_ranking(ranking)


def _settings(path: Path) -> Any:
    """Reads a configuration, before anything imports TensorFlow."""
    from tfrs_prerank.config import Config

    return Config.from_yaml(path)


def _echo_request(request: Any) -> None:
    click.echo("request:")
    for name, value in request.items():
        if isinstance(value, list) and len(value) > 6:
            value = f"{', '.join(map(str, value[:6]))}, ... ({len(value)})"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        click.echo(f"  {name}: {value}")


def _echo_ranking(ranking: list[Any]) -> None:
    for item in ranking:
        happened = [task for task, label in item.labels.items() if label > 0]
        click.echo(
            f"  {item.rank:2d}. {item.title}  ({item.score:.4f})"
            + (f"  <- {', '.join(happened)}" if happened else "")
        )


def _echo_export(exported: Any) -> None:
    click.echo(
        f"export          {exported.path}  ({exported.documents} documents, "
        f"{exported.bytes / 1e6:.1f} MB; a server needs about twice that to swap)"
    )
    latency = ", ".join(
        f"{value:.1f} ms for {length}" for length, value in exported.latency.items()
    )
    click.echo(f"scoring         {latency} candidates, in this process")
