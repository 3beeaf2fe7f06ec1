"""What task kinds have in common whose labels say where things are: object detection, semantic segmentation.

What a label is, how it is checked and drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core import lettering, mask
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.lettering import COLORS
from loopworks.core.values import LabelSchema, Shape

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
        """The image with outlines, masks as a tint, and class names; a tiny image is drawn larger."""
        from PIL import Image, ImageDraw

        scale = lettering.enlargement(image.shape[1], image.shape[0])
        picture = Image.fromarray(np.ascontiguousarray(image))
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
        pen = ImageDraw.Draw(picture, "RGBA")
        width, size = lettering.pen_width(*picture.size), lettering.letter_size(*picture.size)
        names = sorted({shape.label for shape in shapes})
        tags = []
        for shape in shapes:
            color = COLORS[names.index(shape.label) % len(COLORS)]
            if shape.kind == "mask":
                rows, columns = (int(side) for side in shape.points[0])
                pixels = mask.decode(shape.mask, rows, columns)
                tint = Image.fromarray(pixels.astype(np.uint8) * 110)
                picture.paste(color, (0, 0), tint.resize(picture.size, Image.Resampling.NEAREST))
                if pixels.any():
                    column, row = _inside(pixels)
                    at = column * picture.width / columns, row * picture.height / rows
                    tags.append((at, shape.label, color))
            elif shape.kind == "points":
                for x, y in zip(shape.points[0][::2], shape.points[0][1::2], strict=True):
                    pen.ellipse([side * scale + by for by in (-width, width) for side in (x, y)], fill=color)
            else:
                for xs, ys in outlines(shape):
                    line = [(x * scale, y * scale) for x, y in zip(xs, ys, strict=True)]
                    closed = line if shape.kind == "polyline" else [*line, line[0]]
                    pen.line(closed, fill=color, width=width)
            if (box := shape.bounds) is not None:
                tags.append(((box[0] * scale, box[1] * scale), shape.label, color))
        for at, name, color in tags:  # over all that is drawn
            if name:
                lettering.tag(pen, at, name, color, size)
        return np.asarray(picture)


def _inside(pixels: NDArray[np.bool_]) -> tuple[int, int]:
    """x and y of a pixel of a mask, about its middle, whatever its form."""
    rows = np.flatnonzero(pixels.any(axis=1))
    y = int(rows[len(rows) // 2])
    columns = np.flatnonzero(pixels[y])
    return int(columns[len(columns) // 2]), y


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
