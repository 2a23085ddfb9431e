"""A BERT of two blocks with random weights, as a folder of Hugging Face's form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tfrs_prerank.layers import SentenceBert

_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "shoe", "##s", "blue", "hat")
_SIZES = {
    "vocab_size": len(_TOKENS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
}


def tiny_bert(folder: Path, seed: int) -> Path:
    """Writes a folder that `SentenceBert.from_pretrained` reads, and returns it."""
    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("".join(f"{token}\n" for token in _TOKENS))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **_SIZES}))
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        tensors[name] = rng.normal(scale=0.3, size=shape).astype(np.float32)
        return tensors[name]

    # The layer says which tensors it reads.
    layer = SentenceBert(_SIZES, vocabulary)
    layer.embeddings.assign(read)
    for number, block in enumerate(layer.blocks):
        block.assign(read, number)
    save_file(tensors, folder / "model.safetensors")
    return folder
