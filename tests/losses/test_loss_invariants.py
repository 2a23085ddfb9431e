"""What every loss must satisfy. A new loss is added to `LOSSES` and gets all of it."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from tests.losses import reference
from tfrs_prerank import losses

NAN, INF = float("nan"), float("inf")

# function, slow reference, whether its terms belong to documents (else to lists)
LOSSES = [
    (losses.sigmoid_cross_entropy, reference.sigmoid_cross_entropy, True),
    (losses.softmax_cross_entropy, reference.softmax_cross_entropy, False),
]
FUNCTIONS = [loss for loss, _, _ in LOSSES]

each_loss = pytest.mark.parametrize("loss", FUNCTIONS, ids=lambda f: f.__name__)
each_reference = pytest.mark.parametrize(
    ("loss", "slow", "pointwise"), LOSSES, ids=[f.__name__ for f in FUNCTIONS]
)


def random_batch(seed=0, lists=5, size=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, [lists, size]).astype(np.float32)
    labels[0] = 0.0  # a list without a positive
    labels[1, 0] = 1.0
    labels[1, 2] = NAN
    scores = rng.normal(size=[lists, size]).astype(np.float32)
    where = rng.random([lists, size]) < 0.8
    where[2] = False  # a list without a document
    weights = rng.choice([0.0, 0.5, 1.0, 2.0, NAN], [lists, size]).astype(np.float32)
    return labels, scores, where, weights


def value_and_gradient(loss, labels, scores, **options):
    scores = tf.convert_to_tensor(scores)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(labels, scores, **options)
    return value.numpy(), tape.gradient(value, scores).numpy()


def test_every_public_loss_is_in_the_table():
    public = {n for n in losses.__all__ if inspect.isfunction(getattr(losses, n))}
    assert public == {loss.__name__ for loss in FUNCTIONS}


@each_reference
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_slow_reference(loss, slow, pointwise, seed):
    labels, scores, where, weights = random_batch(seed)
    mean, total = slow(labels, scores, where, weights)
    options = {"where": where, "weights": weights}
    assert mean > 0
    np.testing.assert_allclose(loss(labels, scores, **options), mean, rtol=1e-5)
    np.testing.assert_allclose(
        loss(labels, scores, reduction="sum", **options), total, rtol=1e-5
    )


@each_reference
def test_mean_sum_none_and_terms_agree(loss, slow, pointwise):
    labels, scores, where, weights = random_batch()
    options = {"where": where, "weights": weights}
    values, counts = loss.terms(labels, scores, **options)
    expected_shape = scores.shape if pointwise else scores.shape[:-1]
    assert values.shape == counts.shape == expected_shape
    np.testing.assert_array_equal(
        loss(labels, scores, reduction="none", **options), values
    )
    total, count = np.sum(values), np.sum(counts)
    np.testing.assert_allclose(
        loss(labels, scores, reduction="sum", **options), total, rtol=1e-6
    )
    np.testing.assert_allclose(loss(labels, scores, **options), total / count, 1e-6)
    if pointwise:  # w where valid, else 0
        valid = where & ~np.isnan(labels)
        expected = np.where(valid, np.where(np.isnan(weights), 1.0, weights), 0.0)
        np.testing.assert_array_equal(counts, expected)
    else:  # lists 0 and 2 hold no positive
        assert counts.numpy()[0] == counts.numpy()[2] == 0.0
        assert set(counts.numpy()) == {0.0, 1.0}


@each_loss
def test_global_division_of_terms_equals_one_replica(loss):
    labels, scores, where, weights = random_batch()
    whole = loss(labels, scores, where=where, weights=weights)
    parts = [
        loss.terms(labels[rows], scores[rows], where=where[rows], weights=weights[rows])
        for rows in (slice(0, 1), slice(1, 5))
    ]
    count = sum(np.sum(counts) for _, counts in parts)
    total = sum(np.sum(values) for values, _ in parts)
    np.testing.assert_allclose(total / count, whole, rtol=1e-6)


@each_loss
@pytest.mark.parametrize("by", ["where", "weights", "label"])
def test_masking_equals_deleting(loss, by):
    labels = np.float32([[1.0, 0.0, 1.0, 0.0]])
    scores = np.float32([[0.5, -1.0, 2.0, 0.25]])
    weights = np.float32([[1.0, 3.0, 2.0, 0.5]])
    keep = np.array([True, False, False, True])
    value, gradient = value_and_gradient(
        loss, labels[:, keep], scores[:, keep], weights=weights[:, keep]
    )
    options = {"weights": weights}
    if by == "where":
        options["where"] = keep[np.newaxis]
    elif by == "weights":
        options["weights"] = weights * keep
    else:
        labels = np.where(keep, labels, NAN).astype(np.float32)
    masked, masked_gradient = value_and_gradient(loss, labels, scores, **options)
    np.testing.assert_allclose(masked, value, rtol=1e-6)
    np.testing.assert_allclose(masked_gradient[:, keep], gradient, rtol=1e-6)
    np.testing.assert_array_equal(masked_gradient[:, ~keep], 0.0)
    assert np.abs(gradient).max() > 0.01


@each_loss
@pytest.mark.parametrize("junk", [NAN, INF, -INF, 3e38, -3e38])
@pytest.mark.parametrize("compiled", [False, True])
def test_padding_may_hold_anything(loss, junk, compiled):
    labels = np.float32([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    scores = np.float32([[0.5, -1.0, 0.0], [0.25, 1.0, 0.0]])
    where = np.array([[True, True, False], [False, False, False]])
    expected = value_and_gradient(loss, labels, scores, where=where)
    for target in (labels, scores):
        target[~where] = junk
    weights = np.where(where, 1.0, junk).astype(np.float32)

    def run(scores):
        return value_and_gradient_graph(loss, labels, scores, where, weights)

    run = tf.function(run, jit_compile=True) if compiled else run
    value, gradient = run(tf.constant(scores))
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-8)


def value_and_gradient_graph(loss, labels, scores, where, weights):
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = loss(labels, scores, where=where, weights=weights)
    return value, tape.gradient(value, scores)


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [0, 3])
def test_nothing_valid_is_zero_with_zero_gradient(loss, reduction, size):
    labels = np.ones([2, size], np.float32)
    scores = np.full([2, size], 5.0, np.float32)
    value, gradient = value_and_gradient(
        loss, labels, scores, where=np.zeros([2, size], bool), reduction=reduction
    )
    np.testing.assert_array_equal(value, np.zeros_like(value))
    np.testing.assert_array_equal(gradient, np.zeros([2, size]))


@each_loss
@pytest.mark.parametrize("scores", [[3e38, -3e38], [-3e38, 3e38], [3e38, 3e38]])
def test_extreme_scores_stay_finite(loss, scores):
    labels = np.float32([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value, gradient = value_and_gradient(loss, labels, np.float32([scores] * 3))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # The sum of several terms may pass the largest float32; no single one does.
    value, gradient = value_and_gradient(
        loss, labels, np.float32([scores] * 3), reduction="none"
    )
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@each_loss
def test_a_nan_score_of_a_valid_document_is_not_hidden(loss):
    assert np.isnan(loss([[1.0, 0.0]], [[NAN, 0.0]]))


@each_reference
def test_any_batch_dimensions(loss, slow, pointwise):
    labels, scores, where, weights = random_batch(lists=6)
    options = {"where": where, "weights": weights}
    flat = loss(labels, scores, reduction="none", **options).numpy()
    deep = loss(
        labels.reshape(2, 3, 6),
        scores.reshape(2, 3, 6),
        where=where.reshape(2, 3, 6),
        weights=weights.reshape(2, 3, 6),
        reduction="none",
    ).numpy()
    np.testing.assert_allclose(deep.reshape(flat.shape), flat, rtol=1e-6)
    for row in range(6):
        one = loss(
            labels[row],
            scores[row],
            where=where[row],
            weights=weights[row],
            reduction="none",
        )
        np.testing.assert_allclose(one, flat[row], rtol=1e-6)


@each_loss
def test_permutation_of_a_list_changes_nothing(loss):
    labels, scores, where, weights = random_batch()
    value, gradient = value_and_gradient(
        loss, labels, scores, where=where, weights=weights
    )
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted, permuted_gradient = value_and_gradient(
        loss,
        labels[:, order],
        scores[:, order],
        where=where[:, order],
        weights=weights[:, order],
    )
    np.testing.assert_allclose(permuted, value, rtol=1e-6)
    np.testing.assert_allclose(
        permuted_gradient, gradient[:, order], rtol=1e-5, atol=1e-7
    )


@each_loss
def test_gradient_equals_finite_differences(loss):
    labels, scores, where, weights = random_batch()
    options = {"where": where, "weights": weights}
    _, gradient = value_and_gradient(loss, labels, scores, **options)
    step = 1e-2
    for i in range(scores.shape[0]):
        for j in range(scores.shape[1]):
            up, down = scores.copy(), scores.copy()
            up[i, j] += step
            down[i, j] -= step
            slope = (loss(labels, up, **options) - loss(labels, down, **options)) / (
                2 * step
            )
            np.testing.assert_allclose(gradient[i, j], slope, atol=2e-4)


@each_loss
def test_weights_of_one_equal_no_weights_and_broadcast(loss):
    labels, scores, where, _ = random_batch()
    plain = loss(labels, scores, where=where)
    np.testing.assert_allclose(
        loss(labels, scores, where=where, weights=np.ones_like(scores)), plain
    )
    per_list = np.float32([[1.0], [2.0], [3.0], [0.0], [0.5]])
    np.testing.assert_allclose(
        loss(labels, scores, where=where, weights=per_list),
        loss(labels, scores, where=where, weights=per_list * np.ones([1, 6])),
        rtol=1e-6,
    )


@each_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_computes_in_float32_whatever_comes_in(loss, dtype):
    labels, scores, where, weights = random_batch()
    narrow = tf.cast(scores, dtype)
    value, gradient = value_and_gradient(
        loss, tf.cast(labels, dtype), narrow, where=where, weights=weights
    )
    assert value.dtype == np.float32
    assert gradient.dtype == narrow.dtype.as_numpy_dtype
    expected = loss(labels, tf.cast(narrow, tf.float32), where=where, weights=weights)
    np.testing.assert_array_equal(value, expected)
    # 60000 + 60000 is infinite in float16.
    big = loss(np.zeros([1, 2]), tf.constant([[6e4, 6e4]], tf.float16), reduction="sum")
    assert np.isfinite(big)


@each_loss
@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_equal_eager(loss, jit):
    labels, scores, where, weights = random_batch()
    expected = value_and_gradient(loss, labels, scores, where=where, weights=weights)

    @tf.function(jit_compile=jit)
    def run(labels, scores, where, weights):
        return value_and_gradient_graph(loss, labels, scores, where, weights)

    value, gradient = run(*map(tf.constant, (labels, scores, where, weights)))
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-7)


@each_loss
def test_unknown_shapes_are_accepted_in_a_graph(loss):
    labels, scores, where, weights = random_batch()
    spec = tf.TensorSpec(None, tf.float32)

    @tf.function(input_signature=[spec, spec, tf.TensorSpec(None, tf.bool), spec])
    def run(labels, scores, where, weights):
        return loss(labels, scores, where=where, weights=weights)

    np.testing.assert_allclose(
        run(labels, scores, where, weights),
        loss(labels, scores, where=where, weights=weights),
        rtol=1e-6,
    )


@each_loss
def test_bad_arguments_are_named(loss):
    labels, scores = np.zeros([3, 3]), np.zeros([3, 3])
    with pytest.raises(ValueError, match=r"reduction='avg'.*'mean', 'sum' or 'none'"):
        loss(labels, scores, reduction="avg")
    with pytest.raises(ValueError, match=r"labels has shape \(3, 1\).*\(3, 3\)"):
        loss(labels[:, :1], scores)
    with pytest.raises(ValueError, match=r"scores has shape \(\)"):
        loss(1.0, 0.0)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\).*\[\.\.\., 1\]"):
        loss(labels, scores, weights=np.ones([3]))
    with pytest.raises(ValueError, match=r"where has shape \(3, 2\)"):
        loss(labels, scores, where=np.ones([3, 2], bool))
    with pytest.raises(TypeError, match="where has dtype float64"):
        loss(labels, scores, where=np.ones([3, 3]))
    with pytest.raises(TypeError, match="margin"):
        loss(labels, scores, margin=1.0)


@each_loss
def test_signature_is_the_public_one(loss):
    parameters = inspect.signature(loss).parameters
    assert list(parameters)[:5] == ["labels", "scores", "where", "weights", "reduction"]
    assert parameters["where"].default is None
    assert parameters["weights"].default is None
    assert parameters["reduction"].default == "mean"
    assert parameters["where"].kind is inspect.Parameter.KEYWORD_ONLY
