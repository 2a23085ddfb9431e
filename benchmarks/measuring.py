"""What the benchmarks share: timing, tables, and results as JSON lines."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_TOLERANCE = 0.1
_MEMORY_STEPS = 7
_DEVICE = "CPU:0"


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one subject took.

    Attributes:
        seconds: mean of the last two runs.
        settled: whether those two agree within 10%.
    """

    seconds: float
    settled: bool


@dataclasses.dataclass(frozen=True)
class Result:
    """What a step of TensorFlow took.

    Attributes:
        timing: time of a step.
        mib: memory of a step, or None where it is not counted.
    """

    timing: Timing
    mib: float | None


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """Returns a parser with the options of every benchmark.

    Args:
        description: what it measures.
        name: name of the file of results.
    """
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--small", action="store_true", help="a quick check that everything works"
    )
    options.add_argument(
        "--results",
        type=Path,
        default=RESULTS / f"{name}.jsonl",
        help="the file that a JSON line is added to (default: %(default)s)",
    )
    return options


def median_seconds(function: Callable[[Any], Any], inputs: Sequence[Any]) -> float:
    """Returns the median time of a call, each with an input of its own.

    The first tenth of the calls is left out.

    Args:
        function: what is called.
        inputs: one for each call, made before any time is taken.
    """
    times = []
    for value in inputs:
        started = time.perf_counter()
        function(value)
        times.append(time.perf_counter() - started)
    return statistics.median(times[len(inputs) // 10 :])


def settle(
    subjects: Mapping[str, Callable[[], float]], rounds: int = 20
) -> dict[str, Timing]:
    """Runs all subjects in turn until the last two runs of each one agree.

    In turn, since a busy minute of the machine then meets all of them.

    Args:
        subjects: by name, functions that run once and return seconds.
        rounds: the most runs of each.
    """
    runs: dict[str, list[float]] = {name: [] for name in subjects}
    for count in range(max(2, rounds)):
        for name, run in subjects.items():
            runs[name].append(run())
        if count and all(_agree(times) for times in runs.values()):
            break
    return {
        name: Timing(statistics.fmean(times[-2:]), _agree(times))
        for name, times in runs.items()
    }


def _agree(times: Sequence[float]) -> bool:
    low, high = sorted(times[-2:])
    return high <= low * (1 + _TOLERANCE)


def target(what: str, value: float, limit: float, at_most: bool) -> dict[str, Any]:
    """Returns the row of a table that compares a number with what it should be."""
    reached = value <= limit if at_most else value >= limit
    return {
        "what": what,
        "measured": significant(value),
        "target": f"at {'most' if at_most else 'least'} {limit:g}",
        "reached": "yes" if reached else "not reached",
    }


def significant(value: float) -> float:
    """Rounds to three digits."""
    return float(f"{value:.3g}")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as a Markdown table, whose columns are those of the first row."""
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [
        max(len(row[place]) for row in [names, *cells]) for place in range(len(names))
    ]
    lines = [names, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(
    name: str, options: argparse.Namespace, tables: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Prints tables and adds them to the file of results.

    Args:
        name: the benchmark.
        options: its options.
        tables: rows by the table's name.
    """
    for title, rows in tables.items():
        print(f"\n{name}: {title}\n\n{markdown(rows)}")
    line = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "small": options.small,
        "machine": machine(),
        "tables": tables,
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def machine() -> dict[str, Any]:
    """Describes where a benchmark runs, and how busy others kept that."""
    packages = ("tensorflow", "tf_keras", "tensorflow-recommenders", "numpy")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "taken by others": round(_others(), 2),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
    }


def _others() -> float:
    """Returns how many cores other processes kept busy since this one started."""
    spent = [now - start for now, start in zip(_clock(), _START, strict=True)]
    elapsed, all_busy, own = spent
    return max(0.0, (all_busy - own) / elapsed)


def _clock() -> tuple[float, float, float]:
    """Returns the time, and the seconds of work of all processes and of this one."""
    # user, nice, system, idle, iowait, irq, softirq, steal
    fields = [int(value) for value in next(iter(_lines("/proc/stat"))).split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]
    return (
        time.monotonic(),
        busy / os.sysconf("SC_CLK_TCK"),
        sum(os.times()[:4]),  # with the children that have ended
    )


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def resident_mib(field: str = "VmRSS") -> float:
    """Returns the memory of this process in MiB.

    Args:
        field: `"VmRSS"`, what it has now, or `"VmHWM"`, the most it had since
            `forget_peak`.
    """
    for line in _lines("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}; run this on Linux")


def peak_mib(step: Callable[[], Any]) -> float | None:
    """Returns the memory that a step takes at most, above what there was.

    As TensorFlow's allocator counts it, which the process's own size does not show: it
    keeps what is freed. On a CPU it counts only with oneDNN, which is the default on
    x86, and only tensors of 256 KiB and more; else None.

    Args:
        step: is called some times.
    """
    import tensorflow as tf  # help does not wait for it

    gc.collect()
    peaks = []
    for _ in range(_MEMORY_STEPS):
        try:
            tf.config.experimental.reset_memory_stats(_DEVICE)
        except ValueError:
            return None
        before = tf.config.experimental.get_memory_info(_DEVICE)["current"]
        step()
        peak = tf.config.experimental.get_memory_info(_DEVICE)["peak"]
        peaks.append(float(peak - before) / 2**20)
    return statistics.median(peaks)


def forget_peak() -> None:
    """Lets `VmHWM` start again from the memory that the process has now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _lines(path: str) -> Iterable[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def note(text: str) -> None:
    """Prints what goes on, beside the tables."""
    print(text, file=sys.stderr, flush=True)


_START = _clock()
