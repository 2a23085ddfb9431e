"""The wiring as text."""

from __future__ import annotations

from tfrs_prerank import Categorical, Numeric, PreRanker, Schema, Task, Tower
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.towers import Interaction


def test_every_part_of_a_model_is_drawn() -> None:
    schema = Schema(
        [
            Categorical("user_id", "query", buckets=9),
            Numeric("age", "query"),
            Categorical("city", "doc", buckets=9),
            Numeric("price", "doc"),
            Numeric("clicks", "cross"),
            Numeric("shown", "doc", training_only=True),
        ],
        [Task("click"), Task("like")],
    )
    model = PreRanker(
        schema,
        Tower(
            (8, 4),
            gate="attention",
            interaction=Interaction("dcn_v2", depth=3, rank=2),
            combine="stacked",
            dimension=6,
            output=5,
        ),
        Tower((), interaction="dcn_v1", output=5),
        Tower((3,), activation="tanh", output=2),
        scorer=Scorer("mlp", units=4),
    )
    drawn = model.draw()
    assert drawn == (
        "query  user_id, age\n"
        "       2 × 6 ── attention ── dcn_v2(depth=3, rank=2) ── MLP 8-4 relu ── "
        "linear ── 2 × 5\n"
        "doc    city, price\n"
        "       2 × 16 ── dcn_v1(depth=2) ── linear ── 2 × 5\n"
        "cross  clicks\n"
        "       1 × 16 ── MLP 3 tanh ── linear ── 2\n"
        "score  MLP(query, doc, query × doc, |query − doc|, cross, fields) + bias ── "
        "click, like"
    )


def test_parallel_branches_meet_in_one_column() -> None:
    schema = Schema(
        [
            Categorical("u", "query", buckets=9),
            Numeric("age", "query"),
            Categorical("d", "doc", buckets=9),
        ],
        [Task("click")],
    )
    tower = Tower((64, 32), gate="light_se", interaction="dcn_v2", output=8)
    upper, lower = PreRanker(schema, tower, Tower(output=8)).draw().split("\n")[1:3]
    assert upper.index("┬") == lower.index("└")
    assert upper.rindex("┬") == lower.rindex("┘")
