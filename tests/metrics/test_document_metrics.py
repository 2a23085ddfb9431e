"""What the metrics of calibration must satisfy, and their values."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tfrs_prerank import metrics

NAN, INF = float("nan"), float("inf")


def sigmoid(logit):
    if logit < 0:
        return math.exp(logit) / (1.0 + math.exp(logit)) if logit > -700 else 0.0
    return 1.0 / (1.0 + math.exp(-logit)) if logit < 700 else 1.0


def slow_pcoc(documents):
    observed = sum(w * y for y, _, w in documents)
    predicted = sum(w * sigmoid(z) for _, z, w in documents)
    return predicted / observed if observed else NAN


def slow_normalized_entropy(documents):
    weight = sum(w for _, _, w in documents)
    rate = sum(w * y for y, _, w in documents) / weight if weight else 0.0
    if not 0.0 < rate < 1.0:
        return NAN
    loss = 0.0
    for y, z, w in documents:
        # log p and log(1 - p), by the larger of the two sides.
        tail = math.log1p(math.exp(-abs(z)))
        log_p, log_not_p = (-tail, -z - tail) if z > 0 else (z - tail, -tail)
        loss -= w * (y * log_p if y else 0.0)
        loss -= w * ((1.0 - y) * log_not_p if y < 1 else 0.0)
    entropy = -rate * math.log(rate) - (1.0 - rate) * math.log(1.0 - rate)
    return loss / weight / entropy


def slow_ece(documents, bins):
    weight = sum(w for _, _, w in documents)
    if not weight:
        return NAN

    def cell(logit):
        return min(max(math.floor((logit + 16.0) * 128.0), 0), 4095)

    cells = {}
    for y, z, w in documents:
        cells.setdefault(cell(max(min(z, 99.0), -99.0)), []).append((y, z, w))
    before, excess = 0.0, [0.0] * bins
    for key in sorted(cells):
        mass = sum(w for _, _, w in cells[key])
        place = min(math.floor(bins * (before + mass / 2.0) / weight), bins - 1)
        excess[place] += sum(w * (sigmoid(z) - y) for y, z, w in cells[key])
        before += mass
    return sum(map(abs, excess)) / weight


DOCUMENT_METRICS = {
    "PCOC": (metrics.PCOC, {}, slow_pcoc),
    "NormalizedEntropy": (metrics.NormalizedEntropy, {}, slow_normalized_entropy),
    "ECE": (metrics.ECE, {"bins": 3}, slow_ece),
}
each_metric = pytest.mark.parametrize("name", DOCUMENT_METRICS)
quick = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)


def make(name):
    kind, options, _ = DOCUMENT_METRICS[name]
    return kind(**options)


def slow(name, labels, logits, where, weights):
    _, options, function = DOCUMENT_METRICS[name]
    documents = [
        (y.item(), z.item(), w.item())
        for y, z, valid, w in zip(
            *(x.reshape(-1) for x in (labels, logits, where, weights)), strict=True
        )
        if valid and w > 0 and not math.isnan(y)
    ]
    return function(documents, **options)


@st.composite
def batches(draw):
    """Hard and soft labels, absent ones, tied and infinite logits, padding."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(0, 6)))
    size = shape[0] * shape[1]

    def array(values, dtype):
        column = draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))
        return np.array(column, dtype).reshape(shape)

    labels = array([0.0, 0.0, 1.0, 1.0, 0.25, NAN], np.float64)
    # An infinite logit with the other label has an infinite loss: apart, below.
    logits = array([-40.0, -3.0, -0.0, 0.0, 0.5, 20.0], np.float64)
    where = array([True, True, True, False], bool)
    return labels, np.where(where, logits, NAN), where


def random_batch(seed=0, lists=40, size=50):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.0, 2.0, [lists, size])
    logits[:, : size // 3] = np.round(logits[:, : size // 3])
    labels = (rng.random([lists, size]) < 1 / (1 + np.exp(-1.3 * logits))).astype(float)
    labels[rng.random([lists, size]) < 0.1] = NAN
    return labels, logits, rng.random([lists, size]) < 0.9


@each_metric
@quick
@hypothesis.given(data=batches())
def test_equals_the_plain_formula(name, data):
    metric = make(name)
    metric.update_state(data[0], data[1], where=data[2])
    expected = slow(name, *data, np.ones_like(data[0]))
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-9, atol=1e-12)
    assert metric.usable == (not math.isnan(expected))


@each_metric
@pytest.mark.parametrize("shape", [(), (40,), (40, 50)])
def test_weights_and_batches_equal_the_plain_formula(name, shape):
    # No weights, of lists, of documents; all at once, and 40 lists in four parts.
    labels, logits, where = random_batch()
    weights = None
    full = np.ones_like(labels)
    if shape:
        weights = np.random.default_rng(1).choice([0.0, 0.5, 2.0, NAN], shape)
        full = np.nan_to_num(weights, nan=1.0).reshape([40, -1]) * full
    expected = slow(name, labels, logits, where, full)
    for cuts in ([0, 40], [0, 1, 7, 7, 40]):
        metric = make(name)
        for first, last in itertools.pairwise(cuts):
            rows = slice(first, last)
            part = None if weights is None else weights[rows]
            metric.update_state(
                labels[rows], logits[rows], where=where[rows], weights=part
            )
        np.testing.assert_allclose(metric.result(), expected, rtol=1e-9)
    assert 0.0 < expected < 1.5


@each_metric
def test_order_and_padding_change_nothing(name):
    labels, logits, where = random_batch()
    metric, moved = make(name), make(name)
    metric.update_state(labels, logits, where=where)
    order = np.random.default_rng(2).permutation(50)
    wide = [np.concatenate([x[:, order], x[:, :9]], axis=1) for x in (labels, logits)]
    real = np.concatenate([where[:, order], np.zeros([40, 9], bool)], axis=1)
    moved.update_state(*wide, where=real)
    np.testing.assert_allclose(moved.result(), metric.result(), rtol=1e-12)


@each_metric
def test_nothing_usable_is_nan_and_says_so(name):
    metric = make(name)
    assert not metric.usable
    assert np.isnan(metric.result())
    metric.update_state(np.ones([2, 3]), np.ones([2, 3]), where=np.zeros([2, 3], bool))
    metric.update_state(np.full([2, 3], NAN), np.ones([2, 3]))
    metric.update_state(np.ones([0, 3]), np.ones([0, 3]))
    metric.update_state(np.ones([2, 3]), np.ones([2, 3]), weights=np.zeros([2]))
    assert not metric.usable
    assert np.isnan(metric.result())
    metric.update_state([[1.0, 0.0]], [[1.0, 0.0]])
    assert metric.usable
    assert metric.result() > 0
    metric.reset_state()
    assert not metric.usable


@each_metric
def test_a_nan_logit_is_not_hidden(name):
    metric = make(name)
    metric.update_state([[1.0, 0.0, 0.0]], [[1.0, NAN, 0.0]])
    assert np.isnan(metric.result())
    assert metric.usable
    # In padding, or without a label, it is nothing.
    metric.reset_state()
    metric.update_state(
        [[1.0, 0.0, NAN]], [[1.0, NAN, NAN]], where=[[True, False, True]]
    )
    metric.update_state([[0.0]], [[0.0]])
    assert not np.isnan(metric.result())


@each_metric
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_graph_and_xla_equal_eager(name, jit):
    labels, logits, where = random_batch()
    metric, eager = make(name), make(name)

    @tf.function(jit_compile=jit)
    def update(labels, logits, where):
        metric.update_state(labels, logits, where=where)

    update(labels, logits, where)
    eager.update_state(labels, logits, where=where)
    np.testing.assert_allclose(metric.result(), eager.result(), rtol=1e-9)


@each_metric
def test_sums_of_lists_make_the_value(name):
    labels, logits, where = random_batch()
    metric = make(name)
    if not metric.additive:
        assert not hasattr(metric, "list_sums")
        return
    sums = metric.list_sums(labels, logits, where=where)
    assert sums.dtype == tf.float64
    known = where & ~np.isnan(labels)
    np.testing.assert_array_equal(sums[:, -1], known.sum(axis=1))
    # Lists 3, 3 and 8, as a bootstrap draws them, and none.
    drawn = [3, 3, 8]
    expected = slow(
        name, labels[drawn], logits[drawn], where[drawn], np.ones_like(labels[drawn])
    )
    several = np.stack([sums.numpy()[drawn].sum(axis=0), np.zeros(sums.shape[1])])
    value, none = metric.value_of(several).numpy()
    assert value == pytest.approx(expected, rel=1e-9)
    assert np.isnan(none)


@each_metric
def test_config_dtype_and_name(name):
    metric = make(name)
    copy = tf.keras.metrics.deserialize(tf.keras.metrics.serialize(metric))
    assert copy.get_config() == metric.get_config()
    for one in (metric, copy):
        one.update_state([[1.0, 0.0]], [[0.5, 0.0]])
    assert copy.result() == metric.result()
    registered = tf.keras.utils.get_registered_name(type(metric))
    assert registered == f"tfrs_prerank>{name}"
    assert {v.dtype for v in metric.variables} == {tf.float64}
    assert type(metric)(name="mine").name == "mine"
    assert metric.reads == "logits"
    assert metric.columns == {"labels": "label/{task}"}


@each_metric
def test_bad_arguments_are_named(name):
    metric = make(name)
    square = np.zeros([3, 3])
    with pytest.raises(ValueError, match=r"labels has shape \(3,\).*\[B, L\]"):
        metric.update_state(np.zeros([3]), np.zeros([3]))
    with pytest.raises(TypeError, match="where has dtype float64"):
        metric.update_state(square, square, where=square)
    with pytest.raises(ValueError, match=r"weights has shape \(3, 1\)"):
        metric.update_state(square, square, weights=np.ones([3, 1]))


def value(metric, labels, logits):
    metric.update_state([labels], [logits])
    return float(metric.result())


def test_pcoc_by_hand():
    # p = 1/2, 1/2, 4/5 against 1 of 3 and then 1 of 4 documents.
    logits = [0.0, 0.0, math.log(4.0)]
    assert value(metrics.PCOC(), [1.0, 0.0, 0.0], logits) == pytest.approx(1.8)
    assert value(metrics.PCOC(), [1.0, 1.0, 1.0], logits) == pytest.approx(0.6)
    # No positive: there is nothing to compare with, not a value of infinity.
    metric = metrics.PCOC()
    metric.update_state([[0.0, 0.0]], [[0.0, 0.0]])
    assert not metric.usable


def test_normalized_entropy_by_hand():
    # p = 4/5 for a positive, 1/5 for three negatives; c = 1/4.
    log4 = math.log(4.0)
    loss = -math.log(0.8)
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    labels, logits = [1.0, 0.0, 0.0, 0.0], [log4, -log4, -log4, -log4]
    metric = metrics.NormalizedEntropy()
    assert value(metric, labels, logits) == pytest.approx(loss / entropy)
    # Always predicting the rate of positives is 1, shuffled labels are worse.
    constant = [math.log(1 / 3)] * 4
    assert value(metrics.NormalizedEntropy(), labels, constant) == pytest.approx(1.0)
    wrong = value(metrics.NormalizedEntropy(), labels[::-1], logits)
    assert wrong == pytest.approx((2 * -math.log(0.2) + 2 * loss) / 4 / entropy)
    # One class alone: no prior to beat.
    metric = metrics.NormalizedEntropy()
    metric.update_state([[1.0, 1.0]], [[3.0, 2.0]])
    assert not metric.usable


def test_certain_predictions():
    # Right ones cost nothing; a wrong one costs infinitely much, and is no NaN.
    metric = metrics.NormalizedEntropy()
    assert value(metric, [1.0, 0.0], [INF, -INF]) == 0.0
    assert value(metric, [0.0], [INF]) == INF
    assert metric.usable
    assert value(metrics.PCOC(), [1.0, 0.0], [INF, -INF]) == 1.0
    assert value(metrics.ECE(), [1.0, 0.0], [INF, -INF]) == 0.0


def test_ece_by_hand():
    # Two bins of two: |1/5 + 1/5 - 1| = 3/5 and |1/2 + 4/5 - 1| = 3/10, of 4.
    log4 = math.log(4.0)
    labels, logits = [1.0, 0.0, 1.0, 0.0], [-log4, -log4, 0.0, log4]
    assert value(metrics.ECE(bins=2), labels, logits) == pytest.approx(0.9 / 4)
    # One bin: the errors of both sides cancel: |1.7 - 2| / 4.
    assert value(metrics.ECE(bins=1), labels, logits) == pytest.approx(0.3 / 4)


def test_ece_keeps_equal_predictions_together():
    # Six of seven documents are equal: no bin edge runs through them, and
    # |6 * 1/2 - 3| = 0 whatever the order of their labels.
    logits = [0.0] * 6 + [-9e9]
    labels = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert value(metrics.ECE(bins=3), labels, logits) == 0.0
    with pytest.raises(ValueError, match="ECE: bins=0 is not a cut-off"):
        metrics.ECE(bins=0)


def test_ece_of_a_calibrated_model_is_small_and_of_a_shifted_one_is_its_shift():
    # 100,000 documents; the standard error of a bin's rate is about .005.
    rng = np.random.default_rng(0)
    logits = rng.normal(-2.0, 1.0, [100, 1000])
    p = 1 / (1 + np.exp(-logits))
    labels = (rng.random(p.shape) < p).astype(np.float32)
    good, shifted = metrics.ECE(), metrics.ECE()
    good.update_state(labels, logits)
    shifted.update_state(labels, logits + 1.0)
    assert good.result() < 0.005
    shift = np.mean(1 / (1 + np.exp(-logits - 1.0))) - labels.mean()
    assert float(shifted.result()) == pytest.approx(shift, abs=1e-3)
