"""COCO panoptic: one PNG per image, whose colours are the ids of its segments (id = R + 256 G + 65536 B)."""

import posixpath
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.image import MAX_PIXELS
from loopworks.core.values import Problem, Shape, dump
from loopworks.data.formats.folder import Tree, bad, json_facts, normal, number

_OWN = frozenset({"id", "category_id", "area", "bbox", "iscrowd"})


def read(
    body: Mapping[str, Any], tree: Tree, file: str, labels: Mapping[Any, str], where: str, problems: list[Problem]
) -> list[tuple[int, Shape]]:
    """Id and shape of every segment of an annotation; a segment without pixels is its box."""
    try:
        pixels = _pixels(body.get("file_name"), tree, file)
    except LoopworksError as error:
        problems.append(Problem(where=where, error=error.code, message=f"{where}: {error.message}", hint=error.hint))
        pixels = None
    found: list[tuple[int, Shape]] = []
    segments = body["segments_info"]
    for at, segment in enumerate(segments if isinstance(segments, list) else ()):
        place = f"{where} segments_info[{at}]"
        try:
            value, shape = _segment(segment, pixels, labels)
            if any(value == other for other, _ in found):
                raise Invalid("id of a segment", "used once in its image", value)
        except LoopworksError as error:
            problems.append(Problem(where=place, error=error.code, message=f"{place}: {error.message}"))
            continue
        found.append((value, shape))
    if pixels is not None:
        known = {0, *(value for value, _ in found)}
        for value in np.unique(pixels).tolist():
            if value not in known:
                problems.append(bad(where, f"colour {value} of {where}", "the id of one of its segments", value))
    return found


def text_mark(text: str) -> int:
    """What tells whether a mask is still the one that was read."""
    return zlib.crc32(text.encode("ascii"))


def draw(segments: Sequence[tuple[int, Shape]], height: int, width: int) -> NDArray[np.uint8]:
    """The colours of a panoptic PNG, shape ``(height, width, 3)``; where two overlap, the later one is on top."""
    ids = np.zeros((height, width), np.uint32)
    for value, shape in segments:
        if shape.kind == "mask" and shape.points[0] == (height, width):
            ids[mask.decode(shape.mask, height, width)] = value
        elif shape.kind in ("polygon", "obb"):
            ids[mask.draw(shape.points, height, width)] = value
        elif shape.bounds:
            x, y, w, h = shape.bounds
            ids[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))] = value
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


def png_place(file: str, name: str) -> str:
    """Where the PNG of an annotation belongs: in a folder called like the annotation file, beside it."""
    return f"{posixpath.splitext(file)[0]}/{name}"


def _pixels(name: Any, tree: Tree, file: str) -> NDArray[np.uint32]:
    from PIL import Image

    plain = normal(name)
    stem = posixpath.splitext(posixpath.basename(file))[0]
    folder = posixpath.dirname(file)
    places = (png_place(file, plain), posixpath.join(folder, plain), f"{stem}/{plain}", f"masks/{plain}", plain)
    path = next((tree.files[place] for place in places if place in tree.files), None)
    if path is None:
        raise Invalid(f"segments {plain}", "a PNG below the root", "nothing")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Invalid(plain, f"at most {MAX_PIXELS} pixels", image.size)
            colors = np.asarray(image.convert("RGB"), np.uint32)
    except LoopworksError:
        raise
    except Exception as error:  # Pillow raises anything from SyntaxError to struct.error for broken files
        raise Invalid(plain, "a PNG", str(error)) from None
    ids: NDArray[np.uint32] = (colors * np.array([1, 256, 65536], np.uint32)).sum(axis=-1, dtype=np.uint32)
    return ids


def _segment(body: Any, pixels: NDArray[np.uint32] | None, labels: Mapping[Any, str]) -> tuple[int, Shape]:
    if not isinstance(body, dict):
        raise Invalid("a segment", "an object", str(body)[:80])
    value, category = body.get("id"), body.get("category_id")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 24:
        raise Invalid("id of a segment", "a whole number in 1..16777215", value)
    if isinstance(category, list | dict | bool) or category not in labels:
        raise Invalid("category_id", "the id of a category of the file", category)
    facts = json_facts({key: part for key, part in body.items() if key not in _OWN})
    if body.get("iscrowd"):
        facts["iscrowd"] = body["iscrowd"]
    box = body.get("bbox")
    given = tuple(number(part) for part in box) if isinstance(box, list) and len(box) == 4 else None
    area = pixels == value if pixels is not None else None
    if area is not None and area.any():
        text = mask.encode(area)
        if given and given != mask.bounds(text, area.shape[0]):
            facts["bbox"] = list(given)
        height, width = area.shape
        return value, Shape(
            label=labels[category],
            source="import",
            kind="mask",
            points=((float(height), float(width)),),
            mask=text,
            attributes=dump(facts),
        )
    if not given or min(given[2:]) < 0:
        raise Invalid("a segment", "pixels of its colour or a bbox", "neither")
    return value, Shape(label=labels[category], source="import", kind="box", points=(given,), attributes=dump(facts))
