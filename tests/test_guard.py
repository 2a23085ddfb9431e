"""The Keras-2 and ScaNN guard, each case in a process of its own."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from tfrs_prerank import _guard

ROOT = Path(__file__).resolve().parent.parent
KERAS_2 = "tf_keras.src.engine.training"
RESTART = (
    "tf.keras is already Keras 3 in this process (it was used before tfrs_prerank was "
    "imported; TF_USE_LEGACY_KERAS=None). Fix: restart the runtime and import "
    "tfrs_prerank first"
)
GOOD = {"variable": "1", "keras": KERAS_2, "is_keras_2": True}

# Every script fills `out`; the last line of its output is `out` as JSON.
PROLOGUE = """
import json, os, sys, warnings
out = {}
def attempt():
    try:
        import tfrs_prerank
    except ImportError as error:
        out["error"] = str(error)
    out["variable"] = os.environ.get("TF_USE_LEGACY_KERAS")
def look():
    import tensorflow as tf
    out["keras"] = tf.keras.Model.__module__
    import tensorflow_recommenders as tfrs
    out["is_keras_2"] = issubclass(tfrs.Model, tf.keras.Model)
"""
EPILOGUE = "\nprint('\\n' + json.dumps(out))\n"

PACKAGE_FIRST = """
attempt()
out["tensorflow_imported"] = "tensorflow" in sys.modules
look()
"""
TENSORFLOW_FIRST = """
import tensorflow
attempt()
from tensorflow.keras import layers
out["layers"] = layers.Dense.__module__
look()
"""
KERAS_TOUCHED = """
import tensorflow as tf
tf.keras.layers
attempt()
"""
TENSORFLOW_TEXT_FIRST = """
import tensorflow_text
attempt()
"""
KERAS_FIRST = """
import keras
attempt()
look()
out["keras_3"] = keras.Model.__module__
"""
ZERO = """
attempt()
out["tensorflow_imported"] = "tensorflow" in sys.modules
"""
SCANN = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    attempt()
    import tensorflow_recommenders
    from tfrs_prerank import _guard
    _guard.check()
    out["errors"] = []
    for _ in range(2):
        try:
            _guard.require_scann()
        except ImportError as error:
            out["errors"].append(str(error))
        try:
            import scann
            out["scann"] = "imported"
        except ImportError:
            pass
out["warnings"] = [str(w.message) for w in caught if "scann" in str(w.message)]
out["where"] = [w.filename for w in caught if "scann" in str(w.message)]
import importlib.util
out["visible"] = importlib.util.find_spec("scann") is not None
"""


def run(script: str, path: Path | None = None, **variables: str) -> dict:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    if "TF_USE_LEGACY_KERAS" not in variables:
        environment.pop("TF_USE_LEGACY_KERAS", None)
    paths = [str(path)] * (path is not None) + [str(ROOT)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + script + EPILOGUE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fake_scann(folder: Path, requires: str, body: str) -> Path:
    (folder / "scann").mkdir(parents=True)
    (folder / "scann" / "__init__.py").write_text(body)
    info = folder / "scann-1.4.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: scann", "Version: 1.4.0", requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow  # the package first, as in every test, and kin of the next test
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (PACKAGE_FIRST, {**GOOD, "tensorflow_imported": False}),
        (KERAS_FIRST, {**GOOD, "keras_3": "keras.src.models.model"}),
        (TENSORFLOW_TEXT_FIRST, {"error": RESTART, "variable": None}),
    ],
    ids=["package", "keras", "text"],
)
def test_further_import_orders(script, expected):
    assert run(script) == expected


def test_import_orders_and_unusable_scann(tmp_path):
    mismatched = fake_scann(
        tmp_path / "mismatched",
        'Requires-Dist: tensorflow~=2.19.0; extra == "tf"',
        "raise SystemExit('a mismatched scann must not even be tried')",
    )
    broken = fake_scann(
        tmp_path / "broken",
        'Requires-Dist: tensorflow~=2.20.0; extra == "tf"',
        "import tensorflow as tf\n"
        "raise tf.errors.NotFoundError(None, None, 'ops.so: undefined\\nsymbol: _Z')",
    )
    # Two at a time: starting a process with TensorFlow costs seconds.
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            "tensorflow": pool.submit(run, TENSORFLOW_FIRST),
            "touched": pool.submit(run, KERAS_TOUCHED),
            "zero": pool.submit(run, ZERO, TF_USE_LEGACY_KERAS="0"),
            "mismatched": pool.submit(run, SCANN, mismatched),
            "broken": pool.submit(run, SCANN, broken),
        }
        got = {name: job.result() for name, job in jobs.items()}

    assert got["tensorflow"] == {
        **GOOD,
        "layers": "tf_keras.src.layers.core.dense",
    }
    assert got["touched"] == {"error": RESTART, "variable": None}
    assert got["zero"] == {
        "error": "the environment variable TF_USE_LEGACY_KERAS is '0', which asks for "
        "Keras 3, but tfrs_prerank needs Keras 2. Fix: set TF_USE_LEGACY_KERAS=1 or "
        "unset it, and restart Python",
        "variable": "0",
        "tensorflow_imported": False,
    }

    tensorflow = metadata.version("tensorflow")
    message = (
        "scann 1.4.0 is built for tensorflow~=2.19.0, but tensorflow "
        f"{tensorflow} is installed; tfrs_prerank goes on without ScaNN. Fix: pip "
        'install "scann[tf]>=1.4.1,<1.5"'
    )
    assert got["mismatched"] == {
        "variable": "1",
        "errors": [message] * 2,
        "warnings": [message],
        "where": ["<string>"],
        "visible": False,
    }
    message = (
        "scann cannot be imported (NotFoundError: ops.so: undefined symbol: _Z); "
        "tfrs_prerank goes on without ScaNN. Fix: pip install "
        '"scann[tf]>=1.4.1,<1.5"'
    )
    where = got["broken"].pop("where")
    assert [Path(name).name for name in where] == ["factorized_top_k.py"]
    assert got["broken"] == {
        "variable": "1",
        "errors": [message] * 2,
        "warnings": [message],
        "visible": True,
    }


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "TRUE"])
def test_refuses_every_value_that_tensorflow_takes_for_no(monkeypatch, value):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    with pytest.raises(ImportError, match=f"TF_USE_LEGACY_KERAS is '{value}'"):
        _guard.check()
    assert os.environ["TF_USE_LEGACY_KERAS"] == value


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_keeps_every_value_that_tensorflow_takes_for_yes(monkeypatch, value):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    _guard.check()
    assert os.environ["TF_USE_LEGACY_KERAS"] == value


def test_names_the_package_when_keras_2_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ImportError) as caught:
        _guard.check()
    assert str(caught.value) == (
        "the package tf-keras (Keras 2) is not installed, and tfrs_prerank needs it. "
        'Fix: pip install "tf-keras>=2.20,<2.21"'
    )


def test_says_how_to_install_scann_where_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    monkeypatch.setattr(_guard, "_scann_problem", None)
    with pytest.raises(ImportError, match="ScaNN is not installed") as caught:
        _guard.require_scann()
    assert str(caught.value).endswith('Fix: pip install "scann[tf]>=1.4.1,<1.5"')


def test_a_scann_that_fits_is_handed_out_unchanged(tmp_path):
    folder = fake_scann(
        tmp_path / "fits",
        'Requires-Dist: tensorflow~=2.20.0; extra == "tf"',
        "marker = 'fits'",
    )
    script = """
attempt()
from tfrs_prerank import _guard
scann = _guard.require_scann()
out["marker"] = scann.marker
out["loaders"] = [type(scann.__loader__).__name__, type(scann.__spec__.loader).__name__]
"""
    assert run(script, folder) == {
        "variable": "1",
        "marker": "fits",
        "loaders": ["SourceFileLoader", "SourceFileLoader"],
    }


def test_a_scann_that_states_no_tensorflow_is_hidden(tmp_path):
    folder = fake_scann(tmp_path / "silent", "Requires-Dist: numpy", "marker = 1")
    script = """
import warnings
warnings.simplefilter("ignore")
attempt()
out["hidden"] = sys.modules["scann"] is None
"""
    assert run(script, folder) == {"variable": "1", "hidden": True}


def test_import_is_light():
    script = """
import time
start = time.process_time()
attempt()
out["fast"] = time.process_time() - start < 0.3
out["heavy"] = sorted({"tensorflow", "numpy", "pandas", "tf_keras"} & set(sys.modules))
"""
    assert run(script) == {"variable": "1", "fast": True, "heavy": []}
