"""From a trained model and a documents table to a SavedModel that TF Serving runs."""

from __future__ import annotations

import dataclasses
import filecmp
import gc
import json
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfrs_prerank
from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.bm25 import fingerprint_of
from tfrs_prerank.features.declarations import Text
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.lookups import read_values
from tfrs_prerank.features.schema import existing_file
from tfrs_prerank.layers._vocabulary import read_tokens
from tfrs_prerank.models.prerank import PreRanker
from tfrs_prerank.progress import track, working
from tfrs_prerank.serving.documents import (
    check_vectors,
    checked_ids,
    chunk_of,
    document_hashes,
    write_ids,
)
from tfrs_prerank.serving.lint import LintReport, lint_saved_model, op_list
from tfrs_prerank.serving.signatures import Signatures, read_by
from tfrs_prerank.serving.table import ServedTable
from tfrs_prerank.serving.version_directory import (
    IDS_FILE,
    MANIFEST,
    digest_of,
    free_version,
    new_version,
    size_of,
    write_hashes,
)
from tfrs_prerank.serving.warmup import replay

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
    version = free_version(directory, version)
    path = directory / str(version)
    ids = checked_ids(documents, model.network.schema.doc_id)
    columns = documents.arrays(model.network.schema)
    _check_weights(model)
    _check_vocabularies(model)

    with new_version(directory, version) as temporary:
        hashes = _write(model, ids, columns, temporary, k, task)
        # The exporter's table is gone before the replay loads its own.
        gc.collect()
        lint = lint_saved_model(
            temporary,
            serving_version=serving_version,
            allow_large=_large_constants(model),
        )
        write_hashes(temporary, hashes)
        del hashes
        # No more ids than the requests need: `np.resize` copies all that it is given.
        with working("replaying warm-up requests"):
            latency = replay(temporary, ids[: max(lengths, default=1)], lengths)
        gc.collect()
        _write_manifest(model, temporary, len(ids), k, task, latency)
    lint = dataclasses.replace(lint, directory=str(path))
    return Exported(path, version, len(ids), size_of(path), lint, latency)


def _large_constants(model: PreRanker) -> tuple[str, ...]:
    """Names the ops whose constants a declaration puts into the graph."""
    features = model.network.schema.features
    if any(isinstance(f, Text) and f.tokenizer == "fast_wordpiece" for f in features):
        return ("FastWordpieceTokenizeWithOffsets",)
    return ()


def _task(model: PreRanker, task: str | None) -> str:
    names = model.network.schema.task_names
    if task is None:
        return names[0]
    if task not in names:
        raise KeyError(f"export: no task {task!r}; {nearest(task, names)}")
    return task


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
    for variable in [*read_by(model.network)[0], model.network.fusion.weight]:
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
            if not _has_lines(table, values):
                raise _changed(feature, file)
    for feature in model.network.schema.features:
        _check_bert(feature, tables.get(feature.name))
    for name, corpus in model.network.matches.corpora.items():
        feature = model.network.schema[name]
        file = _vocabulary_file(feature)
        if fingerprint_of(file) != corpus.fingerprint:
            raise _changed(feature, file)


def _check_bert(feature: Any, strings: Any) -> None:
    """Raises unless the vocabulary of a BERT is what its model looks up."""
    bert = getattr(strings, "bert", None)
    if bert is None or feature.training_only or bert.tokenizer.table is None:
        return
    file = existing_file(bert.vocabulary, feature.name, "pretrained")
    if not _has_lines(bert.tokenizer.table, list(read_tokens(file, ()))):
        raise _changed(feature, file)


def _has_lines(table: tf.lookup.StaticHashTable, values: list[Any]) -> bool:
    """Says whether a table was filled from a file with these lines."""
    lines = table.lookup(tf.constant(values, table.key_dtype)).numpy()
    return bool(np.array_equal(lines, np.arange(int(table.size()))))


def _vocabulary_file(feature: Any) -> Path:
    file = existing_file(feature.vocabulary, feature.name, "vocabulary")
    if file.name == IDS_FILE:
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
        ids_file = Path(folder) / IDS_FILE
        write_ids(ids_file, ids[:1])
        encode = _encoder(model)
        first = encode(_slice(columns, 0, 1))
        size = int(first[0].shape[1])
        keys = {name: tf.TensorSpec.from_tensor(key) for name, key in first[1].items()}
        table = ServedTable(ids, ids_file, size, keys, fingerprint(model))
        chunk = chunk_of(network.schema)
        starts = range(0, len(ids), chunk)
        hashes = np.empty(len(ids), np.uint64)
        for start in track(starts, "encoding documents"):
            end = min(start + chunk, len(ids))
            vectors, keys_here = encode(_slice(columns, start, end))
            check_vectors(vectors, ids[start:end])
            table.fill(start, vectors, keys_here)
            # In parts as well: hashing strings needs ten times their references.
            part = {name: column[start:end] for name, column in columns.items()}
            hashes[start:end] = document_hashes(part, end - start)
        columns.clear()
        # Saving copies the file. The exporter looks nothing up, and the lookup that it
        # has made of the first line takes no memory.
        write_ids(ids_file, ids)
        module = Signatures(network, table, k, task)
        signatures = module.all()
        with working("saving"):
            tf.saved_model.save(module, str(temporary), signatures=signatures)
    return hashes


def _encoder(model: PreRanker) -> Any:
    network = model.network

    @tf.function(autograph=False, reduce_retracing=True)
    def encode(columns: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        vectors = network.encode_docs(columns)
        return vectors, model.network.matches.keys_of(columns, "doc")

    return encode


def _slice(columns: Mapping[str, np.ndarray], start: int, end: int) -> dict[str, Any]:
    return {name: tf.constant(column[start:end]) for name, column in columns.items()}


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
    """Returns a digest of every weight that towers and scorer read in serving.

    Args:
        model: the model.
    """
    # In the order of the layers: Keras numbers names by what a process made before.
    return digest_of(read_by(model.network)[0])


def _portable(schema: dict[str, Any], assets: Path) -> dict[str, Any]:
    """Names files as the export's assets are, without the folders of this machine."""
    features = []
    for feature in schema["features"]:
        feature = dict(feature)
        if "vocabulary" in feature:
            feature["vocabulary"] = _asset_name(Path(feature["vocabulary"]), assets)
        if "pretrained" in feature:
            feature["pretrained"] = Path(feature["pretrained"]).name
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
