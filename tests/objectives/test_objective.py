"""Declarations of terms and objectives."""

from __future__ import annotations

import pytest

from tfrs_prerank.declaration import ConfigurationError, from_mapping, to_mapping
from tfrs_prerank.features import Categorical, Schema, Task
from tfrs_prerank.objectives import Objective, Term
from tfrs_prerank.objectives.objective import LOSSES, make_objective

SCHEMA = Schema(
    [Categorical("user_id", "query", buckets=3), Categorical("city", "doc", buckets=3)],
    [Task("click"), Task("like")],
)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda: Term("click", weight=0.0),
            "Term: weight must be positive. Received: 0.0",
        ),
        (
            lambda: Term("click", weight=float("nan")),
            "Term.weight: input should be a finite number. Received: nan",
        ),
        (
            lambda: Term("click", "in_batch_softmax", temperature=-1),
            "Term: temperature must be positive. Received: -1.0",
        ),
        (
            lambda: Term("click", log_q=True),
            "Term: log_q does nothing with loss='sigmoid_cross_entropy'; leave it out. "
            "Received: log_q=True",
        ),
        (
            lambda: Term("click", temperature=0.5),
            "Term: temperature does nothing with loss='sigmoid_cross_entropy'; "
            "leave it out. Received: temperature=0.5",
        ),
        (
            lambda: Term("click", "pairwise_hinge", margin=0),
            "Term: margin must be positive. Received: 0.0",
        ),
        (
            lambda: Term("click", "lambdarank", k=-1),
            "Term: k must be positive. Received: -1",
        ),
        (
            lambda: Term("click", "in_batch_softmax", hard_negatives=0),
            "Term: hard_negatives must be positive. Received: 0",
        ),
        (
            lambda: Term("click", "in_batch_softmax", hard_negatives=True),
            "Term.hard_negatives: input should be a valid integer. Received: True",
        ),
        (
            lambda: Term("click", "lambdarank", hard_negatives=2),
            "Term: hard_negatives does nothing with loss='lambdarank'; leave it out. "
            "Received: hard_negatives=2",
        ),
        (
            lambda: Term("click", "hierarchical_softmax"),
            "Term: hierarchical_softmax needs levels, the tasks above exposure, the "
            "lowest first. Received: levels=()",
        ),
        (
            lambda: Term("a", "hierarchical_softmax", levels=["a", "a"]),
            "Term: levels names a task twice. Received: ('a', 'a')",
        ),
        (
            lambda: Term("click", stages=["exposed", "rankd"]),
            "Term: unknown stage. Received: 'rankd'; did you mean 'ranked'?",
        ),
        (
            lambda: Term("click", stages=[]),
            "Term: stages must name at least one stage, or be None for all. "
            "Received: ()",
        ),
        (
            lambda: Term("click", "sigmoid"),
            "Term.loss: unknown 'sigmoid'; known: adaptive_mimic, category_alignment, "
            "contrastive, distillation, hierarchical_softmax, in_batch_softmax, "
            "lambdarank, list_mle, multi_positive_softmax, pairwise_hinge, ranknet, "
            "sigmoid_cross_entropy, softmax_cross_entropy, triplet",
        ),
        (
            lambda: Objective([]),
            "Objective: an objective needs at least one term. Received: terms=()",
        ),
        (
            lambda: Objective([Term("click"), Term("click", weight=2)]),
            "Objective: the term click/sigmoid_cross_entropy is given 2 times; terms "
            "of one task and loss must differ in their stages",
        ),
        (
            lambda: Objective(
                [
                    Term("click", stages=["ranked", "exposed"]),
                    Term("click", stages=["exposed", "ranked", "ranked"]),
                ]
            ),
            "Objective: the term click/sigmoid_cross_entropy/exposed+ranked is given "
            "2 times; terms of one task and loss must differ in their stages",
        ),
        (
            lambda: make_objective("sigmoid_crossentropy", SCHEMA),
            "objective: unknown loss 'sigmoid_crossentropy'; "
            "did you mean 'sigmoid_cross_entropy'?",
        ),
        (
            lambda: make_objective(Objective([Term("clik")]), SCHEMA),
            "objective: no task 'clik'; did you mean 'click'?",
        ),
    ],
)
def test_errors_name_value_and_fix(call, expected):
    with pytest.raises(ConfigurationError) as error:
        call()
    assert str(error.value) == expected


# Some must be told what they read.
TOLD = {"hierarchical_softmax", "adaptive_mimic", "category_alignment"}


@pytest.mark.parametrize("loss", sorted({*LOSSES} - TOLD))
def test_a_bare_loss_is_one_term_of_weight_1_per_task(loss):
    objective = make_objective(loss, SCHEMA)
    assert objective == Objective([Term("click", loss), Term("like", loss)])
    assert [term.name for term in objective.terms] == [f"click/{loss}", f"like/{loss}"]
    assert {term.weight for term in objective.terms} == {1.0}


def test_a_given_objective_is_kept():
    # The same task with two losses is two terms.
    objective = Objective([Term("like"), Term("like", "softmax_cross_entropy", 0.5)])
    assert make_objective(objective, SCHEMA) is objective


def test_terms_of_one_loss_on_other_stages_are_told_apart():
    objective = Objective(
        [
            Term("click"),
            Term("click", stages=["ranked", "exposed"]),
            Term("click", stages=["catalog"], weight=0.1),
        ]
    )
    assert [term.name for term in objective.terms] == [
        "click/sigmoid_cross_entropy",
        "click/sigmoid_cross_entropy/exposed+ranked",
        "click/sigmoid_cross_entropy/catalog",
    ]


def test_round_trip():
    objective = Objective(
        [
            Term("click", weight=0.5, stages=["exposed", "catalog"]),
            Term("like", "in_batch_softmax", temperature=0.1),
        ]
    )
    mapping = to_mapping(objective)
    assert mapping == {
        "terms": [
            {"task": "click", "weight": 0.5, "stages": ["exposed", "catalog"]},
            {"task": "like", "loss": "in_batch_softmax", "temperature": 0.1},
        ]
    }
    assert from_mapping(Objective, mapping, "objective") == objective
