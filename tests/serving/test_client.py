import concurrent.futures
import contextlib
import http.server
import importlib
import socket
import sys
import threading

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests.serving.server_models import save
from tfrs_prerank.serving import _apis, client
from tfrs_prerank.serving.client import Client, protocol_of, wait_until_available
from tfrs_prerank.serving.server import LocalServer

PROTOCOLS = ("grpc", "rest")
SCORING = {
    "query": ["red", "green"],
    "doc_ids": [[1, 2**53 + 1], [-2, 3]],
    "price": np.array([[0.5, 10], [0.25, 0]]),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("client") / "tiny"
    base.mkdir()
    save(base, 1, 2.0)
    with LocalServer(base, rest_port=0, grpc_port=0, labels={"stable": 1}) as server:
        yield server


def _client(server, protocol, **options):
    target = server.grpc_target if protocol == "grpc" else server.rest_url
    return Client(target, model="tiny", **options)


@contextlib.contextmanager
def _unwilling(protocol, code, text):
    """Runs a server that answers everything with an error; yields its target."""
    if protocol == "grpc":

        class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
            def GetModelMetadata(self, request, context):
                context.abort(getattr(grpc.StatusCode, code), text)

        server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Service(), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response({"UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}[code])
            self.end_headers()
            self.wfile.write(f'{{"error": "{text}"}}'.encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as rest:
        thread = threading.Thread(target=rest.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{rest.server_port}"
        finally:
            rest.shutdown()
            thread.join()


@pytest.fixture(params=PROTOCOLS)
def tiny(server, request):
    with _client(server, request.param) as tiny:
        yield tiny


def test_predict(tiny):
    outputs = tiny.predict(SCORING)
    # 2 * price + len(query)
    assert outputs["scores"].tolist() == [[4.0, 23.0], [5.5, 5.0]]
    assert outputs["doc_ids"].tolist() == SCORING["doc_ids"]
    assert outputs["found"].tolist() == [[True, True], [False, True]]
    dtypes = {name: array.dtype for name, array in outputs.items()}
    assert dtypes == {"scores": np.float32, "doc_ids": np.int64, "found": np.bool_}


def test_a_single_output_keeps_its_name(tiny):
    outputs = tiny.predict({"query": ["red"]}, "encode_query")
    assert {k: v.tolist() for k, v in outputs.items()} == {"query_vector": [[3.0, 2.0]]}


def test_outputs_are_chosen_by_name(tiny):
    assert list(tiny.predict(SCORING, outputs=["found"])) == ["found"]
    with pytest.raises(client.ServingError, match="alias not found in signature: nope"):
        tiny.predict(SCORING, outputs=["nope"])


def test_strings_are_bytes_both_ways(tiny):
    texts = ["红", b"\xff\x00", "plain"]
    outputs = tiny.predict({"text": texts}, "echo")
    expected = ["红".encode(), b"\xff\x00", b"plain"]
    for name in ("text", "text_bytes"):
        assert outputs[name].dtype == object
        assert outputs[name].tolist() == expected


def test_floats_survive_to_the_bit(tiny):
    values = np.array(
        [0.1, 1 / 3, 3.4e38, 1e-45, -0.0, np.inf, -np.inf, np.nan], np.float32
    )
    got = tiny.predict({"x": values}, "floats")["y"]
    assert got.dtype == np.float32
    assert got.tobytes() == values.tobytes()


def test_empty_candidate_lists(tiny):
    outputs = tiny.predict({"query": ["red"], "doc_ids": [[]], "price": [[]]})
    assert outputs["scores"].shape == (1, 0)
    assert outputs["doc_ids"].dtype == np.int64


def test_scores_are_cut_to_the_request(tiny):
    # `padded` returns sum(history) + len(id) for each id and one value too many.
    # The history [3, 4] is padded with -1 to four: 3 + 4 - 1 - 1 = 5.
    ids = np.array(["a", "bbb"])
    scores = tiny.scores({"history": [3, 4]}, ids, signature="padded")
    assert scores.tolist() == [6.0, 8.0]
    assert tiny.scores({"history": [3, 4]}, [], signature="padded").shape == (0,)
    with pytest.raises(ValueError, match=r'"history" has 5 values, the model takes 4'):
        tiny.scores({"history": [1] * 5}, ids, signature="padded")


def test_scores_with_cross_features(tiny):
    got = tiny.scores({"query": "red"}, [7, 8], {"price": [1.0, 2.0]})
    assert got.tolist() == [5.0, 7.0]
    with pytest.raises(ValueError, match=r'"price" has 1 values for 2 doc_ids'):
        tiny.scores({"query": "red"}, [7, 8], {"price": [1.0]})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"doc_ids": [["a", "b"]] * 2}, TypeError, '"doc_ids" expects int64, received'),
        ({"doc_ids": [[1.5, 2.0]] * 2}, TypeError, '"doc_ids" expects int64, received'),
        ({"doc_ids": [[2**63, 1]] * 2}, TypeError, '"doc_ids" expects int64, received'),
        ({"query": [1, 2]}, TypeError, r'"query" expects strings, received int \(1\)'),
        ({"query": ["a", None]}, TypeError, '"query" expects strings, received NoneTy'),
        ({"price": [[1.0], [1.0, 2.0]]}, ValueError, '"price" is not a rectangular'),
        ({"query": [["a"], ["b", "c"]]}, ValueError, '"query" is not a rectangular'),
        ({"doc_ids": [[None, 1]] * 2}, TypeError, '"doc_ids" expects int64, received'),
        ({"colour": [1]}, ValueError, r"missing: \[\], not known: \['colour'\]"),
    ],
)
def test_values_that_do_not_fit_are_named(tiny, change, error, message):
    with pytest.raises(error, match=message):
        tiny.predict({**SCORING, **change})


def test_missing_inputs_and_unknown_signatures_are_named(tiny):
    with pytest.raises(ValueError, match=r"missing: \['doc_ids', 'price'\], not known"):
        tiny.predict({"query": ["red"]})
    with pytest.raises(ValueError, match=r'no signature "nope"; it serves \[.*"?echo'):
        tiny.predict(SCORING, "nope")


def test_the_servers_errors_come_through_on_one_line(tiny):
    with pytest.raises(client.ServingError, match="x is 10 or more") as caught:
        tiny.predict({"x": [10.0]}, "refuses")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_version_label_and_signature(server, protocol):
    for version in (1, "stable"):
        options = {"version": version, "signature": "encode_query"}
        with _client(server, protocol, **options) as tiny:
            assert tiny.predict({"query": ["red"]})["query_vector"].shape == (1, 2)
    with _client(server, protocol, version=9) as tiny:
        text = r"NOT_FOUND: Servable not found for request: Specific\(tiny, 9\)"
        with pytest.raises(client.ServingError, match=text):
            tiny.predict(SCORING)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_server_and_no_answer(protocol):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        if protocol == "rest":
            with (
                Client(address, model="tiny", protocol=protocol, timeout=0.2) as tiny,
                pytest.raises(TimeoutError, match=r"within 0\.2 s; raise `timeo"),
            ):
                tiny.predict(SCORING)
    with Client(address, model="tiny", protocol=protocol, timeout=5) as tiny:
        message = rf"No server answers at {address} \(.*Connection refused.*\); start"
        with pytest.raises(ConnectionError, match=message):
            tiny.predict(SCORING)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unavailable_server_is_told_from_no_server(protocol):
    # TensorFlow Serving says this when its batching queue is full.
    with (
        _unwilling(protocol, "UNAVAILABLE", "the queue is full") as target,
        Client(target, model="tiny", timeout=5) as tiny,
        pytest.raises(client.ServingError, match=r"^UNAVAILABLE: the queue is full$"),
    ):
        tiny.predict(SCORING)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_runs_out_of_time_is_a_timeout(protocol):
    with (
        _unwilling(protocol, "DEADLINE_EXCEEDED", "batch is late") as target,
        Client(target, model="tiny", timeout=5) as tiny,
        pytest.raises(TimeoutError, match=r"ran out of time \(batch is late\); raise"),
    ):
        tiny.predict(SCORING)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_breaks_off_is_a_connection_error(protocol):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up():
            # An error on the closed listener ends the thread.
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(100)
                    connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        try:
            with (
                Client(address, model="tiny", protocol=protocol, timeout=5) as tiny,
                pytest.raises(ConnectionError, match=f"No server answers at {address}"),
            ):
                tiny.predict(SCORING)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_rest_address_that_is_none_is_named():
    with (
        Client("http://local host:1", model="tiny") as tiny,
        pytest.raises(ValueError, match=r"local host:1 cannot be asked over REST: .*"),
    ):
        tiny.predict(SCORING)


@pytest.mark.parametrize(
    ("target", "protocol", "expected"),
    [
        ("localhost:8500", None, "grpc"),
        ("[::1]:8500", None, "grpc"),
        ("http.example:8500", None, "grpc"),
        ("http://localhost:8501", None, "rest"),
        ("HTTPS://models.example", None, "rest"),
        ("http://localhost:8501", "rest", "rest"),
        ("localhost:8501", "rest", "rest"),
        ("localhost:8500", "grpc", "grpc"),
    ],
)
def test_the_target_tells_the_protocol(target, protocol, expected):
    assert protocol_of(target, protocol) == expected


def test_a_protocol_that_contradicts_the_target_is_refused():
    with pytest.raises(ValueError, match="received 'http'"):
        Client("localhost:1", model="tiny", protocol="http")
    with pytest.raises(ValueError, match=r'"grpc" does not go with .http://localh'):
        Client("http://localhost:1", model="tiny", protocol="grpc")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_new_version_with_other_inputs_is_noticed(tmp_path, protocol):
    base = tmp_path / "tiny"
    base.mkdir()
    save(base, 1, 1.0, names=["encode_query"])
    with (
        LocalServer(base, rest_port=0, grpc_port=0, poll_seconds=0.05) as server,
        _client(server, protocol) as tiny,
    ):
        tiny.predict({"query": ["red"]}, "encode_query")
        save(base, 2, 2.0)
        target = server.grpc_target if protocol == "grpc" else server.rest_url
        assert wait_until_available(target, "tiny", 2, timeout=20) == 2
        assert tiny.predict({"x": [1.5]}, "floats")["y"].tolist() == [1.5]


def test_wait_until_available_waits_for_the_server(tmp_path):
    base = tmp_path / "tiny"
    base.mkdir()
    save(base, 4, 1.0, names=["encode_query"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = LocalServer(base, rest_port=port, grpc_port=0)
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(TimeoutError, match=r"after 0\.2 s: No server answers at"):
        wait_until_available(url, "tiny", timeout=0.2)
    starter = threading.Timer(0.3, server.start)
    starter.start()
    try:
        assert wait_until_available(url, "tiny", timeout=20) == 4
        starter.join()
        for target in (url, server.grpc_target):
            assert wait_until_available(target, "tiny", 4, timeout=5) == 4
            message = r'version 5 of "tiny" after 0\.2 s: NOT_FOUND: Could not find ver'
            with pytest.raises(TimeoutError, match=message):
                wait_until_available(target, "tiny", 5, timeout=0.2)
    finally:
        starter.join()
        server.stop()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r"pip install 'tfrs_prerank\[serving\]'"):
        importlib.reload(_apis)
