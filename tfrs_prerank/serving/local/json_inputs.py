"""Reading the bodies of `:predict`: TF Serving's JSON to tensors.

As in TF Serving, a list is a dense tensor whose shape is read from its first elements;
an integer is accepted where a float is wanted, never the other way round; a string may
be given as `{"b64": ...}`; and `NaN`, `Infinity` and `-Infinity` are numbers.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrs_prerank.serving.local.servable import dtype_name
from tfrs_prerank.serving.local.status import Code, StatusError, invalid

_DEBUG_CHARS = 256
# NumPy takes no more dimensions.
_MAX_RANK = 64

_PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": (
        "Missing a name for object member."
    ),
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
}

_INTEGER_BOUNDS = {
    tf.int8: (-(2**31), 2**31 - 1),
    tf.uint8: (-(2**31), 2**31 - 1),
    tf.int16: (-(2**31), 2**31 - 1),
    tf.int32: (-(2**31), 2**31 - 1),
    tf.int64: (-(2**63), 2**63 - 1),
    tf.uint32: (0, 2**32 - 1),
    tf.uint64: (0, 2**64 - 1),
}


class PredictJson(NamedTuple):
    """A parsed `:predict` body."""

    document: dict[str, Any]
    signature: str


def parse(body: bytes) -> PredictJson:
    """Parses the body of a `:predict` request.

    As in TF Serving, whatever follows the JSON object is ignored.

    Raises:
        StatusError: The body is not a JSON object, or `signature_name` no string.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    # Bytes that are not UTF-8 pass through strings unchanged.
    text = body.decode("utf-8", "surrogateescape").lstrip("\ufeff \t\r\n")
    if not text:
        raise invalid("JSON Parse error: The document is empty. at offset: 0")
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        reason = _PARSE_ERRORS.get(error.msg, f"{error.msg}.")
        raise invalid(f"JSON Parse error: {reason} at offset: {error.pos}") from error
    except (RecursionError, ValueError) as error:
        raise invalid(f"JSON Parse error: {error} at offset: 0") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_debug(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid(
            f"JSON Value: {_debug(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return PredictJson(document, signature)


def read_inputs(
    document: Mapping[str, Any], dtypes: Mapping[str, tf.DType]
) -> tuple[bool, dict[str, tf.Tensor]]:
    """Reads the input tensors of a parsed `:predict` body.

    Args:
        document: The body's object, with the key `instances` or `inputs`.
        dtypes: The dtypes of the signature's inputs, by name.

    Returns:
        Whether the request is in row form, and the tensors by name.

    Raises:
        StatusError: The values do not make these tensors.
    """
    has_rows, has_columns = "instances" in document, "inputs" in document
    if has_rows and has_columns:
        raise invalid(
            f"JSON Value: {_debug(document)} Not formatted correctly expecting only "
            "one of 'inputs' or 'instances' keys to exist "
        )
    if has_columns:
        return False, _read_columns(document["inputs"], dtypes)
    if not has_rows:
        raise invalid("Missing 'inputs' or 'instances' key")
    instances = document["instances"]
    if not isinstance(instances, list):
        raise invalid(
            f"JSON Value: {_debug(document)} Expecting 'instances' to be an list/array"
        )
    if not instances:
        raise invalid(f"JSON Value: {_debug(document)} No values in 'instances' array")
    return True, _read_rows(instances, dtypes)


def _read_columns(value: Any, dtypes: Mapping[str, tf.DType]) -> dict[str, tf.Tensor]:
    if isinstance(value, dict) and not _is_base64(value):
        for name in sorted(dtypes):
            if name not in value:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {
            name: _tensor(*_leaves(value[name], dtype), dtype)
            for name, dtype in sorted(dtypes.items())
        }
    if len(dtypes) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input "
            "tensors required as per tensorinfo_map"
        )
    name, dtype = next(iter(dtypes.items()))
    return {name: _tensor(*_leaves(value, dtype), dtype)}


def _read_rows(
    instances: list[Any], dtypes: Mapping[str, tf.DType]
) -> dict[str, tf.Tensor]:
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    named = _is_named(instances[0])
    values: dict[str, list[Any]] = {}
    shapes: dict[str, list[int]] = {}
    for number, element in enumerate(instances):
        if named and not _is_named(element):
            raise invalid(
                f"Expecting object but got list at item {number} of input list"
            )
        if not named and _is_named(element):
            raise invalid(
                f"Expecting value/list but got object at item {number} of input list"
            )
        items = element if named else {min(dtypes): element}
        for name, item in items.items():
            try:
                _add_row(name, item, dtypes, values, shapes)
            except StatusError as error:
                key = f" key: {name}" if named else ""
                raise invalid(
                    f"Failed to process element: {number}{key} of 'instances' list. "
                    f"Error: {error.code.name}: {error.message}"
                ) from error
        if named and set(items) != set(dtypes):
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. "
                f"JSON object: {_debug(element)} keys must be equal to: "
                f"{','.join(sorted(dtypes))}"
            )
    return {
        name: _tensor(values[name], [len(instances), *shapes[name]], dtypes[name])
        for name in values
    }


def _add_row(
    name: str,
    item: Any,
    dtypes: Mapping[str, tf.DType],
    values: dict[str, list[Any]],
    shapes: dict[str, list[int]],
) -> None:
    if name not in dtypes:
        raise invalid(f"JSON object: does not have named input: {name}")
    leaves, shape = _leaves(item, dtypes[name])
    first = shapes.setdefault(name, shape)
    if len(leaves) != math.prod(first):
        raise invalid(
            f"Expecting tensor size: {math.prod(first)} but got: {len(leaves)}"
        )
    if shape != first:
        raise invalid(f"Expecting shape {_shape(first)} but got: {_shape(shape)}")
    values.setdefault(name, []).extend(leaves)


def _leaves(value: Any, dtype: tf.DType) -> tuple[list[Any], list[int]]:
    """Returns the scalars of a nested list and the shape its first elements give."""
    others = (tf.string, tf.bool, tf.float32, tf.float64)
    if dtype not in others and dtype not in _INTEGER_BOUNDS:
        raise StatusError(
            Code.UNIMPLEMENTED,
            f"Conversion of JSON Value: {_debug(value)} to type: {dtype_name(dtype)}",
        )
    shape: list[int] = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        if not probe:
            break
        probe = probe[0]
    if len(shape) > _MAX_RANK:
        raise invalid(
            f"Encountered list at unexpected level: {_MAX_RANK} expected < {_MAX_RANK}"
        )
    leaves: list[Any] = []
    _collect(value, 0, shape, dtype, leaves)
    return leaves, shape


def _collect(
    value: Any, level: int, shape: list[int], dtype: tf.DType, leaves: list[Any]
) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise invalid(
                f"JSON Value: {_debug(value)} found at incorrect level: {level + 1} "
                f"in the JSON DOM. Expected at level: {rank}"
            )
        leaves.append(_leaf(value, dtype))
        return
    if level >= rank:
        raise invalid(
            f"Encountered list at unexpected level: {level} expected < {rank}"
        )
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    plain = _plain(value, dtype) if level == rank - 1 else None
    if plain is not None:
        leaves.extend(plain)
        return
    for item in value:
        _collect(item, level + 1, shape, dtype, leaves)


def _plain(values: list[Any], dtype: tf.DType) -> list[Any] | None:
    """Converts a list of scalars at once, or returns `None` if one needs a look."""
    kinds = set(map(type, values))
    if dtype == tf.string:
        if kinds <= {str}:
            try:
                return [value.encode("utf-8", "surrogateescape") for value in values]
            except UnicodeEncodeError:
                return None
    elif dtype == tf.bool:
        if kinds <= {bool}:
            return values
    elif dtype.is_floating:
        if kinds <= {int, float}:
            return values
    elif kinds <= {int} and values:
        low, high = _INTEGER_BOUNDS[dtype]
        if low <= min(values) and max(values) <= high:
            return values
    return None


def _leaf(value: Any, dtype: tf.DType) -> Any:
    kind = type(value)
    if dtype == tf.string:
        if kind is dict:
            return _decode_base64(value)
        if kind is str:
            try:
                return value.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise invalid(
                    "JSON Parse error: The surrogate pair in string is invalid. "
                    f"at offset: {error.start}"
                ) from error
    elif dtype == tf.bool:
        if kind is bool:
            return value
    elif dtype.is_floating:
        if kind in (int, float):
            return value
    elif kind is int:
        low, high = _INTEGER_BOUNDS[dtype]
        if low <= value <= high:
            return value
    raise invalid(
        f"JSON Value: {_debug(value)} Type: {_json_type(value)} "
        f"is not of expected type: {dtype_name(dtype)}"
    )


def _tensor(leaves: list[Any], shape: list[int], dtype: tf.DType) -> tf.Tensor:
    if dtype == tf.string:
        array = np.array(leaves, dtype=object)
    elif dtype.is_floating:
        try:
            # Beyond the range of float32 lies infinity, as in the C++ cast.
            with np.errstate(over="ignore"):
                array = np.array(leaves, np.float64).astype(dtype.as_numpy_dtype)
        except OverflowError as error:
            raise invalid(
                "JSON Parse error: Number too big to be stored in double. at offset: 0"
            ) from error
    elif dtype in (tf.int8, tf.uint8, tf.int16):
        array = np.array(leaves, np.int32).astype(dtype.as_numpy_dtype)
    else:
        array = np.array(leaves, dtype.as_numpy_dtype)
    return tf.constant(array.reshape(shape), dtype=dtype)


def _is_base64(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
    )


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _decode_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid(
            f"JSON Value: {_debug(value)} not formatted correctly for base64 data"
        )
    text = re.sub(r"\s", "", value["b64"]).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _debug(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:_DEBUG_CHARS]
    except RecursionError:
        return "(nested too deeply)"


def _json_type(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return "Number"
    if isinstance(value, str):
        return "String"
    return "Array" if isinstance(value, list) else "Object"


def _shape(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
