import numpy as np
import pytest
import tensorflow as tf

from tfrs_prerank import losses

PAIRS = [
    (losses.SigmoidCrossEntropy, losses.sigmoid_cross_entropy),
    (losses.SoftmaxCrossEntropy, losses.softmax_cross_entropy),
]
each_pair = pytest.mark.parametrize(
    ("cls", "function"), PAIRS, ids=[cls.__name__ for cls, _ in PAIRS]
)

LABELS = np.float32([[1.0, 0.0, np.nan], [1.0, 1.0, 0.0]])
SCORES = np.float32([[0.5, 1.0, 9.0], [0.0, -1.0, 2.0]])


def test_every_keras_loss_is_in_the_table():
    public = {n for n in losses.__all__ if isinstance(getattr(losses, n), type)}
    assert public == {cls.__name__ for cls, _ in PAIRS}


@each_pair
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_the_function(cls, function, reduction):
    loss = cls(reduction=reduction)
    np.testing.assert_array_equal(
        loss(LABELS, SCORES), function(LABELS, SCORES, reduction=reduction)
    )
    weights = np.float32([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]])
    np.testing.assert_array_equal(
        loss(LABELS, SCORES, sample_weight=weights),
        function(LABELS, SCORES, weights=weights, reduction=reduction),
    )


@each_pair
def test_sample_weight_per_list(cls, function):
    per_list = np.float32([3.0, 0.5])
    np.testing.assert_array_equal(
        cls()(LABELS, SCORES, sample_weight=per_list),
        function(LABELS, SCORES, weights=per_list[:, np.newaxis]),
    )


@each_pair
def test_round_trip(cls, function):
    loss = cls(reduction="sum", name="mine")
    copy = tf.keras.losses.deserialize(tf.keras.losses.serialize(loss))
    assert type(copy) is cls
    assert copy.get_config() == {"reduction": "sum", "name": "mine"}
    np.testing.assert_array_equal(copy(LABELS, SCORES), loss(LABELS, SCORES))
    assert cls().get_config() == {"reduction": "mean", "name": function.__name__}
    name = tf.keras.utils.get_registered_name(cls)
    assert name == f"tfrs_prerank>{cls.__name__}"


@each_pair
def test_unknown_reduction(cls, function):
    with pytest.raises(ValueError, match="reduction='auto' is unknown"):
        cls(reduction="auto")


@each_pair
def test_compile_fit_save(cls, function, tmp_path):
    inputs = tf.keras.Input([3])
    outputs = tf.keras.layers.Dense(3, kernel_initializer="zeros")(inputs)
    model = tf.keras.Model(inputs, outputs)
    model.compile(tf.keras.optimizers.SGD(0.5), loss=cls())
    sample_weight = np.float32([1.0, 2.0])
    before = model.evaluate(SCORES, LABELS, sample_weight=sample_weight, verbose=0)
    expected = function(LABELS, np.zeros([2, 3]), weights=sample_weight[:, None])
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
