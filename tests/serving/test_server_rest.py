import http.client
import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tests.serving.server_models import save
from tfrs_prerank.serving.local.json_inputs import read_inputs
from tfrs_prerank.serving.local.json_outputs import write_outputs
from tfrs_prerank.serving.server import LocalServer

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def _tokens(text):
    """Parses JSON with every number that is not an integer kept as it is written."""
    return json.loads(
        text,
        parse_float=lambda token: ("float", token),
        parse_constant=lambda token: ("float", token),
    )


def _exchanges():
    for path in sorted(TRANSCRIPTS.glob("*.json")):
        text = path.read_text("utf-8")
        for exchange, exact in zip(json.loads(text), _tokens(text), strict=True):
            yield pytest.param(
                exchange["request"],
                exchange["status"],
                exact["body"],
                id=f"{path.stem}: {exchange['about']}",
            )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("rest") / "tiny"
    base.mkdir()
    save(base, 1, 2.0)
    with LocalServer(base, rest_port=0, grpc_port=0, labels={"stable": 1}) as server:
        yield server


def _ask(server, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(("request_", "status", "body"), list(_exchanges()))
def test_answers_as_tf_serving_does(server, request_, status, body):
    sent = json.dumps(request_["body"]) if "body" in request_ else request_.get("raw")
    answer = _ask(server, request_["method"], request_["path"], sent)
    assert (answer[0], _tokens(answer[2].decode())) == (status, body)
    assert answer[1]["Content-Type"] == "application/json"


def test_metadata_is_the_signatures_of_the_saved_model(server):
    status, _, body = _ask(server, "GET", "/v1/models/tiny/labels/stable/metadata")
    answer = json.loads(body)
    assert status == 200
    assert answer["model_spec"] == {
        "name": "tiny",
        "signature_name": "",
        "version": "1",
    }
    listed = answer["metadata"]["signature_def"]["signature_def"]
    # Field by field as TF Serving prints it: enums by name, sizes as strings, and
    # fields that hold their default.
    assert listed["floats"]["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "name": "floats_x:0",
            "tensor_shape": {
                "dim": [{"size": "-1", "name": ""}],
                "unknown_rank": False,
            },
        }
    }
    assert listed["floats"]["method_name"] == "tensorflow/serving/predict"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((Path(server.base_path) / "1/saved_model.pb").read_bytes())
    expected = dict(saved.meta_graphs[0].signature_def)
    parsed = {
        name: json_format.ParseDict(value, meta_graph_pb2.SignatureDef())
        for name, value in listed.items()
    }
    assert parsed == expected


def test_other_paths_are_not_found(server):
    assert _ask(server, "GET", "/favicon.ico")[0] == 404


def test_a_runtime_error_of_the_graph_is_the_clients_error(server):
    body = json.dumps({"signature_name": "refuses", "instances": [10]})
    status, _, answer = _ask(server, "POST", "/v1/models/tiny:predict", body)
    assert status == 400
    assert "x is 10 or more" in json.loads(answer)["error"]


def test_strings_that_are_not_utf8_pass_unchanged(server):
    body = b'{"signature_name": "echo", "instances": ["\xff\xfe"]}'
    status, _, answer = _ask(server, "POST", "/v1/models/tiny:predict", body)
    assert status == 200
    assert b'"text": "\xff\xfe"' in answer
    assert b'{"b64": "//4="}' in answer


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\xff\xfe",
        b"[" * 100_000,
        b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"signature_name": "floats", "inputs": [1' + b"0" * 400 + b"]}",
        b'{"signature_name": "floats", "inputs": [1' + b"0" * 5000 + b"]}",
        b'{"signature_name": "floats", "inputs": ' + b"[" * 70 + b"]" * 70 + b"}",
    ],
    ids=["binary", "deep", "deep and whole", "huge", "huger", "rank 70"],
)
def test_malformed_bodies_are_refused(server, body):
    status, _, answer = _ask(server, "POST", "/v1/models/tiny:predict", body)
    assert status == 400
    assert json.loads(answer)["error"]


def test_broken_http_leaves_the_server_alive(server):
    for data in (
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/models/tiny:predict HTTP/1.1\r\nContent-Length: x\r\n\r\n{}",
    ):
        with socket.create_connection(("127.0.0.1", server.rest_port)) as connection:
            connection.sendall(data)
    body = json.dumps({"signature_name": "floats", "instances": [1]})
    status, _, answer = _ask(server, "POST", "/v1/models/tiny:predict", body)
    assert (status, json.loads(answer)) == (200, {"predictions": [1.0]})


@settings(deadline=None, max_examples=200)
@given(
    npst.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.integers(1, 20),
        elements={"allow_subnormal": True},
    )
)
def test_floats_round_trip(values):
    # Every number is read back the same, minus zero included; NaN has no sign in JSON.
    body = write_outputs({"y": values}, rows=False)
    back = np.array(json.loads(body)["outputs"]).astype(values.dtype)
    np.testing.assert_array_equal(back, values)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(back[number]), np.signbit(values[number]))


# Rows have equal shapes; names, values and dtypes are arbitrary.
_FLOATS = st.floats(width=32, allow_nan=False)
_IDS = st.integers(-(2**63), 2**63 - 1)
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(1, 4), st.integers(0, 3))
def test_rows_and_columns_are_the_same_tensors(data, batch, length):
    def column(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return data.draw(st.lists(row, min_size=batch, max_size=batch))

    columns = {"f": column(_FLOATS), "i": column(_IDS), "s": column(_TEXTS)}
    dtypes = {"f": tf.float32, "i": tf.int64, "s": tf.string}
    rows = [{name: columns[name][i] for name in columns} for i in range(batch)]
    _, left = read_inputs(json.loads(json.dumps({"inputs": columns})), dtypes)
    _, right = read_inputs(json.loads(json.dumps({"instances": rows})), dtypes)
    for name, dtype in dtypes.items():
        assert left[name].dtype == right[name].dtype == dtype
        assert left[name].shape == right[name].shape == (batch, length)
        np.testing.assert_array_equal(left[name].numpy(), right[name].numpy())
    expected = [[text.encode() for text in row] for row in columns["s"]]
    assert left["s"].numpy().tolist() == expected
    assert left["i"].numpy().tolist() == columns["i"]


@pytest.mark.parametrize("shape", [(0, 2), (1, 0), (2, 3, 0)])
def test_empty_arrays_keep_their_lists(shape):
    answer = json.loads(write_outputs({"y": np.zeros(shape, np.float32)}, rows=False))
    assert answer["outputs"] == np.zeros(shape).tolist()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.zeros(1, np.float16)}, "tensor type: half"),
        ({"y": np.zeros(())}, "Tensor name: y has no shape information "),
        (
            {"y": np.zeros(1), "z": np.zeros(2)},
            "Tensor name: z has inconsistent batch size: 2 expecting: 1",
        ),
        ({}, "Cannot convert empty tensor map to JSON"),
    ],
)
def test_outputs_that_have_no_row_form_are_refused(outputs, message):
    with pytest.raises(Exception, match=message):
        write_outputs(outputs, rows=True)


def test_doubles_are_written_with_all_their_digits():
    body = write_outputs({"y": np.array([1 / 3, math.pi])}, rows=True)
    # 17 significant digits, where six do not give the number back.
    assert b"0.33333333333333331,\n3.1415926535897931" in body
