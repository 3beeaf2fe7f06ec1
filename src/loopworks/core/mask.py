"""Masks as run lengths: what ``Shape.mask`` holds, and the pixels it stands for.

The text form is COCO's compressed RLE: runs of 0 and 1 in turn (0 first) along the columns, each run after the third
written as the difference to the one two before it, in groups of five bits with a continuation bit, offset by 48.
Source: the COCO API's ``maskApi`` (Lin et al. 2014, "Microsoft COCO: Common objects in context").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid

_OFFSET = 48
_MORE = 0x20
_SIGN = 0x10


def encode(pixels: NDArray[np.bool_]) -> str:
    """The run lengths of a mask of shape ``(height, width)``; never empty text."""
    if pixels.ndim != 2:
        raise Invalid("mask", "of shape (height, width)", pixels.shape)
    return pack(runs(pixels))


def decode(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels, shape ``(height, width)``.

    Raises: Invalid: not run lengths, or not those of an image of this size.
    """
    return fill(unpack(text), height, width)


def runs(pixels: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, 0 first, along the columns; their sum is height x width."""
    flat = np.asarray(pixels, np.bool_).ravel(order="F")
    if not flat.size:
        return [0]
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], edges, [flat.size])))
    return [0, *lengths.tolist()] if flat[0] else lengths.tolist()


def fill(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of run lengths, shape ``(height, width)``.

    Raises: Invalid: a negative run, or a sum that is not height x width.
    """
    if height < 0 or width < 0:
        raise Invalid("size of a mask", "0 or more", (height, width))
    total = 0
    for count in counts:
        if count < 0:
            raise Invalid("run of a mask", "0 or more", count)
        total += count
    if total != height * width:
        raise Invalid("runs of a mask", f"adding up to {height} x {width} = {height * width}", total)
    values = np.zeros(len(counts), np.bool_)
    values[1::2] = True
    flat: NDArray[np.bool_] = np.repeat(values, np.asarray(counts, np.int64))
    return flat.reshape((height, width), order="F")


def pack(counts: Sequence[int]) -> str:
    """Run lengths as COCO's compressed text."""
    out = bytearray()
    for at, count in enumerate(counts):
        rest = int(count) - (int(counts[at - 2]) if at > 2 else 0)
        while True:
            digit = rest & 0x1F
            rest >>= 5
            is_last = rest == (-1 if digit & _SIGN else 0)
            out.append((digit if is_last else digit | _MORE) + _OFFSET)
            if is_last:
                break
    return out.decode("ascii")


def unpack(text: str) -> list[int]:
    """COCO's compressed text as run lengths.

    Raises: Invalid: other characters than it uses, cut off, or a negative run.
    """
    counts: list[int] = []
    value = shift = 0
    for place, byte in enumerate(text.encode("utf-8", "replace")):
        digit = byte - _OFFSET
        if not 0 <= digit < 64:
            raise Invalid("mask", "COCO's compressed run lengths", f"character {place + 1} of {text[:40]!r}")
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & _MORE:
            if shift > 60:
                raise Invalid("mask", "runs below 2^60", f"a longer one at character {place + 1}")
            continue
        if digit & _SIGN:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        if value < 0:
            raise Invalid("run of a mask", "0 or more", value)
        counts.append(value)
        value = shift = 0
    if shift:
        raise Invalid("mask", "whole run lengths", "text that is cut off")
    return counts


def area(text: str) -> int:
    """Pixels that are set."""
    return sum(unpack(text)[1::2])


def bounds(text: str, height: int) -> tuple[int, int, int, int] | None:
    """The box around the set pixels as (x, y, width, height); ``None`` where none is set."""
    counts = unpack(text)
    ends = np.cumsum(counts)
    starts = ends - counts
    keep = np.asarray(counts)[1::2] > 0
    first, last = starts[1::2][keep], ends[1::2][keep] - 1
    if not len(first) or height < 1:
        return None
    left, right = int(first[0]) // height, int(last[-1]) // height
    # A run that goes over the end of a column touches both the top and the bottom.
    wraps = first // height != last // height
    top = 0 if wraps.any() else int((first % height).min())
    bottom = height - 1 if wraps.any() else int((last % height).max())
    return left, top, right - left + 1, bottom - top + 1


def draw(points: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centre lies inside a polygon of several parts, shape ``(height, width)``.

    A part is (x1, y1, x2, y2, ...). Parts are joined; where one part is overlapped by itself, the even-odd rule holds.

    Source: the scan line algorithm (Foley et al. 1990, "Computer graphics: principles and practice", 3.6).
    """
    out = np.zeros((height, width), np.bool_)
    for part in points:
        out |= _fill_part(np.asarray(part, np.float64).reshape(-1, 2), height, width)
    return out


def _fill_part(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    flips = np.zeros((height, width + 1), np.bool_)
    following = np.roll(corners, -1, axis=0)
    for (x1, y1), (x2, y2) in zip(corners, following, strict=True):
        if y1 == y2:
            continue
        (top, top_x), (bottom, bottom_x) = sorted(((y1, x1), (y2, x2)))
        # Rows whose centre lies in top <= y < bottom, so that a corner between two edges counts once.
        rows = np.arange(max(0, int(np.ceil(top - 0.5))), min(height, int(np.ceil(bottom - 0.5))))
        if not len(rows):
            continue
        crossing = top_x + (rows + 0.5 - top) * (bottom_x - top_x) / (bottom - top)
        columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
        np.logical_xor.at(flips, (rows, columns), True)
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(flips, axis=1)[:, :width]
    return inside
