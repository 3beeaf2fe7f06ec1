"""What the next models of a chain said of the objects in a frame: found for each of them, and drawn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import lettering
from loopworks.infer.chains import flat
from loopworks.infer.chains.flat import THEN
from loopworks.infer.live.frames import Found

_COLORS = ((42, 157, 80), (131, 56, 186), (0, 150, 136), (120, 85, 60))


def attach(objects: Sequence[Found], answer: Mapping[str, Any]) -> None:
    """Give each object what its label led to in the chain's answer; where two are alike, in their order."""
    left = [row for row in answer.get("labels", ()) if row.get(THEN)]
    for one in objects:
        for place, row in enumerate(left):
            if row["label"] == one.label and _is_same(row.get("box"), one.box):
                one.then = left.pop(place)[THEN]
                break


def _is_same(told: Sequence[float] | None, box: Sequence[float] | None) -> bool:
    """Whether a box of an answer, which is rounded, is this one."""
    if told is None or box is None:
        return told is None and box is None
    return all(abs(one - other) < 0.01 for one, other in zip(told, box, strict=True))


def draw(pixels: NDArray[np.uint8], objects: Sequence[Found], scale: float = 1.0) -> NDArray[np.uint8]:
    """A drawn frame, ``scale`` times the source's size, with nested boxes, and classes at the foot of their object."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    pen = ImageDraw.Draw(picture)
    size = lettering.letter_size(*picture.size)
    thick = lettering.pen_width(*picture.size)
    for one in objects:
        rows = list(flat.rows(one.then))
        many, lines = Counter(row.box for row in rows), Counter[tuple[float, ...]]()
        for row in rows:
            x, y, width, height = (side * scale for side in row.box)
            color = _COLORS[(row.depth - 1) % len(_COLORS)]
            if row.is_place:
                pen.rectangle((x, y, x + max(width, 1), y + max(height, 1)), outline=color, width=thick)
            lines[row.box] += 1
            high = 1.6 * size  # of a tag
            under = lines[row.box] if height < (many[row.box] + 2) * high else lines[row.box] - many[row.box]
            bottom = min(y + height + under * high, picture.height - (many[row.box] - lines[row.box]) * high)
            name = lettering.legible(row.label, ())
            lettering.tag(pen, (x, bottom), f"{row.node}: {name} {row.score:.2f}", color, size)
    return np.asarray(picture)
