"""Sample selection bias on the simulated funnel: which samples a pre-ranker needs.

A pre-ranker is trained on the exposed documents alone, then with what each further
stage of the cascade left out, then with documents of the catalogue, and scores all
candidates of later requests. The truth is known: the utility of every candidate takes
the ranker's place, so that HR@100,10 says how many of the ten truly best candidates are
among the 100 that are passed on. It is read for measuring only.

All variants read the same training lists (all exposed documents, 10 that only the
ranker saw, 40 that the pre-ranker dropped, 20 of the catalogue) and see the documents
of their stages alone. Every seed has a world of its own: it is that of the simulation,
of the sampling, and of the model. Nothing was chosen by the test requests, which are
the last tenth; the schedule is the same for all.

A run is one JSON line, with a digest of its setting and of the code it depends on; what
was interrupted goes on after the last one.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kept_runs
import measuring

from tfrs_prerank import metrics, pipeline
from tfrs_prerank.config import Config
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.evaluation import evaluate
from tfrs_prerank.objectives.objective import Objective, Term
from tfrs_prerank.sampling import Catalog, Mixture

STAGES = ("exposed", "ranked", "preranked_out", "catalog")
LOSS = "softmax_cross_entropy"
VARIANTS: dict[str, Term] = {
    "exposed": Term("click", LOSS, stages=STAGES[:1]),
    "+ ranked": Term("click", LOSS, stages=STAGES[:2]),
    "+ preranked_out": Term("click", LOSS, stages=STAGES[:3]),
    "+ catalog (all)": Term("click", LOSS, stages=STAGES),
    "all, log_q": Term("click", LOSS, stages=STAGES, log_q=True),
}
MEASURED = ("ranker_hit_rate", "in_scene_hit_rate", "ash", "tail_share", "gini")
CODE = (
    "tfrs_prerank.config",
    "tfrs_prerank.datasets.funnel",
    "tfrs_prerank.datasets._funnel_cascade",
    "tfrs_prerank.datasets._funnel_world",
    "tfrs_prerank.datasets.logs",
    "tfrs_prerank.sampling.sampler",
    "tfrs_prerank.losses._listwise",
    "tfrs_prerank.models.prerank",
    "tfrs_prerank.scorers.vector_scorer",
    "tfrs_prerank.pipeline",
    "tfrs_prerank.evaluation.measure",
    "tfrs_prerank.metrics.ranker_hit_rate",
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the runs of one size share.

    Attributes:
        preset: of the simulation.
        epochs: passes over the training requests.
        batch_size: requests.
        learning_rate: of `LazyAdam`.
        k: documents that are passed on.
        m: truly best candidates that count.
    """

    preset: str
    epochs: int
    batch_size: int
    learning_rate: float
    k: int
    m: int


FULL = Setting("full", epochs=1, batch_size=64, learning_rate=0.003, k=100, m=10)
SMALL = Setting("small", epochs=1, batch_size=64, learning_rate=0.003, k=40, m=10)


def configured(setting: Setting, seed: int) -> Config:
    """Returns the configuration of all variants of one seed."""
    example = Config.example("funnel")
    mixture = Mixture(
        ranked=10, preranked_out=40, catalog=Catalog(20, ("exposures", "category")),
        seed=seed,
    )  # fmt: skip
    data = dataclasses.replace(
        example.data,
        preset=setting.preset,
        seed=seed,
        teacher="true_utility",
        mixture=mixture,
    )
    training = dataclasses.replace(
        example.training,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        seed=seed,
        metrics=(),
    )
    made: Config = dataclasses.replace(example, data=data, training=training)
    return made


def trained(config: Config, term: Term, data: Path, setting: Setting) -> dict[str, Any]:
    """Trains one variant and measures it on the test requests."""
    with tempfile.TemporaryDirectory() as folder:
        objective = Objective((term,))
        config = dataclasses.replace(config, objective=objective)
        model = pipeline.train(config, data, Path(folder) / "model")
    return measured({"model": model}, data, setting)["model"]


def measured(
    rankings: dict[str, Any], data: Path, setting: Setting
) -> dict[str, dict[str, float]]:
    """Measures rankings on the test requests."""
    documents = read_documents(data / "documents.parquet")
    k = setting.k
    found = evaluate(
        rankings,
        pipeline.open_requests(data, "test", 64),
        metrics=[
            metrics.RankerHitRate(k, setting.m, name="ranker_hit_rate"),
            metrics.InSceneHitRate(k, name="in_scene_hit_rate"),
            metrics.ASH(k, name="ash"),
            # The tail: documents that were shown fewer than ten times.
            metrics.TailShare("impressions", 10, k, name="tail_share"),
            metrics.PopularityGini(documents.ids, k, name="gini"),
        ],
        tasks="click",
        samples=1,
    )
    values: dict[str, dict[str, float]] = {row: {} for row in rankings}
    for record in found.records:
        values[record.row][record.metric] = record.value
    return values


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "funnel")
    options.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    options.add_argument(
        "--prepared",
        type=Path,
        help="keep the prepared data here (default: a temporary folder)",
    )
    given = options.parse_args()
    setting = SMALL if given.small else FULL
    runs = given.results.with_name(f"{given.results.stem}_runs.jsonl")
    code = _digest(setting)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in given.seeds:
        for name, run in _of_seed(setting, seed, runs, code, given):
            found.setdefault(name, []).append(run)
    tables = {"bias": _table(found), "targets": _targets(found)}
    measuring.report("funnel", given, tables)


def _digest(setting: Setting) -> str:
    """Returns a digest of all that a run rests on, its seed left out."""
    for name in CODE:  # the package loads its parts as they are needed
        importlib.import_module(name)
    own = "".join(map(inspect.getsource, (configured, trained, measured)))
    made_of = (setting, VARIANTS, configured(setting, 0), own)
    return kept_runs.digest(made_of, kept_runs.modules(CODE))


def _of_seed(
    setting: Setting, seed: int, runs: Path, code: str, given: Any
) -> Iterator[tuple[str, dict[str, float]]]:
    config = configured(setting, seed)
    kept = given.prepared or Path(tempfile.mkdtemp())
    data = kept / f"{setting.preset}-{seed}-{code}"

    def prepared() -> Path:
        if not data.exists():
            measuring.note(f"seed {seed}: simulating and preparing")
            pipeline.prepare(config, data)
        return data

    baselines = {
        "clicks so far": "clicks",
        "random": "random",
        "truth": "teacher/click",
    }
    try:
        for name, ranking in baselines.items():

            def row(ranking: str = ranking) -> dict[str, Any]:
                return measured({"row": ranking}, prepared(), setting)["row"]

            yield name, kept_runs.find_or_make(runs, name, seed, code, row)
        for name, term in VARIANTS.items():

            def run(term: Term = term) -> dict[str, Any]:
                return trained(config, term, prepared(), setting)

            measuring.note(f"seed {seed}: {name}")
            yield name, kept_runs.find_or_make(runs, name, seed, code, run)
    finally:
        if given.prepared is None:
            shutil.rmtree(kept)


def _table(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    return [
        {"samples": name, "seeds": len(runs)}
        | {measure: _mean(runs, measure) for measure in MEASURED}
        for name, runs in found.items()
    ]


def _targets(found: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Compares the mean gains of HR@100,10 with what they should be."""
    mean = {
        name: statistics.fmean(run["ranker_hit_rate"] for run in found[name])
        for name in VARIANTS
    }
    steps = list(VARIANTS)[:4]
    rows = [
        measuring.target(
            "all stages, above exposed alone",
            mean[steps[3]] - mean[steps[0]],
            0.05,
            False,
        )
    ]
    for before, after in itertools.pairwise(steps):
        gain = mean[after] - mean[before]
        rows.append(measuring.target(f"{after}, above {before}", gain, 0.0, False))
    return rows


def _mean(runs: list[dict[str, float]], measure: str) -> str:
    values = [run[measure] for run in runs]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    main()
