"""Made-up batches with every column that a metric can read."""

import numpy as np

LENGTH = 5
IDS = ["d1", "d2", "d3", "d4", "d5", "d6"]


def make_requests(count=24, users=6, seed=0):
    """Returns `count` requests as one batch of NumPy arrays, with gaps and ties."""
    generator = np.random.default_rng(seed)
    shape = (count, LENGTH)
    mask = np.arange(LENGTH) < generator.integers(1, LENGTH + 1, (count, 1))
    click = (generator.random(shape) < 0.4).astype(np.float32)
    teacher = generator.normal(size=shape).astype(np.float32)
    elsewhere = (generator.random(shape) < 0.3).astype(np.float32)
    click[generator.random(shape) < 0.1] = np.nan
    teacher[generator.random(shape) < 0.1] = np.nan
    elsewhere[generator.random(shape) < 0.1] = np.nan
    ids = np.array([generator.permutation(IDS)[:LENGTH] for _ in range(count)])
    return {
        "mask": mask,
        "doc_ids": ids,
        "request_id": np.array([f"r{i:03d}" for i in range(count)]),
        "group_id": generator.choice([f"u{i}" for i in range(users)], count),
        "category": generator.choice(["a", "b", ""], shape),
        "city": generator.choice(["rome", "oslo"], count),
        "age": generator.integers(0, 40, shape).astype(np.float32),
        "price": generator.random(shape).astype(np.float32),
        "label/click": click,
        "label/out_of_scene": elsewhere,
        "teacher/click": teacher,
        # Few levels: many ties.
        "popularity": generator.integers(0, 3, shape).astype(np.float32),
        "score": generator.normal(size=shape).astype(np.float32),
        "other": generator.normal(size=shape).astype(np.float32),
    }


def rows_of(requests, index):
    return {name: column[index] for name, column in requests.items()}


def batches_of(requests, size):
    return [
        rows_of(requests, slice(start, start + size))
        for start in range(0, len(requests["mask"]), size)
    ]


def logits_of(column):
    """A ranking that gives scores and logits, as a model does."""
    return lambda batch: {"scores": batch[column], "click": batch[column]}
