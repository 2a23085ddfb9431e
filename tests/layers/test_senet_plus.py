"""Values of the bit-wise squeeze-and-excitation gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import SENetPlus

FIELDS = np.array([[[1.0, 3.0], [2.0, -2.0]]], "float32")


def _gate(weights: list, shape: tuple[int, int], **kwargs: Any) -> SENetPlus:
    gate = SENetPlus(**kwargs)
    gate.build([None, *shape])
    gate.set_weights([np.array(w) for w in weights])
    return gate


def _random(shape: tuple[int, int], **kwargs: Any) -> SENetPlus:
    gate = SENetPlus(**kwargs)
    gate.build([None, *shape])
    rng = np.random.default_rng(1)
    gate.set_weights([rng.normal(size=w.shape) for w in gate.weights])
    return gate


def _slow(gate: SENetPlus, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The formulas, one number after the other: outputs and mean multipliers."""
    first, second, scale, offset = (w.astype("float64") for w in gate.get_weights())
    outputs, weights = np.zeros(fields.shape), np.zeros(fields.shape[:2])
    size = fields.shape[2]
    for b, example in enumerate(fields.astype("float64")):
        squeezed: list[float] = []
        for field in example:
            groups = np.split(field, gate.groups)
            squeezed += [max(group) for group in groups]
            squeezed += [sum(group) / len(group) for group in groups]
        hidden = np.maximum(np.array(squeezed) @ first, 0)
        for f, field in enumerate(example):
            bits = hidden @ second[:, f * size : (f + 1) * size]
            fused = field * bits + field
            normal = (fused - fused.mean()) / np.sqrt(fused.var() + 1e-5)
            outputs[b, f] = normal * scale + offset
            weights[b, f] = np.mean(1 + bits)
    return outputs, weights


def test_by_hand() -> None:
    # One group: z = [max, mean] of each field = [3, 2, 2, 0], z W1 = 3 - 2 + 1 = 2,
    # times W2: a = [[2, 0], [-2, 1]]. e * a + e = [[3, 3], [-2, -4]]: the first
    # normalises to 0, the second (mean -3, variance 1) to [1, -1].
    first = [[1.0], [-1.0], [0.5], [7.0]]
    gate = _gate(
        [first, [[1.0, 0.0, -1.0, 0.5]], [2.0, 3.0], [10.0, 20.0]],
        (2, 2),
        groups=1,
        reduction=4,
    )
    np.testing.assert_allclose(gate(FIELDS), [[[10.0, 20.0], [12.0, 17.0]]], rtol=1e-5)
    # The means of 1 + a: (3 + 1) / 2 and (-1 + 2) / 2.
    np.testing.assert_allclose(gate.field_weights(FIELDS), [[2.0, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(("row", "value"), [*enumerate([3, 2, 2, 1, 5, 8, 5, 6])])
def test_order_of_what_is_squeezed(row: int, value: float) -> None:
    # Two groups: maxima (3, 2), means (2, 1) of the first field, then of the second.
    fields = np.array([[[1.0, 3.0, 2.0, 0.0], [5.0, 5.0, 8.0, 4.0]]], "float32")
    gate = _gate(
        [np.eye(8)[:, row : row + 1], [[0.0] * 4 + [1.0] * 4], np.ones(4), np.zeros(4)],
        (2, 4),
        reduction=8,
    )
    np.testing.assert_allclose(gate.field_weights(fields), [[1.0, 1.0 + value]])


@pytest.mark.parametrize(("groups", "reduction"), [(1, 3), (2, 3), (3, 1), (6, 12)])
def test_equals_a_loop(groups: int, reduction: int) -> None:
    fields = np.random.default_rng(0).normal(size=[4, 5, 6]).astype("float32")
    gate = _random((5, 6), groups=groups, reduction=reduction)
    outputs, weights = _slow(gate, fields)
    np.testing.assert_allclose(gate(fields), outputs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gate.field_weights(fields), weights, 1e-4, 1e-5)


@pytest.mark.parametrize("zero", ["squeeze", "excite", "relu"])
def test_without_excitation_fields_are_only_normalised(zero: str) -> None:
    fields = np.random.default_rng(0).normal(size=[4, 3, 8]).astype("float32")
    gate = _random((3, 8))
    first, second, _, _ = gate.get_weights()
    if zero == "excite":
        second *= 0
    else:  # squeezed numbers of -1 at the most, and a kernel that is not negative
        fields -= fields.max() + 1
        first = first * 0 if zero == "squeeze" else np.abs(first)
    gate.set_weights([first, second, np.ones(8), np.zeros(8)])
    np.testing.assert_array_equal(gate.field_weights(fields), np.ones([4, 3]))
    output = gate(fields).numpy()
    np.testing.assert_allclose(output.mean(axis=-1), np.zeros([4, 3]), atol=1e-6)
    np.testing.assert_allclose(output.std(axis=-1), np.ones([4, 3]), rtol=1e-4)
    centred = fields - fields.mean(axis=-1, keepdims=True)
    ratio = output / centred
    np.testing.assert_allclose(ratio, ratio[..., :1] * np.ones(8), rtol=1e-3)


def test_permuting_fields_and_weights_permutes_the_output() -> None:
    rng = np.random.default_rng(0)
    fields = rng.normal(size=[4, 6, 8]).astype("float32")
    gate, permuted = _random((6, 8)), _random((6, 8))
    order = rng.permutation(6)
    first, second, scale, offset = gate.get_weights()
    first = first.reshape(6, 4, -1)[order].reshape(24, -1)  # 2 g = 4 rows a field
    second = second.reshape(-1, 6, 8)[:, order].reshape(-1, 48)
    permuted.set_weights([first, second, scale, offset])
    expected = gate(fields).numpy()[:, order]
    np.testing.assert_allclose(permuted(fields[:, order]), expected, 1e-3, 1e-4)
    np.testing.assert_allclose(
        permuted.field_weights(fields[:, order]),
        gate.field_weights(fields).numpy()[:, order],
        1e-4,
        1e-4,
    )
    # The gate does tell fields apart: the weights alone must not be permuted.
    assert not np.allclose(gate(fields[:, order]), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "size", "groups", "reduction", "count"),
    [
        # 2 g F = 200, H = 66: 200 * 66 + 66 * 500 + 2 * 10.
        (50, 10, 2, 3, 46220),
        # 2 g F = 24, H = 24: 24 * 24 + 24 * 12 + 2 * 4.
        (3, 4, 4, 1, 872),
        # 2 g F = 8, H = 1: 8 + 4 + 2 * 2.
        (2, 2, 2, 8, 16),
    ],
)
def test_number_of_weights(
    fields: int, size: int, groups: int, reduction: int, count: int
) -> None:
    gate = SENetPlus(groups=groups, reduction=reduction)
    gate.build([None, fields, size])
    assert gate.count_params() == count


def test_large_fields_under_mixed_precision() -> None:
    # The sum of 8 numbers of about 3e4, their product with a multiplier of 3 and
    # their variance are all beyond float16. z = 3e4 at W1 = 1e-4 gives 3, minus 1 in
    # W2: 1 + a = 1 + 3 * 2 / 3 = 3; LN takes away any common multiplier.
    fields = 3e4 + np.array([[[512.0, -512.0] * 8] * 2], "float32")
    gate = SENetPlus(reduction=8, dtype="mixed_float16")
    gate.build([None, 2, 16])
    first = np.zeros([8, 1])
    first[2] = 1e-4  # the mean of the first field's first group
    gate.set_weights([first, np.full([1, 32], 2 / 3), np.ones(16), np.zeros(16)])
    np.testing.assert_allclose(
        tf.cast(gate.field_weights(fields), tf.float32), [[3.0, 3.0]], rtol=5e-3
    )
    np.testing.assert_allclose(gate(fields), np.sign(fields - 3e4), atol=5e-3)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`groups`.*Received: 0"):
        SENetPlus(groups=0)
    with pytest.raises(ValueError, match=r"`reduction`.*Received: 1\.5"):
        SENetPlus(reduction=1.5)
    with pytest.raises(
        ValueError, match=r"`groups`\. Received: field size 8, groups=3"
    ):
        SENetPlus(groups=3).build([None, 4, 8])
    with pytest.raises(ValueError, match=r"fields = 16\. Received: 17"):
        SENetPlus(reduction=17).build([None, 4, 8])
    with pytest.raises(ValueError, match=r"D must be at least 2\. Received: 1; use"):
        SENetPlus(groups=1).build([None, 4, 1])
    with pytest.raises(ValueError, match=r"needs a known field size"):
        SENetPlus().build([None, 4, None])
