"""Layers: a step forward and backward, beside the form in which they are published.

Each layer and the plain form of its formula (`published.py`) hold the same weights and
get the same batch; before anything is timed they have to give the same output. A step
computes the output and the gradients of inputs and weights, in one `tf.function`. Both
are run in turn, some steps each, until two runs in turn agree within 10%.

Memory is what TensorFlow has allocated at most during one step, above what it had
before: inputs and weights are there already, the output and all gradients are counted.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import measuring
import numpy as np
import published
import tensorflow as tf
from measuring import Timing, significant
from published import Form

from tfrs_prerank import layers

LOOP = "loop over pairs, fields by number"
SPLIT = "DeepCTR: loop over pairs"
_DEVICE = "CPU:0"


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
class Result:
    """What one form took.

    Attributes:
        timing: time of a step.
        mib: memory of a step, or None where it is not counted.
    """

    timing: Timing
    mib: float | None


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


SMALL = Sizes(batch=4, fields=(4,), size=4, length=3)


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

    bilinear = layers.BilinearInteraction
    # Graphs of loops over 1,225 pairs take longer to make than to run.
    few = fields <= 30
    yield case("Hadamard product", bilinear(kernel="identity"), {SPLIT: split_loop})
    yield case("bilinear, all", bilinear("all"), {SPLIT: split_loop})
    if few:
        yield case("bilinear, each", bilinear("each"), {SPLIT: split_loop})
    # The gradients by number are as large as all fields, twice for each pair.
    by_number = {LOOP: number_loop} if few else {}
    yield case(
        "bilinear, interaction",
        bilinear("interaction"),
        {SPLIT: split_loop, **by_number},
    )
    yield case(
        "inner product",
        bilinear(kernel="identity", product="inner"),
        {"DeepCTR": lambda _: published.inner_products(fields)},
    )
    for kind in ("all", "interaction") if few else ():
        inner = bilinear(kind, product="inner")
        yield case(f"bilinear inner, {kind}", inner, {SPLIT: split_loop})
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
    yield case(
        "CIN, 64 and 64 maps",
        layers.CIN((64, 64)),
        {"DeepCTR: outer products, conv1d": lambda layer: published.cin(layer, fields)},
    )

    def outer(layer: layers.CrossNetwork) -> Form:
        return published.cross_v1(layer, outer=True)

    def scalar(layer: layers.CrossNetwork) -> Form:
        return published.cross_v1(layer, outer=False)

    # x0 x^T of 50 fields is 10 GB.
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
    return Form(lambda *given: layer(*given, **options), layer.trainable_weights)


# How it is measured.


def step_of(form: Form, inputs: list[tf.Tensor]) -> Callable[[], Any]:
    """Returns a step: the output, and the gradients of inputs and weights."""
    shape = form.call(*inputs).shape
    into = tf.random.stateless_normal(shape, seed=[1, 1])

    @tf.function(autograph=False)
    def run(into: tf.Tensor, *given: tf.Tensor) -> Any:
        moved = [x for x in given if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(moved)
            output = form.call(*given)
        return output, tape.gradient(output, [*moved, *form.weights], into)

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
    forms = {"": case.layer, **case.plain}
    found = measure(
        {name: step_of(form, case.inputs) for name, form in forms.items()}, small
    )
    own = found[""]
    for name in forms:
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


def measure(steps: dict[str, Callable[[], Any]], small: bool) -> dict[str, Result]:
    """Measures forms of the same formula.

    Args:
        steps: by name; the others have to give what the first gives.
        small: whether it is only to be seen that everything works.

    Returns:
        By name, time and memory.
    """
    seconds, want = {}, None
    for name, step in steps.items():
        output = step()[0].numpy()  # traces
        want = output if want is None else want
        # float32, whose sums depend on their order.
        scale = np.abs(want).max()
        np.testing.assert_allclose(output, want, rtol=1e-3, atol=1e-4 * scale)
        del output
        started = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - started
    del want
    mib = {name: peak_mib(step) for name, step in steps.items()}
    # About a fifth of a second for each run of a form.
    calls = {
        n: max(1, min(20, round(0.2 / s))) if not small else 1
        for n, s in seconds.items()
    }
    subjects = {
        name: lambda name=name: measuring.median_seconds(
            lambda _: steps[name](), range(calls[name])
        )
        for name in steps
    }
    timings = measuring.settle(subjects, rounds=4 if not small else 2)
    return {name: Result(timings[name], mib[name]) for name in steps}


def peak_mib(step: Callable[[], Any]) -> float | None:
    """Returns the memory that a step takes at most, above what there was.

    As TensorFlow's allocator counts it, which the process's own size does not show: it
    keeps what is freed. On a CPU it counts only with oneDNN, which is the default on
    x86; else None.
    """
    gc.collect()
    try:
        tf.config.experimental.reset_memory_stats(_DEVICE)
    except ValueError:
        return None
    before = tf.config.experimental.get_memory_info(_DEVICE)["current"]
    step()
    peak = tf.config.experimental.get_memory_info(_DEVICE)["peak"]
    return float(peak - before) / 2**20


def target_table(
    crosses: list[dict[str, Any]], attention: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compares with what was asked for."""
    largest = max(row["fields"] for row in crosses if row["beside"] == LOOP)
    (loop,) = (
        row for row in crosses if row["beside"] == LOOP and row["fields"] == largest
    )
    targets = [
        measuring.target(
            f"bilinear, interaction, {largest} fields: times faster than the {LOOP}",
            loop["times faster"],
            3.0,
            False,
        )
    ]
    slowest: dict[str, float] = {}
    for row in [*crosses, *attention]:
        ratio = row["times faster"]
        slowest[row["layer"]] = min(ratio, slowest.get(row["layer"], ratio))
    # Two runs of the same may differ by 10%.
    targets += [
        measuring.target(f"{layer}: times faster, at least", ratio, 0.9, False)
        for layer, ratio in slowest.items()
    ]
    return targets


if __name__ == "__main__":
    main()
