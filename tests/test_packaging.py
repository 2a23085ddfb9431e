"""What is installed: version, requirements, pins, data files, the Makefile."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tfrs_prerank

ROOT = Path(__file__).resolve().parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = SETUP["options.extras_require"]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def required(*extras: str) -> list[str]:
    """Returns what setup.cfg asks for; the project's own extras are left out."""
    texts = [SETUP["options"]["install_requires"], *(EXTRAS[name] for name in extras)]
    return [
        line for text in texts for line in lines(text) if "tfrs_prerank[" not in line
    ]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> list[Requirement]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return [Requirement(line) for line in lines(text) if not line.startswith("#")]


def pins(python: str) -> dict[str, str]:
    """Returns {package: version} that constraints.txt gives for a Python."""
    environment = {"python_version": python}
    wanted: dict[str, str] = {}
    for pin in constraints():
        if pin.marker is None or pin.marker.evaluate(environment):
            (specifier,) = pin.specifier
            assert specifier.operator == "==", str(pin)
            assert pin.name not in wanted, f"{pin.name} is pinned twice for {python}"
            wanted[normal(pin.name)] = specifier.version
    return wanted


def test_version_can_be_read_without_running_the_package():
    tree = ast.parse((ROOT / "tfrs_prerank" / "__init__.py").read_text())
    found = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert found == [tfrs_prerank.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", tfrs_prerank.__version__)


def test_installed_metadata_are_those_of_the_source():
    try:
        installed = metadata.distribution("tfrs_prerank")
    except metadata.PackageNotFoundError:
        pytest.skip("tfrs_prerank is not installed here, only on the path")
    assert installed.version == tfrs_prerank.__version__
    commands = {point.name: point.value for point in installed.entry_points}
    assert commands == {"tfrs-prerank": "tfrs_prerank.cli:main"}
    assert set(installed.metadata.get_all("Provides-Extra")) == set(EXTRAS)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_direct_requirement_is_pinned_within_its_bounds(python):
    wanted = pins(python)
    for line in required(*EXTRAS):
        requirement = Requirement(line)
        version = wanted.get(normal(requirement.name))
        assert version is not None, f"{line} has no pin for Python {python}"
        assert requirement.specifier.contains(version), f"{line}, pinned {version}"


def test_everything_that_is_installed_for_the_tests_is_pinned():
    wanted = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    extras = ("serving", "tutorials", "test", "dev")
    todo = [(line, "") for line in required(*extras)]
    seen = set()
    while todo:
        line, extra = todo.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for asked in requirement.extras or {""}:
            if (normal(requirement.name), asked) in seen:
                continue
            seen.add((normal(requirement.name), asked))
            try:
                below = metadata.requires(requirement.name) or []
            except metadata.PackageNotFoundError:
                continue
            todo += [(needed, asked) for needed in below]
    names = {name for name, _ in seen}
    assert len(names) > 50
    assert {name for name in names if name not in wanted} == set()


def test_every_data_file_is_packaged():
    # Patterns are relative to the package and do not reach into other folders.
    patterns = lines(SETUP["options.package_data"]["tfrs_prerank"])
    package = ROOT / "tfrs_prerank"
    left_out = [
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and path not in {file for pattern in patterns for file in package.glob(pattern)}
    ]
    assert left_out == []


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in (ROOT / "tfrs_prerank").rglob("*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("says", "accepted"),
    [("3.9", False), ("3.10", True), ("3.13", True), ("3.14", False), (None, False)],
)
def test_make_refuses_other_pythons_in_one_line(tmp_path, says, accepted):
    python = tmp_path / "python"
    if says is not None:
        python.write_text(f"#!/bin/sh\necho {says}\n")
        python.chmod(0o755)
    done = subprocess.run(
        ["make", "--silent", "check-python", f"PYTHON={python}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if accepted:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode != 0
        assert done.stderr.splitlines()[0] == (
            f"tfrs_prerank needs Python 3.10 to 3.13; {python} is "
            f"{says or 'not there'}. Fix: make PYTHON=python3.12 ..."
        )
