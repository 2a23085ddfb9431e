"""Where training data comes from: public data sets and your own logs.

Everything loads on first use, so importing this package costs nothing: `movielens`
turns MovieLens ratings into search requests, `funnel` simulates a cascade whose truth
is known, `logs` reads your own Parquet or CSV files, `write` and `read` keep requests
as TFRecord files, and `prepare` makes a folder of all that training needs.

Offline work on what goes in: `counters` and `histories` as of each event, `embed_texts`
and `reduce_vectors` for `Dense` features, `cold_start_vectors` for new users.
"""

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = ("funnel", "logs", "movielens")
_MODULE_OF = {
    "Projection": "projection",
    "VectorTable": "vectors",
    "cold_start_vectors": "cold_start",
    "counters": "event_counters",
    "counters_at": "event_counters",
    "embed_texts": "text_vectors",
    "histories": "event_histories",
    "prepare": "prepared",
    "read": "requests",
    "read_documents": "documents_file",
    "read_vectors": "vectors",
    "reduce_vectors": "projection",
    "write": "requests",
    "write_documents": "documents_file",
    "write_vectors": "vectors",
}

__all__ = [
    "Projection",
    "VectorTable",
    "cold_start_vectors",
    "counters",
    "counters_at",
    "embed_texts",
    "funnel",
    "histories",
    "logs",
    "movielens",
    "prepare",
    "read",
    "read_documents",
    "read_vectors",
    "reduce_vectors",
    "write",
    "write_documents",
    "write_vectors",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULE_OF:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:
    from tfrs_prerank.datasets.cold_start import (
        cold_start_vectors as cold_start_vectors,
    )
    from tfrs_prerank.datasets.documents_file import read_documents as read_documents
    from tfrs_prerank.datasets.documents_file import write_documents as write_documents
    from tfrs_prerank.datasets.event_counters import counters as counters
    from tfrs_prerank.datasets.event_counters import counters_at as counters_at
    from tfrs_prerank.datasets.event_histories import histories as histories
    from tfrs_prerank.datasets.prepared import prepare as prepare
    from tfrs_prerank.datasets.projection import Projection as Projection
    from tfrs_prerank.datasets.projection import reduce_vectors as reduce_vectors
    from tfrs_prerank.datasets.requests import read as read
    from tfrs_prerank.datasets.requests import write as write
    from tfrs_prerank.datasets.text_vectors import embed_texts as embed_texts
    from tfrs_prerank.datasets.vectors import VectorTable as VectorTable
    from tfrs_prerank.datasets.vectors import read_vectors as read_vectors
    from tfrs_prerank.datasets.vectors import write_vectors as write_vectors
