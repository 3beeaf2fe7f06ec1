"""An ``<image>`` of CVAT as a record, and a record as an ``<image>``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from loopworks.core.errors import Invalid
from loopworks.core.values import Problem, Shape
from loopworks.data.formats import xmltext
from loopworks.data.formats.contract import Record
from loopworks.data.formats.cvat_shapes import TAGS, read_shape, write_shape
from loopworks.data.formats.inputs import ClassNames, Tally, clean_name, is_outside, split_of
from loopworks.data.formats.sheet import Sheet

_IMAGE = ("id", "name", "width", "height")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'


@dataclass(slots=True)
class Rules:
    """What a file says of all its images: names of classes, types of attributes."""

    names: ClassNames = field(default_factory=ClassNames)
    types: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for ``Content.meta``."""
        renamed = {name: kept for name, kept in self.names.found.items() if name != kept}
        return {"renamed": renamed, "types": [[*key, value] for key, value in self.types.items()]}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Rules":
        """The rules that ``to_json`` wrote."""
        return cls(
            names=ClassNames(found=dict(body["renamed"])),
            types={(label, name): kind for label, name, kind in body["types"]},
        )


def read_image(element: Element, file: str, rules: Rules, where: str) -> tuple[Record, list[Problem], dict[int, Shape]]:
    """An ``<image>`` as a record without its media, what was wrong in it, and which child says which shape.

    Raises: Invalid: its name leads out of the data set.
    """
    problems: list[Problem] = []
    parent = PurePosixPath(file).parent
    name = clean_name(str(parent / element.get("name", "")) if parent.parts else element.get("name", ""))
    width, height = (_size(element, key, where, problems) for key in ("width", "height"))
    shapes: dict[int, Shape] = {}
    for at, child in enumerate(element):
        place = f"{where}, {child.tag} {at + 1}"
        try:
            if child.tag not in TAGS:
                raise Invalid("element of an image", f"one of {', '.join(TAGS)}", child.tag)
            label = rules.names.add(child.get("label", ""))
            shape = read_shape(child, label, (width, height), rules.types, at)
        except Invalid as error:
            problems.append(Problem(where=place, error=error.code, message=f"{error.message}; left out"))
            continue
        if not label:
            problems.append(Problem(where=place, error="invalid", message=f"{place} must have a class; got none"))
        if is_outside(shape, width, height):
            problems.append(
                Problem(where=place, error="invalid", message=f"lies outside the image of {width} x {height}; kept")
            )
        shapes[at] = shape
    subset = element.get("subset", "")
    rest: dict[str, Any] = {k: v for k, v in element.attrib.items() if k not in _IMAGE}
    if split_of(subset):
        del rest["subset"]
    record = Record(
        name=name,
        width=width,
        height=height,
        split=split_of(subset or PurePosixPath(file).stem),
        attributes=rest,
        shapes=tuple(shapes.values()),
    )
    return record, problems, shapes


def _size(element: Element, key: str, where: str, problems: list[Problem]) -> int:
    value = element.get(key, "")
    if value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    problems.append(Problem(where=where, error="invalid", message=f"{key} must be a whole number; got {value!r}"))
    return 0


def is_same(one: Shape, other: Shape) -> bool:
    """Whether two shapes say the same, whoever says it."""
    return (one.label, one.kind, one.points, one.mask, one.attributes) == (
        other.label,
        other.kind,
        other.points,
        other.mask,
        other.attributes,
    )


def say_same(before: Sequence[Shape], after: Sequence[Shape]) -> bool:
    """Whether an item's shapes say what they said; a data set of classes alone keeps these in an order of its own."""
    if len(before) != len(after):
        return False
    if all(shape.kind == "class" for shape in after):
        before, after = (sorted(one, key=lambda shape: (shape.label, shape.attributes)) for one in (before, after))
    return all(map(is_same, before, after))


@dataclass(slots=True)
class Writer:
    """Makes the text of images, and of what stands around them."""

    classes: tuple[str, ...]
    is_new: bool
    """Whether nothing of a file that was read is kept."""
    tally: Tally = field(default_factory=Tally)
    last_id: int = -1
    count: int = 0
    types: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    """Label -> attribute -> input types seen."""
    known: frozenset[str] = frozenset()
    """Classes that the files had when they were read, whether they declare them or not."""
    used: set[str] = field(default_factory=set)
    """Classes of shapes that are written anew."""

    def image(self, record: Record, extra: Mapping[str, Any], file: str, rules: Rules) -> str:
        """The text of one image: as it was read where the record still says the same."""
        self.count += 1
        raw = extra.get("raw")
        number = extra.get("id")
        if not isinstance(number, str) or not number:
            number = str(self.last_id + 1)
        if number.isascii() and number.isdigit() and len(number) < 18:
            self.last_id = max(self.last_id, int(number))
        if not isinstance(raw, str):
            return self.render(self._new(record, number))
        element = xmltext.parse(raw)
        before, _, found = read_image(element, file, rules, "")
        same = say_same(before.shapes, record.shapes)
        if same and before.split == record.split and dict(before.attributes) == dict(record.attributes):
            return raw
        return self.render(self._changed(element, found, before, record))

    def _changed(self, element: Element, found: Mapping[int, Shape], before: Record, record: Record) -> Element:
        """The element with the record's shapes; those that did not change keep their text."""
        children, used = list(element), set()
        for child in children:
            element.remove(child)
        for shape in record.shapes:
            at = shape.origin.get("cvat", {}).get("at")
            if isinstance(at, int) and at in found and at not in used and is_same(found[at], shape):
                used.add(at)
                element.append(children[at])
            else:
                element.extend(self.elements(shape))
        element.extend(child for at, child in enumerate(children) if at not in found)  # what we could not read stays
        if record.split != before.split:
            element.attrib.pop("subset", None)
            if record.split:
                element.set("subset", record.split)
        for key in before.attributes.keys() - record.attributes.keys():
            element.attrib.pop(key, None)
        self._facts(element, {k: v for k, v in record.attributes.items() if before.attributes.get(k) != v})
        return element

    def _new(self, record: Record, number: str) -> Element:
        head = {"id": number, "name": record.name, "width": str(record.width), "height": str(record.height)}
        if record.split:
            head["subset"] = record.split
        element = Element("image", head)
        self._facts(element, record.attributes)
        for shape in record.shapes:
            element.extend(self.elements(shape))
        if record.tags:
            self.tally.add("tags of an item have no place in CVAT")
        if not record.is_labeled:
            self.tally.add("an item that nobody looked at became an image with nothing on it")
        return element

    def elements(self, shape: Shape) -> list[Element]:
        """What says ``shape``; what cannot be said is noted."""
        elements = write_shape(shape)
        self.used.add(shape.label)
        if not elements:
            self.tally.add(f"a {shape.kind} has no place in CVAT and was left out")
        for element in elements[:1]:
            self._note_types(shape.label, element, shape.facts)
        if shape.kind == "obb" and elements[0].tag == "polygon":
            self.tally.add("four corners that are no rectangle became a polygon")
        if shape.kind == "polygon" and len(elements) > 1:
            self.tally.add("a polygon of several parts became one polygon per part")
        return elements

    def _facts(self, element: Element, facts: Mapping[str, Any]) -> None:
        for name, value in facts.items():
            is_free = name not in (*_IMAGE, "xmlns") and (name != "subset" or "subset" not in element.attrib)
            if isinstance(value, str) and _NAME.fullmatch(name) and is_free:
                element.set(name, value)
            else:
                self.tally.add(f"attribute {name!r} of an item has no place in CVAT")

    def _note_types(self, label: str, element: Element, facts: Mapping[str, Any]) -> None:
        for one in element.findall("attribute"):
            name = one.get("name", "")
            kind = _input_type(facts[name])
            if not kind:
                self.tally.add("an attribute that is no text, number or yes/no was written as JSON text")
            self.types.setdefault(label, {}).setdefault(name, set()).add(kind or "text")

    def render(self, element: Element, level: int = 1) -> str:
        """The text of an element that stands ``level`` levels under the root."""
        lines: list[str] = []
        self._lines(element, level, lines)
        return "\n".join(lines).lstrip(" ")

    def _lines(self, element: Element, level: int, lines: list[str]) -> None:
        """As CVAT writes: start and end tags on lines of their own, attributes' text between theirs."""
        values = [*element.attrib.values(), element.text or ""]
        if any(map(xmltext.has_bad, values)):
            self.tally.add("a character that XML cannot hold became U+FFFD")
        indent, start = "  " * level, xmltext.tag(element.tag, element.attrib.items())
        text = element.text or ""
        if not len(element) and (text.strip() or element.tag == "attribute"):
            lines.append(f"{indent}{start}{xmltext.content(text)}</{element.tag}>")
            return
        lines.append(f"{indent}{start}")
        for child in element:
            self._lines(child, level + 1, lines)
        lines.append(f"{indent}</{element.tag}>")

    def finish(self, sheet: Sheet) -> Sheet:
        """The sheet with all labels in its head."""
        if not self.is_new:
            return self.with_labels(sheet)
        body = f"      <size>{self.count}</size>\n      <mode>annotation</mode>\n      <labels>\n"
        body += "".join(self._label(name) for name in self.classes)
        head = f"{_HEAD}{body}      </labels>\n    </task>\n  </meta>"
        return replace(sheet, head=head + ("\n  " if self.count else ""))

    def with_labels(self, sheet: Sheet) -> Sheet:
        """The head as it was read, with the labels that came since."""
        at = sheet.head.rfind("</labels>")
        if at < 0:
            return sheet
        there = {text.strip().casefold() for text in _label_names(sheet.head)}
        wanted = [name for name in self.classes if name not in self.known or name in self.used]
        new = [name for name in wanted if xmltext.content(name).casefold() not in there]
        if not new:
            return sheet
        start = sheet.head.rfind("\n", 0, at) + 1
        lines = "".join(self._label(name) for name in new)
        return replace(sheet, head=sheet.head[:start] + lines + sheet.head[start:])

    def _label(self, name: str) -> str:
        lines = ["        <label>", f"          <name>{xmltext.content(name)}</name>"]
        if xmltext.has_bad(name):
            self.tally.add("a character that XML cannot hold became U+FFFD")
        lines.append("          <attributes>")
        for attribute, kinds in sorted(self.types.get(name, {}).items()):
            kind = kinds.copy().pop() if len(kinds) == 1 else "text"
            if len(kinds) > 1:
                self.tally.add(f"attribute {attribute!r} has values of several types; they became text")
            lines += [
                "            <attribute>",
                f"              <name>{xmltext.content(attribute)}</name>",
                "              <mutable>False</mutable>",
                f"              <input_type>{kind}</input_type>",
                "              <default_value></default_value>",
                "              <values></values>",
                "            </attribute>",
            ]
        lines += ["          </attributes>", "        </label>", ""]
        return "\n".join(lines)


def _label_names(head: str) -> list[str]:
    return re.findall(r"<label>\s*(?:<id>[^<]*</id>\s*)?<name>([^<]*)</name>", head)


def _input_type(value: Any) -> str:
    if isinstance(value, bool):
        return "checkbox"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else ""
