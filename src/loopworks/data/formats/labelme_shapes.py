"""One shape of a LabelMe file as a shape of ours, and back."""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.image import MAX_PIXELS
from loopworks.core.values import Shape, dump
from loopworks.data.formats.folder import Losses, json_facts, number

_OWN = frozenset({"label", "points", "shape_type", "mask"})
_EMPTY: dict[str, Any] = {"flags": {}, "description": "", "group_id": None}
_KINDS = {"polygon": "polygon", "linestrip": "polyline", "line": "polyline", "point": "points", "points": "points"}


def read_shape(body: Any, label: str, size: tuple[int, int]) -> Shape:
    """The shape, without its ``extra``.

    Args:
        body: an entry of ``shapes``.
        label: its class.
        size: width and height of the image in pixels, which a mask needs.
    Raises: Invalid: points that are none, an unknown type, a broken mask.
    """
    kind = body.get("shape_type") or "polygon"  # files before version 3.5 have no type
    points = _points(body.get("points"))
    facts = {key: value for key, value in body.items() if key not in _OWN and not _is_empty(key, value)}
    drawn: Any = kind
    text = ""
    row: tuple[float, ...]
    if kind == "rectangle":
        if len(points) not in (2, 4):
            raise Invalid("points of a rectangle", "two or four corners", len(points))
        xs, ys = [x for x, _ in points], [y for _, y in points]
        row = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        drawn = "box"
    elif kind == "circle":
        if len(points) != 2:
            raise Invalid("points of a circle", "its centre and a place on it", len(points))
        radius = math.dist(points[0], points[1])
        row, drawn = (*points[0], radius, radius, 0.0), "ellipse"
    elif kind == "mask":
        row = (float(size[1]), float(size[0]))
        text = _read_mask(body.get("mask"), points, size)
    elif kind in _KINDS:
        drawn = _KINDS[kind]
        row = tuple(value for point in points for value in point)
        if kind == "line" and len(points) == 2:
            facts["shape_type"] = "line"
        if kind == "points":
            facts["shape_type"] = "points"
    else:
        raise Invalid("shape_type", "one that LabelMe has", kind)
    kept = dump(json_facts(facts))
    return Shape(label=label, source="import", kind=drawn, points=(row,), mask=text, attributes=kept)


def write_shape(shape: Shape, losses: Losses, old: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """An entry of ``shapes``; ``None`` where LabelMe has none. Fields of ``old`` stay in their places."""
    facts = shape.facts
    given = facts.pop("shape_type", None)
    bits: str | None = None
    row = shape.points[0] if shape.points else ()
    if shape.kind == "box":
        x, y, width, height = row
        kind, points = "rectangle", [[x, y], [x + width, y + height]]
    elif shape.kind == "ellipse":
        if row[2] != row[3]:
            losses.add("ellipse", "written as a circle of its mean radius")
        kind, points = "circle", [[row[0], row[1]], [row[0] + (row[2] + row[3]) / 2, row[1]]]
    elif shape.kind == "mask":
        kind = "mask"
        points, bits = _write_mask(shape)
    elif shape.kind in ("polygon", "obb", "polyline", "points"):
        if shape.kind == "obb":
            losses.add("oriented box", "written as a polygon")
        is_point = shape.kind == "points"
        kind = {"polyline": "linestrip", "points": "points"}.get(shape.kind, "polygon")
        points = [list(row[at : at + 2]) for at in range(0, len(row), 2)]
        if given == "line" and len(points) == 2 and shape.kind == "polyline":
            kind = "line"
        elif is_point and len(points) == 1 and given != "points":
            kind = "point"
    else:
        losses.add(shape.kind, "left out")
        return None
    plain = {"label": shape.label, "points": points, "group_id": None, "description": "", "shape_type": kind}
    body: dict[str, Any] = dict(old) if old else {**plain, "flags": {}, "mask": None}
    body |= {"label": shape.label, "points": points, "shape_type": kind}
    if "mask" in body or bits:
        body["mask"] = bits
    for key in list(body):
        if key in _OWN or key in facts or _is_empty(key, body[key]):
            continue
        if key in _EMPTY:
            body[key] = _EMPTY[key]
        else:
            del body[key]
    if facts.keys() & _OWN:
        losses.add("fact called like a field of LabelMe", "left out")
    return body | {key: value for key, value in facts.items() if key not in _OWN}


def _is_empty(key: str, value: Any) -> bool:
    return key in _EMPTY and value in (None, {}, "")


def _points(found: Any) -> list[tuple[float, float]]:
    if not isinstance(found, list) or not found:
        raise Invalid("points", "pairs of x and y", str(found)[:80])
    out = []
    for point in found:
        if not isinstance(point, list) or len(point) != 2:
            raise Invalid("points", "pairs of x and y", str(point)[:80])
        out.append((number(point[0]), number(point[1])))
    return out


def _read_mask(found: Any, points: list[tuple[float, float]], size: tuple[int, int]) -> str:
    from PIL import Image

    width, height = size
    if not width or not height or width * height > MAX_PIXELS:
        raise Invalid("size of the image of a mask", f"known, at most {MAX_PIXELS} pixels", size)
    if not isinstance(found, str):
        raise Invalid("mask", "a PNG in base64", str(found)[:80])
    try:
        with Image.open(io.BytesIO(base64.b64decode(found, validate=True))) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Invalid("mask", f"at most {MAX_PIXELS} pixels", image.size)
            bits: NDArray[np.bool_] = np.asarray(image.convert("L") if image.mode != "1" else image) > 0
    except LoopworksError:
        raise
    except (binascii.Error, ValueError) as error:
        raise Invalid("mask", "a PNG in base64", str(error)) from None
    except Exception as error:  # Pillow raises anything from SyntaxError to struct.error for broken files
        raise Invalid("mask", "a PNG in base64", str(error)) from None
    left, top = int(points[0][0]), int(points[0][1])
    whole = np.zeros((height, width), np.bool_)
    rows, columns = slice(max(0, top), top + bits.shape[0]), slice(max(0, left), left + bits.shape[1])
    target = whole[rows, columns]
    if left < 0 or top < 0 or target.shape != bits.shape:
        raise Invalid("mask", f"inside {width} x {height}", f"{bits.shape[1]} x {bits.shape[0]} at {left}, {top}")
    target |= bits
    return mask.encode(whole)


def _write_mask(shape: Shape) -> tuple[list[list[float]], str]:
    from PIL import Image

    height, width = (int(x) for x in shape.points[0])
    x, y, w, h = mask.bounds(shape.mask, height) or (0, 0, 1, 1)
    bits = mask.decode(shape.mask, height, width)[y : y + h, x : x + w]
    file = io.BytesIO()
    Image.fromarray(bits.astype(np.uint8) * 255).convert("L").save(file, format="PNG")
    corners = [[float(x), float(y)], [float(x + w - 1), float(y + h - 1)]]
    return corners, base64.b64encode(file.getvalue()).decode("ascii")
