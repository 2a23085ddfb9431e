"""A client for TF Serving and for the local server, over gRPC or REST."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tfrs_prerank.serving._transports import (
    GrpcTransport,
    RestTransport,
    ServingError,
    Transport,
)

_DEFAULT_SIGNATURE = "serving_default"

Inputs = Mapping[str, Any]

__all__ = ["Client", "ServingError", "wait_until_available"]


class Client:
    """Asks a served model for scores, the same way over gRPC and REST.

    Inputs are converted to the dtypes of the model's signatures, which are asked for
    once (and again when a request does not fit: a new version may have other inputs).
    Strings come back as `bytes`, everything else as the output's own dtype.

    Args:
        target: `host:port` for gRPC, `http://host:port` for REST.
        model: Name of the model.
        protocol: `"grpc"` or `"rest"`; by default what `target` says. Only needed
            for REST at an address without `http://`.
        timeout: Seconds to wait for each answer.
        version: A version's number, or its label; the latest by default.
        signature: The signature to use where a call names none.

    Raises:
        ValueError: The protocol is not known, or contradicts the target.
        ImportError: gRPC or the TF Serving stubs are not installed.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> from tfrs_prerank.serving.server import LocalServer
        >>> class Double(tf.Module):
        ...     @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        ...     def __call__(self, x):
        ...         return {"y": 2.0 * x}
        >>> base = tempfile.mkdtemp()
        >>> model = Double()
        >>> tf.saved_model.save(model, base + "/1", signatures=model.__call__)
        >>> with LocalServer(base, name="double", rest_port=0, grpc_port=0) as server:
        ...     with Client(server.grpc_target, model="double") as client:
        ...         client.predict({"x": [1.5, 2.0]})
        {'y': array([3., 4.], dtype=float32)}
    """

    def __init__(
        self,
        target: str,
        *,
        model: str,
        protocol: str | None = None,
        timeout: float = 30.0,
        version: int | str | None = None,
        signature: str | None = None,
    ):
        self.target = target
        self.model = model
        self.signature = signature or _DEFAULT_SIGNATURE
        self._transport = _connect(target, protocol, model, version, timeout)
        self._signatures: dict[str, meta_graph_pb2.SignatureDef] | None = None

    def predict(
        self,
        inputs: Inputs,
        signature: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs one request.

        Args:
            inputs: Arrays or nested lists by input name, with the batch dimension.
            signature: Name of the signature; the client's own by default.
            outputs: Names of the outputs to return; all by default.

        Returns:
            Arrays by output name.

        Raises:
            ServingError: The server refused the request; the message is the server's.
            ValueError: The signature is not served, or inputs are missing or unknown.
            TypeError: A value does not fit the dtype of its input.
            ConnectionError: There is no server at the target, or it broke off.
            TimeoutError: No answer came in time.
        """
        name = signature or self.signature
        definition = self._definition(name)
        missing, unknown = _mismatch(definition, inputs)
        if missing or unknown:
            # The model may have been replaced by one with other inputs.
            self._signatures = None
            definition = self._definition(name)
            missing, unknown = _mismatch(definition, inputs)
        if missing or unknown:
            raise ValueError(
                f'Signature "{name}" of model "{self.model}" takes '
                f"{sorted(definition.inputs)}; missing: {missing}, "
                f"not known: {unknown}."
            )
        arrays = {
            alias: _as_array(alias, value, definition.inputs[alias])
            for alias, value in inputs.items()
        }
        try:
            return self._transport.predict(name, definition, arrays, outputs or ())
        except ServingError:
            self._signatures = None
            raise

    def scores(
        self,
        query_features: Inputs,
        doc_ids: Any,
        cross: Inputs | None = None,
        *,
        signature: str | None = None,
        output: str = "scores",
    ) -> np.ndarray:
        """Scores the candidates of one search request.

        The batch dimension is added here. A sequence of ids shorter than the length
        that the model was exported with is padded at its end (with `""` or -1); and
        since TF Serving pads lists when it batches requests together, the answer is
        cut to the number of ids.

        Args:
            query_features: Query features by name, without batch dimension: a scalar,
                or a list for a sequence.
            doc_ids: Ids of the N candidates.
            cross: Client-sent cross features by name, N values each.
            signature: Name of the signature; the client's own by default.
            output: Which output to return.

        Returns:
            One value for each id, in order: shape `[N]`.

        Raises:
            ValueError: A sequence is longer than the model takes, or `cross` has not
                one value for each id.
            ServingError: The server refused the request.
        """
        name = signature or self.signature
        definition = self._definition(name)
        count = len(doc_ids)
        inputs: dict[str, Any] = {"doc_ids": [_list(doc_ids)]}
        for alias, value in query_features.items():
            value = _list(value)
            if alias in definition.inputs:
                value = _pad(alias, value, definition.inputs[alias])
            inputs[alias] = [value]
        for alias, value in (cross or {}).items():
            if len(value) != count:
                raise ValueError(
                    f'Cross feature "{alias}" has {len(value)} values for {count} '
                    "doc_ids; give one for each."
                )
            inputs[alias] = [_list(value)]
        return self.predict(inputs, name, [output])[output][0, :count]

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _definition(self, signature: str) -> meta_graph_pb2.SignatureDef:
        if self._signatures is None or signature not in self._signatures:
            self._signatures = self._transport.signatures()
        if signature not in self._signatures:
            served = sorted(n for n in self._signatures if not n.startswith("__"))
            raise ValueError(
                f'Model "{self.model}" has no signature "{signature}"; it serves '
                f"{served}."
            )
        return self._signatures[signature]


def protocol_of(target: str, protocol: str | None = None) -> str:
    """Returns the protocol that a target is asked over: `"grpc"` or `"rest"`.

    Args:
        target: `http://host:port` or `https://host:port` is REST, all else gRPC.
        protocol: What was asked for; `None` goes by the target alone.

    Raises:
        ValueError: The protocol is not known, or is gRPC for a REST address.

    Example:
        >>> protocol_of("localhost:8500"), protocol_of("http://localhost:8501")
        ('grpc', 'rest')
        >>> protocol_of("localhost:8501", "rest")
        'rest'
    """
    if protocol not in (None, "grpc", "rest"):
        raise ValueError(f'protocol must be "grpc" or "rest", received {protocol!r}.')
    is_url = target.lower().startswith(("http://", "https://"))
    if is_url and protocol == "grpc":
        raise ValueError(
            f'protocol "grpc" does not go with {target!r}, a REST address; leave out '
            "`protocol`, or give the gRPC port as host:port."
        )
    return protocol or ("rest" if is_url else "grpc")


def wait_until_available(
    url: str,
    name: str,
    version: int | None = None,
    timeout: float = 60.0,
    *,
    poll_seconds: float = 0.1,
) -> int:
    """Waits until a server serves a model, or one version of it.

    Args:
        url: `http://host:port` asks over REST, `host:port` over gRPC.
        name: Name of the model.
        version: The version to wait for; any by default.
        timeout: Seconds after which to give up.
        poll_seconds: Seconds between two questions.

    Returns:
        The version that is available (the largest, where several are).

    Raises:
        TimeoutError: It did not become available; the message says what the server
            answered last.
    """
    deadline = time.monotonic() + timeout
    wanted = f"version {version}" if version is not None else "a version"
    transport = _connect(url, None, name, version, max(min(timeout, 5.0), 0.1))
    try:
        while True:
            try:
                statuses = transport.statuses()
                ready = [
                    number for number, state, _ in statuses if state == "AVAILABLE"
                ]
                if ready:
                    return max(ready)
                last = "; ".join(
                    f"version {number} is {state} {message}".rstrip()
                    for number, state, message in statuses
                )
            except (ServingError, ConnectionError, TimeoutError) as error:
                last = str(error)
            if time.monotonic() + poll_seconds > deadline:
                raise TimeoutError(
                    f'{url} does not serve {wanted} of "{name}" after {timeout:g} s: '
                    f"{last}"
                )
            time.sleep(poll_seconds)
    finally:
        transport.close()


def _connect(
    target: str,
    protocol: str | None,
    model: str,
    version: int | str | None,
    timeout: float,
) -> Transport:
    kind = GrpcTransport if protocol_of(target, protocol) == "grpc" else RestTransport
    return kind(target, model, version, timeout)


def _mismatch(
    definition: meta_graph_pb2.SignatureDef, inputs: Inputs
) -> tuple[list[str], list[str]]:
    required = set(definition.inputs) - set(definition.defaults)
    return (
        sorted(required - set(inputs)),
        sorted(set(inputs) - set(definition.inputs)),
    )


def _as_array(name: str, value: Any, info: meta_graph_pb2.TensorInfo) -> np.ndarray:
    dtype = tf.dtypes.as_dtype(info.dtype)
    ragged = ValueError(
        f'Input "{name}" is not a rectangular array; pad its lists to one length.'
    )
    if dtype == tf.string:
        # As objects: NumPy would otherwise make text of numbers.
        array = np.asarray(value, object)
        if any(isinstance(item, list | tuple | np.ndarray) for item in array.flat):
            raise ragged
        return _as_bytes(name, array)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ragged from error
    if array.size == 0:
        return np.empty(array.shape, dtype.as_numpy_dtype)
    if not np.can_cast(array.dtype, dtype.as_numpy_dtype, "same_kind"):
        raise TypeError(
            f'Input "{name}" expects {dtype.name}, received {array.dtype} '
            f"({array.flat[0]!r}, ...)."
        )
    with np.errstate(over="ignore"):
        cast = array.astype(dtype.as_numpy_dtype)
    if dtype.is_integer and not np.array_equal(cast, array):
        raise TypeError(
            f'Input "{name}" expects {dtype.name}, received values beyond its range '
            f"(largest {array.max()})."
        )
    return cast


def _as_bytes(name: str, array: np.ndarray) -> np.ndarray:
    out = np.empty(array.size, object)
    for i, value in enumerate(array.ravel().tolist()):
        if isinstance(value, str):
            value = value.encode("utf-8")
        elif not isinstance(value, bytes):
            raise TypeError(
                f'Input "{name}" expects strings, received {type(value).__name__} '
                f"({value!r}); give ids as str."
            )
        out[i] = value
    return out.reshape(array.shape)


def _list(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _pad(name: str, value: Any, info: meta_graph_pb2.TensorInfo) -> Any:
    """Pads a sequence to the length that the signature fixes, if it fixes one.

    Sequences hold ids; a list of floats is a vector, which must have its own length.
    """
    sizes = [dim.size for dim in info.tensor_shape.dim]
    floating = tf.dtypes.as_dtype(info.dtype).is_floating
    if len(sizes) != 2 or sizes[1] < 0 or floating or not isinstance(value, list):
        return value
    length = sizes[1]
    if len(value) > length:
        raise ValueError(
            f'Sequence "{name}" has {len(value)} values, the model takes {length}; '
            f"send the {length} that matter, such as the latest."
        )
    pad = b"" if tf.dtypes.as_dtype(info.dtype) == tf.string else -1
    return value + [pad] * (length - len(value))
