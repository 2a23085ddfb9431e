"""Layers that ask for shares of the learning rate get them from `compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfrs_prerank as tp
from tests.models.small import random_requests, small_model, steady_adam, take
from tests.models.tiny_bert import tiny_bert
from tfrs_prerank.declaration import ConfigurationError

BATCH = take(random_requests(8, 4), 0, 8)


def model_of(factor: float) -> tp.PreRanker:
    """A model with a layer that asks for a share, as a pretrained encoder does."""
    model = small_model()
    head = model.network.doc_tower.head
    head.learning_rate_scales = lambda: [(head.kernel, factor), (head.bias, 1.0)]
    return model


def change_of_head(model: tp.PreRanker) -> np.ndarray:
    """How far a step moves the kernel of the head, and its bias."""
    head = model.network.doc_tower.head
    before = [head.kernel.numpy(), head.bias.numpy()]
    model.train_step(BATCH)
    moved = zip(before, (head.kernel, head.bias), strict=True)
    return np.concatenate([np.ravel(new - old) for old, new in moved])


def compiled(factor: float, optimizer: Any) -> tp.PreRanker:
    model = model_of(factor)
    model.compile(optimizer)
    return model


@pytest.mark.parametrize("scaled_loss", [False, True])
def test_a_layer_learns_at_its_share(scaled_loss: bool) -> None:
    def optimizer() -> Any:
        made = steady_adam()
        if not scaled_loss:
            return made
        return tf.keras.mixed_precision.LossScaleOptimizer(made)

    whole = change_of_head(compiled(1.0, optimizer()))
    quarter = change_of_head(compiled(0.25, optimizer()))
    # A kernel of 8 x 4 at a quarter, a bias of 4 as it was.
    assert whole.size == 36 and np.abs(whole[:32]).max() > 1e-3
    np.testing.assert_allclose(quarter[:32], whole[:32] / 4, atol=1e-6)
    np.testing.assert_allclose(quarter[32:], whole[32:], atol=1e-6)


def test_shares_are_those_of_the_last_compile() -> None:
    whole = change_of_head(compiled(1.0, steady_adam()))
    model = compiled(0.25, steady_adam())
    del model.network.doc_tower.head.learning_rate_scales
    model.compile(model.optimizer)
    np.testing.assert_allclose(change_of_head(model), whole, atol=1e-6)


def test_another_optimizer_takes_no_shares() -> None:
    model = model_of(0.25)
    with pytest.raises(ConfigurationError) as error:
        model.compile(tf.keras.optimizers.SGD())
    assert str(error.value) == (
        "optimizer: layer_decay is a share of the learning rate, which LazyAdam alone "
        "takes; give LazyAdam(), or leave layer_decay out. Received: SGD"
    )
    model_of(1.0).compile(tf.keras.optimizers.SGD())


def test_a_bert_asks_for_its_decay(tmp_path: Path) -> None:
    query = tp.Text(
        "query",
        "query",
        tokenizer="wordpiece",
        encoder="sentence_bert",
        pretrained=str(tiny_bert(tmp_path / "bert", seed=1)),
        trainable_blocks=2,
        layer_decay=0.5,
        dimension=4,
    )
    film = tp.Categorical("film", "doc", buckets=4, dimension=4)
    tower = tp.Tower((4,), dimension=4, output=4)
    model = tp.PreRanker(tp.Schema([query, film], [tp.Task("click")]), tower, tower)
    with pytest.raises(ConfigurationError, match="layer_decay is a share of the learn"):
        model.compile(tf.keras.optimizers.Adam())
    model.compile(tp.LazyAdam(0.01))
    lower, upper = model.network.tables["query"].bert.blocks
    below, above = lower.trainable_variables, upper.trainable_variables
    before = [variable.numpy() for variable in (*below, *above)]
    model.optimizer.apply_gradients([(tf.ones_like(v), v) for v in (*below, *above)])
    # Adam's first step is a learning rate long.
    for old, new in zip(before[: len(below)], below, strict=True):
        np.testing.assert_allclose(old - new, 0.005, atol=1e-5)
    for old, new in zip(before[len(below) :], above, strict=True):
        np.testing.assert_allclose(old - new, 0.01, atol=1e-5)
