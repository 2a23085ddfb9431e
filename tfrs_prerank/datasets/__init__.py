"""Where training data comes from: public data sets and your own logs.

Everything loads on first use, so importing this package costs nothing: `movielens`
turns MovieLens ratings into search requests, `funnel` simulates a cascade whose truth
is known, `logs` reads your own Parquet or CSV files, `write` and `read` keep requests
as TFRecord files, and `prepare` makes a folder of all that training needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = ("funnel", "logs", "movielens")
_MODULE_OF = {
    "prepare": "prepared",
    "read": "requests",
    "read_documents": "documents_file",
    "write": "requests",
    "write_documents": "documents_file",
}

__all__ = [
    "funnel",
    "logs",
    "movielens",
    "prepare",
    "read",
    "read_documents",
    "write",
    "write_documents",
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
    from tfrs_prerank.datasets.documents_file import read_documents as read_documents
    from tfrs_prerank.datasets.documents_file import write_documents as write_documents
    from tfrs_prerank.datasets.prepared import prepare as prepare
    from tfrs_prerank.datasets.requests import read as read
    from tfrs_prerank.datasets.requests import write as write
