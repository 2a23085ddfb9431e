"""Values of the compressed interaction network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import CIN

FIELDS = np.array([[[1.0, 2.0], [3.0, -1.0]]], "float32")


def _random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _layer(shape: tuple[int, ...], units: tuple[int, ...], **kwargs: Any) -> CIN:
    layer = CIN(units, **kwargs)
    layer.build(shape)
    layer.set_weights([_random(w.shape, i) for i, w in enumerate(layer.weights)])
    return layer


def _loop(layer: CIN, fields: np.ndarray) -> np.ndarray:
    """Returns eq. 6-8 for one example, as they stand."""
    first = maps = fields.astype("float64")
    weights = [weight.astype("float64") for weight in layer.get_weights()]
    outputs: list[float] = []
    for number, unit in enumerate(layer.units):
        made = np.zeros([unit, fields.shape[1]])
        for h in range(unit):
            if layer.rank is None:
                kernel = weights[number][:, h].reshape(len(maps), len(first))
            else:
                left, right = weights[2 * number : 2 * number + 2]
                kernel = left[:, h] @ right[:, h].T
            for i in range(len(maps)):
                for j in range(len(first)):
                    made[h] += kernel[i, j] * (maps[i] * first[j])
        if layer.activation is tf.keras.activations.tanh:
            made = np.tanh(made)
        half = layer.split_half and number < len(layer.units) - 1
        outputs += list(made[unit // 2 if half else 0 :].sum(axis=1))
        maps = made[: unit // 2] if half else made
    return np.array(outputs)


def test_by_hand() -> None:
    layer = CIN((2, 1))
    layer.build(FIELDS.shape)
    # Rows: (1, 1), (1, 2), (2, 1), (2, 2) of (map before, field).
    layer.set_weights(
        [
            np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
            np.array([[0.0], [1.0], [0.0], [0.5]]),
        ]
    )
    # X^1_1 = x_1 * x_1 = [1, 4], sum 5.
    # X^1_2 = x_1 * x_2 + x_2 * x_1 = [3, -2] + [3, -2] = [6, -4], sum 2.
    # X^2_1 = X^1_1 * x_2 + X^1_2 * x_2 / 2 = [3, -4] + [9, 2] = [12, -2], sum 10.
    np.testing.assert_array_equal(layer(FIELDS), [[5.0, 2.0, 10.0]])


def test_activation_by_hand() -> None:
    # As above with relu: X^1_2 = [6, 0], sum 6, and X^2_1 = relu([3, -4] + [9, 0])
    # = [12, 0].
    layer = CIN((2, 1), activation="relu")
    layer.build(FIELDS.shape)
    layer.set_weights(
        [
            np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
            np.array([[0.0], [1.0], [0.0], [0.5]]),
        ]
    )
    np.testing.assert_array_equal(layer(FIELDS), [[5.0, 6.0, 12.0]])


def test_the_second_half_goes_to_the_output() -> None:
    layer = CIN((2, 1), split_half=True)
    layer.build(FIELDS.shape)
    # X^1_1 = x_1 * x_1 = [1, 4] goes on, X^1_2 = x_2 * x_2 = [9, 1] out: 10.
    # X^2_1 = X^1_1 * x_2 = [3, -4], sum -1.
    layer.set_weights(
        [
            np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
            np.array([[0.0], [1.0]]),
        ]
    )
    np.testing.assert_array_equal(layer(FIELDS), [[10.0, -1.0]])


@pytest.mark.parametrize("rank", [None, 1, 2])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("split_half", [False, True])
@pytest.mark.parametrize("units", [(3,), (4, 3), (4, 6, 2)])
def test_equals_the_equations(
    units: tuple[int, ...], split_half: bool, activation: str | None, rank: int | None
) -> None:
    fields = _random((3, 5, 4), 9)
    options = {"split_half": split_half, "activation": activation, "rank": rank}
    layer = _layer(fields.shape, units, **options)
    expected = [_loop(layer, example) for example in fields]
    np.testing.assert_allclose(layer(fields), expected, rtol=1e-4, atol=1e-4)


def test_one_layer_is_a_quadratic_form_of_the_fields() -> None:
    fields = _random((3, 5, 4), 9)
    layer = _layer(fields.shape, (2,))
    kernel = layer.get_weights()[0].reshape(5, 5, 2)
    products = np.einsum("bid,bjd->bij", fields, fields)
    expected = np.einsum("bij,ijh->bh", products, kernel)
    np.testing.assert_allclose(layer(fields), expected, rtol=1e-4, atol=1e-5)


def test_a_low_rank_equals_its_product() -> None:
    fields = _random((3, 5, 4), 9)
    low = _layer(fields.shape, (3, 2), rank=2)
    full = CIN((3, 2))
    full.build(fields.shape)
    weights = low.get_weights()
    products = [
        np.einsum("ihr,jhr->ijh", left, right).reshape(-1, left.shape[1])
        for left, right in (weights[:2], weights[2:])
    ]
    full.set_weights(products)
    np.testing.assert_allclose(low(fields), full(fields), rtol=1e-4, atol=1e-4)


def test_the_first_layer_does_not_tell_the_order_of_a_pair() -> None:
    fields = _random((3, 5, 4), 9)
    layer = _layer(fields.shape, (4, 2))
    expected = layer(fields)
    first, second = layer.get_weights()
    turned = first.reshape(5, 5, 4).transpose(1, 0, 2).reshape(25, 4)
    layer.set_weights([turned, second])
    np.testing.assert_allclose(layer(fields), expected, rtol=1e-4, atol=1e-4)


def test_permuting_fields_and_weights_changes_nothing() -> None:
    fields = _random((3, 5, 4), 9)
    layer = _layer(fields.shape, (3, 2))
    expected = layer(fields)
    order = np.array([3, 0, 4, 1, 2])
    first, second = layer.get_weights()
    first = first.reshape(5, 5, 3)[order][:, order].reshape(25, 3)
    second = second.reshape(3, 5, 2)[:, order].reshape(15, 2)
    layer.set_weights([first, second])
    np.testing.assert_allclose(layer(fields[:, order]), expected, 1e-4, 1e-4)


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [
        # sum of H_k H_{k-1} F, with F = 6
        ({}, 8 * 6 * 6 + 4 * 8 * 6 + 2 * 4 * 6),
        ({"split_half": True}, 8 * 6 * 6 + 4 * 4 * 6 + 2 * 2 * 6),
        # sum of H_k r (H_{k-1} + F), with r = 2
        ({"rank": 2}, 2 * (8 * (6 + 6) + 4 * (8 + 6) + 2 * (4 + 6))),
        (
            {"rank": 2, "split_half": True},
            2 * (8 * (6 + 6) + 4 * (4 + 6) + 2 * (2 + 6)),
        ),
    ],
)
def test_numbers_of_parameters(kwargs: dict[str, Any], count: int) -> None:
    layer = CIN((8, 4, 2), **kwargs)
    layer.build([None, 6, 3])
    assert layer.count_params() == count


def test_low_rank_kernels_start_with_the_variance_of_full_ones() -> None:
    full, low = CIN((64,)), CIN((64,), rank=4)
    for layer in (full, low):
        layer.build([None, 20, 3])
    product = np.einsum("ihr,jhr->ijh", *low.get_weights())
    assert np.std(product) == pytest.approx(np.std(full.get_weights()[0]), rel=0.05)


def _largest(layer: CIN, shape: tuple[int, ...]) -> int:
    """Returns the numbers in the largest tensor of the layer's graph."""
    layer.build(shape)
    spec = tf.TensorSpec(shape)
    graph = tf.function(layer).get_concrete_function(spec).graph
    sizes = [
        t.shape.num_elements() or 0 for op in graph.get_operations() for t in op.outputs
    ]
    return max(sizes)


def test_maps_that_only_go_out_are_never_made() -> None:
    batch, fields, size = 16, 8, 32
    # [B, F, F] and the input; not the [B, D, H] of the maps.
    largest = _largest(CIN((50,)), (batch, fields, size))
    assert largest == batch * fields * size
    # The last of two: [B, H, F]. The first holds [D, F (F + 1) / 2].
    largest = _largest(CIN((4, 50)), (batch, fields, size))
    assert largest == batch * size * fields * (fields + 1) // 2


def test_a_low_rank_makes_no_products_of_all_pairs() -> None:
    batch, fields, size, units, rank = 16, 20, 8, 6, 1
    layer = CIN((units, units), rank=rank)
    largest = _largest(layer, (batch, fields, size))
    assert largest == batch * size * fields  # the input


# The identity that is not known to be one makes the maps first, None only their sums.
@pytest.mark.parametrize("activation", [None, lambda x: x])
def test_sums_over_d_are_in_float32(activation: Any) -> None:
    # Squares of 200: 40,000 each, more than float16 holds after two.
    fields = np.array([[[200.0, 200.0, 200.0], [1.0, 1.0, -1.0]]])
    layer = CIN((1, 1), dtype="mixed_float16", activation=activation)
    layer.build(fields.shape)
    layer.set_weights(
        [np.array([[1.0], [0.0], [0.0], [0.0]]), np.array([[0.0], [1.0]])]
    )
    # X^1 = [40000] * 3; X^2 = X^1 * x_2 = [40000, 40000, -40000], sum 40,000.
    np.testing.assert_allclose(layer(fields)[:, 1], [40_000.0], rtol=1e-3)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_fields_of_zeros(activation: str | None, rank: int | None) -> None:
    layer = _layer((None, 3, 4), (4, 2), activation=activation, rank=rank)
    fields = tf.zeros([2, 3, 4])
    with tf.GradientTape() as tape:
        tape.watch(fields)
        output = layer(fields)
    gradients = tape.gradient(output, [fields, *layer.weights])
    assert not np.any(output)
    assert all(isinstance(gradient, tf.Tensor) for gradient in gradients)  # not sparse
    assert all(not np.any(gradient) for gradient in gradients)


def test_fields_of_another_shape_are_refused() -> None:
    # As numbers [8, 2, 3] is [4, 4, 3]: a reshape would take it for four examples.
    layer = _layer((None, 4, 3), (2,))
    with pytest.raises(ValueError, match=r"\(8, 2, 3\)"):
        layer(tf.zeros([8, 2, 3]))


def test_one_field_and_an_empty_batch() -> None:
    layer = CIN((1, 1))
    layer.build([None, 1, 3])
    layer.set_weights([np.array([[2.0]]), np.array([[3.0]])])
    # 2 (1 + 4 + 9) = 28; 2 * 3 (1 + 8 + 27) = 216
    output = layer(tf.constant([[[1.0, 2.0, 3.0]]]))
    np.testing.assert_array_equal(output, [[28.0, 216.0]])
    assert layer(tf.zeros([0, 1, 3])).shape == [0, 2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"units": ()}, r"`units` must list.*Received: \(\)"),
        ({"units": 8}, "`units` must list.*Received: 8"),
        ({"units": (8, 0)}, "`units`.*Received: 0"),
        ({"units": (3, 2), "split_half": True}, r"even.*Received: \(3, 2\)"),
        ({"units": (2,), "split_half": 1}, "`split_half`.*Received: 1"),
        ({"units": (2,), "rank": 0}, "`rank`.*Received: 0"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CIN(**kwargs)


def test_the_last_layer_may_be_odd() -> None:
    assert CIN((4, 3), split_half=True).units == (4, 3)


def test_build_errors() -> None:
    with pytest.raises(ValueError, match=r"\[B, F, D\]. Received: shape \(None, 4\)"):
        CIN((2,)).build([None, 4])
    with pytest.raises(ValueError, match=r"known number of fields"):
        CIN((2,)).build([None, None, 4])
    with pytest.raises(ValueError, match=r"known field size"):
        CIN((2,)).build([None, 3, None])
    with pytest.raises(ValueError, match=r"here 3\. Received: 4"):
        CIN((8,), rank=4).build([None, 3, 4])
    with pytest.raises(ValueError, match=r"here 2\. Received: 3"):
        CIN((4, 4), split_half=True, rank=3).build([None, 6, 4])
