"""What every test shares: the environment of TensorFlow and the real data."""

import gc
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Test processes share the cores between them. Only the threads inside one op are
# limited: fewer between ops could stall collectives over several logical devices.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = max(1, (os.cpu_count() or 1) // _workers)
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(_threads))
os.environ.setdefault("OMP_NUM_THREADS", str(_threads))

# First of all imports, so that no test can turn tf.keras into Keras 3.
import tfrs_prerank  # noqa: E402, F401
from tests.processes import Replicas, make_four_cpus  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets, which are never part of the project."""
    given = os.environ.get("TFRS_PRERANK_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            f"no real data at {folder}. Set TFRS_PRERANK_DATA to the folder with "
            "ml-100k/ and the others to run this test"
        )
    return folder


def pytest_collection_finish() -> None:
    """Takes all that is imported out of the garbage collector's rounds.

    TensorFlow makes so many objects that a fifth of the time of an export went into
    going through them, again and again.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def on_replicas() -> Iterator[Replicas]:
    """Calls a function of a module where there are `processes.four_replicas()`.

    Logical devices can only be set before TensorFlow starts, and starting it takes
    seconds: one more process serves all the tests.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, make_four_cpus) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
