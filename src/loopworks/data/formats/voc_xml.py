"""One ``<object>`` of Pascal VOC as a shape, and a shape as an ``<object>``."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats.folder import Losses, json_facts

Element = ElementTree.Element
_PLACE = ("bndbox", "robndbox", "polygon", "name", "part", "attributes", "actions")
_OWN = ("pose", "truncated", "difficult", "occluded")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def parse(data: bytes, name: str) -> Element:
    """The root of an XML file from outside.

    Raises: Invalid: no XML, with the position; a document type or entities, which VOC has none of; nested too deep.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except ElementTree.ParseError as error:
        raise Invalid(f"{name} line {error.position[0]} column {error.position[1]}", "XML", str(error)) from None
    except DefusedXmlException as error:
        raise Invalid(name, "XML without document type and entities", type(error).__name__) from None
    except (LookupError, ValueError, RecursionError) as error:  # unknown encodings and the like
        raise Invalid(name, "XML", str(error)) from None
    if _depth(root) > 64:
        raise Invalid(name, "XML of at most 64 levels", "more")
    return root


def recover(data: bytes, name: str) -> tuple[Element, str]:
    """The root of an XML file, and what is wrong with it: one that is cut off gives the objects that are whole.

    Raises: Invalid: as ``parse``, where no object is whole.
    """
    try:
        return parse(data, name), ""
    except Invalid as error:
        end = data.rfind(b"</object>")
        if end < 0:
            raise
        try:
            return parse(data[: end + len(b"</object>")] + b"</annotation>", name), error.message
        except Invalid:
            raise error from None


def encoding_of(data: bytes) -> str:
    """The encoding that an XML file declares; empty where it does not."""
    found = _ENCODING.match(data)
    return found[1].decode("ascii").lower() if found else ""


def texts(root: Element, path: str) -> str:
    """The text at a path without blanks around it; empty where there is none."""
    return (root.findtext(path) or "").strip()


def read_object(element: Element, label: str) -> Shape:
    """The shape of an ``<object>``, without its ``extra``.

    Raises: Invalid: no box, no finite numbers, a negative size.
    """
    facts: dict[str, Any] = {}
    for child in element:
        if child.tag not in _PLACE and child.tag not in facts:
            value = _value(child)
            if value is not None:
                facts[child.tag] = value
    actions = element.find("actions")
    if actions is not None and len(actions):
        facts["actions"] = {child.tag: _value(child) for child in actions}
    parts = [_part(part) for part in element.findall("part")]
    if parts:
        facts["parts"] = parts
    for attribute in element.iterfind("attributes/attribute"):
        name = texts(attribute, "name")
        if name:
            facts[_plain(name) if name.startswith('"') else name] = _plain(attribute.findtext("value") or "")
    kind, points, box = _where(element)
    if box is not None:
        facts["bbox"] = list(box)
    return Shape(label=label, source="import", kind=kind, points=points, attributes=dump(json_facts(facts)))  # type: ignore[arg-type]


def write_object(shape: Shape, losses: Losses, old: Element | None = None) -> Element:
    """An ``<object>`` of a shape; elements of ``old`` that say something else stay."""
    element = ElementTree.Element("object") if old is None else old
    _set(element, "name", shape.label)
    facts = shape.facts
    box = facts.pop("bbox", None)
    for key in _OWN:
        if key in facts and not isinstance(facts[key], dict | list):
            _set(element, key, _spell(facts.pop(key)))
        elif element.find(key) is None and key != "occluded":
            _set(element, key, "Unspecified" if key == "pose" else "0") if old is None else None
    for tag in ("bndbox", "robndbox", "polygon", "part", "actions", "attributes"):
        for child in element.findall(tag):
            element.remove(child)
    _add_place(element, shape, box, losses)
    parts = facts.pop("parts", None)
    for part in parts if isinstance(parts, list) else ():
        _add_part(element, part)
    actions = facts.pop("actions", None)
    if isinstance(actions, dict):
        inner = ElementTree.SubElement(element, "actions")
        for key, value in actions.items():
            ElementTree.SubElement(inner, key).text = _spell(value)
    known = {child.tag for child in element}
    rest = {key: value for key, value in facts.items() if key not in known}
    if rest:
        inner = ElementTree.SubElement(element, "attributes")
        for key, value in rest.items():
            attribute = ElementTree.SubElement(inner, "attribute")
            ElementTree.SubElement(attribute, "name").text = _spell(key)
            ElementTree.SubElement(attribute, "value").text = _spell(value)
    return element


def _depth(root: Element) -> int:
    level, deepest = [root], 0
    while level and deepest <= 64:
        deepest += 1
        level = [child for element in level for child in element]
    return deepest


def _value(element: Element) -> Any:
    if len(element):
        return {child.tag: _value(child) for child in element}
    text = (element.text or "").strip()
    return _plain(text) if text else None


def _plain(text: str) -> Any:
    """A value from text: a number, true, false, or text; JSON text in quotes is what is in them."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        return text
    return value if _spell(value) == text else text


def _spell(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, sort_keys=True)
    is_odd = not value.isprintable() or value != value.strip() or not value
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return json.dumps(value) if is_odd else value
    return json.dumps(value)


def _numbers(element: Element, names: Iterator[str] | tuple[str, ...]) -> list[float]:
    values = []
    for name in names:
        text = texts(element, name)
        try:
            value = float(text)
        except ValueError:
            raise Invalid(name, "a number", text or "nothing") from None
        if not math.isfinite(value):
            raise Invalid(name, "a finite number", text)
        values.append(value)
    return values


def _sides(element: Element) -> tuple[float, float, float, float]:
    left, top, right, bottom = _numbers(element, _SIDES)
    if right < left or bottom < top:
        raise Invalid("xmax and ymax", "not below xmin and ymin", f"{left}, {top}, {right}, {bottom}")
    return left, top, right - left, bottom - top


def _where(element: Element) -> tuple[str, tuple[tuple[float, ...], ...], tuple[float, ...] | None]:
    """Kind, points, and the box where it is not the bounds of the points."""
    found = element.find("bndbox")
    box = _sides(found) if found is not None else None
    polygon = element.find("polygon")
    if polygon is not None and len(polygon) >= 6:
        count = len(polygon) // 2
        row = _numbers(polygon, tuple(f"{axis}{at}" for at in range(1, count + 1) for axis in "xy"))
        xs, ys = row[::2], row[1::2]
        bounds = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        return "polygon", (tuple(row),), box if box != bounds else None
    turned = element.find("robndbox")
    if turned is not None:
        cx, cy, width, height, angle = _numbers(turned, ("cx", "cy", "w", "h", "angle"))
        if width < 0 or height < 0:
            raise Invalid("w and h", "0 or more", f"{width} and {height}")
        return "obb", (_corners(cx, cy, width, height, angle),), None
    if box is None:
        return "class", (), None
    return "box", (box,), None


def _corners(cx: float, cy: float, width: float, height: float, angle: float) -> tuple[float, ...]:
    cos, sin = math.cos(angle), math.sin(angle)
    out: list[float] = []
    for x, y in ((-width, -height), (width, -height), (width, height), (-width, height)):
        out += [cx + (x * cos - y * sin) / 2, cy + (x * sin + y * cos) / 2]
    return tuple(out)


def _part(element: Element) -> dict[str, Any]:
    found = element.find("bndbox")
    box = list(_sides(found)) if found is not None else None
    return {"name": texts(element, "name"), "bbox": box}


def _add_place(element: Element, shape: Shape, box: Any, losses: Losses) -> None:
    if shape.kind == "class":
        return
    if shape.kind == "mask":
        losses.add("mask of an object with facts", "written as the box around it")
        bounds: Any = mask.bounds(shape.mask, int(shape.points[0][0])) or (0, 0, 0, 0)
    else:
        bounds = shape.bounds or (0.0, 0.0, 0.0, 0.0)
    if isinstance(box, list) and len(box) == 4:
        bounds = box
    _add_box(element, bounds)
    if shape.kind == "polygon":
        if len(shape.points) > 1:
            losses.add("polygon of several parts", "written as its first part")
        inner = ElementTree.SubElement(element, "polygon")
        for at, value in enumerate(shape.points[0]):
            ElementTree.SubElement(inner, f"{'xy'[at % 2]}{at // 2 + 1}").text = _number(value)
    elif shape.kind not in ("box", "mask"):
        losses.add("oriented box" if shape.kind == "obb" else shape.kind, "written as the box around it")


def _add_box(element: Element, box: Any) -> None:
    x, y, width, height = box
    inner = ElementTree.SubElement(element, "bndbox")
    for name, value in zip(_SIDES, (x, y, x + width, y + height), strict=True):
        ElementTree.SubElement(inner, name).text = _number(value)


def _add_part(element: Element, part: Any) -> None:
    if not isinstance(part, dict):
        return
    inner = ElementTree.SubElement(element, "part")
    ElementTree.SubElement(inner, "name").text = str(part.get("name", ""))
    if part.get("bbox"):
        _add_box(inner, part["bbox"])


def _set(element: Element, tag: str, text: str) -> None:
    found = element.find(tag)
    if found is None:
        found = ElementTree.SubElement(element, tag)
    found.text = text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
