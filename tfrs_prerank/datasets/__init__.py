"""Where training data comes from: public data sets and your own logs.

The modules load on first use, so importing this package costs nothing:
`movielens` turns MovieLens ratings into search requests, `logs` reads your own
Parquet or CSV files.
"""

import importlib
from types import ModuleType

__all__ = ["logs", "movielens"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
