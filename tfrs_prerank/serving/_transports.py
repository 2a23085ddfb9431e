"""How the client talks: gRPC or REST, with the same arrays and the same errors."""

import abc
import base64
import json
import queue
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import requests
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

# What gRPC says where a call's time is over.
_OVERDUE = "Deadline Exceeded"

# A channel tells its state at once, from another thread.
_STATE_SECONDS = 1.0

# What TF Serving's HTTP statuses stand for.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ServingError(RuntimeError):
    """The server answered with an error.

    Attributes:
        code: The canonical status code, such as `INVALID_ARGUMENT`; over REST the one
            that the HTTP status stands for.
        text: The server's message.
    """

    def __init__(self, code: str, text: str):
        super().__init__(f"{code}: {' '.join(text.split())}")
        self.code = code
        self.text = text


class Transport(abc.ABC):
    """One protocol: sends arrays, returns arrays, raises the client's errors.

    Args:
        target: Address of the server.
        model: Name of the model.
        version: A version's number or label, or `None` for the latest.
        timeout: Seconds to wait for each answer.
    """

    def __init__(
        self, target: str, model: str, version: int | str | None, timeout: float
    ):
        self.target = target
        self.model = model
        self.version = version
        self.timeout = timeout

    @abc.abstractmethod
    def predict(
        self,
        signature: str,
        definition: meta_graph_pb2.SignatureDef,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
    ) -> dict[str, np.ndarray]:
        """Runs a request."""

    @abc.abstractmethod
    def signatures(self) -> dict[str, meta_graph_pb2.SignatureDef]:
        """Asks for the signatures."""

    @abc.abstractmethod
    def statuses(self) -> list[tuple[int, str, str]]:
        """Asks for (version, state, message) of each version."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""

    def _unreachable(self, reason: str) -> ConnectionError:
        return ConnectionError(
            f"No server answers at {self.target} ({' '.join(reason.split())}); start "
            "one with `tfrs-prerank serve`, or correct the address."
        )

    def _late(self) -> TimeoutError:
        return TimeoutError(
            f"{self.target} did not answer within {self.timeout:g} s; raise `timeout`."
        )

    def _refused(self, code: str, text: str) -> Exception:
        """Returns the error for a status that the server sent."""
        if code == "DEADLINE_EXCEEDED":
            return TimeoutError(
                f"{self.target} ran out of time ({' '.join(text.split())}); "
                "raise `timeout`, or send fewer candidates."
            )
        return ServingError(code, text)


class GrpcTransport(Transport):
    """Calls over gRPC, with room for answers above its default of 4 MB."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        from tfrs_prerank.serving import _apis

        self._apis = _apis
        options = [
            ("grpc.max_receive_message_length", _apis.MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", _apis.MAX_MESSAGE_BYTES),
            # A channel that found no server must look again when asked again.
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if self.target.rpartition(":")[0] in _LOOPBACK:
            options.append(("grpc.enable_http_proxy", 0))
        self._channel = _apis.grpc.insecure_channel(self.target, options)
        self._predictions = _apis.prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = _apis.model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(
        self,
        signature: str,
        definition: meta_graph_pb2.SignatureDef,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
    ) -> dict[str, np.ndarray]:
        request = self._apis.predict_pb2.PredictRequest()
        self._fill(request.model_spec)
        request.model_spec.signature_name = signature
        for alias, array in inputs.items():
            dtype = definition.inputs[alias].dtype
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(array, dtype))
        request.output_filter.extend(outputs)
        response = self._call(self._predictions.Predict, request)
        return {
            name: tf.make_ndarray(proto) for name, proto in response.outputs.items()
        }

    def signatures(self) -> dict[str, meta_graph_pb2.SignatureDef]:
        request = self._apis.get_model_metadata_pb2.GetModelMetadataRequest()
        self._fill(request.model_spec)
        request.metadata_field.append("signature_def")
        response = self._call(self._predictions.GetModelMetadata, request)
        signatures = self._apis.get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return dict(signatures.signature_def)

    def statuses(self) -> list[tuple[int, str, str]]:
        apis = self._apis.get_model_status_pb2
        request = apis.GetModelStatusRequest()
        self._fill(request.model_spec)
        response = self._call(self._models.GetModelStatus, request)
        return [
            (
                status.version,
                apis.ModelVersionStatus.State.Name(status.state),
                status.status.error_message,
            )
            for status in response.model_version_status
        ]

    def close(self) -> None:
        self._channel.close()

    def _fill(self, spec: Any) -> None:
        spec.name = self.model
        if isinstance(self.version, str):
            spec.version_label = self.version
        elif self.version is not None:
            spec.version.value = self.version

    def _call(self, method: Any, request: Any) -> Any:
        grpc = self._apis.grpc
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            code, text = error.code(), error.details() or ""
            if code == grpc.StatusCode.UNAVAILABLE and not self._is_connected():
                raise self._unreachable(text) from error
            # gRPC's own text, in the place of a server's.
            if code == grpc.StatusCode.DEADLINE_EXCEEDED and text == _OVERDUE:
                raise self._late() from error
            raise self._refused(code.name, text) from error

    def _is_connected(self) -> bool:
        """Tells a server that is unavailable from a connection that is.

        Both have one status code, and only the channel knows which it was.
        """
        states: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._channel.subscribe(states.put)
        try:
            ready = self._apis.grpc.ChannelConnectivity.READY
            return states.get(timeout=_STATE_SECONDS) == ready
        except queue.Empty:
            return False
        finally:
            self._channel.unsubscribe(states.put)


class RestTransport(Transport):
    """Calls over REST in column form."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        base = self.target.rstrip("/")
        if not base.lower().startswith(("http://", "https://")):
            base = f"http://{base}"
        self._url = f"{base}/v1/models/{self.model}"
        if isinstance(self.version, str):
            self._url += f"/labels/{self.version}"
        elif self.version is not None:
            self._url += f"/versions/{self.version}"
        self._session = requests.Session()
        if base.partition("://")[2].rpartition(":")[0] in _LOOPBACK:
            self._session.trust_env = False  # No proxy to this machine.

    def predict(
        self,
        signature: str,
        definition: meta_graph_pb2.SignatureDef,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
    ) -> dict[str, np.ndarray]:
        for name in outputs:
            if name not in definition.outputs:
                raise ServingError(
                    "INVALID_ARGUMENT",
                    f"output tensor alias not found in signature: {name} Outputs "
                    f"expected to be in the set {{{','.join(definition.outputs)}}}.",
                )
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(name, array) for name, array in inputs.items()},
        }
        answer = self._call("POST", self._url + ":predict", body)["outputs"]
        if len(definition.outputs) == 1:
            answer = {next(iter(definition.outputs)): answer}
        return {
            name: _from_json(answer[name], definition.outputs[name])
            for name in outputs or answer
        }

    def signatures(self) -> dict[str, meta_graph_pb2.SignatureDef]:
        answer = self._call("GET", self._url + "/metadata")
        return {
            name: json_format.ParseDict(
                definition, meta_graph_pb2.SignatureDef(), ignore_unknown_fields=True
            )
            for name, definition in answer["metadata"]["signature_def"][
                "signature_def"
            ].items()
        }

    def statuses(self) -> list[tuple[int, str, str]]:
        answer = self._call("GET", self._url)
        return [
            (int(item["version"]), item["state"], item["status"]["error_message"])
            for item in answer["model_version_status"]
        ]

    def close(self) -> None:
        self._session.close()

    def _call(self, method: str, url: str, body: Any = None) -> Any:
        try:
            # `json=` would refuse NaN, which TF Serving accepts.
            data = None if body is None else json.dumps(body, ensure_ascii=False)
            response = self._session.request(
                method,
                url,
                data=None if data is None else data.encode("utf-8"),
                headers={"Content-Type": "application/json"},
                timeout=self.timeout,
            )
        except requests.Timeout as error:
            raise self._late() from error
        except (
            requests.ConnectionError,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise self._unreachable(_innermost(error)) from error
        except requests.RequestException as error:
            raise ValueError(
                f"{self.target} cannot be asked over REST: {error}; "
                "give http://host:port."
            ) from error
        try:
            # Strings that are not UTF-8 are sent as they are.
            answer = json.loads(response.content.decode("utf-8", "surrogateescape"))
        except ValueError:
            answer = {}
        if response.status_code == 200 and answer:
            return answer
        code = _CODES.get(response.status_code, "INTERNAL")
        text = answer.get("error") or f"HTTP {response.status_code}: {response.text}"
        raise self._refused(code, text)


def _innermost(error: BaseException) -> str:
    """Returns what the operating system said, which requests wraps several times."""
    while error.__context__ is not None:
        error = error.__context__
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error) or type(error).__name__


def _to_json(name: str, array: np.ndarray) -> Any:
    if array.dtype != object:
        return array.tolist()
    return _strings_to_json(array.tolist(), name.endswith("_bytes"))


def _strings_to_json(value: Any, binary: bool) -> Any:
    if isinstance(value, list):
        return [_strings_to_json(item, binary) for item in value]
    if not binary:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            pass  # Not text: only base64 carries it through JSON.
    return {"b64": base64.b64encode(value).decode("ascii")}


def _from_json(value: Any, info: meta_graph_pb2.TensorInfo) -> np.ndarray:
    dtype = tf.dtypes.as_dtype(info.dtype)
    if dtype == tf.string:
        array = _strings_from_json(value)
    else:
        array = np.array(value, dtype.as_numpy_dtype)
    shape = info.tensor_shape
    if array.size == 0 and not shape.unknown_rank:
        # An empty list does not tell how many dimensions follow.
        array = array.reshape(array.shape + (0,) * (len(shape.dim) - array.ndim))
    return array


def _strings_from_json(value: Any) -> np.ndarray:
    shape = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        if not probe:
            break
        probe = probe[0]
    leaves = [value]
    for _ in shape:
        leaves = [item for part in leaves for item in part]
    out = np.empty(len(leaves), object)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, dict):
            out[i] = base64.b64decode(leaf["b64"])
        else:
            out[i] = leaf.encode("utf-8", "surrogateescape")
    return out.reshape(shape)
