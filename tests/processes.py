"""Runs tests in other processes."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Replicas: TypeAlias = Callable[..., None]
"""Calls its first argument with the others, as the fixture `on_replicas` says."""

ROOT = Path(__file__).resolve().parents[1]


def run(module: str, *arguments: str) -> str:
    """Returns what a module printed in a fresh process, or fails with its errors."""
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout.strip()


def make_four_cpus() -> None:
    """Splits the CPU into four logical ones, `CPU:0` to `CPU:3`."""
    import tfrs_prerank  # noqa: F401 - makes tf.keras Keras 2

    # isort: split
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * 4
    tf.config.set_logical_device_configuration(cpu, parts)


@functools.cache
def four_replicas() -> Any:
    """The one strategy of a process with four CPUs.

    A second one would count its collective operations from the same number on, and the
    runtime would take them for those of the first.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
