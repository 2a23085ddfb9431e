"""Values of the interaction parts of FiBiNET and FiBiNET++."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import BilinearInteraction, FiBiNet, SENet

FIELDS = np.array([[[1.0, 3.0], [2.0, 6.0], [-2.0, 0.0]]], "float32")


def _random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _layer(shape: tuple[int, ...], **kwargs: Any) -> FiBiNet:
    layer = FiBiNet(**kwargs)
    layer.build(shape)
    layer.set_weights([_random(w.shape, i) for i, w in enumerate(layer.weights)])
    return layer


def test_original_by_hand() -> None:
    layer = FiBiNet(kernel="identity")
    layer.build(FIELDS.shape)
    # z = [2, 4, -1], z W_1 = 2 + 4 = 6, relu: 6, W_2 = [1/2, 1/3, -1]: [3, 2, -6],
    # relu: [3, 2, 0].
    layer.set_weights(
        [np.array([[1.0], [1.0], [0.0]]), np.array([[1 / 2, 1 / 3, -1.0]])]
    )
    plain = [2.0, 18.0, -2.0, 0.0, -4.0, 0.0]  # 1 with 2, 1 with 3, 2 with 3
    # Weighed by 3 * 2, 3 * 0 and 2 * 0.
    weighed = [12.0, 108.0, 0.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(layer(FIELDS), [plain + weighed], rtol=1e-6)


def test_plus_by_hand() -> None:
    layer = FiBiNet("plus", kernel="identity", units=2)
    layer.build(FIELDS.shape)
    layer.set_weights([np.array([[1.0, 0.0], [10.0, 0.0], [0.0, -1.0]])])
    # Inner products: 1 with 2: 20, 1 with 3: -2, 2 with 3: -4.
    np.testing.assert_allclose(layer(FIELDS), [[20.0 - 20.0, 4.0]], atol=1e-5)


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
@pytest.mark.parametrize("kernel", ["full", "sparse", 2])
def test_is_made_of_the_other_layers(kind: str, kernel: str | int) -> None:
    fields = _random((4, 6, 5), 9)
    options: dict[str, Any] = {"kind": kind, "kernel": kernel}
    if kernel == "sparse":
        options.update(density=0.5, seed=3)
    layer = _layer(fields.shape, reduction=2, activations=("tanh", "relu"), **options)
    gate = SENet(2, activations=("tanh", "relu"))
    plain, weighed = BilinearInteraction(**options), BilinearInteraction(**options)
    weights = layer.get_weights()
    for part in (plain, gate, weighed):
        part.build(fields.shape)
        count = len(part.weights)
        part.set_weights(weights[:count])
        weights = weights[count:]
    assert weights == []
    expected = [plain(fields), weighed(gate(fields))]
    expected = np.concatenate([np.reshape(e, [4, -1]) for e in expected], axis=1)
    np.testing.assert_allclose(layer(fields), expected, 1e-5, 1e-5)
    # The two branches differ in their kernels, too.
    assert not np.allclose(plain(fields), weighed(fields))


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_plus_equals_a_loop_over_pairs(kind: str) -> None:
    fields = _random((4, 6, 5), 9)
    layer = _layer(fields.shape, version="plus", kind=kind, units=3)
    compression, kernel = layer.get_weights()
    products = []
    for pair, (i, j) in enumerate(itertools.combinations(range(6), 2)):
        own = kernel if kind == "all" else kernel[i if kind == "each" else pair]
        products.append(np.einsum("bd,de,be->b", fields[:, i], own, fields[:, j]))
    expected = np.stack(products, axis=1) @ compression
    np.testing.assert_allclose(layer(fields), expected, 1e-4, 1e-4)


def test_a_gate_of_zeros_leaves_the_plain_branch() -> None:
    fields = _random((2, 5, 4))
    layer = _layer(fields.shape, kind="each")
    weights = layer.get_weights()
    weights[2] = np.zeros_like(weights[2])
    layer.set_weights(weights)
    output = layer(fields).numpy()
    assert output.shape == (2, 2 * 10 * 4)
    assert np.all(output[:, :40] != 0) and not np.any(output[:, 40:])


def test_numbers_of_parameters() -> None:
    original = FiBiNet(kind="interaction")
    original.build([None, 6, 4])
    assert original.count_params() == 2 * 15 * 4 * 4 + 2 * 6 * 2
    # The paper's example of 50 fields of 10: one kernel, 1,225 products to 50 numbers.
    plus = FiBiNet("plus")
    plus.build([None, 50, 10])
    assert plus.count_params() == 10 * 10 + 1225 * 50


def test_parts_compute_in_the_dtype_of_the_layer() -> None:
    layer = FiBiNet(dtype="mixed_bfloat16")
    assert layer(FIELDS).dtype == tf.bfloat16
    assert layer.senet.compute_dtype == layer.weighed.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"version": "new"}, "`version` must be.*Received: 'new'"),
        ({"units": 8}, "`units` is for version 'plus'.*Received: units=8"),
        ({"version": "plus", "units": 0}, "`units`.*Received: 0"),
        ({"version": "plus", "reduction": 2}, "'original'.*Received: reduction=2"),
        (
            {"version": "plus", "activations": ("relu", "sigmoid")},
            "'original'.*activations=.*'sigmoid'",
        ),
        ({"kind": "some"}, "`kind`.*Received: 'some'"),
        ({"kernel": "identity", "kind": "each"}, "`kind` does nothing.*kind='each'"),
        ({"reduction": 0}, "`reduction`.*Received: 0"),
        ({"activations": "relu"}, "`activations` must be a pair.*'relu'"),
        ({"seed": 1}, "kernel='sparse'.*seed=1"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiBiNet(**kwargs)


def test_build_errors() -> None:
    with pytest.raises(ValueError, match=r"\[B, F, D\]. Received: shape \(None, 4\)"):
        FiBiNet().build([None, 4])
    with pytest.raises(ValueError, match=r"number of fields 2\. Received: 3"):
        FiBiNet().build([None, 2, 4])
    with pytest.raises(ValueError, match=r"field size 4\. Received: 5"):
        FiBiNet("plus", kernel=5).build([None, 3, 4])
