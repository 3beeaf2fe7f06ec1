"""Label Studio's run lengths of brushed masks: bits in a list of bytes.

The stream: 32 bits count of values; 5 bits word size less 1; four times 4 bits run size less 1; then runs, each with
1 bit (1: one value repeated, 0: values one by one), 2 bits naming one of the four sizes, the length less 1 in so many
bits, and the value or values. The values are RGBA pixels, row by row; what is brushed has an alpha above 0.
Source: the format of the package @thi.ng/rle-pack, which Label Studio's editor uses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid

_SIZES = (3, 4, 8, 16)


def decode(data: Sequence[Any], height: int, width: int) -> NDArray[np.bool_]:
    """The brushed pixels, shape ``(height, width)``.

    Raises: Invalid: no bytes, cut off, or of an image of another size.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes(data), np.uint8))
    except (TypeError, ValueError):
        raise Invalid("rle of a brush", "a list of numbers in 0..255", data) from None
    at = 0

    def take(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise Invalid("rle of a brush", "whole", "a list that is cut off")
        value = int("".join(map(str, bits[at : at + count])) or "0", 2)
        at += count
        return value

    total = take(32)
    if total != 4 * height * width or not total:
        raise Invalid("rle of a brush", f"of {width} x {height} pixels with four values", f"{total} values")
    word = take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    out = np.zeros(total, np.uint32)
    powers = 1 << np.arange(word - 1, -1, -1, dtype=np.uint64)
    place = 0
    while place < total:
        is_run = take(1)
        end = place + take(sizes[take(2)]) + 1
        if end > total:
            raise Invalid("rle of a brush", f"{total} values", "more")
        if is_run:
            out[place:end] = take(word)
        else:
            stop = at + (end - place) * word
            if stop > len(bits):
                raise Invalid("rle of a brush", "whole", "a list that is cut off")
            out[place:end] = bits[at:stop].reshape(-1, word) @ powers
            at = stop
        place = end
    found: NDArray[np.bool_] = out.reshape(height, width, 4)[:, :, 3] > 0
    return found


def encode(pixels: NDArray[np.bool_]) -> list[int]:
    """A mask of shape ``(height, width)`` as Label Studio's list: 255 in all four channels where it is set."""
    flat = np.asarray(pixels, np.bool_).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], edges, [flat.size]))
    parts = [f"{4 * flat.size:032b}", "00111", *(f"{size - 1:04b}" for size in _SIZES)]
    for start, stop in zip(starts, starts[1:], strict=False):
        value = "11111111" if flat.size and flat[start] else "00000000"
        rest = 4 * int(stop - start)
        while rest:
            length = min(rest, 1 << _SIZES[-1])
            kind = next(n for n, size in enumerate(_SIZES) if length <= 1 << size)
            parts.append(f"1{kind:02b}{length - 1:0{_SIZES[kind]}b}{value}")
            rest -= length
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
