"""A model's answer in the forms that other tools read: COCO, GeoJSON, CSV, a mask, a picture."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image, lettering, mask
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, Shape
from loopworks.data.formats.color_map import color
from loopworks.infer.local import Loaded

JSON = "application/json"
DRAWN_PX = 1600
"""Longer side of a drawn picture, in pixels, at most."""
QUALITY = 90
"""Of a drawn picture as JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model said of some items."""

    bundle: Bundle
    author: str
    """The model, as NAME:NUMBER."""
    items: Sequence[Loaded]
    outputs: Arrays
    values: Sequence[Mapping[str, Any]]
    """The task's answers, one per item."""
    max_pixels: int = image.MAX_PIXELS

    @property
    def task(self) -> Learnable:
        """The bundle's task kind."""
        found: Learnable = plugins.get(f"task.{self.bundle.task}")
        return found

    def shapes(self, sizes: Sequence[tuple[int, int]] = ()) -> list[tuple[tuple[Shape, float], ...]]:
        """Per item what was seen, with its confidence; in pixels of ``sizes``, default the items' own."""
        own = [item.size for item in self.items if item.size is not None]
        return self.task.labels(self.outputs, self.bundle.schema, self.author, sizes or own)


def coco(said: Said) -> bytes:
    """Boxes and masks as a COCO file with scores; masks are run lengths.

    Raises: Invalid: the model sees no places.
    """
    classes = said.bundle.schema.classes
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, (item, shapes) in enumerate(zip(said.items, _places(said), strict=True), 1):
        width, height = item.size or (0, 0)
        images.append({"id": i, "file_name": item.name, "width": width, "height": height})
        for shape, score in shapes:
            row: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": i,
                "category_id": classes.index(shape.label) + 1,
                "score": round(score, 6),
                "iscrowd": 0,
            }
            if shape.kind == "mask":
                rows, columns = (int(side) for side in shape.points[0])
                row["segmentation"] = {"size": [rows, columns], "counts": shape.mask}
                row["area"], row["bbox"] = mask.area(shape.mask), _bounds(mask.decode(shape.mask, rows, columns))
            else:
                x, y, wide, high = shape.bounds or (0.0, 0.0, 0.0, 0.0)
                row["segmentation"], row["area"], row["bbox"] = [], round(wide * high, 4), [x, y, wide, high]
            annotations.append(row)
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations}).encode()


def geojson(said: Said) -> bytes:
    """Boxes as polygons of a GeoJSON feature collection, in pixels: x to the right, y downwards.

    Raises: Invalid: the model sees no boxes.
    """
    features = []
    for item, shapes in zip(said.items, _places(said), strict=True):
        for shape, score in shapes:
            if (box := shape.bounds) is None:
                raise Invalid(
                    "Accept", "a form that has masks", "application/geo+json", "application/coco+json has them"
                )
            x, y, width, height = box
            ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
            facts = {"label": shape.label, "score": round(score, 6), "image": item.name}
            geometry = {"type": "Polygon", "coordinates": [ring]}
            features.append({"type": "Feature", "geometry": geometry, "properties": facts})
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def table(said: Said) -> bytes:
    """CSV: a line per item, or per thing that was seen in it; of classes the likeliest."""
    rows: list[dict[str, Any]] = []
    for item, value in zip(said.items, said.values, strict=True):
        if "value" in value:
            rows.append({"item": item.name, "value": value["value"]})
        elif "regions" in value:
            rows += [
                {"item": item.name, **{k: one[k] for k in ("label", "score", "share")}} for one in value["regions"]
            ]
        elif "chosen" in value:
            scores = {one["label"]: one["score"] for one in value["labels"]}
            rows += [{"item": item.name, "label": name, "score": scores[name]} for name in value["chosen"]]
        else:
            for one in value["labels"]:
                sides = dict(zip(("x", "y", "width", "height"), one["box"], strict=True))
                rows.append({"item": item.name, "label": one["label"], "score": one["score"], **sides})
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["item", "label", "score"])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def mask_png(said: Said) -> bytes:
    """The one image's mask as PNG with a palette: 0 is nothing, n the n-th class of the model.

    Raises: Invalid: several images, or a model that sees no masks.
    """
    from PIL import Image

    item = _lone(said)
    if "regions" not in said.values[0]:
        raise Invalid("Accept", "a form of this model", "image/png, which is masks", "image/jpeg is the drawn picture")
    width, height = item.size or (1, 1)
    classes = said.bundle.schema.classes
    pixels = np.zeros((height, width), np.uint8)
    for shape, _ in said.shapes()[0]:
        pixels[mask.decode(shape.mask, height, width)] = classes.index(shape.label) + 1
    picture = Image.fromarray(pixels)
    picture.putpalette([side for n in range(len(classes) + 1) for side in color(n)])
    return _file(picture, "PNG")


def drawn(said: Said) -> NDArray[np.uint8]:
    """The one image with what was seen drawn into it; a large one at a smaller size.

    Raises: Invalid: several items, or one that is no image.
    """
    item = _lone(said)
    width, height = item.size or (1, 1)
    share = min(1.0, DRAWN_PX / max(width, height))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    rule = ImageRule(width=size[0], height=size[1])
    pixels = image.decode(item.content, rule, item.name, said.max_pixels)
    shapes = [shape for shape, _ in said.shapes([size])[0]]
    return said.task.draw(pixels, lettering.renamed(shapes, said.bundle.schema.classes))


def picture_jpeg(said: Said) -> bytes:
    """``drawn`` as a JPEG file."""
    from PIL import Image

    return _file(Image.fromarray(drawn(said)), "JPEG", quality=QUALITY)


FORMS: Mapping[str, Callable[[Said], bytes]] = {
    "application/coco+json": coco,
    "application/geo+json": geojson,
    "text/csv": table,
    "image/jpeg": picture_jpeg,
    "image/png": mask_png,
}
"""Media type -> what writes it; ``JSON`` beside them is the answer as it is."""


def _places(said: Said) -> list[tuple[tuple[Shape, float], ...]]:
    found = said.shapes() if said.bundle.rule.media == "image" else []
    if not found or any(shape.kind in ("class", "value") for shapes in found for shape, _ in shapes):
        raise Invalid("Accept", "a form of this model", "one for places in images", f"{JSON} and text/csv are for all")
    return found


def _lone(said: Said) -> Loaded:
    if len(said.items) != 1 or said.bundle.rule.media != "image":
        got = f"{len(said.items)} items of media {said.bundle.rule.media}"
        raise Invalid("what becomes a picture", "one image", got, f"ask for {JSON}")
    return said.items[0]


def _bounds(pixels: NDArray[np.bool_]) -> list[float]:
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    x, y = float(columns[0]), float(rows[0])
    return [x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y]


def _file(picture: Any, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
