"""XML from outside: where its parts lie in the text, with bombs refused; and XML as we write it."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from loopworks.core.errors import Invalid

DEPTH = 64
"""Levels of elements that a reader follows."""
_BAD = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold
_SPACES = {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"}


@dataclass(frozen=True, slots=True)
class Part:
    """A child of the root element."""

    tag: str
    attributes: Mapping[str, str]
    line: int
    start: int
    end: int
    children: tuple[tuple[str, str], ...]
    """Tag and label of each element right under it."""


@dataclass(slots=True)
class Outline:
    """The children of the root, as far as the file is sound."""

    root: str = ""
    parts: list[Part] = field(default_factory=list)
    inner: tuple[int, int] = (0, 0)
    """Where the root's content starts and ends, in characters."""
    error: str = ""
    """What is wrong, with line and column; empty where nothing is."""


class _TooDeep(Exception):
    """More levels than ``DEPTH``."""


class _Target:
    """Notes where the children of the root start and end."""

    def __init__(self, data: bytes) -> None:
        self.bytes = data
        self.outline = Outline()
        self.parser: Any = None
        self.depth = 0
        self.inner = 0
        self.last = 0
        self.open: tuple[str, dict[str, str], int, int] | None = None
        self.children: list[tuple[str, str]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > DEPTH:
            raise _TooDeep
        if self.depth == 1:
            self.outline.root = tag
            self.inner = _end_of_tag(self.bytes, self.parser.CurrentByteIndex)
        elif self.depth == 2:
            self.open = (tag, attributes, self.parser.CurrentLineNumber, self.parser.CurrentByteIndex)
            self.children = []
        elif self.depth == 3:
            self.children.append((tag, attributes.get("label", "")))

    def end(self, tag: str) -> None:
        at = self.parser.CurrentByteIndex
        if self.depth == 2 and self.open is not None:
            name, attributes, line, begin = self.open
            closing = b"</" + name.encode()
            # After an empty tag the parser already stands behind it.
            end = self.bytes.index(b">", at) + 1 if self.bytes.startswith(closing, at) else at
            self.outline.parts.append(Part(name, attributes, line, begin, end, tuple(self.children)))
        elif self.depth == 1:
            self.last = at
        self.depth -= 1

    def data(self, _text: str) -> None:
        """Text is read later, part by part."""

    def close(self) -> Outline:
        return self.outline


def outline(text: str) -> Outline:
    """Where the children of the root element lie in ``text``, in characters.

    Raises: Invalid: entities are declared (an XML bomb, or a look at this machine's files), or it nests too deep.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    data = text.encode("utf-8")
    target = _Target(data)
    parser = DefusedXMLParser(target=target, encoding="utf-8")
    target.parser = parser.parser
    found = target.outline
    try:
        parser.feed(data)
        parser.close()
    except DefusedXmlException as error:
        raise Invalid("XML", "without declared entities", type(error).__name__) from None
    except _TooDeep:
        raise Invalid(
            "XML", f"at most {DEPTH} levels deep", f"more at line {target.parser.CurrentLineNumber}"
        ) from None
    except ElementTree.ParseError as error:
        found.error = str(error)
        target.last = found.parts[-1].end if found.parts else target.inner
    return _in_characters(found, data, target.inner, target.last)


def _in_characters(found: Outline, data: bytes, first: int, last: int) -> Outline:
    """Byte places as places in the text."""
    if data.isascii():
        found.inner = (first, max(first, last))
        return found
    at = characters = 0

    def place(byte: int) -> int:
        nonlocal at, characters
        characters += len(data[at:byte].decode("utf-8"))
        at = byte
        return characters

    start = place(first)
    parts = []
    for part in found.parts:
        begin, end = place(part.start), place(part.end)
        parts.append(Part(part.tag, part.attributes, part.line, begin, end, part.children))
    found.parts = parts
    found.inner = (start, place(max(at, last)))
    return found


def _end_of_tag(data: bytes, at: int) -> int:
    """Behind the ``>`` that ends the tag at ``at``; quoted values may hold one too."""
    quote = 0
    for place in range(at, len(data)):
        byte = data[place]
        if quote:
            quote = 0 if byte == quote else quote
        elif byte in b"\"'":
            quote = byte
        elif byte == 0x3E:
            return place + 1
    return len(data)


def parse(text: str) -> ElementTree.Element:
    """An element that ``outline`` found: sound, and with no entities of its own."""
    return ElementTree.fromstring(text)


def tag(name: str, attributes: Iterable[tuple[str, str]]) -> str:
    """A start tag."""
    return f"<{name}" + "".join(f' {key}="{quote(value)}"' for key, value in attributes) + ">"


def quote(value: str) -> str:
    """A value between double quotes; characters that XML lacks become U+FFFD."""
    return escape(_BAD.sub("\ufffd", value), {'"': "&quot;", **_SPACES})


def content(value: str) -> str:
    """Text between tags; characters that XML lacks become U+FFFD."""
    return escape(_BAD.sub("\ufffd", value), {"\r": "&#13;"})


def has_bad(value: str) -> bool:
    """Whether XML cannot hold ``value`` as it is."""
    return bool(_BAD.search(value))
