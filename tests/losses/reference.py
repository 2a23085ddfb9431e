"""Slow references: one document, or one pair of them, at a time, in Python floats.

A reference of a pointwise loss returns `(w l, w)` of every document that counts, list
by list; one of a loss over lists returns every list's loss, None where it is unusable.
"""

import math


def documents(labels, scores, where, weights):
    """Returns (label, score, weight) of every document of one list that counts."""
    kept = []
    for label, score, valid, weight in zip(labels, scores, where, weights, strict=True):
        if valid and not math.isnan(label) and weight != 0:
            kept.append((label, score, 1.0 if math.isnan(weight) else weight))
    return kept


def each_list(loss):
    """Makes a reference of a function of one list's documents."""

    def of_batch(labels, scores, where, weights, **options):
        rows = zip(labels, scores, where, weights, strict=True)
        return [loss(documents(*row), **options) for row in rows]

    return of_batch


def mean_and_sum(pointwise, terms):
    """Reduces what a reference returns."""
    if pointwise:
        terms = [term for row in terms for term in row]
        total = sum(value for value, _ in terms)
        count = sum(weight for _, weight in terms)
    else:
        total = sum(value for value in terms if value is not None)
        count = sum(value is not None for value in terms)
    return (total / count if count else 0.0), total


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def softmax(scores):
    mass = sum(math.exp(score) for score in scores)
    return [math.exp(score) / mass for score in scores]


@each_list
def sigmoid_cross_entropy(kept):
    terms = []
    for label, score, weight in kept:
        p = sigmoid(score)
        loss = -label * math.log(p) - (1.0 - label) * math.log(1.0 - p)
        terms.append((weight * loss, weight))
    return terms


@each_list
def contrastive(kept, margin=1.0):
    terms = []
    for label, distance, weight in kept:
        apart = max(0.0, margin - distance)
        loss = (label * distance**2 + (1.0 - label) * apart**2) / 2.0
        terms.append((weight * loss, weight))
    return terms


@each_list
def softmax_cross_entropy(kept):
    positive = sum(label for label, _, _ in kept)
    if positive == 0:
        return None
    mass = sum(math.exp(score) for _, score, _ in kept)
    loss = 0.0
    for label, score, weight in kept:
        loss -= weight * label * math.log(math.exp(score) / mass)
    return loss / positive


def pairs(kept):
    """Returns (document, less relevant document) of one list."""
    return [(one, other) for one in kept for other in kept if one[0] > other[0]]


@each_list
def ranknet(kept):
    losses = [w * -math.log(sigmoid(s - t)) for (_, s, w), (_, t, _) in pairs(kept)]
    return sum(losses) / len(losses) if losses else None


@each_list
def pairwise_hinge(kept, margin=1.0):
    losses = [w * max(0.0, margin - (s - t)) for (_, s, w), (_, t, _) in pairs(kept)]
    return sum(losses) / len(losses) if losses else None


@each_list
def triplet(kept, margin=0.2, hard_negatives=None):
    negatives = sorted((s for y, s, _ in kept if y == 0), reverse=True)
    losses = []
    for label, score, weight in kept:
        for other in negatives[:hard_negatives]:
            if label > 0:
                distance, its_distance = 1.0 - score, 1.0 - other
                loss = max(0.0, distance - its_distance + margin)
                losses.append(weight * loss)
    return sum(losses) / len(losses) if losses else None


def ndcg_changes(kept, k=None):
    """Returns {(i, j): |dZ|} of the pairs where document i is the more relevant."""
    k = len(kept) if k is None else k

    def discount(rank):
        return 1.0 / math.log2(1 + rank) if rank <= k else 0.0

    # Of equal scores the more relevant comes first.
    order = sorted(range(len(kept)), key=lambda i: (-kept[i][1], -kept[i][0]))
    rank = {i: place for place, i in enumerate(order, start=1)}
    best = sorted((label for label, _, _ in kept), reverse=True)
    idcg = sum((2.0**y - 1.0) * discount(r) for r, y in enumerate(best, start=1))
    changes = {}
    for i, (label, _, _) in enumerate(kept):
        for j, (other, _, _) in enumerate(kept):
            if label > other:
                change = abs(discount(rank[i]) - discount(rank[j]))
                changes[i, j] = change * (2.0**label - 2.0**other) / idcg
    return changes


@each_list
def lambdarank(kept, k=None):
    changes = ndcg_changes(kept, k)
    loss = 0.0
    for (i, j), change in changes.items():
        loss -= kept[i][2] * change * math.log(sigmoid(kept[i][1] - kept[j][1]))
    return loss if changes else None


def lambdarank_gradient(kept, k=None):
    """The corrected equation 32 of the source: minus the sum over lambda_ij."""
    gradient = [0.0] * len(kept)
    for (i, j), change in ndcg_changes(kept, k).items():
        force = kept[i][2] * change * sigmoid(kept[j][1] - kept[i][1])
        gradient[i] -= force
        gradient[j] += force
    return gradient


def against_lower(kept, level):
    """Mean loss of documents labelled `level` or more against all others, or None."""
    positives = [(score, weight) for label, score, weight in kept if label >= level]
    mass = sum(math.exp(score) for label, score, _ in kept if label < level)
    losses = [
        -weight * math.log(math.exp(score) / (math.exp(score) + mass))
        for score, weight in positives
    ]
    return sum(losses) / len(losses) if losses else None


@each_list
def multi_positive_softmax(kept):
    return against_lower(kept, 1e-9)


@each_list
def hierarchical_softmax(kept, level_weights=(1.0, 1.0, 1.0)):
    losses = [against_lower(kept, t + 1) for t in range(len(level_weights))]
    if losses[0] is None:
        return None
    pairs_of = zip(level_weights, losses, strict=True)
    return sum(weight * loss for weight, loss in pairs_of if loss is not None)


@each_list
def list_mle(kept):
    if not pairs(kept):
        return None
    lowest = min(label for label, _, _ in kept)
    loss = 0.0
    for label, score, weight in kept:
        if label > lowest:
            left = sum(math.exp(s) for y, s, _ in kept if y <= label)
            loss -= weight * math.log(math.exp(score) / left)
    return loss / len(kept)


@each_list
def softmax_distillation(kept, temperature=1.0):
    if len(kept) < 2:
        return None
    teacher = softmax([label / temperature for label, _, _ in kept])
    student = softmax([score / temperature for _, score, _ in kept])
    loss = 0.0
    for (_, _, weight), p, q in zip(kept, teacher, student, strict=True):
        loss += weight * (p * math.log(p / q) - p + q)
    return temperature**2 * loss


@each_list
def sigmoid_distillation(kept, temperature=1.0):
    terms = []
    for label, score, weight in kept:
        p, q = sigmoid(label / temperature), sigmoid(score / temperature)
        loss = p * math.log(p / q) + (1.0 - p) * math.log((1.0 - p) / (1.0 - q))
        terms.append((weight * temperature**2 * loss, weight))
    return terms
