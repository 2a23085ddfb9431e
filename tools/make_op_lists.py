"""Writes the list of ops that one stock TensorFlow Serving release can run.

The server is one static binary, so its ops cannot be read from a package. They
are the ops of the libraries that its build links, and each of those libraries is
also in a wheel of the same release. This script downloads the wheels, loads their
shared libraries without Python bindings, asks the C API for the registered ops
and kernels, and writes `tfrs_prerank/serving/op_lists/tf_serving_<version>.txt`.

What goes in:

* core TensorFlow: the ops of `tf.raw_ops` (public ones, no test or internal ops)
  that `libtensorflow_cc` registers with a kernel for the CPU. Ops whose kernel
  lives in the Python extension (`PyFunc`) drop out here, as do those that only
  run on GPU or TPU, or through XLA, which the server leaves off.
* TF-Text: every op of the wheel's op libraries. These are the same libraries as
  those of the target `ops_lib` that the server links.
* Decision Forests: every op of the inference library.

Every set of wheels is probed in a process of its own: two TensorFlow releases
cannot be loaded side by side. Needs Linux on x86-64, pip, and about 2 GB of
temporary disk space per release.

Usage:
    python tools/make_op_lists.py --serving 2.20
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator

OUTPUT = pathlib.Path(__file__).parents[1] / "tfrs_prerank" / "serving" / "op_lists"

# The wheels are only unpacked, never imported: which Python they are for does not
# matter, as long as every release has them.
WHEEL_PYTHON = "311"
WHEEL_PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64")

# Ops without a kernel that TensorFlow rewrites into others before it runs a graph.
REWRITTEN = frozenset({"AccumulateNV2"})


@dataclasses.dataclass(frozen=True)
class Release:
    """The libraries one TensorFlow Serving release links.

    Attributes:
      server: the release's git tag, where WORKSPACE and workspace.bzl pin the rest.
      core: wheel of the TensorFlow it links.
      text: wheel of the TF-Text it links.
      text_core: TensorFlow wheel that this TF-Text wheel is built for.
      forests: wheel of the Decision Forests it links.
      forests_core: TensorFlow wheel that this Decision Forests wheel is built for.
    """

    server: str
    core: str
    text: str
    text_core: str
    forests: str = "tensorflow-decision-forests==1.3.0"
    forests_core: str = "tensorflow-cpu==2.12.1"


RELEASES = {
    "2.20": Release(
        server="2.20.0",
        core="tensorflow-cpu==2.20.0",
        text="tensorflow-text==2.20.0",
        text_core="tensorflow-cpu==2.20.0",
    ),
    "2.19": Release(
        server="2.19.1",
        core="tensorflow-cpu==2.19.1",
        text="tensorflow-text==2.12.1",
        text_core="tensorflow-cpu==2.12.1",
    ),
}


class _Buffer(ctypes.Structure):
    """`TF_Buffer` of the C API."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


def probe(core: pathlib.Path, libraries: list[pathlib.Path]) -> dict[str, set[str]]:
    """Returns the devices of every registered op, `{op: {device, ...}}`.

    Args:
      core: unpacked TensorFlow wheel.
      libraries: op libraries to load on top of it.
    """
    root = core / "tensorflow"
    ctypes.CDLL(str(root / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
    api = ctypes.CDLL(str(root / "libtensorflow_cc.so.2"), mode=ctypes.RTLD_GLOBAL)
    for library in libraries:
        ctypes.CDLL(str(library))
    api.TF_GetAllOpList.restype = ctypes.POINTER(_Buffer)
    api.TF_NewStatus.restype = ctypes.c_void_p
    api.TF_GetAllRegisteredKernels.restype = ctypes.POINTER(_Buffer)
    api.TF_GetAllRegisteredKernels.argtypes = (ctypes.c_void_p,)
    devices: dict[str, set[str]] = {
        text(op, 1): set() for op in messages(content(api.TF_GetAllOpList()))
    }
    status = api.TF_NewStatus()
    for kernel in messages(content(api.TF_GetAllRegisteredKernels(status))):
        devices.setdefault(text(kernel, 1), set()).add(text(kernel, 2))
    return devices


def content(buffer) -> bytes:
    """Returns the bytes of a `TF_Buffer *`."""
    return ctypes.string_at(buffer.contents.data, buffer.contents.length)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields `(field number, value)` of a serialised protocol buffer.

    The generated classes come with a TensorFlow of one release, which cannot be
    imported in a process that loads another.
    """

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = message[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    at = 0
    value: int | bytes
    while at < len(message):
        key, at = varint(at)
        kind = key & 7
        if kind == 0:
            value, at = varint(at)
        elif kind == 2:
            size, at = varint(at)
            value, at = message[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind} at byte {at}: not an OpList")
        yield key >> 3, value


def messages(serialised: bytes) -> list[bytes]:
    """Returns the elements of an `OpList` or `KernelList` (both repeat field 1)."""
    return [
        value
        for number, value in fields(serialised)
        if number == 1 and isinstance(value, bytes)
    ]


def text(message: bytes, number: int) -> str:
    """Returns a string field (name of an `OpDef`, op or device of a `KernelDef`)."""
    for found, value in fields(message):
        if found == number and isinstance(value, bytes):
            return value.decode()
    raise ValueError(f"field {number} is missing: not an OpDef or KernelDef")


def unpack(wheel: str, cache: pathlib.Path, into: pathlib.Path) -> pathlib.Path:
    """Downloads one wheel and unpacks its libraries; returns where they are."""
    directory = into / wheel
    if directory.exists():
        return directory
    name, version = wheel.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-cp{WHEEL_PYTHON}-*.whl"
    if not list(cache.glob(pattern)):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            + ["--only-binary=:all:", f"--python-version={WHEEL_PYTHON}"]
            + [f"--platform={platform}" for platform in WHEEL_PLATFORMS]
            + [f"--dest={cache}", wheel],
            check=True,
        )
    (path,) = cache.glob(pattern)
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if ".so" in member or member.endswith("_api/v2/raw_ops/__init__.py"):
                archive.extract(member, directory)
    return directory


def run_probe(core: pathlib.Path, *libraries: pathlib.Path) -> dict[str, set[str]]:
    """Runs `probe` in a fresh process."""
    command = [sys.executable, __file__, "--probe", str(core)]
    output = subprocess.run(
        command + [str(library) for library in libraries],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    rows = (line.split("\t") for line in output.splitlines())
    return {op: set(devices.split()) for op, devices in rows}


def core_ops(directory: pathlib.Path) -> set[str]:
    """Returns the public core ops that run on a CPU."""
    source = directory / "tensorflow" / "_api" / "v2" / "raw_ops" / "__init__.py"
    public = set(re.findall(r"import (\w+) # line", source.read_text()))
    runnable = {
        op
        for op, devices in run_probe(directory).items()
        if devices & {"CPU", "DEFAULT"}
    }
    return public & (runnable | REWRITTEN)


def added_ops(core: pathlib.Path, libraries: list[pathlib.Path]) -> set[str]:
    """Returns the ops that `libraries` add to those of `core`."""
    if not libraries:
        raise ValueError("no op library found in the wheel")
    return set(run_probe(core, *libraries)) - set(run_probe(core))


def make(version: str, cache: pathlib.Path) -> pathlib.Path:
    """Writes the op list of one TensorFlow Serving release; returns the file."""
    release = RELEASES[version]
    with tempfile.TemporaryDirectory() as scratch:

        def get(wheel: str) -> pathlib.Path:
            return unpack(wheel, cache, pathlib.Path(scratch))

        core = core_ops(get(release.core))
        text_libraries = sorted(get(release.text).glob("tensorflow_text/python/**/_*"))
        text_ops = added_ops(get(release.text_core), text_libraries)
        forests = added_ops(
            get(release.forests_core),
            list(get(release.forests).glob("**/ops/inference/inference.so")),
        )
    header = f"""\
# Ops that stock TensorFlow Serving {version} (tag {release.server}) can run on a CPU.
# Made by tools/make_op_lists.py --serving {version}; do not edit.
#
# Core: public ops of {release.core} with a CPU kernel ({len(core)}).
# TF-Text: every op of {release.text} ({len(text_ops)}).
# Decision Forests: inference ops of {release.forests} ({len(forests)}).
#
# The versions are those the server's tag pins in WORKSPACE and workspace.bzl; its
# SUPPORTED_TENSORFLOW_OPS adds TF-Text and Decision Forests to core TensorFlow.
# The wheels stand in for the server's own binary, which was not inspected.
"""
    path = OUTPUT / f"tf_serving_{version}.txt"
    ops = sorted(core | text_ops | forests)
    path.write_text(header + "".join(f"{op}\n" for op in ops))
    return path


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serving", choices=sorted(RELEASES), action="append")
    parser.add_argument(
        "--cache", type=pathlib.Path, help="directory that keeps the wheels"
    )
    parser.add_argument("--probe", nargs="+", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        core, *libraries = arguments.probe
        for op, devices in sorted(probe(core, libraries).items()):
            print(op, " ".join(sorted(devices)), sep="\t")
        return
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or pathlib.Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        for version in arguments.serving or sorted(RELEASES):
            print(make(version, cache))


if __name__ == "__main__":
    main()
