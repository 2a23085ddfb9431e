"""Pointwise training in memory: rows in, logits out, the best epoch by validation AUC.

A model here is a pre-ranker whose requests have one document each, or one tower that
reads the features of both sides. Either takes the same batches: a dict of columns, and
of labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import classification
import numpy as np

import tfrs_prerank  # noqa: F401  (first of all, so that tf.keras is Keras 2)

# isort: split
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrs_prerank import LazyAdam, PreRanker, Schema, Tower
from tfrs_prerank.features.encoders import make_tables
from tfrs_prerank.towers import TowerModel
from tfrs_prerank.towers.tower_model import own_fields

TASK = "like"
LABEL = f"label/{TASK}"
_SCORED_AT_ONCE = 8192

Batch = Mapping[str, tf.Tensor]


class SingleTower(tfrs.Model):
    """One tower over the features of both sides, which ends in a logit.

    It must be run for each (user, movie) pair: nothing of it can be stored.

    Args:
        schema: all features it reads have the owner `"query"`.
        tower: the declaration.
    """

    def __init__(self, schema: Schema, tower: Tower) -> None:
        super().__init__()
        features = schema.owned_by("query")
        tables = make_tables(schema)
        self.columns = list(schema.columns("query"))
        fields = own_fields(tower, features, tables)
        self.tower = TowerModel(tower, fields, [TASK], 1, "single_tower")

    def call(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """Returns logits `[B]`."""
        columns = {name: batch[name] for name in self.columns}
        return self.tower(columns, training=training).outputs[:, 0, 0]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Takes one step down the mean cross entropy and the penalties."""
        with tf.GradientTape() as tape:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(
                labels=batch[LABEL][:, 0], logits=self(batch, training=True)
            )
            loss = tf.add_n([tf.reduce_mean(losses), *self.losses])
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"loss": loss}


def logits_of(model: PreRanker | SingleTower, batch: Batch) -> tf.Tensor:
    """Returns a model's logits `[B]` of a batch with one document for each request."""
    if isinstance(model, SingleTower):
        return model(batch)
    return model(batch)[TASK][:, 0]


class Trained(NamedTuple):
    """What a training came to; the model has the best epoch's weights.

    Attributes:
        epoch: the best one, from 1.
        auc: its AUC on the validation rows.
        log_loss: its log loss there.
        seconds: of all epochs, the scoring of the validation rows left out.
    """

    epoch: int
    auc: float
    log_loss: float
    seconds: float


class Trainer:
    """Trains a model on rows that a function turns into batches.

    Args:
        model: the model.
        training_batch: from int64 places `[B]` of rows and a seed `[2]` to a batch.
        other_batch: from places to a batch, for rows that are not trained on.
        labels: float32 `[N]`, of all rows.
        batch_size: rows of a step.
        rate: learning rate of `LazyAdam` in the first epoch.
        average: decay of the average of the weights that is measured, 0 for the
            weights themselves.
        before_epoch: called with a number that differs from epoch to epoch, and with
            None before other rows are scored.
    """

    def __init__(
        self,
        model: PreRanker | SingleTower,
        training_batch: Callable[[tf.Tensor, tf.Tensor], Batch],
        other_batch: Callable[[tf.Tensor], Batch],
        labels: np.ndarray,
        batch_size: int,
        rate: float,
        average: float = 0.0,
        before_epoch: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        self.model = model
        self._labels = labels
        self._rate = rate
        self._before_epoch = before_epoch
        model.compile(LazyAdam(rate))
        logits_of(model, other_batch(tf.constant([0], tf.int64)))  # makes all weights
        self._averages = _Averages(model.trainable_variables, average)

        @tf.function
        def epoch(order: tf.Tensor, seed: tf.Tensor) -> None:
            for step in tf.range(-(-tf.size(order) // batch_size)):
                places = order[step * batch_size : (step + 1) * batch_size]
                model.train_step(training_batch(places, tf.stack([seed, step])))
                self._averages.update()

        @tf.function
        def scores(places: tf.Tensor) -> tf.Tensor:
            return logits_of(model, other_batch(places))

        self._epoch, self._scores = epoch, scores

    def fit(
        self,
        training: np.ndarray,
        validation: np.ndarray,
        seed: int,
        epochs: int,
        note: Callable[[str], Any] = lambda _: None,
    ) -> Trained:
        """Trains, slower from epoch to epoch, and leaves the best one's weights.

        The learning rate falls in equal steps, to 0 where one more epoch would begin.

        Args:
            training: places of the rows.
            validation: places of the rows that choose the epoch.
            seed: of the order of the rows and of what `training_batch` draws.
            epochs: how many there are.
            note: gets a line about every epoch.

        Returns:
            What it came to.
        """
        best, weights, seconds = Trained(0, -1.0, 0.0, 0.0), [], 0.0
        for done in range(1, epochs + 1):
            rate = self._rate * (1 - (done - 1) / epochs)
            self.model.optimizer.learning_rate = rate
            number = seed * 1_000 + done
            self._before_epoch(number)
            order = np.random.default_rng([seed, done]).permutation(training)
            started = time.perf_counter()
            self._epoch(tf.constant(order), tf.constant(number))
            seconds += time.perf_counter() - started
            with self._averages:
                scores = self.scores(validation)
                area = classification.auc(self._labels[validation], scores)
                loss = classification.log_loss(self._labels[validation], scores)
                if area > best.auc:
                    best = Trained(done, area, loss, 0.0)
                    weights = self.model.get_weights()
            note(f"epoch {done}: AUC {area:.5f}, log loss {loss:.5f}, {seconds:.0f} s")
        self.model.set_weights(weights)
        return best._replace(seconds=seconds)

    def scores(self, places: np.ndarray) -> np.ndarray:
        """Returns the logits of rows, `[N]` in float64."""
        self._before_epoch(None)
        starts = range(0, len(places), _SCORED_AT_ONCE)
        parts = [
            self._scores(tf.constant(places[start : start + _SCORED_AT_ONCE])).numpy()
            for start in starts
        ]
        return np.concatenate(parts).astype(np.float64)


class _Averages:
    """Moving averages of weights; as a context it puts them in the weights' place.

    Args:
        variables: the weights.
        decay: share of an average that a step keeps, 0 for the weights themselves.
    """

    def __init__(self, variables: Iterable[tf.Variable], decay: float) -> None:
        self._decay = decay
        self._variables = list(variables) if decay else []
        self._averages = [tf.Variable(v, trainable=False) for v in self._variables]
        self._steps = tf.Variable(0.0, trainable=False)
        self._own: list[np.ndarray] = []

    def update(self) -> None:
        """Takes the weights after a step."""
        if not self._variables:
            return
        self._steps.assign_add(1.0)
        # The first steps count less: an average of few weights is near its start.
        kept = tf.minimum(self._decay, self._steps / (self._steps + 9.0))
        for average, variable in zip(self._averages, self._variables, strict=True):
            average.assign(kept * average + (1.0 - kept) * variable)

    def __enter__(self) -> None:
        self._own = [variable.numpy() for variable in self._variables]
        for variable, average in zip(self._variables, self._averages, strict=True):
            variable.assign(average)

    def __exit__(self, *_: object) -> None:
        for variable, own in zip(self._variables, self._own, strict=True):
            variable.assign(own)
