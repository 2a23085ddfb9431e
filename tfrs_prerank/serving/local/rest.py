"""The REST side of the local server."""

import json
import logging
import re
import socket
import threading
from typing import Any

import tensorflow as tf
from google.protobuf import json_format

from tfrs_prerank.serving.local.json_inputs import parse, read_inputs
from tfrs_prerank.serving.local.json_outputs import write_outputs
from tfrs_prerank.serving.local.status import Code, StatusError, invalid
from tfrs_prerank.serving.local.versions import Versions

try:
    from werkzeug import Request, Response
    from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
except ImportError as error:
    raise ImportError(
        f"The local server needs Werkzeug ({error}); "
        "run: pip install 'tfrs_prerank[serving]'"
    ) from error

_logger = logging.getLogger(__name__)

_MODEL = (
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
)
_POST = re.compile(_MODEL + r":(?P<method>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(_MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
_ALL_MODELS = re.compile(r"/v1/models(?:/metadata)?", re.IGNORECASE)


class RestApi:
    """TF Serving's REST API over the versions of one model.

    Args:
        versions: The versions to answer from.
    """

    def __init__(self, versions: Versions):
        self._versions = versions

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Answers one HTTP request (a WSGI application)."""
        return self._respond(Request(environ))(environ, start_response)

    def _respond(self, request: Request) -> Response:
        path = request.path
        if not path.lower().startswith("/v1/"):
            return Response("Not Found\n", 404, content_type="text/plain")
        try:
            status, body = 200, self._answer(request.method, path, request.get_data())
        except Exception as error:
            failure = StatusError.of(error)
            if failure.code == Code.INTERNAL:
                _logger.exception("%s %s failed", request.method, path)
            text = json.dumps({"error": failure.message}, ensure_ascii=False)
            status, body = failure.http, (text + "\n").encode("utf-8", "replace")
        return Response(body, status, content_type="application/json")

    def _answer(self, method: str, path: str, body: bytes) -> bytes:
        malformed = invalid(f"Malformed request: {method} {path}")
        if method == "POST":
            match = _POST.fullmatch(path)
            if match is None:
                raise malformed
            if match["method"] == "predict":
                return self._predict(*_model_spec(match), body)
            if match["method"] in ("classify", "regress"):
                raise StatusError(
                    Code.UNIMPLEMENTED,
                    f"The local server does not implement {match['method']}; "
                    "use predict.",
                )
            raise malformed
        if method == "GET":
            if _ALL_MODELS.fullmatch(path):
                raise invalid("Missing model name in request.")
            match = _GET.fullmatch(path)
            if match is not None:
                name, version, label = _model_spec(match)
                if match["metadata"]:
                    return self._metadata(name, version, label)
                return self._status(name, version)
        raise malformed

    def _predict(
        self, name: str, version: int | None, label: str | None, body: bytes
    ) -> bytes:
        document, signature = parse(body)
        with self._versions.acquire(name, version, label) as (_, servable):
            definition = servable.definition(signature)
            if definition is None:
                raise invalid(
                    f'Serving signature name: "{signature or "serving_default"}" '
                    "not found in signature def"
                )
            if not definition.inputs:
                raise invalid(
                    f"Failed to get input map for signature: {signature or 'DEFAULT'}"
                )
            dtypes = {
                alias: tf.dtypes.as_dtype(info.dtype)
                for alias, info in definition.inputs.items()
            }
            rows, inputs = read_inputs(document, dtypes)
            _, outputs = servable.predict(signature, inputs)
            arrays = {alias: tensor.numpy() for alias, tensor in outputs.items()}
        return write_outputs(arrays, rows)

    def _status(self, name: str, version: int | None) -> bytes:
        # A label is not looked at, as in TF Serving: all versions are listed.
        return _dump(
            {
                "model_version_status": [
                    {
                        "version": str(status.version),
                        "state": status.state,
                        "status": {
                            "error_code": status.code.name,
                            "error_message": status.message,
                        },
                    }
                    for status in self._versions.statuses(name, version)
                ]
            }
        )

    def _metadata(self, name: str, version: int | None, label: str | None) -> bytes:
        with self._versions.acquire(name, version, label) as (number, servable):
            signatures = {
                key: json_format.MessageToDict(
                    definition,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                )
                for key, definition in sorted(servable.signature_defs.items())
            }
        return _dump(
            {
                "model_spec": {
                    "name": name,
                    "signature_name": "",
                    "version": str(number),
                },
                "metadata": {"signature_def": {"signature_def": signatures}},
            }
        )


class RestServer:
    """Serves a WSGI application from threads until it is stopped.

    Args:
        listener: A bound and listening socket; the server owns it from here.
        app: The application.
    """

    def __init__(self, listener: socket.socket, app: RestApi):
        host, self.port = listener.getsockname()[:2]
        self._server = _Server(host, self.port, app, _Handler, fd=listener.fileno())
        # Werkzeug holds a duplicate of the descriptor.
        listener.close()
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="REST", daemon=True
        )

    def start(self) -> None:
        """Starts to accept connections."""
        self._thread.start()

    def stop(self) -> None:
        """Answers what has been asked, then closes every connection."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    # Headers and body are written separately; with Nagle's algorithm the second
    # write would wait up to 40 ms for the first one's acknowledgement.
    disable_nagle_algorithm = True
    # A client that connects and says nothing holds its thread no longer than this.
    timeout = 60

    def log(self, type: str, message: str, *args: Any) -> None:
        _logger.debug("%s %s", self.address_string(), (message % args).rstrip())


class _Server(ThreadedWSGIServer):
    # Request threads are joined when the server closes, so none outlives it.
    daemon_threads = False
    block_on_close = True

    def __init__(self, *args: Any, **kwargs: Any):
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        # Ends the wait of threads whose client has sent no (whole) request.
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RD)
                except OSError:
                    continue  # The client was faster.
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("Connection of %s failed", client_address, exc_info=True)


def _model_spec(match: re.Match[str]) -> tuple[str, int | None, str | None]:
    version = match["version"]
    if version is not None and (len(version) > 19 or int(version) >= 2**63):
        raise invalid(f"Failed to convert version: {version} to numeric.")
    number = None if version is None else int(version)
    return match["name"], number, match["label"]


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
