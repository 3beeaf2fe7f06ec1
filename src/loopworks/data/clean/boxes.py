"""Faults of shapes: outside the image, without area, tiny, drawn twice; and shapes clipped to the image."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from loopworks.core import mask
from loopworks.core.errors import LoopworksError
from loopworks.core.values import Shape

Box = tuple[float, float, float, float]
LINES = frozenset({"points", "polyline"})
"""Kinds that have no area by nature."""
SLACK = 0.5
"""Pixels by which a shape may stand over the edge: formats that count pixel centres differ by as much."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one shape."""

    kind: str
    """outside, beyond (not one pixel of it inside), empty, tiny, double, clash."""
    at: int
    """Position of the shape among those of the item."""
    other: int = -1
    """Of a double or clash: the shape that stays."""
    amount: float = 0.0
    """outside: pixels over the edge; empty, tiny: the shorter side in pixels; double, clash: overlap in 0..1."""


def bounds(shape: Shape) -> Box | None:
    """The upright box around a shape, masks too; ``None`` where there is none, or the mask is broken or empty."""
    if shape.kind != "mask":
        return shape.bounds
    try:
        found = mask.bounds(shape.mask, int(shape.points[0][0]))
    except LoopworksError:
        return None
    return None if found is None else (float(found[0]), float(found[1]), float(found[2]), float(found[3]))


def area(shape: Shape) -> float:
    """Area in square pixels; 0 for what has none."""
    if shape.kind == "mask":
        try:
            return float(mask.area(shape.mask))
        except LoopworksError:
            return 0.0
    if shape.kind in ("polygon", "obb"):
        return sum(abs(_signed(row)) for row in shape.points)
    if shape.kind == "ellipse":
        return math.pi * shape.points[0][2] * shape.points[0][3]
    if shape.kind == "box":
        return shape.points[0][2] * shape.points[0][3]
    return 0.0


def faults(
    shapes: Sequence[Shape], width: int, height: int, *, tiny: float = 3.0, same: float = 0.9
) -> Iterator[Fault]:
    """What is wrong with the shapes of one image.

    Args:
        shapes: in the item's order.
        width: of the image, in pixels; 0 where it is not known: then nothing is outside.
        height: of the image, in pixels.
        tiny: a shape whose shorter side has fewer pixels is tiny.
        same: least overlap (intersection over union) in 0..1 of two shapes that are one drawn twice.
    """
    boxes = [bounds(shape) for shape in shapes]
    sound: list[int] = []
    for at, (shape, box) in enumerate(zip(shapes, boxes, strict=True)):
        if box is None:
            if shape.kind == "mask":
                yield Fault("empty", at)
            continue
        found = _place(shape, box, width, height)
        if found is not None:
            yield Fault(*found[:1], at, amount=found[1])
        if found is not None and found[0] == "beyond":
            continue
        if shape.kind in LINES:
            continue
        side = min(box[2], box[3])
        if side <= 0 or area(shape) <= 0:
            yield Fault("empty", at, amount=side)
        elif side < tiny:
            yield Fault("tiny", at, amount=side)
            sound.append(at)
        else:
            sound.append(at)
    yield from _doubles(shapes, boxes, sound, same)


def overlap(one: Box, two: Box) -> float:
    """Intersection over union of two boxes, in 0..1."""
    across = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    down = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return both / (one[2] * one[3] + two[2] * two[3] - both)


def clip(shape: Shape, width: int, height: int) -> Shape | None:
    """The part of a shape that lies inside the image; ``None`` where nothing is left.

    A box stays a box and a polygon a polygon (Sutherland and Hodgman 1974, "Reentrant polygon clipping"). An oriented
    box becomes a polygon. Points and lines are moved to the edge. An ellipse stays as it is: cut, it is none any more.
    What formats kept of the old numbers is let go.
    """
    if shape.kind in ("ellipse", "mask") or not shape.points:
        return shape
    if shape.kind == "box":
        x, y, w, h = shape.points[0]
        left, top = max(0.0, x), max(0.0, y)
        right, bottom = min(float(width), x + w), min(float(height), y + h)
        if right <= left or bottom <= top:
            return None
        return replace(shape, points=((left, top, right - left, bottom - top),), extra="{}")
    if shape.kind in LINES:
        row = [min(max(0.0, value), float((width, height)[at % 2])) for at, value in enumerate(shape.points[0])]
        return replace(shape, points=(tuple(row),), extra="{}")
    rows = [cut for row in shape.points if len(cut := _cut(row, width, height)) >= 6 and abs(_signed(cut)) > 0]
    return replace(shape, kind="polygon", points=tuple(rows), extra="{}") if rows else None


def _place(shape: Shape, box: Box, width: int, height: int) -> tuple[str, float] | None:
    if shape.kind == "mask":
        said = (int(shape.points[0][0]), int(shape.points[0][1]))
        return None if not width or said == (height, width) else ("outside", float(abs(said[1] - width)))
    if not width or not height:
        return None
    x, y, w, h = box
    over = max(-x, -y, x + w - width, y + h - height)
    if over <= SLACK:
        return None
    is_gone = x >= width or y >= height or x + w <= 0 or y + h <= 0
    return ("beyond" if is_gone else "outside"), over


def _doubles(
    shapes: Sequence[Shape], boxes: Sequence[Box | None], sound: Iterable[int], same: float
) -> Iterator[Fault]:
    """Pairs of shapes of one kind that cover each other, found from left to right."""
    order = sorted(sound, key=lambda at: (boxes[at] or (0.0,))[0])
    dropped: set[int] = set()
    for place, first in enumerate(order):
        one = boxes[first]
        if one is None or first in dropped:
            continue
        for second in order[place + 1 :]:
            two = boxes[second]
            if two is None or two[0] > one[0] + one[2]:
                break
            share = overlap(one, two)
            if share < same or shapes[first].kind != shapes[second].kind or second in dropped:
                continue
            if shapes[first].kind not in ("box",) and not _alike(shapes[first], shapes[second], same):
                continue
            stays, goes = sorted((first, second))
            is_same = shapes[first].label == shapes[second].label
            yield Fault("double" if is_same else "clash", goes, stays, share)
            if is_same:
                dropped.add(goes)
                if goes == first:
                    break


def _alike(one: Shape, two: Shape, same: float) -> bool:
    """Shapes other than boxes may share their box and not their area."""
    first, second = area(one), area(two)
    return min(first, second) >= same * max(first, second)


def _signed(row: Sequence[float]) -> float:
    xs, ys = row[::2], row[1::2]
    turn = sum(
        x * ys[(i + 1) % len(ys)] - xs[(i + 1) % len(xs)] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True))
    )
    return turn / 2


def _cut(row: Sequence[float], width: int, height: int) -> tuple[float, ...]:
    corners = list(zip(row[::2], row[1::2], strict=True))
    for axis, limit, keeps_less in (
        (0, 0.0, False),
        (0, float(width), True),
        (1, 0.0, False),
        (1, float(height), True),
    ):
        fresh: list[tuple[float, float]] = []
        for at, here in enumerate(corners):
            before = corners[at - 1]
            is_in = here[axis] <= limit if keeps_less else here[axis] >= limit
            was_in = before[axis] <= limit if keeps_less else before[axis] >= limit
            if is_in != was_in:
                share = (limit - before[axis]) / (here[axis] - before[axis])
                other = before[1 - axis] + share * (here[1 - axis] - before[1 - axis])
                fresh.append((limit, other) if axis == 0 else (other, limit))
            if is_in:
                fresh.append(here)
        corners = fresh
    return tuple(value for corner in corners for value in corner)
