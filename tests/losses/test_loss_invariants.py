"""What every loss must satisfy. A new loss is added to `cases.CASES` and gets all."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from tests.losses.cases import CASES, INF, NAN, value_and_gradient
from tfrs_prerank import losses

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_public_loss_is_in_the_table():
    public = {n for n in losses.__all__ if inspect.isfunction(getattr(losses, n))}
    assert public == {case.function.__name__ for case in CASES}


@each_case
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_slow_reference(case, seed):
    labels, scores, where, weights = batch = case.batch(seed)
    mean, total = case.expected(*batch)
    options = {"where": where, "weights": weights}
    assert mean > 0
    np.testing.assert_allclose(case.loss(labels, scores, **options), mean, rtol=1e-9)
    np.testing.assert_allclose(
        case.loss(labels, scores, reduction="sum", **options), total, rtol=1e-9
    )
    narrow = scores.astype(np.float32)
    np.testing.assert_allclose(case.loss(labels, narrow, **options), mean, rtol=1e-5)


@each_case
def test_every_list_equals_the_slow_reference(case):
    labels, scores, where, weights = batch = case.batch(seed=3)
    values, counts = case.loss.terms(labels, scores, where=where, weights=weights)
    expected = case.slow(*batch, **case.options)
    if case.pointwise:
        rows = zip(expected, values.numpy(), counts.numpy(), strict=True)
        for terms, row, weight in rows:
            counted = weight != 0
            np.testing.assert_array_equal(row[~counted], 0.0)
            np.testing.assert_allclose(row[counted], [v for v, _ in terms], rtol=1e-9)
            np.testing.assert_array_equal(weight[counted], [w for _, w in terms])
    else:
        np.testing.assert_array_equal(counts, [value is not None for value in expected])
        np.testing.assert_allclose(values, [v or 0.0 for v in expected], rtol=1e-9)


@each_case
def test_mean_sum_none_and_terms_agree(case):
    labels, scores, where, weights = case.float32()
    options = {"where": where, "weights": weights}
    values, counts = case.loss.terms(labels, scores, **options)
    expected_shape = scores.shape if case.pointwise else scores.shape[:-1]
    assert values.shape == counts.shape == expected_shape
    np.testing.assert_array_equal(
        case.loss(labels, scores, reduction="none", **options), values
    )
    total, count = np.sum(values), np.sum(counts)
    np.testing.assert_allclose(
        case.loss(labels, scores, reduction="sum", **options), total, rtol=1e-6
    )
    mean = case.loss(labels, scores, **options)
    np.testing.assert_allclose(mean, total / count, rtol=1e-6)


@each_case
def test_global_division_of_terms_equals_one_replica(case):
    labels, scores, where, weights = case.float32()
    whole = case.loss(labels, scores, where=where, weights=weights)
    parts = [
        case.loss.terms(
            labels[rows], scores[rows], where=where[rows], weights=weights[rows]
        )
        for rows in (slice(0, 1), slice(1, 5))
    ]
    count = sum(np.sum(counts) for _, counts in parts)
    total = sum(np.sum(values) for values, _ in parts)
    np.testing.assert_allclose(total / count, whole, rtol=1e-6)


@each_case
@pytest.mark.parametrize("by", ["where", "weights", "label"])
def test_masking_equals_deleting(case, by):
    labels = np.float32([[1.0, 0.0, 1.0, 0.0]])
    scores = np.float32([[0.5, -1.0, 2.0, 0.25]])
    weights = np.float32([[1.0, 3.0, 2.0, 0.5]])
    keep = np.array([True, False, False, True])
    value, gradient = value_and_gradient(
        case.loss, labels[:, keep], scores[:, keep], weights=weights[:, keep]
    )
    options = {"weights": weights}
    if by == "where":
        options["where"] = keep[np.newaxis]
    elif by == "weights":
        options["weights"] = weights * keep
    else:
        labels = np.where(keep, labels, NAN).astype(np.float32)
    masked, masked_gradient = value_and_gradient(case.loss, labels, scores, **options)
    np.testing.assert_allclose(masked, value, rtol=1e-6)
    np.testing.assert_allclose(masked_gradient.numpy()[:, keep], gradient, rtol=1e-6)
    np.testing.assert_array_equal(masked_gradient.numpy()[:, ~keep], 0.0)
    assert np.abs(gradient).max() > 0.01


@each_case
@pytest.mark.parametrize(
    ("junk", "compiled"),
    [(NAN, False), (INF, False), (-INF, False), (3e38, False), (NAN, True)],
)
def test_padding_may_hold_anything(case, junk, compiled):
    labels = np.float32([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    scores = np.float32([[0.5, -1.0, 0.0], [0.25, 1.0, 0.0]])
    where = np.array([[True, True, False], [False, False, False]])
    expected = value_and_gradient(case.loss, labels, scores, where=where)
    for target in (labels, scores):
        target[~where] = junk
    weights = np.where(where, 1.0, junk).astype(np.float32)

    def run(scores):
        return value_and_gradient(
            case.loss, labels, scores, where=where, weights=weights
        )

    run = tf.function(run, jit_compile=True) if compiled else run
    value, gradient = run(tf.constant(scores))
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-8)


@each_case
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [0, 3])
def test_nothing_valid_is_zero_with_zero_gradient(case, reduction, size):
    labels = np.ones([2, size], np.float32)
    scores = np.full([2, size], 5.0, np.float32)
    value, gradient = value_and_gradient(
        case.loss, labels, scores, where=np.zeros([2, size], bool), reduction=reduction
    )
    np.testing.assert_array_equal(value, np.zeros_like(value))
    np.testing.assert_array_equal(gradient, np.zeros([2, size]))


@each_case
@pytest.mark.parametrize("scores", [[3e38, -3e38], [-3e38, 3e38], [3e38, 3e38]])
def test_extreme_scores_stay_finite(case, scores):
    labels = np.float32([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value, gradient = value_and_gradient(case.loss, labels, np.float32([scores] * 3))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # The sum of several terms may pass the largest float32; no single one does.
    value, gradient = value_and_gradient(
        case.loss, labels, np.float32([scores] * 3), reduction="none"
    )
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@each_case
def test_a_nan_score_of_a_valid_document_is_not_hidden(case):
    assert np.isnan(case.loss([[1.0, 0.0]], [[NAN, 0.0]]))


@each_case
def test_any_batch_dimensions(case):
    labels, scores, where, weights = case.float32(lists=6)
    options = {"where": where, "weights": weights}
    flat = case.loss(labels, scores, reduction="none", **options).numpy()
    deep = case.loss(
        labels.reshape(2, 3, 6),
        scores.reshape(2, 3, 6),
        where=where.reshape(2, 3, 6),
        weights=weights.reshape(2, 3, 6),
        reduction="none",
    ).numpy()
    np.testing.assert_allclose(deep.reshape(flat.shape), flat, rtol=1e-6, atol=1e-6)
    for row in range(6):
        one = case.loss(
            labels[row],
            scores[row],
            where=where[row],
            weights=weights[row],
            reduction="none",
        )
        np.testing.assert_allclose(one, flat[row], rtol=1e-6, atol=1e-6)


@each_case
def test_permutation_of_a_list_changes_nothing(case):
    labels, scores, where, weights = case.float32()
    value, gradient = value_and_gradient(
        case.loss, labels, scores, where=where, weights=weights
    )
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted, permuted_gradient = value_and_gradient(
        case.loss,
        labels[:, order],
        scores[:, order],
        where=where[:, order],
        weights=weights[:, order],
    )
    np.testing.assert_allclose(permuted, value, rtol=1e-6)
    np.testing.assert_allclose(
        permuted_gradient, gradient.numpy()[:, order], rtol=1e-5, atol=1e-7
    )


@each_case
def test_shifting_a_list_changes_nothing_where_only_differences_count(case):
    labels, scores, where, weights = case.batch()
    shift = np.random.default_rng(1).normal(size=[5, 1]) * 50
    options = {"where": where, "weights": weights}
    plain = case.loss(labels, scores, **options)
    shifted = case.loss(labels, scores + shift, **options)
    assert np.allclose(shifted, plain, rtol=1e-9) == case.relative


@each_case
def test_doubling_the_weights_doubles_every_term(case):
    labels, scores, where, weights = case.batch()
    once, twice = (
        case.loss(labels, scores, where=where, weights=w, reduction="none")
        for w in (np.nan_to_num(weights, nan=1.0), 2 * np.nan_to_num(weights, nan=1.0))
    )
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-12)
    assert np.max(once) > 0.1


@each_case
def test_gradient_equals_finite_differences(case):
    labels, scores, where, weights = case.batch()
    options = {"where": where, "weights": weights}
    _, gradient = value_and_gradient(case.loss, labels, scores, **options)
    step = 1e-5
    moved = scores + step * np.eye(scores.size).reshape(-1, *scores.shape)
    back = scores - step * np.eye(scores.size).reshape(-1, *scores.shape)
    for place, (up, down) in enumerate(zip(moved, back, strict=True)):
        difference = case.loss(labels, up, **options) - case.loss(
            labels, down, **options
        )
        slope = difference / (2 * step)
        np.testing.assert_allclose(gradient.numpy().flat[place], slope, atol=1e-8)


@each_case
@pytest.mark.slow  # every gradient equals finite differences above
def test_gradient_of_the_gradient(case):
    labels, scores, where, weights = case.batch()

    @tf.function
    def gradient_of(scores):
        return value_and_gradient(
            case.loss, labels, scores, where=where, weights=weights
        )[1]

    scores = tf.constant(scores)
    along = tf.constant(np.random.default_rng(1).normal(size=scores.shape))
    with tf.GradientTape() as tape:
        tape.watch(scores)
        slope = tf.reduce_sum(gradient_of(scores) * along)
    found = tape.gradient(slope, scores)
    found = tf.zeros_like(scores) if found is None else found  # a hinge has none
    step = 1e-5 * along
    up, down = gradient_of(scores + step), gradient_of(scores - step)
    np.testing.assert_allclose(found, (up - down) / 2e-5, atol=1e-8)


@each_case
def test_a_tape_may_be_asked_twice(case):
    labels, scores, where, weights = case.batch()
    scores = tf.constant(scores)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(scores)
        value = case.loss(labels, scores, where=where, weights=weights)
        tripled = 3.0 * value
    once, again = tape.gradient(value, scores), tape.gradient(value, scores)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(tape.gradient(tripled, scores), 3.0 * once, rtol=1e-12)


@each_case
def test_weights_of_one_equal_no_weights_and_broadcast(case):
    labels, scores, where, _ = case.float32()
    plain = case.loss(labels, scores, where=where)
    np.testing.assert_allclose(
        case.loss(labels, scores, where=where, weights=np.ones_like(scores)), plain
    )
    per_list = np.float32([[1.0], [2.0], [3.0], [0.0], [0.5]])
    np.testing.assert_allclose(
        case.loss(labels, scores, where=where, weights=per_list),
        case.loss(labels, scores, where=where, weights=per_list * np.ones([1, 6])),
        rtol=1e-6,
    )


@each_case
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computes_narrow_floats_in_float32(case, dtype):
    labels, scores, where, weights = case.float32()
    narrow = tf.cast(scores, dtype)
    options = {"where": where, "weights": weights}
    value, gradient = value_and_gradient(
        case.loss, tf.cast(labels, dtype), narrow, **options
    )
    wide = tf.cast(narrow, tf.float32)
    expected, wide_gradient = value_and_gradient(case.loss, labels, wide, **options)
    assert value.dtype == tf.float32
    np.testing.assert_array_equal(value, expected)
    assert gradient.dtype == narrow.dtype
    np.testing.assert_array_equal(gradient, tf.cast(wide_gradient, dtype))
    # 60000 + 60000 is infinite in float16.
    big = tf.constant([[6e4, 6e4]], tf.float16)
    assert np.isfinite(case.loss(np.zeros([1, 2]), big, reduction="sum"))


@each_case
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_float64_stays_float64(case, reduction):
    labels, scores, _, _ = case.float32()
    value, gradient = value_and_gradient(
        case.loss, labels, scores.astype(np.float64), reduction=reduction
    )
    assert value.dtype == gradient.dtype == tf.float64


@each_case
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_graph_and_xla_equal_eager(case, jit):
    labels, scores, where, weights = case.float32()
    expected = value_and_gradient(
        case.loss, labels, scores, where=where, weights=weights
    )

    @tf.function(jit_compile=jit)
    def run(labels, scores, where, weights):
        return value_and_gradient(
            case.loss, labels, scores, where=where, weights=weights
        )

    value, gradient = run(*map(tf.constant, (labels, scores, where, weights)))
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-7)


@each_case
def test_unknown_shapes_are_accepted_in_a_graph(case):
    labels, scores, where, weights = case.float32()
    spec = tf.TensorSpec(None, tf.float32)

    @tf.function(input_signature=[spec, spec, tf.TensorSpec(None, tf.bool), spec])
    def run(labels, scores, where, weights):
        return case.loss(labels, scores, where=where, weights=weights)

    np.testing.assert_allclose(
        run(labels, scores, where, weights),
        case.loss(labels, scores, where=where, weights=weights),
        rtol=1e-6,
    )


@each_case
def test_bad_arguments_are_named(case):
    labels, scores = np.zeros([3, 3]), np.zeros([3, 3])
    with pytest.raises(ValueError, match=r"reduction='avg'.*'mean', 'sum' or 'none'"):
        case.loss(labels, scores, reduction="avg")
    with pytest.raises(ValueError, match=r"labels has shape \(3, 1\).*\(3, 3\)"):
        case.loss(labels[:, :1], scores)
    with pytest.raises(ValueError, match=r"scores has shape \(\)"):
        case.loss(1.0, 0.0)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\).*\[\.\.\., 1\]"):
        case.loss(labels, scores, weights=np.ones([3]))
    with pytest.raises(ValueError, match=r"where has shape \(3, 2\)"):
        case.loss(labels, scores, where=np.ones([3, 2], bool))
    with pytest.raises(TypeError, match="where has dtype float64"):
        case.loss(labels, scores, where=np.ones([3, 3]))
    with pytest.raises(TypeError, match="unheard"):
        case.loss(labels, scores, unheard=1.0)


@each_case
def test_values_out_of_range_are_refused(case):
    labels, scores = np.float32([[1.0, 0.0]]), np.float32([[0.5, 0.25]])
    with pytest.raises(
        ValueError, match=r"weights holds -0\.5: give finite numbers, at"
    ):
        case.loss(labels, scores, weights=[[1.0, -0.5]])
    with pytest.raises(ValueError, match="weights holds inf"):
        case.loss(labels, scores, weights=[[1.0, INF]])
    # Where nothing counts, anything may stand.
    mask = np.array([[True, False]])
    case.loss(labels, scores, weights=[[1.0, -0.5]], where=mask)
    labels[0, 1] = case.bad
    with pytest.raises(ValueError, match=f"labels holds {case.bad:g}: give finite"):
        case.loss(labels, scores)
    case.loss(labels, scores, where=mask)


@each_case
@pytest.mark.parametrize("bad_weight", [-7.0, INF])
def test_a_weight_out_of_range_in_a_graph_counts_as_zero(case, bad_weight):
    labels, scores, where, weights = case.float32()
    zero = np.where(weights == 0.5, 0.0, weights).astype(np.float32)
    bad = np.where(weights == 0.5, bad_weight, weights).astype(np.float32)

    @tf.function
    def run(weights):
        return value_and_gradient(
            case.loss, labels, scores, where=where, weights=weights
        )

    expected, found = run(tf.constant(zero)), run(tf.constant(bad))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@each_case
def test_a_label_out_of_range_in_a_graph_gives_no_nan(case):
    scores = tf.constant([[0.5, -1.0, 2.0], [0.25, 1.0, 0.0]])

    @tf.function
    def run(labels):
        return value_and_gradient(case.loss, labels, scores)

    for label in (-3e4, -2.0, 200.0, 3e4, INF, -INF):
        for labels in ([[label, 0.0, 1.0], [1.0, 0.0, 0.0]], [[label] * 3, [0.0] * 3]):
            value, gradient = run(tf.constant(labels))
            assert not np.isnan(value)
            assert not np.isnan(gradient).any()


@each_case
def test_signature_is_the_public_one(case):
    parameters = inspect.signature(case.function).parameters
    assert list(parameters)[:5] == ["labels", "scores", "where", "weights", "reduction"]
    assert parameters["where"].default is None
    assert parameters["weights"].default is None
    assert parameters["reduction"].default == "mean"
    assert parameters["where"].kind is inspect.Parameter.KEYWORD_ONLY


@each_case
def test_no_list_at_all_gives_zero(case):
    nothing = tf.zeros([0, 5])
    loss, gradient = value_and_gradient(case.loss, nothing, nothing)
    assert float(loss) == 0.0
    assert gradient.shape == (0, 5)
