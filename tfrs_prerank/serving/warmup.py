"""Warm-up requests: what a server runs before it lets traffic in."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
_MEASURED_CALLS = 20
_DOCUMENT_SIGNATURES = ("serving_default", "rank", "score_vectors")


def warmup_inputs(
    signatures: Mapping[str, Any], ids: np.ndarray, lengths: Iterable[int]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Makes one request for every signature and list length.

    Features are pads, which every vocabulary maps to its unknown row; candidates are
    the first documents of the table, over and over.

    Args:
        signatures: concrete functions by name.
        ids: the document ids.
        lengths: lengths of candidate lists.

    Yields:
        A signature's name and its inputs, a batch of one.
    """
    for name, function in signatures.items():
        specs = function.structured_input_signature[1]
        for length in lengths if name in _DOCUMENT_SIGNATURES else (1,):
            inputs = {}
            for key, spec in specs.items():
                shape = [1 if size is None else size for size in spec.shape]
                if key == "doc_ids":
                    inputs[key] = np.resize(ids, [1, length])
                elif key == "num_docs":
                    inputs[key] = np.full(shape, length, np.int32)
                else:
                    if len(spec.shape) > 1 and spec.shape[1] is None:
                        shape[1] = length
                    pad: Any = {tf.string: "", tf.int64: -1}.get(spec.dtype, 0.0)
                    kind = spec.dtype.as_numpy_dtype
                    inputs[key] = np.full(shape, pad, kind)
            yield name, inputs


def write_warmup(
    directory: Path, requests: Iterable[tuple[str, Mapping[str, np.ndarray]]]
) -> int:
    """Writes requests as TensorFlow Serving's warm-up file.

    Args:
        directory: the version's directory.
        requests: signature names and inputs.

    Returns:
        The number of records.

    Raises:
        ImportError: `tensorflow-serving-api` is not installed.
    """
    from tfrs_prerank.serving import _apis as apis

    path = directory / WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs in requests:
            request = apis.predict_pb2.PredictRequest()
            # No version: the file must hold for every version it is copied to.
            request.model_spec.signature_name = name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = apis.prediction_log_pb2.PredictionLog(
                predict_log=apis.prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
            count += 1
    return count


def replay(
    directory: Path, ids: np.ndarray, lengths: Iterable[int]
) -> dict[int, float]:
    """Reads a version back, writes its warm-up requests and replays them.

    Args:
        directory: the version's directory.
        ids: document ids, as many as the longest list needs.
        lengths: lengths of candidate lists.

    Returns:
        Milliseconds of `serving_default` by length, median of calls.

    Raises:
        ValueError: an answer is NaN or infinite.
    """
    loaded = tf.saved_model.load(str(directory))
    requests = list(warmup_inputs(loaded.signatures, ids, lengths))
    write_warmup(directory, requests)
    latency = {}
    for name, inputs in requests:
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        call = loaded.signatures[name]
        outputs = call(**tensors)
        for key, value in outputs.items():
            if value.dtype.is_floating and not np.isfinite(value.numpy()).all():
                raise ValueError(
                    f"{name}.{key} is not finite; the model's weights are "
                    "broken, train it again"
                )
        if name == "serving_default":
            times = []
            for _ in range(_MEASURED_CALLS):
                started = time.perf_counter()
                call(**tensors)["scores"].numpy()
                times.append(1000 * (time.perf_counter() - started))
            length = inputs["doc_ids"].shape[1]
            latency[length] = round(float(np.median(times)), 3)
    return latency
