"""The declarations of a model beside its schema, and whether they fit together.

Nothing here needs TensorFlow, so a configuration is checked at once.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from tfrs_prerank.declaration import ConfigurationError, declaration
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.objectives.objective import READ_VECTORS, Objective
from tfrs_prerank.scorers.scorer import Scorer, ScorerKind
from tfrs_prerank.towers.interaction import Interaction
from tfrs_prerank.towers.tower import Tower


@declaration
class RankerConfig:
    """The declaration of a `Ranker`, or of one that a `PreRanker` trains jointly.

    Attributes:
        tower: see `Ranker`.
        attention: see `Ranker`.

    Example:
    >>> from tfrs_prerank.models.config import RankerConfig
    >>> RankerConfig().attention
    'target_attention'
    """

    tower: Tower = Tower((256, 128), interaction=Interaction("dcn_v2"))
    attention: Literal["target_attention", "zero_attention"] = "target_attention"

    def check(self, objective: Objective) -> None:
        """Raises ConfigurationError where an objective is not one of a ranker alone.

        Args:
            objective: what is optimised.
        """
        for term in objective.terms:
            if term.loss in READ_VECTORS:
                raise ConfigurationError(
                    f"{term.loss} compares vectors, and a ranker has none; give it a "
                    "loss of logits"
                )

    def arguments(self) -> dict[str, Any]:
        """Returns the declarations as keyword arguments of `Ranker`."""
        return {"tower": self.tower, "attention": self.attention}


@declaration
class ModelConfig:
    """The declarations that `PreRanker` takes beside schema and objective.

    Attributes:
        query_tower: see `PreRanker`.
        doc_tower: see `PreRanker`.
        cross_tower: see `PreRanker`.
        scorer: see `PreRanker`.
        distinct_documents: see `PreRanker`.
        ranker: see `PreRanker`.

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
    ranker: RankerConfig | None = None

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
            if term.loss in READ_VECTORS and not self.scorer.compares_vectors:
                raise ConfigurationError(
                    f"{term.loss} compares vectors, of the scorers 'dot' and 'cosine' "
                    f"only. Received: scorer={self.scorer.kind!r}"
                )
            for name in (term.query, term.doc):
                size = self.query_tower.output
                if name is not None and schema[name].dimension != size:
                    raise ConfigurationError(
                        f"{term.loss} draws the embeddings of {name!r} to vectors of "
                        f"size {size}; give both one size. Received: "
                        f"dimension={schema[name].dimension}"
                    )
        if self.ranker is not None:
            self.ranker.check(objective.of_ranker())
            if all(term.loss != "distillation" for term in objective.terms):
                raise ConfigurationError(
                    "a ranker is trained jointly, but the pre-ranker does not learn "
                    "from it; add a term of the loss 'distillation', or leave out "
                    "ranker"
                )
        hidden = {*schema.owned_by("cross")}
        schema = schema.served
        cross = schema.owned_by("cross")
        if cross and self.cross_tower is None:
            raise ConfigurationError(
                f"the schema has cross features ({cross[0].name!r}, ...); give a "
                "cross_tower=Tower(...)"
            )
        if self.cross_tower is not None and not cross:
            raise ConfigurationError(
                "a cross_tower is given, but no feature has owner='cross'"
                + (" and is not privileged" if hidden else "")
            )
        moving = [f.name for f in schema.owned_by("doc") if f.point_in_time]
        if self.distinct_documents and moving:
            raise ConfigurationError(
                f"distinct_documents=True: {moving[0]!r} is point_in_time, so a "
                "document differs between the requests of a batch"
            )

    def network_arguments(self) -> dict[str, Any]:
        """Returns the declarations of the pre-ranker's own network."""
        arguments = self.arguments()
        del arguments["ranker"]
        return arguments

    def arguments(self) -> dict[str, Any]:
        """Returns the declarations as keyword arguments of `PreRanker`."""
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
