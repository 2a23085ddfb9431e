"""Makes the small export that the repository keeps: `saved_models/funnel/1/`.

A pre-ranker of few features is trained on the small preset of `datasets.funnel` and
exported. Everything has a seed, so another run gives the same model up to rounding. Run
it again when an export is laid out in another way, and commit what it writes.

Usage:
    python tools/make_funnel_export.py
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

from tfrs_prerank import Tower, pipeline
from tfrs_prerank.config import Config
from tfrs_prerank.models.config import ModelConfig

OUTPUT = Path(__file__).resolve().parents[1] / "saved_models" / "funnel"

# What fits into a request that a person types, and an export into less than 1 MB.
FEATURES = (
    "interests", "query", "title", "category", "quality", "clicks", "title_match",
    "interest_match",
)  # fmt: skip


def config() -> Config:
    """Returns the configuration of the export."""
    example = Config.example("funnel")
    given = {feature.name: feature for feature in example.schema.features}
    schema = dataclasses.replace(
        example.schema, features=tuple(given[name] for name in FEATURES)
    )
    model = ModelConfig(
        query_tower=Tower(units=(32,), output=16),
        doc_tower=Tower(units=(32,), output=16),
        cross_tower=Tower(units=(8,), dimension=4),
    )
    made: Config = dataclasses.replace(example, schema=schema, model=model)
    return made


def main() -> None:
    """Runs the command."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--output", type=Path, default=OUTPUT)
    output = options.parse_args().output
    made_of = config()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        pipeline.prepare(made_of, data)
        model = pipeline.train(made_of, data, Path(folder) / "model")
        print(pipeline.evaluate(model, made_of, data))
        shutil.rmtree(output / "1", ignore_errors=True)
        exported = pipeline.export(model, made_of, data, output, version=1)
    print(f"{exported.bytes:,} bytes in {exported.path}")


if __name__ == "__main__":
    main()
