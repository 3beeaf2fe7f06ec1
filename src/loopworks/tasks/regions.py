"""What task kinds have in common whose labels say where things are: object detection, semantic segmentation.

What a label is, how it is checked and drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import LabelSchema, Shape

_COLORS = ((230, 57, 70), (29, 132, 181), (42, 157, 80), (244, 162, 40), (131, 56, 186), (0, 150, 136), (120, 85, 60))
NOTES = frozenset({"class", "caption", "value"})


@dataclass(frozen=True, slots=True)
class Regions:
    """Things in a picture, each with its class and its place. An image without any is a label too."""

    name: str
    kinds: frozenset[str]
    media: str = "image"

    def check(self, shapes: Sequence[Shape], schema: LabelSchema) -> tuple[Shape, ...]:
        """The shapes in their order, exact repetitions left out.

        Classes and captions of the whole image may be among them, and values (places in space), which nothing draws.

        Raises:
            NotFound: a class that the schema does not have.
            Invalid: a kind of shape that is no answer to this question.
        """
        for shape in shapes:
            if shape.kind not in self.kinds | NOTES:
                raise Invalid(f"shape of {self.name}", f"one of {', '.join(sorted(self.kinds))}", shape.kind)
            if not shape.label and shape.kind != "class":
                continue  # something is there, and nobody has said what: so formats write it, and so it is labelled
            if shape.label not in schema.classes:
                raise NotFound("class", shape.label, schema.classes)
        return tuple(dict.fromkeys(shapes))

    def draw(self, image: NDArray[np.uint8], shapes: Sequence[Shape]) -> NDArray[np.uint8]:
        """The image with outlines, masks as a tint, and class names."""
        from PIL import Image, ImageDraw

        picture = Image.fromarray(image)
        pen = ImageDraw.Draw(picture, "RGBA")
        names = sorted({shape.label for shape in shapes})
        for shape in shapes:
            color = _COLORS[names.index(shape.label) % len(_COLORS)]
            if shape.kind == "mask":
                height, width = (int(side) for side in shape.points[0])
                tint = Image.fromarray(mask.decode(shape.mask, height, width).astype(np.uint8) * 110)
                picture.paste(color, (0, 0), tint.resize(picture.size))
            elif shape.kind == "points":
                for at in zip(shape.points[0][::2], shape.points[0][1::2], strict=True):
                    pen.ellipse((at[0] - 2, at[1] - 2, at[0] + 2, at[1] + 2), fill=color)
            else:
                for xs, ys in outlines(shape):
                    line = [*zip(xs, ys, strict=True)]
                    closed = line if shape.kind == "polyline" else [*line, line[0]]
                    pen.line(closed, fill=color, width=2)
            if (box := shape.bounds) is not None:
                pen.text((box[0] + 2, max(0.0, box[1] - 11)), shape.label, fill=color)
        return np.asarray(picture)


def outlines(shape: Shape) -> list[tuple[list[float], list[float]]]:
    """The corners of a shape's parts, each as its x and its y, in pixels."""
    if shape.kind == "box":
        x, y, width, height = shape.points[0]
        return [([x, x + width, x + width, x], [y, y, y + height, y + height])]
    if shape.kind == "ellipse":
        cx, cy, rx, ry, angle = shape.points[0]
        around = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        turn = np.radians(angle)
        xs = cx + rx * np.cos(around) * np.cos(turn) - ry * np.sin(around) * np.sin(turn)
        ys = cy + rx * np.cos(around) * np.sin(turn) + ry * np.sin(around) * np.cos(turn)
        return [(xs.tolist(), ys.tolist())]
    return [(list(row[::2]), list(row[1::2])) for row in shape.points]


PLACES = frozenset({"box", "obb", "polygon", "mask", "ellipse", "polyline", "points"})
