"""JSON with its spelling: what a file's lists hold as values and as text, so that it can be written as it was.

A number such as ``10.0`` or ``1e3``, the order of keys and every blank survive because an entry that nobody changed
is written from its own text. What did change is written in the layout that the file has elsewhere.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loopworks.core.errors import Invalid

_BLANK = re.compile(r"[ \t\n\r]*")
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_FIRST = re.compile(r"[\[{]\n([ \t]+)\S")


@dataclass(frozen=True, slots=True)
class Style:
    """How a file spells JSON."""

    indent: str = ""
    """Blanks per level; empty: all on one line."""
    comma: str = ", "
    colon: str = ": "
    is_ascii: bool = True

    @classmethod
    def of(cls, text: str) -> "Style":
        """The style of a text, from its beginning."""
        head = text[:100_000]
        found = _FIRST.search(head)
        colon = ":" if re.search(r'":\S', head) and not re.search(r'": \S', head) else ": "
        comma = "," if re.search(r'[\d"}\]],["\d{\[]', head) and not re.search(r'[\d"}\]], ["\d{\[]', head) else ", "
        return cls(
            indent=found[1] if found else "",
            comma="," if found else comma,
            colon=colon,
            is_ascii=head.isascii(),
        )

    @classmethod
    def from_json(cls, body: Any) -> "Style":
        """The style that ``to_json`` wrote; the default one where it is none."""
        fits = isinstance(body, list) and len(body) == 4 and all(isinstance(x, str) for x in body[:3])
        return cls(body[0], body[1], body[2], bool(body[3])) if fits else cls()

    def to_json(self) -> list[Any]:
        """As plain JSON."""
        return [self.indent, self.comma, self.colon, self.is_ascii]

    def render(self, value: Any, depth: int = 0) -> str:
        """A value as text, whose first line stands at a place of ``depth`` levels already."""
        text = json.dumps(
            value,
            indent=self.indent or None,
            separators=(self.comma, self.colon),
            ensure_ascii=self.is_ascii,
        )
        return text.replace("\n", "\n" + self.indent * depth) if self.indent and depth else text

    def line(self, depth: int) -> str:
        """What stands before an entry at ``depth``."""
        return "\n" + self.indent * depth if self.indent else ""

    def gap(self, depth: int) -> str:
        """What stands between two entries at ``depth``."""
        return "," + self.line(depth) if self.indent else self.comma


@dataclass(slots=True)
class Entries:
    """A list in a text: its entries, the text of each, and what stands around them."""

    values: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    opening: str = ""
    """Between the bracket and the first entry."""
    gap: str | None = ","
    """Between two entries; ``None`` where there is no entry at all."""
    odd_gaps: dict[int, str] = field(default_factory=dict)
    """Where it is something else: the entry after it -> what."""
    closing: str = ""
    """Between the last entry and the bracket."""

    def around(self) -> list[Any]:
        """What stands around the entries, as plain JSON."""
        return [self.opening, self.gap, self.closing, {str(at): gap for at, gap in self.odd_gaps.items()}]


@dataclass(slots=True)
class Sheet:
    """An object of JSON whose named lists were taken out of its text."""

    style: Style
    lists: dict[str, Entries] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    """The other fields."""
    pieces: list[str] = field(default_factory=list)
    """The text around the lists: one more than there are ``slots``. Empty where the text ends too early."""
    slots: list[str] = field(default_factory=list)
    """The lists in the order of the text."""
    fault: str = ""
    """What was wrong, and where; the entries before it are there."""


class _Cut(Exception):
    """The text is no JSON from here on."""

    def __init__(self, at: int, what: str) -> None:
        self.at, self.what = at, what
        super().__init__(what)


def parse(text: str, names: Collection[str], where: str) -> Sheet:
    """Take the lists called ``names`` out of an object; a text that is cut off gives what stands before the cut.

    Raises: Invalid: no object at all.
    """
    sheet = Sheet(Style.of(text))
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise Invalid(where, "a JSON object", text[at : at + 40] or "nothing")
    kept = 0
    try:
        at = _skip(text, at + 1)
        is_first = True
        while text[at : at + 1] != "}":
            if not is_first:
                at = _skip(text, _past(text, at, ","))
            is_first = False
            key, at = _value(text, at)
            if not isinstance(key, str):
                raise _Cut(at, "a name of a field")
            at = _skip(text, _past(text, _skip(text, at), ":"))
            if key in names and key not in sheet.lists and text[at : at + 1] == "[":
                sheet.lists[key] = entries = Entries()
                sheet.pieces.append(text[kept : at + 1])
                sheet.slots.append(key)
                kept = at = _entries(text, at + 1, entries)
                at += 1
            else:
                sheet.others[key], at = _value(text, at)
            at = _skip(text, at)
        sheet.pieces.append(text[kept:])
        rest = text[at + 1 :].strip()
        if rest:
            sheet.fault = f"{_position(text, at + 1)} the end of the file; got {rest[:40]!r}"
    except _Cut as cut:
        sheet.pieces, sheet.slots = [], []
        sheet.fault = f"{_position(text, cut.at)} {cut.what}; got {text[cut.at : cut.at + 40]!r}"
    return sheet


def load(text: str, where: str) -> Any:
    """A whole JSON text.

    Raises: Invalid: no JSON, with the position; nested too deep.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where} line {error.lineno} column {error.colno}"
        raise Invalid(place, f"JSON ({error.msg})", text[error.pos : error.pos + 40] or "the end of the file") from None
    except (RecursionError, ValueError) as error:  # numbers of more digits than Python reads are a ValueError
        raise Invalid(where, "JSON nested less deeply, with shorter numbers", str(error)) from None


def fill(pieces: Sequence[str], slots: Sequence[str], lists: Mapping[str, Sequence[str]], around: Any) -> str:
    """The text that ``parse`` took apart, with other entries in its lists.

    Args:
        pieces: ``Sheet.pieces``.
        slots: ``Sheet.slots``.
        lists: texts of the entries of each list.
        around: list -> ``Entries.around``.
    """
    out = [pieces[0]]
    for slot, piece in zip(slots, pieces[1:], strict=True):
        opening, gap, closing, odd = around[slot]
        texts = lists.get(slot, ())
        if not texts:
            # An empty list that was empty is written as it was.
            out.append(opening + closing if gap is None else "")
        elif odd:
            out.append(opening + texts[0])
            out += [odd.get(str(at), gap or ",") + text for at, text in enumerate(texts[1:], 1)]
            out.append(closing)
        else:
            out += [opening, (gap or ",").join(texts), closing]
        out.append(piece)
    return "".join(out)


def _entries(text: str, at: int, into: Entries) -> int:
    """Read the entries of a list from behind its bracket; gives the place of the closing one."""
    begin = at
    at = _skip(text, at)
    into.opening = text[begin:at]
    gaps: list[str] = []
    if text[at : at + 1] == "]":
        into.gap = None
        return at
    values, texts = into.values, into.texts
    scan, blank = _SCAN, _BLANK.match
    while True:
        start = at
        try:
            value, at = scan(text, at)
        except StopIteration as stop:
            raise _Cut(stop.value, "a value") from None
        except json.JSONDecodeError as error:
            raise _Cut(error.pos, error.msg) from None
        except (RecursionError, ValueError):
            raise _Cut(start, "JSON nested less deeply, with shorter numbers") from None
        values.append(value)
        texts.append(text[start:at])
        end = at
        found = blank(text, at)
        at = found.end() if found else at
        sign = text[at : at + 1]
        if sign == "]":
            into.closing = text[end:at]
            _settle(into, gaps)
            return at
        if sign != ",":
            raise _Cut(at, "a comma or a closing bracket")
        found = blank(text, at + 1)
        at = found.end() if found else at + 1
        gaps.append(text[end:at])


def _settle(into: Entries, gaps: list[str]) -> None:
    if not gaps:
        into.gap = "," + (into.opening if "\n" in into.opening else "")
        return
    into.gap = max(set(gaps), key=gaps.count) if len(set(gaps)) > 1 else gaps[0]
    into.odd_gaps = {at: gap for at, gap in enumerate(gaps, 1) if gap != into.gap}


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _past(text: str, at: int, sign: str) -> int:
    if text[at : at + 1] != sign:
        raise _Cut(at, f"a {'comma' if sign == ',' else 'colon'}")
    return at + 1


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _SCAN(text, at)
    except StopIteration as stop:
        raise _Cut(stop.value, "a value") from None
    except json.JSONDecodeError as error:
        raise _Cut(error.pos, error.msg) from None
    except (RecursionError, ValueError):
        raise _Cut(at, "JSON nested less deeply, with shorter numbers") from None
    return value, end


def _position(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return f"line {line} column {at - text.rfind(chr(10), 0, at)} must be"
