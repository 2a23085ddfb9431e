"""One loaded version of a model."""

import os
from collections.abc import Mapping, Sequence

import tensorflow as tf

# TF Serving is linked with TF-Text; a graph that uses it loads only once the op
# library has been imported.
import tensorflow_text  # noqa: F401
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfrs_prerank.serving._apis import prediction_log_pb2
from tfrs_prerank.serving.local.status import Code, StatusError, invalid

_DEFAULT_SIGNATURE = "serving_default"
_WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_WARMUP_RECORDS = 1000


class Servable:
    """A SavedModel that answers `predict` by signature, as TF Serving's does.

    Only signatures are called, so the package that made the export is not needed.
    The warm-up requests of the export are replayed before the constructor returns.

    Args:
        path: The version directory, which holds `saved_model.pb`.

    Raises:
        StatusError: A warm-up record cannot be read or does not run.
        OSError, tf.errors.OpError: The SavedModel is not complete.
    """

    def __init__(self, path: str):
        self.path = path
        # The object owns the variables that the signatures read.
        self._model = tf.saved_model.load(path)
        self._functions = dict(self._model.signatures)
        self.signature_defs = _read_signature_defs(path)
        self._warm_up()

    def definition(self, signature: str) -> meta_graph_pb2.SignatureDef | None:
        """Returns a signature by its name (empty: the default one), or `None`."""
        return self.signature_defs.get(signature or _DEFAULT_SIGNATURE)

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, tf.Tensor],
        output_filter: Sequence[str] = (),
    ) -> tuple[str, dict[str, tf.Tensor]]:
        """Runs a signature on named tensors.

        Differs from TF Serving: a wrong dtype is reported by the input's name (there
        by its position), and a shape that contradicts the signature is refused here
        (there it reaches the graph).

        Args:
            signature: Name of the signature; empty means `serving_default`.
            inputs: Tensors by input name.
            output_filter: Names of the outputs to return; empty means all.

        Returns:
            The signature's name, and tensors by output name.

        Raises:
            StatusError: The request does not fit the signature.
        """
        name = signature or _DEFAULT_SIGNATURE
        definition = self.definition(name)
        if definition is None or name not in self._functions:
            raise StatusError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            )
        feeds = _check_inputs(definition, inputs)
        wanted = _check_outputs(definition, output_filter)
        outputs = self._functions[name](**feeds)
        return name, {alias: outputs[alias] for alias in wanted}

    def _warm_up(self) -> None:
        path = os.path.join(self.path, _WARMUP_FILE)
        if not os.path.exists(path):
            return
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(path)):
                if number >= _MAX_WARMUP_RECORDS:
                    raise invalid(
                        "Number of warmup records exceeds the maximum "
                        f"({_MAX_WARMUP_RECORDS}) at {path}"
                    )
                self._replay(record.numpy(), number, path)
        except tf.errors.DataLossError as error:
            raise StatusError(
                Code.DATA_LOSS,
                f"{error.message}. Please verify your warmup data {path} is in "
                "TFRecord format.",
            ) from error

    def _replay(self, record: bytes, number: int, path: str) -> None:
        log = prediction_log_pb2.PredictionLog()
        try:
            log.ParseFromString(record)
        except Exception as error:
            raise invalid(
                f"Failed to parse warmup record: {number} from {path}"
            ) from error
        kind = log.WhichOneof("log_type")
        if kind is None:
            return
        if kind != "predict_log":
            raise StatusError(
                Code.UNIMPLEMENTED,
                f"Unsupported log_type for warmup: {kind} in record {number} of {path}",
            )
        request = log.predict_log.request
        self.predict(
            request.model_spec.signature_name,
            from_protos(request.inputs),
            request.output_filter,
        )


def from_protos(protos: Mapping[str, object]) -> dict[str, tf.Tensor]:
    """Returns tensors from `TensorProto`s by name.

    Raises:
        StatusError: A tensor is malformed; the message names it.
    """
    tensors = {}
    for alias, proto in protos.items():
        try:
            dtype = tf.dtypes.as_dtype(proto.dtype)  # type: ignore[attr-defined]
            data = proto.SerializeToString()  # type: ignore[attr-defined]
            tensors[alias] = tf.io.parse_tensor(data, dtype)
        except (TypeError, ValueError, tf.errors.OpError) as error:
            raise invalid(f"tensor parsing error: {alias}") from error
    return tensors


def dtype_name(dtype: tf.DType) -> str:
    """Returns TensorFlow's C++ name of a dtype (`float`, not `float32`)."""
    names = {"float16": "half", "float32": "float", "float64": "double"}
    return names.get(dtype.name, dtype.name)


def _read_signature_defs(path: str) -> dict[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    for graph in saved.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            # Copied, so that the rest of the graph is freed.
            return {
                name: meta_graph_pb2.SignatureDef.FromString(
                    definition.SerializeToString()
                )
                for name, definition in graph.signature_def.items()
            }
    raise StatusError(
        Code.NOT_FOUND,
        f"Could not find meta graph def matching supplied tags: {{ serve }} in {path}",
    )


def _check_inputs(
    definition: meta_graph_pb2.SignatureDef, inputs: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    expected = definition.inputs
    if len(inputs) > len(expected) or (
        len(inputs) < len(expected) and not definition.defaults
    ):
        sent, wanted = set(inputs), set(expected)
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({{{_joined(sent)}}}) != len({{{_joined(wanted)}}}). "
            f"Sent extra: {{{_joined(sent - wanted)}}}. "
            f"Missing but required: {{{_joined(wanted - sent)}}}."
        )
    feeds: dict[str, tf.Tensor] = {}
    for alias, info in expected.items():
        if alias in inputs:
            tensor = inputs[alias]
        elif alias in definition.defaults:
            tensor = from_protos({alias: definition.defaults[alias]})[alias]
        else:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in "
                "request and no default value provided. Inputs expected to be in the "
                f"request {{{_joined(inputs)}}}, or default input alias set: "
                f"{_joined(definition.defaults)}"
            )
        dtype = tf.dtypes.as_dtype(info.dtype)
        if tensor.dtype != dtype:
            raise invalid(
                f'Expects input "{alias}" to be {dtype_name(dtype)} but '
                f"{dtype_name(tensor.dtype)} is provided"
            )
        shape = tf.TensorShape(info.tensor_shape)
        if not shape.is_compatible_with(tensor.shape):
            raise invalid(
                f'Expects input "{alias}" to have shape {_shape(shape)} but '
                f"{_shape(tensor.shape)} is provided"
            )
        feeds[alias] = tensor
    if unknown := set(inputs) - set(expected):
        raise invalid(
            "Inputs contains invalid name. Used request inputs: "
            f"{_joined(set(inputs) - unknown)}, request input: {_joined(inputs)}"
        )
    return feeds


def _check_outputs(
    definition: meta_graph_pb2.SignatureDef, output_filter: Sequence[str]
) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected "
                f"to be in the set {{{_joined(definition.outputs)}}}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(definition.outputs)


def _joined(names: object) -> str:
    return ",".join(sorted(names))  # type: ignore[call-overload]


def _shape(shape: tf.TensorShape) -> str:
    if shape.rank is None:
        return "[?]"
    return "[" + ",".join("?" if d is None else str(d) for d in shape) + "]"
