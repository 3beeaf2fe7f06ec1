"""Label Studio's results (regions in per cent of the image, choices, other values) and our shapes."""

import math
from collections.abc import Mapping
from decimal import Context
from fractions import Fraction
from typing import Any

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats import brush
from loopworks.data.formats.cvat_shapes import straightened
from loopworks.data.formats.jsontext import Spelled, plain

KEY = "label-studio"
_LONG = Context(prec=34)
_TYPES = {
    "box": "rectanglelabels",
    "obb": "rectanglelabels",
    "polygon": "polygonlabels",
    "polyline": "polygonlabels",
    "mask": "brushlabels",
    "points": "keypointlabels",
    "ellipse": "ellipselabels",
    "class": "choices",
    "value": "labels",
}


def type_of(shape: Shape) -> str:
    """The type of result that says ``shape``; empty where there is none."""
    return _TYPES.get(shape.kind, "")


def labels_of(value: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The key under which a region's value names its classes, and the classes."""
    for key, found in value.items():
        if key.endswith("labels") and isinstance(found, list):
            return key, [one for one in found if isinstance(one, str)]
    return None


def is_region(value: Any) -> bool:
    """Whether a result's value says where: a place in an image or a span of a text."""
    return isinstance(value, Mapping) and any(key in value for key in ("x", "points", "rle", "start"))


def pixels(share: Any, side: int, what: str) -> float:
    """Per cent of ``side`` pixels as pixels, rounded once.

    Raises: Invalid: no finite number.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        raise Invalid(what, "a number", share)
    text = share.text if isinstance(share, Spelled) else str(share) if isinstance(share, int) else "e"
    if len(text) < 200 and "e" not in text and "E" not in text:
        whole, _, rest = text.partition(".")
        # A quotient of whole numbers is rounded once, as one of fractions is, at a tenth of the time.
        return float(int(whole + rest) * side / (100 * 10 ** len(rest)))
    if isinstance(share, int) or (isinstance(share, Spelled) and len(text) < 1200 and "e" not in text.lower()):
        return float(Fraction(text if isinstance(share, Spelled) else share) * side / 100)
    return float(Fraction(float(share)) * side / 100) if abs(share) < 1e15 else share * side / 100


def share(place: float, side: int) -> int | float:
    """Pixels as per cent of ``side``; with more digits than usual only where it takes them to come back."""
    rough = place * 100 / side
    for one in (rough, math.nextafter(rough, math.inf), math.nextafter(rough, -math.inf)):
        spelled: int | float = int(one) if one.is_integer() and abs(one) < 1e15 else Spelled(repr(float(one)))
        if pixels(spelled, side, "") == place:
            return spelled
    exact = Fraction(place) * 100 / side
    return Spelled(format(_LONG.divide(exact.numerator, exact.denominator), "f"))


def read_region(
    value: Mapping[str, Any], size: tuple[int, int], label: str, facts: dict[str, Any], extra: str, author: str
) -> Shape:
    """A region as a shape in an image of ``size`` (width, height).

    Raises: Invalid: the size is not known, or numbers that no shape has.
    """
    kind, row, runs = _geometry(value, size)
    if kind == "value":
        facts = {
            **{k: plain(value[k]) for k in ("start", "end", "startOffset", "endOffset", "text") if k in value},
            **facts,
        }
    return Shape(
        label=label,
        source="import",
        kind=kind,
        points=(row,) if row else (),
        mask=runs,
        attributes=dump(facts) if facts else "{}",
        author=author,
        extra=extra,
    )


def _geometry(value: Mapping[str, Any], size: tuple[int, int]) -> tuple[Any, tuple[float, ...], str]:
    if "x" not in value and "points" not in value and "rle" not in value:
        return "value", (), ""
    width, height = size
    if not (width and height):
        raise Invalid("size of the image", "known", "neither original_width nor the image")
    if "rle" in value:
        found = value["rle"]
        return (
            "mask",
            (float(height), float(width)),
            mask.encode(brush.decode(found if isinstance(found, list) else [], height, width)),
        )
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            raise Invalid("points of a region", "a list of pairs", points)
        row = tuple(pixels(n, side, "point") for p in points for n, side in zip(p, size, strict=True))
        return "polyline" if value.get("closed") is False or len(points) < 3 else "polygon", row, ""
    x, y = pixels(value["x"], width, "x"), pixels(value.get("y"), height, "y")
    turn = pixels(value["rotation"], 100, "rotation") if value.get("rotation") else 0.0
    if "radiusX" in value:
        return (
            "ellipse",
            (x, y, pixels(value["radiusX"], width, "radiusX"), pixels(value.get("radiusY"), height, "radiusY"), turn),
            "",
        )
    if "height" not in value:
        return "points", (x, y), ""
    wide, high = pixels(value.get("width"), width, "width"), pixels(value["height"], height, "height")
    if wide < 0 or high < 0:
        raise Invalid("size of a rectangle", "0 or more", (wide, high))
    return ("obb", turned(x, y, wide, high, turn), "") if turn else ("box", (x, y, wide, high), "")


def turned(x: float, y: float, width: float, height: float, degrees: float) -> tuple[float, ...]:
    """Corners of a box turned clockwise about its upper left corner."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    return tuple(n for dx, dy in corners for n in (x + dx * cos - dy * sin, y + dx * sin + dy * cos))


def write_value(shape: Shape, size: tuple[int, int]) -> list[dict[str, Any]]:
    """The values of the regions that say where ``shape`` is; several for a polygon of several parts.

    Raises: Invalid: the size of the image is not known.
    """
    if shape.kind == "value":
        return [{k: v for k, v in shape.facts.items() if k in ("start", "end", "startOffset", "endOffset", "text")}]
    if shape.kind == "class":
        return [{}]
    width, height = size
    if not (width and height):
        raise Invalid("size of the image", "known, for per cent of it", "nothing")
    if shape.kind == "mask":
        rows, columns = (int(n) for n in shape.points[0])
        return [{"format": "rle", "rle": brush.encode(mask.decode(shape.mask, rows, columns))}]
    if shape.kind in ("polygon", "polyline"):
        values: list[dict[str, Any]] = []
        for row in shape.points:
            points = [[share(x, width), share(y, height)] for x, y in zip(row[::2], row[1::2], strict=True)]
            values.append({"points": points, "closed": shape.kind == "polygon"})
        return values
    if shape.kind == "points":
        row = shape.points[0]
        return [
            {"x": share(x, width), "y": share(y, height), "width": 0.5}
            for x, y in zip(row[::2], row[1::2], strict=True)
        ]
    if shape.kind == "ellipse":
        x, y, rx, ry, angle = shape.points[0]
        place = {"x": share(x, width), "y": share(y, height), "radiusX": share(rx, width), "radiusY": share(ry, height)}
        return [{**place, "rotation": angle}]
    if shape.kind == "obb":
        flat = straightened(shape.points[0])
        if flat is None:
            row = shape.points[0]
            return [
                {
                    "points": [[share(x, width), share(y, height)] for x, y in zip(row[::2], row[1::2], strict=True)],
                    "closed": True,
                }
            ]
        x, y = shape.points[0][:2]
        wide, high, angle = flat[2:]
    else:
        (x, y, wide, high), angle = shape.points[0], 0.0
    return [
        {
            "x": share(x, width),
            "y": share(y, height),
            "width": share(wide, width),
            "height": share(high, height),
            "rotation": angle or 0,
        }
    ]
