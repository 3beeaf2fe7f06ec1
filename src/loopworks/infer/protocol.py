"""Tensors of the Open Inference Protocol v2 (REST), with the binary tensor extension: bytes to arrays and back.

Source: the KServe Open Inference Protocol and Triton's "binary tensor data" extension. Everything that comes in is
hostile: sizes are checked before any memory is taken, and every fault is an ``Invalid`` that names the field.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec

DTYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
MAX_ELEMENTS = 1 << 31
MAX_RANK = 16
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One output that the client asks for."""

    name: str
    is_binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inference request."""

    inputs: Arrays
    outputs: tuple[Wanted, ...] = ()
    """Empty: all outputs, as JSON unless ``is_binary``."""
    id: str = ""
    is_binary: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read(body: bytes, header_length: int | None, specs: Sequence[TensorSpec]) -> Request:
    """A request from its body.

    Args:
        body: JSON, or JSON followed by raw tensors.
        header_length: bytes of JSON at the start (``Inference-Header-Content-Length``); ``None``: all of it; 0: the
            body is the one input tensor, raw.
        specs: the model's inputs.
    Raises: Invalid: naming the field.
    """
    if header_length == 0:
        return Request(inputs={specs[0].name: _raw(body, specs)}, is_binary=True)
    if header_length is not None and not 0 < header_length <= len(body):
        raise Invalid(HEADER_LENGTH, f"between 0 and the body's {len(body)} bytes", header_length)
    head, tail = (body, b"") if header_length is None else (body[:header_length], body[header_length:])
    try:
        header = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise Invalid("request body", "JSON", str(error)) from None
    if not isinstance(header, dict):
        raise Invalid("request body", "a JSON object", type(header).__name__)
    parameters = _object(header.get("parameters", {}), "parameters")
    return Request(
        inputs=_inputs(header.get("inputs"), memoryview(tail)),
        outputs=_outputs(header.get("outputs", []), parameters),
        id=_text(header.get("id", ""), "id"),
        is_binary=parameters.get("binary_data_output") is True,
        parameters=parameters,
    )


def write(
    outputs: Arrays, request: Request, specs: Sequence[TensorSpec], *, model: str, version: str
) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON part where raw tensors follow.

    Raises: Invalid: an output was asked for that the model does not have.
    """
    types = {spec.name: spec.datatype for spec in specs}
    wanted = request.outputs or tuple(Wanted(name=name, is_binary=request.is_binary) for name in outputs)
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for one in wanted:
        if one.name not in outputs:
            raise Invalid("outputs", f"among {', '.join(outputs)}", one.name)
        array = outputs[one.name]
        datatype = types.get(one.name) or datatype_of(array)
        entry: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": list(array.shape)}
        if one.is_binary:
            content = to_bytes(array, datatype)
            entry["parameters"] = {"binary_data_size": len(content)}
            raw.append(content)
        else:
            entry["data"] = to_list(array, datatype)
        described.append(entry)
    body: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        body["id"] = request.id
    head = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return (head + b"".join(raw), len(head)) if raw else (head, None)


def check(inputs: Arrays, specs: Sequence[TensorSpec]) -> int:
    """Compare inputs with what the model takes; returns the batch size.

    Raises: Invalid: a name, type or shape differs, or the inputs disagree about the batch.
    """
    names = [spec.name for spec in specs]
    if (extra := [name for name in inputs if name not in names]) != []:
        raise Invalid("inputs", f"among {', '.join(names)}", ", ".join(extra))
    sizes = set()
    for spec in specs:
        if spec.name not in inputs:
            raise Invalid("inputs", f"complete ({', '.join(names)})", ", ".join(inputs) or "none")
        array = inputs[spec.name]
        if datatype_of(array) != spec.datatype:
            raise Invalid(f"input {spec.name} datatype", spec.datatype, datatype_of(array))
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.shape[:1] == (0,):
            raise Invalid(f"input {spec.name} shape", f"{list(spec.shape)} (-1: any from 1)", list(array.shape))
        sizes.add(array.shape[0])
    if len(sizes) != 1:
        raise Invalid("inputs", "of one batch size", sorted(sizes))
    return int(sizes.pop())


def datatype_of(array: NDArray[Any]) -> str:
    """The protocol's name of an array's type."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    for name, kind in DTYPES.items():
        if array.dtype == kind:
            return name
    raise Invalid("tensor type", f"one of {', '.join(DTYPES)} or BYTES", str(array.dtype))


def to_bytes(array: NDArray[Any], datatype: str) -> bytes:
    """Raw little-endian bytes; BYTES elements with a 4-byte length before each."""
    if datatype != "BYTES":
        return np.ascontiguousarray(array).astype(_little(datatype), copy=False).tobytes()
    parts = []
    for element in array.reshape(-1):
        content = element if isinstance(element, bytes) else str(element).encode()
        parts.append(len(content).to_bytes(4, "little") + content)
    return b"".join(parts)


def from_bytes(data: memoryview, datatype: str, shape: Sequence[int], name: str) -> NDArray[Any]:
    """The inverse of ``to_bytes``; a numeric array is a view of ``data``, not a copy."""
    count = _count(shape, name)
    if datatype == "BYTES":
        return _strings(data, count, name).reshape(shape)
    kind = _little(datatype, name)
    if len(data) != count * kind.itemsize:
        raise Invalid(f"input {name} raw data", f"{count * kind.itemsize} bytes for its shape and type", len(data))
    found = np.frombuffer(data, kind)
    if datatype == "BOOL" and bool((found.view(np.uint8) > 1).any()):
        raise Invalid(f"input {name} raw data", "0 or 1 for BOOL", "other bytes")
    return found.reshape(shape)


def to_list(array: NDArray[Any], datatype: str) -> Any:
    """Flat JSON data; arrays of numbers are left to the JSON writer, which is faster."""
    if datatype == "BYTES":
        return [_printable(element) for element in array.reshape(-1)]
    if datatype == "FP16":
        return array.astype(np.float32).reshape(-1)  # the JSON writer does not know half floats
    return np.ascontiguousarray(array).reshape(-1)


def _inputs(listed: Any, tail: memoryview) -> dict[str, NDArray[Any]]:
    if not isinstance(listed, list) or not listed:
        raise Invalid("inputs", "a list with at least one tensor", type(listed).__name__)
    found: dict[str, NDArray[Any]] = {}
    at = 0
    for i, entry in enumerate(listed):
        one = _object(entry, f"inputs[{i}]")
        name = _text(one.get("name"), f"inputs[{i}].name")
        if name in found:
            raise Invalid(f"inputs[{i}].name", "different from the others", name)
        datatype = _text(one.get("datatype"), f"input {name} datatype")
        shape = _shape(one.get("shape"), name)
        size = _object(one.get("parameters", {}), f"input {name} parameters").get("binary_data_size")
        if size is None:
            found[name] = _from_list(one.get("data"), datatype, shape, name)
            continue
        if not _is_count(size) or at + size > len(tail):
            raise Invalid(f"input {name} binary_data_size", f"at most the {len(tail) - at} bytes that follow", size)
        found[name] = from_bytes(tail[at : at + size], datatype, shape, name)
        at += size
    if at != len(tail):
        raise Invalid("raw data after the header", f"{at} bytes, as the inputs say", len(tail))
    return found


def _outputs(listed: Any, parameters: Mapping[str, Any]) -> tuple[Wanted, ...]:
    if not isinstance(listed, list):
        raise Invalid("outputs", "a list", type(listed).__name__)
    default = parameters.get("binary_data_output") is True
    found = []
    for i, entry in enumerate(listed):
        one = _object(entry, f"outputs[{i}]")
        asked = _object(one.get("parameters", {}), f"outputs[{i}].parameters").get("binary_data", default)
        found.append(Wanted(name=_text(one.get("name"), f"outputs[{i}].name"), is_binary=asked is True))
    return tuple(found)


def _from_list(data: Any, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if not isinstance(data, list):
        raise Invalid(f"input {name} data", "a list", type(data).__name__)
    count = _count(shape, name)
    if datatype == "BYTES":
        flat = list(_flatten(data, name))
        if not all(isinstance(x, str) for x in flat):
            raise Invalid(f"input {name} data", "text for BYTES", "something else")
        array = np.array([x.encode() for x in flat], dtype=object)
    else:
        array = _numbers(data, datatype, name)
    if array.size != count:
        raise Invalid(f"input {name} data", f"{count} elements, as its shape says", array.size)
    return array.reshape(shape)


def _numbers(data: list[Any], datatype: str, name: str) -> NDArray[Any]:
    kind = _little(datatype, name)
    try:
        given = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"input {name} data", f"numbers of {datatype}, evenly nested", str(error)) from None
    if given.size == 0:
        return np.zeros(0, kind)
    if given.dtype.kind not in {"BOOL": "b", "FP16": "fiu", "FP32": "fiu", "FP64": "fiu"}.get(datatype, "iu"):
        raise Invalid(f"input {name} data", f"numbers of {datatype}", f"values such as {_first(data)!r}")
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if int(given.min()) < limits.min or int(given.max()) > limits.max:
            raise Invalid(f"input {name} data", f"within {limits.min}..{limits.max}", f"{given.min()}..{given.max()}")
    with np.errstate(over="ignore"):
        return given.astype(kind).reshape(-1)


def _first(data: Any) -> Any:
    while isinstance(data, list) and data:
        data = data[0]
    return data


def _flatten(data: Any, name: str, depth: int = 0) -> Any:
    if depth > MAX_RANK:
        raise Invalid(f"input {name} data", f"nested at most {MAX_RANK} deep", "deeper")
    for element in data:
        if isinstance(element, list):
            yield from _flatten(element, name, depth + 1)
        else:
            yield element


def _strings(data: memoryview, count: int, name: str) -> NDArray[Any]:
    if count * 4 > len(data):
        raise Invalid(f"input {name} raw data", f"{count} BYTES elements", f"{len(data)} bytes")
    found = np.empty(count, dtype=object)
    at = 0
    for i in range(count):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data) or at + 4 + size > len(data):
            raise Invalid(f"input {name} raw data", "whole BYTES elements", f"a cut at byte {at}")
        found[i] = bytes(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise Invalid(f"input {name} raw data", f"{at} bytes, as its elements say", len(data))
    return found


def _raw(body: bytes, specs: Sequence[TensorSpec]) -> NDArray[Any]:
    """A body without header: the one input; a free batch axis is worked out from the length."""
    if len(specs) != 1:
        raise Invalid("a body without header", "for a model with one input", f"{len(specs)} inputs")
    spec = specs[0]
    if spec.datatype == "BYTES":
        return np.array([body], dtype=object).reshape((1,) * len(spec.shape))
    rest = math.prod(spec.shape[1:]) * _little(spec.datatype, spec.name).itemsize
    if -1 in spec.shape[1:] or rest == 0 or len(body) == 0 or len(body) % rest:
        raise Invalid(
            "a body without header", f"raw {spec.datatype} data of shape {list(spec.shape)}", f"{len(body)} bytes"
        )
    return from_bytes(memoryview(body), spec.datatype, (len(body) // rest, *spec.shape[1:]), spec.name)


def _little(datatype: str, name: str = "") -> np.dtype[Any]:
    if datatype not in DTYPES:
        raise Invalid(f"input {name} datatype", f"one of {', '.join(DTYPES)} or BYTES", datatype)
    return np.dtype(DTYPES[datatype]).newbyteorder("<")


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_RANK or not all(_is_count(n) for n in value):
        raise Invalid(f"input {name} shape", f"a list of at most {MAX_RANK} whole numbers from 0", value)
    return tuple(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_ELEMENTS


def _count(shape: Sequence[int], name: str) -> int:
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise Invalid(f"input {name} shape", f"at most {MAX_ELEMENTS} elements", list(shape))
    return count


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(what, "a JSON object", type(value).__name__)
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Invalid(what, "text", type(value).__name__)
    return value


def _printable(element: Any) -> str:
    return element.decode("utf-8", "replace") if isinstance(element, bytes) else str(element)
