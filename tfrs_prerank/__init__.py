"""Pre-ranking for search, on Keras and TensorFlow Recommenders.

Declare features, train a two- or three-tower model from cascade logs, evaluate it
with the metrics of the stage, and export one SavedModel that TF Serving runs.

Importing this package makes ``tf.keras`` Keras 2 (see ``_guard.py``), so import it
before anything that uses Keras. It does not import TensorFlow: every public name is
loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_prerank import _guard

_guard.check()

__version__ = "0.1.0"

_MODULE_OF = {
    "Categorical": "tfrs_prerank.features",
    "Dense": "tfrs_prerank.features",
    "LazyAdam": "tfrs_prerank.optimizers",
    "Match": "tfrs_prerank.features",
    "Numeric": "tfrs_prerank.features",
    "Objective": "tfrs_prerank.objectives",
    "PreRanker": "tfrs_prerank.models",
    "Ranker": "tfrs_prerank.models",
    "Schema": "tfrs_prerank.features",
    "Sequence": "tfrs_prerank.features",
    "Task": "tfrs_prerank.features",
    "Term": "tfrs_prerank.objectives",
    "Text": "tfrs_prerank.features",
    "Tower": "tfrs_prerank.towers",
    "export": "tfrs_prerank.serving",
    "refresh_documents": "tfrs_prerank.serving",
}

_SUBPACKAGES = (
    "datasets",
    "evaluation",
    "features",
    "layers",
    "losses",
    "metrics",
    "models",
    "objectives",
    "sampling",
    "scorers",
    "serving",
    "towers",
)

__all__ = [
    "Categorical",
    "Dense",
    "LazyAdam",
    "Match",
    "Numeric",
    "Objective",
    "PreRanker",
    "Ranker",
    "Schema",
    "Sequence",
    "Task",
    "Term",
    "Text",
    "Tower",
    "__version__",
    "export",
    "refresh_documents",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    special = (name for name in globals() if name.startswith("__"))
    return sorted({*special, *__all__, *_SUBPACKAGES})


if TYPE_CHECKING:
    from tfrs_prerank.features import Categorical as Categorical
    from tfrs_prerank.features import Dense as Dense
    from tfrs_prerank.features import Match as Match
    from tfrs_prerank.features import Numeric as Numeric
    from tfrs_prerank.features import Schema as Schema
    from tfrs_prerank.features import Sequence as Sequence
    from tfrs_prerank.features import Task as Task
    from tfrs_prerank.features import Text as Text
    from tfrs_prerank.models import PreRanker as PreRanker
    from tfrs_prerank.models import Ranker as Ranker
    from tfrs_prerank.objectives import Objective as Objective
    from tfrs_prerank.objectives import Term as Term
    from tfrs_prerank.optimizers import LazyAdam as LazyAdam
    from tfrs_prerank.serving import export as export
    from tfrs_prerank.serving import refresh_documents as refresh_documents
    from tfrs_prerank.towers import Tower as Tower
