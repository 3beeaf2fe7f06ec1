"""Datumaro's annotations and our shapes.

Source: Datumaro 1.x, documentation of the format "datumaro" and the fields that its exporter writes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats.cvat_shapes import straightened, turned
from loopworks.data.formats.inputs import Tally
from loopworks.data.formats.jsontext import plain

KEY = "datumaro"
_HEAD = ("id", "group", "object_id", "z_order")
_OWN = {*_HEAD, "visibility", "cuboid", "text"}


def read_shape(row: Any, labels: Sequence[str], size: tuple[int, int], at: int) -> Shape | None:
    """An annotation as a shape; ``None`` for a type that is not known. ``size`` is the image's (width, height).

    Raises: Invalid: no object, a label id that is none, or numbers that no shape has.
    """
    if not isinstance(row, Mapping):
        raise Invalid("annotation", "an object", type(row).__name__)
    kind = row.get("type")
    place = _place(row, str(kind), size)
    if place is None:
        return None
    own = row.get("attributes")
    facts = {k: plain(v) for k, v in own.items()} if isinstance(own, Mapping) else {}
    for key in _HEAD:
        if isinstance(row.get(key), int) and (row[key] or key == "z_order" and "z_order" in row):
            facts[key] = row[key]
    facts |= place[3]
    return Shape(
        label=_label(row, labels),
        source="import",
        kind=place[0],
        points=place[1],
        mask=place[2],
        attributes=dump(facts),
        extra=dump({KEY: {"at": at}}),
    )


def _label(row: Mapping[str, Any], labels: Sequence[str]) -> str:
    number = row.get("label_id")
    if number is None or number == -1:
        return ""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(labels):
        raise Invalid("label_id", f"one of the {len(labels)} labels, from 0", number)
    return labels[number]


def _numbers(row: Mapping[str, Any], key: str, count: int | None = None) -> tuple[float, ...]:
    found = row.get(key)
    rows = found if isinstance(found, list) else []
    if rows and all(isinstance(one, list) for one in rows):
        rows = [n for one in rows for n in one]
    good = rows and all(isinstance(n, int | float) and not isinstance(n, bool) and _is_finite(n) for n in rows)
    if not good or (count is not None and len(rows) != count) or (count is None and len(rows) % 2):
        raise Invalid(f"{key} of a {row.get('type')}", f"{count or 'pairs of'} finite numbers", found)
    return tuple(float(n) for n in rows)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


Place = tuple[Any, tuple[tuple[float, ...], ...], str, dict[str, Any]]


def _place(row: Mapping[str, Any], kind: str, size: tuple[int, int]) -> Place | None:
    if kind == "label":
        return "class", (), "", {}
    if kind == "caption":
        return "caption", (), "", {"text": plain(row.get("caption", ""))}
    if kind == "bbox":
        return "box", (_numbers(row, "bbox", 4),), "", {}
    if kind == "rotated_bbox":
        cx, cy, width, height, turn = _numbers(row, next((k for k in ("rbbox", "bbox") if k in row), "points"), 5)
        return "obb", (turned(cx - width / 2, cy - height / 2, width, height, turn),), "", {}
    if kind in ("polygon", "polyline"):
        return kind, (_numbers(row, "points"),), "", {}
    if kind == "points":
        seen = row.get("visibility")
        return "points", (_numbers(row, "points"),), "", {"visibility": plain(seen)} if isinstance(seen, list) else {}
    if kind == "ellipse":
        left, top, right, bottom = _numbers(row, "points", 4)
        return (
            "ellipse",
            (((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2, 0.0),),
            "",
            {},
        )
    if kind == "cuboid_2d":
        corners = _numbers(row, "points", 16)
        xs, ys = corners[::2], corners[1::2]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        return "box", (box,), "", {"cuboid": list(corners)}
    if kind == "cuboid_3d":
        parts = {key: list(_numbers(row, key, 3)) for key in ("position", "rotation", "scale")}
        return "value", (), "", {"cuboid": parts}
    if kind == "mask":
        rle = row.get("rle")
        shape = rle.get("size") if isinstance(rle, Mapping) else None
        counts = rle.get("counts") if isinstance(rle, Mapping) else None
        if (
            not isinstance(shape, list)
            or len(shape) != 2
            or not all(isinstance(n, int) and 0 < n < 1 << 20 for n in shape)
        ):
            raise Invalid("rle of a mask", "an object with counts and size", rle)
        if size != (0, 0) and (shape[1], shape[0]) != size:
            raise Invalid("size of a mask", f"that of the image, {size[1]} x {size[0]}", f"{shape[0]} x {shape[1]}")
        runs = mask.unpack(counts) if isinstance(counts, str) else counts
        if (
            not isinstance(runs, list)
            or not all(isinstance(n, int) and n >= 0 for n in runs)
            or sum(runs) != shape[0] * shape[1]
        ):
            raise Invalid("counts of a mask", f"adding up to {shape[0]} x {shape[1]}", "others")
        return "mask", ((float(shape[0]), float(shape[1])),), mask.pack(runs), {}
    return None


def write_shape(shape: Shape, labels: Sequence[str], tally: Tally, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The annotations that say ``shape``; ``before`` is the one that it was, whose other members are kept."""
    facts = shape.facts
    places = _places(shape, facts, tally)
    out = []
    for at, (kind, place) in enumerate(places):
        number = facts.get("id", at) if isinstance(facts.get("id", at), int) else at
        own = {k: v for k, v in facts.items() if not (k in _OWN and _is_own(k, v, shape, kind))}
        group = facts.get("group") if _is_whole(facts.get("group")) else 0
        row: dict[str, Any] = {"id": number if "id" in facts else 0, "type": kind, "attributes": own, "group": group}
        if _is_whole(facts.get("object_id")):
            row["object_id"] = facts["object_id"]
        if kind != "caption":
            row["label_id"] = labels.index(shape.label) if shape.label in labels else -1 if not shape.label else None
        row |= place
        if kind not in ("label", "caption", "cuboid_3d"):
            row["z_order"] = facts["z_order"] if _is_whole(facts.get("z_order")) else 0
        rest = {
            k: v for k, v in before.items() if k not in row and k not in ("bbox", "points", "rle", "visibility", "area")
        }
        out.append({**row, **rest} if before.get("type") == kind else row)
    return out


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_own(key: str, value: Any, shape: Shape, kind: str) -> bool:
    """Whether Datumaro has a member of its own for this fact."""
    if key in ("id", "group", "object_id"):
        return _is_whole(value)
    if key == "z_order":
        return _is_whole(value) and kind not in ("label", "caption", "cuboid_3d")
    if key == "text":
        return kind == "caption"
    if key == "visibility":
        return kind == "points" and isinstance(value, list) and 2 * len(value) == len(shape.points[0])
    return kind in ("cuboid_2d", "cuboid_3d")


def _places(shape: Shape, facts: Mapping[str, Any], tally: Tally) -> list[tuple[str, dict[str, Any]]]:
    if shape.kind == "class":
        return [("label", {})]
    if shape.kind == "caption":
        return [("caption", {"caption": str(facts.get("text", ""))})]
    if shape.kind == "box":
        corners = facts.get("cuboid")
        if isinstance(corners, list) and len(corners) == 16:
            xs, ys = corners[::2], corners[1::2]
            if shape.points[0] == (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)):
                pairs = [list(pair) for pair in zip(xs, ys, strict=True)]
                return [("cuboid_2d", {"points": pairs})]
        return [("bbox", {"bbox": list(shape.points[0])})]
    if shape.kind in ("polygon", "polyline", "points"):
        if len(shape.points) > 1:
            tally.add("a polygon of several parts became one polygon per part")
        rows = [(shape.kind, {"points": list(row)}) for row in shape.points]
        if shape.kind == "points":
            seen = facts.get("visibility")
            count = len(shape.points[0]) // 2
            rows[0][1]["visibility"] = seen if isinstance(seen, list) and len(seen) == count else [2] * count
        return [(str(kind), place) for kind, place in rows]
    if shape.kind == "ellipse":
        x, y, rx, ry, angle = shape.points[0]
        if angle:
            tally.add("the turn of an ellipse has no place in Datumaro JSON")
        return [("ellipse", {"points": [x - rx, y - ry, x + rx, y + ry]})]
    if shape.kind == "obb":
        flat = straightened(shape.points[0])
        if flat is None:
            tally.add("four corners that are no rectangle became a polygon")
            return [("polygon", {"points": list(shape.points[0])})]
        x, y, width, height, angle = flat
        return [("rotated_bbox", {"rbbox": [x + width / 2, y + height / 2, width, height, angle]})]
    if shape.kind == "mask":
        return [("mask", {"rle": {"counts": shape.mask, "size": [int(n) for n in shape.points[0]]}})]
    cuboid = facts.get("cuboid")
    if isinstance(cuboid, Mapping) and {"position", "rotation", "scale"} <= cuboid.keys():
        return [("cuboid_3d", {key: cuboid[key] for key in ("position", "rotation", "scale")})]
    tally.add(f"a {shape.kind} has no place in Datumaro JSON and was left out")
    return []
