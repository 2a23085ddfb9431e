"""Layers in the form in which they are published, to be timed beside this package's.

Each function gets a layer of the package, with its weights, and returns the plain form
of the same formula, with weights of its own that hold the same numbers: as the paper
writes it, as Keras and TFRS offer it, or as the common libraries (DeepCTR and the
authors' code) compute it. All take what the package's layer takes and return what it
returns: DeepCTR's layers over pairs, which take a list of fields, split them first.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfrs_prerank import layers

Arrange = Callable[[list[np.ndarray]], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute a layer.

    Attributes:
        call: from the inputs to the output.
        weights: the variables that training has gradients of.
        arrange: from arrays in the shapes of the layer's weights to arrays in those of
            `weights`: the weights themselves at first, then their gradients.
    """

    call: Callable[..., tf.Tensor]
    weights: list[tf.Variable]
    arrange: Arrange = list


def _arrays(layer: tf.keras.layers.Layer) -> list[np.ndarray]:
    return [weight.numpy() for weight in layer.trainable_weights]


def _variables(
    layer: tf.keras.layers.Layer, arrange: Arrange = list
) -> list[tf.Variable]:
    return [tf.Variable(array) for array in arrange(_arrays(layer))]


def _set_weights(
    parts: list[tf.keras.layers.Layer], arrays: list[np.ndarray]
) -> list[tf.Variable]:
    """Fills layers that are built, one after the other; returns their variables."""
    variables = [weight for part in parts for weight in part.trainable_weights]
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return variables


# Gates.


def senet(layer: layers.SENet) -> Form:
    """Returns DeepCTR's form, for fields that are put together already.

    DeepCTR's layer gets a list and returns one: it begins with putting the list
    together and ends with splitting it. Neither is of the formula, and both are left
    out.
    """
    first, second = _variables(layer)

    def call(fields: tf.Tensor) -> tf.Tensor:
        squeezed = tf.reduce_mean(fields, axis=-1)
        hidden = tf.nn.relu(tf.tensordot(squeezed, first, axes=(-1, 0)))
        weights = tf.nn.relu(tf.tensordot(hidden, second, axes=(-1, 0)))
        return tf.multiply(fields, tf.expand_dims(weights, axis=2))

    return Form(call, [first, second])


def senet_plus(layer: layers.SENetPlus) -> Form:
    """Returns the form of FiBiNET++'s authors, with this package's epsilon."""
    first, second, scale, offset = weights = _variables(layer)

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
    weights = _set_weights([dense], _arrays(layer))

    def call(fields: tf.Tensor) -> tf.Tensor:
        excited = dense(tf.reduce_mean(fields, axis=-1))
        return fields + fields * tf.expand_dims(excited, axis=2)

    return Form(call, weights)


def feature_attention(layer: layers.FeatureAttention) -> Form:
    """Returns DeepCTR's form of AutoInt, whose residual has no kernel here."""
    weights = _variables(layer)

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
        split: whether the fields are split first, instead of taken out of `[B, F, D]`
            by their number, as one would write it. Split, and with a full kernel and
            the Hadamard product, it is DeepCTR's form, which multiplies by the kernels
            of `"all"` and `"each"` once for each field, before the loop.
    """
    pairs = _pairs(fields)

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return arrays if layer.kind == "all" else list(*arrays)

    variables = _variables(layer, arrange)

    def times(field: tf.Tensor, kernel: int) -> tf.Tensor:
        if not variables:
            return field
        return tf.tensordot(field, variables[kernel], axes=(-1, 0))

    def call(inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, fields, axis=1) if split else None

        def field(place: int) -> tf.Tensor:
            return inputs[:, place] if parts is None else parts[place]

        if layer.kind != "interaction":
            each = layer.kind == "each"
            left = [times(field(i), i if each else 0) for i in range(fields - 1)]
        products = []
        for pair, (i, j) in enumerate(pairs):
            if layer.kind == "interaction":
                product = times(field(i), pair) * field(j)
            else:
                product = left[i] * field(j)
            if layer.product == "inner":
                product = tf.reduce_sum(product, axis=-1)
            products.append(product)
        join = tf.stack if parts is None else tf.concat
        return join(products, axis=1)

    return Form(call, variables, arrange)


def inner_products(layer: layers.BilinearInteraction, fields: int) -> Form:
    """Returns DeepCTR's inner products: all first and all second fields, as copies.

    Args:
        layer: one whose kernel is `"identity"`, as in its layer of inner products, or
            `"diagonal"` for each pair, as in its layer of outer products with vectors
            as kernels.
        fields: the number of fields.
    """
    pairs = _pairs(fields)
    weights = _variables(layer)

    def call(inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, fields, axis=1)
        first = tf.concat([parts[i] for i, _ in pairs], axis=1)
        second = tf.concat([parts[j] for _, j in pairs], axis=1)
        products = first * second
        for kernel in weights:
            products *= tf.expand_dims(kernel, axis=0)
        return tf.reduce_sum(products, axis=-1)

    return Form(call, weights)


def inner_products_of_all(layer: layers.BilinearInteraction, fields: int) -> Form:
    """Returns the inner products of FiBiNET++'s authors, of pairs that share a kernel.

    All fields with all: what is above the diagonal is gathered.
    """
    (kernel,) = weights = _variables(layer)
    places = [list(pair) for pair in _pairs(fields)]

    def call(inputs: tf.Tensor) -> tf.Tensor:
        left = tf.tensordot(inputs, kernel, axes=(-1, 0))
        products = tf.matmul(left, inputs, transpose_b=True)
        products = tf.transpose(products, [1, 2, 0])
        return tf.transpose(tf.gather_nd(products, places), [1, 0])

    return Form(call, weights)


def fibinet(layer: layers.FiBiNet, fields: int) -> Form:
    """Returns DeepCTR's form of the original."""
    gate = senet(layer.senet)
    plain = pair_loop(layer.plain, fields, split=True)
    weighed = pair_loop(layer.weighed, fields, split=True)

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        first, *middle, last = arrays
        return [*plain.arrange([first]), *middle, *weighed.arrange([last])]

    def call(inputs: tf.Tensor) -> tf.Tensor:
        branches = [plain.call(inputs), weighed.call(gate.call(inputs))]
        return tf.concat(
            [tf.reshape(b, [-1, math.prod(b.shape[1:])]) for b in branches], axis=1
        )

    return Form(call, [*plain.weights, *gate.weights, *weighed.weights], arrange)


def fibinet_plus(layer: layers.FiBiNet, fields: int) -> Form:
    """Returns the form of FiBiNET++'s authors, without the bias of its last layer."""
    products = inner_products_of_all(layer.plain, fields)
    compression = tf.Variable(layer.compression.numpy())

    def call(inputs: tf.Tensor) -> tf.Tensor:
        return tf.tensordot(products.call(inputs), compression, axes=(-1, 0))

    return Form(call, [compression, *products.weights])


def cin(layer: layers.CIN, fields: int) -> Form:
    """Returns DeepCTR's form, which is the authors': all outer products, then conv1d.

    Kernels of a rank are multiplied out first, as in the authors' code. The biases that
    DeepCTR adds are left out.
    """
    inputs = [fields, *(u // (1 + layer.split_half) for u in layer.units[:-1])]
    shapes = list(zip(inputs, layer.units, strict=True))

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if layer.rank is not None:  # left, right
            axes = len(shapes) * [(1, 2, 0), (1, 0, 2)]
            return [x.transpose(a) for x, a in zip(arrays, axes, strict=True)]
        return [
            kernel.reshape(maps, fields, unit)
            .transpose(1, 0, 2)
            .reshape(1, fields * maps, unit)
            for kernel, (maps, unit) in zip(arrays, shapes, strict=True)
        ]

    variables = _variables(layer, arrange)

    def filters() -> list[tf.Tensor]:
        if layer.rank is None:
            return variables
        made = []
        for left, right in zip(variables[::2], variables[1::2], strict=True):
            kernel = tf.matmul(right, left)  # [H_k, F, H]
            kernel = tf.reshape(kernel, [1, kernel.shape[0], -1])
            made.append(tf.transpose(kernel, [0, 2, 1]))
        return made

    def call(rows: tf.Tensor) -> tf.Tensor:
        size = rows.shape[2]
        first = tf.split(rows, size * [1], 2)
        maps, results = rows, []
        for (_, unit), kernel in zip(shapes, filters(), strict=True):
            parts = tf.split(maps, size * [1], 2)
            products = tf.matmul(first, parts, transpose_b=True)
            products = tf.reshape(products, [size, -1, kernel.shape[1]])
            products = tf.transpose(products, [1, 0, 2])
            made = tf.nn.conv1d(products, filters=kernel, stride=1, padding="VALID")
            maps = tf.transpose(layer.activation(made), [0, 2, 1])
            if layer.split_half and len(results) < len(shapes) - 1:
                maps, direct = tf.split(maps, 2 * [unit // 2], 1)
                results.append(direct)
            else:
                results.append(maps)
        return tf.reduce_sum(tf.concat(results, axis=1), -1)

    return Form(call, variables, arrange)


# Cross networks.


def cross_v1(layer: layers.CrossNetwork, outer: bool) -> Form:
    """Returns DCN's first version.

    Args:
        layer: the network.
        outer: whether it makes `x0 x^T`, as the paper writes it, or multiplies `x` with
            the kernel first, as DeepCTR does.
    """

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [array[:, np.newaxis] for array in arrays]

    weights = _variables(layer, arrange)

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

    return Form(call, weights, arrange)


def cross_v2(layer: layers.CrossNetwork) -> Form:
    """Returns a stack of `tfrs.layers.dcn.Cross`."""
    # Needs Keras 2, which `tfrs_prerank` has chosen by now.
    import tensorflow_recommenders as tfrs

    size = layer.kernels[0]["bias"].shape[0]
    rank = layer.rank
    stack = [tfrs.layers.dcn.Cross(projection_dim=rank) for _ in layer.kernels]
    for cross in stack:
        cross(tf.zeros([1, size]))  # creates the weights
    weights = _set_weights(stack, _arrays(layer))

    def call(rows: tf.Tensor) -> tf.Tensor:
        x = rows
        for cross in stack:
            x = cross(rows, x)
        return x

    return Form(call, weights)


def cross_mixture(layer: layers.CrossNetwork) -> Form:
    """Returns DeepCTR's form of the mixture: a loop over the experts."""
    rank, experts = layer.rank, layer.experts
    parts = [slice(k * rank, (k + 1) * rank) for k in range(experts)]

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        arranged = []
        for place in range(0, len(arrays), 5):
            down, inner, up, gate, bias = arrays[place : place + 5]
            for k, p in enumerate(parts):
                arranged += [down[:, p], inner[:, p], up[p], gate[:, k : k + 1]]
            arranged.append(bias)
        return arranged

    weights = _variables(layer, arrange)

    def call(rows: tf.Tensor) -> tf.Tensor:
        x = rows
        left = iter(weights)
        for _ in range(layer.depth):
            found, logits = [], []
            kernels = [tuple(itertools.islice(left, 4)) for _ in range(experts)]
            bias = next(left)
            for down, inner, up, gate in kernels:
                logits.append(tf.matmul(x, gate))
                hidden = tf.nn.tanh(tf.matmul(tf.nn.tanh(tf.matmul(x, down)), inner))
                found.append(rows * (tf.matmul(hidden, up) + bias))
            shares = tf.nn.softmax(tf.stack(logits, axis=1), axis=1)  # [B, K, 1]
            mixed = tf.matmul(tf.stack(found, axis=2), shares)  # [B, d, 1]
            x = tf.squeeze(mixed, axis=2) + x
        return x

    return Form(call, weights, arrange)


# Attention over behaviours.


def dot_product_attention(
    layer: layers.DotProductAttention, zero: bool = False
) -> Form:
    """Returns the attention of Keras behind a dense layer.

    Args:
        layer: a `DotProductAttention`, or a `ZeroAttention` with one head.
        zero: whether a key of zeros joins the keys.
    """
    (kernel,) = _variables(layer)
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

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        *others, score = arrays
        return [*others, score[:, 0]]

    *own, score = _variables(layer, arrange)
    query_kernel, key_kernel, bias = own
    attend = tf.keras.layers.AdditiveAttention()
    size = bias.shape[0]
    attend.build([[None, 1, size], [None, None, size]])
    weights = [*own, *_set_weights([attend], [score])]

    def call(query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        query = tf.expand_dims(tf.matmul(query, query_kernel) + bias, axis=1)
        hidden = tf.tensordot(keys, key_kernel, axes=(-1, 0))
        found = attend([query, keys, hidden], mask=[None, mask])
        return tf.squeeze(found, axis=1)

    return Form(call, weights, arrange)


def target_attention(layer: layers.TargetAttention) -> Form:
    """Returns DIN's form: the query beside every key, and dense layers."""
    weights = _variables(layer)
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
    (alpha,) = _variables(layer)
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
    units = block.hidden_kernel.shape[1]
    attend = tf.keras.layers.MultiHeadAttention(heads, size // heads, use_bias=False)
    attend(tf.zeros([1, 1, size]), tf.zeros([1, 1, size]))  # creates the weights
    first = tf.keras.layers.Dense(units, activation="relu")
    second = tf.keras.layers.Dense(size)
    first.build([None, size])
    second.build([None, units])
    norms = [tf.keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(3)]
    for norm in norms:
        norm.build([None, None, size])

    def arrange(arrays: list[np.ndarray]) -> list[np.ndarray]:
        positions, projections, mixing, *others = arrays
        kernels = np.split(projections, 3, axis=1)
        kernels = [kernel.reshape(size, heads, -1) for kernel in kernels]
        return [positions, *kernels, mixing.reshape(heads, -1, size), *others]

    own, *others = arrange(_arrays(layer))
    positions = tf.Variable(own)
    weights = [positions, *_set_weights([attend, first, second, *norms], others)]

    def call(sequence: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        x = sequence + positions
        normed = norms[0](x)
        x += attend(normed, normed, attention_mask=tf.expand_dims(mask, axis=1))
        x += second(first(norms[1](x)))
        return norms[2](x) * tf.cast(tf.expand_dims(mask, axis=2), x.dtype)

    return Form(call, weights, arrange)
