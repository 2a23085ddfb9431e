"""The gRPC side of the local server."""

import concurrent.futures
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tfrs_prerank.serving._apis import (
    MAX_MESSAGE_BYTES,
    get_model_metadata_pb2,
    get_model_status_pb2,
    grpc,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tfrs_prerank.serving.local.servable import from_protos
from tfrs_prerank.serving.local.status import Code, StatusError, invalid
from tfrs_prerank.serving.local.versions import Versions

_logger = logging.getLogger(__name__)

_THREADS = 16
_STOP_SECONDS = 10.0
_MAX_ERROR_CHARS = 1024

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

# The field of a TensorProto for each dtype. TF Serving answers in these typed fields,
# and clients in other languages read them directly.
_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


class RpcServer:
    """TF Serving's `PredictionService` and `ModelService` over one model's versions.

    Args:
        versions: The versions to answer from.
        address: Where to listen, as `host:port`; port 0 takes any free one.

    Raises:
        OSError: The address cannot be had.
    """

    def __init__(self, versions: Versions, address: str):
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "gRPC")
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Otherwise a second server would silently share the port.
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(versions), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(versions), self._server
        )
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            self._pool.shutdown()
            raise OSError(
                f"gRPC cannot listen on {address} ({error}); choose another grpc_port."
            ) from error

    def start(self) -> None:
        """Starts to accept calls."""
        self._server.start()

    def stop(self) -> None:
        """Answers what has been asked, then closes every connection."""
        self._server.stop(_STOP_SECONDS).wait()
        self._pool.shutdown()


def to_proto(tensor: tf.Tensor) -> tensor_pb2.TensorProto:
    """Returns a tensor as a `TensorProto` with typed values, as TF Serving sends it."""
    array = tensor.numpy()
    field = _VALUE_FIELDS.get(tensor.dtype)
    if field is None:
        return tf.make_tensor_proto(array, tensor.dtype)
    proto = tensor_pb2.TensorProto(dtype=tensor.dtype.as_datatype_enum)
    proto.tensor_shape.SetInParent()
    for size in tensor.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(np.ravel(array).tolist())
    return proto


def _method(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Turns errors of a method into the call's status."""

    def method(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(self, request)
        except Exception as error:
            failure = StatusError.of(error)
            if failure.code == Code.INTERNAL:
                _logger.exception("%s failed", answer.__name__)
            text = failure.message
            if len(text) > _MAX_ERROR_CHARS:
                text = text[:_MAX_ERROR_CHARS] + "...TRUNCATED"
        context.abort(_STATUS_CODES[failure.code], text)

    return method


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, versions: Versions):
        self._versions = versions

    @_method
    def Predict(self, request: Any) -> Any:
        spec = _spec(request)
        with self._versions.acquire(*_version(spec)) as (number, servable):
            signature, outputs = servable.predict(
                spec.signature_name,
                from_protos(request.inputs),
                request.output_filter,
            )
            response = predict_pb2.PredictResponse()
            for alias, tensor in outputs.items():
                response.outputs[alias].CopyFrom(to_proto(tensor))
        response.model_spec.name = spec.name
        response.model_spec.version.value = number
        response.model_spec.signature_name = signature
        return response

    @_method
    def GetModelMetadata(self, request: Any) -> Any:
        spec = _spec(request)
        if not request.metadata_field:
            raise invalid(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._versions.acquire(*_version(spec)) as (number, servable):
            for key, definition in servable.signature_defs.items():
                signatures.signature_def[key].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = spec.name
        response.model_spec.version.value = number
        response.metadata["signature_def"].Pack(signatures)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, versions: Versions):
        self._versions = versions

    @_method
    def GetModelStatus(self, request: Any) -> Any:
        name, version, _ = _version(_spec(request))
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._versions.statuses(name, version):
            response.model_version_status.add(
                version=status.version,
                state=status.state,
                status={
                    "error_code": int(status.code),
                    "error_message": status.message,
                },
            )
        return response


def _spec(request: Any) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _version(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )
