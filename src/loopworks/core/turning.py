"""Shapes of a picture that is stored lying or mirrored, and shown upright as its EXIF data says.

Labels say places in the stored image (``Shape.points``); models see the image as it is shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.values import Shape

UPRIGHT = 1
"""The orientation of nearly all images: shown as stored."""
_BACK = {6: 8, 8: 6}
"""Orientations whose inverse is another one."""
_SWAPS = frozenset({5, 6, 7, 8})
_ANGLES = {2: (-1, 0), 3: (1, 180), 4: (-1, 0), 5: (-1, 90), 6: (1, 90), 7: (-1, 90), 8: (1, -90)}
"""Orientation -> what an angle (clockwise, in degrees) is multiplied by, and what is added then."""


def shown_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height as shown, of an image stored with ``size``; its own inverse."""
    return (size[1], size[0]) if orientation in _SWAPS else size


def shown(shape: Shape, size: tuple[int, int], orientation: int) -> Shape:
    """A shape of the stored image (of ``size``, width and height) where it lies in the image as shown."""
    if orientation == UPRIGHT or not shape.points:
        return shape
    if shape.kind == "mask":
        rows, columns = (int(side) for side in shape.points[0])
        pixels = _pixels(mask.decode(shape.mask, rows, columns), orientation)
        return replace(shape, mask=mask.encode(pixels), points=(tuple(float(side) for side in pixels.shape),))
    if shape.kind == "ellipse":
        x, y, rx, ry, angle = shape.points[0]
        (centre,) = _places(((x, y),), size, orientation)
        turn, more = _ANGLES[orientation]
        return replace(shape, points=((*centre, rx, ry, (turn * angle + more) % 180),))
    if shape.kind == "box":
        x, y, width, height = shape.points[0]
        (x1, y1), (x2, y2) = _places(((x, y), (x + width, y + height)), size, orientation)
        return replace(shape, points=((min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)),))
    parts = []
    for row in shape.points:
        found = _places([*zip(row[::2], row[1::2], strict=True)], size, orientation)
        if shape.kind == "obb" and _ANGLES[orientation][0] < 0:
            found = found[::-1]  # a mirror turns clockwise round
        parts.append(tuple(number for place in found for number in place))
    return replace(shape, points=tuple(parts))


def stored(shape: Shape, size: tuple[int, int], orientation: int) -> Shape:
    """A shape of the image as shown where it lies in the stored image of ``size``: the inverse of ``shown``."""
    return shown(shape, shown_size(size, orientation), _BACK.get(orientation, orientation))


def _places(
    places: Sequence[tuple[float, float]], size: tuple[int, int], orientation: int
) -> list[tuple[float, float]]:
    width, height = size
    ways = {
        2: lambda x, y: (width - x, y),
        3: lambda x, y: (width - x, height - y),
        4: lambda x, y: (x, height - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }
    return [ways[orientation](x, y) for x, y in places]


def _pixels(pixels: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    ways: dict[int, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.T,
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].T,
        8: np.rot90,
    }
    return np.asarray(ways[orientation](pixels))
