"""Signs of life for everything that may take longer than two seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")

_PATIENCE = 2.0  # seconds without a bar


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields items and shows a bar on a terminal once they take two seconds.

    Nothing is shown where standard error is not a terminal.

    Args:
        items: what to iterate.
        what: the text beside the bar.
        total: number of items; taken from `items` where it has a length.

    Yields:
        The items.

    Example:
    >>> from tfrs_prerank.progress import track
    >>> list(track(range(3), "counting"))
    [0, 1, 2]
    """
    if not sys.stderr.isatty():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    started = time.monotonic()
    progress: Any = None
    try:
        for done, item in enumerate(items):
            if progress is None and time.monotonic() - started > _PATIENCE:
                from rich.console import Console
                from rich.progress import Progress

                progress = Progress(console=Console(stderr=True), transient=True)
                progress.start()
                bar = progress.add_task(what, total=total, completed=done)
            yield item
            if progress is not None:
                progress.update(bar, completed=done + 1)
    finally:
        if progress is not None:
            progress.stop()


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows on a terminal that something of unknown length is under way.

    Args:
        what: the text beside the spinner.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
