"""Objectives as declarations: which loss, on which task, of which stages."""

from __future__ import annotations

from typing import Literal, get_args

from tfrs_prerank.declaration import ConfigurationError, declaration, nearest
from tfrs_prerank.features.declarations import STAGES
from tfrs_prerank.features.schema import Schema

Loss = Literal["sigmoid_cross_entropy", "softmax_cross_entropy", "in_batch_softmax"]
LOSSES: tuple[str, ...] = get_args(Loss)


@declaration
class Term:
    """One term of an objective.

    Attributes:
        task: the task whose labels it reads.
        loss: `"sigmoid_cross_entropy"` (each document), `"softmax_cross_entropy"` (each
            list) or `"in_batch_softmax"` (each positive, which is a label above 0,
            against the documents of the batch that are no positives of its request).
        weight: its weight in the sum (lambda in equation 19 of the source).
        stages: only documents of these stages count, None for all; names as in
            `exposed`, `ranked`, `preranked_out`, `catalog`, `in_batch`. In
            `"in_batch_softmax"` they limit the positives that have a loss.
        temperature: divides the logits of `"in_batch_softmax"`.

    >>> from tfrs_prerank import Term
    >>> Term("click", "softmax_cross_entropy", stages=["exposed"]).weight
    1.0
    """

    task: str
    loss: Loss = "sigmoid_cross_entropy"
    weight: float = 1.0
    stages: tuple[str, ...] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight must be positive. Received: {self.weight}")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature must be positive. Received: {self.temperature}"
            )
        if self.temperature != 1 and self.loss != "in_batch_softmax":
            raise ValueError(
                f"temperature belongs to in_batch_softmax. Received: loss={self.loss!r}"
            )
        if self.stages == ():
            raise ValueError(
                "stages must name at least one stage, or be None for all. Received: ()"
            )
        for stage in self.stages or ():
            if stage not in STAGES:
                raise ValueError(
                    f"unknown stage. Received: {stage!r}; {nearest(stage, STAGES)}"
                )

    @property
    def name(self) -> str:
        """What the term is called in logs: `<task>/<loss>`, then its stages if any."""
        name = f"{self.task}/{self.loss}"
        if self.stages is None:
            return name
        return f"{name}/{'+'.join(stage for stage in STAGES if stage in self.stages)}"


@declaration
class Objective:
    """The weighted sum of terms that training minimises.

    L = sum_k weight_k L_k (equation 19 of the source). Each term is a mean over its own
    documents or lists, over all replicas, so its share does not change with the batch
    size; each is logged on its own as `<task>/<loss>`, or `<task>/<loss>/<stage>+...`
    where it has stages.

    Attributes:
        terms: the terms.

    >>> from tfrs_prerank import Objective, Term
    >>> Objective([Term("click"), Term("like", weight=2.0)]).terms[1].weight
    2.0
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an objective needs at least one term. Received: terms=()")
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the term {name} is given {names.count(name)} times")


def make_objective(objective: Objective | str, schema: Schema) -> Objective:
    """Reads an objective and checks it against the schema.

    Args:
        objective: an `Objective`, or a loss's name for one term of weight 1 per task.
        schema: says which tasks there are.

    Returns:
        The objective.

    Raises:
        ConfigurationError: a term names no task of the schema, or a loss is unknown.
    """
    if isinstance(objective, str):
        if objective not in LOSSES:
            raise ConfigurationError(
                f"objective: unknown loss {objective!r}; {nearest(objective, LOSSES)}"
            )
        objective = Objective(
            tuple(Term(task, objective) for task in schema.task_names)  # type: ignore[arg-type]
        )
    for term in objective.terms:
        if term.task not in schema.task_names:
            raise ConfigurationError(
                f"objective: no task {term.task!r}; "
                f"{nearest(term.task, schema.task_names)}"
            )
    return objective
