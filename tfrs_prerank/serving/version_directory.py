"""Version directories: where they are, how one appears, and its files of our own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

MANIFEST = "assets.extra/prerank.json"
HASHES = "assets.extra/document_hashes.npy"
IDS_FILE = "doc_ids.txt"


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


def free_version(directory: Path, version: int | None) -> int:
    """Returns the number of a version that is to be written.

    Args:
        directory: the model's directory.
        version: a number from 1; None takes the next one.

    Raises:
        FileExistsError: the version exists.
        ValueError: it is no number from 1.
    """
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


@contextlib.contextmanager
def new_version(directory: Path, version: int) -> Iterator[Path]:
    """Makes a version appear as a whole, or not at all.

    What the block writes to the folder that it gets becomes `<directory>/<version>` at
    its end, by renaming: a server that watches never sees half of it.

    Args:
        directory: the model's directory, made where it is missing.
        version: a free number.

    Yields:
        A folder on the same file system, removed after an error.

    Raises:
        FileExistsError: the version was written by another process meanwhile.
    """
    path = directory / str(version)
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{version}-", dir=directory))
    temporary.chmod(0o755)
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError as error:
            if not path.exists():
                raise
            raise FileExistsError(
                f"{path} was written by another export meanwhile; export again"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # It holds the version, or others'.
                directory.rmdir()


def digest_of(variables: Iterable[tf.Variable]) -> str:
    """Returns a digest of the values of variables, in their order.

    It ties a table of vectors to the towers that made them.
    """
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(f"{variable.dtype.name}{variable.shape.as_list()}".encode())
        digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def write_hashes(temporary: Path, hashes: np.ndarray) -> None:
    """Keeps the hashes of the documents' columns, which tell changed ones.

    Args:
        temporary: the version's directory.
        hashes: uint64 `[M]`, in the order of the table.
    """
    path = temporary / HASHES
    path.parent.mkdir(exist_ok=True)
    np.save(path, hashes)
