"""Models of papers, as the declarations that make them."""

from __future__ import annotations

from typing import Any

from tfrs_prerank.features.schema import Schema
from tfrs_prerank.objectives.objective import Objective, Term
from tfrs_prerank.scorers.scorer import Scorer
from tfrs_prerank.towers.tower import Tower


def dat(
    schema: Schema,
    query: str,
    doc: str,
    category: str | None = None,
    units: tuple[int, ...] = (256, 128),
) -> dict[str, Any]:
    """Declares a dual augmented two-tower model (DAT).

    Two towers under a cosine, whose ids have augmented vectors: embeddings that learn
    what the other tower finds for positives (`"adaptive_mimic"`), and whose vectors
    are brought to spread alike in all categories (`"category_alignment"`):

        L = sum over tasks: L_task + (L_u + L_v) / 2 + L_CA

    with the paper's weights. The augmented vectors are fields of the towers, so an
    export is as any other. A cross tower may be added.

    Differs from the paper: the embedding that represents an id in its tower is the
    augmented vector too, where there both stand side by side (give the ids a second
    column for that); the cosine has a scale and a bias, which are learned.

    Args:
        schema: the features and tasks.
        query: the `Categorical` of the query with augmented vectors, such as the user.
        doc: that of the document; of the same `dimension`, which is the size of the
            towers' fields and vectors (32 in the paper).
        category: the `Categorical` that is a document's category; None leaves
            category alignment out.
        units: sizes of the towers' layers.

    Returns:
        Keyword arguments of `PreRanker`: query_tower, doc_tower, scorer, objective.

    Raises:
        ConfigurationError: a feature does not fit; `PreRanker` checks the rest.

    References:
        Yu et al., A Dual Augmented Two-tower Model for Online Large-scale
        Recommendation, DLP-KDD 2021.

    Example:
        >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task
        >>> from tfrs_prerank.models import presets
        >>> schema = Schema(
        ...     features=[
        ...         Categorical("user_id", "query", buckets=100, dimension=32),
        ...         Categorical("movie_id", "doc", buckets=100, dimension=32),
        ...         Categorical("genre", "doc", buckets=9),
        ...     ],
        ...     tasks=[Task("click")],
        ... )
        >>> declared = presets.dat(schema, "user_id", "movie_id", "genre")
        >>> model = PreRanker(schema, **declared)
        >>> [(term.name, term.weight) for term in model.objective.terms][1:]
        [('click/adaptive_mimic', 0.5), ('click/category_alignment', 1.0)]
    """
    size = schema[query].dimension
    tower = Tower(units, dimension=size, output=size)
    terms = []
    for task in schema.task_names:
        terms.append(Term(task))
        terms.append(Term(task, "adaptive_mimic", 0.5, query=query, doc=doc))
        if category is not None:
            terms.append(Term(task, "category_alignment", by=category))
    return {
        "query_tower": tower,
        "doc_tower": tower,
        "scorer": Scorer("cosine"),
        "objective": Objective(tuple(terms)),
    }
