"""JSON from outside, cut into its items; and JSON written in the layout that a file already has."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loopworks.core.errors import Invalid
from loopworks.data.formats.inputs import Text

_BLANK = re.compile(r"[ \t\n\r]*")
_INDENT = re.compile(r"[\[{](\r?\n)([ \t]*)\S")


class Spelled(float):
    """A number that remembers how the file spells it (1e3, 10.50, more digits than a double has)."""

    text: str

    def __new__(cls, text: str) -> "Spelled":
        """The number that ``text`` spells."""
        self = super().__new__(cls, text)
        self.text = text
        return self


_DECODER = json.JSONDecoder(parse_float=Spelled)
_PLAIN = json.JSONDecoder()


def loads(text: str) -> Any:
    """A JSON text whose numbers keep their spelling.

    Raises: Invalid: no JSON, with line and column, or nested too deep.
    """
    value, end = _value(text, _skip(text, 0))
    if _skip(text, end) != len(text):
        raise _fault(text, end, "the end")
    return value


def plain(value: Any) -> Any:
    """``value`` with numbers as they are, as ``dump`` takes it; numbers that JSON lacks become text."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {_sound(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return _sound(value) if isinstance(value, str) else value


def _sound(text: str) -> str:
    """``text`` without halves of surrogate pairs, which no encoding holds."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, decoder: json.JSONDecoder = _DECODER) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _fault(text, error.pos, error.msg) from None
    except RecursionError:
        raise Invalid("JSON", "nested less deep", f"too many levels at {_place(text, at)}") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise Invalid("JSON", "numbers of a usual length", str(error)) from None


def _fault(text: str, at: int, wanted: str) -> Invalid:
    return Invalid("JSON", f"whole ({wanted})", f"{text[at : at + 20]!r} at {_place(text, at)}")


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f"line {line}, column {at - (text.rfind(chr(10), 0, at) + 1) + 1}"


@dataclass(slots=True)
class Cut:
    """A list in a JSON file: its items, where they lie, and what stands around it."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    start: int = 0
    """Behind the bracket that opens the list."""
    end: int = 0
    """At the bracket that closes it, or behind the last item where the file is cut off."""
    members: dict[str, Any] = field(default_factory=dict)
    """The other members of the object around the list."""
    error: str = ""
    has_list: bool = False


def cut(source: Text, key: str = "", each: Callable[[Any], None] = lambda item: None) -> Cut:
    """Where the items lie of the list that is the file, or that is ``key`` of the object that is the file.

    ``each`` takes every item on the way, its numbers without their spelling.

    Raises: Invalid: the file is of another shape altogether, or broken before the list.
    """
    text, out = source.text, Cut()
    at = _skip(text, 0)
    if not key:
        if text[at : at + 1] != "[":
            raise Invalid("JSON", "a list", text[at : at + 20])
        _items(text, at + 1, out, each)
        return out
    if text[at : at + 1] != "{":
        raise Invalid("JSON", "an object", text[at : at + 20])
    at = _skip(text, at + 1)
    try:
        while text[at : at + 1] != "}":
            name, at = _value(text, at)
            at = _skip(text, at)
            if text[at : at + 1] != ":" or not isinstance(name, str):
                raise _fault(text, at, "a name and a colon")
            at = _skip(text, at + 1)
            if name == key and text[at : at + 1] == "[" and not out.has_list:
                at = _items(text, at + 1, out, each)
                if out.error:
                    return out
            else:
                out.members[name], at = _value(text, at)
            at = _skip(text, at)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "}":
                raise _fault(text, at, "a comma or the end of the object")
    except Invalid as error:
        if not out.has_list:
            raise
        out.error = error.message
    return out


def _items(text: str, at: int, out: Cut, each: Callable[[Any], None]) -> int:
    out.has_list, out.start, out.end = True, at, at
    at = _skip(text, at)
    try:
        while text[at : at + 1] != "]":
            item, end = _value(text, at, _PLAIN)
            each(item)
            out.spans.append((at, end))
            out.end = end
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise _fault(text, at, "a comma or the end of the list")
    except Invalid as error:
        out.error = error.message
        return at
    out.end = out.start if not out.spans else at
    return at + 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How a JSON text is laid out."""

    indent: str | None = None
    """What one level adds; ``None``: all in one line."""
    base: str = ""
    """What stands before the closing bracket of the outermost value."""
    newline: str = "\n"
    colon: str = ": "
    comma: str = ", "
    is_ascii: bool = False


def layout(raw: str) -> Layout:
    """The layout of an object's text as it stands in a file."""
    colon = re.search(r'"(\s*:\s*)', raw)
    found = _INDENT.match(raw)
    is_ascii = raw.isascii() and "\\u" in raw
    if found is None:
        comma = re.search(r'["\d\]}el](,\s*)["\d\[{tfn-]', raw)
        tight = ":" if colon and colon.group(1) == ":" else ": "
        return Layout(colon=tight, comma=comma.group(1) if comma else "," if tight == ":" else ", ", is_ascii=is_ascii)
    last = re.search(r"\n([ \t]*)[}\]]\Z", raw)
    base = last.group(1) if last else ""
    step = found.group(2).removeprefix(base) or "  "
    return Layout(step, base, found.group(1), colon.group(1) if colon else ": ", ",", is_ascii)


def dumps(value: Any, form: Layout) -> str:
    """``value`` in a layout; numbers that remember their spelling keep it."""
    out: list[str] = []
    _write(value, form, form.newline + form.base, out)
    return "".join(out)


def _write(value: Any, form: Layout, lead: str, out: list[str]) -> None:
    if isinstance(value, Spelled):
        out.append(value.text)
    elif isinstance(value, Mapping | list | tuple) and value:
        is_map = isinstance(value, Mapping)
        inner = "" if form.indent is None else lead + form.indent
        comma = form.comma if form.indent is None else "," + inner
        out.append(("{" if is_map else "[") + inner)
        for at, one in enumerate(value):
            if at:
                out.append(comma)
            if isinstance(value, Mapping):
                out.append(json.dumps(one, ensure_ascii=form.is_ascii) + form.colon)
                _write(value[one], form, inner, out)
            else:
                _write(one, form, inner, out)
        out.append(("" if form.indent is None else lead) + ("}" if is_map else "]"))
    else:
        out.append(json.dumps(value, ensure_ascii=form.is_ascii))
