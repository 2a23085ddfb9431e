"""With log q a model learns what users want, without it what is seldom drawn."""

from __future__ import annotations

import numpy as np

from tfrs_prerank import Categorical, Schema, Task
from tfrs_prerank.features import DocumentTable
from tfrs_prerank.sampling import (
    Catalog,
    DocumentLog,
    Mixture,
    Sampler,
    in_batch_log_q,
)


def softmax_rows(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def pairs_in_order(learned, true):
    """The share of pairs that are ordered as by `true`, which has no ties."""
    first, second = np.triu_indices(len(true), 1)
    return ((learned[first] > learned[second]) == (true[first] > true[second])).mean()


def test_catalogue_negatives_with_log_q_give_the_true_order():
    # One kind of query; a document is clicked with the probability softmax(truth).
    # The four that were clicked most are exposed most, and the catalogue draws from
    # their band four times as often.
    truth = np.arange(8)[::-1] * 0.5
    clicked = np.repeat(np.arange(8), np.round(1500 * softmax_rows(truth)).astype(int))
    ids = [f"d{i}" for i in range(8)]
    schema = Schema(
        features=[
            Categorical("user_id", "query", buckets=2),
            Categorical("city", "doc", buckets=2),
        ],
        tasks=[Task("click")],
    )
    documents = DocumentTable(np.array(ids, object), {"city": [""] * 8})
    requests = [
        {"request_id": f"r{n}", "user_id": "u", "doc_ids": [ids[d]], "label/click": [1]}
        for n, d in enumerate(clicked)
    ]
    log = DocumentLog(requests, documents, schema)
    catalog = Catalog(
        4, bands=[int(np.sort(log.exposures)[4])], weights=[1, 4], alpha=1
    )
    sampler = Sampler(Mixture(catalog=catalog), schema, log)
    made = [sampler.sample(request).request for request in requests]
    place = np.array([[int(i[1:]) for i in m["doc_ids"]] for m in made])  # [R, 5]
    log_q = np.array([m["log_q"] for m in made])
    label = np.array([m["label/click"] for m in made])
    assert (label.sum(axis=1) == 1).all()

    def learned(correction):
        """Minimises the softmax cross entropy of the lists over eight scores."""
        scores = np.zeros(8)
        for _ in range(300):
            gradient = softmax_rows(scores[place] - correction) - label
            flat = np.bincount(place.ravel(), gradient.ravel(), minlength=8)
            scores -= 4 * flat / len(place)
        return scores

    assert pairs_in_order(learned(log_q), truth) == 1.0
    # Without it, those that are drawn often look bad, by about log(.9 / .25) = 1.3: two
    # steps, so that three pairs of 28 change places.
    plain = learned(0.0)
    assert pairs_in_order(plain, truth) < 0.95
    assert plain[4] > plain[3]


def test_the_sum_over_a_list_is_right_in_the_mean():
    # sum over the list of exp(s) / q, in the mean over seeds, is the sum of exp(s) over
    # the request's documents and the catalogue. Exposed 2, left out 5 of which 2 are
    # taken, and 3 of the 13 others.
    schema = Schema(
        features=[
            Categorical("user_id", "query", buckets=2),
            Categorical("city", "doc", buckets=2),
        ],
        tasks=[Task("click")],
    )
    ids = [f"d{i:02}" for i in range(20)]
    cities = ["x"] * 14 + ["y"] * 6
    documents = DocumentTable(np.array(ids, object), {"city": cities})
    request = {
        "request_id": "r", "user_id": "u", "doc_ids": ids[8:15],
        "stage": [0, 0, 2, 2, 2, 2, 2], "label/click": [1, 0, 0, 0, 0, 0, 0],
    }  # fmt: skip
    log = DocumentLog([request], documents, schema)
    weight = dict(zip(ids, np.linspace(0.5, 2.5, 20), strict=True))  # exp(s)
    sums = []
    for seed in range(1500):
        catalog = Catalog(3, by=["city"], alpha=0.3)
        mixture = Mixture(preranked_out=2, catalog=catalog, seed=seed)
        if not sums:
            sampler = Sampler(mixture, schema, log)
        sampler.mixture = mixture  # the strata are those of any seed
        made = sampler.sample(request).request
        sums.append(
            sum(
                weight[name] / np.exp(float(log_q))
                for name, log_q in zip(made["doc_ids"], made["log_q"], strict=True)
            )
        )
    error = np.std(sums) / np.sqrt(len(sums))
    assert error < 0.2
    assert abs(np.mean(sums) - sum(weight.values())) < 4 * error  # 30


def test_in_batch_negatives_with_log_q_give_the_true_order():
    # P(d | query) = popularity times taste, normalised. In batches of 16 a popular
    # document is a negative of nearly every row.
    rng = np.random.default_rng(5)
    queries, documents, batch = 3, 8, 16
    popularity = np.array([40, 20, 10, 8, 6, 4, 3, 2.0])
    taste = np.exp(rng.normal(0, 1, [queries, documents]))
    truth = popularity * taste
    truth /= truth.sum(axis=1, keepdims=True)
    query = rng.integers(0, queries, [400, batch])
    chosen = (truth.cumsum(axis=1)[query] < rng.random([400, batch, 1])).sum(axis=-1)
    counts = np.bincount(chosen.ravel(), minlength=documents)
    log_q = in_batch_log_q(counts, requests=chosen.size, batch_size=batch)
    # Candidates of a row: the distinct documents of its batch.
    there = np.zeros([400, documents], bool)
    np.put_along_axis(there, chosen, True, axis=1)

    def learned(correction):
        scores = np.zeros([queries, documents])
        one_hot = np.eye(documents)[chosen]  # [400, B, D]
        for _ in range(150):
            logits = np.where(there[:, None], scores[query] - correction, -np.inf)
            gradient = softmax_rows(logits) - one_hot
            total = np.zeros_like(scores)
            np.add.at(total, query, gradient)
            scores -= 4 * total / np.bincount(query.ravel())[:, None]
        return scores

    def in_order(scores):
        shares = zip(scores, truth, strict=True)
        return np.mean([pairs_in_order(one, other) for one, other in shares])

    with_log_q = in_order(learned(log_q))
    without = in_order(learned(np.zeros(documents)))
    assert with_log_q > 0.95
    assert without < 0.85
