"""The ranker: a single tower over pairs, the teacher of a pre-ranker."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from tfrs_prerank.features.pair_fields import PairAttention
from tfrs_prerank.features.schema import Schema
from tfrs_prerank.models.config import RankerConfig
from tfrs_prerank.models.ranker_network import RankerNetwork
from tfrs_prerank.models.request_model import Computed, RequestModel
from tfrs_prerank.objectives.objective import Objective, make_objective
from tfrs_prerank.objectives.terms import sums_of
from tfrs_prerank.towers import Interaction, Tower


class Ranker(RequestModel):
    """A fine ranker for Keras `fit` and `evaluate`, to teach a pre-ranker.

    One tower reads all features of a request and a document together: it crosses them
    with each other, attends to the histories with the document, and reads the
    privileged features, which a pre-ranker cannot afford. So it must be run for each
    pair; nothing of it can be stored, and it is not exported.

    Its logits become a pre-ranker's teacher in the log (`teach`), or it is trained
    jointly: `PreRanker(ranker=...)`.

    Args:
        schema: the features and tasks.
        tower: declaration of the tower; `output` is not read.
        objective: an `Objective`, or a loss's name for one term of weight 1 per task;
            only losses of logits.
        attention: what a pair attends to histories with: `"target_attention"`, or
            `"zero_attention"`, which costs a fraction of it.

    Raises:
        ConfigurationError: the parts do not fit together.

    References:
        Zhou et al., Deep Interest Network, https://arxiv.org/abs/1706.06978.
        Xu et al., Privileged Features Distillation at Taobao Recommendations,
        https://arxiv.org/abs/1907.05171.

    Example:
        >>> from tfrs_prerank import Categorical, Numeric, Ranker, Schema, Task
        >>> ranker = Ranker(
        ...     Schema(
        ...         features=[
        ...             Categorical("user_id", "query", buckets=100),
        ...             Categorical("city", "doc", buckets=10),
        ...             Numeric("visits_of_friends", "cross", privileged=True),
        ...         ],
        ...         tasks=[Task("click")],
        ...     ),
        ... )
        >>> ranker.compile()
        >>> ranker.network.tower.fields.field_names
        ['user_id', 'city', 'visits_of_friends']
    """

    declared_by = RankerConfig

    def __init__(
        self,
        schema: Schema,
        tower: Tower = Tower((256, 128), interaction=Interaction("dcn_v2")),  # noqa: B008 - frozen
        objective: Objective | str = "sigmoid_cross_entropy",
        attention: PairAttention = "target_attention",
    ) -> None:
        declarations = RankerConfig(tower, attention)
        objective = make_objective(objective, schema)
        declarations.check(objective)
        network = RankerNetwork(schema, declarations)
        super().__init__(schema, declarations, objective, network)

    def compute(self, batch: Mapping[str, tf.Tensor], training: bool) -> Computed:
        """Computes outputs and losses of a batch; see `RequestModel.compute`."""
        forward = self.network(batch, training=training)
        sums = sums_of(
            self.objective.terms,
            batch,
            forward,
            self.schema.task_names,
            training=training,
        )
        return Computed(forward, sums, self.weights_now(), self.network.losses)

    def teach(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds the ranker's logits to a batch, for a pre-ranker to learn from.

            preranker.fit(lambda epoch: requests(epoch).map(ranker.teach))

        Args:
            batch: a batch with the privileged features; columns that the ranker does
                not read are left as they are.

        Returns:
            The batch with `teacher/<task>`, float32 `[B, L]`, NaN in padding.
        """
        return self.network.teach(batch)
