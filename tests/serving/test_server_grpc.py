"""The gRPC side, asked with nothing but tensorflow-serving-api."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.server_models import save
from tfrs_prerank.serving.local.rpc import to_proto
from tfrs_prerank.serving.server import LocalServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("grpc") / "tiny"
    base.mkdir()
    save(base, 1, 2.0)
    with LocalServer(base, rest_port=0, grpc_port=0, labels={"stable": 1}) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc_target, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def _request(name="tiny", signature="", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def _scoring(**changes):
    inputs = {
        "query": ["red", "green"],
        "doc_ids": np.array([[1, -1], [2, 3]], np.int64),
        "price": np.array([[0.5, 10], [0.25, 0]], np.float32),
    }
    inputs.update(changes)
    return _request(**{k: v for k, v in inputs.items() if v is not None})


def _refused(call, *args):
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=10)
    return caught.value.code().name, caught.value.details()


def test_predict(stub):
    response = stub.Predict(_scoring(), timeout=10)
    outputs = {key: tf.make_ndarray(value) for key, value in response.outputs.items()}
    # 2 * price + len(query)
    assert outputs["scores"].tolist() == [[4.0, 23.0], [5.5, 5.0]]
    assert outputs["found"].tolist() == [[True, False], [True, True]]
    assert outputs["doc_ids"].tolist() == [[1, -1], [2, 3]]
    assert response.model_spec.name == "tiny"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


def test_values_are_in_typed_fields(stub):
    # Clients in other languages read `float_val`, which TF Serving fills.
    response = stub.Predict(_scoring(), timeout=10)
    assert list(response.outputs["scores"].float_val) == [4.0, 23.0, 5.5, 5.0]
    assert list(response.outputs["doc_ids"].int64_val) == [1, -1, 2, 3]
    assert list(response.outputs["found"].bool_val) == [True, False, True, True]


@pytest.mark.parametrize(
    "value",
    [
        tf.constant([1.5, -2.5], tf.float16),
        tf.constant([1.5, -2.5], tf.bfloat16),
        tf.constant([[1, 2]], tf.uint64),
        tf.constant([[-1], [2]], tf.int8),
        tf.constant([b"\xff", b""]),
        tf.constant(1.25),
        tf.zeros([2, 0], tf.float32),
    ],
    ids=lambda value: f"{value.dtype.name}{value.shape}",
)
def test_every_dtype_survives(value):
    proto = to_proto(value)
    back = tf.make_ndarray(proto)
    assert proto.dtype == value.dtype.as_datatype_enum
    assert back.shape == value.shape
    assert back.tolist() == value.numpy().tolist()


def test_output_filter(stub):
    request = _scoring()
    request.output_filter.append("scores")
    assert list(stub.Predict(request, timeout=10).outputs) == ["scores"]
    request.output_filter.append("scores")
    assert _refused(stub.Predict, request) == (
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: scores",
    )
    request.output_filter[1] = "nope"
    assert _refused(stub.Predict, request) == (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: nope Outputs expected to be in "
        "the set {doc_ids,found,scores}.",
    )


def test_version_and_label(stub):
    request = _scoring()
    request.model_spec.version.value = 1
    assert stub.Predict(request, timeout=10).model_spec.version.value == 1
    request.model_spec.version_label = "stable"
    response = stub.Predict(request, timeout=10)
    assert response.model_spec.version.value == 1
    assert not response.model_spec.version_label
    request.model_spec.version_label = "canary"
    assert _refused(stub.Predict, request) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    )
    request.model_spec.version.value = 9
    assert _refused(stub.Predict, request) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(tiny, 9)",
    )


def test_model_and_signature_must_exist(stub):
    assert _refused(stub.Predict, _request("other")) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(other)",
    )
    assert _refused(stub.Predict, _request("")) == (
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    )
    assert _refused(stub.Predict, predict_pb2.PredictRequest()) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )
    assert _refused(stub.Predict, _request(signature="nope")) == (
        "FAILED_PRECONDITION",
        'Serving signature key "nope" not found.',
    )


def test_inputs_must_fit_the_signature(stub):
    assert _refused(stub.Predict, _scoring(price=None)) == (
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=3 len({doc_ids,query}) != "
        "len({doc_ids,price,query}). Sent extra: {}. Missing but required: {price}.",
    )
    assert _refused(stub.Predict, _scoring(extra=[1.0])) == (
        "INVALID_ARGUMENT",
        "input size does not match signature: 4!=3 len({doc_ids,extra,price,query}) "
        "!= len({doc_ids,price,query}). Sent extra: {extra}. Missing but required: {}.",
    )
    code, text = _refused(stub.Predict, _scoring(price=None, extra=[1.0]))
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Signature input alias: price(feed name: ")
    assert _refused(stub.Predict, _scoring(doc_ids=[[1.0, 2.0], [3.0, 4.0]])) == (
        "INVALID_ARGUMENT",
        'Expects input "doc_ids" to be int64 but float is provided',
    )
    assert _refused(stub.Predict, _scoring(query="red")) == (
        "INVALID_ARGUMENT",
        'Expects input "query" to have shape [?] but [] is provided',
    )


@pytest.mark.parametrize(
    "proto",
    [
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=99),
        tensor_pb2.TensorProto(
            dtype=1, tensor_shape={"dim": [{"size": 2}]}, tensor_content=b"abc"
        ),
        tensor_pb2.TensorProto(
            dtype=1, tensor_shape={"dim": [{"size": -2}]}, float_val=[1.0]
        ),
    ],
    ids=["empty", "no such dtype", "cut off", "negative size"],
)
def test_malformed_tensors_are_named_and_the_server_goes_on(stub, proto):
    request = _request(signature="floats")
    request.inputs["x"].CopyFrom(proto)
    assert _refused(stub.Predict, request) == (
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    )
    response = stub.Predict(_request(signature="floats", x=[1.5]), timeout=10)
    assert list(response.outputs["y"].float_val) == [1.5]


def test_a_runtime_error_of_the_graph_keeps_its_code(stub):
    code, text = _refused(stub.Predict, _request(signature="refuses", x=[10.0]))
    assert code == "INVALID_ARGUMENT"
    assert "x is 10 or more" in text


def test_long_error_texts_are_cut(stub):
    name = "m" * 2000
    _, text = _refused(stub.Predict, _request(name))
    assert len(text) == 1024 + len("...TRUNCATED")
    assert text.endswith("m...TRUNCATED")


def test_messages_above_four_megabytes(stub):
    values = np.arange(1_500_000, dtype=np.float32)  # 6 MB either way
    response = stub.Predict(_request(signature="floats", x=values), timeout=30)
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), values)


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "tiny"
    assert _refused(stub.GetModelMetadata, request) == (
        "INVALID_ARGUMENT",
        "GetModelMetadataRequest must specify at least one metadata_field",
    )
    request.metadata_field.append("signature_def")
    response = stub.GetModelMetadata(request, timeout=10)
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    definition = signatures.signature_def["serving_default"]
    assert {k: v.dtype for k, v in definition.inputs.items()} == {
        "query": tf.string.as_datatype_enum,
        "doc_ids": tf.int64.as_datatype_enum,
        "price": tf.float32.as_datatype_enum,
    }
    request.metadata_field[0] = "nope"
    assert _refused(stub.GetModelMetadata, request) == (
        "INVALID_ARGUMENT",
        "Metadata field nope is not supported",
    )


def test_status(channel):
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    assert _refused(service.GetModelStatus, request) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )
    request.model_spec.name = "tiny"
    (status,) = service.GetModelStatus(request, timeout=10).model_version_status
    assert status.version == 1
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert status.status.error_code == 0
    request.model_spec.version.value = 9
    assert _refused(service.GetModelStatus, request) == (
        "NOT_FOUND",
        "Could not find version 9 of model tiny",
    )


def test_classify_is_not_implemented(stub):
    code, _ = _refused(stub.Classify, classification_pb2.ClassificationRequest())
    assert code == "UNIMPLEMENTED"
