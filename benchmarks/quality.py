"""Quality on MovieLens-100K: the demo's model and what it loses without its parts.

Every variant is trained with several seeds on the training requests and measured once
on the test requests, which come later in time; nothing was chosen by them. The
baselines rank the same lists and have no seed. One of them, the hint, multiplies the
co-likes by what the query says of the liked movie without any training: how much of the
model's margin is in the way the queries were made.

A run takes about a minute for each variant and seed. Each is one JSON line, with a
digest of its configuration and of the package's code; what was interrupted goes on
after the last one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kept_runs
import measuring

import tfrs_prerank
from tfrs_prerank import pipeline
from tfrs_prerank.config import Config, make_metrics
from tfrs_prerank.datasets import movielens
from tfrs_prerank.declaration import to_mapping
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.features import Schema

TASK, METRIC = "like", "ndcg@10"


def without(config: Config, *names: str) -> Config:
    """Returns a configuration without some features, and without an idle tower."""
    features = [f for f in config.schema.features if f.name not in names]
    schema: Schema = dataclasses.replace(config.schema, features=tuple(features))
    model = config.model
    if not schema.owned_by("cross"):
        model = dataclasses.replace(model, cross_tower=None)
    evaluation = dataclasses.replace(
        config.evaluation,
        baselines={
            name: column
            for name, column in config.evaluation.baselines.items()
            if column not in names
        },
    )
    changed: Config = dataclasses.replace(
        config, schema=schema, model=model, evaluation=evaluation
    )
    return changed


def with_mean_history(config: Config) -> Config:
    """Returns a configuration that averages the history instead of attending to it."""
    features = [
        dataclasses.replace(f, encoder="mean") if f.name == "history" else f
        for f in config.schema.features
    ]
    schema = dataclasses.replace(config.schema, features=tuple(features))
    changed: Config = dataclasses.replace(config, schema=schema)
    return changed


VARIANTS: dict[str, Callable[[Config], Config]] = {
    "three towers (the demo)": lambda config: config,
    "two towers": lambda config: without(
        config, "co_likes", "decade_match", "genre_match"
    ),
    "history by its mean": with_mean_history,
}


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "quality")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args()
    config = Config.example("movielens")
    variants = dict(list(VARIANTS.items())[: 1 if options.small else None])
    seeds = range(1 if options.small else options.seeds)
    kept = options.results.with_name(f"{options.results.stem}_runs.jsonl")
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for name, change in variants.items():
            variant = change(config)
            data = Path(folder) / name.replace(" ", "_")
            for seed in seeds:
                make = functools.partial(measure, name, variant, data, seed)
                code = digest(variant)
                runs.append(kept_runs.find_or_make(kept, name, seed, code, make))
    tables = {"ndcg": ndcg_table(runs), "difference": difference_table(runs)}
    measuring.report("quality", options, tables)


def digest(config: Config) -> str:
    """Returns a digest of a configuration and of the package's code."""
    made = hashlib.sha256(json.dumps(to_mapping(config)).encode())
    folder = Path(tfrs_prerank.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        made.update(file.read_bytes())
    return made.hexdigest()[:16]


def measure(name: str, config: Config, data: Path, seed: int) -> dict[str, Any]:
    """Trains one variant with one seed and measures it on the test requests.

    Args:
        name: the variant.
        config: its configuration.
        data: the folder of its prepared data; they are made if it is not there.
        seed: of the training.
    """
    if not data.exists():
        pipeline.prepare(config, data)
    measuring.note(f"{name}, seed {seed}")
    training = dataclasses.replace(config.training, seed=seed)
    seeded = dataclasses.replace(config, training=training)
    model = pipeline.train(seeded, data, data.with_name("model"))
    rankings: dict[str, Any] = {"model": model, **config.evaluation.baselines}
    if config.evaluation.baselines.keys() >= {"item-item co-likes"}:
        rankings["item-item co-likes and the query's hint"] = movielens.query_hint
    evaluation = evaluate(
        {**rankings, "random": "random"},
        pipeline.open_requests(data, "test", config.evaluation.batch_size),
        metrics=make_metrics((METRIC,)),
        tasks=TASK,
    )
    baselines = {}
    for row in (*list(rankings)[1:], "random"):
        difference = evaluation.difference(TASK, METRIC, row)
        baselines[row] = {
            "value": evaluation.value(TASK, METRIC, row),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
        }
    return {
        "value": evaluation.value(TASK, METRIC, "model"),
        "baselines": baselines,
    }


def ndcg_table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns mean and deviation over the seeds of every variant and baseline."""
    rows = []
    for name in dict.fromkeys(run["what"] for run in runs):
        values = [run["value"] for run in runs if run["what"] == name]
        rows.append(
            {
                "ranking": name,
                "NDCG@10 of likes": round(statistics.fmean(values), 4),
                "deviation": round(statistics.stdev(values), 4)
                if len(values) > 1
                else "one seed",
                "seeds": len(values),
            }
        )
    for name, baseline in runs[0]["baselines"].items():
        value = round(baseline["value"], 4)
        rows.append(
            {
                "ranking": name,
                "NDCG@10 of likes": value,
                "deviation": "none",
                "seeds": "none",
            }
        )
    return rows


def difference_table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the first variant's difference from the baselines, seed by seed."""
    first = runs[0]["what"]
    return [
        {
            "seed": run["seed"],
            "beside": name,
            "difference": round(baseline["difference"], 4),
            "95% interval": f"{baseline['low']:.4f} to {baseline['high']:.4f}",
        }
        for run in runs
        if run["what"] == first
        for name, baseline in run["baselines"].items()
    ]


if __name__ == "__main__":
    main()
