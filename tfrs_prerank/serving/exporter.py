"""From a trained model and a documents table to a SavedModel that TF Serving runs."""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
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
from tfrs_prerank.features.bm25 import fingerprint_of
from tfrs_prerank.features.declarations import Text
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.lookups import read_values
from tfrs_prerank.features.schema import existing_file
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.progress import track, working
from tfrs_prerank.serving.lint import LintReport, lint_saved_model, op_list
from tfrs_prerank.serving.signatures import Signatures, read_by
from tfrs_prerank.serving.table import ServedTable
from tfrs_prerank.serving.warmup import warmup_inputs, write_warmup

MANIFEST = "assets.extra/prerank.json"
HASHES = "assets.extra/document_hashes.npy"
_IDS_FILE = "doc_ids.txt"
_CHUNK = 8192
_MEASURED_CALLS = 20
# TensorFlow Serving refuses a version with more than 1000 warm-up records.
_MOST_LENGTHS = 300


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
        FileNotFoundError: a vocabulary's file is gone.
        KeyError: a document column is missing, or there is no such task.
        TypeError: the document ids are of another type than the schema says.
        ValueError: a weight or a document's vector is NaN or infinite, or a vocabulary
            is not the one that the model was made with.
        RuntimeError: it is called inside of a distribution strategy's scope.
        LintError: the graph holds something that a server cannot run.

    References:
        TensorFlow Serving's SavedModel warm-up: `g3doc/saved_model_warmup.md`.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task
    >>> from tfrs_prerank.features import DocumentTable
    >>> user = Categorical("user_id", "query", buckets=9)
    >>> city = Categorical("city", "doc", buckets=9)
    >>> model = PreRanker(Schema([user, city], tasks=[Task("click")]))
    >>> documents = DocumentTable(np.array(["a", "b"]), {"city": ["Rome", "Oslo"]})
    >>> exported = export(model, documents, tempfile.mkdtemp(), warmup_lengths=[2])
    >>> exported.version, exported.path.name, exported.documents
    (1, '1', 2)
    """
    if tf.distribute.has_strategy():
        # Its variables would be created on every replica.
        raise RuntimeError("export: call it outside of `with strategy.scope()`")
    if not isinstance(model, PreRanker):
        raise TypeError(
            "export: give a PreRanker; a Ranker, which is run for each pair, is not "
            f"exported. Received: {type(model).__name__}"
        )
    directory = Path(directory)
    task = _task(model, task)
    if k < 1:
        raise ValueError(f"k must be at least 1. Received: {k}")
    lengths = _checked_lengths(warmup_lengths)
    op_list(serving_version)  # a release that is not known, before the work
    version = _free_version(directory, version)
    path = directory / str(version)
    ids = _checked_ids(documents, model.network.schema.doc_id)
    columns = documents.arrays(model.network.schema)
    _check_weights(model)
    _check_vocabularies(model)

    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{version}-", dir=directory))
    temporary.chmod(0o755)
    try:
        hashes = _write(model, ids, columns, temporary, k, task)
        # The exporter's table is gone before the replay loads its own.
        gc.collect()
        lint = lint_saved_model(
            temporary,
            serving_version=serving_version,
            allow_large=_large_constants(model),
        )
        _write_hashes(temporary, hashes)
        del hashes
        # No more ids than the requests need: `np.resize` copies all that it is given.
        with working("replaying warm-up requests"):
            latency = _replay(temporary, ids[: max(lengths, default=1)], lengths)
        gc.collect()
        _write_manifest(model, temporary, len(ids), k, task, latency)
        _rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # It holds the version, or others'.
                directory.rmdir()
    lint = dataclasses.replace(lint, directory=str(path))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Exported(path, version, len(ids), size, lint, latency)


def _large_constants(model: PreRanker) -> tuple[str, ...]:
    """Names the ops whose constants a declaration puts into the graph."""
    features = model.network.schema.features
    if any(isinstance(f, Text) and f.tokenizer == "fast_wordpiece" for f in features):
        return ("FastWordpieceTokenizeWithOffsets",)
    return ()


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
    names = model.network.schema.task_names
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


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if not path.exists():
            raise
        raise FileExistsError(
            f"{path} was written by another export meanwhile; export again"
        ) from error


def _checked_ids(documents: DocumentTable, doc_id: str) -> np.ndarray:
    ids = np.asarray(documents.ids)
    if ids.dtype == object and all(isinstance(value, int) for value in ids):
        ids = ids.astype(np.int64)
    is_integer = np.issubdtype(ids.dtype, np.integer)
    wrong = [value for value in ids[:1] if is_integer != (doc_id == "int64")]
    if not is_integer:
        wrong += [value for value in ids if not isinstance(value, str | bytes)][:1]
    if wrong:
        value = wrong[0].item() if isinstance(wrong[0], np.generic) else wrong[0]
        raise TypeError(
            f"documents.ids: Schema(doc_id={doc_id!r}) is declared. "
            f"Received: {value!r} of type {type(value).__name__}"
        )
    if is_integer:
        return ids.astype(np.int64, copy=False)
    texts = (
        value.decode() if isinstance(value, bytes) else str(value) for value in ids
    )
    return np.array(list(texts), object)


def _checked_lengths(warmup_lengths: Iterable[int]) -> list[int]:
    lengths = sorted(set(warmup_lengths))
    if lengths and lengths[0] < 1:
        raise ValueError(f"warmup_lengths must be from 1. Received: {lengths[0]}")
    if len(lengths) > _MOST_LENGTHS:
        raise ValueError(
            f"warmup_lengths: {len(lengths)} lengths received; give at most "
            f"{_MOST_LENGTHS}, TensorFlow Serving reads no more than 1000 records"
        )
    return lengths


def _check_weights(model: PreRanker) -> None:
    """Raises ValueError for a NaN or infinity, wherever it is.

    A replay would see only the rows of an embedding that its requests look up.
    """
    for variable in read_by(model.network)[0]:
        if not variable.dtype.is_floating:
            continue
        if not bool(tf.reduce_all(tf.math.is_finite(variable))):
            raise ValueError(
                f"export: weight {variable.name!r} of shape {tuple(variable.shape)} is "
                "not finite; train the model again, with a smaller learning rate"
            )


def _check_vocabularies(model: PreRanker) -> None:
    """Raises unless the files, which are copied, hold what the model looks up."""
    tables = model.network.tables
    for feature in model.network.schema.features:
        path = getattr(feature, "vocabulary", None)
        if path is None or feature.training_only or feature.name not in tables:
            continue
        file = _vocabulary_file(feature)
        # A Fast WordPiece vocabulary is in the graph, not in an asset.
        for table in tables[feature.name].lookups:
            values = read_values(file, feature.name, table.key_dtype.name)
            lines = table.lookup(tf.constant(values, table.key_dtype)).numpy()
            if len(lines) != table.size() or (lines != np.arange(len(lines))).any():
                raise _changed(feature, file)
    for name, corpus in model.network.matches.corpora.items():
        feature = model.network.schema[name]
        file = _vocabulary_file(feature)
        if fingerprint_of(file) != corpus.fingerprint:
            raise _changed(feature, file)


def _vocabulary_file(feature: Any) -> Path:
    file = existing_file(feature.vocabulary, feature.name, "vocabulary")
    if file.name == _IDS_FILE:
        raise ValueError(
            f"{feature.name}.vocabulary: {file} has the name of the export's "
            "document ids; rename the file"
        )
    return file


def _changed(feature: Any, file: Path) -> ValueError:
    return ValueError(
        f"{feature.name}.vocabulary: {file} has changed since the model was made; "
        "bring it back, or load the model from its run directory"
    )


def _write(
    model: PreRanker,
    ids: np.ndarray,
    columns: dict[str, np.ndarray],
    temporary: Path,
    k: int,
    task: str,
) -> np.ndarray:
    """Builds the table and the signatures and saves them.

    Returns the documents' hashes. `columns` is empty afterwards: what is not needed any
    more makes room at once.
    """
    network = model.network
    with tempfile.TemporaryDirectory() as folder:
        ids_file = Path(folder) / _IDS_FILE
        _write_ids(ids_file, ids[:1])
        encode = _encoder(model)
        first = encode(_slice(columns, 0, 1))
        size = int(first[0].shape[1])
        keys = {name: tf.TensorSpec.from_tensor(key) for name, key in first[1].items()}
        table = ServedTable(ids, ids_file, size, keys)
        starts = range(0, len(ids), _CHUNK)
        hashes = np.empty(len(ids), np.uint64)
        for start in track(starts, "encoding documents"):
            end = min(start + _CHUNK, len(ids))
            vectors, keys_here = encode(_slice(columns, start, end))
            _check_vectors(vectors, ids[start:end])
            table.fill(start, vectors, keys_here)
            # In parts as well: hashing strings needs ten times their references.
            part = {name: column[start:end] for name, column in columns.items()}
            hashes[start:end] = document_hashes(part, end - start)
        columns.clear()
        # Saving copies the file. The exporter looks nothing up, and the lookup that it
        # has made of the first line takes no memory.
        _write_ids(ids_file, ids)
        module = Signatures(network, table, k, task)
        signatures = module.all()
        with working("saving"):
            tf.saved_model.save(module, str(temporary), signatures=signatures)
    return hashes


def _write_ids(path: Path, ids: np.ndarray) -> None:
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, len(ids), _CHUNK):
            lines = (f"{value}\n" for value in ids[start : start + _CHUNK].tolist())
            file.writelines(lines)


def _check_vectors(vectors: tf.Tensor, ids: np.ndarray) -> None:
    finite = tf.reduce_all(tf.math.is_finite(vectors), axis=1).numpy()
    if not finite.all():
        first = ids[~finite].tolist()[0]
        raise ValueError(
            f"export: the vector of document {first!r} is not finite; one of "
            "its numbers is too large, declare that as Numeric(log1p=True)"
        )


def _encoder(model: PreRanker) -> Any:
    network = model.network

    @tf.function(autograph=False, reduce_retracing=True)
    def encode(columns: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        vectors = network.encode_docs(columns)
        return vectors, model.network.matches.keys_of(columns, "doc")

    return encode


def _slice(columns: Mapping[str, np.ndarray], start: int, end: int) -> dict[str, Any]:
    return {name: tf.constant(column[start:end]) for name, column in columns.items()}


def _replay(temporary: Path, ids: np.ndarray, lengths: list[int]) -> dict[int, float]:
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


def _write_hashes(temporary: Path, hashes: np.ndarray) -> None:
    path = temporary / HASHES
    path.parent.mkdir(exist_ok=True)
    np.save(path, hashes)


def _write_manifest(
    model: PreRanker,
    temporary: Path,
    documents: int,
    k: int,
    task: str,
    latency: Mapping[int, float],
) -> None:
    network = model.network
    manifest = {
        "format": 1,
        "schema": _portable(model.network.schema.to_mapping(), temporary / "assets"),
        "versions": {
            "tfrs_prerank": tfrs_prerank.__version__,
            "tensorflow": tf.__version__,
            "tensorflow_text": metadata.version("tensorflow-text"),
        },
        "fingerprint": fingerprint(model),
        "documents": documents,
        "vectors": {
            "tasks": list(model.network.schema.task_names),
            "size": network.query_tower.size,
            "similarity": network.scorer.scorer.kind,
        },
        "k": k,
        "task": task,
        "latency_ms": {str(length): value for length, value in latency.items()},
    }
    path = temporary / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")


def fingerprint(model: PreRanker) -> str:
    """Returns a digest of every weight that serving reads.

    Args:
        model: the model.
    """
    digest = hashlib.sha256()
    # In the order of the layers: Keras numbers names by what a process made before.
    for variable in read_by(model.network)[0]:
        digest.update(f"{variable.dtype.name}{variable.shape.as_list()}".encode())
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


def _portable(schema: dict[str, Any], assets: Path) -> dict[str, Any]:
    """Names files as the export's assets are, without the folders of this machine."""
    features = []
    for feature in schema["features"]:
        feature = dict(feature)
        if "vocabulary" in feature:
            feature["vocabulary"] = _asset_name(Path(feature["vocabulary"]), assets)
        if "statistics" in feature:
            feature["statistics"] = Path(feature["statistics"]).name
        features.append(feature)
    return {**schema, "features": features}


def _asset_name(file: Path, assets: Path) -> str:
    """Finds a vocabulary's copy; SavedModel numbers those with one file name."""
    copies = [assets / file.name, *sorted(assets.glob(f"{file.name}_*"))]
    for copy in copies:
        if copy.is_file() and filecmp.cmp(file, copy, shallow=False):
            return copy.name
    return file.name  # of a training-only feature, which no asset is made of
