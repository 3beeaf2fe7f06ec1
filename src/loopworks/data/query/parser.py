"""Reading a query: ``label = 'car' and count(car) >= 2 and not tag = 'night'`` becomes ``core.query`` values."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import cast

from loopworks.core.errors import Invalid
from loopworks.core.query import (
    ALIASES,
    ALWAYS,
    FIELDS,
    FLIPPED,
    NEVER,
    SORTS,
    Among,
    And,
    Between,
    Column,
    Compare,
    Count,
    Field,
    Match,
    Missing,
    Node,
    Not,
    Operator,
    Or,
    Sort,
    Value,
    walk,
)
from loopworks.core.words import wanted
from loopworks.data.query import literals
from loopworks.data.query.literals import Day
from loopworks.data.query.tokens import WORDS, Token, fail, keys, tokens

MAX_DEPTH = 50
"""Parentheses and ``not`` inside of each other."""
MAX_PARTS = 300
"""Conditions of one query."""
MAX_VALUES = 1000
"""Values of one ``in``."""
MAX_SHOWN = 30
"""Columns that an error lists."""
_SIGNS = {"==": "=", "<>": "!="}
_COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
_TAIL = "a comparison: = != < <= > >= in, between, like, is missing"
_ATTRIBUTES = ("attributes", "shape.attributes")


def parse(query: str, columns: Mapping[str, Column] | None = None) -> Node:
    """What a query says; an empty one holds for every item.

    Args:
        query: the text.
        columns: those of a table by their names, in place of the fields of items.
    Raises: Invalid: it cannot be read, or makes no sense; the hint points at the place.
    """
    reader = _Reader(query, columns)
    node = reader.whole()
    if sum(1 for _ in walk(node)) > 4 * MAX_PARTS:
        raise Invalid("query", f"of at most {MAX_PARTS} conditions", "more")
    return node


def parse_sort(text: str) -> Sort:
    """The order of a page: a field of ``SORTS``, with ``-`` before it from the largest to the smallest.

    Raises: Invalid: no such order; the error lists those that exist.
    """
    is_down, name = text.startswith("-"), text.removeprefix("-").removeprefix("+")
    name = {"size": "size_bytes", "shapes": "count"}.get(name, name)
    if name in ("", "name"):
        return Sort(Field("name"), is_down)
    if name == "count":
        return Sort(None, is_down)
    parts = keys(name)
    if parts[0] == "attributes" and len(parts) > 1 and _are_keys(parts[1:]):
        return Sort(Field("attributes", parts[1:]), is_down)
    if name not in SORTS or name == "attributes.NAME":
        raise Invalid("sort", f"one of {', '.join(SORTS)}, with - before it for the largest first", repr(text))
    return Sort(Field(name), is_down)


def parse_field(text: str) -> Field:
    """A field by its name, as a query writes it; ``Invalid`` names the nearest."""
    reader = _Reader(text)
    if reader.now.kind != "name":
        raise reader.fail("a field")
    found, _ = reader.field()
    if not reader.is_over:
        raise reader.fail("the end")
    return found


class _Reader:
    def __init__(self, query: str, columns: Mapping[str, Column] | None = None) -> None:
        self.query = query
        self.columns = columns
        self.tokens = tokens(query)
        self.at = 0
        self.depth = 0
        self.parts = 0
        self.in_shape = False

    def whole(self) -> Node:
        if self.is_over:
            return ALWAYS
        node = self.either()
        if not self.is_over:
            raise self.fail("and, or, or the end")
        return node

    # ---- pieces

    @property
    def now(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def took(self, *, words: tuple[str, ...] = (), signs: tuple[str, ...] = ()) -> bool:
        is_it = self.now.is_word(*words) or self.now.is_sign(*signs)
        self.at += is_it
        return is_it

    @property
    def is_over(self) -> bool:
        return self.tokens[self.at].kind == "end"

    def need(self, sign: str) -> None:
        if not self.took(signs=(sign,)):
            raise self.fail(f"{sign!r}")

    def fail(self, expected: str, token: Token | None = None, hint: str = "") -> Invalid:
        where = token or self.now
        return fail(self.query, where.at, expected, str(where), hint)

    def deeper(self, read: Callable[[], Node]) -> Node:
        if self.depth >= MAX_DEPTH:
            raise self.fail(f"nested at most {MAX_DEPTH} deep")
        self.depth += 1
        node = read()
        self.depth -= 1
        return node

    # ---- and, or, not

    def either(self) -> Node:
        parts = [self.both()]
        while self.took(words=("or",), signs=("|", "||")):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self) -> Node:
        parts = [self.negated()]
        while self.took(words=("and",), signs=("&", "&&")):
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negated(self) -> Node:
        if self.took(words=("not",), signs=("!",)):
            return Not(self.deeper(self.negated))
        return self.condition()

    def condition(self) -> Node:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise self.fail(f"a query of at most {MAX_PARTS} conditions")
        if self.took(signs=("(",)):
            node = self.deeper(self.either)
            self.need(")")
            return node
        if self.now.is_word("true", "false") and not self._is_compared():
            return ALWAYS if self.take().text.lower() == "true" else NEVER
        if self.now.is_word("match", "any", "count") and self.tokens[self.at + 1].is_sign("("):
            return self.call()
        if self.now.kind == "name" and not self.now.is_word(*WORDS):
            return self.tail(*self.field())
        if self.now.kind in ("text", "number") or self.now.is_sign("-", "+") or self.now.is_word("true", "false"):
            return self.flipped()
        hint = f"names that are also words of the language go in backquotes: attributes.`{self.now.text}`"
        raise self.fail("a condition, such as label = 'car'", hint=hint if self.now.is_word(*WORDS) else "")

    def _is_compared(self) -> bool:
        return self.tokens[self.at + 1].is_sign(*_COMPARISONS)

    def flipped(self) -> Node:
        """``640 < width``."""
        begin = self.now
        value = self.value()
        sign = self.now
        if not sign.is_sign(*_COMPARISONS):
            raise self.fail("a comparison: = != < <= > >=")
        self.take()
        if self.now.kind != "name" or self.now.is_word(*WORDS):
            raise self.fail("a field")
        found, token = self.field()
        return self.compare(found, FLIPPED[_SIGNS.get(sign.text, sign.text)], value, begin, token)

    # ---- match, any, count

    def call(self) -> Node:
        name = self.take()
        word = name.text.lower()
        if self.in_shape:
            raise self.fail("a condition about one shape: label, kind, box.width, shape.attributes.NAME ...", name)
        if self.columns is not None:
            hint = f"a column of that name goes in backquotes: `{name.text}`; text is searched with like '%text%'"
            raise self.fail("a condition on a column, as rows of tables have no shapes and no words", name, hint)
        self.need("(")
        if word == "match":
            text = self.take()
            if text.kind != "text":
                raise self.fail("text in quotes", text)
            if not wanted(text.text):
                raise self.fail("text with at least one word", text)
            self.need(")")
            return Match(text.text)
        where = self.of_shape()
        self.need(")")
        if word == "any":
            return Count(where, ">=", 1)
        sign, negative = self.take(), False
        if not sign.is_sign(*_COMPARISONS):
            raise self.fail("a comparison: = != < <= > >=", sign)
        number = self.value()
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise self.fail("a number", self.tokens[self.at - 1])
        op = _SIGNS.get(sign.text, sign.text)
        op, negative = ("=", True) if op == "!=" else (op, False)
        node = Count(where, cast("Operator", op), number)
        return Not(node) if negative else node

    def of_shape(self) -> Node | None:
        """``*``, nothing, a class (``car`` or ``'car'``), or a condition about one shape."""
        if self.now.is_sign(")"):
            return None
        if self.now.is_sign("*"):
            self.take()
            return None
        is_alone = self.tokens[self.at + 1].is_sign(")")
        if is_alone and self.now.kind in ("name", "text"):
            token = self.take()
            return Compare(Field("label"), "=", token.text if token.kind == "text" else ".".join(keys(token.text)))
        self.in_shape = True
        node = self.deeper(self.either)
        self.in_shape = False
        return node

    # ---- field and value

    def field(self) -> tuple[Field, Token]:
        token = self.take()
        parts = keys(token.text)
        if self.columns is not None:
            return self.column(".".join(parts), token), token
        for prefix in _ATTRIBUTES:
            begin = tuple(prefix.split("."))
            if parts[: len(begin)] == begin:
                rest = parts[len(begin) :]
                if not rest:
                    raise self.fail(f"{prefix}.NAME", token)
                if not _are_keys(rest):
                    raise self.fail("a name without quotes, backslashes and control characters", token)
                return self._allowed(Field(prefix, rest), token), token
        name = ALIASES.get(token.text.lower(), token.text.lower())
        if name not in FIELDS:
            close = difflib.get_close_matches(name, [*FIELDS, *ALIASES], 3, 0.5)
            near = f"did you mean {' or '.join(close)}? " if close else ""
            known = f"fields: {', '.join(FIELDS)}, attributes.NAME, shape.attributes.NAME; text goes in quotes"
            raise self.fail("a field that exists", token, f"{near}{known}")
        return self._allowed(Field(name), token), token

    def column(self, name: str, token: Token) -> Column:
        assert self.columns is not None
        if name not in self.columns:
            by_case = {one.casefold(): one for one in self.columns}
            close = difflib.get_close_matches(name.casefold(), by_case, 3, 0.5)
            near = f"did you mean {' or '.join(_quoted(by_case[one]) for one in close)}? " if close else ""
            shown = [_quoted(one) for one in self.columns]
            more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
            hint = f"{near}columns: {', '.join(shown[:MAX_SHOWN])}{more}; text goes in quotes"
            raise self.fail("a column that exists", token, hint)
        return self.columns[name]

    def _allowed(self, found: Field, token: Token) -> Field:
        if self.in_shape and found.scope != "shape":
            raise self.fail("a field of a shape: label, source, author, kind, box.*, shape.attributes.NAME", token)
        return found

    def value(self) -> Value:
        token = self.take()
        if token.is_sign("-", "+") and self.now.kind == "number":
            number = literals.number(self.take().text)
            return self._finite(-number if token.text == "-" else number, token)
        if token.kind == "number":
            return self._finite(literals.number(token.text), token)
        if token.kind == "text":
            return token.text
        if token.is_word("true", "false"):
            return token.text.lower() == "true"
        hint = f"text goes in quotes: '{token.text}'" if token.kind == "name" else ""
        raise self.fail("a value: a number, text in quotes, true or false", token, hint)

    def _finite(self, number: int | float, token: Token) -> int | float:
        if not math.isfinite(number):
            raise self.fail("a number of at most about 1.8e308", token)
        return number

    # ---- what follows a field

    def tail(self, found: Field, name: Token) -> Node:
        if self.now.is_sign(*_COMPARISONS):
            sign = self.take()
            op = _SIGNS.get(sign.text, sign.text)
            begin = self.now
            if begin.kind == "name" and not begin.is_word(*WORDS):
                return self.against(found, op, *self.field())
            if begin.is_word("null", "none", "missing") and op in ("=", "!="):
                self.take()
                return Missing(found) if op == "=" else Not(Missing(found))
            return self.compare(found, op, self.value(), begin, name)
        if self.took(words=("is",)):
            is_not = self.took(words=("not",))
            if not self.took(words=("null", "none", "missing")):
                raise self.fail("missing, null, not missing or not null")
            return Not(Missing(found)) if is_not else Missing(found)
        is_not = self.took(words=("not",), signs=("!",))
        node = self.positive(found, name)
        return _unless(node, found) if is_not else node

    def positive(self, found: Field, name: Token) -> Node:
        if self.took(words=("in",)):
            return self.among(found, name)
        if self.took(words=("between",)):
            low_token = self.now
            low = self.typed(found, self.value(), low_token, name)
            if not self.took(words=("and",)):
                raise self.fail("and")
            high_token = self.now
            high = self.typed(found, self.value(), high_token, name)
            if isinstance(low, Day) or isinstance(high, Day):
                first = self.compare(found, ">=", low, low_token, name)
                return And((first, self.compare(found, "<=", high, high_token, name)))
            if isinstance(low, bool) or isinstance(low, str) != isinstance(high, str) or isinstance(high, bool):
                raise self.fail("two numbers or two texts", low_token)
            return Between(found, low, high)
        if self.took(words=("like",), signs=("~",)):
            token = self.now
            pattern = self.value()
            if not isinstance(pattern, str) or found.kind not in ("text", "any"):
                raise self.fail("text to be like a pattern, such as name like 'street/%'", token)
            if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
                raise self.fail("a pattern that does not end with a single \\", token)
            return Compare(found, "like", pattern)
        raise self.fail(_TAIL)

    def among(self, found: Field, name: Token) -> Node:
        close = {"(": ")", "[": "]"}.get(self.now.text) if self.now.kind == "sign" else None
        if close is None:
            raise self.fail("a list such as ('train', 'val')")
        self.take()
        values: list[Value] = []
        days: list[Node] = []
        while not self.took(signs=(close,)):
            if (values or days) and not self.took(signs=(",",)):
                raise self.fail(f"',' or {close!r}")
            token = self.now
            value = self.typed(found, self.value(), token, name)
            if isinstance(value, datetime):
                days.append(self.compare(found, "=", value, token, name))
            else:
                values.append(value)
            if len(values) + len(days) > MAX_VALUES:
                raise self.fail(f"a list of at most {MAX_VALUES} values", token)
        if days:
            return Or(tuple(days))
        node: Node = Among(found, tuple(dict.fromkeys(v for v in values if v != "")))
        return Or((node, Missing(found))) if "" in values else node

    def against(self, found: Field, op: str, other: Field, token: Token) -> Node:
        """A field compared with another field."""
        if "any" in (found.kind, other.kind) and (found.kind == other.kind or "time" in (found.kind, other.kind)):
            raise self.fail("a field of numbers or text", token)
        if "any" not in (found.kind, other.kind) and found.kind != other.kind:
            raise self.fail(f"a field of {found.kind}, as {found} is", token)
        if op == "!=":
            return And((Not(Compare(found, "=", other)), Not(Missing(found)), Not(Missing(other))))
        return Compare(found, cast("Operator", op), other)

    def compare(self, found: Field, op: str, value: Value, token: Token, name: Token) -> Node:
        typed = self.typed(found, value, token, name)
        if typed == "" and isinstance(typed, str):
            if op in ("=", "!="):
                return Missing(found) if op == "=" else Not(Missing(found))
            raise self.fail("text that is not empty", token)
        if op == "!=":
            return _unless(self.compare(found, "=", value, token, name), found)
        if isinstance(typed, bool) and op != "=":
            raise self.fail("= or != for true and false", token)
        if isinstance(typed, Day):
            return typed.compare(found, op)
        return Compare(found, cast("Operator", op), typed)

    def typed(self, found: Field, value: Value, token: Token, name: Token) -> Value:
        """The value as one of the field's kind."""
        if value == "" and isinstance(found, Column):  # a cell that is empty, whatever its column holds
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if found.kind == "number" and not is_number:
            raise self.fail(f"a number, because {name.text} is one", token)
        if found.kind == "text" and not isinstance(value, str):
            raise self.fail(f"text in quotes, because {name.text} is text", token)
        if found.kind == "truth":
            if (truth := literals.truth(value)) is None:
                raise self.fail(f"true, false, 'yes' or 'no', because {name.text} is one of these", token)
            return truth
        if found.kind == "clock":
            if (seconds := literals.clock(value)) is None:
                raise self.fail("a time of day such as '08:30' or '08:30:15'", token)
            return seconds
        if found.kind != "time" or isinstance(value, datetime):
            return value
        try:
            return literals.moment(str(value) if isinstance(value, str) else "")
        except ValueError:
            raise self.fail("a date such as '2026-01-31' or '2026-01-31T12:00:00Z'", token) from None


def _quoted(name: str) -> str:
    """A column's name as a query writes it."""
    is_plain = re.fullmatch(r"[^\W\d][\w-]*", name) and name.lower() not in WORDS
    return name if is_plain else "`" + name.replace("`", "``") + "`"


def _unless(node: Node, found: Field) -> Node:
    return And((Not(node), Not(Missing(found))))


def _are_keys(parts: tuple[str, ...]) -> bool:
    return all(part and part.isprintable() and not set(part) & set("\"'\\") for part in parts)
