"""What a filter says, as plain values: fields, conditions and their combinations; nothing here reads text or data.

Two-valued logic: a condition holds for an item or it does not. A condition about a value that is not there does not
hold, and ``Not`` is the plain opposite. A field with many values (labels, tags, boxes ...) satisfies a condition where
one of them does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Kind = Literal["text", "number", "time", "any", "truth", "clock"]
"""``truth`` (true or false) and ``clock`` (time of day, in seconds) are kinds of columns of tables alone."""
Scope = Literal["item", "attribute", "tag", "shape", "prediction"]
Operator = Literal["=", "<", "<=", ">", ">=", "like"]
Value = str | int | float | bool | datetime

FLIPPED: dict[str, str] = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""The operator that says the same with its sides exchanged."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a field holds."""

    kind: Kind
    scope: Scope
    text: str
    """What it is, for the docs and the error that lists the fields."""


FIELDS: dict[str, Known] = {
    "id": Known("text", "item", "SHA-256 of the bytes, in hex"),
    "name": Known("text", "item", "path as imported"),
    "uri": Known("text", "item", "where the bytes of an item by reference lie"),
    "mime": Known("text", "item", "media type, such as image/png"),
    "width": Known("number", "item", "pixels"),
    "height": Known("number", "item", "pixels"),
    "area": Known("number", "item", "width x height, pixels"),
    "size_bytes": Known("number", "item", "bytes of the file; size for short"),
    "split": Known("text", "item", "train, val or test; missing where there is none yet"),
    "state": Known("text", "item", "labeled or unlabeled"),
    "added_at": Known("time", "item", "when it was added, UTC"),
    "rev": Known("number", "item", "how often its label, split or tags changed"),
    "text": Known("text", "item", "the item itself, where items are texts"),
    "tag": Known("text", "tag", "each of its tags"),
    "label": Known("text", "shape", "class of each of its shapes"),
    "source": Known("text", "shape", "who said a shape: person, import or model"),
    "author": Known("text", "shape", "name of who said a shape"),
    "kind": Known("text", "shape", "class, box, obb, polygon, mask, polyline, points, ellipse, caption or value"),
    "box.x": Known("number", "shape", "left edge of the upright box around a shape, pixels"),
    "box.y": Known("number", "shape", "upper edge, pixels"),
    "box.width": Known("number", "shape", "pixels"),
    "box.height": Known("number", "shape", "pixels"),
    "box.area": Known("number", "shape", "box.width x box.height, pixels"),
    "prediction.label": Known("text", "prediction", "class of each prediction"),
    "prediction.score": Known("number", "prediction", "confidence of each prediction, 0..1"),
    "prediction.uncertainty": Known("number", "prediction", "1 - prediction.score"),
    "prediction.model": Known("text", "prediction", "NAME:NUMBER of the model; the newest scores where none is named"),
}
"""Every field; beside them ``attributes.NAME`` of items and ``shape.attributes.NAME`` of shapes, of any type."""

ALIASES = {"size": "size_bytes", "labels": "label", "tags": "tag", "box.w": "box.width", "box.h": "box.height"}


@dataclass(frozen=True, slots=True)
class Field:
    """A field, named as in ``FIELDS``, or ``attributes`` / ``shape.attributes`` with the keys that lead to a value."""

    name: str
    keys: tuple[str, ...] = ()

    @property
    def scope(self) -> Scope:
        """What has it."""
        if self.name == "attributes":
            return "attribute"
        return "shape" if self.name == "shape.attributes" else FIELDS[self.name].scope

    @property
    def kind(self) -> Kind:
        """What it holds."""
        return "any" if self.keys else FIELDS[self.name].kind

    def __str__(self) -> str:
        """As it is written in a query."""
        return ".".join((self.name, *self.keys))


@dataclass(frozen=True, slots=True)
class Column(Field):
    """A column of a table; its name is the user's."""

    holds: Kind = "text"

    @property
    def scope(self) -> Scope:
        """What has it: the row."""
        return "item"

    @property
    def kind(self) -> Kind:
        """What it holds."""
        return self.holds


@dataclass(frozen=True, slots=True)
class Compare:
    """One of the field's values compares so with the value, or with one of another field's values."""

    field: Field
    op: Operator
    value: Value | Field


@dataclass(frozen=True, slots=True)
class Among:
    """One of the field's values is one of these."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """One of the field's values lies in low..high, both ends included."""

    field: Field
    low: Value
    high: Value


@dataclass(frozen=True, slots=True)
class Missing:
    """The field has no value: nothing there, an empty text, or JSON's null."""

    field: Field


@dataclass(frozen=True, slots=True)
class Match:
    """All these words occur in the item's name, text, captions, attributes or tags (see ``core.words``)."""

    text: str


@dataclass(frozen=True, slots=True)
class Count:
    """The number of the item's shapes for which ``where`` holds (all of them where it is ``None``) compares so."""

    where: "Node | None"
    op: Operator
    number: int | float


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class And:
    """All hold; without parts: always."""

    parts: tuple["Node", ...] = ()


@dataclass(frozen=True, slots=True)
class Or:
    """One holds; without parts: never."""

    parts: tuple["Node", ...] = ()


Node = Compare | Among | Between | Missing | Match | Count | Not | And | Or

ALWAYS: Node = And()
NEVER: Node = Or()


@dataclass(frozen=True, slots=True)
class Sort:
    """The order of a page. Items without the value come last, either way; equal ones by id."""

    field: Field | None = field(default_factory=lambda: Field("name"))
    """``None``: the number of shapes."""
    is_down: bool = False
    """From the largest to the smallest."""


SORTS = (
    "name", "id", "added_at", "size_bytes", "width", "height", "area", "rev", "split", "state", "count",
    "prediction.score", "prediction.uncertainty", "attributes.NAME",
)  # fmt: skip
"""What a page may be sorted by."""


def walk(node: Node) -> Iterator[Node]:
    """The node and all that it is made of."""
    yield node
    if isinstance(node, And | Or):
        for part in node.parts:
            yield from walk(part)
    elif isinstance(node, Not):
        yield from walk(node.part)
    elif isinstance(node, Count) and node.where is not None:
        yield from walk(node.where)


def fields(node: Node) -> Iterator[Field]:
    """All fields that the condition looks at."""
    for part in walk(node):
        if isinstance(part, Compare | Among | Between | Missing):
            yield part.field
        if isinstance(part, Compare) and isinstance(part.value, Field):
            yield part.value


def models(node: Node) -> tuple[str, ...] | None:
    """The models whose predictions the condition speaks of: by name, ``()`` for all of them, ``None``: the newest.

    Models named with ``=`` or ``in`` are looked at alone, so that
    ``prediction.model = 'm:2' and prediction.score < 0.6`` speaks of the scores of m:2.
    """
    named: list[str] = []
    is_open = False
    for part in walk(node):
        if isinstance(part, Compare | Among | Between | Missing) and part.field.name == "prediction.model":
            if isinstance(part, Compare) and part.op == "=" and isinstance(part.value, str):
                named.append(part.value)
            elif isinstance(part, Among):
                named += [value for value in part.values if isinstance(value, str)]
            elif not isinstance(part, Missing):
                is_open = True
    if is_open:
        return ()
    return tuple(dict.fromkeys(named)) or None
