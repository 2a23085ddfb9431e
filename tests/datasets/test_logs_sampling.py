"""Logs converted with a mixture: sampled training lists, whole ones to measure on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfrs_prerank import Categorical, Numeric, Schema, Task
from tfrs_prerank.datasets import _log_steps
from tfrs_prerank.datasets.documents_file import read_documents
from tfrs_prerank.datasets.logs import LogColumns, LogsConfig, convert
from tfrs_prerank.datasets.requests import read
from tfrs_prerank.declaration import ConfigurationError, from_mapping

FEATURES = (
    Categorical("user_id", "query", buckets=9),
    Categorical("city", "doc", buckets=9),
    Categorical("tags", "doc", buckets=9, max_values=3, point_in_time=True),
    Numeric("price", "doc", point_in_time=True, missing=-1, standardize=True),
)
SCHEMA = Schema([*FEATURES, Numeric("bm25", "cross", missing=-1)], [Task("click")])
IDS = [f"d{i:02}" for i in range(30)]
MIXTURE = {
    "ranked": 1,
    "preranked_out": 2,
    "catalog": {"count": 4, "by": ["exposures", "city"]},
    "hard": {"first": 6, "last": 8, "easy_per_hard": 6},
    "positives": {"min_exposures": 1},
    "seed": 3,
}


def frame(requests=12) -> pd.DataFrame:
    """Request n has d_n and d_n+1 exposed, three ranked and five left out."""
    rows = []
    for number in range(requests):
        for place in range(10):
            rows.append(
                {
                    "request_id": f"r{number:02}",
                    "time": 1000 + 10 * number,
                    "user_id": f"u{number % 3}",
                    "doc_id": IDS[number + place],
                    "stage": "exposed" if place < 2 else "ranked" if place < 5 else 2,
                    "rank": place + 1,
                    "price": float(number),
                    "tags": ["t", f"t{number}"],
                    "bm25": 5.0,
                    "click": float(place == 0) if place < 2 else None,
                }
            )
    return pd.DataFrame(rows).astype({"stage": str})


def sampled(folder: Path, data: pd.DataFrame, mixture=MIXTURE, out="out", **changes):
    data.to_parquet(folder / "log.parquet")
    documents = {"doc_id": IDS, "city": ["x", "y", "z"] * 10, "price": [99.0] * 30}
    documents["tags"] = [["snapshot"]] * 30
    pd.DataFrame(documents).to_parquet(folder / "docs.parquet")
    value = {
        "requests": str(folder / "log.parquet"),
        "documents": str(folder / "docs.parquet"),
        "columns": {"stage": "stage", "rank": "rank"},
        "mixture": mixture,
        **changes,
    }
    report = convert(from_mapping(LogsConfig, value, "c.yaml"), SCHEMA, folder / out)
    return report, folder / out


def records(folder: Path, split: str):
    """Reads a split back as {request: {document: {column: value}}}."""
    schema = Schema.from_yaml(folder / "schema.yaml")
    documents = read_documents(folder / "documents.parquet")
    options = {"schema": schema, "documents": documents, "batch_size": 100}
    (batch,) = read(folder, split, shuffle=False, **options)
    batch = {name: tensor.numpy() for name, tensor in batch.items()}
    of_document = [n for n, v in batch.items() if v.ndim > 1]
    return {
        name.decode(): {
            batch["doc_ids"][row, place].decode(): {
                column: batch[column][row, place] for column in of_document
            }
            for place in np.flatnonzero(batch["mask"][row])
        }
        for row, name in enumerate(batch["request_id"])
    }


def test_training_lists_are_sampled_and_the_others_whole(tmp_path: Path) -> None:
    report, folder = sampled(tmp_path, frame())
    assert report.requests_written == {"train": 9, "validation": 1, "test": 2}
    # One hard negative for six easy ones: 2 left out and 4 of the catalogue.
    assert report.sampled == {
        "exposed": 2 * 9,
        "ranked": 1 * 9,
        "preranked_out": 2 * 9,
        "hard": 1 * 9,
        "catalog": 4 * 9,
    }
    assert report.rows_dropped == {
        "ranked_not_drawn": 2 * 9,
        "preranked_out_not_drawn": 2 * 9,
    }
    assert report.rows_read == 120
    assert report.rows_written == 120 - 4 * 9
    saved = json.loads((folder / "report.json").read_text())
    assert saved == json.loads(report.to_json())
    assert "documents in training lists: hard" in str(report)
    assert "rows dropped: ranked_not_drawn" in str(report)

    for split in ("validation", "test"):
        for found in records(folder, split).values():
            assert len(found) == 10
            assert all("log_q" not in values for values in found.values())
    train = records(folder, "train")
    assert len(train) == 9
    for name, found in train.items():
        number = int(name[1:])
        own = set(IDS[number : number + 10])
        assert len(found) == 2 + 1 + 2 + 1 + 4
        for document, values in found.items():
            assert not [column for column in values if "rank" in column]
            assert values["label/click"] == float(document == IDS[number])
            place = int(document[1:])
            if document in own:
                assert values["stage"] == (np.array([2, 5]) <= place - number).sum()
                assert (values["price"], values["bm25"]) == (number, 5)
                continue
            # As the last request before knew it, and not as one after, or as the
            # table: d_i is in the requests i - 9 to i.
            assert values["stage"] == 3
            assert values["bm25"] == -1
            known = place < number
            assert values["price"] == (place if known else -1)
            tags = [b"t", b"t%d" % place, b""] if known else [b"", b"", b""]
            assert values["tags"].tolist() == tags
        log_q = {s: [] for s in range(4)}
        for values in found.values():
            log_q[int(values["stage"])].append(values["log_q"])
        np.testing.assert_array_equal(log_q[0], 0)
        np.testing.assert_allclose(log_q[1], np.log(1 / 3), rtol=1e-6)
        # One of the three of ranks 6 to 8, then two of the four others.
        chances = {round(float(np.exp(x)), 4) for x in log_q[2]}
        assert chances <= {0.5, round(1 / 3 + 2 / 3 * 0.5, 4)}
    # Statistics are those of the lists that a model sees; -1 is left out of them.
    prices = [v["price"] for found in train.values() for v in found.values()]
    statistics = json.loads((folder / "statistics.json").read_text())
    mean = np.mean([price for price in prices if price != -1])
    assert statistics["price"]["mean"] == pytest.approx(mean)


def test_the_same_lists_in_any_order_and_over_shards(tmp_path, monkeypatch) -> None:
    report, folder = sampled(tmp_path, frame())
    wanted = records(folder, "train")
    shuffled = frame().sample(frac=1, random_state=3)
    again, folder = sampled(tmp_path, shuffled, out="shards", shards=4)
    assert again == report
    np.testing.assert_equal(records(folder, "train"), wanted)
    monkeypatch.setattr(_log_steps, "ROWS_OF_A_PART", 20)
    again, folder = sampled(tmp_path, shuffled, out="parts")
    assert again == report
    np.testing.assert_equal(records(folder, "train"), wanted)
    # Another seed, other lists.
    _, folder = sampled(tmp_path, frame(), {**MIXTURE, "seed": 4}, out="seed")
    other = records(folder, "train")
    assert any(set(other[name]) != set(wanted[name]) for name in wanted)


def test_requests_of_which_nothing_is_left_are_reported(tmp_path: Path) -> None:
    # Each d_n is exposed twice, first clicked and then, as the second of request
    # n - 1, not: only d_0 has one exposure, and request r00 one trusted document, d01.
    data = frame(10)
    data = data[(data["request_id"] != "r00") | (data["doc_id"] == "d00")]
    mixture = {"ranked": 0, "preranked_out": 0, "positives": {"min_exposures": 2}}
    report, folder = sampled(tmp_path, data, mixture, split=[1, 0, 0])
    assert report.requests_dropped == {"nothing_sampled": 1}
    assert report.requests_written == {"train": 9, "validation": 0, "test": 0}
    # d01 is exposed in r01 alone, now that r00 is but d00.
    assert report.rows_dropped["untrusted_positive"] == 2
    assert set(records(folder, "train")) == {f"r{n:02}" for n in range(1, 10)}
    with pytest.raises(ValueError, match="there is no training request"):
        sampled(tmp_path, data[:1], mixture, out="none", split=[1, 0, 0])
    assert not (tmp_path / "none").exists()


def test_a_mixture_that_does_not_fit_is_refused_before_anything_is_read(tmp_path):
    schema = Schema([*FEATURES, Numeric("bm25", "cross")], [Task("click")])
    columns = LogColumns(rank="rnak")
    config = LogsConfig(requests="no.csv", documents="no.csv", mixture={"catalog": 1})
    with pytest.raises(ConfigurationError, match=r"'bm25', \.\.\., missing=VALUE"):
        convert(config, schema, tmp_path / "out")
    with pytest.raises(ValueError, match=r"no column 'rnak' \(for production rank\)"):
        sampled(tmp_path, frame(2), {"hard": {}}, columns=columns)
    assert not (tmp_path / "out").exists()
