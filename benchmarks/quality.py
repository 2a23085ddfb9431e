"""Quality on MovieLens-100K: the demo's model and what it loses without its parts.

Every variant is trained with several seeds on the training requests and measured once
on the test requests, which come later in time; nothing was chosen by them. The
baselines rank the same lists and have no seed.

A run takes about a minute and a half for each variant and seed. Each is one JSON line,
and a run that was interrupted goes on after the last one.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring

from tfrs_prerank import pipeline
from tfrs_prerank.config import Config
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
    "two towers": lambda config: without(config, "co_likes", "decade_match"),
    "history by its mean": with_mean_history,
    "no history": lambda config: without(config, "history"),
}


def main() -> None:
    """Runs the command."""
    parser = measuring.parser(__doc__.split("\n\n")[0], "quality")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--runs",
        type=Path,
        default=measuring.RESULTS / "quality_runs.jsonl",
        help="one line for each variant and seed (default: %(default)s)",
    )
    options = parser.parse_args()
    config = Config.example("movielens")
    variants = dict(list(VARIANTS.items())[:1]) if options.small else VARIANTS
    done = read_runs(options.runs)
    with tempfile.TemporaryDirectory() as folder:
        for name, change in variants.items():
            data = Path(folder) / name.replace(" ", "_")
            for seed in range(options.seeds):
                if any(run["what"] == name and run["seed"] == seed for run in done):
                    continue
                if not data.exists():
                    pipeline.prepare(change(config), data)
                run = measure(name, change(config), data, seed, Path(folder) / "model")
                options.runs.parent.mkdir(parents=True, exist_ok=True)
                with options.runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
                done.append(run)
    used = [run for run in done if run["what"] in variants]
    tables = {"ndcg": ndcg_table(used), "difference": difference_table(used)}
    measuring.report("quality", options, tables)


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Reads the runs that are done."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def measure(
    name: str, config: Config, data: Path, seed: int, directory: Path
) -> dict[str, Any]:
    """Trains one variant with one seed and measures it on the test requests."""
    measuring.note(f"{name}, seed {seed}")
    training = dataclasses.replace(config.training, seed=seed)
    config = dataclasses.replace(config, training=training)
    model = pipeline.train(config, data, directory)
    evaluation = pipeline.evaluate(model, config, data)
    baselines = {}
    for row in (*config.evaluation.baselines, "random"):
        difference = evaluation.difference(TASK, METRIC, row)
        baselines[row] = {
            "value": evaluation.value(TASK, METRIC, row),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
        }
    return {
        "what": name,
        "seed": seed,
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
