"""What a pre-ranker learns from a ranker on the simulated funnel.

The pre-ranker is two towers. The ranker is one tower over pairs: it crosses all fields
with each other, attends to the histories with the document, and reads two privileged
features, the matches of query and title and of interests and category. Distilled, the
same two towers also learn from the ranker's logits of their training lists, or from a
ranker that is trained jointly, on the same embeddings; nothing else differs.

The truth is known: HR@100,10 says how many of the ten truly best candidates are among
the 100 that are passed on. It is read for measuring only. The imitation is the same
with the ranker's ten best. All models read the training lists of `funnel.py` in its
order, for three epochs; a ranker that is trained alone for two, after which it learns
the clicks of its lists by heart. The counters of pairs are left out: they tell what was
shown, and with them every model finds fewer of the truly best.

Every seed has a world of its own, as in `funnel.py`. The schedule, temperature and
weights were chosen on the validation requests of the first; nothing was chosen by the
test requests, which are the last tenth.

A run is one JSON line, with a digest of its setting and of the code it depends on; what
was interrupted goes on after the last one.
"""

from __future__ import annotations

import dataclasses
import importlib
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import funnel
import kept_runs
import measuring

from tfrs_prerank import (  # first of all, so that tf.keras is Keras 2
    LazyAdam,
    Objective,
    PreRanker,
    Ranker,
    Term,
    Tower,
)

# isort: split
import tensorflow as tf

from tfrs_prerank import metrics, pipeline
from tfrs_prerank.config import Config
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.datasets.requests import RequestReader, read
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.models import RankerConfig
from tfrs_prerank.towers import Interaction

RANKER, PLAIN = "ranker", "two towers"
DISTILLED, JOINT = "two towers, distilled", "two towers, distilled jointly"
PRIVILEGED = ("title_match", "interest_match")
EPOCHS, OF_RANKER_ALONE, RATE, BATCH = 3, 2, 0.003, 64
HARD = Term("click", "softmax_cross_entropy", log_q=True)
# The ranker has learned clicks of the training lists by heart: at temperature 1 its
# logits repeat them.
SOFT = Term("click", "distillation", temperature=2.0)
BOTH = Objective((dataclasses.replace(HARD, weight=0.2), SOFT))
WAITS = dataclasses.replace(SOFT, warmup_steps=125)
BOTH_JOINTLY = Objective((BOTH.terms[0], WAITS))
OF_RANKER = RankerConfig(
    Tower((128, 64), interaction=Interaction("dcn_v2", rank=64)), "zero_attention"
)
OUTCOME, IMITATION = "outcome", "imitation"
MEASURED = (OUTCOME, IMITATION, "gauc", "in_scene_hit_rate")
CODE = (*funnel.CODE, "tfrs_prerank.models.ranker", "tfrs_prerank.losses._distillation")


def configured(setting: funnel.Setting, seed: int) -> Config:
    """Returns the configuration of all models of one seed."""
    config = funnel.configured(setting, seed)
    features = tuple(
        dataclasses.replace(f, privileged=True) if f.name in PRIVILEGED else f
        for f in config.schema.features
        if f.owner != "cross" or f.name in PRIVILEGED
    )
    changed: Config = dataclasses.replace(
        config,
        schema=dataclasses.replace(config.schema, features=features),
        model=dataclasses.replace(config.model, cross_tower=None),
    )
    return changed


def trained(
    make: Callable[[], Any],
    requests: RequestReader,
    seed: int,
    name: str,
    teach: Callable[[Any], Any] | None = None,
    *,
    epochs: int,
) -> Any:
    """Trains a model, its learning rate falling in equal steps.

    Args:
        make: makes the model.
        requests: training lists of an epoch.
        seed: of the weights.
        name: what notes call it.
        teach: adds a teacher's logits to a batch.
        epochs: how many there are.
    """
    tf.keras.utils.set_random_seed(seed)
    model = make()
    model.compile(LazyAdam(RATE))
    data: Any = requests
    if teach is not None:
        data = lambda epoch: requests(epoch).map(teach)  # noqa: E731
    for epoch in range(epochs):
        model.optimizer.learning_rate = RATE * (1 - epoch / epochs)
        history = model.fit(data, verbose=0)  # the model counts the epochs
        loss = history.history["loss"][-1]
        measuring.note(f"seed {seed}, {name}, epoch {epoch + 1}: loss {loss:.4f}")
    return model


def run_of(
    setting: funnel.Setting, seed: int, data: Path, epochs: int
) -> dict[str, Any]:
    """Trains all models of a world and measures them on the test requests."""
    config = configured(setting, seed)
    schema = pipeline.fitted_schema(config.schema, data)
    requests = read(
        data,
        "train",
        seed=seed,
        schema=schema,
        documents=read_documents(data / "documents.parquet"),
        batch_size=BATCH,
    )

    def two_towers(objective: Objective, ranker: RankerConfig | None = None) -> Any:
        parts = config.model.arguments() | {"ranker": ranker}
        return lambda: PreRanker(schema, objective=objective, **parts)

    alone = Objective((HARD,))
    options: dict[str, Any] = {"requests": requests, "seed": seed}
    ranker = trained(
        lambda: Ranker(schema, objective=alone, **OF_RANKER.arguments()),
        name=RANKER,
        epochs=min(epochs, OF_RANKER_ALONE),
        **options,
    )
    options["epochs"] = epochs
    models = {
        RANKER: ranker,
        PLAIN: trained(two_towers(alone), name=PLAIN, **options),
        DISTILLED: trained(
            two_towers(BOTH), name=DISTILLED, teach=ranker.teach, **options
        ),
        JOINT: trained(two_towers(BOTH_JOINTLY, OF_RANKER), name=JOINT, **options),
    }
    return measured(models, ranker, data, setting)


def measured(
    models: dict[str, Any], ranker: Ranker, data: Path, setting: funnel.Setting
) -> dict[str, Any]:
    """Measures models against the truth and against the ranker."""
    rankings = {**models, "clicks so far": "clicks", "random": "random"}
    hit_rate = metrics.RankerHitRate(setting.k, setting.m, name=OUTCOME)
    in_scene = metrics.InSceneHitRate(setting.k, name="in_scene_hit_rate")
    requests = pipeline.open_requests(data, "test", BATCH)
    values: dict[str, Any] = {name: {} for name in rankings}
    truth = evaluate(
        rankings, requests, metrics=[hit_rate, in_scene, metrics.GAUC()], tasks="click"
    )
    taught = evaluate(
        rankings,
        requests(0).map(ranker.teach),
        metrics=[metrics.RankerHitRate(setting.k, setting.m, name=IMITATION)],
        tasks="click",
        samples=1,
    )
    for record in (*truth.records, *taught.records):
        values[record.row][record.metric] = record.value
    return {"values": values}


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "distillation")
    options.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    given = options.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    setting = funnel.SMALL if given.small else funnel.FULL
    epochs = 1 if given.small else EPOCHS
    kept = given.results.with_name(f"{given.results.stem}_runs.jsonl")
    code, runs = digest(setting), []
    for seed in given.seeds:

        def run(seed: int = seed) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "data"
                measuring.note(f"seed {seed}: simulating and preparing")
                pipeline.prepare(configured(setting, seed), data)
                return run_of(setting, seed, data, epochs)

        runs.append(kept_runs.find_or_make(kept, "distillation", seed, code, run))
    rows = table(runs)
    tables = {"distillation": rows, "targets": targets(runs)}
    measuring.report("distillation", given, tables)


def digest(setting: funnel.Setting) -> str:
    """Returns a digest of all that a run rests on, its seed left out."""
    for name in CODE:  # the package loads its parts as they are needed
        importlib.import_module(name)
    told = (
        setting,
        OF_RANKER,
        HARD,
        BOTH,
        BOTH_JOINTLY,
        EPOCHS,
        OF_RANKER_ALONE,
        RATE,
        BATCH,
    )
    return kept_runs.digest(
        (told, configured(setting, 0)),
        {funnel.__name__, *kept_runs.modules(CODE)},
    )


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns every row's mean and deviation over the worlds."""
    return [
        {
            "what": name,
            "seeds": len(runs),
            **{
                measure: _mean([run["values"][name][measure] for run in runs])
                for measure in MEASURED
            },
        }
        for name in runs[0]["values"]
    ]


def targets(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns what is to be distilled and what was, beside the aims."""

    def above(name: str, measure: str, least: float) -> dict[str, Any]:
        gains = [
            run["values"][name][measure] - run["values"][PLAIN][measure] for run in runs
        ]
        what = f"{name} above {PLAIN}: {measure}"
        return measuring.target(what, statistics.fmean(gains), least, at_most=False)

    return [
        above(RANKER, OUTCOME, 0.01),
        above(RANKER, "gauc", 0.01),
        *(
            above(name, measure, 0.0)
            for name in (DISTILLED, JOINT)
            for measure in (OUTCOME, IMITATION)
        ),
    ]


def _mean(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    main()
