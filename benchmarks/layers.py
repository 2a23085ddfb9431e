"""Layers: a step forward and backward, beside the form in which they are published.

Each layer and the plain form of its formula (`published.py`) hold the same weights and
get the same batch; before anything is timed they have to give the same output and the
same gradients. A step computes the output and the gradients of inputs and weights, in
one `tf.function`. Both are run in turn, some steps each, until the last two runs of
each agree within 10%, or at most 12 times: a row says whether they did.

Memory is what TensorFlow has allocated at most during a step, above what it had before,
the median of seven steps: it depends on which operations happen to run at the same
time. Inputs and weights are there already, the output and all gradients are counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import measuring
import numpy as np
import published
import tensorflow as tf
from measuring import Result, peak_mib, significant
from published import Form

from tfrs_prerank import layers

BY_NUMBER = "loop over pairs, fields by number"
SPLIT = "loop over pairs, fields split"
DEEPCTR = f"DeepCTR: {SPLIT}"
CONV = "DeepCTR: outer products, conv1d"
ROUNDS = 12


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and what it is compared with.

    Attributes:
        title: the layer and its arguments.
        inputs: of both.
        layer: the layer's own form.
        plain: the published forms, by name.
    """

    title: str
    inputs: list[tf.Tensor]
    layer: Form
    plain: dict[str, Form]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs.

    Attributes:
        batch: number of examples.
        fields: numbers of fields.
        size: size of a field and of a behaviour.
        length: number of behaviours.
    """

    batch: int = 4096
    fields: tuple[int, ...] = (10, 30, 50)
    size: int = 16
    length: int = 50


# Just large enough for the memory of all gradients of inputs to be counted.
SMALL = Sizes(batch=2048, fields=(4,), size=8, length=4)


def main() -> None:
    """Runs the command."""
    options = measuring.parser(__doc__.split("\n\n")[0], "layers").parse_args()
    small = options.small
    sizes = SMALL if small else Sizes()
    crosses = []
    for fields in sizes.fields:
        for case in field_cases(sizes, fields):
            crosses += rows({"fields": fields}, case, small)
    attention = []
    for case in attention_cases(sizes):
        attention += rows({"behaviours": sizes.length}, case, small)
    tables = {
        "crosses": crosses,
        "attention": attention,
        "targets": target_table(crosses, attention),
    }
    measuring.report("layers", options, tables)


# What is compared.


def field_cases(sizes: Sizes, fields: int) -> Iterator[Case]:
    """Makes the layers over fields, one by one: kernels take memory."""
    shape = (sizes.batch, fields, sizes.size)
    inputs = [normal(shape)]
    rows = [tf.reshape(inputs[0], [sizes.batch, fields * sizes.size])]

    def case(title: str, layer: Any, plain: dict[str, Callable[[Any], Form]]) -> Case:
        crossed = isinstance(layer, layers.CrossNetwork)
        given = rows if crossed else inputs
        form = form_of(layer, given)
        return Case(title, given, form, {n: make(layer) for n, make in plain.items()})

    senet = layers.SENet(activations=("relu", "relu"))
    yield case("SENet, ReLU twice", senet, {"DeepCTR": published.senet})
    yield case("SENetPlus", layers.SENetPlus(), {"authors": published.senet_plus})
    yield case("LightSE", layers.LightSE(), {"IntTower": published.light_se})
    yield case(
        "FeatureAttention, 2 heads",
        layers.FeatureAttention(heads=2),
        {"DeepCTR": published.feature_attention},
    )

    def split_loop(layer: layers.BilinearInteraction) -> Form:
        return published.pair_loop(layer, fields, split=True)

    def number_loop(layer: layers.BilinearInteraction) -> Form:
        return published.pair_loop(layer, fields, split=False)

    def copies(layer: layers.BilinearInteraction) -> Form:
        return published.inner_products(layer, fields)

    def convolved(layer: layers.CIN) -> Form:
        return published.cin(layer, fields)

    bilinear = layers.BilinearInteraction
    yield case("Hadamard product", bilinear(kernel="identity"), {SPLIT: split_loop})
    yield case("bilinear, all", bilinear("all"), {DEEPCTR: split_loop})
    yield case("bilinear, each", bilinear("each"), {DEEPCTR: split_loop})
    # The gradients by number are as large as all fields, twice for each pair: 32 GB of
    # 50 fields.
    by_number = {BY_NUMBER: number_loop} if fields <= 30 else {}
    yield case(
        "bilinear, interaction",
        bilinear("interaction"),
        {DEEPCTR: split_loop, **by_number},
    )
    identity = bilinear(kernel="identity", product="inner")
    yield case("inner product", identity, {"DeepCTR": copies})
    yield case(
        "bilinear inner, all",
        bilinear("all", product="inner"),
        {"authors": lambda layer: published.inner_products_of_all(layer, fields)},
    )
    full = bilinear("interaction", product="inner")
    yield case("bilinear inner, interaction", full, {SPLIT: split_loop})
    diagonal = bilinear("interaction", product="inner", kernel="diagonal")
    yield case(
        "bilinear inner, interaction, diagonal",
        diagonal,
        {"DeepCTR: PNN, vectors as kernels": copies},
    )
    yield case(
        "FiBiNet, all",
        layers.FiBiNet(),
        {"DeepCTR": lambda layer: published.fibinet(layer, fields)},
    )
    yield case(
        "FiBiNet, plus",
        layers.FiBiNet("plus"),
        {"authors": lambda layer: published.fibinet_plus(layer, fields)},
    )
    units = (64, 64)
    yield case("CIN, 64 and 64 maps", layers.CIN(units), {CONV: convolved})
    halves = layers.CIN(units, split_half=True, activation="relu")
    yield case("CIN, ReLU, halves", halves, {CONV: convolved})
    if fields <= 30:  # the authors' form takes what that of the full kernel takes
        yield case(
            "CIN, rank 2",
            layers.CIN(units, rank=2),
            {"authors: kernels multiplied out, conv1d": convolved},
        )

    def outer(layer: layers.CrossNetwork) -> Form:
        return published.cross_v1(layer, outer=True)

    def scalar(layer: layers.CrossNetwork) -> Form:
        return published.cross_v1(layer, outer=False)

    # x0 x^T of 30 fields is 4 GB in each layer, that of 50 is 10 GB.
    paper = {"x0 x^T first": outer} if fields <= 10 else {}
    network = layers.CrossNetwork
    yield case("DCN v1, 3 layers", network(3), {"DeepCTR": scalar, **paper})
    tfrs = {"tfrs.layers.dcn.Cross": published.cross_v2}
    yield case("DCN v2, 3 layers", network(3, "v2"), tfrs)
    rank = min(32, sizes.size)
    yield case(f"DCN v2, rank {rank}", network(3, "v2", rank), tfrs)
    yield case(
        f"DCN v2, 4 experts of rank {rank}",
        network(3, "v2", rank, experts=4),
        {"DeepCTR: loop over experts": published.cross_mixture},
    )


def attention_cases(sizes: Sizes) -> Iterator[Case]:
    """Makes the layers over behaviours, a fifth of them padding."""
    batch, length, size = sizes.batch, sizes.length, sizes.size
    query, keys = normal((batch, 2 * size)), normal((batch, length, size))
    rng = np.random.default_rng(0)
    mask = rng.random((batch, length)) < 0.8
    mask[:, 0] = True
    inputs = [query, keys, tf.constant(mask)]

    def case(title: str, layer: Any, baseline: str, plain: Any, first: int = 0) -> Case:
        given = inputs[first:]
        return Case(title, given, form_of(layer, given), {baseline: plain(layer)})

    yield case(
        "DotProductAttention",
        layers.DotProductAttention(),
        "Keras Attention",
        published.dot_product_attention,
    )
    yield case(
        "ZeroAttention",
        layers.ZeroAttention(),
        "Keras Attention, a key of zeros",
        lambda layer: published.dot_product_attention(layer, zero=True),
    )
    yield case(
        "AdditiveAttention",
        layers.AdditiveAttention(),
        "Keras AdditiveAttention",
        published.additive_attention,
    )
    yield case(
        "TargetAttention, ReLU",
        layers.TargetAttention(activation="relu"),
        "DIN: concatenation",
        published.target_attention,
    )
    yield case(
        "BehaviorTransformer, 2 heads",
        layers.BehaviorTransformer(heads=2),
        "Keras MultiHeadAttention",
        published.transformer,
        first=1,
    )
    dice = layers.Dice()
    form = form_of(dice, [keys], training=True)
    plain = {"Keras BatchNormalization": published.dice(dice)}
    yield Case("Dice, training", [keys], form, plain)


def normal(shape: tuple[int, ...]) -> tf.Tensor:
    """Draws an input."""
    return tf.random.stateless_normal(shape, seed=[0, len(shape)])


def form_of(layer: Any, inputs: list[tf.Tensor], **options: Any) -> Form:
    """Returns a layer's own form, with weights that are drawn."""
    tf.keras.utils.set_random_seed(0)
    layer(*inputs)
    for weight in layer.trainable_weights:
        # What a bias of zero is multiplied with could be left out unseen.
        if not weight.numpy().any():
            weight.assign(0.1 * normal(weight.shape))
    return Form(lambda *given: layer(*given, **options), layer.trainable_weights)


# How it is measured.


def step_of(form: Form, inputs: list[tf.Tensor]) -> Callable[[], Any]:
    """Returns a step: the output, and the gradients of inputs and weights.

    Raises:
        ValueError: when it is called first and there is no gradient of one of them.
    """
    shape = form.call(*inputs).shape
    into = tf.random.stateless_normal(shape, seed=[1, 1])

    @tf.function(autograph=False)
    def run(into: tf.Tensor, *given: tf.Tensor) -> Any:
        moved = [x for x in given if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(moved)
            output = form.call(*given)
        sources = [moved, form.weights]
        gradients = tape.gradient(output, sources, into)
        pairs = zip(tf.nest.flatten(sources), tf.nest.flatten(gradients), strict=True)
        for source, gradient in pairs:
            if gradient is None:
                raise ValueError(f"the output does not depend on {source.name}")
        return output, *gradients

    return lambda: run(into, *inputs)


def rows(columns: dict[str, Any], case: Case, small: bool) -> list[dict[str, Any]]:
    """Measures a case.

    Args:
        columns: first ones of the rows.
        case: what is compared.
        small: whether it is only to be seen that everything works.

    Returns:
        A row for each published form.
    """
    measuring.note(" ".join([case.title, *(f"{v} {k}" for k, v in columns.items())]))
    found = measure(case, small)
    own = found[""]
    for name in found:
        measuring.note(f"  {1000 * found[name].timing.seconds:.3g} ms {name}")
    return [
        {
            **columns,
            "layer": case.title,
            "ms": significant(1000 * own.timing.seconds),
            "MiB": _mib(own),
            "beside": name,
            "its ms": significant(1000 * found[name].timing.seconds),
            "its MiB": _mib(found[name]),
            "times faster": significant(
                found[name].timing.seconds / own.timing.seconds
            ),
            "two runs within 10%": "yes"
            if own.timing.settled and found[name].timing.settled
            else "no",
        }
        for name in case.plain
    ]


def _mib(result: Result) -> float | str:
    return "not counted" if result.mib is None else significant(result.mib)


def measure(case: Case, small: bool) -> dict[str, Result]:
    """Measures the layer and the published forms of a case.

    Args:
        case: what is compared.
        small: whether it is only to be seen that everything works.

    Returns:
        Time and memory by the form's name, `""` for the layer.

    Raises:
        AssertionError: a form's output or a gradient is not that of the layer.
    """
    forms = {"": case.layer, **case.plain}
    steps = {name: step_of(form, case.inputs) for name, form in forms.items()}
    seconds = {}
    want = steps[""]()  # traces
    for name, step in steps.items():
        if name:
            check_same(want, step(), forms[name].arrange)
        started = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - started
    del want
    mib = {name: peak_mib(step) for name, step in steps.items()}
    # About a fifth of a second for each run of a form.
    calls = {
        name: max(2, min(100, round(0.2 / s))) if not small else 1
        for name, s in seconds.items()
    }
    subjects = {
        name: lambda name=name: measuring.median_seconds(
            lambda _: steps[name](), range(calls[name])
        )
        for name in steps
    }
    timings = measuring.settle(subjects, rounds=ROUNDS if not small else 2)
    return {name: Result(timings[name], mib[name]) for name in steps}


def check_same(want: Any, found: Any, arrange: published.Arrange) -> None:
    """Raises unless a form computes what the layer computes.

    Args:
        want: what the layer's step returned.
        found: what the form's step returned.
        arrange: from gradients of the layer's weights to those of the form's.

    Raises:
        AssertionError: the output or a gradient differs.
    """
    want_output, of_inputs, of_weights = map(_numpy, want)
    output, *found_gradients = map(_numpy, found)
    assert output.shape == want_output.shape, (output.shape, want_output.shape)
    # float32, whose sums depend on their order.
    apart = np.abs(output - want_output).max()
    assert apart <= 1e-4 * np.abs(want_output).max(), apart
    del output, want_output
    pairs = zip(
        [*of_inputs, *arrange(of_weights)],
        itertools.chain(*found_gradients),
        strict=True,
    )
    for place, (gradient, other) in enumerate(pairs):
        assert other.shape == gradient.shape, (place, other.shape, gradient.shape)
        # As a whole: a sum beside 0 may turn a ReLU off in one form and not in the
        # other, which changes a few numbers.
        apart = np.linalg.norm((other - gradient).ravel())
        assert apart <= 1e-3 * np.linalg.norm(gradient.ravel()), (place, apart)


def _numpy(found: Any) -> Any:
    return tf.nest.map_structure(lambda x: tf.convert_to_tensor(x).numpy(), found)


def target_table(
    crosses: list[dict[str, Any]], attention: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    # Two runs of the same may differ by 10%.
    never_slower = 0.9
    layer = "bilinear, interaction"
    ratios = {
        (row["fields"], row["beside"]): row["times faster"]
        for row in crosses
        if row["layer"] == layer
    }
    largest = max(fields for fields, beside in ratios if beside == BY_NUMBER)
    targets = [
        measuring.target(
            f"{layer}, {largest} fields: times faster than the {loop}",
            ratios[largest, beside],
            limit,
            False,
        )
        for beside, loop, limit in (
            (BY_NUMBER, BY_NUMBER, 3.0),
            (DEEPCTR, f"{SPLIT} (DeepCTR)", never_slower),
        )
    ]
    slowest: dict[str, float] = {}
    for row in [*crosses, *attention]:
        ratio = row["times faster"]
        slowest[row["layer"]] = min(ratio, slowest.get(row["layer"], ratio))
    targets += [
        measuring.target(f"{name}: times faster, at least", ratio, never_slower, False)
        for name, ratio in slowest.items()
    ]
    return targets


if __name__ == "__main__":
    main()
