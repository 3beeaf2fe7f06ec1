"""CVAT's shape elements and ours.

Source: "XML annotation format", version 1.1, in CVAT's documentation (docs.cvat.ai, "Annotation for images").
"""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation, Overflow
from typing import Any
from xml.etree.ElementTree import Element

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump

TAGS = ("box", "polygon", "polyline", "points", "ellipse", "mask", "skeleton", "cuboid", "tag")
_FLAGS = ("occluded", "outside")
_CUBOID = tuple(f"{axis}{corner}{side}" for side in "12" for corner in ("tl", "bl", "tr", "br") for axis in "xy")
_PLACE = {"box": ("xtl", "ytl", "xbr", "ybr", "rotation"), "ellipse": ("cx", "cy", "rx", "ry", "rotation")}
_GEOMETRY = {"points", "rle", "left", "top", "width", "height", "rotation", *_CUBOID}
_GEOMETRY |= {*_PLACE["box"], *_PLACE["ellipse"], "label"}
_EXACT = Context(prec=1600, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Overflow])
"""Sums and differences of any two doubles, with no digit lost."""

Types = Mapping[tuple[str, str], str]
"""(Label, attribute) -> CVAT's input type: checkbox, number, text, select, radio."""


def read_shape(element: Element, label: str, size: tuple[int, int], types: Types, at: int) -> Shape:
    """A shape element as a shape; ``at`` is its place in the image, ``size`` the image's (width, height).

    Raises: Invalid: an element that is not known, or numbers that no shape has.
    """
    kind, points, text, more = _geometry(element, size)
    facts: dict[str, Any] = {}
    for name, value in element.attrib.items():
        if name not in _GEOMETRY:
            facts[name] = value == "1" if name in _FLAGS and value in "01" else _plain_int(value)
    for name, value in _own_attributes(element):
        facts[name] = typed(value, types.get((element.get("label", ""), name), ""))
    return Shape(
        label=label,
        source="import",
        kind=kind,
        points=points,
        mask=text,
        attributes=dump({**facts, **more}),
        extra=dump({"cvat": {"at": at}}),
    )


def _own_attributes(element: Element) -> list[tuple[str, str]]:
    return [(one.get("name", ""), one.text or "") for one in element.findall("attribute")]


def typed(value: str, kind: str) -> Any:
    """An attribute's text as its type; what would not come back as the same text stays text."""
    if kind == "checkbox" and value in ("true", "false"):
        return value == "true"
    if kind == "number":
        for form in (int, float):
            try:
                found = form(value)
            except (ValueError, OverflowError):
                continue
            if str(found) == value and math.isfinite(found):
                return found
    return value


def _plain_int(value: str) -> Any:
    return int(value) if value.lstrip("-").isascii() and value.lstrip("-").isdigit() and len(value) < 19 else value


def _geometry(
    element: Element, size: tuple[int, int]
) -> tuple[Any, tuple[tuple[float, ...], ...], str, dict[str, Any]]:
    name = element.tag
    if name == "tag":
        return "class", (), "", {}
    if name == "box":
        return *_box(element), "", {}
    if name == "ellipse":
        numbers = (*(_number(element, key) for key in ("cx", "cy", "rx", "ry")), _number(element, "rotation", 0.0))
        return "ellipse", (numbers,), "", {}
    if name == "mask":
        return "mask", ((float(size[1]), float(size[0])),), _mask(element, size), {}
    if name == "cuboid":
        corners = [_number(element, key) for key in _CUBOID]
        xs, ys = corners[::2], corners[1::2]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        return "box", (box,), "", {"cuboid": corners}
    if name == "skeleton" and element.find("points") is None:
        return "points", (_pairs(element.get("points", ""), name),), "", {}  # as the first CVAT with skeletons wrote it
    if name == "skeleton":
        return "points", (_joints(element),), "", {"skeleton": [_joint(one) for one in element.findall("points")]}
    if name in ("polygon", "polyline", "points"):
        return name, (_pairs(element.get("points", ""), name),), "", {}
    raise Invalid("element of an image", ", ".join(TAGS), name)


def _number(element: Element, key: str, default: float | None = None) -> float:
    value = element.get(key)
    if value is None:
        if default is None:
            raise Invalid(f"{key} of a {element.tag}", "given", "nothing")
        return default
    return _float(value, f"{key} of a {element.tag}")


def _float(value: str, what: str) -> float:
    try:
        found = float(value)
    except ValueError:
        raise Invalid(what, "a number", value) from None
    if not math.isfinite(found):
        raise Invalid(what, "a finite number", value)
    return found


def _box(element: Element) -> tuple[str, tuple[tuple[float, ...], ...]]:
    left, top, right, bottom = (_number(element, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    width = _difference(element.get("xbr", ""), element.get("xtl", ""), right - left)
    height = _difference(element.get("ybr", ""), element.get("ytl", ""), bottom - top)
    if width < 0 or height < 0:
        raise Invalid("size of a box", "0 or more", (width, height))
    turn = _number(element, "rotation", 0.0)
    if not turn:
        return "box", ((left, top, width, height),)
    return "obb", (turned(left, top, width, height, turn),)


def _difference(high: str, low: str, rough: float) -> float:
    """``high - low`` in decimal, as it was written: 7.05 rather than 7.049999999999999."""
    if len(high) + len(low) > 1500:
        return rough
    try:
        return float(_EXACT.subtract(Decimal(high.strip()), Decimal(low.strip())))
    except (InvalidOperation, Overflow, OverflowError):
        return rough


def turned(x: float, y: float, width: float, height: float, degrees: float) -> tuple[float, ...]:
    """Corners of a box turned clockwise about its centre, clockwise from the one that was upper left."""
    cx, cy, turn = x + width / 2, y + height / 2, math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    out: list[float] = []
    for dx, dy in ((-width, -height), (width, -height), (width, height), (-width, height)):
        out += [cx + (dx * cos - dy * sin) / 2, cy + (dx * sin + dy * cos) / 2]
    return tuple(out)


def straightened(corners: Sequence[float]) -> tuple[float, float, float, float, float] | None:
    """(x, y, width, height, degrees clockwise) of a turned box; ``None`` where the corners are of no rectangle."""
    x1, y1, x2, y2, x3, y3, x4, y4 = corners
    width, height = math.hypot(x2 - x1, y2 - y1), math.hypot(x3 - x2, y3 - y2)
    slack = 1e-6 * max(1.0, *map(abs, corners))
    if math.hypot(x1 + x3 - x2 - x4, y1 + y3 - y2 - y4) > slack:
        return None
    if abs(math.hypot(x3 - x1, y3 - y1) - math.hypot(x4 - x2, y4 - y2)) > slack:
        return None
    degrees = math.degrees(math.atan2(y2 - y1, x2 - x1)) if width else math.degrees(math.atan2(x2 - x3, y3 - y2))
    cx, cy = (x1 + x3) / 2, (y1 + y3) / 2
    return cx - width / 2, cy - height / 2, width, height, degrees % 360.0


def _pairs(text: str, name: str) -> tuple[float, ...]:
    out: list[float] = []
    for pair in text.split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise Invalid(f"points of a {name}", "x,y;x,y;...", text)
        out += [_float(x, f"point of a {name}"), _float(y, f"point of a {name}")]
    return tuple(out)


def _joints(element: Element) -> tuple[float, ...]:
    return tuple(number for one in element.findall("points") for number in _pairs(one.get("points", ""), "skeleton"))


def _joint(element: Element) -> dict[str, Any]:
    body: dict[str, Any] = {k: v if k == "label" else _plain_int(v) for k, v in element.attrib.items() if k != "points"}
    own = dict(_own_attributes(element))
    return {**body, "attributes": own} if own else body


def _mask(element: Element, size: tuple[int, int]) -> str:
    import numpy as np

    width, height = size
    left, top, wide, high = (round(_number(element, key)) for key in ("left", "top", "width", "height"))
    if left < 0 or top < 0 or wide < 1 or high < 1 or left + wide > width or top + high > height:
        raise Invalid("mask", f"inside the image of {width} x {height}", f"{wide} x {high} at ({left}, {top})")
    try:
        counts = [int(count) for count in element.get("rle", "").split(",")]
    except ValueError:
        raise Invalid("rle of a mask", "whole numbers", element.get("rle", "")) from None
    # CVAT's runs go along the rows of the box, ours along the columns of the image.
    pixels = np.zeros((height, width), np.bool_)
    pixels[top : top + high, left : left + wide] = mask.fill(counts, wide, high).T
    return mask.encode(pixels)


def write_shape(shape: Shape) -> list[Element]:
    """The elements that say ``shape``: several for a polygon of several parts, none where CVAT has no such kind."""
    facts = shape.facts
    kind, sites = _sites(shape, facts)
    if kind in ("tag", "skeleton") and facts.get("occluded") is False:
        facts.pop("occluded")  # CVAT says it of these only where it is so
    own = {k: v for k, v in facts.items() if not _is_head(k, v) and k != kind}
    out = []
    for site in sites:
        head = {"label": shape.label, "source": facts["source"] if isinstance(facts.get("source"), str) else "manual"}
        if kind not in ("tag", "skeleton") or facts.get("occluded") is True:
            head["occluded"] = str(int(facts.get("occluded") is True))
        if isinstance(facts.get("outside"), bool):
            head["outside"] = str(int(facts["outside"]))
        head |= site
        if kind != "tag" or _is_int(facts.get("z_order")):
            head["z_order"] = str(facts["z_order"]) if _is_int(facts.get("z_order")) else "0"
        if _is_int(facts.get("group_id")):
            head["group_id"] = str(facts["group_id"])
        element = Element(kind, head)
        if kind == "skeleton":
            element.extend(_joint_element(row, at, shape) for at, row in enumerate(facts["skeleton"]))
        element.extend(_attribute(name, value) for name, value in own.items())
        out.append(element)
    return out


def _attribute(name: str, value: Any) -> Element:
    element = Element("attribute", {"name": name})
    element.text = spell(value)
    return element


def _joint_element(joint: Mapping[str, Any], at: int, shape: Shape) -> Element:
    head = {name: spell(value) for name, value in joint.items() if name != "attributes"}
    element = Element("points", {**head, "points": _spelled(shape.points[0][2 * at : 2 * at + 2])})
    own = joint.get("attributes")
    element.extend(_attribute(n, v) for n, v in (own.items() if isinstance(own, Mapping) else ()))
    return element


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_head(name: str, value: Any) -> bool:
    """Whether CVAT holds this fact as an XML attribute of the shape."""
    if name == "source":
        return isinstance(value, str)
    return isinstance(value, bool) if name in _FLAGS else name in ("z_order", "group_id") and _is_int(value)


def spell(value: Any) -> str:
    """A fact as CVAT writes attribute values."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _sites(shape: Shape, facts: Mapping[str, Any]) -> tuple[str, list[dict[str, str]]]:
    if shape.kind == "class":
        return "tag", [{}]
    if shape.kind == "box":
        if _is_cuboid(shape, facts):
            return "cuboid", [{k: number(v) for k, v in zip(_CUBOID, facts["cuboid"], strict=True)}]
        return "box", [_corners(*shape.points[0])]
    if shape.kind == "obb":
        flat = straightened(shape.points[0])
        if flat is None:
            return "polygon", [{"points": _spelled(shape.points[0])}]
        return "box", [{**_corners(*flat[:4]), "rotation": repr(flat[4])}]
    if shape.kind == "ellipse":
        *place, angle = shape.points[0]
        site = {key: number(value) for key, value in zip(("cx", "cy", "rx", "ry"), place, strict=True)}
        return "ellipse", [{**site, "rotation": number(angle)} if angle else site]
    if shape.kind == "mask":
        return "mask", [_mask_site(shape)]
    if shape.kind == "points" and _is_skeleton(shape, facts):
        return "skeleton", [{}]
    if shape.kind in ("polygon", "polyline", "points"):
        return shape.kind, [{"points": _spelled(row)} for row in shape.points]
    return "", []


def _is_skeleton(shape: Shape, facts: Mapping[str, Any]) -> bool:
    joints = facts.get("skeleton")
    return (
        isinstance(joints, list)
        and 2 * len(joints) == len(shape.points[0])
        and all(isinstance(one, Mapping) for one in joints)
    )


def _is_cuboid(shape: Shape, facts: Mapping[str, Any]) -> bool:
    """Whether the box is still the one around the cuboid that came with it."""
    corners = facts.get("cuboid")
    if not isinstance(corners, list) or len(corners) != len(_CUBOID):
        return False
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in corners):
        return False
    xs, ys = corners[::2], corners[1::2]
    return shape.points[0] == (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def number(value: float) -> str:
    """With CVAT's two decimals where these say it all, else with all it takes."""
    short = f"{value:.2f}"
    return short if float(short) == value else repr(value)


def _corners(x: float, y: float, width: float, height: float) -> dict[str, str]:
    return {"xtl": number(x), "ytl": number(y), "xbr": _sum(x, width), "ybr": _sum(y, height)}


def _sum(start: float, length: float) -> str:
    """``start + length`` with as many digits as it takes to get ``length`` back."""
    total = _EXACT.add(Decimal(number(start)), Decimal(repr(length)))
    short = f"{total:.2f}"
    return short if Decimal(short) == total else format(total, "f") if abs(total.adjusted()) < 60 else str(total)


def _spelled(row: Sequence[float]) -> str:
    return ";".join(f"{number(x)},{number(y)}" for x, y in zip(row[::2], row[1::2], strict=True))


def _mask_site(shape: Shape) -> dict[str, str]:
    height, width = (int(side) for side in shape.points[0])
    left, top, wide, high = mask.bounds(shape.mask, height) or (0, 0, min(1, width), min(1, height))
    pixels = mask.decode(shape.mask, height, width)[top : top + high, left : left + wide]
    runs = mask.runs(pixels.T)
    place = zip(("left", "top", "width", "height"), map(str, (left, top, wide, high)), strict=True)
    return {"rle": ", ".join(map(str, runs)), **dict(place)}
