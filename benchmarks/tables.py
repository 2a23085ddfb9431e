"""Puts the last full run of each benchmark into the tables of `docs/results.md`.

A table stands between `<!-- serving: latency -->` and `<!-- end -->`: the benchmark and
the name of its table. The table `machine` is a sentence about where and when it ran.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import measuring

PAGE = measuring.RESULTS.parents[1] / "docs" / "results.md"
_TABLE = re.compile(r"(<!-- (\w+): (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Runs the command."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--page", type=Path, default=PAGE)
    options.add_argument("--results", type=Path, default=measuring.RESULTS)
    given = options.parse_args()
    page = given.page.read_text(encoding="utf-8")
    given.page.write_text(filled(page, given.results), encoding="utf-8")


def filled(page: str, results: Path) -> str:
    """Returns a page with its tables made from results.

    Args:
        page: the text.
        results: the folder with `<benchmark>.jsonl`.

    Raises:
        FileNotFoundError: a benchmark that the page names was never run in full.
        KeyError: it has no such table.
    """

    def replace(found: re.Match[str]) -> str:
        opening, benchmark, table, _, closing = found.groups()
        return f"{opening}\n{_body(benchmark, table, results)}\n\n{closing}"

    return _TABLE.sub(replace, page)


def _body(benchmark: str, table: str, results: Path) -> str:
    run = last_run(results / f"{benchmark}.jsonl")
    if table == "machine":
        return _sentence(run)
    return measuring.markdown(run["tables"][table])


def last_run(path: Path) -> dict[str, Any]:
    """Returns the last run of a file that was not a small one."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        runs = [json.loads(line) for line in lines]
        full: list[dict[str, Any]] = [run for run in runs if not run["small"]]
        if full:
            return full[-1]
    raise FileNotFoundError(
        f"{path} has no full run; make one with python benchmarks/{path.stem}.py"
    )


def _sentence(run: dict[str, Any]) -> str:
    machine = run["machine"]
    return (
        f"{run['date'][:10]}; {machine['cores']} cores ({machine['processor']}), of "
        f"which others took {machine['taken by others']}; Python {machine['python']}, "
        f"tensorflow {machine['tensorflow']}, tf-keras {machine['tf_keras']}, "
        f"numpy {machine['numpy']}."
    )


if __name__ == "__main__":
    main()
