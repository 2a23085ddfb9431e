"""The declarations of a model beside its schema, and whether they fit together.

Nothing here needs TensorFlow, so a configuration is checked at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tfrs_prerank.declaration import ConfigurationError, declaration
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.objectives.objective import Objective
from tfrs_prerank.scorers.scorer import Scorer, ScorerKind
from tfrs_prerank.towers.tower import Tower


@declaration
class ModelConfig:
    """The declarations that `PreRanker` takes beside schema and objective.

    Attributes:
        query_tower: see `PreRanker`.
        doc_tower: see `PreRanker`.
        cross_tower: see `PreRanker`.
        scorer: see `PreRanker`.
        distinct_documents: see `PreRanker`.

    Example:
    >>> from tfrs_prerank.models.config import ModelConfig
    >>> ModelConfig(scorer="dot").scorer.kind
    'dot'
    """

    query_tower: Tower = Tower()
    doc_tower: Tower = Tower()
    cross_tower: Tower | None = None
    scorer: Scorer | ScorerKind = Scorer()
    distinct_documents: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.scorer, str):
            object.__setattr__(self, "scorer", Scorer(self.scorer))
        if self.query_tower.output != self.doc_tower.output:
            raise ValueError(
                "query_tower and doc_tower need vectors of one size. Received: "
                f"output={self.query_tower.output} and output={self.doc_tower.output}"
            )

    def check(self, schema: Schema, objective: Objective) -> None:
        """Raises ConfigurationError where the declarations do not fit the others.

        Args:
            schema: the features and tasks.
            objective: what is optimised.
        """
        assert isinstance(self.scorer, Scorer)
        for term in objective.terms:
            compares = term.loss in ("in_batch_softmax", "contrastive")
            if compares and not self.scorer.compares_vectors:
                raise ConfigurationError(
                    f"{term.loss} compares vectors, of the scorers 'dot' and 'cosine' "
                    f"only. Received: scorer={self.scorer.kind!r}"
                )
        cross = schema.owned_by("cross")
        if cross and self.cross_tower is None:
            raise ConfigurationError(
                f"the schema has cross features ({cross[0].name!r}, ...); give a "
                "cross_tower=Tower(...)"
            )
        if self.cross_tower is not None and not cross:
            raise ConfigurationError(
                "a cross_tower is given, but no feature has owner='cross'"
            )
        moving = [f.name for f in schema.owned_by("doc") if f.point_in_time]
        if self.distinct_documents and moving:
            raise ConfigurationError(
                f"distinct_documents=True: {moving[0]!r} is point_in_time, so a "
                "document differs between the requests of a batch"
            )

    def arguments(self) -> dict[str, Any]:
        """Returns the declarations as keyword arguments of `PreRanker`."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
