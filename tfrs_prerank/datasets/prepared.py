"""Prepared directories: everything that training needs, as files that can be moved.

A prepared directory holds `schema.yaml`, `vocabularies/`, `statistics.json`,
`documents.parquet`, `train-*.tfrecord`, `validation-*`, `test-*` and `report.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfrs_prerank.datasets.documents_file import write_documents
from tfrs_prerank.datasets.requests import write
from tfrs_prerank.features import adapt
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.progress import track


def prepare(
    schema: Schema,
    train: Iterable[Mapping[str, Any]],
    validation: Iterable[Mapping[str, Any]],
    test: Iterable[Mapping[str, Any]],
    documents: DocumentTable,
    directory: str | Path,
    *,
    report: Mapping[str, Any] | None = None,
    shards: int = 1,
) -> Schema:
    r"""Writes a prepared directory: data, vocabularies and statistics.

    Vocabularies and statistics that the schema lacks come from the training requests
    and the documents table only. The folder is written beside its place and renamed
    when it is complete.

    Args:
        schema: the features and tasks.
        train: requests, as `write` takes them; iterated twice, so no generator.
        validation: requests.
        test: requests.
        documents: the documents table.
        directory: the folder to make.
        report: goes into `report.json`, beside the numbers of requests and documents.
        shards: files of each split.

    Returns:
        The schema of the folder, with the paths of vocabularies and statistics.

    Raises:
        FileExistsError: the folder exists.
        TypeError: `train` can be iterated only once, or a value has another type than
            declared.
        ValueError: a request or the documents table cannot be used, or there is no
            training request; the message is one line.

    Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from tfrs_prerank import Categorical, Schema, Task
    >>> from tfrs_prerank.features import DocumentTable
    >>> schema = Schema(
    ...     features=[
    ...         Categorical("user_id", "query"), Categorical("city", "doc", buckets=9)
    ...     ],
    ...     tasks=[Task("click")],
    ... )
    >>> documents = DocumentTable(np.array(["a", "b"]), {"city": ["Rome", "Oslo"]})
    >>> request = {"user_id": "u1", "doc_ids": ["b", "a"], "label/click": [1, 0]}
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "prepared")
    >>> _ = prepare(schema, [request], [request], [request], documents, folder)
    >>> (folder / "vocabularies" / "user_id.txt").read_text()
    'u1\n'
    """
    directory = Path(directory)
    check_is_new(directory)
    if iter(train) is train:
        raise TypeError(
            "train is iterated twice, once for vocabularies and once for writing; "
            f"give a list. Received: {type(train).__name__}"
        )
    documents.arrays(schema)  # checks every column, also those only an export reads
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".tmp-{directory.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # Before `adapt`, whose errors cannot name the request.
        written = {
            split: write(
                temporary, split, schema, requests, documents=documents, shards=shards
            )
            for split, requests in (
                ("train", train),
                ("validation", validation),
                ("test", test),
            )
        }
        if written["train"] == 0:
            raise ValueError("there is no training request; give at least one")
        training = track(train, "collecting vocabularies and statistics")
        adapt(schema, training, documents, temporary).save(temporary)
        write_documents(documents, temporary / "documents.parquet")
        counts = {"requests_written": written, "documents": len(documents)}
        text = json.dumps({**counts, **(report or {})}, indent=1, ensure_ascii=False)
        (temporary / "report.json").write_text(text + "\n", encoding="utf-8")
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Schema.from_yaml(directory / "schema.yaml")


def check_is_new(directory: Path) -> None:
    """Raises FileExistsError where there is something at a path."""
    if directory.exists():
        raise FileExistsError(
            f"{directory} exists; remove it or choose another directory"
        )
