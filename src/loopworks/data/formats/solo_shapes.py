"""SOLO's annotations and our shapes.

Source: the schema of SOLO in the documentation of com.unity.perception 1.0.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats.color_masks import load_mask
from loopworks.data.formats.contract import Record
from loopworks.data.formats.cvat_image import is_same
from loopworks.data.formats.inputs import ClassNames, Tally, find
from loopworks.data.formats.jsontext import plain

KEY = "solo"
_TYPES = {
    "BoundingBox2DAnnotation": "box",
    "BoundingBox3DAnnotation": "cuboid",
    "KeypointAnnotation": "points",
    "InstanceSegmentationAnnotation": "instances",
    "SemanticSegmentationAnnotation": "classes",
}
_NAMES = {"box": "bounding box", "points": "keypoints", "instances": "instance segmentation"}


def kind_of(annotation: Mapping[str, Any]) -> str:
    """What an annotation is: box, cuboid, points, instances, classes; empty for what is not known."""
    return _TYPES.get(str(annotation.get("@type", "")).rsplit(".", 1)[-1], "")


def read_annotation(
    annotation: Mapping[str, Any],
    at: int,
    folder: Path,
    names: ClassNames,
    ids: Mapping[int, str],
    size: tuple[int, int],
) -> Iterator[Shape | str | dict[str, Any]]:
    """Shapes, messages about what was left out, and for a mask file what of it no shape says."""
    kind = kind_of(annotation)
    if kind in ("instances", "classes"):
        try:
            yield from _layer(annotation, at, folder, names, size, kind)
        except Invalid as error:
            yield error.message
        return
    rows = annotation.get("values") if kind else None
    for n, row in enumerate(rows if isinstance(rows, list) else []):
        try:
            yield _shape(row, kind, [at, n], names, ids, str(annotation.get("id", "")))
        except Invalid as error:
            yield f"value {n + 1}: {error.message}; left out"


def _pair(row: Mapping[str, Any], key: str, count: int = 2) -> tuple[float, ...]:
    found = row.get(key)
    good = isinstance(found, list) and len(found) == count
    if not good or not all(
        isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < 1e300 for n in found or ()
    ):
        raise Invalid(key, f"{count} finite numbers", found)
    return tuple(float(n) for n in found or ())


def _shape(row: Any, kind: str, at: list[int], names: ClassNames, ids: Mapping[int, str], layer: str) -> Shape:
    if not isinstance(row, Mapping):
        raise Invalid("value", "an object", type(row).__name__)
    number, name = row.get("labelId"), row.get("labelName")
    label = name if isinstance(name, str) else ids.get(number, "") if isinstance(number, int) else ""
    facts: dict[str, Any] = {"layer": plain(layer)}
    if isinstance(row.get("instanceId"), int):
        facts["instance"] = row["instanceId"]
    extra = dump({KEY: {"at": at}})
    label = names.add(label) if label else ""
    if kind == "box":
        box = (*_pair(row, "origin"), *_pair(row, "dimension"))
        return Shape(label=label, source="import", kind="box", points=(box,), attributes=dump(facts), extra=extra)
    if kind == "cuboid":
        facts["cuboid"] = {
            key: list(_pair(row, key, n)) for key, n in (("translation", 3), ("size", 3), ("rotation", 4))
        }
        return Shape(label=label, source="import", kind="value", attributes=dump(facts), extra=extra)
    joints = row.get("keypoints")
    if not isinstance(joints, list) or not joints or not all(isinstance(one, Mapping) for one in joints):
        raise Invalid("keypoints", "a list of objects", joints)
    facts["keypoints"] = [{k: plain(v) for k, v in one.items() if k != "location"} for one in joints]
    if isinstance(row.get("pose"), str):
        facts["pose"] = plain(row["pose"])
    points = tuple(n for one in joints for n in _pair(one, "location"))
    return Shape(label=label, source="import", kind="points", points=(points,), attributes=dump(facts), extra=extra)


def _color(row: Mapping[str, Any]) -> int | None:
    found = row.get("color", row.get("pixelValue"))
    if (
        not isinstance(found, list)
        or len(found) not in (3, 4)
        or not all(isinstance(n, int) and 0 <= n < 256 for n in found)
    ):
        return None
    r, g, b, a = (*found, 255)[:4]
    return int(r << 24 | g << 16 | b << 8 | a)


def _layer(
    annotation: Mapping[str, Any], at: int, folder: Path, names: ClassNames, size: tuple[int, int], kind: str
) -> Iterator[Shape | str | dict[str, Any]]:
    file = annotation.get("filename")
    path = find(folder, [file]) if isinstance(file, str) else None
    if path is None:
        raise Invalid("file of a mask", "there, in the folder of its frame", file)
    array, mode, _ = load_mask(path)
    if array.ndim != 3 or (size != (0, 0) and array.shape[:2] != size[::-1]):
        raise Invalid("mask", f"in colours, {size[0]} x {size[1]} as the image", f"{array.shape} of mode {mode}")
    alpha = array[..., 3] if array.shape[2] == 4 else np.full(array.shape[:2], 255)
    flat = array[..., :3].astype(np.int64) @ (1 << 24, 1 << 16, 1 << 8) + alpha
    left = set(np.unique(flat).tolist())
    rows = annotation.get("instances")
    for n, row in enumerate(rows if isinstance(rows, list) else []):
        color = _color(row) if isinstance(row, Mapping) else None
        name = row.get("labelName") if isinstance(row, Mapping) else None
        if color is None or not isinstance(name, str):
            yield f"instance {n + 1} must have a labelName and a colour; got {str(row)[:80]}"
            continue
        if color not in left:
            continue  # hidden in this frame
        left.discard(color)
        facts: dict[str, Any] = {"layer": plain(str(annotation.get("id", "")))}
        if isinstance(row.get("instanceId"), int):
            facts["instance"] = row["instanceId"]
        yield Shape(
            label=names.add(name), source="import", kind="mask", points=((float(flat.shape[0]), float(flat.shape[1])),),
            mask=mask.encode(flat == color), attributes=dump(facts), extra=dump({KEY: {"at": [at, n]}}),
        )  # fmt: skip
    for color in sorted(left):
        if color >> 8:  # black is the background
            yield f"colour {(color >> 24, color >> 16 & 255, color >> 8 & 255)} is of no instance"
    yield {"at": at, "mode": mode, "rest": [[color, mask.encode(flat == color)] for color in sorted(left)]}


def save_layer(path: Path, annotation: Mapping[str, Any], layer: Mapping[str, Any], shapes: Sequence[Shape]) -> None:
    """A mask file: colours of the instances that are there, and what no instance said."""
    from PIL import Image

    rows = annotation.get("instances") or []
    mine = [s for s in shapes if s.kind == "mask" and (s.origin.get(KEY, {}).get("at") or [None])[0] == layer["at"]]
    if "rest" not in layer:
        mine = [s for s in shapes if s.kind == "mask"]
    cuts = [(s, s.origin[KEY]["at"][1]) if "rest" in layer else (s, n) for n, s in enumerate(mine)]
    size = next((s.points[0] for s in mine), None)
    if size is None:
        size = tuple(annotation.get("dimension", (0, 0)))[::-1]
    height, width = (int(n) for n in size)
    flat = np.zeros((height, width), np.int64)
    flat[:] = layer["rest"][0][0] if layer.get("rest") else 255
    for color, runs in layer.get("rest", ()):
        flat[mask.decode(runs, height, width)] = color
    for shape, n in cuts:
        color = _color(rows[n]) if n < len(rows) else None
        if color is not None:
            flat[mask.decode(shape.mask, height, width)] = color
    out = np.stack([flat >> 24, flat >> 16 & 255, flat >> 8 & 255, flat & 255], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(out if layer["mode"] == "RGBA" else np.ascontiguousarray(out[..., :3])).save(path)


def write_rows(
    capture: dict[str, Any], record: Record, before: Sequence[Shape], classes: Sequence[str], tally: Tally
) -> None:
    """Make a capture say the record's shapes; those that did not change keep their rows."""
    annotations: list[Any] = capture.setdefault("annotations", [])
    known = {tuple(s.origin[KEY]["at"]): s for s in before}
    kept: set[tuple[int, ...]] = set()
    fresh = []
    for shape in record.shapes:
        at = tuple(shape.origin.get(KEY, {}).get("at") or ())
        if at in known and at not in kept and is_same(known[at], shape):
            kept.add(at)
        else:
            fresh.append(shape)
    objects = [one for one in annotations if isinstance(one, dict)]
    for at in sorted(known.keys() - kept, reverse=True):
        if kind_of(objects[at[0]]) in ("box", "cuboid", "points"):
            del objects[at[0]]["values"][at[1]]
    for shape in fresh:
        _append(objects, annotations, shape, classes, tally, record, can_mask=not before)


def _append(
    objects: list[dict[str, Any]], annotations: list[Any], shape: Shape, classes: Sequence[str], tally: Tally,
    record: Record, *, can_mask: bool,
) -> None:  # fmt: skip
    facts, row = shape.facts, dict[str, Any]()
    row["instanceId"] = facts["instance"] if isinstance(facts.get("instance"), int) else len(annotations) + 1
    row |= {"labelId": classes.index(shape.label) + 1 if shape.label in classes else 0, "labelName": shape.label}
    kind = {"box": "box", "points": "points", "mask": "instances"}.get(shape.kind, "")
    if not kind or (kind == "instances" and not can_mask):
        tally.add(f"a {shape.kind} has no place in SOLO here and was left out")
        return
    name = next(t for t, k in _TYPES.items() if k == kind)
    home = next((one for one in objects if kind_of(one) == kind), None)
    if home is None:
        head = {
            "@type": f"type.unity.com/unity.solo.{name}",
            "id": _NAMES[kind],
            "sensorId": "camera",
            "description": "",
        }
        home = {**head, "instances" if kind == "instances" else "values": []}
        if kind == "instances":
            home |= {"imageFormat": "Png", "dimension": [float(record.width), float(record.height)]}
            home["filename"] = "step0.camera.instance segmentation.png"
        annotations.append(home)
        objects.append(home)
    if kind == "box":
        x, y, width, height = shape.points[0]
        row |= {"origin": [x, y], "dimension": [width, height]}
    elif kind == "points":
        told = facts.get("keypoints")
        pairs = list(zip(shape.points[0][::2], shape.points[0][1::2], strict=True))
        more = (
            told
            if isinstance(told, list) and len(told) == len(pairs)
            else [{"index": n, "state": 2} for n in range(len(pairs))]
        )
        row["pose"] = facts.get("pose", "unset")
        row["keypoints"] = [{**one, "location": list(pair)} for one, pair in zip(more, pairs, strict=True)]
    else:
        n = len(home["instances"]) + 1
        hue = math.modf(n * 0.618)[0]
        row["color"] = [n & 255, n >> 8 & 255, int(hue * 255), 255]
    home["instances" if kind == "instances" else "values"].append(row)
