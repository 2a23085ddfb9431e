"""A progress bar for what turns out to take longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 2.0  # seconds without a bar


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields items and shows a bar on a terminal once they take two seconds.

    Args:
      items: what to iterate.
      what: the text beside the bar.
      total: number of items; taken from `items` where it has a length.

    Yields:
      The items.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    started = time.monotonic()
    progress = None
    try:
        for done, item in enumerate(items):
            if progress is None and time.monotonic() - started > _PATIENCE:
                from rich.console import Console
                from rich.progress import Progress

                console = Console(stderr=True)
                progress = Progress(console=console, transient=True)
                progress.start()
                bar = progress.add_task(what, total=total, completed=done)
            yield item
            if progress is not None:
                progress.update(bar, completed=done + 1)
    finally:
        if progress is not None:
            progress.stop()
