"""Cutting a query into words, numbers, quoted text and signs; and the error that points at one of them."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from loopworks.core.errors import Invalid

MAX_LENGTH = 20_000
"""Characters of a query."""
_WIDTH = 60  # characters of the query that an error shows around the place

TokenKind = Literal["name", "text", "number", "sign", "end"]

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?")
_QUOTED = r"`(?:[^`]|``)*`"  # a backquote inside is written twice
_NAME = re.compile(rf"(?:[^\W\d]|{_QUOTED})[\w-]*(?:\.(?:[\w-]+|{_QUOTED}))*")
_SIGNS = (
    "==",
    "!=",
    "<>",
    "<=",
    ">=",
    "&&",
    "||",
    "=",
    "<",
    ">",
    "&",
    "|",
    "!",
    "~",
    "(",
    ")",
    "[",
    "]",
    ",",
    "*",
    "-",
    "+",
)
WORDS = frozenset({
    "and", "or", "not", "in", "between", "like", "is", "null", "none", "missing", "true", "false", "match", "any",
    "count",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of a query and where it begins."""

    kind: TokenKind
    text: str
    at: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these words of the language, in any case."""
        return self.kind == "name" and self.text.lower() in words

    def is_sign(self, *signs: str) -> bool:
        """Whether it is one of these signs."""
        return self.kind == "sign" and self.text in signs

    def __str__(self) -> str:
        """As an error names it."""
        return "the end" if self.kind == "end" else repr(self.text)


def tokens(query: str) -> list[Token]:
    """The pieces of a query, ``end`` last.

    Raises: Invalid: too long, an open quote, a sign that means nothing here.
    """
    if len(query) > MAX_LENGTH:
        raise Invalid("query", f"at most {MAX_LENGTH} characters long", f"{len(query)} characters")
    found: list[Token] = []
    at = _skip(query, 0)
    while at < len(query):
        token, end = _next(query, at)
        found.append(token)
        at = _skip(query, end)
    return [*found, Token("end", "", len(query))]


def fail(query: str, at: int, expected: str, got: object, hint: str = "") -> Invalid:
    """The error of a query at a place: what was expected there, with a caret under it."""
    begin = max(0, at - _WIDTH)
    line = query[begin : at + _WIDTH]
    shown = "".join(" " if c.isspace() else c for c in line)
    gap = sum(_columns(c) for c in shown[: at - begin])
    picture = f"{shown}\n{' ' * gap}^"
    return Invalid(f"query at character {at + 1}", expected, got, f"{hint}\n{picture}" if hint else f"\n{picture}")


def keys(name: str) -> tuple[str, ...]:
    """The parts of a dotted name, without their backquotes."""
    parts = re.findall(rf"{_QUOTED}|[^.`]+", name)
    return tuple(part[1:-1].replace("``", "`") if part.startswith("`") else part for part in parts)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _skip(query: str, at: int) -> int:
    match = _SPACE.match(query, at)
    return match.end() if match else at


def _next(query: str, at: int) -> tuple[Token, int]:
    first = query[at]
    if first in "'\"":
        text, end = _quoted(query, at)
        return Token("text", text, at), end
    if match := _NUMBER.match(query, at):
        after = query[match.end() : match.end() + 1]
        if after.isalnum() or after == "_":
            raise fail(query, match.end(), "the end of a number", repr(after), "quote text: 'like this'")
        return Token("number", match[0], at), match.end()
    if match := _NAME.match(query, at):
        return Token("name", match[0], at), match.end()
    for sign in _SIGNS:
        if query.startswith(sign, at):
            return Token("sign", sign, at), at + len(sign)
    raise fail(query, at, "a field, a value, a comparison or a parenthesis", repr(first))


def _quoted(query: str, at: int) -> tuple[str, int]:
    """Text in single or double quotes; the quote itself is written twice."""
    quote, parts, begin = query[at], [], at + 1
    while (end := query.find(quote, begin)) >= 0:
        parts.append(query[begin:end])
        if query[end + 1 : end + 2] != quote:
            text = "".join(parts)
            if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
                raise fail(query, at, "text without NUL and lone surrogates", repr(text))
            return text, end + 1
        parts.append(quote)
        begin = end + 2
    raise fail(query, at, f"text with a closing {quote}", "none", "a quote inside of text is written twice")
