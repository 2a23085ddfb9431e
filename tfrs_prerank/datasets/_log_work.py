"""The work of a long conversion: a folder that outlives a kill, and threads.

Threads will do: Arrow and NumPy let others run while they read, sort and write. They
share the documents' ids, and die with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tfrs_prerank.progress import track

T = TypeVar("T")

_MOST_THREADS = 4  # each holds a chunk or a part in memory


@contextlib.contextmanager
def folder(output: Path, origin: Mapping[str, Any]) -> Iterator[Path]:
    """Opens the folder beside an output that intermediate files are kept in.

    It is removed in the end, also after an error. It stays when the process is killed
    or interrupted, and the next call goes on with what it holds, if it is of the same
    origin.

    Args:
        output: the folder that is being made.
        origin: what the files depend on, as JSON takes it, by what a warning calls it.

    Yields:
        The folder.

    Raises:
        FileExistsError: another process works in it.
    """
    place = output.with_name(f".tmp-{output.name}-log")
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"another process is making {output}; wait for it or choose another "
                "directory"
            ) from None
        _start_anew_if_other(place, json.loads(json.dumps(origin)))
        try:
            yield place
        except Exception:
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place)


def _start_anew_if_other(place: Path, origin: dict[str, Any]) -> None:
    """Removes what is there unless it has the same origin."""
    file = place / "origin.json"
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        others = [name for name in origin if earlier.get(name) != origin[name]]
        if not others:
            return
        warnings.warn(
            f"{place} is of an unfinished conversion with other {', '.join(others)}; "
            "starting anew",
            stacklevel=5,
        )
    for path in place.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    _write(file, origin)


def kept(marker: Path, make: Callable[[], T]) -> T:
    """Returns what a function says, or what it said before the process was killed.

    Args:
        marker: the JSON file that says that the work is done.
        make: does it, and returns something that JSON takes.
    """
    if not marker.exists():
        marker.parent.mkdir(exist_ok=True)
        _write(marker, make())
    result: T = json.loads(marker.read_text(encoding="utf-8"))
    return result


def _write(file: Path, value: Any) -> None:
    temporary = file.with_name(f".tmp-{file.name}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.rename(file)


def in_threads(
    tasks: Sequence[Callable[[Callable[[], None]], T]], what: str, steps: int
) -> list[T]:
    """Runs functions beside one another.

    Args:
        tasks: each gets a function to call at every step: it moves the bar, and ends
            the task once another one has failed.
        what: the text beside the bar.
        steps: how many there will be, a guess.

    Returns:
        What they return, in their order.
    """
    signs: queue.SimpleQueue[Future[T] | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def step() -> None:
        signs.put(None)
        if stopped.is_set():
            raise CancelledError

    def run(task: Callable[[Callable[[], None]], T]) -> T:
        if stopped.is_set():
            raise CancelledError
        try:
            return task(step)
        except BaseException:
            stopped.set()
            raise

    threads = max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)), len(tasks)))
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run, task) for task in tasks]
        for future in futures:
            future.add_done_callback(signs.put)
        try:
            for _ in track(_until_done(signs, len(futures)), what, steps):
                pass
        finally:  # Ctrl-C is raised here
            stopped.set()
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None and not isinstance(error, CancelledError):
            raise error
    return [future.result() for future in futures]


def _until_done(
    signs: queue.SimpleQueue[Future[T] | None], futures: int
) -> Iterator[Future[T] | None]:
    """Yields None for every step, and each future when it is done."""
    while futures:
        sign = signs.get()
        futures -= sign is not None
        yield sign
