"""Tiny SavedModels for the tests of the server and the client."""

import os
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2


class Tiny(tf.Module):
    """`scores = scale * price + len(query)`, and signatures for the odd cases."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = tf.Variable(scale)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "query"),
            tf.TensorSpec([None, None], tf.int64, "doc_ids"),
            tf.TensorSpec([None, None], tf.float32, "price"),
        ]
    )
    def serving_default(self, query, doc_ids, price):
        length = tf.cast(tf.strings.length(query), tf.float32)
        return {
            "scores": self.scale * price + length[:, tf.newaxis],
            "found": doc_ids >= 0,
            "doc_ids": doc_ids,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "query")])
    def encode_query(self, query):
        length = tf.cast(tf.strings.length(query), tf.float32)
        return {"query_vector": tf.stack([length, self.scale + 0.0 * length], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def echo(self, text):
        return {"text": text, "text_bytes": text}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def floats(self, x):
        return {"y": x}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.int64, "history"),
            tf.TensorSpec([None, None], tf.string, "doc_ids"),
        ]
    )
    def padded(self, history, doc_ids):
        """Returns one score too many, as if the server had padded the list."""
        seen = tf.cast(tf.reduce_sum(history, 1, keepdims=True), tf.float32)
        scores = seen + tf.cast(tf.strings.length(doc_ids), tf.float32)
        return {"scores": tf.concat([scores, seen], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def refuses(self, x):
        tf.debugging.assert_less(x, 10.0, message="x is 10 or more")
        return {"y": x}


NAMES = ("serving_default", "encode_query", "echo", "floats", "padded", "refuses")


def save(
    base: Path,
    version: int,
    scale: float,
    *,
    names: Iterable[str] = NAMES,
    warmup: Iterable[bytes] = (),
) -> Path:
    """Writes a version under a temporary name and renames it into place."""
    model = Tiny(scale)
    temporary = base / f".tmp-{version}"
    signatures = {name: getattr(model, name) for name in names}
    tf.saved_model.save(model, str(temporary), signatures=signatures)
    records = list(warmup)
    if records:
        extra = temporary / "assets.extra"
        extra.mkdir()
        path = str(extra / "tf_serving_warmup_requests")
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
    os.rename(temporary, base / str(version))
    return base / str(version)


def warmup_record(signature: str, **inputs: tf.Tensor) -> bytes:
    """Returns one serialised warm-up request."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()
