"""The warm-up file: what TF Serving reads before it lets traffic in."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.serving.export_models import small_documents, small_model
from tfrs_prerank.serving import warmup
from tfrs_prerank.serving.exporter import export
from tfrs_prerank.serving.warmup import WARMUP_FILE, warmup_inputs, write_warmup


class Function:
    """As much of a loaded signature as warm-up reads."""

    def __init__(self, **specs):
        self.structured_input_signature = (), specs


def requests_in(directory):
    file = str(directory / WARMUP_FILE)
    return [
        prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator()
    ]


def test_one_request_for_each_signature_and_length():
    signatures = {
        "serving_default": Function(
            user=tf.TensorSpec([None], tf.string),
            history=tf.TensorSpec([None, 3], tf.int64),
            price=tf.TensorSpec([None], tf.float32),
            doc_ids=tf.TensorSpec([None, None], tf.int64),
            shown=tf.TensorSpec([None, None, 2], tf.string),
        ),
        "rank": Function(
            doc_ids=tf.TensorSpec([None, None], tf.int64),
            num_docs=tf.TensorSpec([None], tf.int32),
        ),
        "encode_query": Function(user=tf.TensorSpec([None], tf.string)),
    }
    got = list(warmup_inputs(signatures, np.array([5, 6, 7]), (2, 5)))
    names = [name for name, _ in got]
    assert names == [
        "serving_default",
        "serving_default",
        "rank",
        "rank",
        "encode_query",
    ]
    inputs = got[1][1]
    assert inputs["doc_ids"].tolist() == [[5, 6, 7, 5, 6]]
    assert inputs["user"].tolist() == [""]
    assert inputs["history"].tolist() == [[-1, -1, -1]]
    assert inputs["price"].tolist() == [0.0]
    assert inputs["shown"].shape == (1, 5, 2)
    assert inputs["history"].dtype == np.int64 and inputs["price"].dtype == np.float32
    assert got[2][1]["num_docs"].tolist() == [2]
    assert got[3][1]["num_docs"].dtype == np.int32


def test_file_holds_a_prediction_log_a_line_and_no_version(tmp_path):
    requests = [
        ("rank", {"doc_ids": np.array([["a", "é"]], object), "n": np.int32([2])}),
        ("encode_query", {"price": np.float32([1.5])}),
    ]
    assert write_warmup(tmp_path, requests) == 2
    first, second = requests_in(tmp_path)
    assert first.model_spec.signature_name == "rank"
    assert not first.model_spec.HasField("version") and not first.model_spec.name
    ids = tf.make_ndarray(first.inputs["doc_ids"])
    assert ids.tolist() == [[b"a", "é".encode()]]
    assert tf.make_ndarray(first.inputs["n"]).dtype == np.int32
    assert tf.make_ndarray(second.inputs["price"]).tolist() == [1.5]


@pytest.mark.parametrize("case", ["small", "full"])
def test_every_record_of_an_export_replays(case, request):
    case = request.getfixturevalue(case)
    signatures = case.loaded.signatures
    records = requests_in(case.path)
    for record in records:
        function = signatures[record.model_spec.signature_name]
        inputs = {name: tf.make_ndarray(value) for name, value in record.inputs.items()}
        specs = function.structured_input_signature[1]
        assert sorted(inputs) == sorted(specs)
        for name, value in inputs.items():
            specs[name].shape.assert_is_compatible_with(value.shape)
            assert tf.as_dtype(record.inputs[name].dtype) == specs[name].dtype
        # A server takes records as they are, without conversion.
        outputs = function(**{name: tf.constant(v) for name, v in inputs.items()})
        assert all(
            np.isfinite(value.numpy()).all()
            for value in outputs.values()
            if value.dtype.is_floating
        )
    assert {r.model_spec.signature_name for r in records} == set(signatures)


def test_lengths_of_an_export_are_those_asked_for_each_once(small):
    lengths = [
        (record.model_spec.signature_name, record.inputs["doc_ids"].tensor_shape)
        for record in requests_in(small.path)
        if "doc_ids" in record.inputs
    ]
    lengths = sorted((name, shape.dim[1].size) for name, shape in lengths)
    # Asked for as (100, 10, 10).
    assert lengths == [
        (name, length)
        for name in ("rank", "score_vectors", "serving_default")
        for length in (10, 100)
    ]


def test_a_record_with_a_missing_input_fails_the_export(tmp_path, monkeypatch):
    def without_user(*args):
        for name, inputs in warmup_inputs(*args):
            inputs.pop("user", None)
            yield name, inputs

    monkeypatch.setattr(warmup, "warmup_inputs", without_user)
    with pytest.raises(Exception, match="user"):
        export(small_model(), small_documents(3), tmp_path, warmup_lengths=(2,))
    assert list(tmp_path.iterdir()) == []
