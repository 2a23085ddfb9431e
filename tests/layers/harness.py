"""The checks that every layer has to pass, whatever it computes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf


def run_layer_test(
    layer_class: type[tf.keras.layers.Layer],
    init_kwargs: dict[str, Any],
    inputs: Sequence[Any],
    weight_shapes: Sequence[tuple[int, ...]],
    output_shape: tuple[int, ...],
    directory: Path,
    names: Sequence[str] = ("model.keras", "saved_model"),
    mixed_tolerance: float = 0.05,
) -> None:
    """Runs a layer through all it meets in a model's life.

    Args:
        layer_class: the class.
        init_kwargs: its arguments.
        inputs: the arguments of a call, in order: arrays, or lists or tuples of
            arrays; axis 0 of every array is the batch. They and seeded weights are
            the point where gradients are checked: away from kinks and ties.
        weight_shapes: shapes of the weights, in order of creation.
        output_shape: shape of the output for `inputs`; of a dict of outputs, of all
            joined along the last axis.
        directory: an empty directory to save in.
        names: what to save as; the ending decides on the format.
        mixed_tolerance: how far mixed precision may be from float32.
    """
    tf.keras.utils.set_random_seed(1)
    _check_config(layer_class, init_kwargs)
    layer = layer_class(**init_kwargs)
    assert layer.weights == [], "weights before build"
    layer(*inputs)
    assert [tuple(w.shape) for w in layer.weights] == list(weight_shapes)
    assert len({w.name for w in layer.weights}) == len(layer.weights)
    # Zeros hide what a zero-initialised weight does.
    rng = np.random.default_rng(2)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.weights])
    expected = _joined(layer(*inputs))
    assert len(layer.weights) == len(weight_shapes), "weights after build"
    assert tuple(expected.shape) == output_shape
    assert expected.dtype == tf.float32
    assert np.isfinite(expected).all()
    assert np.any(expected)

    constants = tf.nest.map_structure(tf.constant, list(inputs))
    compiled = _joined(tf.function(layer, jit_compile=True)(*constants))
    np.testing.assert_allclose(compiled, expected, rtol=1e-5, atol=1e-6)
    _check_mixed_precision(layer, inputs, expected, mixed_tolerance)
    _check_gradients(layer, inputs, expected)

    symbolic = tf.nest.map_structure(
        lambda x: tf.keras.Input(x.shape[1:], dtype=x.dtype), list(inputs)
    )
    model = tf.keras.Model(tf.nest.flatten(symbolic), layer(*symbolic))
    assert _joined(model.output).shape == (None, *output_shape[1:])
    arrays = tf.nest.flatten(list(inputs))
    np.testing.assert_allclose(_joined(model(arrays)), expected, rtol=1e-5, atol=1e-6)
    first_row = _joined(model([x[:1] for x in arrays]))  # another batch size
    np.testing.assert_allclose(first_row, expected[:1], rtol=1e-4, atol=1e-5)
    _check_saving(model, layer_class, arrays, [directory / name for name in names])
    _check_fit(model, arrays)


def _joined(outputs: Any) -> tf.Tensor:
    """Joins what a layer returns, a tensor or a dict of them, along the last axis."""
    return tf.concat(tf.nest.flatten(outputs), axis=-1)


def _check_config(
    layer_class: type[tf.keras.layers.Layer], init_kwargs: dict[str, Any]
) -> None:
    layer = layer_class(**init_kwargs)
    config = json.loads(json.dumps(layer.get_config()))
    again = layer_class.from_config(config)
    assert again.get_config() == layer.get_config()
    for argument, parameter in inspect.signature(layer_class).parameters.items():
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert argument in config, f"{argument} is missing in the config"
            assert getattr(again, argument) == getattr(layer, argument)
    registered = tf.keras.utils.get_registered_name(layer_class)
    assert registered == f"tfrs_prerank>{layer_class.__name__}"


def _check_mixed_precision(
    layer: tf.keras.layers.Layer,
    inputs: Sequence[Any],
    expected: tf.Tensor,
    tolerance: float,
) -> None:
    for policy in ("mixed_float16", "mixed_bfloat16"):
        config = {**layer.get_config(), "dtype": policy}
        mixed = type(layer).from_config(config)
        mixed(*inputs)
        mixed.set_weights(layer.get_weights())
        output = _joined(mixed(*inputs))
        assert output.dtype == tf.keras.mixed_precision.Policy(policy).compute_dtype
        assert all(w.dtype == tf.float32 for w in mixed.weights)
        np.testing.assert_allclose(
            tf.cast(output, tf.float32), expected, rtol=tolerance, atol=tolerance
        )


def _check_gradients(
    layer: tf.keras.layers.Layer,
    inputs: Sequence[Any],
    expected: tf.Tensor,
    step: float = 1e-5,
    coordinates: int = 4,
) -> None:
    """Compares all gradients with central differences, in float64.

    Per tensor: its derivative along a random direction, in which every coordinate has
    a part, and those by a few coordinates alone. A layer that computes in float32
    somewhere is off by some percent and fails.
    """
    double = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
    arrays = [
        x.astype("float64") if np.issubdtype(x.dtype, np.floating) else x
        for x in tf.nest.flatten(list(inputs))
    ]

    points = [tf.Variable(x) for x in arrays]  # to be moved in place, as weights are

    def call() -> tf.Tensor:
        tensors = [tf.convert_to_tensor(point) for point in points]
        return _joined(double(*tf.nest.pack_sequence_as(list(inputs), tensors)))

    call()
    double.set_weights(layer.get_weights())
    names = [f"input {i}" for i in range(len(points))]
    moved = dict(zip(names, points, strict=True))
    moved = {name: x for name, x in moved.items() if x.dtype.is_floating}
    moved.update({w.name: w for w in double.trainable_weights})
    assert all(x.dtype == tf.float64 for x in moved.values())

    rng = np.random.default_rng(3)
    output = call()
    assert output.dtype == tf.float64
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    into = rng.normal(size=output.shape)  # ones would hide what adds up to a constant

    def loss() -> tf.Tensor:
        return tf.reduce_sum(call() * into)

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(
        value, moved, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    traced = tf.function(loss)  # it is called hundreds of times
    for name, x in moved.items():
        start, gradient = x.numpy(), tf.convert_to_tensor(gradients[name]).numpy()
        directions = [rng.normal(size=start.shape)]
        for index in rng.permutation(start.size)[:coordinates]:
            directions.append(np.zeros(start.shape))
            directions[-1].flat[index] = 1.0
        for direction in directions:
            values = []
            for sign in (1, -1):
                x.assign(start + sign * step * direction)
                values.append(traced().numpy())
            x.assign(start)
            np.testing.assert_allclose(
                np.sum(gradient * direction),
                (values[0] - values[1]) / (2 * step),
                rtol=1e-5,
                atol=1e-8,
                err_msg=f"gradient of {name}",
            )


def _check_saving(
    model: tf.keras.Model,
    layer_class: type[tf.keras.layers.Layer],
    inputs: list[np.ndarray],
    paths: Sequence[Path],
) -> None:
    expected = _joined(model(inputs))
    for path in paths:
        model.save(path)
        assert path.is_file() or (path / "saved_model.pb").is_file()
        restored = tf.keras.models.load_model(path)
        assert isinstance(restored.layers[-1], layer_class), path
        output = _joined(restored(inputs))
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def _check_fit(model: tf.keras.Model, inputs: list[np.ndarray]) -> None:
    before = model.get_weights()
    model.compile("adam", "mse")
    targets = tf.nest.map_structure(lambda output: output + 1.0, model(inputs))
    history = model.fit(inputs, targets, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    for old, new in zip(before, after, strict=True):
        assert np.any(old != new), "a weight got no gradient"
