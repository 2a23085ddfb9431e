"""Checks that run before anything else of the package is imported.

TensorFlow Recommenders needs Keras 2, reached as ``tf.keras`` through the package
``tf-keras``; which Keras ``tf.keras`` becomes is decided once per process, when it is
first touched. And TensorFlow Recommenders imports ScaNN where it is installed, so a
ScaNN built for another TensorFlow stops every import. Both are settled here, without
importing TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import warnings
from types import ModuleType
from typing import Any

_VARIABLE = "TF_USE_LEGACY_KERAS"
# The spellings that TensorFlow itself takes for "yes"; all others mean Keras 3 to it.
_TRUE = ("1", "true", "True")
_KERAS_FIX = 'pip install "tf-keras>=2.20,<2.21"'
_SCANN_FIX = 'pip install "scann[tf]>=1.4.1,<1.5"'

_scann_problem: str | None = None


def check() -> None:
    """Makes ``tf.keras`` Keras 2 and hides a ScaNN that cannot work.

    Raises:
        ImportError: if this process cannot have Keras 2. The message names the fix.
    """
    _use_legacy_keras()
    _guard_scann()


def require_scann() -> ModuleType:
    """Returns the module ``scann``, or says what to install.

    Raises:
        ImportError: if ScaNN is not installed, or was hidden because it cannot work.
    """
    if _scann_problem is None:
        try:
            return importlib.import_module("scann")
        except ImportError as error:
            if _scann_problem is None:
                raise ImportError(
                    f"ScaNN is not installed ({error}). Fix: {_SCANN_FIX}"
                ) from error
    raise ImportError(_scann_problem)


def _use_legacy_keras() -> None:
    value = os.environ.get(_VARIABLE)
    if value is not None and value not in _TRUE:
        raise ImportError(
            f"the environment variable {_VARIABLE} is {value!r}, which asks for Keras "
            f"3, but tfrs_prerank needs Keras 2. Fix: set {_VARIABLE}=1 or unset it, "
            "and restart Python"
        )
    spec = importlib.util.find_spec("tf_keras")
    if spec is None:
        raise ImportError(
            "the package tf-keras (Keras 2) is not installed, and tfrs_prerank needs "
            f"it. Fix: {_KERAS_FIX}"
        )
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and _is_keras_3(vars(tensorflow).get("keras")):
        raise ImportError(
            "tf.keras is already Keras 3 in this process (it was used before "
            f"tfrs_prerank was imported; {_VARIABLE}={value!r}). Fix: restart the "
            "runtime and import tfrs_prerank first"
        )
    os.environ.setdefault(_VARIABLE, "1")
    if tensorflow is not None and spec.submodule_search_locations:
        # TensorFlow chose the folder behind `from tensorflow.keras import ...` when
        # it was imported; without this, that line would still turn to Keras 3.
        legacy = os.path.join(spec.submodule_search_locations[0], "api", "_v2")
        if legacy not in tensorflow.__path__:
            tensorflow.__path__.insert(0, legacy)


def _is_keras_3(keras: Any) -> bool:
    """Says whether ``tf.keras`` was touched and became Keras 3.

    Looks only into the object's own dictionary: any other access would touch it.
    """
    if keras is None:
        return False
    members = vars(keras)
    if "_tfll_initialized" in members and not members["_tfll_initialized"]:
        return False
    if "_tfll_keras_version" in members:
        return members["_tfll_keras_version"] != "tf_keras"
    # The real module. `tf.keras.__version__` does not exist in Keras 2.
    return not keras.Model.__module__.startswith("tf_keras")


def _guard_scann() -> None:
    if "scann" in sys.modules or importlib.util.find_spec("scann") is None:
        return
    problem = _scann_mismatch()
    if problem is not None:
        # The fifth frame up is the line that imports tfrs_prerank.
        _hide_scann(problem, stacklevel=5)
        sys.modules["scann"] = None  # type: ignore[assignment]
    elif not any(isinstance(finder, _ScannFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ScannFinder())


def _scann_mismatch() -> str | None:
    """Compares what ScaNN was built for with the TensorFlow that is installed."""
    # Only machines with ScaNN pay for these two imports.
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        scann, requires = metadata.version("scann"), metadata.requires("scann") or []
    except metadata.PackageNotFoundError:
        return None
    tensorflow = None
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            tensorflow = metadata.version(name)
            break
        except metadata.PackageNotFoundError:
            continue
    if tensorflow is None:
        return None
    for requirement in map(Requirement, requires):
        if requirement.name.lower() in ("tensorflow", "tensorflow-cpu"):
            if requirement.specifier.contains(tensorflow, prereleases=True):
                return None
            return (
                f"scann {scann} is built for tensorflow{requirement.specifier}, but "
                f"tensorflow {tensorflow} is installed; tfrs_prerank goes on without "
                f"ScaNN. Fix: {_SCANN_FIX}"
            )
    return (
        f"scann {scann} does not say which tensorflow it is built for; tfrs_prerank "
        f"goes on without ScaNN. Fix: {_SCANN_FIX}"
    )


def _hide_scann(problem: str, stacklevel: int) -> None:
    """Remembers why ScaNN cannot be used, and warns once."""
    global _scann_problem
    if _scann_problem is None:
        _scann_problem = problem
        warnings.warn(problem, RuntimeWarning, stacklevel=stacklevel)


class _ScannFinder(importlib.abc.MetaPathFinder):
    """Finds ``scann`` as usual, with a loader that survives a broken one.

    A ScaNN whose version fits may still fail to load, with errors of every kind
    (``tf.errors.NotFoundError`` for an undefined symbol). Whoever imports it first,
    us or TensorFlow Recommenders, must see the ImportError they are prepared for.
    """

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Wraps the loader of ``scann`` and leaves every other module alone."""
        if fullname != "scann":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ScannLoader(spec.loader)
        return spec


class _ScannLoader(importlib.abc.Loader):
    """Loads like the loader it wraps; every failure becomes an ImportError."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leaves the making of the module to the wrapped loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module once and translates what goes wrong."""
        if _scann_problem is not None:
            raise ImportError(_scann_problem)
        # From here on the module looks as if it had never been wrapped.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except Exception as error:
            reason = " ".join(str(error).split())
            problem = (
                f"scann cannot be imported ({type(error).__name__}: {reason}); "
                f"tfrs_prerank goes on without ScaNN. Fix: {_SCANN_FIX}"
            )
            # The third frame up, import machinery not counted, imports scann.
            _hide_scann(problem, stacklevel=3)
            raise ImportError(problem) from error
