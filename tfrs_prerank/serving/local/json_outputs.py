"""Writing the answers of `:predict` as TF Serving's JSON.

As in TF Serving, a single output loses its name, outputs named `*_bytes` are written
as `{"b64": ...}`, and floats that are not finite as `NaN`, `Infinity`, `-Infinity`.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from tfrs_prerank.serving.local.servable import dtype_name
from tfrs_prerank.serving.local.status import invalid


def write_outputs(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """Writes the body that answers a `:predict` request.

    Args:
        outputs: Arrays by output name.
        rows: Row form (`predictions`) or column form (`outputs`).

    Raises:
        StatusError: An output has no JSON form, or rows differ in number.
    """
    names = sorted(outputs)
    if not names:
        raise invalid("Cannot convert empty tensor map to JSON")
    if rows:
        _check_batch(outputs)
    columns = {
        name: _nested(_tokens(name, outputs[name]), outputs[name].shape, int(rows))
        for name in names
    }
    values = [
        row[0]
        if len(names) == 1
        else "{"
        + ", ".join(
            f"{json.dumps(name, ensure_ascii=False)}: {token}"
            for name, token in zip(names, row, strict=True)
        )
        + "}"
        for row in zip(*columns.values(), strict=True)
    ]
    if rows:
        # One row a line: readable, and the line breaks cost next to nothing.
        text = '{"predictions": [\n' + ",\n".join(values) + "\n]}\n"
    else:
        text = '{"outputs": ' + values[0] + "}\n"
    return text.encode("utf-8", "surrogateescape")


def _check_batch(outputs: Mapping[str, np.ndarray]) -> None:
    batch = -1
    for name in sorted(outputs):
        shape = outputs[name].shape
        if not shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, shape[0]):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {shape[0]} "
                f"expecting: {batch}"
            )
        batch = shape[0]


def _tokens(name: str, array: np.ndarray) -> list[str]:
    """Returns the JSON token of every scalar of an array, in order."""
    flat = array.reshape(-1)
    write = _writer(name, array.dtype)
    if write is None:
        kind = dtype_name(tf.dtypes.as_dtype(array.dtype))
        raise invalid(f"Failed to write JSON value for tensor type: {kind}")
    return write(flat)


def _writer(name: str, dtype: np.dtype) -> Callable[[np.ndarray], list[str]] | None:
    if dtype == np.float32 or dtype == np.float64:
        return _decimals
    if dtype == np.bool_:
        return lambda flat: ["true" if v else "false" for v in flat.tolist()]
    if dtype.kind in "iu":
        return lambda flat: [str(v) for v in flat.tolist()]
    if dtype.kind == "O":
        return _base64_objects if name.endswith("_bytes") else _strings
    return None


def _strings(flat: np.ndarray) -> list[str]:
    return [
        json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
        for value in flat.tolist()
    ]


def _base64_objects(flat: np.ndarray) -> list[str]:
    return [
        '{"b64": "' + base64.b64encode(value).decode() + '"}' for value in flat.tolist()
    ]


def _decimals(flat: np.ndarray) -> list[str]:
    """Writes floats as TF Serving does: six digits, or all if six do not round-trip."""
    digits = 9 if flat.dtype == np.float32 else 17
    values = flat.tolist()
    texts = [f"{value:.6g}" for value in values]
    with np.errstate(over="ignore"):
        back = np.array([float(text) for text in texts], np.float64).astype(flat.dtype)
    for i in np.flatnonzero((back != flat) | ~np.isfinite(flat)).tolist():
        value = values[i]
        if math.isnan(value):
            texts[i] = "NaN"
        elif math.isinf(value):
            texts[i] = "Infinity" if value > 0 else "-Infinity"
        else:
            texts[i] = f"{value:.{digits}g}"
    # A whole number still has to look like a float.
    return [
        text if "." in text or "e" in text or text[-1] in "Ny" else f"{text}.0"
        for text in texts
    ]


def _nested(tokens: list[str], shape: tuple[int, ...], keep: int) -> list[str]:
    """Joins tokens into nested lists, leaving the first `keep` axes unjoined."""
    for axis in reversed(range(keep, len(shape))):
        size = shape[axis]
        tokens = [
            "[" + ", ".join(tokens[i * size : (i + 1) * size]) + "]"
            for i in range(math.prod(shape[:axis]))
        ]
    return tokens
