import errno
import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
import tensorflow as tf
from click.testing import CliRunner

from tests.serving.server_models import save, warmup_record
from tfrs_prerank.cli import main
from tfrs_prerank.serving.client import Client
from tfrs_prerank.serving.local import versions as versions_module
from tfrs_prerank.serving.local.versions import Versions
from tfrs_prerank.serving.server import LocalServer


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    return path


def _save(base, version, **options):
    """Saves a version whose scale is its number; one signature, to be quick."""
    return save(base, version, float(version), names=["encode_query"], **options)


def _serve(base, **options):
    return LocalServer(base, rest_port=0, grpc_port=0, poll_seconds=0.05, **options)


def _ask(server, path=":predict"):
    url = f"{server.rest_url}/v1/models/tiny{path}"
    body = json.dumps({"signature_name": "encode_query", "instances": [""]}).encode()
    data = body if path.endswith(":predict") else None
    with urllib.request.urlopen(url, data, timeout=20) as response:
        return json.load(response)


def _scale(server, path=":predict"):
    """Which version answered: query_vector = [len(query), version]."""
    return _ask(server, path)["predictions"][0][1]


def _states(server):
    return {
        int(item["version"]): (item["state"], item["status"]["error_code"])
        for item in _ask(server, "")["model_version_status"]
    }


def _until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.02)


def test_the_largest_integer_is_served_and_other_names_are_ignored(base):
    _save(base, 9)
    # As text, "9" > "10".
    _save(base, 10)
    shutil.copytree(base / "10", base / ".tmp-11")
    shutil.copytree(base / "10", base / "v12")
    shutil.copytree(base / "10", base / "-13")
    (base / "14").write_text("a file, not a directory")
    with _serve(base) as server:
        assert server.versions == [10]
        assert _scale(server) == 10.0
        assert _states(server) == {10: ("AVAILABLE", "OK")}


def test_hot_swap_under_load_fails_no_request(base):
    _save(base, 1)
    with _serve(base) as server:
        stop, errors = threading.Event(), []
        seen = [[] for _ in range(4)]

        def load(answers, protocol):
            target = server.grpc_target if protocol == "grpc" else server.rest_url
            with Client(target, model="tiny") as client:
                while not stop.is_set():
                    try:
                        vector = client.predict({"query": [""]}, "encode_query")
                        answers.append(float(vector["query_vector"][0, 1]))
                    except Exception as error:  # Any failure is one too many.
                        errors.append(error)

        threads = [
            threading.Thread(target=load, args=[answers, protocol])
            for answers, protocol in zip(seen, ["grpc", "rest"] * 2, strict=True)
        ]
        for thread in threads:
            thread.start()
        _until(lambda: all(seen))
        _save(base, 2)  # Renamed into place.
        _until(lambda: all(answers[-1] == 2.0 for answers in seen))
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        # Each client sees the old version, then the new one, and never goes back.
        assert all(answers == sorted(answers) for answers in seen)
        assert {scale for answers in seen for scale in answers} == {1.0, 2.0}
        _until(lambda: server.versions == [2])
        _until(lambda: _states(server) == {2: ("AVAILABLE", "OK"), 1: ("END", "OK")})


def test_a_request_under_way_finishes_on_its_version(base):
    _save(base, 1)
    versions = Versions("tiny", str(base), {}, 60.0)
    versions.start()
    try:
        with versions.acquire("tiny") as (number, old):
            _save(base, 2)
            versions.poll()
            assert versions.available() == [2]
            assert [s.state for s in versions.statuses("tiny")] == [
                "AVAILABLE",
                "UNLOADING",
            ]
            _, outputs = old.predict("encode_query", {"query": tf.constant(["red"])})
            assert (number, outputs["query_vector"].numpy().tolist()) == (1, [[3, 1]])
        assert [s.state for s in versions.statuses("tiny")] == ["AVAILABLE", "END"]
    finally:
        versions.stop()
    assert versions.available() == []


def test_a_half_copied_version_is_loaded_once_it_is_whole(base, tmp_path, caplog):
    _save(base, 1)
    whole = _save(tmp_path, 2)
    with _serve(base) as server:
        with caplog.at_level(logging.ERROR):
            (base / "2").mkdir()
            shutil.copy(whole / "saved_model.pb", base / "2")
            # The failure is told (and LOADING again for the moment of each retry).
            _until(lambda: _states(server).get(2, ("", "OK"))[1] != "OK")
            # The old version stays.
            assert _scale(server) == 1.0
            assert _states(server)[1] == ("AVAILABLE", "OK")
            assert "Version 2 of model tiny" in caplog.text
            assert "does not load" in caplog.text
        shutil.copytree(whole / "variables", base / "2/variables")
        _until(lambda: server.versions == [2])
        assert _scale(server) == 2.0


def test_a_version_that_is_removed_gives_way_to_the_one_before(base):
    _save(base, 1)
    _save(base, 2)
    with _serve(base) as server:
        assert server.versions == [2]
        shutil.move(base / "2", base / "withdrawn")
        _until(lambda: server.versions == [1])
        assert _scale(server) == 1.0
        # An empty directory takes nothing away.
        shutil.move(base / "1", base / "also_withdrawn")
        time.sleep(0.3)
        assert _scale(server) == 1.0


def test_labels_keep_their_version_beside_the_latest(base):
    for version in (1, 2, 3):
        _save(base, version)
    with _serve(base, labels={"stable": 2}) as server:
        assert server.versions == [2, 3]
        assert _scale(server) == 3.0
        assert _scale(server, "/labels/stable:predict") == 2.0
        assert _scale(server, "/versions/2:predict") == 2.0
        with pytest.raises(urllib.error.HTTPError) as caught:
            _ask(server, "/versions/1:predict")
        assert caught.value.code == 404
        caught.value.close()


def test_a_label_must_name_a_version_that_is_there(base):
    _save(base, 1)
    with pytest.raises(ValueError, match=r"Label 'stable' names version 3 .*are \[1\]"):
        _serve(base, labels={"stable": 3}).start()


def test_warm_up_requests_are_replayed_before_a_version_serves(base, monkeypatch):
    replayed = []
    from tfrs_prerank.serving.local.servable import Servable

    predict = Servable.predict

    def spy(self, signature, inputs, *rest):
        replayed.append((signature, inputs["query"].numpy().tolist()))
        return predict(self, signature, inputs, *rest)

    monkeypatch.setattr(Servable, "predict", spy)
    records = [
        warmup_record("encode_query", query=tf.constant(["a", "b"])),
        b"",  # A log of no kind is skipped, as in TF Serving.
        warmup_record("encode_query", query=tf.constant(["c"])),
    ]
    _save(base, 1, warmup=records)
    with _serve(base):
        assert replayed == [
            ("encode_query", [b"a", b"b"]),
            ("encode_query", [b"c"]),
        ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([warmup_record("nope")], 'Serving signature key "nope" not found.'),
        (
            [warmup_record("encode_query", query=tf.constant([1.0]))],
            'Expects input "query" to be string but float is provided',
        ),
        ([b"\xff\xff"], "Failed to parse warmup record: 0"),
        ([b""] * 1001, "exceeds the maximum"),
    ],
    ids=["signature", "dtype", "garbage", "too many"],
)
def test_a_bad_warm_up_record_is_a_failed_load(base, records, message):
    _save(base, 1, warmup=records)
    with pytest.raises(ValueError, match="Version 1 of model 'tiny'") as caught:
        _serve(base).start()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_warm_up_file_that_is_no_tfrecord_is_a_failed_load(base):
    path = _save(base, 1, warmup=[b""])
    (path / "assets.extra/tf_serving_warmup_requests").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"verify your warmup data .* TFRecord"):
        _serve(base).start()


def test_a_start_that_cannot_serve_says_why(base, tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match=r"missing does not exist; give the"):
        _serve(tmp_path / "missing").start()
    with pytest.raises(FileNotFoundError, match=r"tiny holds no version; export one"):
        _serve(base).start()
    path = _save(base, 1)
    with pytest.raises(FileNotFoundError, match=r"is itself a version; give its par"):
        _serve(path).start()
    (path / "saved_model.pb").write_bytes(b"not a SavedModel")
    with pytest.raises(ValueError, match=r"^Version 1 of model 'tiny' in .*$"):
        _serve(base).start()
    # On the command line it is one line, without a traceback.
    ports = ["--rest-port", "0", "--grpc-port", "0"]
    result = CliRunner().invoke(main, ["serve", str(base), *ports])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("tfrs-prerank: Version 1 of model 'tiny' in ")
    assert caplog.text == ""
    with pytest.raises(ValueError, match="poll_seconds must be positive, received 0"):
        LocalServer(base, poll_seconds=0)


@pytest.mark.parametrize("argument", ["rest_port", "grpc_port"])
def test_a_port_in_use_is_named(base, argument):
    _save(base, 1)
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"rest_port": 0, "grpc_port": 0, argument: port}
        message = f"^Port {port} on 127.0.0.1 is in use; choose another {argument}, or"
        with pytest.raises(OSError, match=message) as caught:
            LocalServer(base, **ports).start()
        assert caught.value.errno == errno.EADDRINUSE
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("argument", ["rest_port", "grpc_port"])
def test_a_port_that_is_none_is_named(base, argument):
    ports = {"rest_port": 0, "grpc_port": 0, argument: 99999}
    message = f"{argument} must be from 0 to 65535, received 99999"
    with pytest.raises(ValueError, match=message):
        LocalServer(base, **ports).start()


def test_two_servers_do_not_share_a_grpc_port(base):
    _save(base, 1)
    with (
        _serve(base) as first,
        pytest.raises(OSError, match=f"Port {first.grpc_port} .* is in use"),
    ):
        LocalServer(base, rest_port=0, grpc_port=first.grpc_port).start()


def test_sigterm_stops_the_server_and_its_handler_comes_back(base):
    _save(base, 1)
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append("outer"))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        with _serve(base) as server:
            port = server.rest_port
            sender = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
            sender.start()
            server.wait()
            sender.join()
            assert server.versions == []
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        assert signal.getsignal(signal.SIGTERM) is ours
        assert caught == []
    finally:
        signal.signal(signal.SIGTERM, before)


def test_wait_in_another_thread_ends_with_the_server(base):
    _save(base, 1)
    with _serve(base) as server:
        handler = signal.getsignal(signal.SIGTERM)
        waiting = threading.Thread(target=server.wait)
        waiting.start()
        assert signal.getsignal(signal.SIGTERM) is handler
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_broken_version_is_retried_at_growing_intervals_for_ever(base, monkeypatch):
    def broken(path):
        raise OSError("half of it is missing")

    clock = [0.0]
    monkeypatch.setattr(versions_module, "Servable", broken)
    monkeypatch.setattr(versions_module.time, "monotonic", lambda: clock[0])
    (base / "1").mkdir()
    versions = Versions("tiny", str(base), {}, 1.0)
    waits = []
    for _ in range(1200):  # 2 ** 1199 is beyond the largest float.
        versions.poll()
        waits.append(versions._failures[1].retry_at - clock[0])
        clock[0] = versions._failures[1].retry_at
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0] + [30.0] * 1195


def test_nothing_is_left_running(base):
    _save(base, 1)
    before = set(threading.enumerate())
    server = _serve(base)
    with server:
        # A client that says nothing must not hold up the stop.
        idle = socket.create_connection(("127.0.0.1", server.rest_port))
        assert _scale(server) == 1.0
        with pytest.raises(RuntimeError, match="already running"):
            server.start()
        ports = server.rest_port, server.grpc_port
        started = time.monotonic()
    idle.close()
    server.wait()  # Returns at once.
    assert time.monotonic() - started < 5
    assert set(threading.enumerate()) <= before
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    # The same object starts again, on the same ports.
    with server:
        assert (server.rest_port, server.grpc_port) == ports
        assert _scale(server) == 1.0
