"""A server for a laptop, a notebook and tests that speaks TF Serving's API."""

import errno
import os
import signal
import socket
import threading
from collections.abc import Mapping
from types import TracebackType

from tfrs_prerank.serving.local.rest import RestApi, RestServer
from tfrs_prerank.serving.local.rpc import RpcServer
from tfrs_prerank.serving.local.versions import Versions

# How often `wait` looks whether a signal came.
_SIGNAL_SECONDS = 0.2


class LocalServer:
    """Serves the versions of one exported model over REST and gRPC.

    A client written against it runs unchanged against `tensorflow/serving`, which is
    the server for production. Use it as a context manager, or call `start` and
    `stop`.

    It serves the largest integer under `base_path`, and labelled versions beside it.
    It looks at the directory every `poll_seconds`: a new version is loaded, its
    warm-up requests are replayed, and only then the old one is retired. Requests that
    are under way finish on the version they began with, and a version that does not
    load leaves the old one in service (both need memory for two versions meanwhile).

    Differs from TF Serving: one model, the file system only, no server-side batching,
    no `classify` and `regress`; a shape that contradicts the signature is always
    refused; and the start fails where TF Serving would wait for a version.

    Args:
        base_path: Directory that holds the version directories, such as
            `saved_models/movielens`.
        name: Name of the model in requests; the directory's name by default.
        host: Address to listen on.
        rest_port: HTTP port; 0 takes any free one.
        grpc_port: gRPC port; 0 takes any free one.
        poll_seconds: Seconds between two looks at the directory.
        labels: Versions by label, such as `{"stable": 3}`.

    Raises:
        ValueError: `poll_seconds` is not positive.

    Example:
        >>> import tempfile
        >>> import requests
        >>> import tensorflow as tf
        >>> class Double(tf.Module):
        ...     @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        ...     def __call__(self, x):
        ...         return {"y": 2.0 * x}
        >>> base = tempfile.mkdtemp()
        >>> model = Double()
        >>> tf.saved_model.save(model, base + "/1", signatures=model.__call__)
        >>> with LocalServer(base, name="double", rest_port=0, grpc_port=0) as server:
        ...     url = server.rest_url + "/v1/models/double:predict"
        ...     requests.post(url, json={"instances": [1.5, 2.0]}).json()
        {'predictions': [3.0, 4.0]}
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        rest_port: int = 8501,
        grpc_port: int = 8500,
        poll_seconds: float = 1.0,
        labels: Mapping[str, int] | None = None,
    ):
        if poll_seconds <= 0:
            raise ValueError(
                f"poll_seconds must be positive, received {poll_seconds}; "
                "TF Serving's default is 1."
            )
        self.base_path = os.path.abspath(base_path)
        self.name = name or os.path.basename(self.base_path)
        self.host = host
        self.rest_port = rest_port
        self.grpc_port = grpc_port
        self._poll_seconds = poll_seconds
        self._labels = dict(labels or {})
        self._stopped = threading.Event()
        self._parts: list[RestServer | RpcServer | Versions] = []
        self._versions: Versions | None = None

    @property
    def rest_url(self) -> str:
        """Base of the REST API, such as `http://127.0.0.1:8501`."""
        return f"http://{_address(self.host, self.rest_port)}"

    @property
    def grpc_target(self) -> str:
        """Target of a gRPC channel, such as `127.0.0.1:8500`."""
        return _address(self.host, self.grpc_port)

    @property
    def versions(self) -> list[int]:
        """The versions that answer requests now, in ascending order."""
        return [] if self._versions is None else self._versions.available()

    def start(self) -> "LocalServer":
        """Binds the ports, loads the latest version and starts to serve.

        Returns:
            The server itself.

        Raises:
            FileNotFoundError: `base_path` is missing or holds no version.
            OSError: A port is in use.
            RuntimeError: The server runs already.
            ValueError: The latest version does not load, a label names a version
                that is not there, or a port is not one.
        """
        if self._parts:
            raise RuntimeError(f"The server of {self.name!r} is already running.")
        self._stopped.clear()
        versions = Versions(self.name, self.base_path, self._labels, self._poll_seconds)
        try:
            listener = _bind(self.host, self.rest_port, "rest_port")
            rest = RestServer(listener, RestApi(versions))
            self._parts.append(rest)
            # gRPC says only that it failed; this says why.
            _bind(self.host, self.grpc_port, "grpc_port").close()
            rpc = RpcServer(versions, self.grpc_target)
            self._parts.append(rpc)
            self._parts.append(versions)
            versions.start()
            rest.start()
            rpc.start()
        except BaseException:
            self.stop()
            raise
        self._versions = versions
        self.rest_port, self.grpc_port = rest.port, rpc.port
        return self

    def stop(self) -> None:
        """Answers the requests under way, then frees ports, threads and models."""
        while self._parts:
            self._parts.pop(0).stop()
        self._versions = None
        self._stopped.set()

    def wait(self) -> None:
        """Blocks until the server is stopped, by another thread or by SIGTERM.

        In the main thread SIGTERM, with which containers and service managers end a
        process, stops the server as `stop` does. The handler that was there before
        comes back afterwards.
        """
        if threading.current_thread() is not threading.main_thread():
            self._stopped.wait()
            return
        # The handler only leaves a note: it may interrupt the very wait whose lock
        # it would need.
        terminated: list[int] = []
        before = signal.signal(
            signal.SIGTERM, lambda number, frame: terminated.append(number)
        )
        try:
            while not terminated and not self._stopped.wait(_SIGNAL_SECONDS):
                pass
            if terminated:
                self.stop()
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def __enter__(self) -> "LocalServer":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int, argument: str) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ValueError(f"{argument} must be from 0 to 65535, received {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "is in use"
        else:
            reason = f"cannot be bound ({error.strerror or error})"
        # With the number as an argument too, the text would begin with "[Errno 98]".
        failure = OSError(
            f"Port {port} on {host} {reason}; choose another {argument}, or 0 for any "
            "free one."
        )
        failure.errno = error.errno
        raise failure from error
