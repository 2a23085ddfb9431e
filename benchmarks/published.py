"""Layers in the form in which they are published, to be timed beside this package's.

Each function gets a layer of the package, with its weights, and returns the plain form
of the same formula, with weights of its own that hold the same numbers: as the paper
writes it, as Keras and TFRS offer it, or as the common libraries (DeepCTR and the
authors' code) compute it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrs_prerank import layers


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute a layer.

    Attributes:
        call: from the inputs to the output.
        weights: the variables that training has gradients of.
    """

    call: Callable[..., tf.Tensor]
    weights: list[tf.Variable]


def _variables(arrays: Iterable[np.ndarray]) -> list[tf.Variable]:
    return [tf.Variable(array) for array in arrays]


# Gates.


def senet(layer: layers.SENet) -> Form:
    """Returns DeepCTR's form: the fields are a list, put together first."""
    first, second = _variables(layer.get_weights())

    def call(fields: tf.Tensor) -> tf.Tensor:
        parts = tf.split(fields, fields.shape[1], axis=1)
        joined = tf.concat(parts, axis=1)
        squeezed = tf.reduce_mean(joined, axis=-1)
        hidden = tf.nn.relu(tf.tensordot(squeezed, first, axes=(-1, 0)))
        weights = tf.nn.relu(tf.tensordot(hidden, second, axes=(-1, 0)))
        return tf.multiply(joined, tf.expand_dims(weights, axis=2))

    return Form(call, [first, second])


def senet_plus(layer: layers.SENetPlus) -> Form:
    """Returns the form of FiBiNET++'s authors, with this package's epsilon."""
    weights = _variables(layer.get_weights())
    first, second, scale, offset = weights

    def call(fields: tf.Tensor) -> tf.Tensor:
        count, size = fields.shape[1:]
        groups = tf.reshape(fields, [-1, count, layer.groups, size // layer.groups])
        squeezed = tf.concat(
            [tf.reduce_max(groups, axis=-1), tf.reduce_mean(groups, axis=-1)], axis=-1
        )
        squeezed = tf.reshape(squeezed, [-1, 2 * layer.groups * count])
        hidden = tf.nn.relu(tf.tensordot(squeezed, first, axes=(-1, 0)))
        excited = tf.tensordot(hidden, second, axes=(-1, 0))
        x = fields * tf.reshape(excited, [-1, count, size]) + fields
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axis=-1, keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-5) * scale + offset

    return Form(call, weights)


def light_se(layer: layers.LightSE) -> Form:
    """Returns IntTower's form: a dense layer, and the fields once more."""
    dense = tf.keras.layers.Dense(layer.kernel.shape[0], activation="softmax")
    dense.build([None, layer.kernel.shape[0]])
    dense.set_weights(layer.get_weights())

    def call(fields: tf.Tensor) -> tf.Tensor:
        weights = dense(tf.reduce_mean(fields, axis=-1))
        return fields + fields * tf.expand_dims(weights, axis=2)

    return Form(call, dense.trainable_weights)


def feature_attention(layer: layers.FeatureAttention) -> Form:
    """Returns DeepCTR's form of AutoInt, whose residual has no kernel here."""
    weights = _variables(layer.get_weights())

    def call(fields: tf.Tensor) -> tf.Tensor:
        queries, keys, values = (
            tf.stack(tf.split(tf.tensordot(fields, w, axes=(-1, 0)), layer.heads, 2))
            for w in weights
        )
        products = tf.matmul(queries, keys, transpose_b=True)
        products /= math.sqrt(fields.shape[2] // layer.heads)
        found = tf.matmul(tf.nn.softmax(products), values)
        found = tf.concat(tf.split(found, layer.heads), axis=-1)
        return tf.squeeze(found, axis=0) + fields

    return Form(call, weights)


# Products of pairs.


def _pairs(fields: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(fields), 2))


def pair_loop(layer: layers.BilinearInteraction, fields: int, split: bool) -> Form:
    """Returns a loop over the pairs.

    Args:
        layer: one whose kernel is `"full"` or `"identity"`.
        fields: the number of fields.
        split: whether the fields are split first, as in DeepCTR, instead of taken out
            of `[B, F, D]` by their number, as one would write it.
    """
    pairs = _pairs(fields)
    variables: list[tf.Variable] = []
    if layer.kernel == "full":
        stored = layer.get_weights()[0]
        variables = _variables([stored] if layer.kind == "all" else stored)

    def left(field: tf.Tensor, pair: int, first: int) -> tf.Tensor:
        if not variables:
            return field
        place = {"all": 0, "each": first, "interaction": pair}[layer.kind]
        return tf.tensordot(field, variables[place], axes=(-1, 0))

    def call(inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, fields, axis=1) if split else None
        products = []
        for pair, (i, j) in enumerate(pairs):
            if parts is None:
                product = left(inputs[:, i], pair, i) * inputs[:, j]
            else:
                product = left(parts[i], pair, i) * parts[j]
            if layer.product == "inner":
                product = tf.reduce_sum(product, axis=-1)
            products.append(product)
        join = tf.stack if parts is None else tf.concat
        return join(products, axis=1)

    return Form(call, variables)


def inner_products(fields: int) -> Form:
    """Returns DeepCTR's inner products: all first and all second fields, as copies."""
    pairs = _pairs(fields)

    def call(inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, fields, axis=1)
        first = tf.concat([parts[i] for i, _ in pairs], axis=1)
        second = tf.concat([parts[j] for _, j in pairs], axis=1)
        return tf.reduce_sum(first * second, axis=-1)

    return Form(call, [])


def fibinet(layer: layers.FiBiNet, fields: int) -> Form:
    """Returns DeepCTR's form of the original."""
    gate = senet(layer.senet)
    plain = pair_loop(layer.plain, fields, split=True)
    weighed = pair_loop(layer.weighed, fields, split=True)

    def call(inputs: tf.Tensor) -> tf.Tensor:
        branches = [plain.call(inputs), weighed.call(gate.call(inputs))]
        return tf.concat(
            [tf.reshape(b, [-1, math.prod(b.shape[1:])]) for b in branches], axis=1
        )

    return Form(call, [*plain.weights, *gate.weights, *weighed.weights])


def fibinet_plus(layer: layers.FiBiNet, fields: int) -> Form:
    """Returns the form of FiBiNET++'s authors, without the bias of its last layer."""
    compression, kernel = weights = _variables(layer.get_weights())
    places = [list(pair) for pair in _pairs(fields)]

    def call(inputs: tf.Tensor) -> tf.Tensor:
        left = tf.tensordot(inputs, kernel, axes=(-1, 0))
        products = tf.matmul(left, inputs, transpose_b=True)
        products = tf.transpose(products, [1, 2, 0])
        products = tf.transpose(tf.gather_nd(products, places), [1, 0])
        return tf.tensordot(products, compression, axes=(-1, 0))

    return Form(call, weights)


def cin(layer: layers.CIN, fields: int) -> Form:
    """Returns DeepCTR's form: outer products of all, then a convolution."""
    inputs = [fields, *layer.units[:-1]]
    filters = _variables(
        weight.reshape(maps, fields, unit)
        .transpose(1, 0, 2)
        .reshape(1, fields * maps, unit)
        for weight, maps, unit in zip(
            layer.get_weights(), inputs, layer.units, strict=True
        )
    )

    def call(rows: tf.Tensor) -> tf.Tensor:
        size = rows.shape[2]
        first = tf.split(rows, size * [1], 2)
        maps, results = rows, []
        for kernel in filters:
            parts = tf.split(maps, size * [1], 2)
            products = tf.matmul(first, parts, transpose_b=True)
            products = tf.reshape(products, [size, -1, kernel.shape[1]])
            products = tf.transpose(products, [1, 0, 2])
            made = tf.nn.conv1d(products, filters=kernel, stride=1, padding="VALID")
            maps = tf.transpose(made, [0, 2, 1])
            results.append(maps)
        return tf.reduce_sum(tf.concat(results, axis=1), -1)

    return Form(call, filters)


# Cross networks.


def cross_v1(layer: layers.CrossNetwork, outer: bool) -> Form:
    """Returns DCN's first version.

    Args:
        layer: the network.
        outer: whether it makes `x0 x^T`, as the paper writes it, or multiplies `x` with
            the kernel first, as DeepCTR does.
    """
    weights = _variables(weight[:, np.newaxis] for weight in layer.get_weights())

    def call(rows: tf.Tensor) -> tf.Tensor:
        x0 = x = tf.expand_dims(rows, axis=2)
        for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
            if outer:
                crossed = tf.tensordot(
                    tf.matmul(x0, x, transpose_b=True), kernel, axes=(2, 0)
                )
            else:
                crossed = tf.matmul(x0, tf.tensordot(x, kernel, axes=(1, 0)))
            x = crossed + bias + x
        return tf.squeeze(x, axis=2)

    return Form(call, weights)


def cross_v2(layer: layers.CrossNetwork) -> Form:
    """Returns a stack of `tfrs.layers.dcn.Cross`."""
    # Needs Keras 2, which `tfrs_prerank` has chosen by now.
    import tensorflow_recommenders as tfrs

    parts = 2 if layer.rank is None else 3
    stored = layer.get_weights()
    size = layer.kernels[0]["bias"].shape[0]
    stack = []
    for place in range(layer.depth):
        cross = tfrs.layers.dcn.Cross(projection_dim=layer.rank)
        cross(tf.zeros([1, size]))  # creates the weights
        cross.set_weights(stored[place * parts : (place + 1) * parts])
        stack.append(cross)

    def call(rows: tf.Tensor) -> tf.Tensor:
        x = rows
        for cross in stack:
            x = cross(rows, x)
        return x

    return Form(call, [w for cross in stack for w in cross.trainable_weights])


def cross_mixture(layer: layers.CrossNetwork) -> Form:
    """Returns DeepCTR's form of the mixture: a loop over the experts."""
    rank, experts = layer.rank, layer.experts
    stack: list[list[Any]] = []
    for kernels in layer.kernels:
        down, inner, up, gate, bias = (
            kernels[name].numpy() for name in ("down", "inner", "up", "gate", "bias")
        )
        parts = [slice(k * rank, (k + 1) * rank) for k in range(experts)]
        per_expert = [
            _variables([down[:, p], inner[:, p], up[p], gate[:, k : k + 1]])
            for k, p in enumerate(parts)
        ]
        stack.append([per_expert, tf.Variable(bias)])

    def call(rows: tf.Tensor) -> tf.Tensor:
        x = rows
        for per_expert, bias in stack:
            found, logits = [], []
            for down, inner, up, gate in per_expert:
                logits.append(tf.matmul(x, gate))
                hidden = tf.nn.tanh(tf.matmul(tf.nn.tanh(tf.matmul(x, down)), inner))
                found.append(rows * (tf.matmul(hidden, up) + bias))
            shares = tf.nn.softmax(tf.stack(logits, axis=1), axis=1)  # [B, K, 1]
            mixed = tf.matmul(tf.stack(found, axis=2), shares)  # [B, d, 1]
            x = tf.squeeze(mixed, axis=2) + x
        return x

    weights = [
        weight
        for per_expert, bias in stack
        for weight in [*itertools.chain(*per_expert), bias]
    ]
    return Form(call, weights)


# Attention over behaviours.


def dot_product_attention(
    layer: layers.DotProductAttention, zero: bool = False
) -> Form:
    """Returns the attention of Keras behind a dense layer.

    Args:
        layer: a `DotProductAttention`, or a `ZeroAttention` with one head.
        zero: whether a key of zeros joins the keys.
    """
    (kernel,) = _variables(layer.get_weights())
    attend = tf.keras.layers.Attention()

    def call(query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        if zero:
            keys = tf.pad(keys, [[0, 0], [1, 0], [0, 0]])
            mask = tf.pad(mask, [[0, 0], [1, 0]], constant_values=True)
        query = tf.matmul(query, kernel) / math.sqrt(keys.shape[2])
        found = attend([tf.expand_dims(query, axis=1), keys], mask=[None, mask])
        return tf.squeeze(found, axis=1)

    return Form(call, [kernel])


def additive_attention(layer: layers.AdditiveAttention) -> Form:
    """Returns the additive attention of Keras behind two dense layers."""
    query_kernel, key_kernel, bias, score = layer.get_weights()
    attend = tf.keras.layers.AdditiveAttention()
    attend.build([[None, 1, len(bias)], [None, None, len(bias)]])
    attend.set_weights([score[:, 0]])
    own = _variables([query_kernel, key_kernel, bias])

    def call(query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        query = tf.expand_dims(tf.matmul(query, own[0]) + own[2], axis=1)
        hidden = tf.tensordot(keys, own[1], axes=(-1, 0))
        found = attend([query, keys, hidden], mask=[None, mask])
        return tf.squeeze(found, axis=1)

    return Form(call, [*own, *attend.trainable_weights])


def target_attention(layer: layers.TargetAttention) -> Form:
    """Returns DIN's form: the query beside every key, and dense layers."""
    weights = _variables(layer.get_weights())
    pairs = list(zip(weights[1::2], weights[2::2], strict=True))

    def call(query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        query = tf.expand_dims(tf.matmul(query, weights[0]), axis=1)
        queries = tf.tile(query, [1, keys.shape[1], 1])
        x = tf.concat([queries, keys, queries - keys, queries * keys], axis=-1)
        for kernel, bias in pairs[:-1]:
            x = layer.activation(tf.tensordot(x, kernel, axes=(-1, 0)) + bias)
        kernel, bias = pairs[-1]
        scores = tf.tensordot(x, kernel, axes=(-1, 0)) + bias  # [B, T, 1]
        scores = tf.where(tf.expand_dims(mask, axis=2), scores, tf.zeros_like(scores))
        return tf.squeeze(tf.matmul(scores, keys, transpose_a=True), axis=1)

    return Form(call, weights)


def dice(layer: layers.Dice) -> Form:
    """Returns DeepCTR's form: batch normalisation, then a sigmoid."""
    (alpha,) = _variables(layer.get_weights()[:1])
    normalize = tf.keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=layer.epsilon
    )

    def call(x: tf.Tensor) -> tf.Tensor:
        share = tf.sigmoid(normalize(x, training=True))
        return alpha * (1.0 - share) * x + share * x

    return Form(call, [alpha])


def transformer(layer: layers.BehaviorTransformer) -> Form:
    """Returns the block of one layer out of Keras's parts."""
    (block,) = layer.stack
    size, heads = block.projections.shape[0], layer.heads
    attend = tf.keras.layers.MultiHeadAttention(heads, size // heads, use_bias=False)
    attend(tf.zeros([1, 1, size]), tf.zeros([1, 1, size]))  # creates the weights
    kernels = np.split(block.projections.numpy(), 3, axis=1)
    split = (size, heads, size // heads)
    attend.set_weights(
        [kernel.reshape(split) for kernel in kernels]
        + [block.mixing.numpy().reshape(split[1], split[2], size)]
    )
    first = tf.keras.layers.Dense(block.hidden_kernel.shape[1], activation="relu")
    second = tf.keras.layers.Dense(size)
    for dense, kernel, bias in (
        (first, block.hidden_kernel, block.hidden_bias),
        (second, block.output_kernel, block.output_bias),
    ):
        dense.build([None, kernel.shape[0]])
        dense.set_weights([kernel.numpy(), bias.numpy()])
    norms = [tf.keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(3)]
    for norm in norms:
        norm.build([None, None, size])
    (positions,) = _variables([layer.position_vectors.numpy()])

    def call(sequence: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        x = sequence + positions
        normed = norms[0](x)
        x += attend(normed, normed, attention_mask=tf.expand_dims(mask, axis=1))
        x += second(first(norms[1](x)))
        return norms[2](x) * tf.cast(tf.expand_dims(mask, axis=2), x.dtype)

    parts = [attend, first, second, *norms]
    return Form(
        call, [positions, *(w for part in parts for w in part.trainable_weights)]
    )
