"""Values of the products of all pairs of fields."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank.layers import BilinearInteraction

FIELDS = np.array([[[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]]], "float32")
KINDS = ("all", "each", "interaction")
PRODUCTS = ("hadamard", "inner")


def _random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _layer(shape: tuple[int, ...], **kwargs: Any) -> BilinearInteraction:
    layer = BilinearInteraction(**kwargs)
    layer.build(shape)
    layer.set_weights([_random(w.shape, i) for i, w in enumerate(layer.weights)])
    return layer


def _kernel(layer: BilinearInteraction, pair: int, first: int) -> np.ndarray:
    """Returns the kernel of a pair, `[D, D]`, from the weights alone."""
    weights = layer.get_weights()
    if layer.kind != "all":
        row = first if layer.kind == "each" else pair
        weights = [weight[row] for weight in weights]
    if layer.kernel == "diagonal":
        return np.diag(weights[0])
    return weights[0] @ weights[1] if len(weights) == 2 else weights[0]


def _loop(layer: BilinearInteraction, fields: np.ndarray) -> np.ndarray:
    products = []
    pairs = itertools.combinations(range(fields.shape[1]), 2)
    for pair, (i, j) in enumerate(pairs):
        left = fields[:, i] @ _kernel(layer, pair, i)
        product = left * fields[:, j]
        products.append(product if layer.product == "hadamard" else product.sum(-1))
    return np.stack(products, axis=1)


def test_by_hand() -> None:
    layer = BilinearInteraction()
    layer.build(FIELDS.shape)
    layer.set_weights([np.array([[1.0, 2.0], [0.0, -1.0]])])
    # v_1 W = [1 * 1 + 2 * 0, 1 * 2 + 2 * -1] = [1, 0]
    # v_2 W = [3 * 1 - 1 * 0, 3 * 2 - 1 * -1] = [3, 7]
    # 1 with 2: [1 * 3, 0 * -1], 1 with 3: [1 * 0, 0 * 5], 2 with 3: [3 * 0, 7 * 5].
    expected = [[[3.0, 0.0], [0.0, 0.0], [0.0, 35.0]]]
    np.testing.assert_array_equal(layer(FIELDS), expected)
    inner = BilinearInteraction(product="inner")
    inner.build(FIELDS.shape)
    inner.set_weights(layer.get_weights())
    np.testing.assert_array_equal(inner(FIELDS), [[3.0, 0.0, 35.0]])


def test_kinds_by_hand() -> None:
    # Multiples of the identity: what each pair is multiplied with is plain to see.
    each = BilinearInteraction(kind="each")
    each.build(FIELDS.shape)
    each.set_weights([np.eye(2) * np.array([2.0, 3.0]).reshape(2, 1, 1)])
    plain = np.array([[3.0, -2.0], [0.0, 10.0], [0.0, -5.0]])
    factors = np.array([[2.0], [2.0], [3.0]])  # the first fields are 1, 1, 2
    np.testing.assert_array_equal(each(FIELDS)[0], plain * factors)
    pairs = BilinearInteraction(kind="interaction")
    pairs.build(FIELDS.shape)
    pairs.set_weights([np.eye(2) * np.array([2.0, 3.0, 4.0]).reshape(3, 1, 1)])
    factors = np.array([[2.0], [3.0], [4.0]])
    np.testing.assert_array_equal(pairs(FIELDS)[0], plain * factors)


@pytest.mark.parametrize("kernel", ["full", "diagonal", 2])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop_over_pairs(kind: str, product: str, kernel: str | int) -> None:
    fields = _random((4, 7, 5), 9)
    layer = _layer(fields.shape, kind=kind, product=product, kernel=kernel)
    np.testing.assert_allclose(layer(fields), _loop(layer, fields), 1e-4, 1e-5)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_fields(kind: str, product: str) -> None:
    fields = _random((3, 2, 4))
    layer = _layer(fields.shape, kind=kind, product=product)
    np.testing.assert_allclose(layer(fields), _loop(layer, fields), 1e-5, 1e-6)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_that_change_nothing_give_plain_products(
    kind: str, product: str
) -> None:
    fields = _random((3, 5, 4))
    plain = BilinearInteraction(kernel="identity", product=product)
    expected = plain(fields)
    assert plain.weights == []
    for kernel in ("diagonal", "full", 4):
        layer = BilinearInteraction(kind=kind, kernel=kernel, product=product)
        layer.build(fields.shape)
        if kernel != "diagonal":  # which starts as ones
            ones = [np.broadcast_to(np.eye(4), w.shape) for w in layer.weights]
            layer.set_weights(ones)
        np.testing.assert_allclose(layer(fields), expected, 1e-6, 1e-6)


def test_plain_products_are_symmetric_and_in_the_order_of_combinations() -> None:
    fields = _random((2, 4, 3))
    layer = BilinearInteraction(kernel="identity", product="inner")
    expected = [
        fields[:, i] @ fields[:, j].T for i, j in itertools.combinations(range(4), 2)
    ]
    expected = np.stack([np.diag(product) for product in expected], axis=1)
    np.testing.assert_allclose(layer(fields), expected, rtol=1e-5)
    # Back to front, the pairs 12 13 14 23 24 34 are those of before: 34 24 14 23 13 12.
    turned = expected[:, [5, 4, 2, 3, 1, 0]]
    np.testing.assert_allclose(layer(fields[:, ::-1]), turned, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_parameters(kind: str) -> None:
    count = {"all": 1, "each": 5, "interaction": 15}[kind]
    for kernel, size in (("full", 64), ("sparse", 64), ("diagonal", 8), (3, 2 * 8 * 3)):
        layer = BilinearInteraction(kind=kind, kernel=kernel)
        layer.build([None, 6, 8])
        assert layer.count_params() == count * size


def test_kernels_start_in_glorot_s_range() -> None:
    layer = BilinearInteraction(kind="interaction")
    layer.build([None, 12, 6])
    (kernel,) = layer.get_weights()
    limit = np.sqrt(6 / (6 + 6))
    assert 0.98 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank_kernels_start_with_the_variance_of_full_ones(rank: int) -> None:
    full = BilinearInteraction(kind="interaction")
    low = BilinearInteraction(kind="interaction", kernel=rank)
    for layer in (full, low):
        layer.build([None, 40, 8])
    product = np.matmul(*low.get_weights())
    assert np.std(product) == pytest.approx(np.std(full.get_weights()[0]), rel=0.05)


def test_fields_of_another_shape_are_refused() -> None:
    layer = BilinearInteraction(kind="each")
    layer.build([None, 4, 6])
    with pytest.raises(ValueError, match=r"\(2, 3, 6\)"):
        layer(tf.zeros([2, 3, 6]))


# Sparse kernels.


def _kept(layer: BilinearInteraction) -> np.ndarray:
    """Returns where gradients arrive."""
    fields = tf.constant(_random((8, 5, 8)))
    with tf.GradientTape() as tape:
        output = layer(fields)
    gradient = tape.gradient(output, layer.weights[0])
    return np.not_equal(gradient, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("density", "count"), [(0.25, 16), (0.4, 26), (0.01, 8)])
def test_sparse_kernels_keep_their_share(kind: str, density: float, count: int) -> None:
    layer = _layer((None, 5, 8), kind=kind, kernel="sparse", density=density)
    kept = _kept(layer).reshape(-1, 8, 8)
    # round(0.4 * 64) = 26; one place in each of the 8 rows at least
    assert (kept.sum(axis=(1, 2)) == count).all()
    assert kept.any(axis=2).all()
    if kind != "all":  # every kernel has places of its own
        assert len(np.unique(kept.reshape(len(kept), -1), axis=0)) == len(kept)


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_sparse_kernel_is_a_full_one_with_zeros(product: str) -> None:
    fields = _random((3, 5, 8), 4)
    options = {"kind": "interaction", "product": product}
    sparse = _layer(fields.shape, kernel="sparse", seed=5, **options)
    full = _layer(fields.shape, **options)
    kernel = sparse.get_weights()[0] * _kept(sparse)
    full.set_weights([kernel])
    np.testing.assert_allclose(sparse(fields), full(fields), 1e-5, 1e-6)
    # What lies in the unused places does nothing, even NaN.
    kernel[~_kept(sparse)] = np.nan
    sparse.set_weights([kernel])
    np.testing.assert_allclose(sparse(fields), full(fields), 1e-5, 1e-6)


def test_a_graph_holds_a_bit_for_each_place() -> None:
    layer = BilinearInteraction(kind="interaction", kernel="sparse")
    fields = tf.TensorSpec([None, 20, 16])
    layer.build(fields.shape)
    graph = tf.function(layer, input_signature=[fields]).get_concrete_function().graph
    # 190 kernels of 16 x 16 places: 48,640 bits are 6,080 bytes. Besides, some numbers.
    assert 6_080 < graph.as_graph_def().ByteSize() < 6_080 + 60_000
    largest = max(
        len(node.attr["value"].tensor.tensor_content)
        for node in graph.as_graph_def().node
    )
    assert largest == 6_080


def test_a_density_of_1_keeps_everything() -> None:
    assert _kept(_layer((None, 5, 8), kernel="sparse", density=1.0)).all()


def test_the_places_follow_from_the_seed() -> None:
    layer = _layer((None, 5, 8), kernel="sparse", seed=5)
    again = BilinearInteraction.from_config(layer.get_config())
    again.build([None, 5, 8])
    np.testing.assert_array_equal(_kept(again), _kept(layer))
    other = _layer((None, 5, 8), kernel="sparse", seed=6)
    assert not np.array_equal(_kept(other), _kept(layer))
    # As numbers: a later version must find the same places in an old model.
    old = BilinearInteraction(kernel="sparse", density=0.5)
    old.build([None, 2, 4])
    old.set_weights([np.ones([4, 4])])
    # e_d W * 1 is row d of W.
    rows = np.stack([np.eye(4), np.ones([4, 4])], axis=1)
    expected = [[1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(old(rows)[:, 0], expected)


# Precision and edges.


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_add_up_in_float32(kind: str) -> None:
    # 60,000 + 60,000 is more than float16 holds, the sum of all three is not.
    fields = np.array([[[1.0, 1.0, 1.0], [60_000.0, 60_000.0, -60_000.0]]])
    layer = BilinearInteraction(
        kind=kind, product="inner", kernel="diagonal", dtype="mixed_float16"
    )
    np.testing.assert_allclose(layer(fields), [[60_000.0]], rtol=1e-3)


@pytest.mark.parametrize("kernel", ["full", "diagonal", "sparse", 2])
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_zeros(kind: str, product: str, kernel: str | int) -> None:
    layer = _layer((None, 3, 4), kind=kind, product=product, kernel=kernel)
    fields = tf.zeros([2, 3, 4])
    with tf.GradientTape() as tape:
        tape.watch(fields)
        output = layer(fields)
    gradients = tape.gradient(output, [fields, *layer.weights])
    assert not np.any(output)
    assert all(isinstance(gradient, tf.Tensor) for gradient in gradients)  # not sparse
    assert all(not np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_grows_with_fields_not_with_pairs(kind: str, product: str) -> None:
    def products(fields: int) -> int:
        layer = BilinearInteraction(kind=kind, product=product)
        spec = tf.TensorSpec([None, fields, 4])
        graph = tf.function(layer).get_concrete_function(spec).graph
        return sum(op.type in ("MatMul", "Mul") for op in graph.get_operations())

    assert products(20) <= 2 * 20  # of 190 pairs


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch(kind: str, product: str) -> None:
    layer = _layer((None, 3, 4), kind=kind, product=product)
    assert layer(tf.zeros([0, 3, 4])).shape[:2] == [0, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "some"}, "`kind` must be.*Received: 'some'"),
        ({"product": "outer"}, "`product` must be.*Received: 'outer'"),
        ({"kernel": "low"}, "`kernel` must be.*Received: 'low'"),
        ({"kernel": 0}, "`kernel`.*Received: 0"),
        ({"kernel": True}, "`kernel`.*Received: True"),
        ({"kernel": 1.5}, r"`kernel`.*Received: 1\.5"),
        (
            {"kernel": "identity", "kind": "each"},
            "`kind` does nothing.*Received: kind='each'",
        ),
        ({"kernel": "sparse", "density": 0}, "`density`.*Received: 0"),
        ({"kernel": "sparse", "density": 1.5}, r"`density`.*Received: 1\.5"),
        ({"kernel": "sparse", "density": "a"}, "`density`.*Received: 'a'"),
        ({"kernel": "sparse", "density": float("nan")}, "`density`.*Received: nan"),
        ({"kernel": "sparse", "seed": -1}, "`seed`.*Received: -1"),
        ({"kernel": "sparse", "seed": 0.5}, r"`seed`.*Received: 0\.5"),
        ({"density": 0.5}, r"kernel='sparse'.*kernel='full', density=0\.5"),
        ({"kernel": 2, "seed": 7}, "kernel='sparse'.*kernel=2.*seed=7"),
    ],
)
def test_errors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BilinearInteraction(**kwargs)


def test_build_errors() -> None:
    with pytest.raises(ValueError, match=r"\[B, F, D\]. Received: shape \(None, 4\)"):
        BilinearInteraction().build([None, 4])
    with pytest.raises(ValueError, match=r"at least 2\. Received: 1"):
        BilinearInteraction().build([None, 1, 4])
    with pytest.raises(ValueError, match=r"known number of fields"):
        BilinearInteraction().build([None, None, 4])
    with pytest.raises(ValueError, match=r"known field size"):
        BilinearInteraction().build([None, 3, None])
    with pytest.raises(ValueError, match=r"field size 4\. Received: 5"):
        BilinearInteraction(kernel=5).build([None, 3, 4])
