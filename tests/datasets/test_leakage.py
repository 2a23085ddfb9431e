"""A document counter that equals the label after the event must not be learnable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tfrs_prerank import Categorical, Numeric, PreRanker, Schema, Task, Tower
from tfrs_prerank.datasets.requests import read, write
from tfrs_prerank.features import DocumentTable

REQUESTS, LENGTH = 60, 8
IDS = np.array([f"d{i}" for i in range(REQUESTS * LENGTH)])
# Every document is in one request, so after the event its counter is its label.
LABELS = np.random.default_rng(0).integers(0, 2, (REQUESTS, LENGTH)).astype(np.float32)
BEFORE = np.random.default_rng(1).integers(0, 2, (REQUESTS, LENGTH)).astype(np.float32)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The share of (positive, negative) pairs in the right order, ties half."""
    gaps = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def test_auc() -> None:
    # Pairs (.9, .1), (.9, .5), (.5, .1) right, (.5, .5) a tie: 3.5 of 4.
    assert auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.1, 0.5, 0.5])) == 0.875


@pytest.mark.parametrize(
    ("in_record", "learnable"),
    [
        # As it was at the request, in training; the snapshot is for the export.
        (BEFORE, False),
        # The same model on a counter that does hold the label: the test can fail.
        (LABELS, True),
    ],
)
def test_the_snapshot_after_the_event_is_not_learnable(
    tmp_path: Path, in_record, learnable
) -> None:
    schema = Schema(
        features=[
            Categorical("user_id", "query", buckets=4, dimension=4),
            Numeric("clicks", "doc", point_in_time=True, dimension=4),
        ],
        tasks=[Task("click")],
    )
    documents = DocumentTable(IDS, {"clicks": LABELS.reshape(-1)})
    requests = []
    for number, ids in enumerate(IDS.reshape(REQUESTS, LENGTH)):
        requests.append(
            {
                "user_id": "u",
                "doc_ids": ids,
                "clicks": in_record[number],
                "label/click": LABELS[number],
            }
        )
    write(tmp_path, "train", schema, requests[:40], documents=documents)
    write(tmp_path, "test", schema, requests[40:], documents=documents)

    options = {"schema": schema, "documents": documents}
    tower = Tower(units=(8,), dimension=4, output=4)
    model = PreRanker(schema, tower, tower)
    model.compile()
    model.optimizer.learning_rate.assign(0.02)
    model.fit(read(tmp_path, "train", batch_size=8, **options), epochs=15, verbose=0)
    for split in ("train", "test"):
        (batch,) = read(tmp_path, split, batch_size=40, shuffle=False, **options)
        scores = model(batch)["scores"].numpy()
        found = auc(batch["label/click"].numpy().ravel(), scores.ravel())
        if learnable:
            assert found > 0.99, split
        else:
            # One feature that knows nothing: it can only be right by chance. The
            # standard error is about .03 on 320 training documents, .05 on 160.
            assert 0.4 < found < 0.6, split
