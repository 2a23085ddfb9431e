"""The next version of an export for other documents, without its training."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_text  # noqa: F401 - exports of texts hold its ops
from tensorflow.core.protobuf import fingerprint_pb2

from tfrs_prerank.declaration import nearest
from tfrs_prerank.features.documents import DocumentTable
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.progress import track, working
from tfrs_prerank.serving.documents import (
    CHUNK,
    check_vectors,
    checked_ids,
    chunk_of,
    document_hashes,
    write_ids,
)
from tfrs_prerank.serving.version_directory import (
    HASHES,
    IDS_FILE,
    MANIFEST,
    digest_of,
    free_version,
    new_version,
    size_of,
    versions_of,
    write_hashes,
)
from tfrs_prerank.serving.warmup import replay

_VARIABLES = "variables/variables"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """What `refresh_documents` wrote.

    Attributes:
        path: the new version's directory.
        version: its number.
        previous: number of the version that it was made from.
        documents: number of documents in the table.
        unchanged: those whose vectors were copied.
        changed: those that were there with other columns, and were encoded again.
        added: those that were not there.
        removed: those of the previous version that are not there any more.
        bytes: size of the directory.
        latency: see `Exported`.
    """

    path: Path
    version: int
    previous: int
    documents: int
    unchanged: int
    changed: int
    added: int
    removed: int
    bytes: int
    latency: Mapping[int, float]


def refresh_documents(
    directory: str | Path,
    documents: DocumentTable,
    *,
    version: int | None = None,
    previous: int | None = None,
    fuse: Mapping[str, float] | None = None,
) -> Refreshed:
    """Writes the next version of an export, for the documents of now.

    Needs the export and a documents table, and neither the model nor its data. A
    document whose columns are as before keeps its vector, bit for bit; others are
    encoded by the export itself. `saved_model.pb` stays as it is, byte for byte: the
    number of documents is not in the graph. So do the towers, the corpus statistics of
    BM25, and vocabularies: a value that the training did not know is unknown still.

    The version is written beside its place, its warm-up requests are replayed, and only
    then it is renamed. Files of your own in `assets.extra` are not carried over.

    Args:
        directory: the model's directory, such as `saved_models/movielens`.
        documents: all documents, not only the new ones, with every document column of
            the schema; columns that are point-in-time hold their values of now.
        version: a number from 1; None takes the next one.
        previous: the version to start from; None takes the latest.
        fuse: weights of tasks in the pre-rank score that become others.

    Returns:
        What was written, and how many documents were encoded.

    Raises:
        FileExistsError: the version exists.
        FileNotFoundError: there is no version to start from.
        KeyError: a document column is missing, or there is no such task.
        TypeError: the document ids are of another type than the schema says.
        ValueError: the parts of the export do not belong together, it was written by an
            older release, a document's vector is NaN or infinite, or `fuse` is given
            where there is one task.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task, export
    >>> from tfrs_prerank.features import DocumentTable
    >>> user = Categorical("user_id", "query", buckets=9)
    >>> city = Categorical("city", "doc", buckets=9)
    >>> model = PreRanker(Schema([user, city], tasks=[Task("click")]))
    >>> documents = DocumentTable(np.array(["a", "b"]), {"city": ["Rome", "Oslo"]})
    >>> directory = tempfile.mkdtemp()
    >>> _ = export(model, documents, directory, warmup_lengths=[2])
    >>> now = DocumentTable(np.array(["b", "c"]), {"city": ["Oslo", "Bern"]})
    >>> refreshed = refresh_documents(directory, now)
    >>> refreshed.version, refreshed.unchanged, refreshed.added, refreshed.removed
    (2, 1, 1, 1)
    """
    directory = Path(directory)
    previous = _previous(directory, previous)
    before = directory / str(previous)
    version = free_version(directory, version)
    manifest = _manifest(before)
    schema = Schema.from_mapping(manifest["schema"], str(before / MANIFEST))
    _check_fuse(schema, fuse)
    ids = checked_ids(documents, schema.doc_id)
    columns = documents.arrays(schema)
    loaded = tf.saved_model.load(str(before))
    _check_ties(loaded, manifest, before)

    old_ids = _plain(loaded.table.ids.numpy())
    old_hashes = _old_hashes(before, len(old_ids))
    rows = pd.Index(old_ids).get_indexer(pd.Index(ids))
    hashes = _hashes(columns, len(ids))
    kept = rows >= 0
    kept[kept] = hashes[kept] == old_hashes[rows[kept]]
    found = int((rows >= 0).sum())
    chunk = chunk_of(schema)
    arrays = _encoded(loaded, ids, columns, rows, kept, chunk)
    arrays["table/ids"] = ids
    if fuse:
        now = dict(zip(schema.task_names, loaded.fusion.numpy().tolist(), strict=True))
        now |= fuse
        arrays["fusion"] = np.array(list(now.values()), np.float32)
        for of_task in manifest["schema"]["tasks"]:
            of_task["fuse"] = now[of_task["name"]]
    lengths = [int(length) for length in manifest["latency_ms"]]
    count = len(ids)
    del columns, loaded, old_ids
    with new_version(directory, version) as temporary:
        with working("writing"):
            _copy(before, temporary)
            write_ids(temporary / "assets" / IDS_FILE, ids)
            _write_variables(before, temporary, arrays)
            del arrays
            write_hashes(temporary, hashes)
        gc.collect()
        with working("replaying warm-up requests"):
            latency = replay(temporary, ids[: max(lengths, default=1)], lengths)
        manifest |= {
            "documents": count,
            "refreshed_from": previous,
            "latency_ms": {str(length): value for length, value in latency.items()},
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (temporary / MANIFEST).write_text(text, "utf-8")
    path = directory / str(version)
    return Refreshed(
        path,
        version,
        previous,
        documents=count,
        unchanged=int(kept.sum()),
        changed=found - int(kept.sum()),
        added=count - found,
        removed=len(old_hashes) - found,
        bytes=size_of(path),
        latency=latency,
    )


def _previous(directory: Path, previous: int | None) -> int:
    versions = versions_of(directory)
    if not versions:
        raise FileNotFoundError(
            f"{directory} holds no version of an export; write one with `export`"
        )
    if previous is None:
        return versions[-1]
    if previous not in versions:
        raise FileNotFoundError(
            f"{directory} holds no version {previous}; it has {versions}"
        )
    return previous


def _manifest(version: Path) -> dict[str, Any]:
    path = version / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is not there, so {version} is no whole export of tfrs_prerank; "
            "export again, or name an earlier version with previous="
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no JSON ({error}); export again, or name an earlier version "
            "with previous="
        ) from None
    return manifest


def _check_fuse(schema: Schema, fuse: Mapping[str, float] | None) -> None:
    if not fuse:
        return
    if len(schema.tasks) == 1:
        raise ValueError(
            "fuse: the score of a single task is its logit, which no weight changes; "
            "leave it out"
        )
    for name, weight in fuse.items():
        if name not in schema.task_names:
            raise KeyError(
                f"fuse: no task {name!r}; {nearest(name, schema.task_names)}"
            )
        is_number = isinstance(weight, int | float)
        if not is_number or not abs(weight) <= _LARGEST:
            raise ValueError(
                f"fuse: {name} must be a number that fits float32. Received: {weight!r}"
            )


def _check_ties(loaded: Any, manifest: Mapping[str, Any], version: Path) -> None:
    """Checks that towers, table and manifest are of one model."""
    if not hasattr(loaded, "weights") or not hasattr(loaded.table, "made_by"):
        raise ValueError(
            f"{version} was written before exports could be refreshed; export again"
        )
    towers = digest_of(loaded.weights)
    table = loaded.table.made_by.numpy().decode()
    for what, found in (("towers", towers), ("documents table", table)):
        if found != manifest["fingerprint"]:
            raise ValueError(
                f"{version}: the {what} and the manifest are not of one model. "
                f"Received: fingerprint {found[:16]}, expected "
                f"{manifest['fingerprint'][:16]}; files of several versions were "
                "mixed, export again"
            )


def _old_hashes(version: Path, count: int) -> np.ndarray:
    """Reads the hashes of the columns that a table was made of."""
    path = version / HASHES
    try:
        hashes: np.ndarray = np.load(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); export again, or name an earlier "
            "version with previous="
        ) from None
    if len(hashes) != count:
        raise ValueError(
            f"{path} holds {len(hashes)} hashes of {count} documents; export again"
        )
    return hashes


def _hashes(columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Hashes in parts: hashing strings needs ten times their references."""
    hashes = np.empty(count, np.uint64)
    for start in range(0, count, CHUNK):
        end = min(start + CHUNK, count)
        part = {name: column[start:end] for name, column in columns.items()}
        hashes[start:end] = document_hashes(part, end - start)
    return hashes


def _encoded(
    loaded: Any,
    ids: np.ndarray,
    columns: Mapping[str, np.ndarray],
    rows: np.ndarray,
    kept: np.ndarray,
    chunk: int,
) -> dict[str, np.ndarray]:
    """Returns the table's arrays by the variable's path, copied or encoded."""
    table = loaded.table
    old = {"table/vectors": table.vectors.numpy()}
    old |= {f"table/keys/{place}": key.numpy() for place, key in enumerate(table.keys)}
    arrays = {}
    for name, values in old.items():
        arrays[name] = np.empty((len(ids), *values.shape[1:]), values.dtype)
        arrays[name][kept] = values[rows[kept]]
    (fresh,) = np.nonzero(~kept)
    encode = loaded.signatures["encode_docs"]
    for start in track(range(0, len(fresh), chunk), "encoding documents"):
        part = fresh[start : start + chunk]
        inputs = {name: tf.constant(column[part]) for name, column in columns.items()}
        vectors = encode(**inputs)["doc_vector"]
        check_vectors(vectors, ids[part])
        arrays["table/vectors"][part] = vectors.numpy()
        if table.keys:
            keys = loaded.encode_keys(**inputs)
            # In the order of the table's variables.
            for place, name in enumerate(sorted(keys)):
                arrays[f"table/keys/{place}"][part] = keys[name].numpy()
    return arrays


def _copy(before: Path, temporary: Path) -> None:
    """Copies what does not depend on the documents."""
    shutil.copytree(
        before,
        temporary,
        ignore=lambda folder, names: (
            {"variables", "assets.extra", IDS_FILE} & set(names)
        ),
        dirs_exist_ok=True,
    )
    (temporary / "variables").mkdir()


def _write_variables(
    before: Path, temporary: Path, arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes the checkpoint again, with some variables replaced.

    The names in it are those that the graph of `saved_model.pb` asks for.

    Args:
        before: the previous version.
        temporary: the new one.
        arrays: new values by the variable's path.

    Raises:
        ValueError: a variable is not there.
    """
    reader = tf.train.load_checkpoint(str(before / _VARIABLES))
    names = sorted(reader.get_variable_to_dtype_map())
    for name in arrays:
        if name + _VALUE not in names:
            raise ValueError(
                f"{before} has no variable {name!r}; it was written by another release "
                "of tfrs_prerank, export again"
            )
    tensors = []
    for name in names:
        value = arrays.get(name.removesuffix(_VALUE))
        tensors.append(tf.constant(reader.get_tensor(name) if value is None else value))
    tf.raw_ops.SaveV2(
        prefix=str(temporary / _VARIABLES),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=tensors,
    )
    # TensorFlow's own fingerprint names the checkpoint, by the hash of its index.
    path = temporary / "fingerprint.pb"
    found = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    index = (temporary / f"{_VARIABLES}.index").read_bytes()
    hashed = tf.fingerprint(tf.constant([index])).numpy().view(np.uint64)
    found.checkpoint_hash = int(hashed[0, 0])
    path.write_bytes(found.SerializeToString())


def _plain(ids: np.ndarray) -> np.ndarray:
    """Returns ids as `checked_ids` does: strings, not bytes."""
    if ids.dtype != object:
        return ids
    return np.array([value.decode() for value in ids], object)
