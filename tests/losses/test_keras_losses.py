import inspect

import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import losses

# class, function, options
CASES = [
    (losses.SigmoidCrossEntropy, losses.sigmoid_cross_entropy, {}),
    (losses.Contrastive, losses.contrastive, {"margin": 2.0}),
    (losses.SoftmaxCrossEntropy, losses.softmax_cross_entropy, {}),
    (losses.MultiPositiveSoftmax, losses.multi_positive_softmax, {}),
    (
        losses.HierarchicalSoftmax,
        losses.hierarchical_softmax,
        {"level_weights": (2.0, 0.5)},
    ),
    (losses.ListMLE, losses.list_mle, {}),
    (losses.PairwiseHinge, losses.pairwise_hinge, {"margin": 2.0}),
    (losses.RankNet, losses.ranknet, {}),
    (losses.LambdaRank, losses.lambdarank, {"k": 2}),
    (losses.Triplet, losses.triplet, {"margin": 2.0, "hard_negatives": 1}),
    (losses.Distillation, losses.distillation, {"temperature": 2.0, "form": "sigmoid"}),
]
each_class = pytest.mark.parametrize(
    ("cls", "function", "options"), CASES, ids=[cls.__name__ for cls, _, _ in CASES]
)

LABELS = np.float32([[1.0, 0.0, np.nan], [1.0, 1.0, 0.0]])
SCORES = np.float32([[0.5, 1.0, 9.0], [0.0, -1.0, 2.0]])


def test_every_keras_loss_is_in_the_table():
    public = {n for n in losses.__all__ if isinstance(getattr(losses, n), type)}
    assert public == {cls.__name__ for cls, _, _ in CASES}


@each_class
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_the_function(cls, function, options, reduction):
    loss = cls(**options, reduction=reduction)
    np.testing.assert_array_equal(
        loss(LABELS, SCORES), function(LABELS, SCORES, **options, reduction=reduction)
    )
    weights = np.float32([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]])
    np.testing.assert_array_equal(
        loss(LABELS, SCORES, sample_weight=weights),
        function(LABELS, SCORES, **options, weights=weights, reduction=reduction),
    )


@each_class
def test_sample_weight_per_list(cls, function, options):
    per_list = np.float32([3.0, 0.5])
    np.testing.assert_array_equal(
        cls(**options)(LABELS, SCORES, sample_weight=per_list),
        function(LABELS, SCORES, **options, weights=per_list[:, np.newaxis]),
    )


@each_class
def test_round_trip(cls, function, options):
    loss = cls(**options, reduction="sum", name="mine")
    copy = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(copy) is cls
    assert copy.get_config() == {"reduction": "sum", "name": "mine", **options}
    np.testing.assert_array_equal(copy(LABELS, SCORES), loss(LABELS, SCORES))
    # Without arguments, the defaults of the function.
    parameters = inspect.signature(function).parameters
    defaults = {option: parameters[option].default for option in options}
    assert cls().get_config() == {
        "reduction": "mean",
        "name": function.__name__,
        **defaults,
    }
    name = tf.keras.utils.get_registered_name(cls)
    assert name == f"tfrs_prerank>{cls.__name__}"


@each_class
def test_unknown_reduction(cls, function, options):
    with pytest.raises(ValueError, match="reduction='auto' is unknown"):
        cls(reduction="auto")


@each_class
def test_compile_fit_save(cls, function, options, tmp_path):
    inputs = tf.keras.Input([3])
    outputs = tf.keras.layers.Dense(3, kernel_initializer="zeros")(inputs)
    model = tf.keras.Model(inputs, outputs)
    model.compile(tf.keras.optimizers.SGD(0.5), loss=cls(**options))
    sample_weight = np.float32([1.0, 2.0])
    before = model.evaluate(SCORES, LABELS, sample_weight=sample_weight, verbose=0)
    expected = function(
        LABELS, np.zeros([2, 3]), weights=sample_weight[:, None], **options
    )
    np.testing.assert_allclose(before, expected, rtol=1e-6)
    model.fit(SCORES, LABELS, sample_weight=sample_weight, epochs=5, verbose=0)
    after = model.evaluate(SCORES, LABELS, sample_weight=sample_weight, verbose=0)
    assert after < before
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf.keras.models.load_model(path)
    assert type(loaded.loss) is cls
    np.testing.assert_allclose(
        loaded.evaluate(SCORES, LABELS, sample_weight=sample_weight, verbose=0),
        after,
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: losses.Contrastive(margin=0.0), "margin must be a positive number"),
        (lambda: losses.PairwiseHinge(margin=-1.0), "margin must be a positive number"),
        (lambda: losses.Triplet(hard_negatives=0), "hard_negatives must be a positive"),
        (lambda: losses.LambdaRank(k=0), "k must be a positive integer"),
        (lambda: losses.HierarchicalSoftmax([]), "level_weights must hold one weight"),
        (
            lambda: losses.Distillation(temperature=0.0),
            "temperature must be a positive",
        ),
        (lambda: losses.Distillation(form="kl"), "form='kl' is unknown"),
    ],
)
def test_wrong_options_are_refused_at_once(make, named):
    with pytest.raises(ValueError, match=named):
        make()
