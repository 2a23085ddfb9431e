"""Slow references: plain formulas, ties averaged over every order of the list."""

import itertools
import math

import numpy as np


def kept_documents(labels, scores, where):
    """Returns labels and scores of the documents of one list that count."""
    kept = [
        (float(label), float(score))
        for label, score, valid in zip(labels, scores, where, strict=True)
        if valid and not math.isnan(label)
    ]
    return [label for label, _ in kept], [score for _, score in kept]


def over_all_orders(function, labels, scores):
    """Averages `function(ranked labels)` over all orders that the scores allow."""
    values = []
    for order in itertools.permutations(range(len(scores))):
        ranked = [scores[i] for i in order]
        if all(a >= b for a, b in itertools.pairwise(ranked)):
            values.append(function([labels[i] for i in order]))
    return sum(values) / len(values)


def dcg(ranked, k):
    return sum(
        (2.0**label - 1.0) / math.log2(1 + rank)
        for rank, label in enumerate(ranked, start=1)
        if rank <= k
    )


def ndcg(labels, scores, k):
    """Returns (value, weight) of one list."""
    best = dcg(sorted(labels, reverse=True), k)
    if best == 0:
        return 0.0, 0.0
    return over_all_orders(lambda r: dcg(r, k) / best, labels, scores), 1.0


def reciprocal_rank(labels, scores, k):
    """Returns (value, weight) of one list."""
    if not any(label > 0 for label in labels):
        return 0.0, 0.0

    def one(ranked):
        rank = next(i for i, label in enumerate(ranked, start=1) if label > 0)
        return 1.0 / rank if rank <= k else 0.0

    return over_all_orders(one, labels, scores), 1.0


def hit_rate(labels, scores, k):
    """Returns (value, weight) of one list."""
    positives = sum(label > 0 for label in labels)
    if positives == 0:
        return 0.0, 0.0

    def one(ranked):
        return sum(label > 0 for label in ranked[:k]) / positives

    return over_all_orders(one, labels, scores), 1.0


def auc(labels, scores):
    """Returns (value, weight) of one list, pair by pair."""
    won = pairs = 0.0
    for label, score in zip(labels, scores, strict=True):
        for other_label, other_score in zip(labels, scores, strict=True):
            if label > 0 and other_label <= 0:
                pairs += 1
                won += (score > other_score) + 0.5 * (score == other_score)
    return (won / pairs, float(len(labels))) if pairs else (0.0, 0.0)


def batch(function, labels, scores, where, *args):
    """Returns values and weights `[B]`."""
    rows = [
        function(*kept_documents(*row), *args)
        for row in zip(labels, scores, where, strict=True)
    ]
    return np.array([v for v, _ in rows]), np.array([w for _, w in rows])
