"""Your own search logs, Parquet or CSV, as a prepared directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tfrs_prerank import __version__
from tfrs_prerank.datasets import _log_lists as lists
from tfrs_prerank.datasets import _log_rows as rows
from tfrs_prerank.datasets import _log_steps as steps
from tfrs_prerank.datasets import _log_work as work
from tfrs_prerank.datasets._log_rows import DROPPED, REASONS, Wanted
from tfrs_prerank.datasets._log_steps import Log
from tfrs_prerank.datasets._records import (
    OUT_OF_SCENE,
    optional_columns,
    required_columns,
)
from tfrs_prerank.datasets.documents_file import from_arrow
from tfrs_prerank.datasets.log_config import ID_COLUMN
from tfrs_prerank.datasets.log_config import LogColumns as LogColumns
from tfrs_prerank.datasets.log_config import LogsConfig as LogsConfig
from tfrs_prerank.datasets.prepared import check_is_new, prepare
from tfrs_prerank.declaration import ConfigurationError, nearest, to_mapping
from tfrs_prerank.features.declarations import Numeric
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Column, Schema
from tfrs_prerank.progress import track
from tfrs_prerank.sampling import DocumentLog, Mixture, Sampler
from tfrs_prerank.sampling.sampler import check

_END = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class ConvertReport:
    """What became of a log.

    `rows_read = rows_written + sum(rows_dropped.values())`.

    Attributes:
        rows_read: rows of the log.
        rows_written: rows that became documents of the lists that were written.
            Documents drawn from the catalogue come on top.
        rows_dropped: dropped rows by reason. With a mixture `untrusted_positive`,
            `exposed_not_drawn`, `ranked_not_drawn` and `preranked_out_not_drawn` are
            what sampling left out of training lists.
        requests_written: requests by split.
        requests_dropped: dropped requests by reason.
        documents: documents in the table.
        validation_starts: first second of the validation part, None for no such part.
        test_starts: first second of the test part, None for no such part.
        sampled: with a mixture, documents of the training lists by where they come
            from: stages, and `hard` for negatives drawn from the window of ranks.
    """

    rows_read: int
    rows_written: int
    rows_dropped: Mapping[str, int]
    requests_written: Mapping[str, int]
    requests_dropped: Mapping[str, int]
    documents: int
    validation_starts: int | None
    test_starts: int | None
    sampled: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    def __str__(self) -> str:
        lines = [("rows read", self.rows_read), ("rows written", self.rows_written)]
        for what, counts in (
            ("rows dropped", self.rows_dropped),
            ("requests written", self.requests_written),
            ("requests dropped", self.requests_dropped),
            ("documents in training lists", self.sampled),
        ):
            lines += [(f"{what}: {name}", n) for name, n in counts.items()]
        lines.append(("documents", self.documents))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {number:>12,}" for name, number in lines)


def convert(
    config: LogsConfig,
    schema: Schema,
    output: str | Path,
    *,
    chunk_rows: int = 100_000,
) -> ConvertReport:
    r"""Makes a prepared directory out of a log and a documents file.

    The log is read in chunks, by up to four threads, and dealt out to temporary files
    by the request's id; each part of at most 1,000,000 rows, unless a single request
    has more, is then made lists of. Memory holds a chunk or a part for each thread, the
    documents table, the values that vocabularies and statistics are made of and one
    number for each request, however long the log is. Requests come by time and id,
    whatever the order of the rows, the chunks, the threads or the parts.

    The temporary files, in `.tmp-<output>-log` beside the output, take the room of the
    log's columns, uncompressed, where what a request's rows have in common counts once
    for each chunk. They are removed in the end, also after an error. When the process
    is killed or interrupted they stay, and the same call goes on with what they hold: a
    Parquet log after the last piece of some 500,000 rows, a CSV after the last file. If
    the configuration, the schema or a file is another one, it warns and starts anew.

    An empty cell means: an absent label, weight or teacher; a missing id (`""` or -1)
    or list; the sentinel of `Numeric(missing=...)`; the zero vector of a `Dense`. A
    number without a sentinel that is empty, NaN or infinite drops its row. Of several
    rows of one (request, document) the one with the lowest stage stays, then the lowest
    position, then the highest labels. A request whose rows disagree on its time, group
    or a query feature is dropped. A request without a positive label stays.

    Args:
        config: where the logs lie and what their columns are called.
        schema: the features and tasks; static document columns come from the documents
            file, all others from the log. Other columns of the files are ignored.
        output: the folder to make; see `prepared`.
        chunk_rows: rows that a thread reads at once; of a CSV, as many times 200 bytes.

    Returns:
        The counts, which are also in the folder's `report.json`.

    Raises:
        FileExistsError: the folder exists, or another process is making it.
        FileNotFoundError: there are no such files.
        ConfigurationError: a column is mapped that the schema does not have, or the
            mixture does not fit the schema.
        TypeError: a column has another type than declared.
        ValueError: a column is missing, a cell cannot be read, a document is there
            twice or lacks a value, or no training request is left.

    Example:
    >>> import pathlib, tempfile
    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> from tfrs_prerank.datasets.logs import LogsConfig, convert
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "log.csv").write_text(
    ...     "request_id,time,user_id,doc_id,click\n"
    ...     "r1,1,u1,a,1\nr1,1,u1,b,0\nr2,2,u2,a,0\nr3,3,u1,b,1\nr3,3,u1,c,1\n"
    ... )
    >>> _ = (folder / "docs.csv").write_text("doc_id,city\na,Rome\nb,Oslo\n")
    >>> schema = Schema(
    ...     features=[Categorical("user_id", "query"), Categorical("city", "doc")],
    ...     tasks=[Task("click")],
    ... )
    >>> config = LogsConfig(
    ...     requests=str(folder / "log.csv"), documents=str(folder / "docs.csv"),
    ...     split=(0.4, 0.3, 0.3),
    ... )
    >>> report = convert(config, schema, folder / "prepared")
    >>> report.requests_written, report.rows_dropped
    ({'train': 1, 'validation': 1, 'test': 1}, {'unknown_document': 1})
    """
    output = Path(output)
    check_is_new(output)
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1. Received: {chunk_rows}")
    _check_mapping(config.columns, schema)
    mixture = config.mixture
    if mixture is not None:
        check(mixture, schema)
    files = rows.find_files(config.requests, "requests")
    wanted = _wanted(config.columns, schema, _names_in(files))
    if mixture is not None and mixture.hard is not None:
        wanted.append(_rank(config.columns))
    for file in files:
        rows.check_names(file, wanted)
    documents = _documents(config, schema, chunk_rows)
    columns = {item.column.name: item.column for item in wanted}
    log = Log(tuple(files), wanted, config.separator, documents, config.min_documents)

    output.parent.mkdir(parents=True, exist_ok=True)
    with work.folder(output, _origin(config, schema, files)) as folder:
        counts, made = steps.make_lists(log, folder, chunk_rows)
        times = [np.zeros(0, np.int64), *map(lists.times, made)]
        report, (validation, test) = _report(
            config, counts, np.sort(np.concatenate(times)), len(documents)
        )
        span = lists.Requests(
            tuple(made),
            {name: c for name, c in columns.items() if name != lists.RANK},
            documents.ids,
            np.iinfo(np.int64).min,
            _END,
        )
        details = dataclasses.asdict(report)

        def add(samples: lists.Samples) -> None:
            # `prepare` reads the report when the training lists are written.
            details.update(dataclasses.asdict(_with_samples(report, samples)))

        training: Any = dataclasses.replace(span, stop=validation)
        if mixture is not None:
            whole = dataclasses.replace(training, columns=columns)
            sampler = _sampler(mixture, schema, training, documents)
            training = lists.SampledRequests(whole, sampler, add)
        prepare(
            schema,
            training,
            dataclasses.replace(span, start=validation, stop=test),
            dataclasses.replace(span, start=test),
            documents,
            output,
            report=details,
            shards=config.shards,
        )
    return ConvertReport(**details)


def _names_in(files: list[Path]) -> list[str]:
    """Returns the names of columns that any of the files has."""
    return sorted({name for file in files for name in rows.names_in(file)})


def _origin(config: LogsConfig, schema: Schema, files: list[Path]) -> dict[str, Any]:
    """Says what intermediate files depend on."""
    documents = rows.find_files(config.documents, "documents")

    def state(file: Path) -> list[Any]:
        found = file.stat()
        return [str(file.resolve()), found.st_size, found.st_mtime_ns]

    return {
        "version of the package": __version__,
        "configuration": to_mapping(config),
        "schema": schema.to_mapping(),
        "log files": [state(file) for file in files],
        "documents": [state(file) for file in documents],
    }


def _check_mapping(columns: LogColumns, schema: Schema) -> None:
    """Refuses a mapping of what the schema does not have."""
    tasks = schema.task_names
    of_requests = [
        n for n, c in schema.columns().items() if not c.static and n != "time"
    ]
    of_documents = list(_document_columns(schema))
    for where, mapping, known in (
        ("labels", columns.labels, [*tasks, "out_of_scene"]),
        ("weights", columns.weights, tasks),
        ("teachers", columns.teachers, tasks),
        ("features", columns.features, of_requests),
        ("document_features", columns.document_features, of_documents),
    ):
        for name in mapping:
            if name not in known:
                other = " (it is a column of the documents: document_features)"
                hint = other if where == "features" and name in of_documents else ""
                raise ConfigurationError(
                    f"columns.{where}: unknown {name!r}{hint}; {nearest(name, known)}"
                )


def _wanted(columns: LogColumns, schema: Schema, there: list[str]) -> list[Wanted]:
    """Returns the columns to read from the log."""
    required = required_columns(schema)
    optional = optional_columns(schema)
    wanted = [
        Wanted(Column("doc_ids", schema.doc_id, None, "doc"), columns.doc_id, "doc_id")
    ]
    known = {**required, **optional}
    for name in ("request_id", "time"):
        wanted.append(Wanted(known[name], getattr(columns, name), name))
    for name in ("group_id", "stage", "position", "log_q"):
        source = getattr(columns, name)
        if source is not None or name in required or name in there:
            wanted.append(Wanted(known[name], source or name, name))
    for task in schema.task_names:
        name = f"label/{task}"
        wanted.append(Wanted(known[name], columns.labels.get(task, task), "label"))
    if "out_of_scene" in columns.labels and OUT_OF_SCENE in optional:
        source = columns.labels["out_of_scene"]
        wanted.append(Wanted(known[OUT_OF_SCENE], source, "label"))
    for role, mapping in (("weight", columns.weights), ("teacher", columns.teachers)):
        for task, source in mapping.items():
            wanted.append(Wanted(known[f"{role}/{task}"], source, role))
    for name, column in schema.columns().items():
        if not column.static and name != "time":
            source = columns.features.get(name, name)
            wanted.append(_feature(schema, column, source))
    return wanted


def _rank(columns: LogColumns) -> Wanted:
    # It is read as positions are: empty or below 0 means none.
    assert columns.rank is not None
    return Wanted(Column(lists.RANK, "int32", None, "doc"), columns.rank, "position")


def _sampler(
    mixture: Mixture,
    schema: Schema,
    training: lists.Requests,
    documents: DocumentTable,
) -> Sampler:
    """Makes the sampler, after a pass over the training requests if it needs one."""
    from_catalog = mixture.drawn_from_catalog > 0
    if not from_catalog and mixture.positives is None:
        return Sampler(mixture, schema)
    requests = track(training, "counting documents")
    log = DocumentLog(requests, documents, schema, with_values=from_catalog)
    return Sampler(mixture, schema, log)


def _feature(schema: Schema, column: Column, source: str) -> Wanted:
    # The times of a sequence are a column of no feature.
    feature = next((f for f in schema.features if f.name == column.name), None)
    is_number = isinstance(feature, Numeric)
    missing = feature.missing if isinstance(feature, Numeric) else None
    return Wanted(column, source, is_number=is_number, missing=missing)


def _document_columns(schema: Schema) -> dict[str, Column]:
    columns = schema.columns("doc")
    return {name: c for name, c in columns.items() if not c.training_only}


def _documents(config: LogsConfig, schema: Schema, chunk_rows: int) -> DocumentTable:
    id_column = Column(ID_COLUMN, schema.doc_id, None, "doc")
    wanted = [Wanted(id_column, config.columns.document_id, "doc_id")]
    for name, column in _document_columns(schema).items():
        source = config.columns.document_features.get(name, name)
        wanted.append(_feature(schema, column, source))
    tables = []
    for file in rows.find_files(config.documents, "documents"):
        rows.check_names(file, wanted)
        for table in rows.read_rows(file, wanted, config.separator, chunk_rows):
            dropped = table.column(DROPPED).to_numpy()
            if dropped.any():
                row = int(np.flatnonzero(dropped)[0])
                raise ValueError(
                    f"{file}: document {table.column(ID_COLUMN)[row].as_py()!r} has "
                    f"{REASONS[dropped[row]].replace('_', ' ')}; correct its row or "
                    "declare Numeric(missing=...)"
                )
            tables.append(table.drop_columns([DROPPED]))
    if not tables:
        raise ValueError(f"{config.documents} holds no documents; give at least one")
    return from_arrow(pa.concat_tables(tables), config.documents)


def _with_samples(report: ConvertReport, samples: lists.Samples) -> ConvertReport:
    """Adds what sampling took and left out."""
    written = dict(report.requests_written)
    written["train"] -= samples.requests
    dropped = dict(report.requests_dropped)
    if samples.requests:
        dropped["nothing_sampled"] = samples.requests
    return dataclasses.replace(
        report,
        rows_written=report.rows_written - samples.left_out.total(),
        rows_dropped={**report.rows_dropped, **samples.left_out},
        requests_written=written,
        requests_dropped=dropped,
        sampled=dict(samples.taken),
    )


def _report(
    config: LogsConfig, counts: lists.Counts, times: np.ndarray, documents: int
) -> tuple[ConvertReport, tuple[int, int]]:
    """Splits by time; requests of one second stay together."""
    if not counts.rows_read:
        given = config.requests
        named = given if isinstance(given, str) else ", ".join(given)
        raise ValueError(
            f"requests: {named} holds no row; give a log with requests in it"
        )
    if config.boundaries is not None:
        starts = config.boundaries
    else:
        # The small number makes .8 + .1 of 10 requests 9, not 8.
        shares = np.cumsum(config.split)[:2]
        places = np.floor(shares * len(times) + 1e-6).astype(int)
        later = np.append(times, _END)
        starts = (int(later[places[0]]), int(later[places[1]]))
    ends = [0, *np.searchsorted(times, starts), len(times)]
    written = dict(zip(("train", "validation", "test"), np.diff(ends), strict=True))
    rows_dropped = {
        reason: counts.rows[reason] for reason in REASONS if counts.rows[reason]
    }
    requests_dropped = {name: n for name, n in sorted(counts.requests.items()) if n}
    report = ConvertReport(
        rows_read=counts.rows_read,
        rows_written=counts.rows_read - sum(rows_dropped.values()),
        rows_dropped=rows_dropped,
        requests_written={name: int(n) for name, n in written.items()},
        requests_dropped=requests_dropped,
        documents=documents,
        validation_starts=None if starts[0] == _END else starts[0],
        test_starts=None if starts[1] == _END else starts[1],
    )
    if written["train"] == 0:
        raise ValueError(
            f"of {counts.rows_read} rows {len(times)} requests are left and none lies "
            f"before the validation part; dropped rows: {rows_dropped}"
        )
    return report, starts
