"""The plain form of a request, read and answered with a few calls for a whole batch instead of several per tensor.

Most clients send all inputs in the model's order, as flat JSON, and ask for all outputs as JSON. What is of that form
is told by comparing tuples; anything else, and every fault, goes to ``protocol``, and the two agree to the last byte.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf, prod
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.core.values import TensorSpec
from loopworks.infer import wire

MOST_ROWS = 1024
"""Rows of one request; more are not what this is for."""
_FIELDS = itemgetter("name", "datatype", "shape", "data")
_KEYS = frozenset({"inputs", "id"})
_INT = frozenset({int})
_LIST = frozenset({list})
_FOUR = frozenset({4})
_TYPES: dict[str, frozenset[type]] = {
    "FP32": frozenset({int, float}),
    "FP64": frozenset({int, float}),
    "INT64": _INT,
    "BYTES": frozenset({str}),
}
_WRITTEN = frozenset({"FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL"})
_LARGEST_SQUARE = float(np.finfo(np.float32).max) ** 2
_SEEN_MOST = 256
_SEEN_WIDTH = 512


@dataclass(slots=True, eq=False)
class Plain:
    """A request in plain form."""

    rows: int
    lists: tuple[list[Any], ...]
    """The data of each input, in the model's order."""
    id: str


class Form:
    """The plain form of one model's requests and answers."""

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, model: str, version: str
    ) -> None:
        """Of a model with these inputs (see ``fits``) and outputs, that answers as ``model`` and ``version``."""
        self._names = tuple(spec.name for spec in inputs)
        self._kinds = tuple(spec.datatype for spec in inputs)
        self._rests = [list(spec.shape[1:]) for spec in inputs]
        self._widths = tuple(prod(rest) for rest in self._rests)
        self._allowed = tuple(_TYPES[kind] for kind in self._kinds)
        self._sizes: dict[int, tuple[tuple[list[int], ...], tuple[int, ...]]] = {}
        """Rows -> shape and number of elements of each input."""
        self._seen: set[tuple[type, ...]] = set()
        self._groups = _groups(self._kinds, self._rests)
        self._outputs = [
            (
                spec.name,
                b'{"name":' + wire.dumps(spec.name) + b',"datatype":"' + spec.datatype.encode() + b'","shape":',
            )
            for spec in outputs
        ]
        self._is_written = all(spec.datatype in _WRITTEN for spec in outputs)
        self._head = b'{"model_name":%b,"model_version":%b,"outputs":[' % (wire.dumps(model), wire.dumps(version))

    @staticmethod
    def fits(inputs: Sequence[TensorSpec]) -> bool:
        """Whether there is a plain form: any number of rows, all else fixed, and types that JSON tells apart."""
        return all(
            spec.shape[:1] == (-1,) and spec.datatype in _TYPES and min(spec.shape[1:], default=1) > 0
            for spec in inputs
        )

    def read(self, header: Mapping[str, Any]) -> Plain | None:
        """The request, checked as ``protocol`` checks it; ``None`` where it is not plain, or not right."""
        given, told = header.get("inputs"), header.get("id", "")
        if type(given) is not list or type(told) is not str or not header.keys() <= _KEYS:
            return None
        try:
            names, kinds, shapes, datas = zip(*map(_FIELDS, given), strict=True)
            rows = shapes[0][0]
            lengths = tuple(map(len, datas))
        except (KeyError, TypeError, ValueError, IndexError):
            return None
        if names != self._names or kinds != self._kinds or type(rows) is not int or not 0 < rows <= MOST_ROWS:
            return None
        if (expected := self._sizes.get(rows)) is None:
            sizes = tuple([rows, *rest] for rest in self._rests)
            expected = self._sizes[rows] = sizes, tuple(rows * width for width in self._widths)
        if (shapes, lengths) != expected:
            return None
        if not (
            _FOUR.issuperset(map(len, given))
            and _LIST.issuperset(map(type, datas))
            and _INT.issuperset(map(type, chain.from_iterable(shapes)))  # 1.0 and true equal 1, and are no sizes
            and self._is_typed(datas)
        ):
            return None
        return Plain(rows, datas, told)

    def join(self, asked: Sequence[Plain]) -> dict[str, NDArray[Any]] | None:
        """The inputs of several requests as one batch; ``None`` where a number is out of the range of its type."""
        if len(asked) == 1:
            lists: Sequence[list[Any]] = asked[0].lists
        else:
            lists = [list(chain.from_iterable(parts)) for parts in zip(*(one.lists for one in asked), strict=True)]
        found: dict[str, NDArray[Any]] = {}
        for kind, places in self._groups:
            try:
                made = _made(kind, [lists[place] for place in places])
            except OverflowError:
                return None
            if made is None:
                return None
            for row, place in zip(made, places, strict=True):
                found[self._names[place]] = row.reshape(-1, *self._rests[place])
        return found

    def write(self, outputs: Arrays, asked: Sequence[Plain]) -> list[bytes] | None:
        """The body of each answer, from the outputs of the batch; ``None``: JSON has no form for a value."""
        if not self._is_written:
            return None
        if not all(array.dtype.kind != "f" or _are_finite(array) for array in outputs.values()):
            return None
        parts = [(head, *_written(outputs[name])) for name, head in self._outputs]
        if len(parts) == 1 and len(asked) > 1 and all(one.rows == 1 and not one.id for one in asked):
            ((head, rest, rows),) = parts  # a batch of single rows: the same around each
            start = b'%b%b[1%b],"data":[' % (self._head, head, rest)
            return [b"%b%b]}]}" % (start, row) for row in rows]
        found = []
        at = 0
        for one in asked:
            end = at + one.rows
            told = [
                b'%b[%d%b],"data":[%b]}' % (head, one.rows, rest, b",".join(rows[at:end])) for head, rest, rows in parts
            ]
            tail = b'],"id":%b}' % wire.dumps(one.id) if one.id else b"]}"
            found.append(b"%b%b%b" % (self._head, b",".join(told), tail))
            at = end
        return found

    def _is_typed(self, datas: Sequence[list[Any]]) -> bool:
        """Whether all elements are of their input's types; what was right once is remembered."""
        types = tuple(map(type, chain.from_iterable(datas)))
        if types in self._seen:
            return True
        if not all(allowed.issuperset(map(type, data)) for allowed, data in zip(self._allowed, datas, strict=True)):
            return False
        if len(types) <= _SEEN_WIDTH and len(self._seen) < _SEEN_MOST:
            self._seen.add(types)
        return True


def _groups(kinds: Sequence[str], rests: Sequence[list[int]]) -> list[tuple[str, list[int]]]:
    """Inputs that one call makes arrays of: those of one type and size."""
    found: dict[tuple[str, int], list[int]] = {}
    for place, (kind, rest) in enumerate(zip(kinds, rests, strict=True)):
        found.setdefault((kind, prod(rest)), []).append(place)
    return [(kind, places) for (kind, _), places in found.items()]


def _made(kind: str, lists: list[list[Any]]) -> NDArray[Any] | None:
    """Equally long lists as an array with a row for each."""
    if kind == "BYTES":
        made = np.empty((len(lists), len(lists[0])), object)
        for row, texts in zip(made, lists, strict=True):
            row[:] = [text.encode() for text in texts]
        return made
    if kind == "INT64":
        return np.array(lists, np.int64)
    wide = np.array(lists, np.float64)
    if kind != "FP32":
        return wide if _are_finite(wide) else None
    if np.vdot(wide, wide) <= _LARGEST_SQUARE:  # then none of them is larger, and none is no number
        return wide.astype(np.float32)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow if _are_finite(narrow) else None


def _are_finite(array: NDArray[Any]) -> bool:
    """Whether all are; for most the sum of squares says so, in a third of the time."""
    return bool(np.vdot(array, array) < inf) or bool(np.isfinite(array).all())


def _written(array: NDArray[Any]) -> tuple[bytes, list[bytes]]:
    """An output's sides after the first as they stand in a shape, and the JSON of each row's numbers."""
    rest = b"".join([b",%d" % side for side in array.shape[1:]])
    array = np.ascontiguousarray(array)
    if array.ndim == 1 or array.size == len(array):
        return rest, wire.dumps(array.reshape(-1))[1:-1].split(b",")
    return rest, wire.dumps(array.reshape(len(array), -1))[2:-2].split(b"],[")
