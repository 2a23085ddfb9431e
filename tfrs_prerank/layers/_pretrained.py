"""Reads the folder of a BERT as Hugging Face and sentence-transformers write it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from tfrs_prerank.layers._bert import BertConfig, Read

POOLINGS = ("mean", "cls")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What a folder says of its model.

    Attributes:
        config: sizes.
        vocabulary: the file of tokens.
        weights: the file of tensors.
        lower: whether letters become small.
        strip_accents: whether accents go; `None` means where `lower`.
        chinese: whether an ideograph is a word of its own.
        max_length: most tokens of a text, special ones included.
        pooling: `"mean"` or `"cls"`.
        normalize: whether vectors become of unit length.
    """

    config: BertConfig
    vocabulary: Path
    weights: Path
    lower: bool
    strip_accents: bool | None
    chinese: bool
    max_length: int
    pooling: str
    normalize: bool


def read_folder(folder: Path, pooling: str | None = None) -> Pretrained:
    """Reads the configuration files of a folder.

    Args:
        folder: holds `config.json`, `vocab.txt` and `model.safetensors`, and where
            sentence-transformers wrote it `modules.json` and the folders named there.
        pooling: taken instead of the folder's own.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not JSON, or asks for what is not supported.
    """
    modules = _modules(folder)
    model = folder / modules.get("Transformer", "")
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        _existing(model / name)
    config = _config(model / "config.json")
    tokenizer = _json(model / "tokenizer_config.json", optional=True)
    sentences = _json(model / "sentence_bert_config.json", optional=True)
    if pooling is None:
        pooling = _pooling(folder, modules)
    return Pretrained(
        config=config,
        vocabulary=model / "vocab.txt",
        weights=model / "model.safetensors",
        # sentence-transformers may ask for small letters beside its tokeniser.
        lower=bool(
            tokenizer.get("do_lower_case", True) or sentences.get("do_lower_case")
        ),
        strip_accents=_strip_accents(tokenizer),
        chinese=bool(tokenizer.get("tokenize_chinese_chars", True)),
        max_length=_max_length(config, tokenizer, sentences),
        pooling=pooling,
        normalize="Normalize" in modules,
    )


@contextmanager
def open_weights(path: Path) -> Iterator[Read]:
    """Opens a file of tensors, which are read one by one and only when asked for.

    Args:
        path: a file in the safetensors format. Names may begin with `bert.`, and a
            norm's weights may have their old names, gamma and beta.

    Yields:
        A function from a tensor's name and shape to its float32 values.

    Raises:
        ValueError: the file is damaged, or (from the function) a tensor is missing or
            of another shape.
    """
    try:
        file = safetensors.safe_open(str(path), framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy it again"
        ) from None
    with file:
        names = set(file.keys())

        def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
            found = next((n for n in _spellings(name) if n in names), None)
            if found is None:
                raise ValueError(
                    f"{path} has no tensor {name!r} among its {len(names)}; take the "
                    "weights that belong to config.json"
                )
            has = tuple(file.get_slice(found).get_shape())
            if has != shape:
                raise ValueError(
                    f"{path}: tensor {found!r} is of shape {list(has)}, but by "
                    f"config.json it is {list(shape)}; take both from the same model"
                )
            return np.asarray(file.get_tensor(found)).astype(np.float32)

        yield read


def _spellings(name: str) -> Iterator[str]:
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    old = old.replace("LayerNorm.bias", "LayerNorm.beta")
    for spelling in (name, old):
        yield spelling
        yield f"bert.{spelling}"


def _config(path: Path) -> BertConfig:
    values = _json(path)
    kinds = {"model_type": "bert", "position_embedding_type": "absolute"}
    for key, wanted in kinds.items():
        if values.get(key, wanted) != wanted:
            raise ValueError(
                f"{path}: {key} is {values[key]!r}; SentenceBert reads {wanted!r} only"
            )
    fields = {field.name for field in dataclasses.fields(BertConfig)}
    try:
        return BertConfig(**{k: v for k, v in values.items() if k in fields})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _modules(folder: Path) -> dict[str, str]:
    """Returns the folder of each module that sentence-transformers lists."""
    path = folder / "modules.json"
    listed = _json(path, optional=True) or []
    modules: dict[str, str] = {}
    for module in listed:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind not in ("Transformer", "Pooling", "Normalize") or kind in modules:
            raise ValueError(
                f"{path} lists {[m.get('type') for m in listed]}; SentenceBert has one "
                "Transformer, one Pooling and one Normalize"
            )
        modules[kind] = str(module.get("path", ""))
    return modules


def _pooling(folder: Path, modules: Mapping[str, str]) -> str:
    if "Pooling" not in modules:
        return "mean"  # as sentence-transformers does with a bare BERT
    path = folder / modules["Pooling"] / "config.json"
    values = _json(path)
    mode = values.get("pooling_mode")
    if mode is None:
        on = [key for key, value in values.items() if value is True]
        old = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        modes = [old.get(key, key) for key in on if key.startswith("pooling_mode_")]
    else:
        modes = [mode] if isinstance(mode, str) else list(mode)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ValueError(
            f"{path} pools by {', '.join(modes) or 'nothing'}; SentenceBert pools by "
            "'mean' or 'cls': give pooling='mean' to use the weights in that way"
        )
    return str(modes[0])


def _strip_accents(tokenizer: Mapping[str, Any]) -> bool | None:
    given = tokenizer.get("strip_accents")
    if given is None:
        return bool(tokenizer.get("do_lower_case", True))
    return bool(given)


def _max_length(
    config: BertConfig, tokenizer: Mapping[str, Any], sentences: Mapping[str, Any]
) -> int:
    longest = config.max_position_embeddings
    given = sentences.get("max_seq_length") or tokenizer.get("model_max_length")
    return min(longest, int(given)) if given else longest


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    fix = "the folder of a BERT has config.json, vocab.txt and model.safetensors"
    if path.name == "model.safetensors":
        fix = (
            "let transformers write it, in one file: "
            "model.save_pretrained(folder, max_shard_size='100GB')"
        )
    elif path.name == "vocab.txt":
        fix = "let transformers write it: tokenizer.save_vocabulary(folder)"
    raise FileNotFoundError(f"{path}: no such file; {fix}")


def _json(path: Path, optional: bool = False) -> Any:
    if optional and not path.is_file():
        return {}
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy it again") from None
