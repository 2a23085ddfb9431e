"""One YAML file for data, schema, model, objective, training, evaluation and export."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tfrs_prerank.datasets.log_config import LogsConfig
from tfrs_prerank.declaration import (
    ConfigurationError,
    declaration,
    from_mapping,
    nearest,
    read_yaml,
    to_mapping,
)
from tfrs_prerank.features.declarations import Numeric
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.config import ModelConfig, RankerConfig
from tfrs_prerank.objectives.objective import Objective, make_objective
from tfrs_prerank.sampling.mixture import Mixture

_CLASSES = {
    "ndcg": "NDCG",
    "mrr": "MRR",
    "gauc": "GAUC",
    "pauc": "PAUC",
    "kendall_tau": "KendallTau",
    "hit_rate": "HitRate",
    "in_scene_hit_rate": "InSceneHitRate",
    "ash": "ASH",
    "weighted_recall": "WeightedRecall",
    "ranker_hit_rate": "RankerHitRate",
    "overlap": "Overlap",
    "score_recall": "ScoreRecall",
    "catalog_coverage": "CatalogCoverage",
    "popularity_gini": "PopularityGini",
    "pcoc": "PCOC",
    "ece": "ECE",
    "normalized_entropy": "NormalizedEntropy",
}
_FORMS = (
    "ndcg@K, mrr, mrr@K, gauc, pauc@K, kendall_tau, hit_rate@K, in_scene_hit_rate@K, "
    "ash@K, weighted_recall@K, ranker_hit_rate@K,M, overlap@K, score_recall@K, pcoc, "
    "ece, normalized_entropy"
)
_CATALOG_FORMS = "catalog_coverage@K, popularity_gini@K"
"""Those that must know all documents."""
_BY_HAND = ("intent_coverage", "tail_share", "never_exposed_share")


def make_metrics(names: tuple[str, ...], doc_ids: Any = None) -> list[Any]:
    """Makes metrics from their names.

    `IntentCoverage`, `TailShare` and `NeverExposedShare` read a column of your own:
    make them in Python.

    Args:
        names: such as `ndcg@10`, `ranker_hit_rate@100,10` (K, then M) or `mrr`.
        doc_ids: ids of all documents, which `catalog_coverage@K` and
            `popularity_gini@K` need.

    Returns:
        The metrics.

    Raises:
        ConfigurationError: a name is not understood.

    Example:
    >>> from tfrs_prerank.config import make_metrics
    >>> [metric.name for metric in make_metrics(("ndcg@5", "gauc"))]
    ['ndcg@5', 'gauc']
    """
    check_metrics(names, catalog=doc_ids is not None)
    # TensorFlow is not needed to check a name.
    from tfrs_prerank import metrics

    made = []
    for name in names:
        kind, _, numbers = name.partition("@")
        given = [int(number) for number in numbers.split(",") if number]
        options = dict(zip(("k", "m"), given, strict=False))
        if _matches(name, _CATALOG_FORMS):
            options["documents"] = doc_ids
        made.append(getattr(metrics, _CLASSES[kind])(**options))
    return made


def check_metrics(names: tuple[str, ...], catalog: bool = False) -> None:
    """Raises ConfigurationError for a metric's name that is not understood.

    Args:
        names: such as `ndcg@10` or `mrr`.
        catalog: whether metrics may be among them that must know all documents.
    """
    forms = f"{_FORMS}, {_CATALOG_FORMS}" if catalog else _FORMS
    for name in names:
        if _matches(name, _CATALOG_FORMS) and not catalog:
            raise ConfigurationError(
                f"{name!r} needs all documents; name it in evaluation.metrics"
            )
        if name.partition("@")[0] in _BY_HAND:
            raise ConfigurationError(
                f"{name!r} reads a column of your own; make it in Python, as of "
                "tfrs_prerank.metrics"
            )
        if not _matches(name, forms):
            raise ConfigurationError(
                f"no metric {name!r}; {nearest(name, forms.split(', '))}"
            )


def _matches(name: str, forms: str) -> bool:
    pattern = re.sub(r"\b[KM]\b", r"[1-9]\\d*", forms)
    return re.fullmatch("|".join(pattern.split(", ")), name) is not None


@declaration
class MovieLensConfig:
    """MovieLens as search requests; see `tfrs_prerank.datasets.movielens`.

    Attributes:
        source: always `"movielens"`.
        path: folder of the ratings; None looks in the usual places.
        seed: of the candidate lists.
        history: most liked movies in a history.
        max_candidates: longest list.
        download: whether GroupLens may be asked.
    """

    source: Literal["movielens"] = "movielens"
    path: str | None = None
    seed: int = 7
    history: int = 50
    max_candidates: int = 200
    download: bool = False

    def __post_init__(self) -> None:
        if self.history < 1 or self.max_candidates < 5:
            raise ValueError(
                "history must be at least 1 and max_candidates at least 5. Received: "
                f"history={self.history}, max_candidates={self.max_candidates}"
            )


@declaration
class FunnelConfig:
    """A simulated cascade with known truth; see `tfrs_prerank.datasets.funnel`.

    Attributes:
        source: always `"funnel"`.
        preset: `"small"` (a second, 240,000 candidates) or `"full"` (8,000,000).
        seed: of the simulation.
        teacher: whose logits are the teacher of `click`: `"ranker_score"`, which is
            known for what the ranker saw, or `"true_utility"`; None for a schema that
            does not predict clicks.
        split: as in `LogsConfig`.
        shards: as in `LogsConfig`.
        mixture: as in `LogsConfig`.
    """

    source: Literal["funnel"] = "funnel"
    preset: Literal["small", "full"] = "small"
    seed: int = 7
    teacher: Literal["ranker_score", "true_utility"] | None = "ranker_score"
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    shards: int = 1
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative. Received: {self.seed}")
        try:
            self.of_log("log")
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix("LogsConfig: ")) from None

    def of_log(self, directory: str | Path) -> LogsConfig:
        """Returns how the log is read that the simulation is written to.

        Args:
            directory: the folder that it is written to.
        """
        from tfrs_prerank.datasets import funnel

        return dataclasses.replace(
            funnel.log_config(directory, teacher=self.teacher),
            split=self.split,
            shards=self.shards,
            mixture=self.mixture,
        )


@declaration
class TrainingConfig:
    """How a model is trained.

    Attributes:
        epochs: passes over the training requests.
        batch_size: requests of a batch.
        learning_rate: of `LazyAdam`.
        seed: of weights, dropout and the order of the requests.
        early_stopping: epochs without a better validation loss before training stops
            and the best weights are taken back; None trains all epochs.
        metrics: names as `make_metrics` takes them, those of the catalogue left out.
        initial_vectors: by feature, a Parquet file of `id` and `vector` that its
            embeddings begin at; see `PreRanker.initialize_embeddings`.
    """

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.001
    seed: int = 0
    early_stopping: int | None = None
    metrics: tuple[str, ...] = ("ndcg@10",)
    initial_vectors: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} must be positive. Received: {getattr(self, name)}"
                )
        if self.early_stopping is not None and self.early_stopping < 1:
            raise ValueError(
                "early_stopping must be at least 1, or null for none. Received: "
                f"{self.early_stopping}"
            )
        check_metrics(self.metrics)


@declaration
class EvaluationConfig:
    """What is measured on the test requests.

    Attributes:
        batch_size: requests of a batch.
        metrics: names as `make_metrics` takes them.
        baselines: columns of the batch that rank too, by the name of their row.
        slices: columns of the batch that the table is also taken apart by.
        popularity: the numeric column that says how popular a document was, for the
            report; None takes that of a baseline called `popularity`, where there is
            one.
        samples: resamples of the bootstrap over users.
    """

    batch_size: int = 64
    metrics: tuple[str, ...] = ("ndcg@10", "mrr", "hit_rate@10", "gauc")
    baselines: dict[str, str] = dataclasses.field(default_factory=dict)
    slices: tuple[str, ...] = ()
    popularity: str | None = None
    samples: int = 1000

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.samples < 1:
            raise ValueError(
                "batch_size and samples must be at least 1. Received: "
                f"batch_size={self.batch_size}, samples={self.samples}"
            )
        check_metrics(self.metrics, catalog=True)
        for row in self.baselines:
            if row in ("model", "random") or row.startswith("ranker"):
                raise ValueError(
                    f"a baseline must not be called {row!r}, which another row is; "
                    "give it another name"
                )


@declaration
class ExportConfig:
    """What an export holds; see `tfrs_prerank.export`.

    Attributes:
        k: length of the answers of `rank` and `retrieve`.
        task: the task that `retrieve` and `score_vectors` rank by.
        warmup_lengths: lengths of the candidate lists in the warm-up file.
        serving_version: the TensorFlow Serving to check against.
    """

    k: int = 100
    task: str | None = None
    warmup_lengths: tuple[int, ...] = (10, 100, 1000)
    serving_version: Literal["2.20", "2.19"] = "2.20"

    def __post_init__(self) -> None:
        if self.k < 1 or any(length < 1 for length in self.warmup_lengths):
            raise ValueError(
                "k and warmup_lengths must be at least 1. Received: "
                f"k={self.k}, warmup_lengths={self.warmup_lengths}"
            )


Data = Annotated[
    MovieLensConfig | FunnelConfig | LogsConfig, Field(discriminator="source")
]


@declaration
class Config:
    """Everything from the logs to the export, as one file says it.

    Attributes:
        data: where the requests come from.
        schema: features and tasks.
        model: towers and scorer.
        ranker: the ranker that `train --ranker` makes, to be the pre-ranker's teacher;
            it is trained on the terms of the objective that read labels.
        objective: terms, or a loss's name for one term per task.
        training: see `TrainingConfig`.
        evaluation: see `EvaluationConfig`.
        export: see `ExportConfig`.

    Example:
    >>> from tfrs_prerank.config import Config
    >>> config = Config.example("movielens")
    >>> config.schema.task_names
    ('click', 'like')
    """

    data: Data
    schema: Schema
    model: ModelConfig = ModelConfig()
    ranker: RankerConfig = RankerConfig()
    objective: Objective | str = "sigmoid_cross_entropy"
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()

    def __post_init__(self) -> None:
        self.model.check(self.schema, make_objective(self.objective, self.schema))
        tasks = self.schema.task_names
        if self.export.task is not None and self.export.task not in tasks:
            raise ConfigurationError(
                f"export.task: no task {self.export.task!r}; "
                f"{nearest(self.export.task, tasks)}"
            )
        names = [feature.name for feature in self.schema.features]
        for name in self.training.initial_vectors:
            if name not in names:
                raise ConfigurationError(
                    f"training.initial_vectors: no feature {name!r}; "
                    f"{nearest(name, names)}"
                )
        numbers = [f.name for f in self.schema.features if isinstance(f, Numeric)]
        for row, column in self.evaluation.baselines.items():
            if column not in numbers:
                raise ConfigurationError(
                    f"evaluation.baselines.{row}: no numeric feature {column!r}; "
                    f"{nearest(column, numbers)}"
                )

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Reads a configuration file; paths in it are relative to its folder.

        Args:
            path: the file.

        Returns:
            The configuration.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: a key is unknown (the nearest known one is named), or a
                value is not what is wanted.
        """
        path = Path(path)
        mapping = read_yaml(path)
        if not isinstance(mapping, dict):
            raise ConfigurationError(
                f"{path} must hold the sections data, schema, model, objective and "
                f"training. Received: {type(mapping).__name__}"
            )
        config: Config = from_mapping(cls, mapping, str(path))
        base = path.resolve().parent
        schema = Schema.from_mapping(to_mapping(config.schema), str(path), base)
        data = config.data
        if isinstance(data, LogsConfig):
            given = data.requests
            files = (given,) if isinstance(given, str) else given
            data = dataclasses.replace(
                data,
                requests=tuple(str(base / file) for file in files),
                documents=str(base / data.documents),
            )
        elif isinstance(data, MovieLensConfig) and data.path is not None:
            data = dataclasses.replace(data, path=str(base / data.path))
        vectors = config.training.initial_vectors
        training = dataclasses.replace(
            config.training,
            initial_vectors={name: str(base / file) for name, file in vectors.items()},
        )
        absolute: Config = dataclasses.replace(
            config, schema=schema, data=data, training=training
        )
        return absolute

    @classmethod
    def example(cls, name: str) -> Config:
        """Reads a configuration that comes with the package.

        Args:
            name: `"movielens"` or `"funnel"`.
        """
        return cls.from_yaml(example_path(name))


def example_path(name: str) -> Path:
    """Returns the path of a configuration that comes with the package.

    Args:
        name: such as `"movielens"`.
    """
    return Path(str(resources.files("tfrs_prerank"))) / "configs" / f"{name}.yaml"
