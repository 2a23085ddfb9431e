"""Writes constraints.txt: one pinned version of every package of every extra.

Usage, with one interpreter per supported Python (a bare name or a path):

    python tools/resolve_constraints.py python3.10 python3.11 python3.12 python3.13

Each interpreter resolves all extras at once with ``pip install --dry-run``, from
wheels only, so the markers it evaluates are its own. Packages whose versions agree
get one line; the others get one line per version with a ``python_version`` marker.
"""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every package of every extra, pinned. Written by tools/resolve_constraints.py;
# do not edit by hand (CONTRIBUTING.md says how to refresh it).
"""


def requirements() -> list[str]:
    """Returns what setup.cfg asks for, all extras included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"]]
    lists += config["options.extras_require"].values()
    lines = [line.strip() for text in lists for line in text.splitlines()]
    # An extra may name others of our own; those are listed anyway.
    return sorted({line for line in lines if line and "tfrs_prerank[" not in line})


def resolve(python: str, wanted: list[str]) -> tuple[str, dict[str, str]]:
    """Returns the interpreter's ``major.minor`` and {package: version}."""
    command = [sys.executable, "-m", "pip", "--python", python, "install"]
    command += ["--dry-run", "--ignore-installed", "--only-binary=:all:"]
    command += ["--quiet", "--report", "-", *wanted]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    pins = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        pins[name] = item["metadata"]["version"]
    return report["environment"]["python_version"], pins


def merge(resolved: dict[str, dict[str, str]]) -> list[str]:
    """Returns the lines of the file from {python_version: {package: version}}."""
    lines = []
    for name in sorted({name for pins in resolved.values() for name in pins}):
        pythons: dict[str, list[str]] = {}
        for python, pins in resolved.items():
            if name in pins:
                pythons.setdefault(pins[name], []).append(python)
        for version, where in pythons.items():
            if len(where) == len(resolved):
                lines.append(f"{name}=={version}")
            else:
                marker = " or ".join(f'python_version == "{p}"' for p in where)
                lines.append(f"{name}=={version} ; {marker}")
    return lines


def main() -> None:
    """Resolves for every interpreter on the command line and writes the file."""
    if len(sys.argv) < 2:
        sys.exit("no interpreter given. Fix: name one per supported Python version")
    resolved = {}
    for python in sys.argv[1:]:
        print(f"resolving with {python} ...", flush=True)
        version, pins = resolve(python, requirements())
        resolved[version] = pins
    text = HEADER + "\n".join(merge(dict(sorted(resolved.items(), key=_key)))) + "\n"
    (ROOT / "constraints.txt").write_text(text, encoding="utf-8")
    print(f"constraints.txt: {len(merge(resolved))} pins for {', '.join(resolved)}")


def _key(item: tuple[str, dict[str, str]]) -> tuple[int, ...]:
    return tuple(int(part) for part in item[0].split("."))


if __name__ == "__main__":
    main()
