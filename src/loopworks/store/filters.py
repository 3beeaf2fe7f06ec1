"""A condition of ``core.query`` as SQL, for SQLite and PostgreSQL with the same answer; values are always bound."""

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import FromClause

from loopworks.core.query import Among, And, Between, Compare, Count, Field, Match, Missing, Node, Not, Or, Value
from loopworks.store import tables, words

Condition = ColumnElement[bool]
Of = Literal["text", "number", "bool", "time"]
_item, _tag, _said, _guess = tables.item, tables.item_tag, tables.annotation, tables.prediction
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_JSON_TYPES: dict[str, dict[Of, tuple[str, ...]]] = {
    "sqlite": {"text": ("text",), "number": ("integer", "real"), "bool": ("true", "false")},
    "postgresql": {"text": ("string",), "number": ("number",), "bool": ("boolean",)},
}


class Filter:
    """Turns conditions about the items of one dataset into SQL over the ``item`` table."""

    def __init__(self, dialect: str, dataset: str, models: tuple[str, ...], *, is_of_few: bool = False) -> None:
        """Speak ``dialect`` (sqlite or postgresql); predictions are those of ``models``, ``()``: of all.

        With ``is_of_few`` the condition is asked of few items, so the words of each are looked at.
        """
        self._dialect = dialect
        self._dataset = dataset
        self._models = models
        self._is_of_few = is_of_few
        self._shape: FromClause | None = None

    def where(self, node: Node) -> Condition:
        """The condition for the WHERE of a query."""
        match node:
            case And(parts):
                return sa.and_(sa.true(), *(self.where(part) for part in parts))
            case Or(parts):
                return sa.or_(sa.false(), *(self.where(part) for part in parts))
            case Not(part):
                # NULL (a value that is not there) is false everywhere else by itself, but NOT NULL is not true.
                return sa.not_(sa.func.coalesce(self.where(part), sa.false()))
            case Missing(found):
                return sa.not_(self._some(found, None, lambda value: value.is_not(None)))
            case Among(found, values):
                return self._among(found, values)
            case Between(found, low, high):
                of = kind_of(low)
                return self._some(found, of, lambda v: _full(v, of) & (v >= bound(low)) & (v <= bound(high)))
            case Compare(found, op, value):
                return self._between_fields(found, op, value) if isinstance(value, Field) else self._to(node)
            case Count(where, op, number):
                return self._count(where, op, number)
            case Match(text):
                if self._is_of_few:
                    return words.has(self._dialect, self._dataset, text, _item.c.id)
                return _item.c.id.in_(words.having(self._dialect, self._dataset, text))

    # ---- conditions

    def _to(self, node: Compare) -> Condition:
        op, value = node.op, node.value
        assert not isinstance(value, Field)
        of = kind_of(value)
        if op == "like":
            pattern = str(value)
            return self._some(node.field, "text", lambda v: _full(v, of) & self._like(v, pattern))
        if op == "=":
            return self._some(node.field, of, lambda v: v == bound(value))
        return self._some(node.field, of, lambda v: _full(v, of) & _OPERATORS[op](v, bound(value)))

    def _like(self, value: ColumnElement[Any], pattern: str) -> Condition:
        if self._dialect == "postgresql":
            return value.like(pattern)
        return value.op("GLOB", is_comparison=True)(glob(pattern))  # LIKE of SQLite ignores the case of a to z alone

    def _among(self, found: Field, values: tuple[Value, ...]) -> Condition:
        kinds: dict[Of, list[Value]] = {}
        for value in values:
            kinds.setdefault(kind_of(value), []).append(value)
        tests = []
        for of, some in kinds.items():
            listed = [bound(value) for value in some]
            tests.append(self._some(found, of, functools.partial(_is_in, listed)))
        return sa.or_(sa.false(), *tests)

    def _between_fields(self, found: Field, op: str, other: Field) -> Condition:
        kind = found.kind if found.kind != "any" else other.kind
        of: Of = "text" if kind == "text" else "number" if kind == "number" else "time"

        def test(one: ColumnElement[Any]) -> Condition:
            return self._some(other, of, lambda two: _full(one, of) & _full(two, of) & _OPERATORS[op](one, two))

        return self._some(found, of, test)

    def _count(self, where: Node | None, op: str, number: int | float) -> Condition:
        shape = _said.alias()
        query = sa.select(sa.func.count()).select_from(shape).where(*self._link(shape))
        if where is not None:
            self._shape = shape
            query = query.where(self.where(where))
            self._shape = None
        found: Condition = _OPERATORS[op](query.correlate(_item).scalar_subquery(), bound(number))
        return found

    # ---- values

    def _some(self, found: Field, of: Of | None, test: Callable[[ColumnElement[Any]], Condition]) -> Condition:
        """That one value of the field passes; ``of`` ``None``: values of every kind, NULL where there is none."""
        if found.scope in ("item", "attribute"):
            return test(self._value(found, of, _item))
        if found.scope == "shape" and self._shape is not None:
            return test(self._value(found, of, self._shape))
        table = {"tag": _tag, "shape": _said, "prediction": _guess}[found.scope].alias()
        rows: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(table).where(*self._link(table))
        return rows.where(test(self._value(found, of, table))).correlate_except(table).exists()

    def _link(self, table: FromClause) -> list[Condition]:
        tests: list[Condition] = [table.c.dataset == self._dataset, table.c.item == _item.c.id]
        if "deleted_at" in table.c:
            tests.append(table.c.deleted_at.is_(None))
        if "score" in table.c and self._models:
            tests.append(table.c.model.in_(self._models))
        return tests

    def _value(self, found: Field, of: Of | None, table: FromClause) -> ColumnElement[Any]:
        if found.keys:
            return self._json(table.c.attributes, found.keys, of)
        value = column(found, table)
        return sa.func.nullif(value, "") if of is None and found.kind == "text" else value

    def _json(self, value: ColumnElement[Any], keys: tuple[str, ...], of: Of | None) -> ColumnElement[Any]:
        return json_value(self._dialect, value, keys, of)


def column(found: Field, table: FromClause) -> ColumnElement[Any]:
    """The column of a field, or what it is worked out from."""
    name = found.name.rpartition(".")[2]
    if name == "area":
        width: ColumnElement[Any] = table.c.width
        if found.name == "area":
            width = sa.cast(width, sa.BigInteger)  # PostgreSQL multiplies integers of 32 bits as such
        return width * table.c.height
    if name == "uncertainty":
        return 1 - table.c.score
    return table.c[name]


def json_value(dialect: str, value: ColumnElement[Any], keys: tuple[str, ...], of: Of | None) -> ColumnElement[Any]:
    """The value at ``keys`` of a JSON object where it is of the kind ``of``, else NULL; ``None``: its type's name."""
    if dialect == "postgresql":
        found: ColumnElement[Any] = sa.func.json_extract_path(sa.cast(value, JSON), *keys)
        kind: ColumnElement[Any] = sa.func.json_typeof(found)
        # COLLATE: the server's own order of text may be another.
        text: ColumnElement[Any] = sa.func.json_extract_path_text(sa.cast(value, JSON), *keys, type_=sa.String)
        plain: ColumnElement[Any] = text.collate("C")
        number: ColumnElement[Any] = sa.cast(text, sa.Double)
        truth: ColumnElement[Any] = text == "true"
    else:
        path = "$" + "".join(f'."{key}"' for key in keys)
        kind = sa.func.json_type(value, path)
        plain = number = text = sa.func.json_extract(value, path, type_=sa.String)
        number = sa.func.json_extract(value, path, type_=sa.Double)
        truth = kind == "true"
    if of is None:
        is_none = sa.or_(kind.is_(None), kind == "null", kind.in_(_JSON_TYPES[dialect]["text"]) & (text == ""))
        return sa.case((is_none, None), else_=kind)
    if of == "time":
        raise AssertionError("attributes hold no times")
    is_it = kind.in_(_JSON_TYPES[dialect][of])
    return sa.case((is_it, {"text": plain, "number": number, "bool": truth}[of]))


def kind_of(value: Value) -> Of:
    """The kind of values that can be compared with this one."""
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "time" if isinstance(value, datetime) else "number"


def bound(value: Value) -> ColumnElement[Any]:
    """The value as a bound parameter, never as text of the statement."""
    if isinstance(value, bool):
        return sa.true() if value else sa.false()
    if isinstance(value, str):
        return sa.literal(value, tables.TEXT)
    if isinstance(value, datetime):
        return sa.literal(value, tables.Instant)
    return sa.literal(value, sa.BigInteger if isinstance(value, int) else sa.Double)


def glob(pattern: str) -> str:
    """A LIKE pattern as one of GLOB."""
    out, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
            character = pattern[at]
        elif character in "%_":
            out.append({"%": "*", "_": "?"}[character])
            at += 1
            continue
        out.append(f"[{character}]" if character in "*?[" else character)
        at += 1
    return "".join(out)


def _is_in(listed: list[ColumnElement[Any]], value: ColumnElement[Any]) -> Condition:
    return value.in_(listed)


def _full(value: ColumnElement[Any], of: Of) -> Condition:
    return value != "" if of == "text" else sa.true()
