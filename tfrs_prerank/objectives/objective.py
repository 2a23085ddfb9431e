"""Objectives as declarations: which loss, on which task, of which stages."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import StrictInt

from tfrs_prerank.declaration import (
    ConfigurationError,
    check_effect,
    declaration,
    nearest,
)
from tfrs_prerank.features.declarations import STAGES, Categorical
from tfrs_prerank.features.schema import Schema

Loss = Literal[
    "sigmoid_cross_entropy",
    "contrastive",
    "pairwise_hinge",
    "ranknet",
    "lambdarank",
    "triplet",
    "softmax_cross_entropy",
    "multi_positive_softmax",
    "hierarchical_softmax",
    "list_mle",
    "distillation",
    "in_batch_softmax",
    "adaptive_mimic",
    "category_alignment",
]
LOSSES: tuple[str, ...] = get_args(Loss)
OPTIONS: dict[str, tuple[str, ...]] = {
    "contrastive": ("margin",),
    "pairwise_hinge": ("margin",),
    "lambdarank": ("k",),
    "triplet": ("margin", "hard_negatives"),
    "softmax_cross_entropy": ("log_q",),
    "multi_positive_softmax": ("log_q",),
    "hierarchical_softmax": ("levels", "log_q"),
    "distillation": ("temperature", "form", "warmup_steps"),
    "in_batch_softmax": ("temperature", "log_q", "hard_negatives"),
    "adaptive_mimic": ("query", "doc"),
    "category_alignment": ("by",),
}
"""Fields of a term that a loss reads beside those that all read."""


READ_VECTORS = (
    "contrastive",
    "in_batch_softmax",
    "adaptive_mimic",
    "category_alignment",
)
"""Losses that read vectors, of scorers that compare them, in the place of logits."""


@declaration
class Term:
    """One term of an objective.

    Attributes:
        task: the task whose logits it trains and, but for distillation and
            hierarchical_softmax, whose labels it reads.
        loss: a loss of `tfrs_prerank.losses`, or `"in_batch_softmax"` (each positive,
            which is a label above 0, against the documents of the batch that are no
            positives of its request). `"distillation"` reads `teacher/<task>` in the
            place of labels, `"contrastive"` the distance of query and document vectors,
            1 - cosine, in the place of logits. `"adaptive_mimic"` and
            `"category_alignment"` are those of DAT (`objectives.dat`); the first takes
            labels above 0 for positives, the second reads the distinct documents of
            the batch, labelled or not.
        weight: its weight in the sum (lambda in equation 19 of the source; alpha of the
            hard and beta of the soft labels in distillation).
        stages: only documents of these stages count, None for all; names as in
            `exposed`, `ranked`, `preranked_out`, `catalog`, `in_batch`. In
            `"in_batch_softmax"` they limit the positives that have a loss.
        temperature: of `"in_batch_softmax"` and `"distillation"`: divides logits. Where
            it makes them as large as 10^6, gradients overflow under `mixed_float16`,
            whose loss scale is never below 1; `mixed_bfloat16` holds them.
        log_q: of the softmax losses: takes the log probability with which a document
            came into the sample from its logit, so that frequent negatives are not
            pushed down for being frequent. For lists it is the batch's `log_q`; for
            `"in_batch_softmax"` a running estimate, `sampling.StreamingFrequency`,
            over the documents of all stages.
        margin: of `"contrastive"`, `"pairwise_hinge"` and `"triplet"`; None for the
            loss's own.
        k: of `"lambdarank"`: the ranks that count; None for all.
        form: of `"distillation"`: `"softmax"` compares a list's documents with each
            other, `"sigmoid"` takes each by itself.
        warmup_steps: of `"distillation"`: steps of training before the term counts, so
            that a ranker that is trained jointly is worth learning from by then. The
            printed loss holds it from the start; steps that loss scaling skips count.
        levels: of `"hierarchical_softmax"`: tasks whose positives are the levels above
            exposure, the lowest first. The term's own task says whose logits are
            trained.
        hard_negatives: of `"in_batch_softmax"` and `"triplet"`: how many negatives a
            positive meets, those that score highest, `log_q` taken off; None for all.
            In the paper of `losses.triplet` no more than two were best.
        query: of `"adaptive_mimic"`: the query's `Categorical` whose embeddings are the
            augmented vectors, of the size of the towers' vectors.
        doc: of `"adaptive_mimic"`: the same of the document.
        by: of `"category_alignment"`: the `Categorical` that is a document's category;
            documents without one take no part.

    >>> from tfrs_prerank import Term
    >>> Term("click", "softmax_cross_entropy", stages=["exposed"]).weight
    1.0
    """

    task: str
    loss: Loss = "sigmoid_cross_entropy"
    weight: float = 1.0
    stages: tuple[str, ...] | None = None
    temperature: float = 1.0
    log_q: bool = False
    margin: float | None = None
    k: int | None = None
    form: Literal["softmax", "sigmoid"] = "softmax"
    warmup_steps: int = 0
    levels: tuple[str, ...] = ()
    hard_negatives: StrictInt | None = None
    query: str | None = None
    doc: str | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        own = OPTIONS.get(self.loss, ())
        every = {name for names in OPTIONS.values() for name in names}
        check_effect(self, "loss", *sorted(every - {*own}))
        for name in ("weight", "temperature", "margin", "k", "hard_negatives"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive. Received: {value}")
        if self.warmup_steps < 0:
            raise ValueError(
                f"warmup_steps must not be negative. Received: {self.warmup_steps}"
            )
        if self.loss == "hierarchical_softmax" and not self.levels:
            raise ValueError(
                "hierarchical_softmax needs levels, the tasks above exposure, the "
                "lowest first. Received: levels=()"
            )
        for name in own:
            if name in ("query", "doc", "by") and getattr(self, name) is None:
                raise ValueError(
                    f"{self.loss} needs {name}, the name of a Categorical. "
                    f"Received: {name}=None"
                )
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels names a task twice. Received: {self.levels}")
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

    With `weighting="uncertainty"` it is L = sum_k weight_k (exp(-s_k) L_k + s_k / 2),
    and every s_k is learned: a term that stays large is divided by a large variance
    exp(s_k), which is logged as `<task>/<loss>/uncertainty` (Kendall et al., 2018,
    equation 10; `objectives.uncertainty`).

    Attributes:
        terms: the terms.
        weighting: `"fixed"`, or `"uncertainty"` for weights that are learned beside the
            given ones.

    >>> from tfrs_prerank import Objective, Term
    >>> Objective([Term("click"), Term("like", weight=2.0)]).terms[1].weight
    2.0
    """

    terms: tuple[Term, ...]
    weighting: Literal["fixed", "uncertainty"] = "fixed"

    @property
    def of_labels(self) -> tuple[Term, ...]:
        """The terms that compare logits with labels, which any model can learn from."""
        others = (*READ_VECTORS, "distillation")
        return tuple(term for term in self.terms if term.loss not in others)

    def of_ranker(self) -> Objective:
        """Returns what a ranker is trained on: the terms that read labels.

        Raises:
            ConfigurationError: there is none.
        """
        if not self.of_labels:
            raise ConfigurationError(
                "objective: a ranker learns from labels, and no term compares logits "
                "with them; add one, such as sigmoid_cross_entropy. Received: "
                + ", ".join(term.loss for term in self.terms)
            )
        return Objective(self.of_labels, self.weighting)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("an objective needs at least one term. Received: terms=()")
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"the term {name} is given {names.count(name)} times; terms of one "
                    "task and loss must differ in their stages"
                )


def make_objective(objective: Objective | str, schema: Schema) -> Objective:
    """Reads an objective and checks it against the schema.

    Args:
        objective: an `Objective`, or a loss's name for one term of weight 1 per task.
        schema: says which tasks there are.

    Returns:
        The objective.

    Raises:
        ConfigurationError: a term names no task or feature of the schema, or a loss is
            unknown.
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
        for task in (term.task, *term.levels):
            if task not in schema.task_names:
                raise ConfigurationError(
                    f"objective: no task {task!r}; {nearest(task, schema.task_names)}"
                )
        for name, owner in ((term.query, "query"), (term.doc, "doc"), (term.by, "doc")):
            known = [
                feature.name
                for feature in schema.served.owned_by(owner)
                if isinstance(feature, Categorical) and feature.max_values == 1
            ]
            if name is not None and name not in known:
                raise ConfigurationError(
                    f"objective: {term.loss} reads a Categorical of one value with "
                    f"owner={owner!r}. Received: {name!r}; {nearest(name, known)}"
                )
    return objective
