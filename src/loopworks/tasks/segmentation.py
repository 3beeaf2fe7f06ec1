"""The task kind that asks of which class every pixel of an image is.

What a pixel is that no shape covers follows from the classes alone, so that every split, every recipe and every reader
of a model has one answer; ``uncovered`` says it in words:

1. a class is named background: such pixels are of it;
2. else a class is named void, unlabeled or ignore: nobody has said what they are, so they are left out;
3. else they are nothing: no class of the schema, a model learns to say so, and its answer there is ``NOTHING``.

Pixels of a class named void, unlabeled or ignore are never learnt from and never scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.contracts import Arrays, Metric, Sizes
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape, TensorSpec
from loopworks.tasks import regions
from loopworks.tasks.counts import Counts

OUTPUT, SURE = "classes", "sure"
NOTHING = 255
"""In an answer: of no class of the schema."""
IGNORED = 255
"""In a target: not known, neither learnt from nor scored."""
MOST_CLASSES = 254
SIDE = 512
"""Longer side of the grid that labels are painted on, in pixels, at most."""
ROOM = 1 << 30
"""Bytes that the labels of one split may take; of more items each has a coarser grid."""
BACKGROUND = frozenset({"background", "背景"})
VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored", "未标注", "忽略"})


@dataclass(frozen=True, slots=True)
class Semantic(regions.Regions):
    """Of which class every pixel is.

    ``targets``: uint8 ``(items, height, width)`` on one grid for all items of a split, stretched over each image: the
    class's place in the schema, the number of classes for pixels of nothing, ``IGNORED`` for pixels not known. Shapes
    are painted in their order, later over earlier. The grid has the median image's shape, its longer side at most
    ``SIDE`` pixels.
    """

    headline: str = field(default="miou", init=False)

    def targets(self, labels: Sequence[Sequence[Shape]], schema: LabelSchema, sizes: Sizes = ()) -> NDArray[np.uint8]:
        """The labels painted on the grid; ``Invalid`` names a mask that is of another size than its image."""
        _few(schema)
        found = [*sizes] if sizes else [_said(shapes) for shapes in labels]
        height, width = _grid([size for size in found if size])
        bare = _bare(schema)
        out = np.full((len(labels), height, width), bare, np.uint8)
        for place, (shapes, size) in enumerate(zip(labels, found, strict=True)):
            for shape in shapes:
                value = _value(shape, schema)
                if value is not None and size is not None:
                    out[place][_covered(shape, size, height, width, place)] = value
        return out

    def teachable(self, targets: NDArray[Any], schema: LabelSchema) -> None:
        """Two kinds of pixels must occur: two classes, or a class and pixels of nothing."""
        _few(schema)
        counts = np.zeros(256, np.int64)
        for row in targets:
            counts += np.bincount(row.ravel(), minlength=256)
        seen = [answer_name(schema, int(value)) for value in np.flatnonzero(counts[:IGNORED])]
        if len(seen) < 2:
            raise Invalid(
                "labels of the train split",
                "of at least two classes, or of one that leaves some pixels uncovered",
                f"only {', '.join(seen) or 'none'}",
                "label items of another class, then freeze again",
            )

    def outputs(self, schema: LabelSchema) -> tuple[TensorSpec, ...]:
        """What every pixel is, and how sure that is.

        ``classes``: the class's place in the schema, or ``NOTHING``, on the model's own grid, stretched over the image.
        ``sure``: the chance of the winning class in 0..1, on a grid that may be coarser.
        """
        _few(schema)
        return (
            TensorSpec(name=OUTPUT, datatype="UINT8", shape=(-1, -1, -1)),
            TensorSpec(name=SURE, datatype="FP32", shape=(-1, -1, -1)),
        )

    def decode(self, outputs: Arrays, schema: LabelSchema, sizes: Sizes = ()) -> list[dict[str, Any]]:
        """``{"regions": [{"label", "share", "score", "mask"}, ...]}``, the largest first.

        ``share`` of the picture in 0..1, ``score``: how sure, the mean over the class's pixels; ``mask``: as COCO
        writes it, ``{"size": [height, width], "counts": text}``, in pixels of the image; without ``sizes`` of the grid.
        """
        found = []
        for said in self.labels(outputs, schema, "", sizes):
            rows: list[dict[str, Any]] = []
            for shape, score in said:
                height, width = (int(side) for side in shape.points[0])
                rows.append({
                    "label": shape.label,
                    "share": round(mask.area(shape.mask) / (height * width), 6),
                    "score": round(score, 6),
                    "mask": {"size": [height, width], "counts": shape.mask},
                })
            found.append({"regions": sorted(rows, key=lambda row: -row["share"])})
        return found

    def labels(
        self, outputs: Arrays, schema: LabelSchema, author: str, sizes: Sizes = ()
    ) -> list[tuple[tuple[Shape, float], ...]]:
        """One mask per class that was seen, in the order of the classes, with the mean chance over its pixels."""
        classes, sure = _answer(outputs)
        found = []
        for place, (row, chances) in enumerate(zip(classes, sure, strict=True)):
            height, width = row.shape
            total = np.bincount(row.ravel(), resize(chances, height, width).ravel(), minlength=256)
            counts = np.bincount(row.ravel(), minlength=256)
            if sizes:
                width, height = sizes[place]
            texts = mask.encode_classes(resize(row, height, width))
            size = ((float(height), float(width)),)
            found.append(
                tuple(
                    (
                        Shape(label=name, source="model", author=author, kind="mask", points=size, mask=texts[i]),
                        float(np.clip(total[i] / counts[i], 0.0, 1.0)),
                    )
                    for i, name in enumerate(schema.classes)
                    if i in texts
                )
            )
        return found

    def uncertainty(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """How far the winning class's chance is from 1, as a share of how far it can be; the mean over the pixels."""
        _, sure = _answer(outputs)
        least = 1.0 / max(2, len(answerable(schema)))
        mean = sure.reshape(len(sure), -1).mean(axis=1, dtype=np.float64)
        return np.asarray(np.clip((1.0 - mean) / (1.0 - least), 0.0, 1.0))

    def features(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float32]:
        """Each class's share of the picture, then the share of nothing."""
        classes, _ = _answer(outputs)
        counts = np.stack([np.bincount(row.ravel(), minlength=256) for row in classes])
        shares = counts[:, [*range(len(schema.classes)), NOTHING]] / classes[0].size
        return np.asarray(shares, np.float32)

    def metrics(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, Metric]:
        """``miou``, ``pixel_accuracy`` and ``mean_accuracy`` of the pixels that are known.

        The means are over the schema's classes that occur in the truth of the items. Pixels of nothing count in
        ``pixel_accuracy``, and where a class is said of them against its IoU; they are no class of their own in the
        means, so that much empty background hides no bad class.
        """
        counts = self._counts(targets, outputs, schema)
        return {"miou": counts.miou, "pixel_accuracy": counts.pixel_accuracy, "mean_accuracy": counts.mean_accuracy}

    def by_class(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, dict[str, float]]:
        """``iou``, ``accuracy`` (share of its pixels that were found) and ``share`` of all known pixels."""
        counts = self._counts(targets, outputs, schema)
        found = counts.by_class()
        return {name: found[i] for i, name in enumerate(schema.classes) if i in found}

    def quality(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """Share of the known pixels that are right; 1 where none is known."""
        return self._counts(targets, outputs, schema).right_share()

    def recall(
        self, said: Sequence[Sequence[tuple[Shape, float]]], schema: LabelSchema, sizes: Sequence[tuple[int, int]]
    ) -> dict[str, NDArray[Any]]:
        """The classes of pixels again, on the grid of ``targets``; how sure is the mean that was kept of a mask."""
        height, width = _grid(sizes)
        classes = np.full((len(said), height, width), NOTHING, np.uint8)
        sure = np.ones((len(said), height, width), np.float32)
        for at, (shapes, size) in enumerate(zip(said, sizes, strict=True)):
            for shape, score in shapes:
                if shape.label in schema.classes:
                    covered = _covered(shape, size, height, width, at)
                    classes[at][covered], sure[at][covered] = schema.classes.index(shape.label), score
        return {OUTPUT: classes, SURE: sure}

    def agreement(self, left: Arrays, right: Arrays, schema: LabelSchema) -> float:
        """Share of the pixels of which two models say the same, the mean over the items: every pixel is a label."""
        ours, theirs = _answer(left)[0], _answer(right)[0]
        if len(ours) != len(theirs) or not len(ours):
            raise Invalid("answers to compare", "of the same items, at least one", f"{len(ours)} and {len(theirs)}")
        height, width = (max(ours.shape[axis], theirs.shape[axis]) for axis in (1, 2))
        same = [
            (resize(a, height, width) == resize(b, height, width)).mean() for a, b in zip(ours, theirs, strict=True)
        ]
        return float(np.mean(same))

    def taught(
        self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema, *, share: float, seed: int
    ) -> NDArray[np.uint8]:
        """Pixel by pixel the teacher's class, drawn with ``share`` times its chance, else the label.

        Where there is no label, the teacher is believed as far as it is sure; so pixels that nobody labeled teach too.
        """
        rng = np.random.default_rng(seed)
        found = np.array(targets, np.uint8)
        classes, sure = _answer(outputs)
        height, width = found.shape[1:3]
        for row, said, chance in zip(found, classes, sure, strict=True):
            said = resize(said, height, width)
            said = np.where(said == NOTHING, len(schema.classes), said)
            chance = resize(np.asarray(chance, np.float32), height, width)
            believed = rng.random(row.shape) < chance * np.where(row == IGNORED, 1.0, share)
            row[believed] = said[believed]
        return found

    def sample(
        self, images: NDArray[np.uint8], targets: NDArray[Any], outputs: Arrays, schema: LabelSchema
    ) -> NDArray[np.uint8]:
        """Rows of image, truth and answer, for people who watch a training; pixels not known are black."""
        classes, _ = _answer(outputs)
        height, width = images.shape[1:3]
        rows = []
        for image, truth, said in zip(images, targets, classes, strict=True):
            truth = np.where((truth == len(schema.classes)) | (truth == IGNORED), NOTHING, truth)
            rows.append(np.concatenate([image, *(paint(resize(x, height, width)) for x in (truth, said))], axis=1))
        return np.concatenate(rows)

    def _counts(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> Counts:
        classes, _ = _answer(outputs)
        if targets.ndim != 3 or len(targets) != len(classes):
            raise Invalid("targets", f"of shape ({len(classes)}, height, width), one per answer", targets.shape)
        height, width = targets.shape[1:]
        return Counts.of(targets, (resize(row, height, width) for row in classes), len(schema.classes), IGNORED)


def uncovered(schema: LabelSchema) -> str:
    """What becomes of pixels that no shape covers, for people."""
    left = [name for name in schema.classes if is_void(name)]
    for name in schema.classes:
        if name.casefold() in BACKGROUND:
            return f"pixels that no shape covers are of class {name}"
    if left:
        return f"pixels of class {left[0]} and pixels that no shape covers were neither learnt nor scored"
    return f"pixels that no shape covers are nothing, which is no class: the answer there is {NOTHING}"


def answerable(schema: LabelSchema) -> tuple[int, ...]:
    """What a target may be and a model may say: places of classes; the number of classes stands for nothing."""
    classes = [i for i, name in enumerate(schema.classes) if not is_void(name)]
    return (*classes, len(schema.classes)) if _bare(schema) == len(schema.classes) else tuple(classes)


def answer_name(schema: LabelSchema, value: int) -> str:
    """Name of what a target may be."""
    return schema.classes[value] if value < len(schema.classes) else "pixels without a label"


def is_void(name: str) -> bool:
    """Whether a class of this name means that nobody has said what it is."""
    return name.casefold() in VOID


def resize(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """``(h, w)`` on another grid, each pixel from the nearest."""
    if values.shape == (height, width):
        return values
    rows, columns = places(values.shape[0], height), places(values.shape[1], width)
    return np.asarray(values[rows[:, None], columns])


def paint(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class numbers as colours, shape ``(height, width, 3)``; nothing is black.

    Source: the colour map of Pascal VOC (Everingham et al. 2010, "The Pascal visual object classes challenge").
    """
    return COLORS[classes]


def _palette() -> NDArray[np.uint8]:
    """Colours of class numbers, from the second of VOC's on: its first is black."""
    out = np.zeros((256, 3), np.uint8)
    for place in range(MOST_CLASSES + 1):
        rest, bit = place + 1, 7
        while rest:
            out[place] |= np.asarray([(rest >> channel & 1) << bit for channel in range(3)], np.uint8)
            rest, bit = rest >> 3, bit - 1
    return out


COLORS = _palette()


def _bare(schema: LabelSchema) -> int:
    """Target of a pixel that no shape covers."""
    for place, name in enumerate(schema.classes):
        if name.casefold() in BACKGROUND:
            return place
    return IGNORED if any(is_void(name) for name in schema.classes) else len(schema.classes)


def _few(schema: LabelSchema) -> None:
    if len(schema.classes) > MOST_CLASSES:
        raise Invalid("classes", f"at most {MOST_CLASSES} (each pixel is one byte)", len(schema.classes))


def _value(shape: Shape, schema: LabelSchema) -> int | None:
    """Target of the pixels that a shape covers; ``None`` for what is said of the whole image."""
    if shape.kind in ("class", "caption", "value", "polyline", "points"):
        if shape.label and shape.label not in schema.classes:
            raise NotFound("class", shape.label, schema.classes)
        return None
    if not shape.label:
        return IGNORED  # something is there, and nobody has said what
    if shape.label not in schema.classes:
        raise NotFound("class", shape.label, schema.classes)
    return IGNORED if is_void(shape.label) else schema.classes.index(shape.label)


def _said(shapes: Sequence[Shape]) -> tuple[int, int] | None:
    """Width and height of an image, by its masks."""
    for shape in shapes:
        if shape.kind == "mask":
            return int(shape.points[0][1]), int(shape.points[0][0])
    return None


def _grid(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width of the grid for images of these sizes."""
    if not sizes:
        return 1, 1
    width, height = (max(1, int(side)) for side in np.median(np.asarray(sizes), axis=0))
    scale = min(1.0, SIDE / max(width, height))
    scale = min(scale, float(np.sqrt(ROOM / (len(sizes) * width * height))))
    return max(1, round(height * scale)), max(1, round(width * scale))


def places(old: int, new: int) -> NDArray[np.intp]:
    """The old pixel in which the centre of each new one lies."""
    return np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)


def _covered(shape: Shape, size: tuple[int, int], height: int, width: int, place: int) -> NDArray[np.bool_]:
    """The pixels of the grid that lie in a shape of an image of ``size`` (width, height)."""
    if shape.kind == "mask":
        own = (int(shape.points[0][1]), int(shape.points[0][0]))
        # A mask of half the image's size says the same things; one of another shape belongs to another image.
        if not np.isclose(own[0] * size[1], own[1] * size[0], rtol=0.02):
            wanted, found = (f"{wide} x {high}" for wide, high in (size, own))
            what = f"mask of class {shape.label!r}, item {place + 1}"
            raise Invalid(what, f"of the shape of its image ({wanted} pixels)", found, "label this item again")
        return resize(mask.decode(shape.mask, own[1], own[0]), height, width)
    across, down = width / max(1, size[0]), height / max(1, size[1])
    rows = [
        tuple(number for x, y in zip(xs, ys, strict=True) for number in (x * across, y * down))
        for xs, ys in regions.outlines(shape)
    ]
    return mask.draw(rows, height, width)


def _answer(outputs: Arrays) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """The model's answer, refused where it cannot be one."""
    found = []
    for name in (OUTPUT, SURE):
        values = outputs.get(name)
        if values is None:
            raise Invalid(f"output {name!r} of the model", "there", f"outputs {', '.join(outputs) or 'none'}")
        if values.ndim != 3:
            raise Invalid(f"output {name!r} of the model", "of shape (items, height, width)", values.shape)
        found.append(values)
    if found[0].dtype != np.uint8 or len(found[0]) != len(found[1]):
        what = f"{found[0].dtype}, {len(found[0])} and {len(found[1])} items"
        raise Invalid("outputs of the model", "uint8 classes and chances of the same items", what)
    return found[0], found[1]


plugins.add("task.semantic-segmentation")(Semantic("semantic-segmentation", regions.PLACES))
