"""Runs a module or a script of the tests in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(module: str, *arguments: str) -> str:
    """Returns what the module printed; fails with the end of its errors."""
    return _run("-m", module, *arguments)


def run_script(code: str) -> str:
    """Returns what the code printed; fails with the end of its errors."""
    return _run("-c", code)


def _run(*arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout.strip()
