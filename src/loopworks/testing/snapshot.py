"""A value as plain data that can be compared later: how contracts see that something changed or differs."""

import dataclasses
import hashlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

_PLAIN = (str, bytes, int, bool, type(None))


def snapshot(value: Any) -> Any:
    """``value`` as nested dicts, lists and plain values that share nothing with it.

    Arrays become shape, type and digest; a path that exists becomes the content of its files, so that two folders
    with equal files are equal; floats keep every bit (NaN equals NaN); other objects become their attributes.
    """
    return _snapshot(value, ())


def difference(left: Any, right: Any) -> str:
    """Where the two values differ first, e.g. ``.weights[0]: 1.0 is not 2.0``; empty where they are equal."""
    return _difference(snapshot(left), snapshot(right), "")


def _snapshot(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, float | np.generic):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, Path):
        return _path(value)
    if id(value) in above:
        return "..."
    above = (*above, id(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
        return {"": type(value).__qualname__} | {k: _snapshot(v, above) for k, v in fields.items()}
    if isinstance(value, Mapping):
        return {_key(k): _snapshot(v, above) for k, v in value.items()}
    if isinstance(value, Set):
        return sorted((_snapshot(v, above) for v in value), key=repr)
    if isinstance(value, list | tuple):
        return [_snapshot(v, above) for v in value]
    if hasattr(value, "__dict__") and not callable(value):
        return {"": type(value).__qualname__} | {k: _snapshot(v, above) for k, v in vars(value).items()}
    return repr(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else repr(key)


def _array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype == object:
        return [_snapshot(v, ()) for v in array.ravel().tolist()]
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    head = np.array2string(array.ravel()[:6], threshold=6)
    return {"": "array", "dtype": str(array.dtype), "shape": list(array.shape), "starts": head, "sha256": digest}


def _path(path: Path) -> Any:
    if path.is_file():
        return f"file sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    if path.is_dir():
        return {p.relative_to(path).as_posix(): _path(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return f"path {path}"


def _difference(left: Any, right: Any, at: str) -> str:
    if type(left) is not type(right):
        return f"{at or 'value'}: {_short(left)} is not {_short(right)}"
    if isinstance(left, dict):
        for key in [*left, *(k for k in right if k not in left)]:
            if key not in left or key not in right:
                return f"{at}.{key}: only on the {'left' if key in left else 'right'}"
            if found := _difference(left[key], right[key], f"{at}.{key}" if key else at):
                return found
        return ""
    if isinstance(left, list):
        at = at or "value"
        if len(left) != len(right):
            return f"{at or 'value'}: {len(left)} members are not {len(right)}"
        return next(
            (d for i, p in enumerate(zip(left, right, strict=True)) if (d := _difference(*p, f"{at}[{i}]"))), ""
        )
    return "" if left == right else f"{at or 'value'}: {_short(left)} is not {_short(right)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
