"""AUC, its sampling error and log loss against their definitions."""

from __future__ import annotations

import doctest

import numpy as np
import pytest


@pytest.fixture(scope="module")
def classification(script_named):
    """The module."""
    return script_named("classification")


def test_auc_is_that_of_all_pairs(classification):
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=60)
    scores = rng.integers(8, size=60).astype(float)  # with many ties
    won = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[labels == 1]
        for negative in scores[labels == 0]
    ]
    assert classification.auc(labels, scores) == pytest.approx(np.mean(won), abs=1e-12)


def test_a_score_that_is_not_finite_is_refused(classification):
    with pytest.raises(ValueError, match=r"finite\. Received: 1 of 2"):
        classification.auc(np.array([0, 1]), np.array([np.nan, 1.0]))


def test_sampling_error(classification):
    # Positives 2 and 0 are above 2 and 1 of the negatives 1 and -1: shares 1 and 1/2;
    # the negatives are below 1 and 2 of the positives: shares 1/2 and 1. Both have
    # the variance 1/8, over two rows: sqrt(1/16 + 1/16).
    labels, scores = np.array([1, 1, 0, 0]), np.array([2.0, 0.0, 1.0, -1.0])
    assert classification.sampling_error(labels, scores) == pytest.approx(
        np.sqrt(1 / 8)
    )
    # It is the spread of the AUC over draws of the rows.
    rng = np.random.default_rng(2)
    labels = np.repeat([1, 0], [200, 400])
    draws = [rng.normal(labels, 1.0) for _ in range(400)]
    spread = np.std([classification.auc(labels, draw) for draw in draws])
    errors = [classification.sampling_error(labels, draw) for draw in draws[:50]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_log_loss(classification):
    # Logit log 3 is probability 3/4: -log(3/4) and -log(1/4).
    logits = np.full(2, np.log(3.0))
    expected = -(np.log(0.75) + np.log(0.25)) / 2
    assert classification.log_loss(np.array([1, 0]), logits) == pytest.approx(expected)
    # No infinity where a probability rounds to 1.
    assert classification.log_loss(np.zeros(1), np.array([800.0])) == 800


def test_the_examples_of_its_docstrings(classification):
    done = doctest.testmod(classification)
    assert done.attempted > 0 and done.failed == 0
