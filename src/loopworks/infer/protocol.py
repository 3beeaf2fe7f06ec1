"""Tensors of the Open Inference Protocol v2 (REST), with the binary tensor extension: bytes to arrays and back.

Source: the KServe Open Inference Protocol, and Triton's "binary tensor data" and "classification" extensions.
Everything that comes in is hostile: sizes are checked before any memory is taken, and every fault is an ``Invalid``
that names the field.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec
from loopworks.infer import classification, wire

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
KNOWN = f"one of {', '.join(DTYPES)} or BYTES"
MAX_RANK = 16
MAX_SIDE = 1 << 31
HEADER_LENGTH = "Inference-Header-Content-Length"
_SHARED = "shared_memory_region"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One output that the client asks for."""

    name: str
    is_binary: bool = False
    top: int = 0
    """Above zero: not the tensor but its ``top`` largest values per row, as ``value:index:class`` texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inference request."""

    inputs: Arrays
    outputs: tuple[Wanted, ...] = ()
    """Empty: all outputs, as JSON unless ``is_binary``."""
    id: str = ""
    is_binary: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def timeout_s(self) -> float | None:
        """How long the client lets the request wait in the queue (its parameter ``timeout``, microseconds; 0: as long
        as the server does). Raises: Invalid: it is no such number."""
        found = self.parameters.get("timeout")
        if found is not None and not _is_count(found):
            raise Invalid("parameter timeout", "a whole number of microseconds from 0", found)
        return found / 1e6 if found else None


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
        return Request(inputs=_raw(body, specs), is_binary=True)
    return request(*parse(body, header_length))


def parse(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON part of a request's body, and the raw tensors behind it; ``Invalid`` where it is no JSON object.

    ``header_length`` is as for ``read``, and not 0.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise Invalid(HEADER_LENGTH, f"between 0 and the body's {len(body)} bytes", header_length)
    whole = memoryview(body)
    head, tail = (whole, whole[:0]) if header_length is None else (whole[:header_length], whole[header_length:])
    return read_header(head), tail


def read_header(text: bytes | memoryview) -> dict[str, Any]:
    """The JSON object that a request's text is; ``Invalid`` where it is none."""
    try:
        found = wire.loads(text)
    except ValueError as error:
        raise Invalid("request body", "JSON in UTF-8", str(error)) from None
    if not isinstance(found, dict):
        raise Invalid("request body", "a JSON object", type(found).__name__)
    return found


def request(header: Mapping[str, Any], tail: memoryview) -> Request:
    """A request from what ``parse`` gives; ``Invalid`` names the field."""
    parameters = _object(header.get("parameters"), "parameters")
    return Request(
        inputs=_inputs(header.get("inputs"), tail),
        outputs=_outputs(header.get("outputs"), parameters),
        id="" if (told := header.get("id")) is None else _text(told, "id"),
        is_binary=_flag(parameters, "binary_data_output", False),
        parameters=parameters,
    )


def write(
    outputs: Arrays,
    request: Request,
    specs: Sequence[TensorSpec],
    *,
    model: str,
    version: str,
    classes: Sequence[str] = (),
) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON part where raw tensors follow.

    Args:
        outputs: the model's answer.
        request: what was asked for.
        specs: the model's outputs.
        model, version: who answered.
        classes: names for the classification extension, by position in the last axis.
    Raises: Invalid: an output does not exist, or cannot be written as JSON.
    """
    types = {spec.name: spec.datatype for spec in specs}
    wanted = request.outputs or tuple(Wanted(name=name, is_binary=request.is_binary) for name in outputs)
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for one in wanted:
        if one.name not in outputs:
            raise Invalid("outputs", f"among {', '.join(outputs)}", one.name)
        array, datatype = outputs[one.name], types.get(one.name) or datatype_of(outputs[one.name])
        if one.top:
            array, datatype = classification.best(array, one.top, classes, one.name), "BYTES"
        entry, content = _written(one.name, array, datatype, one.is_binary)
        described.append(entry)
        raw.append(content)
    body: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        body["id"] = request.id
    return _body(body, raw, any(one.is_binary for one in wanted))


def ask(
    inputs: Arrays, *, outputs: Sequence[Wanted] = (), id: str = "", is_binary: bool = True
) -> tuple[bytes, int | None]:
    """A request's body as a client writes it, and the length of its JSON part where raw tensors follow.

    Args:
        inputs: the tensors.
        outputs: which to answer; none for all.
        id: comes back with the answer.
        is_binary: raw tensors in both directions; otherwise JSON.
    Raises: Invalid: a tensor has a type that the protocol does not know.
    """
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, array in inputs.items():
        entry, content = _written(name, array, datatype_of(array), is_binary)
        described.append(entry)
        raw.append(content)
    body: dict[str, Any] = {"inputs": described, "parameters": {"binary_data_output": is_binary}}
    if outputs:
        body["outputs"] = [{"name": one.name, "parameters": {"binary_data": one.is_binary}} for one in outputs]
    if id:
        body["id"] = id
    return _body(body, raw, is_binary)


def check(inputs: Arrays, specs: Sequence[TensorSpec]) -> int:
    """Compare inputs with what the model takes; returns the number of rows.

    Raises: Invalid: a name, type or shape differs, or the inputs disagree about the number of rows.
    """
    names = [spec.name for spec in specs]
    if (extra := [name for name in inputs if name not in names]) != []:
        raise Invalid("inputs", f"among {', '.join(names)}", ", ".join(extra))
    rows = set()
    for spec in specs:
        if spec.name not in inputs:
            raise Invalid("inputs", f"complete ({', '.join(names)})", ", ".join(inputs) or "none")
        array = inputs[spec.name]
        if (given := datatype_of(array)) != spec.datatype:
            raise Invalid(f"input {spec.name} datatype", spec.datatype, given)
        if not fits(array.shape, spec):
            raise Invalid(f"input {spec.name} shape", f"{list(spec.shape)} (-1: any from 1)", list(array.shape))
        if spec.shape[:1] == (-1,):
            rows.add(array.shape[0])
    if len(rows) > 1:
        raise Invalid("inputs", "of one batch size", sorted(rows))
    return int(rows.pop()) if rows else 1


def fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    """Whether a tensor of ``shape`` is one that ``spec`` describes; an empty one never is."""
    return (
        len(shape) == len(spec.shape)
        and 0 not in shape
        and all(want in (-1, have) for want, have in zip(spec.shape, shape, strict=True))
    )


def datatype_of(array: NDArray[Any]) -> str:
    """The protocol's name of an array's type; ``Invalid`` where it has none."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    for name, kind in DTYPES.items():
        if array.dtype == kind:
            return name
    raise Invalid("tensor type", KNOWN, str(array.dtype))


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
    """The inverse of ``to_bytes``; a numeric array is a view of ``data`` where its place in memory allows."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _shaped(_strings(data, count, name), shape, name)
    kind = _little(datatype, name)
    if len(data) != count * kind.itemsize:
        raise Invalid(f"input {name} raw data", f"{count * kind.itemsize} bytes for its shape and type", len(data))
    found = np.require(np.frombuffer(data, kind), requirements=["A"])  # runtimes take aligned memory for granted
    if datatype == "BOOL" and bool((found.view(np.uint8) > 1).any()):
        raise Invalid(f"input {name} raw data", "0 or 1 for BOOL", "other bytes")
    return _shaped(found, shape, name)


def to_list(array: NDArray[Any], datatype: str, name: str) -> Any:
    """Flat JSON data; arrays of numbers are left to the JSON writer, which is faster.

    Raises: Invalid: JSON has no form for a value (NaN, infinity, bytes that are not text).
    """
    if datatype == "BYTES":
        return [_printable(element, name) for element in array.reshape(-1)]
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise Invalid(f"tensor {name}", "of finite numbers to be JSON", "NaN or infinity", "ask for binary_data")
    if datatype == "FP16":
        array = array.astype(np.float32)  # the JSON writer does not know half floats
    return np.ascontiguousarray(array).reshape(-1)


# ---- writing


def _written(name: str, array: NDArray[Any], datatype: str, is_binary: bool) -> tuple[dict[str, Any], bytes]:
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if not is_binary:
        entry["data"] = to_list(array, datatype, name)
        return entry, b""
    content = to_bytes(array, datatype)
    entry["parameters"] = {"binary_data_size": len(content)}
    return entry, content


def _body(header: dict[str, Any], raw: list[bytes], is_binary: bool) -> tuple[bytes, int | None]:
    head = wire.dumps(header)
    return (b"".join([head, *raw]), len(head)) if is_binary else (head, None)


def _printable(element: Any, name: str) -> str:
    if not isinstance(element, bytes):
        return str(element)
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise Invalid(f"tensor {name}", "UTF-8 text to be JSON", element, "ask for binary_data") from None


# ---- reading


def _inputs(listed: Any, tail: memoryview) -> dict[str, NDArray[Any]]:
    if not isinstance(listed, list) or not listed:
        raise Invalid("inputs", "a list with at least one tensor", "nothing" if not listed else type(listed).__name__)
    found: dict[str, NDArray[Any]] = {}
    at = 0
    for i, entry in enumerate(listed):
        one = _object(entry, f"inputs[{i}]")
        name = _text(one.get("name"), f"inputs[{i}].name")
        if name in found:
            raise Invalid(f"inputs[{i}].name", "different from the others", name)
        datatype = _text(one.get("datatype"), f"input {name} datatype")
        shape = _shape(one.get("shape"), name)
        parameters = _object(one.get("parameters"), f"input {name} parameters")
        _unshared(parameters, f"input {name}")
        size = parameters.get("binary_data_size")
        if size is None:
            found[name] = _from_list(one.get("data"), datatype, shape, name)
            continue
        if "data" in one:
            raise Invalid(f"input {name}", "either 'data' or 'binary_data_size'", "both")
        if not _is_count(size) or at + size > len(tail):
            raise Invalid(f"input {name} binary_data_size", f"at most the {len(tail) - at} bytes that follow", size)
        found[name] = from_bytes(tail[at : at + size], datatype, shape, name)
        at += size
    if at != len(tail):
        raise Invalid("raw data after the header", f"{at} bytes, as the inputs say", len(tail))
    return found


def _outputs(listed: Any, parameters: Mapping[str, Any]) -> tuple[Wanted, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise Invalid("outputs", "a list", type(listed).__name__)
    default = _flag(parameters, "binary_data_output", False)
    found: dict[str, Wanted] = {}
    for i, entry in enumerate(listed):
        one = _object(entry, f"outputs[{i}]")
        name = _text(one.get("name"), f"outputs[{i}].name")
        if name in found:
            raise Invalid(f"outputs[{i}].name", "different from the others", name)
        asked = _object(one.get("parameters"), f"output {name} parameters")
        _unshared(asked, f"output {name}")
        top = asked.get("classification", 0)
        if not _is_count(top):
            raise Invalid(f"output {name} classification", "a whole number from 0", top)
        found[name] = Wanted(name=name, is_binary=_flag(asked, "binary_data", default, f"output {name} "), top=top)
    return tuple(found.values())


def _from_list(data: Any, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    flat = _flat(data, shape, name)
    if datatype == "BYTES":
        _only(flat, (str,), "text for BYTES", name)
        found = np.empty(len(flat), dtype=object)
        found[:] = [text.encode() for text in flat]
        return _shaped(found, shape, name)
    return _shaped(_numbers(flat, datatype, name), shape, name)


def _flat(data: Any, shape: tuple[int, ...], name: str) -> list[Any]:
    """The elements in row-major order, of flat data or of data nested exactly as the shape says."""
    what, count = f"input {name} data", math.prod(shape)
    if not isinstance(data, list):
        raise Invalid(what, "a list", "nothing" if data is None else type(data).__name__)
    if not data or not isinstance(data[0], list):
        if len(data) != count:
            raise Invalid(what, f"{count} elements, as its shape says", len(data))
        return data
    rows: list[Any] = [data]
    for side in shape:
        if not all(isinstance(row, list) and len(row) == side for row in rows):
            raise Invalid(what, f"flat, or nested as its shape {list(shape)}", "another nesting")
        rows = list(chain.from_iterable(rows))
    return rows


def _numbers(flat: list[Any], datatype: str, name: str) -> NDArray[Any]:
    kind = _little(datatype, name)
    what = f"input {name} data"
    if kind.kind == "b":
        _only(flat, (bool,), "true or false for BOOL", name)
        return np.array(flat, kind)
    if kind.kind in "iu":
        _only(flat, (int,), f"whole numbers for {datatype}", name)
        limits = np.iinfo(kind)
        if flat and not limits.min <= min(flat) <= max(flat) <= limits.max:
            raise Invalid(what, f"within {limits.min}..{limits.max} for {datatype}", f"{min(flat)}..{max(flat)}")
        return np.array(flat, kind)
    _only(flat, (int, float), f"numbers for {datatype}", name)
    wide = np.array(flat, np.float64)
    with np.errstate(over="ignore"):
        found = wide.astype(kind)
    if not bool(np.isfinite(found).all()):
        raise Invalid(what, f"within the range of {datatype}", float(np.abs(wide).max()))
    return found


def _only(flat: list[Any], kinds: tuple[type, ...], expected: str, name: str) -> None:
    if not set(map(type, flat)) <= set(kinds):
        wrong = next(x for x in flat if type(x) not in kinds)
        raise Invalid(f"input {name} data", expected, repr(wrong))


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


def _raw(body: bytes, specs: Sequence[TensorSpec]) -> Arrays:
    """A body without header: the one input; a free batch axis is worked out from the length."""
    if len(specs) != 1:
        raise Invalid("a body without header", "for a model with one input", f"{len(specs)} inputs")
    spec = specs[0]
    if spec.datatype == "BYTES":
        one = np.empty(1, dtype=object)
        one[0] = body
        return {spec.name: one.reshape((1,) * len(spec.shape))}
    free = [i for i, side in enumerate(spec.shape) if side == -1]
    rest = math.prod(side for side in spec.shape if side != -1) * _little(spec.datatype, spec.name).itemsize
    if len(free) > 1 or not body or not rest or len(body) % rest or (not free and len(body) != rest):
        raise Invalid(
            "a body without header", f"raw {spec.datatype} data of shape {list(spec.shape)}", f"{len(body)} bytes"
        )
    shape = [len(body) // rest if side == -1 else side for side in spec.shape]
    return {spec.name: from_bytes(memoryview(body), spec.datatype, shape, spec.name)}


def _little(datatype: str, name: str = "") -> np.dtype[Any]:
    if datatype not in DTYPES:
        raise Invalid(f"input {name} datatype" if name else "datatype", KNOWN, datatype)
    return np.dtype(DTYPES[datatype]).newbyteorder("<")


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_RANK or not all(_is_count(n) and n < MAX_SIDE for n in value):
        raise Invalid(f"input {name} shape", f"a list of at most {MAX_RANK} whole numbers in 0..{MAX_SIDE - 1}", value)
    return tuple(value)


def _shaped(array: NDArray[Any], shape: Sequence[int], name: str) -> NDArray[Any]:
    try:
        return array.reshape(shape)
    except ValueError as error:  # sides that overflow the address space beside a 0
        raise Invalid(f"input {name} shape", "one that fits its data", f"{list(shape)} ({error})") from None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flag(parameters: Mapping[str, Any], name: str, default: bool, of: str = "parameter ") -> bool:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise Invalid(f"{of}{name}", "true or false", value)
    return default if value is None else value


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid(what, "a JSON object", type(value).__name__)
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Invalid(what, "text", "nothing" if value is None else type(value).__name__)
    return value


def _unshared(parameters: Mapping[str, Any], what: str) -> None:
    if _SHARED in parameters:
        raise Invalid(what, "sent in the body", _SHARED, "shared memory is not offered")
