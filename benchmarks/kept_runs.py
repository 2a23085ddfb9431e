"""Training runs that are kept: one JSON line each, made once for the same code.

A benchmark that trains for hours can then be interrupted, and goes on after the last
run that ended. A run counts as made when its name, its seed and its digest agree.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def find_or_make(
    path: Path, what: str, seed: int, code: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns an earlier run of the same code, or makes one and keeps it.

    Args:
        path: the file with one run a line; it need not exist.
        what: name of the run.
        seed: its seed.
        code: digest of its setting and of the code that its numbers rest on.
        make: makes the run: what is kept besides name, seed and digest.
    """
    known = {"what": what, "seed": seed, "digest": code}
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            run: dict[str, Any] = json.loads(line)
            if run.items() >= known.items():
                return run
    run = {**known, **make()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    return run


def digest(setting: object, names: Iterable[str]) -> str:
    """Returns a digest of a setting and of the source of some modules.

    Args:
        setting: whatever else the numbers depend on; its `repr` counts.
        names: of the modules.
    """
    made = hashlib.sha256(repr(setting).encode())
    for name in sorted(names):
        made.update(Path(str(sys.modules[name].__file__)).read_bytes())
    return made.hexdigest()[:16]


def modules(names: Iterable[str]) -> set[str]:
    """Returns some modules and those of the package that they take names from.

    Changes of other parts of the package do not make hours of training void.

    Args:
        names: of modules that were imported.
    """
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            used = getattr(value, "__module__", None)
            if isinstance(used, str) and used.startswith("tfrs_prerank."):
                waiting.append(used)
    return found
