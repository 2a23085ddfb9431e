"""The embedding tables of a model, each once, and who reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrs_prerank.features.lookups import HashLookup, read_values
from tfrs_prerank.features.tables import EmbeddingTable

if TYPE_CHECKING:
    from tfrs_prerank.features.schema import Schema
    from tfrs_prerank.models.request_model import RequestModel


def embedding_tables(model: RequestModel) -> dict[str, EmbeddingTable]:
    """Returns the embedding tables of a model, those of a joint ranker too.

    Args:
        model: the model.

    Returns:
        Each table once, by the name of the feature that owns it, in the order of the
        schema.
    """
    found = {
        part.feature.name: part
        for part in model.submodules
        if isinstance(part, EmbeddingTable)
    }
    names = [feature.name for feature in model.schema.features]
    return {name: found[name] for name in names if name in found}


def readers_of(schema: Schema, owner: str) -> tuple[str, ...]:
    """Returns the features that read a table, the one that owns it first.

    Args:
        schema: the declarations.
        owner: the name of the feature that owns the table.
    """
    sharing = (f.name for f in schema.features if getattr(f, "shares", None) == owner)
    return (owner, *sharing)


def values_of(table: EmbeddingTable) -> list[Any] | None:
    """Returns the values that have a row of their own; that of the first is row 1.

    Args:
        table: the table.

    Returns:
        The lines of its vocabulary, None for buckets.
    """
    if table.lookup is None or isinstance(table.lookup, HashLookup):
        return None
    feature, dtype = table.feature, table.lookup.dtype.name
    return read_values(Path(feature.vocabulary), feature.name, dtype)
