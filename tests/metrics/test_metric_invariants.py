"""What every list metric must satisfy. A new metric is added to `METRICS`."""

import subprocess
import sys
import textwrap

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.metrics import reference
from tfrs_prerank import metrics

NAN, INF = float("nan"), float("inf")

# constructor, slow reference of one list, its further arguments
METRICS = {
    "ndcg@2": (lambda: metrics.NDCG(k=2), reference.ndcg, (2,)),
    "ndcg": (lambda: metrics.NDCG(k=None), reference.ndcg, (99,)),
    "mrr": (lambda: metrics.MRR(), reference.reciprocal_rank, (99,)),
    "mrr@2": (lambda: metrics.MRR(k=2), reference.reciprocal_rank, (2,)),
    "hit_rate@2": (lambda: metrics.HitRate(k=2), reference.hit_rate, (2,)),
    "gauc": (lambda: metrics.GAUC(), reference.auc, ()),
}
each_metric = pytest.mark.parametrize(
    ("make", "slow", "arguments"), METRICS.values(), ids=METRICS.keys()
)
quick = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def batches(draw):
    """Small lists with many ties, padding, absent labels and infinite scores."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(0, 5)))
    size = shape[0] * shape[1]

    def array(values):
        column = draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))
        return np.array(column).reshape(shape)

    labels = array([0.0, 0.0, 1.0, 1.0, 3.0, NAN]).astype(np.float32)
    scores = array([-INF, -1.0, -0.0, 0.0, 2.5, INF]).astype(np.float32)
    where = array([True, True, True, False]).astype(bool)
    junk = draw(st.sampled_from([NAN, INF, -INF, 7.0]))
    return labels, np.where(where, scores, np.float32(junk)), where


def random_batch(seed=0, lists=8, size=12):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, [lists, size]).astype(np.float32)
    labels[0] = 0.0
    scores = rng.integers(0, 5, [lists, size]).astype(np.float32)
    where = rng.random([lists, size]) < 0.8
    where[1] = False
    return labels, scores, where


def test_every_public_metric_is_in_the_table():
    assert {type(make()).__name__ for make, _, _ in METRICS.values()} == set(
        metrics.__all__
    )


@each_metric
@quick
@hypothesis.given(data=batches())
def test_equals_the_average_over_all_orders(make, slow, arguments, data):
    labels, scores, where = data
    values, weights = make().per_list(labels, scores, where=where)
    expected, expected_weights = reference.batch(
        slow, labels, scores, where, *arguments
    )
    assert values.dtype == weights.dtype == tf.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(weights, expected_weights)


@each_metric
@quick
@hypothesis.given(data=batches())
def test_masking_equals_deleting(make, slow, arguments, data):
    labels, scores, where = data
    values, weights = make().per_list(labels, scores, where=where)
    for row in range(len(labels)):
        keep = where[row] & ~np.isnan(labels[row])
        value, weight = make().per_list(
            labels[row : row + 1, keep], scores[row : row + 1, keep]
        )
        np.testing.assert_allclose(values[row], value[0], rtol=1e-12)
        assert weights[row] == weight[0]


@each_metric
@quick
@hypothesis.given(data=batches(), random=st.randoms())
def test_order_of_the_list_changes_nothing(make, slow, arguments, data, random):
    labels, scores, where = data
    order = list(range(labels.shape[1]))
    random.shuffle(order)
    before = make().per_list(labels, scores, where=where)
    after = make().per_list(labels[:, order], scores[:, order], where=where[:, order])
    np.testing.assert_allclose(before, after, rtol=1e-12)


@each_metric
@quick
@hypothesis.given(data=batches(), cut=st.integers(0, 4))
def test_splitting_the_batch_changes_nothing(make, slow, arguments, data, cut):
    whole, parts = make(), make()
    labels, scores, where = data
    whole.update_state(labels, scores, where=where)
    for rows in (slice(0, cut), slice(cut, None)):
        parts.update_state(labels[rows], scores[rows], where=where[rows])
    np.testing.assert_allclose(parts.result(), whole.result(), rtol=1e-12)
    assert parts.usable == whole.usable


@each_metric
def test_result_is_the_weighted_mean_of_per_list(make, slow, arguments):
    labels, scores, where = random_batch()
    metric = make()
    values, weights = (x.numpy() for x in metric.per_list(labels, scores, where=where))
    assert weights[0] == weights[1] == 0.0
    assert values[0] == values[1] == 0.0
    assert 0.0 < values.max() <= 1.0
    metric.update_state(labels, scores, where=where)
    assert metric.result().dtype == tf.float64
    np.testing.assert_allclose(metric.result(), values @ weights / weights.sum())
    metric.reset_state()
    assert np.isnan(metric.result())


@each_metric
def test_perfect_order_is_one_and_worst_is_less(make, slow, arguments):
    labels = np.float32([[3.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    metric = make()
    metric.update_state(labels, labels * 2.0 - 9.0)
    assert metric.result() == 1.0
    metric.reset_state()
    metric.update_state(labels, -labels)
    assert metric.result() < 0.6


@each_metric
def test_no_usable_list_is_nan_and_says_so(make, slow, arguments):
    metric = make()
    assert not metric.usable
    assert np.isnan(metric.result())
    metric.update_state(np.zeros([2, 3]), np.zeros([2, 3]))
    metric.update_state(np.ones([2, 3]), np.ones([2, 3]), where=np.zeros([2, 3], bool))
    metric.update_state(np.zeros([2, 0]), np.zeros([2, 0]))
    metric.update_state(np.zeros([0, 3]), np.zeros([0, 3]))
    metric.update_state([[1.0, 0.0]], [[1.0, 0.0]], weights=[0.0])
    assert not metric.usable
    assert np.isnan(metric.result())
    metric.update_state([[1.0, 0.0]], [[1.0, 0.0]])
    assert metric.usable
    assert metric.result() == 1.0


@each_metric
def test_weights_of_lists(make, slow, arguments):
    labels, scores, where = random_batch()
    values, own = make().per_list(labels, scores, where=where)
    weights = np.float32([1.0, 1.0, 0.0, 2.0, 0.5, 1.0, NAN, 3.0])
    metric = make()
    metric.update_state(labels, scores, where=where, weights=weights)
    counts = own * np.where(np.isnan(weights), 1.0, weights)
    np.testing.assert_allclose(
        metric.result(), np.sum(values * counts) / np.sum(counts)
    )
    # A list of weight 0 is out, even with a score that is not a number.
    scores[2] = NAN
    again = make()
    again.update_state(labels, scores, where=where, weights=weights)
    np.testing.assert_allclose(again.result(), metric.result())


@each_metric
def test_weight_zero_of_a_document_takes_it_out(make, slow, arguments):
    labels, scores, where = random_batch()
    rng = np.random.default_rng(3)
    weights = rng.choice([0.0, 0.5, 2.0, NAN], labels.shape)
    expected, metric = make(), make()
    expected.update_state(labels, scores, where=where & (weights != 0))
    metric.update_state(labels, scores, where=where, weights=weights)
    unmasked = make()
    unmasked.update_state(labels, scores, where=where)
    assert metric.result() == expected.result()
    assert metric.result() != unmasked.result()


@each_metric
def test_a_nan_score_of_a_valid_document_is_not_hidden(make, slow, arguments):
    metric = make()
    metric.update_state([[1.0, 0.0]], [[NAN, 1.0]])
    assert np.isnan(metric.result())
    assert metric.usable


@each_metric
@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_equal_eager(make, slow, arguments, jit):
    labels, scores, where = random_batch()
    metric = make()
    spec = [
        tf.TensorSpec([8, 12] if jit else [None, None], dtype)
        for dtype in (tf.float32, tf.float32, tf.bool)
    ]

    @tf.function(input_signature=spec, jit_compile=jit)
    def per_list(labels, scores, where):
        return metric.per_list(labels, scores, where=where)

    @tf.function
    def update(labels, scores, where, weights):
        metric.update_state(labels, scores, where=where, weights=weights)
        return metric.result()

    expected = metric.per_list(labels, scores, where=where)
    np.testing.assert_allclose(per_list(labels, scores, where), expected, rtol=1e-12)
    result = update(labels, scores, where, np.ones([8]))
    np.testing.assert_allclose(
        result, np.sum(expected[0] * expected[1]) / np.sum(expected[1])
    )


@each_metric
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
def test_any_dtype_of_labels_and_scores(make, slow, arguments, dtype):
    labels, scores, where = random_batch()
    np.testing.assert_array_equal(
        make().per_list(tf.cast(labels, dtype), tf.cast(scores, dtype), where=where),
        make().per_list(labels, scores, where=where),
    )


@each_metric
def test_state_is_float64_under_mixed_precision(make, slow, arguments):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        metric = make()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert [v.dtype for v in metric.variables] == [tf.float64, tf.float64]
    # 2^24 + 1 lists: the last one would be lost in float32.
    metric.count.assign(2.0**24)
    metric.total.assign(2.0**24)
    weight = metric.per_list([[1.0, 0.0]], [[1.0, 0.0]])[1].numpy()[0]
    metric.update_state([[1.0, 0.0]], [[1.0, 0.0]])
    assert metric.count.numpy() - 2.0**24 == weight


@each_metric
def test_round_trip(make, slow, arguments):
    metric = make()
    copy = tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    labels, scores, where = random_batch()
    for one in (metric, copy):
        one.update_state(labels, scores, where=where)
    assert copy.result() == metric.result()
    registered = tf.keras.utils.get_registered_name(type(metric))
    assert registered == f"tfrs_prerank>{type(metric).__name__}"
    assert type(metric)(name="mine").name == "mine"


@each_metric
def test_bad_arguments_are_named(make, slow, arguments):
    metric = make()
    square = np.zeros([3, 3])
    with pytest.raises(ValueError, match=r"labels has shape \(3,\).*\[B, L\]"):
        metric.update_state(np.zeros([3]), np.zeros([3]))
    with pytest.raises(ValueError, match=r"\(3, 1\) and scores \(3, 3\)"):
        metric.update_state(square[:, :1], square)
    with pytest.raises(TypeError, match="where has dtype float64"):
        metric.update_state(square, square, where=square)
    with pytest.raises(ValueError, match=r"where has shape \(3, 1\)"):
        metric.update_state(square, square, where=np.ones([3, 1], bool))
    with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
        metric.update_state(square, square, weights=np.ones([2]))
    with pytest.raises(ValueError, match=r"weights has shape \(3, 1\)"):
        metric.update_state(square, square, weights=np.ones([3, 1]))


def test_replicas_add_up():
    """Two replicas with unequal lists equal one, in a process with two CPUs."""
    script = """
        import tfrs_prerank  # selects Keras 2
        import numpy as np
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        from tests.metrics.test_metric_invariants import METRICS, random_batch

        labels, scores, where = random_batch(lists=8)
        where[4] = False  # the second replica has fewer lists
        data = tf.data.Dataset.from_tensor_slices((labels, scores, where)).batch(8)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for make, _, _ in METRICS.values():
            with strategy.scope():
                metric = make()

            @tf.function
            def step(batch, metric=metric):
                def update(labels, scores, where):
                    metric.update_state(labels, scores, where=where)

                strategy.run(update, batch)

            for batch in strategy.experimental_distribute_dataset(data):
                step(batch)
            one = make()
            one.update_state(labels, scores, where=where)
            np.testing.assert_allclose(metric.result(), one.result(), rtol=1e-12)
            np.testing.assert_allclose(metric.count.read_value(), one.count)
            assert metric.usable
            print(metric.name, "agrees")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees") == len(METRICS)
