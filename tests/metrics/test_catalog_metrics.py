"""What the metrics over the catalogue must satisfy, and their values."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.metrics import reference
from tests.processes import four_replicas
from tfrs_prerank import metrics

NAN = float("nan")
N = 7


def chances(requests, k):
    """Returns for each request the probability that each document is forwarded."""
    rows = []
    for ids, scores in requests:
        sets = reference.top_sets(scores, k)
        rows.append(
            {
                document: sum(i in best for best in sets) / len(sets)
                for i, document in enumerate(ids)
            }
        )
    return rows


def slow_coverage(requests, k):
    """Averages the number of forwarded documents over all orders of all requests."""
    if not any(ids for ids, _ in requests):
        return NAN
    all_sets = [
        [{ids[i] for i in best} for best in reference.top_sets(scores, k)]
        for ids, scores in requests
    ]
    sizes = [len(set().union(*sets)) for sets in itertools.product(*all_sets)]
    return sum(sizes) / len(sizes) / N


def slow_gini(requests, k):
    if not any(ids for ids, _ in requests):
        return NAN
    counts = dict.fromkeys(range(N), 0.0)
    for row in chances(requests, k):
        for document, chance in row.items():
            counts[document] += chance
    ordered = sorted(counts.values())
    spread = sum((2 * i - N - 1) * x for i, x in enumerate(ordered, start=1))
    return spread / (N * sum(ordered))


CATALOG_METRICS = {
    "CatalogCoverage": (metrics.CatalogCoverage, slow_coverage),
    "PopularityGini": (metrics.PopularityGini, slow_gini),
}
each_metric = pytest.mark.parametrize("name", CATALOG_METRICS)
quick = hypothesis.settings(max_examples=15, deadline=None, derandomize=True)


def make(kind, documents=N, k=2, **options):
    return CATALOG_METRICS[kind][0](documents, k, **options)


@st.composite
def batches(draw):
    """Up to three requests of up to four different documents, with ties and padding."""
    lists, size = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    ids = [draw(st.permutations(range(N)))[:size] for _ in range(lists)]
    scores = [
        draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=size, max_size=size))
        for _ in range(lists)
    ]
    where = [
        draw(st.lists(st.sampled_from([1, 1, 0]), min_size=size, max_size=size))
        for _ in range(lists)
    ]
    return (
        np.array(ids, np.int64).reshape(lists, size),
        np.array(scores, np.float32).reshape(lists, size),
        np.array(where, bool).reshape(lists, size),
    )


def random_batch(lists=40, size=6):
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile(np.arange(N), [lists, 1]), axis=1)[:, :size]
    scores = rng.integers(0, 4, [lists, size]) - 0.6 * ids
    return ids, scores, rng.random([lists, size]) < 0.8


@each_metric
@quick
@hypothesis.given(data=batches(), cut=st.integers(0, 2))
def test_equals_the_slow_formula_in_parts_too(name, data, cut):
    ids, scores, where = data
    requests = [
        (row_ids[mask].tolist(), row_scores[mask].tolist())
        for row_ids, row_scores, mask in zip(ids, scores, where, strict=True)
    ]
    expected = CATALOG_METRICS[name][1](requests, 2)
    whole, parts = make(name), make(name)
    whole.update_state(ids, scores, where=where)
    for rows in (slice(0, cut), slice(cut, None)):
        parts.update_state(ids[rows], scores[rows], where=where[rows])
    for metric in (whole, parts):
        np.testing.assert_allclose(metric.result(), expected, rtol=1e-9, atol=1e-12)
        assert metric.usable == (not math.isnan(expected))
        assert metric.unknown_documents == 0


@each_metric
def test_order_padding_and_the_scale_of_scores_change_nothing(name):
    ids, scores, where = random_batch()
    metric, moved = make(name), make(name)
    metric.update_state(ids, scores, where=where)
    order = [3, 1, 0, 5, 2, 4]
    moved.update_state(
        np.concatenate([ids[:, order], ids[:, :2]], axis=1),
        np.concatenate([np.exp(scores[:, order]), np.full([40, 2], 9e9)], axis=1),
        where=np.concatenate([where[:, order], np.zeros([40, 2], bool)], axis=1),
    )
    np.testing.assert_allclose(moved.result(), metric.result(), rtol=1e-12)


@each_metric
@pytest.mark.parametrize("kind", ["strings", "int64", "int32", "array"])
def test_ids_of_every_kind(name, kind):
    ids, scores, where = random_batch()
    metric, other = make(name), None
    metric.update_state(ids, scores, where=where)
    if kind == "strings":
        names = [f"d{i}" for i in range(N)]
        other = make(name, names)
        ids = np.array(names)[ids]
    elif kind == "array":
        other = make(name, np.array([10 * i - 3 for i in range(N)]))
        ids = 10 * ids - 3
    else:
        other = make(name, list(range(N)))
        ids = ids.astype(kind)
    other.update_state(ids, scores, where=where)
    np.testing.assert_allclose(other.result(), metric.result(), rtol=1e-12)
    copy = tf.keras.metrics.deserialize(tf.keras.metrics.serialize(other))
    assert copy.get_config() == other.get_config()
    copy.update_state(ids, scores, where=where)
    assert copy.result() == other.result()


@each_metric
@pytest.mark.parametrize("documents", [3, ["0", "1", "2"]])
def test_documents_that_are_not_in_the_catalogue_are_counted(name, documents):
    # Unknown 5 and -7 hold a place, and count for no document.
    ids = np.array([[5, 0], [-7, 1], [2, 0]])
    metric = make(name, documents, k=1)
    given = ids if documents == 3 else ids.astype(str)
    metric.update_state(given, [[2.0, 1.0], [3.0, 3.0], [2.0, 1.0]])
    assert metric.unknown_documents == 1.5
    # 1 with chance 1/2, 2 for sure: 1.5 of 3; counts 0, 1/2, 1: (2 * 1) / (3 * 1.5).
    expected = 0.5 if name == "CatalogCoverage" else 2 / 4.5
    assert float(metric.result()) == pytest.approx(expected)


def test_coverage_by_hand():
    # Two requests, constant scores, k = 1 of the same two documents of four: each is
    # forwarded with 1 - (1/2)^2, so 2 * 3/4 of 4 are expected.
    metric = metrics.CatalogCoverage(4, k=1)
    metric.update_state([[0, 1], [1, 0]], [[0.0, 0.0], [0.0, 0.0]])
    assert float(metric.result()) == pytest.approx(1.5 / 4)
    # A sure one does not become surer.
    metric.update_state([[0, 1], [0, 2]], [[1.0, 0.0], [1.0, 0.0]])
    assert float(metric.result()) == pytest.approx((1.0 + 0.75) / 4)
    # k beyond the list keeps all of it.
    assert metrics.CatalogCoverage(4).k == 100
    metric = metrics.CatalogCoverage(4)
    metric.update_state([[0, 1, 3]], [[1.0, 0.0, 0.0]])
    assert float(metric.result()) == 0.75


def test_gini_by_hand():
    # All forwarded equally often: 0. Always the same one of n: 1 - 1/n.
    equal, one = (metrics.PopularityGini(4, k=1) for _ in range(2))
    equal.update_state([[0, 1], [1, 0], [2, 0], [3, 0]], [[2.0, 1.0]] * 4)
    assert float(equal.result()) == pytest.approx(0.0, abs=1e-12)
    one.update_state([[2, 1]] * 5, [[2.0, 1.0]] * 5)
    assert float(one.result()) == pytest.approx(0.75)
    # Weights of lists multiply counts: 1 and 3 of two documents of four.
    metric = metrics.PopularityGini(4, k=1)
    metric.update_state([[0, 1], [1, 0]], [[2.0, 1.0]] * 2, weights=[1.0, 3.0])
    # (2 * 3 - 5) * 1 + (2 * 4 - 5) * 3 = 10, of 4 * 4.
    assert float(metric.result()) == pytest.approx(10 / 16)


@each_metric
def test_weight_zero_takes_out(name):
    ids, scores, where = random_batch()
    rng = np.random.default_rng(1)
    of_lists = rng.choice([0.0, 1.0, NAN], [40])
    of_documents = rng.choice([0.0, 1.0, 3.0, NAN], ids.shape)
    for weights, keep in (
        (of_lists, (of_lists != 0)[:, np.newaxis]),
        (of_documents, of_documents != 0),
    ):
        metric, expected = make(name), make(name)
        metric.update_state(ids, scores, where=where, weights=weights)
        expected.update_state(ids, scores, where=where & keep)
        assert metric.result() == expected.result()


@each_metric
def test_nothing_usable_and_nan_scores(name):
    metric = make(name)
    assert not metric.usable
    assert np.isnan(metric.result())
    metric.update_state([[1, 2]], [[1.0, 2.0]], where=[[False, False]])
    metric.update_state([[1, 2]], [[1.0, NAN]], weights=[0.0])
    metric.update_state(np.zeros([2, 0], np.int64), np.zeros([2, 0]))
    assert not metric.usable
    assert np.isnan(metric.result())
    metric.update_state([[1, 2]], [[1.0, 2.0]])
    assert metric.usable
    assert metric.result() > 0
    metric.update_state([[1, 2]], [[1.0, NAN]])
    assert metric.usable
    assert np.isnan(metric.result())
    metric.reset_state()
    assert not metric.usable


@each_metric
def test_graph_equals_eager(name):
    ids, scores, where = random_batch()
    names = np.array([f"d{i}" for i in range(N)])
    metric, eager = make(name, names), make(name, names)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], t) for t in (tf.string, tf.float32, tf.bool)
        ]
    )
    def update(ids, scores, where):
        metric.update_state(ids, scores, where=where)

    update(names[ids], scores, where)
    eager.update_state(names[ids], np.float32(scores), where=where)
    np.testing.assert_allclose(metric.result(), eager.result(), rtol=1e-12)


@each_metric
def test_bad_arguments_are_named(name):
    for documents in (0, [], np.zeros([0], np.int64)):
        with pytest.raises(ValueError, match=f"{name}: the catalogue is empty"):
            make(name, documents)
    with pytest.raises(ValueError, match=f"{name}: documents holds 'a' twice"):
        make(name, ["a", "b", "a"])
    for documents in (2.5, True, None, [1.5], [[1, 2]]):
        with pytest.raises(TypeError, match=f"{name}: documents is neither a number"):
            make(name, documents)
    with pytest.raises(ValueError, match=f"{name}: k=0 is not a cut-off"):
        make(name, k=0)
    with pytest.raises(TypeError, match=r"labels has dtype string: .* integers"):
        make(name).update_state([["a"]], [[1.0]])
    with pytest.raises(TypeError, match=r"labels has dtype float32: .* integers"):
        make(name).update_state([[1.0]], [[1.0]])
    with pytest.raises(TypeError, match=r"labels has dtype int32: .* strings"):
        make(name, ["a"]).update_state([[1]], [[1.0]])


@each_metric
def test_names_and_columns(name):
    assert make(name).columns == {"labels": "doc_ids"}
    assert make(name, column="author").columns == {"labels": "author"}
    assert make(name, name="mine").name == "mine"
    assert {v.dtype for v in make(name).variables} == {tf.float64}
    assert not make(name).additive
    names = {"CatalogCoverage": "catalog_coverage@2"}
    assert make(name).name == names.get(name, "popularity_gini@2")


def _four_replicas_add_up():
    lists = random_batch(lists=8)
    data = tf.data.Dataset.from_tensor_slices(lists).batch(8)
    strategy = four_replicas()
    for name in CATALOG_METRICS:
        with strategy.scope():
            metric = make(name)

        @tf.function
        def step(batch, metric=metric):
            def update(ids, scores, where):
                metric.update_state(ids, scores, where=where)

            strategy.run(update, batch)

        for batch in strategy.experimental_distribute_dataset(data):
            step(batch)
        one = make(name)
        one.update_state(*lists[:2], where=lists[2])
        np.testing.assert_allclose(metric.result(), one.result(), rtol=1e-12)
        assert metric.usable


def test_replicas_add_up(on_replicas):
    on_replicas(_four_replicas_add_up)
