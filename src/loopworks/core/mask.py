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
_MOST_DIGITS = 12


def encode(pixels: NDArray[np.bool_]) -> str:
    """The run lengths of a mask of shape ``(height, width)``; never empty text."""
    if pixels.ndim != 2:
        raise Invalid("mask", "of shape (height, width)", pixels.shape)
    return pack(runs(pixels))


def encode_classes(classes: NDArray[np.uint8]) -> dict[int, str]:
    """The run lengths of each class that occurs in a map of class numbers ``(height, width)``."""
    flat = classes.ravel(order="F")
    if not flat.size:
        return {}
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = np.concatenate(([0], edges)), np.concatenate((edges, [flat.size]))
    values = flat[starts]
    found = {}
    for value in np.unique(values).tolist():
        bounds_ = np.stack([starts[values == value], ends[values == value]], axis=1).ravel()
        last = [flat.size] if bounds_[-1] < flat.size else []
        found[value] = pack(np.diff(np.concatenate(([0], bounds_, last)).astype(np.int64)).tolist())
    return found


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
    if min(counts, default=0) < 0:
        raise Invalid("run of a mask", "0 or more", min(counts))
    if (total := sum(counts)) != height * width:
        raise Invalid("runs of a mask", f"adding up to {height} x {width} = {height * width}", total)
    values = np.zeros(len(counts), np.bool_)
    values[1::2] = True
    flat: NDArray[np.bool_] = np.repeat(values, np.asarray(counts, np.int64))
    return flat.reshape((height, width), order="F")


def pack(counts: Sequence[int]) -> str:
    """Run lengths as COCO's compressed text."""
    rest = np.asarray(counts, np.int64).copy()
    rest[3:] -= np.asarray(counts, np.int64)[1:-2]
    columns, used = [], []
    is_open = np.ones(len(rest), np.bool_)
    while is_open.any():
        digits = rest & 0x1F
        rest >>= 5
        is_last = rest == np.where(digits & _SIGN, -1, 0)
        columns.append(np.where(is_last, digits, digits | _MORE) + _OFFSET)
        used.append(is_open)
        is_open = is_open & ~is_last
    if not columns:
        return ""
    return np.stack(columns, axis=1)[np.stack(used, axis=1)].astype(np.uint8).tobytes().decode("ascii")


def unpack(text: str) -> list[int]:
    """COCO's compressed text as run lengths.

    Raises: Invalid: other characters than it uses, cut off, or a negative run.
    """
    digits = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - _OFFSET
    if not len(digits):
        return []
    if len(bad := np.flatnonzero((digits < 0) | (digits >= 64))):
        raise Invalid("mask", "COCO's compressed run lengths", f"character {bad[0] + 1} of {text[:40]!r}")
    ends = np.flatnonzero(digits & _MORE == 0)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise Invalid("mask", "whole run lengths", "text that is cut off")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if len(long := np.flatnonzero(lengths > _MOST_DIGITS)):
        raise Invalid("mask", "runs below 2^59", f"a longer one at character {starts[long[0]] + 1}")
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    counts = np.add.reduceat((digits & 0x1F) << shifts, starts)
    counts -= np.where(digits[ends] & _SIGN, np.int64(1) << (5 * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    if (counts < 0).any():
        raise Invalid("run of a mask", "0 or more", int(counts[counts < 0][0]))
    return [int(count) for count in counts.tolist()]


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
