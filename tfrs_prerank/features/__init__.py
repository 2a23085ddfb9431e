"""What goes into a model: declared features, the schema, and their encoders."""

from tfrs_prerank.features.adapt import adapt as adapt
from tfrs_prerank.features.declarations import Categorical as Categorical
from tfrs_prerank.features.declarations import Dense as Dense
from tfrs_prerank.features.declarations import Match as Match
from tfrs_prerank.features.declarations import Numeric as Numeric
from tfrs_prerank.features.declarations import Sequence as Sequence
from tfrs_prerank.features.declarations import Task as Task
from tfrs_prerank.features.declarations import Text as Text
from tfrs_prerank.features.documents import DocumentTable as DocumentTable
from tfrs_prerank.features.schema import Column as Column
from tfrs_prerank.features.schema import Schema as Schema

__all__ = [
    "Categorical",
    "Column",
    "Dense",
    "DocumentTable",
    "Match",
    "Numeric",
    "Schema",
    "Sequence",
    "Task",
    "Text",
    "adapt",
]
