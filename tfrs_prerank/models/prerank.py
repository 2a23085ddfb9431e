"""The pre-ranker: a TFRS model over request-major batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tfrs_prerank.declaration import ConfigurationError
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.config import ModelConfig, RankerConfig
from tfrs_prerank.models.drawing import draw
from tfrs_prerank.models.network import Network
from tfrs_prerank.models.ranker_network import RankerNetwork
from tfrs_prerank.models.request_model import Computed, RequestModel
from tfrs_prerank.models.row_means import row_means
from tfrs_prerank.objectives.objective import Objective, make_objective
from tfrs_prerank.objectives.terms import sums_of
from tfrs_prerank.sampling.streaming import StreamingFrequency
from tfrs_prerank.scorers import Scorer
from tfrs_prerank.towers import Tower


class PreRanker(RequestModel):
    """A two- or three-tower pre-ranking model for Keras `fit` and `evaluate`.

    `model(batch)` maps a batch of requests to `{task: logits [B, L], "scores": [B, L]}`
    in float32. `scores` is the logit where there is one task, else
    `sum_k fuse_k * sigmoid(logit_k)`.

    Every loss is divided by the number of valid documents or lists of the global batch
    (all replicas), scaled under `mixed_float16`, and printed as the mean over all
    examples of the epoch.

    Args:
        schema: the features and tasks.
        query_tower: declaration of the query tower; its `output` is the size of the
            vectors of both sides.
        doc_tower: declaration of the document tower; the same `output`.
        cross_tower: declaration of the cross tower; needed where the schema has cross
            features that are not privileged.
        scorer: a `Scorer`, or its kind alone.
        objective: an `Objective`, or a loss's name for one term of weight 1 per task.
        distinct_documents: run the document tower once for each distinct document of a
            batch. It saves time where requests share documents. It changes no gradient
            but that of batch statistics, dropout and `l2`, which then see a document
            once. Without point-in-time columns only.
        ranker: a ranker that is trained jointly and teaches the pre-ranker: it reads
            the privileged features too, and shares the embedding tables. It learns from
            the terms of the objective that read labels; distillation terms learn from
            its logits, without a gradient to it. It costs time in training only and is
            in no export. None for a teacher from the log, or for none.

    Raises:
        ConfigurationError: the parts do not fit together.

    Example:
        >>> from tfrs_prerank import Categorical, PreRanker, Schema, Task
        >>> model = PreRanker(
        ...     Schema(
        ...         features=[
        ...             Categorical("user_id", "query", buckets=100),
        ...             Categorical("city", "doc", buckets=10),
        ...         ],
        ...         tasks=[Task("click")],
        ...     ),
        ... )
        >>> model.compile()
        >>> model.schema.task_names
        ('click',)
    """

    declared_by = ModelConfig

    def __init__(
        self,
        schema: Schema,
        query_tower: Tower = Tower(),  # noqa: B008 - frozen
        doc_tower: Tower = Tower(),  # noqa: B008 - frozen
        cross_tower: Tower | None = None,
        scorer: Scorer | str = "cosine",
        objective: Objective | str = "sigmoid_cross_entropy",
        distinct_documents: bool = False,
        ranker: RankerConfig | None = None,
    ) -> None:
        declarations = ModelConfig(
            query_tower,
            doc_tower,
            cross_tower,
            scorer,  # type: ignore[arg-type]
            distinct_documents,
            ranker,
        )
        objective = make_objective(objective, schema)
        declarations.check(schema, objective)
        network = Network(schema, **declarations.network_arguments())
        super().__init__(schema, declarations, objective, network)
        self.ranker: RankerNetwork | None = None
        if ranker is not None:
            self.ranker = RankerNetwork(schema, ranker, network.tables)
            self._keep_generators(self.ranker)
        corrected = any(
            term.loss == "in_batch_softmax" and term.log_q for term in objective.terms
        )
        self.frequency = StreamingFrequency() if corrected else None

    def compute(self, batch: Mapping[str, tf.Tensor], training: bool) -> Computed:
        """Computes outputs and losses of a batch; see `RequestModel.compute`."""
        tasks = self.schema.task_names
        sums, penalties, teacher = {}, [], None
        if self.ranker is not None:
            taught = self.ranker(batch, training=training)
            # The tables that both share are penalised once.
            penalties += self.ranker.penalties_apart_from(self.network.tables)
            own = sums_of(
                self.objective.of_labels, batch, taught, tasks, training=training
            )
            sums = {f"ranker/{name}": value for name, value in own.items()}
            teacher = taught.served_logits
        forward = self.network(batch, training=training)
        penalties += self.network.losses
        log_q = None
        if self.frequency is not None:
            ids = tf.gather(tf.reshape(batch["doc_ids"], [-1]), forward.index)
            estimate = self.frequency.update if training else self.frequency.log_q
            log_q = estimate(ids)
        sums |= sums_of(
            self.objective.terms,
            batch,
            forward,
            tasks,
            training=training,
            scorer=self.network.scorer,
            log_q=log_q,
            teacher=teacher,
            tables=self.network.tables,
        )
        return Computed(forward, sums, self.weights_now(), penalties)

    @property
    def term_weights(self) -> dict[str, float]:
        """The weights of all terms that are logged, by name."""
        weights: dict[str, float] = super().term_weights
        if self.declarations.ranker is not None:
            terms = self.objective.of_labels
            weights |= {f"ranker/{term.name}": term.weight for term in terms}
        return weights

    def checkpoint(self) -> tf.train.Checkpoint:
        """Returns what a run directory keeps of the model: weights and their state."""
        checkpoint = super().checkpoint()
        for name in ("ranker", "frequency"):
            part = getattr(self, name)
            if part is not None:
                setattr(checkpoint, name, part)
        return checkpoint

    def teach(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the logits of the jointly trained ranker to a batch.

        Args:
            batch: a batch with the privileged features.

        Returns:
            The batch with `teacher/<task>`, float32 `[B, L]`, NaN in padding.

        Raises:
            ConfigurationError: no ranker is trained jointly.
        """
        if self.ranker is None:
            raise ConfigurationError(
                "teach: no ranker is trained jointly; give PreRanker(ranker=...), or "
                "use Ranker.teach"
            )
        return self.ranker.teach(batch)

    def draw(self) -> str:
        """Draws the towers and the scorer as text; see `models.drawing.draw`."""
        return draw(self.schema, self.declarations)

    def field_weights(
        self, dataset: Iterable[Mapping[str, tf.Tensor]]
    ) -> dict[str, dict[str, float]]:
        """Tells how much the towers' gates let each field count.

        The mean over all requests (query tower) or real documents (doc and cross
        tower) of a dataset. What a weight means is in the gate's own `field_weights`:
        `layers.SENet` and the others.

        Args:
            dataset: batches.

        Returns:
            `{"query": {feature: weight}, ...}`, with towers that have a gate only.

        Raises:
            ConfigurationError: no tower has a gate.
            ValueError: the dataset is empty.
        """
        sides = self._towers_with("gate")
        if not sides:
            raise ConfigurationError(
                "field_weights: no tower has a gate; declare Tower(gate='senet')"
            )
        means = row_means(
            "field_weights", self.network.field_weights, list(sides), dataset
        )
        return {
            side: dict(zip(tower.fields.field_names, means[side].tolist(), strict=True))
            for side, tower in sides.items()
        }

    def expert_gates(
        self, dataset: Iterable[Mapping[str, tf.Tensor]]
    ) -> dict[str, Any]:
        """Tells how much the experts of towers and scorer count for each task.

        The mean gates over all requests (query tower) or real documents (doc tower,
        cross tower and scorer) of a dataset, each adding up to 1.

        Args:
            dataset: batches.

        Returns:
            `{"query": gates, ...}`, with sides that have experts only: by task, as of
            `layers.MMoE.gates`, or by level, as of `layers.PLE.gates`, with an array of
            as many numbers as there are experts for each gate.

        Raises:
            ConfigurationError: neither a tower nor the scorer has experts.
            ValueError: the dataset is empty.
        """
        sides = list(self._towers_with("experts"))
        if self.network.scorer.scorer.kind == "experts":
            sides.append("scorer")
        if not sides:
            raise ConfigurationError(
                "expert_gates: no tower has experts, nor has the scorer; declare "
                "Tower(experts='mmoe') or Scorer('experts')"
            )
        return row_means("expert_gates", self.network.expert_gates, sides, dataset)

    def _towers_with(self, part: str) -> dict[str, Any]:
        """Returns the towers that have a part, by side."""
        sides = ("query", "doc", "cross")
        towers = {side: getattr(self.network, f"{side}_tower") for side in sides}
        return {
            side: tower
            for side, tower in towers.items()
            if tower is not None and getattr(tower, part) is not None
        }
