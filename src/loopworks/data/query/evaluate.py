"""Whether one item fulfils a query, in plain Python: slow and plain, what every other way must agree with."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from loopworks.core.query import Among, And, Between, Compare, Count, Field, Match, Missing, Node, Not, Or, Value
from loopworks.core.values import Shape
from loopworks.core.words import texts, wanted, words
from loopworks.store import shapes
from loopworks.store.items import Item

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Guess(Protocol):
    """A prediction, as far as a query looks at it."""

    @property
    def model(self) -> str:
        """Who."""

    @property
    def label(self) -> str:
        """What."""

    @property
    def score(self) -> float:
        """How sure, 0..1."""


def holds(node: Node, item: Item, guesses: Sequence[Guess] = ()) -> bool:
    """Whether the item fulfils the query; ``guesses``: its predictions by the models that the query speaks of."""
    return _holds(node, _Of(item, guesses))


class _Of:
    def __init__(self, item: Item, guesses: Sequence[Guess]) -> None:
        self.item = item
        self.guesses = guesses
        self.shapes: Sequence[Shape] = item.labels

    def only(self, shape: Shape) -> "_Of":
        one = _Of(self.item, self.guesses)
        one.shapes = (shape,)
        return one

    def values(self, found: Field) -> Iterator[Any]:
        """The field's values; nothing and empty text are none."""
        yield from (value for value in self._raw(found) if value is not None and value != "")

    def _raw(self, found: Field) -> Iterable[Any]:
        item, last = self.item, found.name.rpartition(".")[2]
        if found.name == "area":
            return [item.width * item.height]
        if found.scope == "attribute":
            return [_dig(item.attributes, found.keys)]
        if found.scope == "item":
            return [getattr(item, found.name)]
        if found.scope == "tag":
            return item.tags
        if found.scope == "prediction":
            if last == "uncertainty":
                return [1 - guess.score for guess in self.guesses]
            return [getattr(guess, last) for guess in self.guesses]
        if found.keys:
            return [_dig(shape.facts, found.keys) for shape in self.shapes]
        if found.name.startswith("box."):
            return [_side(shape, last) for shape in self.shapes]
        return [getattr(shape, found.name) for shape in self.shapes]


def _holds(node: Node, of: _Of) -> bool:
    match node:
        case And(parts):
            return all(_holds(part, of) for part in parts)
        case Or(parts):
            return any(_holds(part, of) for part in parts)
        case Not(part):
            return not _holds(part, of)
        case Missing(found):
            return not any(True for _ in of.values(found))
        case Among(found, values):
            return any(_alike(one, value) and one == value for one in of.values(found) for value in values)
        case Between(found, low, high):
            return any(_alike(one, low) and low <= one <= high for one in of.values(found))
        case Compare(found, op, value):
            others = list(of.values(value)) if isinstance(value, Field) else [value]
            return any(_compare(one, op, other) for one in of.values(found) for other in others)
        case Count(where, op, number):
            hits = sum(where is None or _holds(where, of.only(shape)) for shape in of.item.labels)
            return _COMPARE[op](hits, number)
        case Match(text):
            return set(wanted(text)) <= words(searchable(of.item))


def searchable(item: Item) -> str:
    """All text of an item that is searched for words."""
    return "\n".join(texts(item.name, item.text, item.attributes, item.tags, _captions(item.labels)))


def _captions(shapes: Sequence[Shape]) -> Iterator[Any]:
    return (shape.facts for shape in shapes if shape.kind == "caption")


def like(pattern: str) -> re.Pattern[str]:
    r"""The expression for SQL's LIKE: % any text, _ one character, \ takes the next one as it is."""
    parts = re.findall(r"\\.|[^\\]", pattern, re.DOTALL)
    plain = (".*" if p == "%" else "." if p == "_" else re.escape(p[-1]) for p in parts)
    return re.compile("".join(plain), re.DOTALL)


def _compare(one: Any, op: str, other: Value) -> bool:
    if not _alike(one, other):
        return False
    if op == "like":
        return like(str(other)).fullmatch(one) is not None
    return _COMPARE[op](one, other)


def _alike(one: Any, other: Any) -> bool:
    """Whether two values can be compared: true is no number, and 3 is not '3'."""
    for kind in (bool, str, int | float):
        if isinstance(one, kind):
            return isinstance(other, kind) and isinstance(other, bool) == isinstance(one, bool)
    return type(one) is type(other) or (hasattr(one, "tzinfo") and hasattr(other, "tzinfo"))


def _dig(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _side(shape: Shape, name: str) -> float | None:
    row = shapes.columns(shape, 0)
    if row["x"] is None:
        return None
    return float(row["width"] * row["height"]) if name == "area" else float(row[name])
