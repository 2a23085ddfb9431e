"""The wiring of a model as text, from its declarations alone."""

from __future__ import annotations

from typing import Any

from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.config import ModelConfig
from tfrs_prerank.towers.tower import Tower

_SCORES = {
    "dot": "query · doc",
    "cosine": "scale × cos(query, doc)",
    "mlp": "MLP(query, doc, query × doc, |query − doc|{context}, fields)",
    "max_sim": "max-sim(layers of query, doc)",
    "experts": "{experts}(query × doc{context}) ── linear",
}


def draw(schema: Schema, config: ModelConfig) -> str:
    """Draws towers and scorer as text.

    Args:
        schema: the features and tasks.
        config: towers and scorer.

    Returns:
        Lines of text: for each tower its features and the path of its fields, and how
        the towers meet.

    >>> from tfrs_prerank import Categorical, Numeric, Schema, Task, Tower
    >>> from tfrs_prerank.models.config import ModelConfig
    >>> from tfrs_prerank.models.drawing import draw
    >>> schema = Schema(
    ...     [Categorical("user_id", "query", buckets=9), Numeric("age", "query"),
    ...      Categorical("city", "doc", buckets=9)],
    ...     [Task("click")],
    ... )
    >>> query = Tower((64, 32), gate="light_se", interaction="dcn_v2", output=32)
    >>> print(draw(schema, ModelConfig(query, Tower((64,), output=32))))
    query  user_id, age
           2 × 16 ── light_se ─┬─ dcn_v2(depth=2) ─┬── linear ── 32
                               └─ MLP 64-32 relu ──┘
    doc    city
           1 × 16 ── MLP 64 relu ── linear ── 32
    score  scale × cos(query, doc) + bias ── click
    """
    schema = schema.served
    scorer: Any = config.scorer
    tasks = len(schema.tasks)
    lines = []
    for owner in ("query", "doc", "cross"):
        tower: Tower | None = getattr(config, f"{owner}_tower")
        if tower is None:
            continue
        size = f"{tower.output}"
        if tasks > 1 and not scorer.shares_vectors:
            size = f"{tasks} × {size}"
        if owner == "cross":
            size = f"{tower.output}" if scorer.cross == "concat" else f"{tasks}"
        features = schema.owned_by(owner)
        lines.append(f"{owner:<7}{', '.join(feature.name for feature in features)}")
        lines += [" " * 7 + line for line in _path(tower, len(features), size)]
    context = ", cross" if config.cross_tower is not None else ""
    score = _SCORES[scorer.kind].format(
        context=context if scorer.cross == "concat" else "",
        experts="" if scorer.experts is None else _with_options(scorer.experts),
    )
    if config.cross_tower is not None and scorer.cross == "add":
        score += " + cross"
    lines.append(f"score  {score} + bias ── {', '.join(schema.task_names)}")
    return "\n".join(lines)


def _path(tower: Tower, count: int, size: str) -> list[str]:
    start = f"{count} × {tower.dimension}"
    gate: Any = tower.gate
    interaction: Any = tower.interaction
    experts: Any = tower.experts
    if gate is not None:
        start += f" ── {_with_options(gate)}"
    end = f"── linear ── {size}"
    if experts is not None:
        end = f"── {_with_options(experts)} {end}"
    parts = []
    if interaction is not None:
        parts.append(_with_options(interaction))
    if tower.units:
        parts.append(f"MLP {'-'.join(map(str, tower.units))} {tower.activation}")
    if len(parts) < 2 or tower.combine == "stacked":
        return [" ── ".join([start, *parts]) + f" {end}"]
    width = max(map(len, parts))
    upper, lower = (f"{part} {'─' * (width - len(part))}" for part in parts)
    return [f"{start} ─┬─ {upper}─┬{end}", f"{' ' * len(start)}  └─ {lower}─┘"]


def _with_options(part: Any) -> str:
    """Writes a gate, an interaction or experts with the options that are set."""
    options = {n: v for n, v in part.options().items() if v is not None}
    defaults = type(part)(part.kind).options()
    # What says how large it is, always.
    first = ("depth", "units", "count", "shared", "own", "levels")
    shown = [
        f"{name}={value}"
        for name, value in options.items()
        if value != defaults[name] or name in first
    ]
    return f"{part.kind}({', '.join(shown)})" if shown else part.kind
