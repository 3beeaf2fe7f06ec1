"""Descriptors of images that need no weights: ``near`` tells copies from others, ``look`` finds what looks alike."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.data.features.contract import Batch

SIDE = 32
TONES = 8
"""Sides in pixels of the thumbnail's brightness and of its two colour planes."""
FACTS = ("brightness", "contrast", "blur", "dark_share", "bright_share", "colour")
"""The first numbers of a ``look`` row, see ``Look``."""


@plugins.add("feature.near")
@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A thumbnail: brightness at 32 x 32 and colour at 8 x 8, in 1,152 bytes.

    Small enough that JPEGs are decoded at an eighth of their size, large enough to tell whether two images are
    copies of each other.
    """

    key: str = "near-1"
    title: str = "thumbnail (near)"
    rule: ImageRule = ImageRule(height=SIDE, width=SIDE)
    width: int = SIDE * SIDE + 2 * TONES * TONES
    dtype: str = "uint8"

    def describe(self, batch: Batch) -> NDArray[np.uint8]:
        """Brightness, then blue and red difference, row by row; each in 0..255."""
        pixels = np.asarray(batch, np.uint8)
        bright, blue, red = ycc(pixels.astype(np.float32))
        rows = [bright, *(shrink(plane, SIDE // TONES) for plane in (blue, red))]
        flat = np.concatenate([plane.reshape(len(pixels), -1) for plane in rows], axis=1)
        found: NDArray[np.uint8] = np.clip(np.rint(flat), 0, 255).astype(np.uint8)
        return found


@plugins.add("feature.look")
@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What an image looks like, without a model: 6 facts of its quality, then 240 numbers of length 1.

    The facts (``FACTS``), each in 0..1: mean brightness; contrast (standard deviation of brightness, 1 = black beside
    white); blur (0 sharp, 1 smooth); share of pixels that are nearly black, and nearly white; mean colourfulness.

    The descriptor is of three blocks: colours of a grid of 4 x 4 cells, histogram of colours, and directions of edges
    in a grid of 4 x 4 cells. Sources: Dalal and Triggs 2005 (histograms of oriented gradients); Arandjelovic and
    Zisserman 2012 (square roots of histograms before comparing them); Crete et al. 2007, "The blur effect".
    """

    key: str = "look-1"
    title: str = "built-in descriptor (look)"
    rule: ImageRule = ImageRule(height=224, width=224)
    width: int = len(FACTS) + 240
    dtype: str = "float32"

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """The facts, then the descriptor."""
        pixels = np.asarray(batch, np.uint8)
        small = shrink(pixels.astype(np.float32), 4)
        bright, blue, red = ycc(small)
        full: NDArray[np.float32] = (pixels @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)
        facts = np.stack(
            [
                full.mean(axis=(1, 2)) / 255,
                full.std(axis=(1, 2)) / 127.5,
                blur(full),
                (full < 16).mean(axis=(1, 2)),
                (full > 239).mean(axis=(1, 2)),
                np.hypot(blue - 128, red - 128).mean(axis=(1, 2)) / 128,
            ],
            axis=1,
        )
        blocks = (0.9 * _cells(bright, blue, red), 1.0 * _colours(bright, blue, red), 1.0 * _edges(bright))
        rows = np.concatenate(blocks, axis=1)
        return np.concatenate([np.clip(facts, 0, 1), unit(rows)], axis=1).astype(np.float32)


def ycc(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Brightness, blue and red difference of RGB pixels, each in 0..255. Source: ITU-R BT.601, as JPEG uses it."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    return bright, 128 + 0.564 * (blue - bright), 128 + 0.713 * (red - bright)


def shrink(planes: NDArray[np.float32], by: int) -> NDArray[np.float32]:
    """Means over squares of ``by`` pixels; axes 1 and 2 are rows and columns."""
    count, height, width = planes.shape[:3]
    cut = planes.reshape(count, height // by, by, width // by, by, *planes.shape[3:])
    found: NDArray[np.float32] = cut.mean(axis=(2, 4))
    return found


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays."""
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    found: NDArray[np.float32] = rows / np.maximum(length, 1e-12)
    return found


def blur(bright: NDArray[np.float32], window: int = 9) -> NDArray[np.float32]:
    """How smooth images are, shape ``(n,)``, in 0 (sharp) .. 1: smoothing a smooth image once more changes little.

    An image without any change of brightness has blur 1. Source: Crete et al. 2007, "The blur effect: perception and
    estimation with a new no-reference perceptual blur metric".
    """
    found = []
    for axis in (1, 2):
        sums = np.cumsum(bright, axis=axis, dtype=np.float64)
        ends, starts = [slice(None)] * 3, [slice(None)] * 3
        ends[axis], starts[axis] = slice(window, None), slice(None, -window)
        smooth = (sums[tuple(ends)] - sums[tuple(starts)]) / window
        inner = [slice(None)] * 3
        inner[axis] = slice(window // 2 + 1, -(window // 2))
        sharp = np.abs(np.diff(bright[tuple(inner)], axis=axis))
        change = sharp.sum(axis=(1, 2), dtype=np.float64)
        lost = np.maximum(0, sharp - np.abs(np.diff(smooth, axis=axis))).sum(axis=(1, 2))
        found.append(np.where(change > 0, 1 - lost / np.maximum(change, 1e-9), 1.0))
    result: NDArray[np.float32] = np.maximum(*found).astype(np.float32)
    return result


def _cells(bright: NDArray[np.float32], blue: NDArray[np.float32], red: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean brightness and colours of 4 x 4 cells, 48 numbers; what two grey images share is taken off."""
    planes = [shrink(plane, plane.shape[1] // 4).reshape(len(plane), -1) for plane in (bright, blue, red)]
    return unit(np.concatenate([(plane - 128) * weight for plane, weight in zip(planes, (1, 2, 2), strict=True)], 1))


def _colours(bright: NDArray[np.float32], blue: NDArray[np.float32], red: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of the pixels in 4 x 4 x 4 ranges of brightness and colour, square roots: 64 numbers."""
    levels = [np.clip(bright // 64, 0, 3).astype(np.int64)]
    levels += [np.digitize(plane, (112, 128, 144)) for plane in (blue, red)]
    code = (levels[0] * 16 + levels[1] * 4 + levels[2]).reshape(len(bright), -1)
    at = np.arange(len(bright))[:, None] * 64 + code
    counts = np.bincount(at.ravel(), minlength=64 * len(bright)).reshape(-1, 64)
    return np.sqrt(counts / code.shape[1]).astype(np.float32)


def _edges(bright: NDArray[np.float32]) -> NDArray[np.float32]:
    """Directions of edges (8, without sign) in 4 x 4 cells, weighted by their strength, square roots: 128 numbers."""
    count, side = len(bright), bright.shape[1]
    padded = np.pad(bright, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = np.hypot(across, down)
    turn = np.mod(np.arctan2(down, across), np.pi) * (8 / np.pi)
    direction = np.minimum(turn.astype(np.int64), 7)
    place = np.arange(side) * 4 // side
    cell = place[:, None] * 4 + place[None, :]
    at = (np.arange(count)[:, None, None] * 16 + cell) * 8 + direction
    sums = np.bincount(at.ravel(), strength.ravel(), minlength=count * 128).reshape(count, 128)
    return unit(np.sqrt(sums).astype(np.float32))
