"""One COCO annotation as a shape, and a shape as a COCO annotation."""

import math
from collections.abc import Mapping
from typing import Any

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats.folder import Losses, json_facts, number

_OWN = frozenset({"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "caption", "attributes"})
_TOP = ("keypoints", "num_keypoints", "score", "track_id", "ignore")
"""Facts that COCO writes beside the box; others go into ``attributes``, as CVAT and Datumaro do."""
_CLOSE = 0.02
"""Pixels by which a box may differ from its polygon's bounds before it is kept apart: COCO rounds to 0.01."""
_ARC = 32


def read_shape(body: Mapping[str, Any], label: str) -> tuple[Shape, list[str]]:
    """The shape of an annotation and what was odd about it, without its ``extra``.

    Raises: Invalid: a box with no finite numbers or a negative size, and nothing else that says where.
    """
    odd: list[str] = []
    facts = {key: value for key, value in body.items() if key not in _OWN}
    inner = body.get("attributes")
    if isinstance(inner, dict):
        facts |= inner
    elif inner is not None:
        facts["attributes"] = inner
    if body.get("iscrowd"):
        facts["iscrowd"] = body["iscrowd"]
    if "caption" in body:
        kept = json_facts({"text": body["caption"], **facts})
        return Shape(label="", source="import", kind="caption", attributes=dump(kept)), odd
    if facts:
        kept = json_facts(facts)
        odd += [f"{key}: finite numbers; got {facts[key]!r}" for key in facts.keys() - kept.keys()]
        facts = kept
    box = _box(body["bbox"]) if body.get("bbox") else None
    kind, points, text = _where(body.get("segmentation"), odd)
    if kind:
        bounds = _bounds(kind, points, text)
        if box and (bounds is None or any(abs(a - b) > _CLOSE for a, b in zip(box, bounds, strict=True))):
            facts["bbox"] = list(box)
    elif box:
        kind, points = "box", (box,)
    else:
        kind = "class"
    attributes = dump(facts) if facts else "{}"
    shape = Shape(label=label, source="import", kind=kind, points=points, mask=text, attributes=attributes)  # type: ignore[arg-type]
    return shape, odd


def write_shape(shape: Shape, losses: Losses) -> dict[str, Any]:
    """An annotation of a shape, without its ids; what COCO does not hold is counted in ``losses``."""
    facts = shape.facts
    if shape.kind == "caption":
        return {"caption": facts.pop("text", ""), **_rest(facts)}
    box, area, segmentation = _geometry(shape, facts, losses)
    body: dict[str, Any] = {"segmentation": segmentation, "area": area, "bbox": box}
    body["iscrowd"] = facts.pop("iscrowd", 0)
    return body | _rest(facts)


def patch(body: dict[str, Any], old: Shape, new: Shape, losses: Losses) -> dict[str, Any]:
    """An annotation that was read as ``old``, made to say ``new``; its other fields stay in their places."""
    body = dict(body)
    if (old.kind, old.points, old.mask) != (new.kind, new.points, new.mask):
        facts = new.facts
        if facts.get("bbox") == old.facts.get("bbox"):
            facts.pop("bbox", None)  # it belonged to the old place
        box, area, segmentation = _geometry(new, facts, losses)
        body |= {"bbox": box, "area": area, "segmentation": segmentation}
    before, after = old.facts, new.facts
    for key in before.keys() | after.keys():
        if key in before and key in after and before[key] == after[key] or key == "bbox":
            continue
        name = "caption" if new.kind == "caption" and key == "text" else key
        inner = body.get("attributes")
        place = body
        if (
            isinstance(inner, dict)
            and (name in inner or name not in body)
            and name not in (*_TOP, "iscrowd", "caption")
        ):
            place = body["attributes"] = dict(inner)
        elif name not in body and name not in (*_TOP, "iscrowd", "caption"):
            place = body["attributes"] = {}
        if key in after:
            place[name] = after[key]
        elif name == "iscrowd":
            place[name] = 0
        else:
            place.pop(name, None)
    return body


def _rest(facts: dict[str, Any]) -> dict[str, Any]:
    top = {key: facts.pop(key) for key in _TOP if key in facts}
    facts.pop("bbox", None)
    # A fact may be called like a field of COCO: there it would say something else.
    return top | ({"attributes": facts} if facts else {})


def _box(found: Any) -> tuple[float, float, float, float]:
    if not isinstance(found, list) or len(found) != 4:
        raise Invalid("bbox", "4 numbers", found)
    try:
        x, y, width, height = (float(part) for part in found)
    except (TypeError, ValueError, OverflowError):
        raise Invalid("bbox", "4 numbers", found) from None
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(width) and math.isfinite(height)):
        raise Invalid("bbox", "4 finite numbers", found)
    if width < 0 or height < 0:
        raise Invalid("width and height of a bbox", "0 or more", found)
    return x, y, width, height


def _where(found: Any, odd: list[str]) -> tuple[str, tuple[tuple[float, ...], ...], str]:
    """Kind, points and mask of a segmentation; an empty kind where it says nothing."""
    if not found:
        return "", (), ""
    if isinstance(found, dict):
        try:
            return _mask(found)
        except Invalid as error:
            odd.append(f"segmentation: {error.message}")
            return "", (), ""
    rows: list[tuple[float, ...]] = []
    parts = [found] if isinstance(found, list) and isinstance(found[0], int | float) else found
    for part in parts if isinstance(parts, list) else [parts]:
        if part == []:
            continue
        try:
            row = tuple(number(value) for value in part)
        except (Invalid, TypeError, OverflowError):
            odd.append(f"segmentation: finite numbers; got {str(part)[:80]}")
            continue
        if len(row) % 2 or len(row) < 6:
            odd.append(f"segmentation: three or more pairs of x and y; got {len(row)} numbers")
            continue
        rows.append(row)
    return ("polygon", tuple(rows), "") if rows else ("", (), "")


def _mask(found: dict[str, Any]) -> tuple[str, tuple[tuple[float, ...], ...], str]:
    size, counts = found.get("size"), found.get("counts")
    fits = isinstance(size, list) and len(size) == 2 and all(isinstance(x, int) and 0 <= x < 1 << 24 for x in size)
    if not fits or not isinstance(size, list):
        raise Invalid("size of run lengths", "height and width in pixels", size)
    height, width = size
    if isinstance(counts, str):
        total = sum(mask.unpack(counts))
        text = counts
    elif isinstance(counts, list) and all(isinstance(x, int) and 0 <= x < 1 << 48 for x in counts):
        total = sum(counts)
        text = mask.pack(counts)
    else:
        raise Invalid("run lengths", "COCO's text or whole numbers, 0 or more", str(counts)[:80])
    if total != height * width:
        raise Invalid("run lengths", f"adding up to {height} x {width} = {height * width}", total)
    if not text:
        raise Invalid("run lengths", "of an image with pixels", size)
    return "mask", ((float(height), float(width)),), text


def _bounds(kind: str, points: tuple[tuple[float, ...], ...], text: str) -> tuple[float, float, float, float] | None:
    if kind == "mask":
        return mask.bounds(text, int(points[0][0]))
    if len(points) == 1:
        xs, ys = points[0][::2], points[0][1::2]
    else:
        xs = tuple(x for row in points for x in row[::2])
        ys = tuple(y for row in points for y in row[1::2])
    left, top = min(xs), min(ys)
    return left, top, max(xs) - left, max(ys) - top


def _geometry(shape: Shape, facts: dict[str, Any], losses: Losses) -> tuple[list[float], float, Any]:
    """Box, area and segmentation of a shape; takes ``bbox`` out of ``facts``."""
    given = facts.pop("bbox", None)
    if shape.kind == "mask":
        height, width = (int(x) for x in shape.points[0])
        box: Any = mask.bounds(shape.mask, height) or (0, 0, 0, 0)
        segmentation: Any = {"size": [height, width], "counts": shape.mask}
        area: float = mask.area(shape.mask)
    else:
        rows = shape.points
        if shape.kind == "obb":
            losses.add("oriented box", "written as the polygon of its corners")
        elif shape.kind == "ellipse":
            losses.add("ellipse", f"written as a polygon of {_ARC} corners")
            rows = (ellipse(rows[0]),)
        elif shape.kind in ("polyline", "points"):
            losses.add(shape.kind, "written as the box around it, its points as the fact 'points'")
            facts["points"] = list(rows[0])
        box = shape.bounds or (0.0, 0.0, 0.0, 0.0)
        is_outline = shape.kind in ("polygon", "obb", "ellipse")
        segmentation = [list(row) for row in rows] if is_outline else []
        area = sum(map(shoelace, rows)) if is_outline else box[2] * box[3]
    if isinstance(given, list) and len(given) == 4:
        box = given
    return [float(x) if isinstance(x, float) else x for x in box], area, segmentation


def ellipse(row: tuple[float, ...], corners: int = _ARC) -> tuple[float, ...]:
    """Corners of a polygon on an ellipse (centre x, centre y, radius x, radius y, angle in degrees)."""
    cx, cy, rx, ry, angle = row
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    out: list[float] = []
    for step in range(corners):
        turn = 2 * math.pi * step / corners
        x, y = rx * math.cos(turn), ry * math.sin(turn)
        out += [cx + x * cos - y * sin, cy + x * sin + y * cos]
    return tuple(out)


def shoelace(row: tuple[float, ...]) -> float:
    """Area inside a polygon (x1, y1, x2, y2, ...), in square pixels."""
    xs, ys = row[::2], row[1::2]
    total = sum(xs[at - 1] * ys[at] - xs[at] * ys[at - 1] for at in range(len(xs)))
    return abs(total) / 2
