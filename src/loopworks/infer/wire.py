"""JSON of requests and answers: orjson where it is installed, else the standard library with the same values.

An edge bundle runs without orjson. What one refuses, the other refuses too; numbers come out as the same doubles.
"""

import json
import math
from typing import Any

import numpy as np

try:
    import orjson
except ImportError:  # an edge bundle: numpy and Pillow alone
    orjson = None  # type: ignore[assignment]

_LOW, _HIGH = -(1 << 63), 1 << 64


def loads(data: bytes | memoryview) -> Any:
    """The value that UTF-8 JSON says; ``ValueError`` where it is none."""
    return _loads(data) if orjson is None else orjson.loads(data)


def dumps(value: Any) -> bytes:
    """UTF-8 JSON; arrays become lists, NaN and infinity null, and whatever else is unknown its text."""
    if orjson is None:
        return _dumps(value)
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=str)


def _loads(data: bytes | memoryview) -> Any:
    text = str(data, "utf-8")
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except RecursionError:
        raise ValueError("depth limit exceeded") from None
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _float(text: str) -> float:
    if math.isinf(found := float(text)):
        raise ValueError(f"number is infinity when parsed as double: {text[:40]}")
    return found


def _int(text: str) -> int | float:
    if len(text) < 21 and _LOW <= (found := int(text)) < _HIGH:
        return found
    return _float(text)


def _dumps(value: Any) -> bytes:
    try:
        return _text(value).encode()
    except ValueError:  # not finite
        return _text(_finite(value)).encode()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        return str(value)
    if value.dtype == np.float32:  # the shortest text that is this float32, as orjson writes it
        value = value.astype("U32").astype(np.float64)
    return value.tolist()


def _finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, np.ndarray | np.generic):
        value = _plain(value)
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
