"""One line of a YOLO label file as a shape, and a shape as a line."""

import math
from collections.abc import Mapping
from typing import Literal

from loopworks.core import mask
from loopworks.core.errors import Invalid
from loopworks.core.values import Shape, dump
from loopworks.data.formats.coco_shapes import ellipse, shoelace
from loopworks.data.formats.folder import Losses

Task = Literal["auto", "detect", "segment", "obb", "pose"]
_PLACES = 8
"""Decimals of a pixel that are kept: products of shares and sizes are exact to about 1e-11."""


def read_line(
    line: str, size: tuple[int, int], labels: Mapping[int, str], task: Task, keypoints: tuple[int, int]
) -> Shape:
    """The shape of a line, without its ``extra``.

    Args:
        line: class number and shares of the image's size.
        size: width and height of the image in pixels.
        labels: number -> class.
        task: what lines are; auto: 5 or 6 numbers are boxes (the sixth is a score), 9 are the corners of an oriented
            box, more are polygons.
        keypoints: number of keypoints and numbers of each (2 or 3), for pose.
    Raises: Invalid: an unknown class, no numbers, a negative size, the size of the image is not known.
    """
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise Invalid("a line", "numbers with blanks between them", line[:80]) from None
    if not all(math.isfinite(value) for value in values):
        raise Invalid("a line", "finite numbers", line[:80])
    if not values or values[0] != int(values[0]) or int(values[0]) not in labels:
        raise Invalid("class", f"a number in 0..{len(labels) - 1}", words[0] if words else "nothing")
    if not size[0] or not size[1]:
        raise Invalid("size of the image", "known", "nothing: its file is missing or broken")
    label, rest = labels[int(values[0])], values[1:]
    count = len(rest)
    if task == "auto":
        task = "detect" if count in (4, 5) else "obb" if count == 8 else "segment"
    if task == "pose" and count == 4 + keypoints[0] * keypoints[1]:
        return _pose(label, rest, size, keypoints[1])
    if task == "segment" and count >= 6 and count % 2 == 0:
        return Shape(label=label, source="import", kind="polygon", points=(_pixels(rest, size),))
    if task == "obb" and count in (8, 9):
        facts = dump({"score": rest[8]}) if count == 9 else "{}"
        return Shape(label=label, source="import", kind="obb", points=(_pixels(rest[:8], size),), attributes=facts)
    if count in (4, 5):
        facts = dump({"score": rest[4]}) if count == 5 else "{}"
        return Shape(label=label, source="import", kind="box", points=(_box(rest, size),), attributes=facts)
    raise Invalid("a line", "a class and 4 numbers, or a class and pairs of x and y", f"{len(words)} words")


def write_line(shape: Shape, size: tuple[int, int], number: int, task: Task, digits: int, losses: Losses) -> str:
    """The line of a shape; empty where YOLO has none for it. What it does not hold is counted in ``losses``."""
    if shape.kind in ("class", "caption", "value"):
        losses.add(shape.kind, "left out")
        return ""
    if not size[0] or not size[1]:
        losses.add("shape on an image of unknown size", "left out")
        return ""
    facts = shape.facts
    words = [str(number)]
    points = facts.pop("keypoints", None) if task == "pose" else None
    score = facts.pop("score", None)
    facts.pop("num_keypoints", None)
    facts.pop("bbox", None)
    if facts:
        losses.add("fact of a shape", "left out")
    if task == "obb" and shape.kind in ("obb", "box", "polygon"):
        if shape.kind == "polygon":
            losses.add("polygon", "written as the box around it")
        values = list(shape.points[0]) if shape.kind == "obb" else _corners(shape.bounds or (0, 0, 0, 0))
        words += _shares(values, size, digits)
    elif task == "segment":
        words += _shares(_outline(shape, losses), size, digits)
    else:
        if shape.kind != "box":
            losses.add(shape.kind, "written as the box around it")
        x, y, width, height = _bounds(shape)
        words += _shares([x + width / 2, y + height / 2, width, height], size, digits)
    if isinstance(points, list):
        step = 3 if len(points) % 3 == 0 else 2
        for at in range(0, len(points), step):
            words += _shares([float(value) for value in points[at : at + 2]], size, digits)
            words += [_spell(float(value), digits) for value in points[at + 2 : at + step]]
    elif isinstance(score, int | float) and task in ("detect", "obb"):
        words.append(_spell(float(score), digits))
    return " ".join(words)


def _pixels(shares: list[float], size: tuple[int, int]) -> tuple[float, ...]:
    return tuple(round(share * size[at % 2], _PLACES) for at, share in enumerate(shares))


def _box(shares: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    cx, cy, width, height = shares[:4]
    if width < 0 or height < 0:
        raise Invalid("width and height of a box", "0 or more", f"{width} and {height}")
    x, y = (cx - width / 2) * size[0], (cy - height / 2) * size[1]
    return round(x, _PLACES), round(y, _PLACES), round(width * size[0], _PLACES), round(height * size[1], _PLACES)


def _pose(label: str, rest: list[float], size: tuple[int, int], step: int) -> Shape:
    points: list[float] = []
    for at in range(4, len(rest), step):
        points += [*_pixels(rest[at : at + 2], size), *rest[at + 2 : at + step]]
    facts = dump({"keypoints": points})
    return Shape(label=label, source="import", kind="box", points=(_box(rest, size),), attributes=facts)


def _bounds(shape: Shape) -> tuple[float, float, float, float]:
    if shape.kind == "mask":
        return mask.bounds(shape.mask, int(shape.points[0][0])) or (0.0, 0.0, 0.0, 0.0)
    return shape.bounds or (0.0, 0.0, 0.0, 0.0)


def _corners(box: tuple[float, float, float, float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _outline(shape: Shape, losses: Losses) -> list[float]:
    """Corners of the one polygon that stands for a shape."""
    if shape.kind == "polygon" and len(shape.points) == 1:
        return list(shape.points[0])
    if shape.kind == "polygon":
        losses.add("polygon of several parts", "written as its largest part")
        return list(sorted(shape.points, key=shoelace)[-1])
    if shape.kind == "box":
        losses.add("box", "written as the polygon of its corners")
    elif shape.kind == "obb":
        losses.add("oriented box", "written as the polygon of its corners")
        return list(shape.points[0])
    elif shape.kind == "ellipse":
        losses.add("ellipse", "written as a polygon of 32 corners")
        return list(ellipse(shape.points[0]))
    else:
        losses.add(shape.kind, "written as the corners of the box around it")
    return _corners(_bounds(shape))


def _shares(values: list[float], size: tuple[int, int], digits: int) -> list[str]:
    return [_spell(value / size[at % 2], digits) for at, value in enumerate(values)]


def _spell(value: float, digits: int) -> str:
    if digits:
        return f"{value:.{digits}f}"
    text = repr(value)
    if "e" in text:
        text = f"{value:.20f}".rstrip("0")
    return text.removesuffix(".0").rstrip(".") or "0"
