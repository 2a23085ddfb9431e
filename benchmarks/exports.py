"""Exports in a process of their own: memory at the peak, and size of the graph.

Prints one JSON line for each export; `serving.py` calls it.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import catalogue
import measuring
import tensorflow as tf

from tfrs_prerank import export


def main() -> None:
    """Runs the command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ids", choices=("int64", "string"), nargs="+", required=True)
    options.add_argument(
        "--documents",
        type=int,
        nargs="+",
        required=True,
        help="numbers of documents; memory is that of the process's first export",
    )
    options.add_argument(
        "--vocabularies",
        type=int,
        nargs="*",
        default=[],
        help="sizes of the largest vocabulary, for exports of 10 documents",
    )
    options.add_argument("--directory", type=Path, required=True)
    given = options.parse_args()
    # Every export traces its functions anew, which is no fault here.
    tf.get_logger().setLevel("ERROR")
    first = True
    for doc_id in given.ids:
        for documents in given.documents:
            facts = measured(given.directory, doc_id, documents)
            print(json.dumps({**facts, "cold": first}), flush=True)
            first = False
    for size in given.vocabularies:
        facts = measured(given.directory, given.ids[0], 10, size)
        print(json.dumps({**facts, "cold": False}), flush=True)


def measured(
    directory: Path,
    doc_id: str,
    documents: int,
    vocabulary: int = catalogue.SIZES[-1],
) -> dict[str, Any]:
    """Exports once.

    Args:
        directory: exports are kept there as `<doc_id>-<documents>-<vocabulary>/1`.
        doc_id: type of the document ids.
        documents: their number.
        vocabulary: size of the largest vocabulary.

    Returns:
        The facts: `mib` is the peak above what the process had when the packages were
        imported, the model built and the documents loaded.
    """
    # Keras numbers the names of layers, and longer names make a larger graph.
    tf.keras.backend.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        model = catalogue.model(Path(folder), doc_id, vocabulary)
        table = catalogue.documents(documents, doc_id)
        target = directory / f"{doc_id}-{documents}-{vocabulary}"
        gc.collect()
        base = measuring.resident_mib()
        measuring.forget_peak()
        started = time.perf_counter()
        exported = export(model, table, target)
        seconds = time.perf_counter() - started
        peak = measuring.resident_mib("VmHWM")
    return {
        "ids": doc_id,
        "documents": documents,
        "vocabulary": vocabulary,
        "path": str(exported.path),
        "base_mib": base,
        "mib": peak - base,
        "seconds": seconds,
        "pb_bytes": (exported.path / "saved_model.pb").stat().st_size,
    }


if __name__ == "__main__":
    main()
