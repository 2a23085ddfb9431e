"""Progress bars for everything that may take longer than two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_QUIET_SECONDS = 2.0


def track(
    items: Iterable[T], description: str, total: int | None = None
) -> Iterator[T]:
    """Passes items through and shows a bar on standard error after two seconds.

    Nothing is shown where standard error is not a terminal.

    Args:
        items: what to go through.
        description: a few words beside the bar.
        total: number of items, where it is known.

    Yields:
        The items.

    Example:

    >>> from tfrs_prerank.progress import track
    >>> list(track(range(3), "counting"))
    [0, 1, 2]
    """
    from rich.console import Console
    from rich.progress import Progress

    if total is None and hasattr(items, "__len__"):
        total = len(items)
    started = time.monotonic()
    progress = Progress(console=Console(stderr=True), transient=True)
    shown = False
    try:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)
            late = time.monotonic() - started > _QUIET_SECONDS
            if late and not shown and progress.console.is_terminal:
                progress.start()
                shown = True
    finally:
        if shown:
            progress.stop()
