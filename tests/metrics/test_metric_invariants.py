"""What every metric that is a mean over lists must satisfy.

A new one is added to `METRICS`. Those that are no such mean have their invariants in
`test_document_metrics` and `test_catalog_metrics`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.metrics import reference
from tests.metrics.test_catalog_metrics import CATALOG_METRICS
from tests.metrics.test_document_metrics import DOCUMENT_METRICS
from tests.processes import four_replicas
from tfrs_prerank import metrics

NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass(frozen=True)
class Case:
    """A metric and its reference.

    Attributes:
        kind: the class.
        options: of its constructor.
        slow: the reference of one list.
        arguments: of the reference, where they are not the options.
        unlabelled_compete: whether documents without a label stay in the list.
        ideal: whether ranking by the labels gives 1.
        needs_positives: whether labels of 0 alone make a list useless.
    """

    kind: type
    options: dict[str, Any]
    slow: Callable
    arguments: dict[str, Any] | None = None
    unlabelled_compete: bool = False
    ideal: bool = True
    needs_positives: bool = True

    def make(self, **options):
        return self.kind(**{**self.options, **options})

    def reference(self, labels, scores, where, columns):
        """Returns values and weights `[B]`, list by list."""
        arguments = self.options if self.arguments is None else self.arguments
        rows = []
        for row, mask in enumerate(where):
            lists = [labels[row], scores[row], *(c[row] for c in columns.values())]
            kept = reference.kept_documents(lists, mask, self.unlabelled_compete)
            rows.append(self.slow(*kept, **arguments))
        return np.array([v for v, _ in rows]), np.array([w for _, w in rows])


RANKER = {"ideal": False, "needs_positives": False}
METRICS = {
    "ndcg@2": Case(metrics.NDCG, {"k": 2}, reference.ndcg),
    "ndcg": Case(metrics.NDCG, {"k": None}, reference.ndcg, {"k": 999}),
    "mrr": Case(metrics.MRR, {}, reference.reciprocal_rank, {"k": 999}),
    "mrr@2": Case(metrics.MRR, {"k": 2}, reference.reciprocal_rank),
    "hit_rate@2": Case(metrics.HitRate, {"k": 2}, reference.hit_rate),
    "gauc": Case(metrics.GAUC, {}, reference.auc),
    "in_scene_hit_rate@2": Case(
        metrics.InSceneHitRate, {"k": 2}, reference.hit_rate, None, True
    ),
    "ash@2": Case(metrics.ASH, {"k": 2}, reference.hit_rate, None, True),
    "weighted_recall@2": Case(
        metrics.WeightedRecall, {"k": 2}, reference.weighted_recall, None, True
    ),
    "weighted_recall@2, pooled": Case(
        metrics.WeightedRecall,
        {"k": 2, "values": "price", "pooled": True},
        reference.pooled_recall,
        {"k": 2},
        True,
        ideal=False,
    ),
    "ranker_hit_rate@3,2": Case(
        metrics.RankerHitRate, {"k": 3, "m": 2}, reference.ranker_hit_rate, **RANKER
    ),
    "ranker_hit_rate@2,3": Case(
        metrics.RankerHitRate, {"k": 2, "m": 3}, reference.ranker_hit_rate, **RANKER
    ),
    "overlap@2": Case(metrics.Overlap, {"k": 2}, reference.overlap, **RANKER),
    "score_recall@2": Case(
        metrics.ScoreRecall,
        {"k": 2, "gain": "sigmoid"},
        reference.score_recall,
        needs_positives=False,
    ),
    "score_recall@2, shifted": Case(
        metrics.ScoreRecall, {"k": 2, "gain": "shift"}, reference.score_recall
    ),
    "tail_share@2": Case(
        metrics.TailShare,
        {"column": "popularity", "head_from": 2.0, "k": 2},
        reference.forwarded_share,
        {"k": 2, "below": 2.0},
        **RANKER,
    ),
    "never_exposed_share@2": Case(
        metrics.NeverExposedShare,
        {"column": "exposures", "k": 2},
        reference.forwarded_share,
        {"k": 2, "below": 1.0},
        **RANKER,
    ),
    "pauc@3": Case(metrics.PAUC, {"k": 3}, reference.pauc, None, True, ideal=False),
    "kendall_tau": Case(metrics.KendallTau, {}, reference.kendall_tau),
    "intent_coverage@2": Case(
        metrics.IntentCoverage,
        {"column": "category", "k": 2},
        reference.intent_coverage,
        {"k": 2},
        True,
        ideal=False,
    ),
}
each_metric = pytest.mark.parametrize("name", METRICS)
quick = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
quicker = hypothesis.settings(quick, max_examples=10)


@functools.cache
def per_list_of(name):
    """Returns a metric's `per_list` as a graph for all shapes: many calls are quick."""
    metric = METRICS[name].make()
    columns = further_columns(name, random_batch()[3])
    numbers, mask = (tf.TensorSpec([None, None], t) for t in (tf.float32, tf.bool))
    specs = {
        key: tf.TensorSpec([None, None], column.dtype)
        for key, column in columns.items()
    }

    @tf.function(input_signature=[numbers, numbers, mask, specs])
    def per_list(labels, scores, where, columns):
        return metric.per_list(labels, scores, where=where, **columns)

    return per_list


@st.composite
def batches(draw):
    """Small lists with many ties, padding, absent labels and infinite scores."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(0, 5)))
    size = shape[0] * shape[1]

    def array(values, dtype):
        column = draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))
        return np.array(column, dtype).reshape(shape)

    labels = array([0.0, 0.0, 1.0, 1.0, 3.0, NAN], np.float32)
    scores = array([-INF, -1.0, -0.0, 0.0, 2.5, INF], np.float32)
    where = array([True, True, True, False], bool)
    junk = draw(st.sampled_from([NAN, INF, -INF, 7.0]))
    further = {
        "ranker": array([0.0, 1.0, 2.0, NAN], np.float32),
        "intents": array([-1, 1, 2, 2**62, 2**62 + 1], np.int64),
        "values": array([0.0, 5.0, 0.5, NAN, -1.0], np.float32),
    }
    return labels, np.where(where, scores, np.float32(junk)), where, further


def random_batch(seed=0, lists=8, size=12):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, [lists, size]).astype(np.float32)
    labels[0] = 0.0
    scores = rng.integers(0, 5, [lists, size]).astype(np.float32)
    where = rng.random([lists, size]) < 0.8
    where[1] = False
    further = {
        "ranker": rng.integers(0, 7, [lists, size]).astype(np.float32),
        "intents": rng.integers(0, 7, [lists, size]),
        "values": rng.integers(1, 4, [lists, size]).astype(np.float32),
    }
    return labels, scores, where, further


def further_columns(name, further):
    """Returns those of the further columns that a metric reads."""
    return {key: further[key] for key in METRICS[name].make().columns if key in further}


def plain_columns(name, shape):
    """Returns further columns in which documents differ in nothing."""
    plain = {
        "ranker": np.ones(shape),
        "intents": np.ones(shape, np.int64),
        "values": np.ones(shape),
    }
    return further_columns(name, plain)


def updated(name, labels, scores, **arguments):
    """Returns a metric that has seen one batch."""
    metric = METRICS[name].make()
    metric.update_state(
        labels, scores, **plain_columns(name, np.shape(scores)), **arguments
    )
    return metric


def test_every_public_metric_is_in_a_table():
    tables = {case.kind.__name__ for case in METRICS.values()}
    others = {*CATALOG_METRICS, *DOCUMENT_METRICS}
    assert tables | others == set(metrics.__all__)


@each_metric
@quick
@hypothesis.given(data=batches())
def test_equals_the_average_over_all_orders(name, data):
    *lists, further = data
    columns = further_columns(name, further)
    values, weights = per_list_of(name)(*lists, columns)
    expected, expected_weights = METRICS[name].reference(*lists, columns)
    assert values.dtype == weights.dtype == tf.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(weights, expected_weights)


@each_metric
def test_longer_lists_equal_the_plain_formula(name):
    # A cut in the middle, ties of two and three documents and padding.
    case = METRICS[name]
    changes = {key: 37 for key in ("k", "m") if case.options.get(key)}
    case = dataclasses.replace(
        case,
        options={**case.options, **changes},
        arguments=case.arguments and {**case.arguments, **changes},
    )
    rng = np.random.default_rng(0)
    shape = (4, 150)
    labels = rng.choice([0.0, 0.0, 0.0, 1.0, 2.0], shape)
    scores, ranker = (
        rng.permuted(np.tile(np.arange(150.0), [4, 1]), axis=1) for _ in range(2)
    )
    for column in (scores, ranker):
        # The 37th best is among the tied ones.
        column[(column >= 112) & (column <= 114)] = 113.0
        column[column == 20.0] = 21.0
    if case.make().columns["labels"].startswith("teacher"):
        labels = ranker / 16.0 - 4.0
    where = rng.random(shape) < 0.97
    columns = further_columns(
        name,
        {
            "ranker": ranker,
            "intents": rng.integers(0, 90, shape),
            "values": rng.random(shape),
        },
    )
    values, weights = case.make().per_list(labels, scores, where=where, **columns)
    expected, expected_weights = case.reference(labels, scores, where, columns)
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    np.testing.assert_allclose(weights, expected_weights, rtol=1e-12)
    assert (expected_weights > 0).all()


@each_metric
@quicker
@hypothesis.given(data=batches())
def test_masking_equals_deleting(name, data):
    labels, scores, where, further = data
    columns = further_columns(name, further)
    values, weights = per_list_of(name)(labels, scores, where, columns)
    for row in range(len(labels)):
        keep = where[row]
        if not METRICS[name].unlabelled_compete:
            keep = keep & ~np.isnan(labels[row])
        value, weight = per_list_of(name)(
            labels[row : row + 1, keep],
            scores[row : row + 1, keep],
            where[row : row + 1, keep],
            {key: column[row : row + 1, keep] for key, column in columns.items()},
        )
        np.testing.assert_allclose(values[row], value[0], rtol=1e-12)
        assert weights[row] == weight[0]


@each_metric
@quicker
@hypothesis.given(data=batches(), random=st.randoms())
def test_order_of_the_list_changes_nothing(name, data, random):
    *lists, further = data
    columns = further_columns(name, further)
    order = list(range(lists[0].shape[1]))
    random.shuffle(order)
    before = per_list_of(name)(*lists, columns)
    after = per_list_of(name)(
        *(column[:, order] for column in lists),
        {key: column[:, order] for key, column in columns.items()},
    )
    np.testing.assert_allclose(before, after, rtol=1e-12)


@each_metric
@quicker
@hypothesis.given(data=batches())
def test_only_the_order_of_the_scores_counts(name, data):
    labels, scores, where, further = data
    columns = further_columns(name, further)
    before = per_list_of(name)(labels, scores, where, columns)
    # -inf, -1, 0, 2.5 and inf in the same order.
    with np.errstate(invalid="ignore"):
        other = np.float32(np.arctan(scores) ** 3 - 9.0)
    after = per_list_of(name)(labels, other, where, columns)
    np.testing.assert_array_equal(before, after)


@each_metric
@quicker
@hypothesis.given(data=batches(), cut=st.integers(0, 4))
def test_splitting_the_batch_changes_nothing(name, data, cut):
    whole, parts = METRICS[name].make(), METRICS[name].make()
    labels, scores, where, further = data
    columns = further_columns(name, further)
    whole.update_state(labels, scores, where=where, **columns)
    for rows in (slice(0, cut), slice(cut, None)):
        part = {key: column[rows] for key, column in columns.items()}
        parts.update_state(labels[rows], scores[rows], where=where[rows], **part)
    np.testing.assert_allclose(parts.result(), whole.result(), rtol=1e-12)
    assert parts.usable == whole.usable


@each_metric
def test_result_is_the_weighted_mean_of_per_list(name):
    labels, scores, where, further = random_batch()
    columns = further_columns(name, further)
    metric = METRICS[name].make()
    values, weights = (
        x.numpy() for x in metric.per_list(labels, scores, where=where, **columns)
    )
    assert weights[1] == values[1] == 0.0
    if METRICS[name].needs_positives:
        assert weights[0] == values[0] == 0.0
    assert 0.0 < values.max() <= 1.0
    metric.update_state(labels, scores, where=where, **columns)
    assert metric.result().dtype == tf.float64
    np.testing.assert_allclose(metric.result(), values @ weights / weights.sum())

    # Any lists can be added up afterwards, as a bootstrap does.
    assert metric.additive
    sums = metric.list_sums(labels, scores, where=where, **columns)
    np.testing.assert_allclose(sums, np.stack([values * weights, weights], axis=1))
    drawn = [2, 2, 5, 1]
    np.testing.assert_allclose(
        metric.value_of(tf.reduce_sum(tf.gather(sums, drawn), axis=0)),
        values[drawn] @ weights[drawn] / weights[drawn].sum(),
    )
    assert np.isnan(metric.value_of([[0.0, 0.0]])).tolist() == [True]
    metric.reset_state()
    assert np.isnan(metric.result())


@pytest.mark.parametrize("name", [n for n, case in METRICS.items() if case.ideal])
def test_perfect_order_is_one_and_worst_is_less(name):
    labels = np.float32([[3.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert updated(name, labels, labels * 2.0 - 9.0).result() == 1.0
    assert updated(name, labels, -labels).result() < 0.75


@each_metric
def test_no_usable_list_is_nan_and_says_so(name):
    metric = METRICS[name].make()

    def add(labels, scores, **arguments):
        further = plain_columns(name, np.shape(scores))
        metric.update_state(labels, scores, **further, **arguments)

    assert not metric.usable
    assert np.isnan(metric.result())
    if METRICS[name].needs_positives:
        add(np.zeros([2, 3]), np.zeros([2, 3]))
    add(np.ones([2, 3]), np.ones([2, 3]), where=np.zeros([2, 3], bool))
    add(np.full([2, 3], NAN), np.ones([2, 3]))
    add(np.zeros([2, 0]), np.zeros([2, 0]))
    add(np.zeros([0, 3]), np.zeros([0, 3]))
    add([[1.0, 0.0]], [[1.0, 0.0]], weights=[0.0])
    assert not metric.usable
    assert np.isnan(metric.result())
    add([[1.0, 0.0]], [[1.0, 0.0]])
    assert metric.usable
    assert 0.0 <= metric.result() <= 1.0


@each_metric
def test_weights_of_lists(name):
    labels, scores, where, further = random_batch()
    columns = further_columns(name, further)
    metric, again = METRICS[name].make(), METRICS[name].make()
    values, counts = metric.per_list(labels, scores, where=where, **columns)
    weights = np.float32([1.0, 1.0, 0.0, 2.0, 0.5, 1.0, NAN, 3.0])
    metric.update_state(labels, scores, where=where, weights=weights, **columns)
    counts = counts * np.where(np.isnan(weights), 1.0, weights)
    np.testing.assert_allclose(
        metric.result(), np.sum(values * counts) / np.sum(counts)
    )
    # A list of weight 0 is out, even with a score that is not a number.
    scores[2] = NAN
    again.update_state(labels, scores, where=where, weights=weights, **columns)
    np.testing.assert_allclose(again.result(), metric.result())


@each_metric
def test_weight_zero_of_a_document_takes_it_out(name):
    labels, scores, where, further = random_batch()
    columns = further_columns(name, further)
    rng = np.random.default_rng(3)
    weights = rng.choice([0.0, 0.5, 2.0, NAN], labels.shape)
    expected, metric, unmasked = (METRICS[name].make() for _ in range(3))
    expected.update_state(labels, scores, where=where & (weights != 0), **columns)
    metric.update_state(labels, scores, where=where, weights=weights, **columns)
    unmasked.update_state(labels, scores, where=where, **columns)
    assert metric.result() == expected.result()
    assert metric.result() != unmasked.result()


@each_metric
def test_a_nan_score_of_a_valid_document_is_not_hidden(name):
    metric = updated(name, [[1.0, 0.0]], [[NAN, 1.0]])
    assert np.isnan(metric.result())
    assert metric.usable


@each_metric
def test_graph_equals_eager(name):
    labels, scores, where, further = random_batch()
    columns = further_columns(name, further)
    metric = METRICS[name].make()

    @tf.function
    def update(labels, scores, where, weights, columns):
        metric.update_state(labels, scores, where=where, weights=weights, **columns)
        return metric.result()

    expected = metric.per_list(labels, scores, where=where, **columns)
    np.testing.assert_allclose(
        per_list_of(name)(labels, scores, where, columns), expected, rtol=1e-12
    )
    result = update(labels, scores, where, np.ones([8]), columns)
    np.testing.assert_allclose(
        result, np.sum(expected[0] * expected[1]) / np.sum(expected[1])
    )


def test_xla_equals_eager():
    # All in one function, as to compile each of them would take most of the time.
    labels, scores, where, further = random_batch()
    made = {name: case.make() for name, case in METRICS.items()}
    keys = {name: list(further_columns(name, further)) for name in METRICS}

    @tf.function(jit_compile=True)
    def all_of_them(labels, scores, where, further):
        values = {}
        for name, metric in made.items():
            columns = {key: further[key] for key in keys[name]}
            values[name] = metric.per_list(labels, scores, where=where, **columns)
        return values

    for name, compiled in all_of_them(labels, scores, where, further).items():
        columns = further_columns(name, further)
        expected = per_list_of(name)(labels, scores, where, columns)
        np.testing.assert_allclose(compiled, expected, rtol=1e-11, err_msg=name)


@each_metric
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int32"])
def test_any_dtype_of_labels_and_scores(name, dtype):
    labels, scores, where, further = random_batch()
    columns = further_columns(name, further)
    cast = tf.cast(labels, dtype), tf.cast(scores, dtype)
    np.testing.assert_allclose(
        METRICS[name].make().per_list(*cast, where=where, **columns),
        per_list_of(name)(labels, scores, where, columns),
        rtol=1e-12,
    )


@each_metric
def test_state_is_float64_under_mixed_precision(name):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        metric = METRICS[name].make()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert [v.dtype for v in metric.variables] == [tf.float64, tf.float64]
    # 2^24 + 1 lists: the last one would be lost in float32.
    metric.count.assign(2.0**24)
    metric.total.assign(2.0**24)
    one, further = [[1.0, 0.0]], plain_columns(name, [1, 2])
    weight = metric.per_list(one, one, **further)[1].numpy()[0]
    metric.update_state(one, one, **further)
    assert metric.count.numpy() - 2.0**24 == weight


@each_metric
def test_round_trip(name):
    metric = METRICS[name].make()
    copy = tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert copy.columns == metric.columns
    labels, scores, where, further = random_batch()
    for one in (metric, copy):
        columns = further_columns(name, further)
        one.update_state(labels, scores, where=where, **columns)
    assert copy.result() == metric.result()
    registered = tf.keras.utils.get_registered_name(type(metric))
    assert registered == f"tfrs_prerank>{type(metric).__name__}"
    assert METRICS[name].make(name="mine").name == "mine"


@each_metric
def test_bad_arguments_are_named(name):
    metric = METRICS[name].make()
    square = np.zeros([3, 3])
    further = plain_columns(name, [3, 3])
    add = functools.partial(metric.update_state, **further)
    with pytest.raises(ValueError, match=r"labels has shape \(3,\).*\[B, L\]"):
        add(np.zeros([3]), np.zeros([3]))
    with pytest.raises(ValueError, match=r"\(3, 1\) and scores \(3, 3\)"):
        add(square[:, :1], square)
    with pytest.raises(TypeError, match="where has dtype float64"):
        add(square, square, where=square)
    with pytest.raises(ValueError, match=r"where has shape \(3, 1\)"):
        add(square, square, where=np.ones([3, 1], bool))
    with pytest.raises(ValueError, match=r"weights has shape \(2,\)"):
        add(square, square, weights=np.ones([2]))
    with pytest.raises(ValueError, match=r"weights has shape \(3, 1\)"):
        add(square, square, weights=np.ones([3, 1]))
    with pytest.raises(TypeError, match="there is no argument 'colour'"):
        add(square, square, colour=square)
    for key in further:
        column = metric.columns[key]
        with pytest.raises(TypeError, match=f"{key} is missing: .* '{column}'"):
            metric.update_state(square, square)
        with pytest.raises(ValueError, match=rf"{key} has shape \(3, 1\)"):
            metric.update_state(square, square, **{key: further[key][:, :1]})


def _four_replicas_add_up(names):
    *lists, further = random_batch(lists=8)
    lists[2][4] = False  # the third replica has fewer lists
    data = tf.data.Dataset.from_tensor_slices((*lists, further)).batch(8)
    strategy = four_replicas()
    for name in names:
        case = METRICS[name]
        columns = further_columns(name, further)
        with strategy.scope():
            metric = case.make()

        @tf.function
        def step(batch, metric=metric, keys=tuple(columns)):
            def update(labels, scores, where, further):
                further = {key: further[key] for key in keys}
                metric.update_state(labels, scores, where=where, **further)

            strategy.run(update, batch)

        for batch in strategy.experimental_distribute_dataset(data):
            step(batch)
        one = case.make()
        one.update_state(*lists[:2], where=lists[2], **columns)
        np.testing.assert_allclose(metric.result(), one.result(), rtol=1e-12)
        np.testing.assert_allclose(metric.count.read_value(), one.count)
        assert metric.usable


# All keep the same two sums; one of each way to them.
ONE_OF_EACH = ["ndcg@2", "weighted_recall@2, pooled", "score_recall@2, shifted"]


@pytest.mark.parametrize(
    "names", [ONE_OF_EACH, pytest.param(list(METRICS), marks=pytest.mark.slow)]
)
def test_replicas_add_up(on_replicas, names):
    """Replicas with unequal numbers of lists equal one."""
    on_replicas(_four_replicas_add_up, names)


@pytest.mark.parametrize("name", ["hit_rate@2", "ndcg@2"])
def test_a_negative_weight_is_refused_or_in_a_graph_none(name):
    metric = METRICS[name].make()
    labels, scores = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]]
    with pytest.raises(ValueError, match=r"weights holds -1: give none below 0"):
        metric.update_state(labels, scores, weights=[2.0, -1.0])
    added = tf.function(
        lambda weights: metric.list_sums(labels, scores, weights=weights)
    )
    negative, zero = (added(tf.constant([2.0, last])) for last in (-1.0, 0.0))
    np.testing.assert_array_equal(negative, zero)
