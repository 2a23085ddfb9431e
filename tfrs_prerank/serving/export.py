"""From a trained model and a documents table to a SavedModel that TF Serving runs."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

import tfrs_prerank
from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.progress import track
from tfrs_prerank.serving.lint import LintReport, lint_saved_model
from tfrs_prerank.serving.signatures import Signatures
from tfrs_prerank.serving.table import ServedTable
from tfrs_prerank.serving.warmup import warmup_inputs, write_warmup

MANIFEST = "assets.extra/prerank.json"
HASHES = "assets.extra/document_hashes.npy"
_IDS_FILE = "doc_ids.txt"  # a reserved name: no vocabulary is called like it
_CHUNK = 8192
_MEASURED_CALLS = 20


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the version's directory.
        version: its number.
        documents: number of documents in the table.
        bytes: size of the directory. A server holds two versions while it swaps, so
            it needs about twice this in memory.
        lint: what the linter found in `saved_model.pb`.
        latency: milliseconds of `serving_default` by length of the candidate list,
            median of calls on this machine.
    """

    path: Path
    version: int
    documents: int
    bytes: int
    lint: LintReport
    latency: Mapping[int, float]


def export(
    model: PreRanker,
    documents: DocumentTable,
    directory: str | Path,
    *,
    version: int | None = None,
    k: int = 100,
    task: str | None = None,
    warmup_lengths: Iterable[int] = (10, 100, 1000),
    serving_version: str = "2.20",
) -> Exported:
    """Writes a model and its documents as `<directory>/<version>/`.

    The document tower runs over the table once; the vectors, and the columns that match
    features need, become variables of the SavedModel. Signatures: `serving_default`,
    `rank`, `encode_query`, `encode_docs`, `retrieve` and `score_vectors`; their inputs
    and outputs are float32, int32, int64, bool or string, never ragged.

    The version is written beside its place, read back, its warm-up requests are
    replayed and its operations checked against those of TensorFlow Serving; only then
    it is renamed, so that a server watching the directory never sees half of it.

    Args:
        model: a model, trained or not.
        documents: the documents with every document column of the schema; columns that
            are point-in-time hold their values of now.
        directory: the model's directory, such as `saved_models/movielens`.
        version: a number from 1; None takes the next one.
        k: length of the answers of `rank` and `retrieve`.
        task: the task that `retrieve` and `score_vectors` rank by; None takes the
            first.
        warmup_lengths: lengths of the candidate lists in the warm-up file.
        serving_version: the TensorFlow Serving to check against, `"2.20"` or `"2.19"`.

    Returns:
        What was written.

    Raises:
        FileExistsError: the version exists.
        KeyError: a document column is missing, or there is no such task.
        TypeError: the document ids are of another type than the schema says.
        LintError: the graph holds something that a server cannot run.

    References:
        TensorFlow Serving's SavedModel warm-up: `g3doc/saved_model_warmup.md`.
    """
    directory = Path(directory)
    task = _task(model, task)
    if k < 1:
        raise ValueError(f"k must be at least 1. Received: {k}")
    version = _free_version(directory, version)
    ids = _checked_ids(documents, model.schema.doc_id)
    columns = documents.arrays(model.schema)

    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{version}-", dir=directory))
    temporary.chmod(0o755)
    try:
        _write(model, ids, columns, temporary, k, task)
        # The exporter's table is gone before the replay loads its own.
        gc.collect()
        lint = lint_saved_model(temporary, serving_version=serving_version)
        lengths = sorted(set(warmup_lengths))
        latency = _replay(temporary, ids, lengths)
        _write_manifest(model, temporary, ids, columns, k, task, latency)
        os.rename(temporary, directory / str(version))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    path = directory / str(version)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Exported(path, version, len(ids), size, lint, latency)


def versions_of(directory: str | Path) -> list[int]:
    """Returns the version numbers in a model's directory, ascending.

    Args:
        directory: the model's directory; other names in it are ignored.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return []
    names = [entry.name for entry in directory.iterdir() if entry.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal() and int(name) > 0)


def _task(model: PreRanker, task: str | None) -> str:
    names = model.schema.task_names
    if task is None:
        return names[0]
    if task not in names:
        raise KeyError(f"export: no task {task!r}; {nearest(task, names)}")
    return task


def _free_version(directory: Path, version: int | None) -> int:
    existing = versions_of(directory)
    if version is None:
        return max(existing, default=0) + 1
    if version < 1:
        raise ValueError(f"version must be a number from 1. Received: {version}")
    if (directory / str(version)).exists():
        raise FileExistsError(
            f"{directory / str(version)} exists; leave version out to take "
            f"{max(existing, default=0) + 1}"
        )
    return version


def _checked_ids(documents: DocumentTable, doc_id: str) -> np.ndarray:
    ids = np.asarray(documents.ids)
    is_integer = np.issubdtype(ids.dtype, np.integer)
    if is_integer != (doc_id == "int64"):
        raise TypeError(
            f"documents.ids: Schema(doc_id={doc_id!r}) is declared. "
            f"Received: {ids[0]!r} of type {ids.dtype}"
        )
    if is_integer:
        return ids.astype(np.int64)
    return np.array([i.decode() if isinstance(i, bytes) else str(i) for i in ids], object)


def _write(
    model: PreRanker,
    ids: np.ndarray,
    columns: Mapping[str, np.ndarray],
    temporary: Path,
    k: int,
    task: str,
) -> None:
    """Builds the table and the signatures and saves them."""
    network = model.network
    with tempfile.TemporaryDirectory() as folder:
        ids_file = Path(folder) / _IDS_FILE
        with ids_file.open("w", encoding="utf-8") as file:
            for start in range(0, len(ids), _CHUNK):
                lines = (f"{value}\n" for value in ids[start : start + _CHUNK].tolist())
                file.writelines(lines)
        encode = _encoder(model)
        first = encode(_slice(columns, 0, 1))
        size = int(first[0].shape[1])
        keys = {name: tf.TensorSpec.from_tensor(key) for name, key in first[1].items()}
        table = ServedTable(ids, ids_file, size, keys)
        starts = range(0, len(ids), _CHUNK)
        for start in track(starts, "encoding documents"):
            table.fill(start, *encode(_slice(columns, start, start + _CHUNK)))
        module = Signatures(network, table, k, task)
        signatures = module.all()
        tf.saved_model.save(module, str(temporary), signatures=signatures)


def _encoder(model: PreRanker) -> Any:
    network = model.network
    from tfrs_prerank.features.match import keys_of

    @tf.function(autograph=False, reduce_retracing=True)
    def encode(columns: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        vectors = network.encode_docs(columns)
        rows = tf.shape(vectors)[0]
        size = vectors.shape[1] * vectors.shape[2]
        keys = keys_of(model.schema, columns, "doc")
        return tf.reshape(vectors, [rows, size]), keys

    return encode


def _slice(columns: Mapping[str, np.ndarray], start: int, end: int) -> dict[str, Any]:
    return {name: tf.constant(column[start:end]) for name, column in columns.items()}


def _replay(
    temporary: Path, ids: np.ndarray, lengths: list[int]
) -> dict[int, float]:
    """Reads the export back, writes and replays its warm-up, measures its latency."""
    loaded = tf.saved_model.load(str(temporary))
    requests = list(warmup_inputs(loaded.signatures, ids, lengths))
    write_warmup(temporary, requests)
    latency = {}
    for name, inputs in requests:
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        call = loaded.signatures[name]
        outputs = call(**tensors)
        for key, value in outputs.items():
            if value.dtype.is_floating and not np.isfinite(value.numpy()).all():
                raise ValueError(
                    f"export: {name}.{key} is not finite; the model's weights are "
                    "broken, train it again"
                )
        if name == "serving_default":
            times = []
            for _ in range(_MEASURED_CALLS):
                started = time.perf_counter()
                call(**tensors)["scores"].numpy()
                times.append(1000 * (time.perf_counter() - started))
            length = inputs["doc_ids"].shape[1]
            latency[length] = round(float(np.median(times)), 3)
    return latency


def _write_manifest(
    model: PreRanker,
    temporary: Path,
    ids: np.ndarray,
    columns: Mapping[str, np.ndarray],
    k: int,
    task: str,
    latency: Mapping[int, float],
) -> None:
    tower = model.network.query_tower
    scorer = model.declarations["scorer"]
    manifest = {
        "format": 1,
        "schema": _portable(model.schema.to_mapping()),
        "versions": {
            "tfrs_prerank": tfrs_prerank.__version__,
            "tensorflow": tf.__version__,
            "tensorflow_text": metadata.version("tensorflow-text"),
        },
        "fingerprint": fingerprint(model),
        "documents": len(ids),
        "vectors": {
            "tasks": list(model.schema.task_names),
            "size": tower.size,
            "similarity": scorer.kind,
        },
        "k": k,
        "task": task,
        "latency_ms": {str(length): value for length, value in latency.items()},
    }
    path = temporary / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    np.save(temporary / HASHES, document_hashes(columns, len(ids)))


def fingerprint(model: PreRanker) -> str:
    """Returns a digest of every weight that serving reads.

    Args:
        model: the model.
    """
    digest = hashlib.sha256()
    for variable in sorted(model.network.variables, key=lambda v: v.name):
        digest.update(variable.name.encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def document_hashes(columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Returns a hash of each document's columns, to tell which ones changed.

    Args:
        columns: `[M]` or `[M, T]` arrays by name.
        count: the number of documents M.

    Returns:
        uint64 `[M]`.
    """
    hashes = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for column in _flat_columns(columns):
            part = pd.util.hash_array(column, categorize=False)
            # An odd factor between the columns: swapping two changes the sum.
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + part
    return hashes


def _flat_columns(columns: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    for name in sorted(columns):
        array = columns[name]
        if array.ndim == 1:
            yield array
        else:
            for place in range(array.shape[1]):
                yield np.ascontiguousarray(array[:, place])


def _portable(schema: dict[str, Any]) -> dict[str, Any]:
    """Names the vocabularies' files without the folders of this machine."""
    features = []
    for feature in schema["features"]:
        feature = dict(feature)
        for key in ("vocabulary", "statistics"):
            if key in feature:
                feature[key] = Path(feature[key]).name
        features.append(feature)
    return {**schema, "features": features}
