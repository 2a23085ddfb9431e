"""Slow references: plain formulas, ties averaged over every order of the list.

A function of one list takes the documents that count, as Python lists of labels and
scores and of the further columns, and returns its value and weight.
"""

import itertools
import math

import numpy as np


def kept_documents(columns, where, unlabelled_compete):
    """Returns the columns of one list, labels first, without what is left out."""
    keep = [
        bool(valid) and (unlabelled_compete or not math.isnan(label))
        for valid, label in zip(where, columns[0], strict=True)
    ]
    return [
        [value.item() for value, kept in zip(column, keep, strict=True) if kept]
        for column in columns
    ]


def orders(scores):
    """Yields all orders of the documents, best first, that the scores allow."""
    groups = [
        [i for i, score in enumerate(scores) if score == value]
        for value in sorted(set(scores), reverse=True)
    ]
    for parts in itertools.product(*map(itertools.permutations, groups)):
        yield [i for part in parts for i in part]


def over_all_orders(function, labels, scores):
    """Averages `function(ranked labels)` over all orders that the scores allow."""
    values = [function([labels[i] for i in order]) for order in orders(scores)]
    return sum(values) / len(values)


def top_sets(scores, k):
    """Returns the sets of the k best documents, one for each order."""
    return [set(order[:k]) for order in orders(scores)]


def mean_over_top_sets(function, scores, k):
    """Averages `function(set of documents)` over the sets of the k best."""
    sets = top_sets(scores, k)
    return sum(function(best) for best in sets) / len(sets)


def dcg(ranked, k):
    return sum(
        (2.0**label - 1.0) / math.log2(1 + rank)
        for rank, label in enumerate(ranked, start=1)
        if rank <= k
    )


def ndcg(labels, scores, k):
    best = dcg(sorted(labels, reverse=True), k)
    if best == 0:
        return 0.0, 0.0
    return over_all_orders(lambda r: dcg(r, k) / best, labels, scores), 1.0


def reciprocal_rank(labels, scores, k):
    if not any(label > 0 for label in labels):
        return 0.0, 0.0

    def one(ranked):
        rank = next(i for i, label in enumerate(ranked, start=1) if label > 0)
        return 1.0 / rank if rank <= k else 0.0

    return over_all_orders(one, labels, scores), 1.0


def kept_value(values, scores, k):
    """Returns the share of a value that the k best keep, and the value."""
    total = sum(values)
    if total == 0:
        return 0.0, 0.0
    kept = mean_over_top_sets(lambda best: sum(values[i] for i in best), scores, k)
    return kept / total, total


def hit_rate(labels, scores, k):
    rate, total = kept_value([float(label > 0) for label in labels], scores, k)
    return rate, float(total > 0)


def weighted_recall(labels, scores, k):
    values = [label if label > 0 else 0.0 for label in labels]
    recall, total = kept_value(values, scores, k)
    return recall, float(total > 0)


def pooled_recall(labels, scores, values, k):
    worth = [
        value if label > 0 and value > 0 else 0.0
        for label, value in zip(labels, values, strict=True)
    ]
    return kept_value(worth, scores, k)


def ranker_hit_rate(ranker, scores, k, m):
    if not ranker:
        return 0.0, 0.0
    pairs = list(itertools.product(top_sets(scores, k), top_sets(ranker, m)))
    hits = sum(len(ours & theirs) for ours, theirs in pairs) / len(pairs)
    return hits / min(m, len(ranker)), 1.0


def overlap(ranker, scores, k):
    return ranker_hit_rate(ranker, scores, k, k)


def score_recall(ranker, scores, k, gain):
    if gain == "sigmoid":
        gains = [1 / (1 + math.exp(-r)) for r in ranker]
    else:
        gains = [r - min(ranker) for r in ranker]
    best = sum(sorted(gains, reverse=True)[:k])
    if best == 0:
        return 0.0, 0.0
    kept = mean_over_top_sets(lambda s: sum(gains[i] for i in s), scores, k)
    return kept / best, 1.0


def forwarded_share(counts, scores, k, below):
    if not counts:
        return 0.0, 0.0

    def share(best):
        return sum(counts[i] < below for i in best) / len(best)

    return mean_over_top_sets(share, scores, k), 1.0


def intent_coverage(labels, scores, intents, k):
    none = ("", b"", -1)
    wanted = {
        intent
        for label, intent in zip(labels, intents, strict=True)
        if label > 0 and intent not in none
    }
    if not wanted:
        return 0.0, 0.0

    def covered(best):
        return len({intents[i] for i in best} & wanted) / len(wanted)

    return mean_over_top_sets(covered, scores, k), 1.0


def auc(labels, scores):
    """Returns AUC pair by pair; the weight is the number of documents."""
    won = pairs = 0.0
    for label, score in zip(labels, scores, strict=True):
        for other_label, other_score in zip(labels, scores, strict=True):
            if label > 0 and other_label <= 0:
                pairs += 1
                won += (score > other_score) + 0.5 * (score == other_score)
    return (won / pairs, float(len(labels))) if pairs else (0.0, 0.0)


def pauc(labels, scores, ranker, k):
    known = [i for i, r in enumerate(ranker) if not math.isnan(r)]
    won = pairs = 0.0
    for best in top_sets([ranker[i] for i in known], k):
        inside = [known[i] for i in best]
        for i, j in itertools.product(inside, inside):
            if labels[i] > 0 and labels[j] <= 0:
                pairs += 1
                won += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    return (won / pairs, 1.0) if pairs else (0.0, 0.0)


def kendall_tau(ranker, scores):
    balance = by_ranker = by_score = 0

    def sign(a, b):
        return (a > b) - (a < b)

    for (r, s), (other_r, other_s) in itertools.combinations(
        zip(ranker, scores, strict=True), 2
    ):
        balance += sign(r, other_r) * sign(s, other_s)
        by_ranker += r != other_r
        by_score += s != other_s
    if by_ranker == 0:
        return 0.0, 0.0
    return (balance / math.sqrt(by_ranker * by_score) if by_score else 0.0), 1.0


def batch(function, labels, scores, where, *args):
    """Returns values and weights `[B]`; documents without a label are left out."""
    rows = [
        function(*kept_documents(lists, mask, False), *args)
        for *lists, mask in zip(labels, scores, where, strict=True)
    ]
    return np.array([v for v, _ in rows]), np.array([w for _, w in rows])
