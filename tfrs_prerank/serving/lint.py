"""Checks that stock TensorFlow Serving can run a SavedModel, without starting one."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator

import tensorflow as tf
from google.protobuf import message
from tensorflow.core.framework import (
    attr_value_pb2,
    function_pb2,
    graph_pb2,
    node_def_pb2,
    tensor_pb2,
    types_pb2,
)
from tensorflow.core.protobuf import (
    meta_graph_pb2,
    saved_model_pb2,
    saved_object_graph_pb2,
    struct_pb2,
)

MAX_CONSTANT_BYTES = 1_000_000

_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})

# What tf.data registers: nearly every name says so, the rest are its helpers.
_DATA_FRAGMENTS = (
    "Dataset",
    "Iterator",
    "MemoryCache",
    "SeedGenerator",
    "StatsAggregator",
    "ThreadPoolHandle",
)
_DATA_OPS = frozenset(
    {
        "CompressElement",
        "ComputeBatchSize",
        "DistributedSave",
        "DummyIterationCounter",
        "GetElementAtIndex",
        "GetOptions",
        "UncompressElement",
        "WindowOp",
    }
)

_BORDER_DTYPES_REFUSED = frozenset(
    {types_pb2.DT_INVALID, types_pb2.DT_VARIANT, types_pb2.DT_RESOURCE}
)
_BORDER_SPECS_REFUSED = {
    struct_pb2.TypeSpecProto.RAGGED_TENSOR_SPEC: "ragged",
    struct_pb2.TypeSpecProto.SPARSE_TENSOR_SPEC: "sparse",
}


@dataclasses.dataclass(frozen=True)
class LargeConstant:
    """A constant above 1 MB that the caller allowed.

    Attributes:
      name: name of the node (or of the function's attribute) that holds it.
      place: the graph it stands in, `"main graph"` or `"function '<name>'"`.
      size: size in bytes: as stored, or as loaded where that is more.
      read_by: names of the ops that read it, through function calls.
    """

    name: str
    place: str
    size: int
    read_by: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LintReport:
    """What a SavedModel that passed is made of.

    Attributes:
      directory: the checked directory.
      serving_version: the TensorFlow Serving release it was checked against.
      pb_size: size of `saved_model.pb` in bytes.
      signatures: names of the signatures, sorted.
      ops: names of the ops used, sorted, without calls of its own functions.
      nodes: number of nodes in the main graph and all functions.
      functions: number of functions in the library.
      large_constants: the constants above 1 MB that `allow_large` named.
    """

    directory: str
    serving_version: str
    pb_size: int
    signatures: tuple[str, ...]
    ops: tuple[str, ...]
    nodes: int
    functions: int
    large_constants: tuple[LargeConstant, ...]


class LintError(ValueError):
    """Stock TensorFlow Serving cannot run this SavedModel, or should not.

    Attributes:
      findings: one line for each reason; the message is these lines.
    """

    def __init__(self, directory: str, findings: Iterable[str]):
        """Makes the message: one line per finding, each with the directory."""
        self.findings = tuple(findings)
        super().__init__("\n".join(f"{directory}: {line}" for line in self.findings))


def lint_saved_model(
    directory: str | os.PathLike[str],
    *,
    serving_version: str = "2.20",
    allow_large: Collection[str] = (),
) -> LintReport:
    """Checks that stock TensorFlow Serving can load and run a SavedModel.

    Reads `saved_model.pb` only: no graph is loaded and no variable is read. Every
    node of every meta graph is checked, in the main graph and in the function
    library, which also holds all nested, branch and gradient functions. Refused are:

    * ops that are not in the server of that release (core TensorFlow, TF-Text and
      Decision Forests inference; no `Scann>` op is in any);
    * functions or calls that must be compiled with XLA (`jit_compile=True`), as the
      server switches XLA off by default;
    * ops that call Python, and those of `tf.data`;
    * constants above 1 MB: they belong into variables or asset files;
    * signatures with ragged or sparse inputs or outputs, tensors of unknown rank,
      or tensors that no client can send or receive (variants, resources).

    Args:
      directory: the version directory that holds `saved_model.pb`.
      serving_version: TensorFlow Serving release: `"2.20"` or `"2.19"`.
      allow_large: constants that may be above 1 MB, each by the name of its node or,
        as node names change with every export, by the name of the op that reads it;
        every op that reads it must be named. A Fast WordPiece vocabulary is read by
        `"FastWordpieceTokenizeWithOffsets"`.

    Returns:
      A `LintReport`.

    Raises:
      LintError: with one line for each finding, which names the op or tensor, where
        it stands and the fix.
      FileNotFoundError: if there is no `saved_model.pb`.
      ValueError: if the release is not known.
      TypeError: if `allow_large` is one string.

    Example:
    >>> import tempfile
    >>> import tensorflow as tf
    >>> module = tf.Module()
    >>> module.double = tf.function(lambda x: {"y": 2.0 * x})
    >>> spec = tf.TensorSpec([None], tf.float32, name="x")
    >>> directory = tempfile.mkdtemp()
    >>> tf.saved_model.save(
    ...     module, directory, module.double.get_concrete_function(spec))
    >>> report = lint_saved_model(directory)
    >>> report.signatures, "Mul" in report.ops
    (('serving_default',), True)
    """
    if isinstance(allow_large, str):
        raise TypeError(
            f"allow_large: received the string {allow_large!r}; pass a list of names, "
            f"[{allow_large!r}]"
        )
    known_ops = op_list(serving_version)
    path = pathlib.Path(directory) / "saved_model.pb"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; pass the version directory of an export, such as "
            "saved_models/<name>/<integer>"
        )
    serialized = path.read_bytes()
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(serialized)
    except message.DecodeError as error:
        reason = f"saved_model.pb is not a SavedModel ({error}); export it again"
        raise LintError(str(directory), [reason]) from error
    if not model.meta_graphs:
        reason = "saved_model.pb holds no meta graph; export it again"
        raise LintError(str(directory), [reason])

    scopes: list[_Scope] = []
    findings: list[str] = []
    allowed: list[LargeConstant] = []
    signatures: set[str] = set()
    for number, meta_graph in enumerate(model.meta_graphs):
        label = f" of meta graph {number}" if len(model.meta_graphs) > 1 else ""
        graph = _Graph(meta_graph.graph_def, label)
        scopes.extend(graph.scopes)
        findings.extend(_op_findings(graph, known_ops, serving_version))
        findings.extend(_xla_findings(graph))
        refused, accepted = _large_constants(graph, frozenset(allow_large))
        findings.extend(
            f"constant {constant.name!r} in {constant.place} has {constant.size} bytes "
            f"(read by {', '.join(constant.read_by) or 'no op'}), the limit is "
            f"{MAX_CONSTANT_BYTES}; hold it in a tf.Variable or an asset file"
            for constant in refused
        )
        allowed.extend(accepted)
        findings.extend(_signature_findings(meta_graph, graph))
        signatures.update(_signatures(meta_graph))
    if findings:
        raise LintError(str(directory), findings)
    return LintReport(
        directory=str(directory),
        serving_version=serving_version,
        pb_size=len(serialized),
        signatures=tuple(sorted(signatures)),
        ops=tuple(sorted({n.op for s in scopes for n in s.nodes} & known_ops)),
        nodes=sum(len(scope.nodes) for scope in scopes),
        functions=sum(scope.function is not None for scope in scopes),
        large_constants=tuple(allowed),
    )


@functools.lru_cache
def op_lists() -> dict[str, frozenset[str]]:
    """Returns the shipped op lists by TensorFlow Serving release."""
    lists = {}
    for file in (importlib.resources.files(__package__) / "op_lists").iterdir():
        version = file.name.removeprefix("tf_serving_").removesuffix(".txt")
        lines = file.read_text(encoding="utf-8").splitlines()
        lists[version] = frozenset(
            line for line in lines if line and not line.startswith("#")
        )
    return lists


def op_list(version: str) -> frozenset[str]:
    """Returns the ops of one TensorFlow Serving release."""
    lists = op_lists()
    if version not in lists:
        raise ValueError(
            f"serving_version: received {version!r}; op lists exist for "
            f"{', '.join(map(repr, sorted(lists)))}"
        )
    return lists[version]


@dataclasses.dataclass(frozen=True, eq=False)
class _Scope:
    """The main graph or one function: nodes that see each other's tensors."""

    place: str
    nodes: tuple[node_def_pb2.NodeDef, ...]
    function: function_pb2.FunctionDef | None = None

    @property
    def arguments(self) -> list[str]:
        """Returns the names of the function's arguments; none for the main graph."""
        if self.function is None:
            return []
        return [argument.name for argument in self.function.signature.input_arg]

    @functools.cached_property
    def readers(self) -> dict[str, list[tuple[node_def_pb2.NodeDef, int]]]:
        """Maps a node or argument to the `(node, input index)` that read it."""
        readers: dict[str, list[tuple[node_def_pb2.NodeDef, int]]] = {}
        for node in self.nodes:
            for index, tensor in enumerate(node.input):
                readers.setdefault(tensor.split(":")[0], []).append((node, index))
        return readers


class _Graph:
    """A graph and its function library."""

    def __init__(self, graph_def: graph_pb2.GraphDef, label: str):
        self.main = _Scope(f"main graph{label}", tuple(graph_def.node))
        self.functions = {
            function.signature.name: _Scope(
                f"function {function.signature.name!r}{label}",
                tuple(function.node_def),
                function,
            )
            for function in graph_def.library.function
        }
        self.scopes = [self.main, *self.functions.values()]

    def calls(self, node: node_def_pb2.NodeDef) -> list[str]:
        """Returns the library functions that a node calls, branches included."""
        names = [node.op]
        for value in node.attr.values():
            names.append(value.func.name)
            names.extend(function.name for function in value.list.func)
        return [name for name in names if name in self.functions]

    def reading_ops(self, scope: _Scope, name: str) -> set[str]:
        """Returns the ops that read a tensor, followed through calls and copies."""
        found: set[str] = set()
        seen: set[tuple[str, str]] = set()
        waiting = [(scope, name)]
        while waiting:
            scope, name = waiting.pop()
            if (scope.place, name) in seen:
                continue
            seen.add((scope.place, name))
            for node, index in scope.readers.get(name, ()):
                called = self.calls(node)
                for function in called:
                    # The first input of a branch chooses it, the rest are passed on.
                    offset = int(node.op in _BRANCHES)
                    inner = self.functions[function]
                    arguments = inner.arguments
                    if 0 <= index - offset < len(arguments):
                        waiting.append((inner, arguments[index - offset]))
                if node.op == "Identity":
                    waiting.append((scope, node.name))
                elif not called:
                    found.add(node.op)
        return found


_BRANCHES = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})


def _op_findings(
    graph: _Graph, known_ops: frozenset[str], version: str
) -> Iterator[str]:
    """Yields a line for each op of each function that the server cannot run."""
    for scope in graph.scopes:
        nodes: dict[str, list[str]] = {}
        for node in scope.nodes:
            nodes.setdefault(node.op, []).append(node.name)
        for op, names in nodes.items():
            reason = None
            if op not in graph.functions:
                reason = _op_reason(op, known_ops, version)
            if reason:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                yield f"op {op!r} at node {names[0]!r}{more} in {scope.place} {reason}"


def _op_reason(op: str, known_ops: frozenset[str], version: str) -> str | None:
    """Says why the server cannot run an op and what to do, or returns None."""
    if op in _PYTHON_OPS:
        return "calls Python, which the server has not; write it with TensorFlow ops"
    if op in _DATA_OPS or any(fragment in op for fragment in _DATA_FRAGMENTS):
        return (
            "belongs to tf.data; keep datasets out of what the export tracks and calls"
        )
    if op in known_ops:
        return None
    absent = f"is not in TensorFlow Serving {version}"
    if op.startswith("Scann>"):
        return (
            f"{absent}, nor in any stock server; export without ScaNN, or put it into "
            "an export of its own for a server built with it"
        )
    if op.startswith("Xla"):
        return f"{absent}, which leaves XLA off; trace without jit_compile=True"
    others = sorted(name for name, ops in op_lists().items() if op in ops)
    if others:
        return f"{absent} but in {', '.join(others)}; serve with that, or do without"
    return f"{absent}; use core TensorFlow or TF-Text ops"


def _xla_findings(graph: _Graph) -> Iterator[str]:
    """Yields a line for each function, and each call, that must be compiled."""
    fix = (
        "must be compiled with XLA (_XlaMustCompile), which TensorFlow Serving leaves "
        "off by default; trace the export from functions without jit_compile=True"
    )
    compiled = set()
    for name, scope in graph.functions.items():
        if scope.function is not None and _must_compile(scope.function):
            compiled.add(name)
            yield f"{scope.place} {fix}"
    for scope in graph.scopes:
        for node in scope.nodes:
            if _must_compile(node) and compiled.isdisjoint(graph.calls(node)):
                yield f"op {node.op!r} at node {node.name!r} in {scope.place} {fix}"


def _must_compile(holder: function_pb2.FunctionDef | node_def_pb2.NodeDef) -> bool:
    """Returns whether a function or node carries a true `_XlaMustCompile`."""
    # Reading a missing key of this map would add it.
    return "_XlaMustCompile" in holder.attr and holder.attr["_XlaMustCompile"].b


def _large_constants(
    graph: _Graph, allow: frozenset[str]
) -> tuple[list[LargeConstant], list[LargeConstant]]:
    """Returns the constants above the limit: those refused and those allowed."""
    refused: list[LargeConstant] = []
    accepted: list[LargeConstant] = []
    for scope in graph.scopes:
        holders: list[tuple[str, str, attr_value_pb2.AttrValue]] = [
            (node.name, key, value)
            for node in scope.nodes
            for key, value in node.attr.items()
        ]
        if scope.function is not None:
            holders.extend(("", k, v) for k, v in scope.function.attr.items())
        for node_name, key, value in holders:
            size = _size(value)
            if size <= MAX_CONSTANT_BYTES:
                continue
            readers = graph.reading_ops(scope, node_name) if node_name else set()
            constant = LargeConstant(
                node_name or key, scope.place, size, tuple(sorted(readers))
            )
            by_reader = bool(readers) and readers <= allow
            (accepted if by_reader or constant.name in allow else refused).append(
                constant
            )
    return refused, accepted


def _size(value: attr_value_pb2.AttrValue) -> int:
    """Returns the bytes of an attribute, as stored or as loaded if that is more."""
    loaded = sum(map(_loaded_size, [value.tensor, *value.list.tensor]))
    return max(value.ByteSize(), loaded)


def _loaded_size(tensor: tensor_pb2.TensorProto) -> int:
    """Returns the bytes of a numeric tensor in memory.

    A tensor of one repeated value is stored as that value.
    """
    if tensor.dtype in _BORDER_DTYPES_REFUSED or tensor.dtype == types_pb2.DT_STRING:
        return 0
    elements = math.prod(dimension.size for dimension in tensor.tensor_shape.dim)
    return elements * tf.dtypes.as_dtype(tensor.dtype).size


def _signatures(
    meta_graph: meta_graph_pb2.MetaGraphDef,
) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Returns the signatures a client can call (not those the loader runs)."""
    return {
        name: signature
        for name, signature in meta_graph.signature_def.items()
        if not name.startswith("__saved_model_")
    }


def _signature_findings(
    meta_graph: meta_graph_pb2.MetaGraphDef, graph: _Graph
) -> Iterator[str]:
    """Yields a line for each input or output that is not a plain dense tensor."""
    for name, signature in sorted(_signatures(meta_graph).items()):
        for side, tensors in (
            ("input", signature.inputs),
            ("output", signature.outputs),
        ):
            for key, info in sorted(tensors.items()):
                reason = _tensor_reason(info)
                if reason:
                    yield f"{side} {key!r} of signature {name!r} {reason}"
        kinds = _composite_inputs(
            signature, graph, meta_graph.object_graph_def.concrete_functions
        )
        for kind in kinds:
            yield (
                f"signature {name!r} takes a {kind} tensor, which clients would have "
                "to send in parts; take a dense one, padded, and convert it inside"
            )


def _tensor_reason(info: meta_graph_pb2.TensorInfo) -> str | None:
    """Says why a client cannot send or receive a tensor, or returns None."""
    encoding = info.WhichOneof("encoding")
    if encoding == "coo_sparse":
        return "is sparse; use a dense tensor"
    if encoding == "composite_tensor":
        kind = info.composite_tensor.type_spec.type_spec_class_name
        return f"is a {kind.removesuffix('Spec')}; make it dense with .to_tensor()"
    if info.dtype in _BORDER_DTYPES_REFUSED:
        dtype = types_pb2.DataType.Name(info.dtype)
        return f"has dtype {dtype}, which no client can read; use a dense tensor"
    if info.tensor_shape.unknown_rank:
        return "has unknown rank; fix it in the TensorSpec or with tf.ensure_shape"
    return None


def _composite_inputs(
    signature: meta_graph_pb2.SignatureDef,
    graph: _Graph,
    concrete_functions: dict[str, saved_object_graph_pb2.SavedConcreteFunction],
) -> list[str]:
    """Returns `"ragged"`, `"sparse"` if the function behind a signature takes them.

    Saving splits such an input into its dense parts, so that it no longer shows in
    the signature: only the function that the signature's wrapper calls knows.
    """
    outputs = {info.name.split(":")[0] for info in signature.outputs.values()}
    wrappers = {
        name
        for node in graph.main.nodes
        if node.name in outputs
        for name in graph.calls(node)
    }
    wrapped = {
        name
        for wrapper in wrappers
        for node in graph.functions[wrapper].nodes
        for name in graph.calls(node)
    }
    kinds: set[str] = set()
    for name in wrapped & set(concrete_functions):
        kinds.update(
            _spec_kinds(concrete_functions[name].canonicalized_input_signature)
        )
    return sorted(kinds)


def _spec_kinds(value: struct_pb2.StructuredValue) -> set[str]:
    """Returns which refused kinds of tensor a nested structure of specs holds."""
    kind = value.WhichOneof("kind")
    children: Iterable[struct_pb2.StructuredValue] = ()
    if kind == "type_spec_value":
        found = _BORDER_SPECS_REFUSED.get(value.type_spec_value.type_spec_class)
        return {found} if found else set()
    if kind == "tuple_value":
        children = value.tuple_value.values
    elif kind == "list_value":
        children = value.list_value.values
    elif kind == "dict_value":
        children = value.dict_value.fields.values()
    elif kind == "named_tuple_value":
        children = [pair.value for pair in value.named_tuple_value.values]
    return set().union(*map(_spec_kinds, children))
