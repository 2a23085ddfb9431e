"""Slow references: one document at a time, in Python floats."""

import math


def documents(labels, scores, where, weights):
    """Yields (label, score, weight) of every document of one list that counts."""
    for label, score, valid, weight in zip(labels, scores, where, weights, strict=True):
        if valid and not math.isnan(label) and weight != 0:
            yield label, score, 1.0 if math.isnan(weight) else weight


def sigmoid_cross_entropy(labels, scores, where, weights):
    """Returns (mean, sum) over a batch of lists."""
    total = count = 0.0
    for row in zip(labels, scores, where, weights, strict=True):
        for label, score, weight in documents(*row):
            p = 1.0 / (1.0 + math.exp(-score))
            loss = -label * math.log(p) - (1.0 - label) * math.log(1.0 - p)
            total += weight * loss
            count += weight
    return (total / count if count else 0.0), total


def softmax_cross_entropy(labels, scores, where, weights):
    """Returns (mean, sum) over a batch of lists."""
    total = count = 0.0
    for row in zip(labels, scores, where, weights, strict=True):
        kept = list(documents(*row))
        positive = sum(label for label, _, _ in kept)
        if positive == 0:
            continue
        mass = sum(math.exp(score) for _, score, _ in kept)
        loss = 0.0
        for label, score, weight in kept:
            loss -= weight * label * math.log(math.exp(score) / mass)
        total += loss / positive
        count += 1
    return (total / count if count else 0.0), total
