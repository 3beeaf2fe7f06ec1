"""Masks of Pascal VOC: PNGs whose palette indexes are classes (SegmentationClass) and objects (SegmentationObject)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.image import MAX_PIXELS
from loopworks.core.values import Shape

VOID = 255
NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def palette() -> list[int]:
    """The 256 colours of VOC, as 768 numbers: bits of the index, from the lowest, become the highest bits of R, G, B.

    Source: the VOC development kit's ``VOClabelcolormap``.
    """
    out = []
    for index in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        out += color
    return out


def read_colors(text: str) -> dict[tuple[int, int, int], str]:
    """Colour -> class of a labelmap.txt (``name:r,g,b:parts:actions`` per line)."""
    found: dict[tuple[int, int, int], str] = {}
    for line in text.splitlines():
        words = line.split(":")
        if line.startswith("#") or len(words) < 2:
            continue
        parts = words[1].split(",")
        if len(parts) == 3 and all(part.strip().isdecimal() for part in parts):
            found[int(parts[0]), int(parts[1]), int(parts[2])] = words[0].strip()
    return found


def indexes(path: str, name: str) -> tuple[NDArray[np.uint8], list[int], bool]:
    """The palette indexes of a PNG, its palette, and whether it is RGB, which gets indexes of VOC's palette.

    Raises: Invalid: no PNG, too large, or colours that are not in the palette.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Invalid(name, f"at most {MAX_PIXELS} pixels", image.size)
            if image.mode in ("P", "L", "1"):
                colors = image.getpalette() or []
                plain = image if image.mode != "1" else image.convert("L")
                return np.asarray(plain, np.uint8).copy(), list(colors), False
            rgb = np.asarray(image.convert("RGB"), np.uint32)
    except LoopworksError:
        raise
    except Exception as error:  # Pillow raises anything from SyntaxError to struct.error for broken files
        raise Invalid(name, "a PNG", str(error)) from None
    known = np.asarray(palette(), np.uint32).reshape(-1, 3)
    keys = known[:, 0] << 16 | known[:, 1] << 8 | known[:, 2]
    pixels = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    order = np.argsort(keys)
    at = np.searchsorted(keys, pixels, sorter=order).clip(0, 255)
    found = order[at]
    if (keys[found] != pixels).any():
        raise Invalid(name, "colours of VOC's palette", f"{int((keys[found] != pixels).sum())} pixels of others")
    return found.astype(np.uint8), palette(), True


def shapes_of(
    classes: NDArray[np.uint8], objects: NDArray[np.uint8] | None, labels: Mapping[int, str]
) -> tuple[list[tuple[int, Shape]], set[int]]:
    """Object number and mask of each object (or of each class), and the indexes that are no class."""
    found: list[tuple[int, Shape]] = []
    unknown: set[int] = set()
    source = classes if objects is None else objects
    height, width = source.shape
    for index in np.unique(source).tolist():
        if index in (0, VOID):
            continue
        area = source == index
        value = index
        if objects is not None:
            inside = classes[area]
            inside = inside[(inside != 0) & (inside != VOID)]
            value = int(np.bincount(inside).argmax()) if inside.size else 0
        if value not in labels:
            unknown.add(value)
            continue
        shape = Shape(
            label=labels[value],
            source="import",
            kind="mask",
            points=((float(height), float(width)),),
            mask=mask.encode(area),
        )
        found.append((index, shape))
    return found, unknown


def draw(
    shapes: Sequence[tuple[int, Shape]], numbers: Mapping[str, int], size: tuple[int, int], voids: tuple[str, str]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Class and object indexes of masks, shape ``(height, width)``; where two overlap, the later one is on top."""
    height, width = size
    classes, objects = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for index, shape in shapes:
        if shape.points[0] == (height, width):
            area = mask.decode(shape.mask, height, width)
            classes[area], objects[area] = numbers[shape.label], index
    for pixels, void in zip((classes, objects), voids, strict=True):
        if void:
            pixels[mask.decode(void, height, width)] = VOID
    return classes, objects


def save(pixels: NDArray[np.uint8], colors: Sequence[int], path: Path, is_rgb: bool = False) -> None:
    """Write palette indexes as a PNG, or their colours."""
    from PIL import Image

    image = Image.fromarray(pixels, mode=None).convert("L")
    image.putpalette(list(colors))
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert("RGB") if is_rgb else image).save(path, format="PNG")
