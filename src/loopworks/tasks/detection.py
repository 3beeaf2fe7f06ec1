"""The task kind that asks which things are in an image, and where: upright boxes with classes."""

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
from loopworks.tasks.precision import AREAS, Found, Precision, overlaps

BOXES, SCORES, CLASSES = "boxes", "scores", "classes"
MOST = 100
"""Boxes that a model gives per image."""
THRESHOLD = 0.5
"""Score from which a box is meant; recipes set the scores so that this is the best place to cut."""
CUTS = (0.05, 0.95)
"""Lowest and highest score that may become one half."""
ALIKE = 0.5
"""Intersection over union from which two boxes are of one thing."""
LABEL, X, Y, WIDTH, HEIGHT, CROWD, AREA, IMAGE_WIDTH, IMAGE_HEIGHT, MENDED = range(10)
"""Columns of a target's rows."""


@dataclass(frozen=True, slots=True)
class Detection(regions.Regions):
    """Which things are in an image, and where: an upright box and a class each.

    ``targets``: float32 ``(items, most, 10)``, one row per thing: the class's place in the schema; x, y, width and
    height in 0..1 of the image's sides; whether it is a crowd (COCO's ``iscrowd``); its area in square pixels; the
    image's width and height in pixels, in every row; whether the box reached beyond the image and was cut. Rows of
    class -1 are no things: they fill up, or (where the last column is 1) stood for a box of no size inside the image.
    Other shapes than boxes count by the box around them; classes and captions of the whole image do not.
    """

    headline: str = field(default="map", init=False)

    def targets(self, labels: Sequence[Sequence[Shape]], schema: LabelSchema, sizes: Sizes = ()) -> NDArray[np.float32]:
        """The boxes; ``Invalid`` where the images' sizes are not given."""
        if len(sizes) != len(labels):
            raise Invalid("sizes of the images", f"{len(labels)}, one per item", len(sizes))
        place = {name: i for i, name in enumerate(schema.classes)}
        rows = [
            [row for shape in shapes if (row := _row(shape, place, schema, size)) is not None]
            for shapes, size in zip(labels, sizes, strict=True)
        ]
        out = np.zeros((len(labels), max((len(some) for some in rows), default=0) or 1, 10), np.float32)
        out[:, :, LABEL] = -1
        for at, (some, size) in enumerate(zip(rows, sizes, strict=True)):
            out[at, :, IMAGE_WIDTH:MENDED] = size
            for i, row in enumerate(some):
                out[at, i, :IMAGE_WIDTH] = row[:IMAGE_WIDTH]
                out[at, i, MENDED] = row[-1]
        return out

    def teachable(self, targets: NDArray[Any], schema: LabelSchema) -> None:
        """At least one box must be there."""
        if not (targets[..., LABEL] >= 0).any():
            raise Invalid(
                "labels of the train split", "at least one box", "none", "draw boxes on some items, then freeze again"
            )

    def outputs(self, schema: LabelSchema) -> tuple[TensorSpec, ...]:
        """At most 100 boxes per image, the best first, with nothing said twice; a score of 0 is no box.

        ``boxes``: x, y, width, height in 0..1 of the image's sides. ``scores``: in 0..1; a box is meant from one half.
        ``classes``: place in the schema.
        """
        return (
            TensorSpec(name=BOXES, datatype="FP32", shape=(-1, MOST, 4)),
            TensorSpec(name=SCORES, datatype="FP32", shape=(-1, MOST)),
            TensorSpec(name=CLASSES, datatype="INT64", shape=(-1, MOST)),
        )

    def decode(self, outputs: Arrays, schema: LabelSchema, sizes: Sizes = ()) -> list[dict[str, Any]]:
        """``{"labels": [{"label", "score", "box": [x, y, width, height]}, ...]}``, the best first.

        Boxes are in pixels of the image as it is shown; without ``sizes`` in 0..1 of its sides. ``"unit"`` says which.
        """
        found = []
        for box, score, label, size in _answers(outputs, schema, sizes):
            scaled, digits = (box, 6) if size is None else (_scaled(box, size), 2)
            found.append({
                "unit": "share" if size is None else "px",
                "labels": [
                    {
                        "label": schema.classes[label[i]],
                        "score": round(float(score[i]), 6),
                        "box": [round(float(side), digits) for side in scaled[i]],
                    }
                    for i in np.flatnonzero(score >= THRESHOLD)
                ],
            })
        return found

    def labels(
        self, outputs: Arrays, schema: LabelSchema, author: str, sizes: Sizes = ()
    ) -> list[tuple[tuple[Shape, float], ...]]:
        """Boxes from a score of one half on, the best first, in pixels; without ``sizes`` in 0..1 of the sides."""
        found = []
        for box, score, label, size in _answers(outputs, schema, sizes):
            scaled = box if size is None else _scaled(box, size)
            said: dict[Shape, float] = {}
            for i in np.flatnonzero(score >= THRESHOLD):
                row = tuple(round(float(side), 4 if size else 6) for side in scaled[i])
                shape = Shape(label=schema.classes[label[i]], source="model", author=author, kind="box", points=(row,))
                said.setdefault(shape, min(1.0, float(score[i])))
            found.append(tuple(said.items()))
        return found

    def boxes(
        self, outputs: Arrays, schema: LabelSchema, sizes: Sizes, least: float
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
        """By image: x, y, width and height in pixels, scores and classes of its boxes from a score of ``least`` on.

        ``labels`` gives those that are meant; trackers want the doubtful ones too.
        """
        found = []
        for box, score, label, size in _answers(outputs, schema, sizes):
            kept = score >= least
            scaled = box[kept] if size is None else _scaled(box[kept], size)
            found.append((scaled.astype(np.float64), score[kept].astype(np.float64), label[kept].astype(np.int64)))
        return found

    def uncertainty(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """Closeness to one half of the most doubtful box's score; 0 where nothing is found at all."""
        scores = _outputs(outputs, schema)[1].astype(np.float64)
        return np.asarray(np.clip((1.0 - np.abs(2.0 * scores - 1.0)) * (scores > 0), 0.0, 1.0).max(axis=1, initial=0.0))

    def features(self, outputs: Arrays, schema: LabelSchema) -> NDArray[np.float32]:
        """Per class how many things are seen, where in the middle, and how large: each weighted by the scores."""
        boxes, scores, labels = _outputs(outputs, schema)
        weight = scores[..., None] * (labels[..., None] == np.arange(len(schema.classes)))  # (items, boxes, classes)
        total = weight.sum(axis=1)
        facts = np.concatenate(
            (boxes[..., :2] + boxes[..., 2:] / 2, np.sqrt(boxes[..., 2:3] * boxes[..., 3:4])), axis=2
        )
        means = np.einsum("nbc,nbf->ncf", weight, facts) / np.maximum(total, 1e-6)[..., None]
        return np.concatenate((np.log1p(total), means.reshape(len(total), -1)), axis=1).astype(np.float32)

    def metrics(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, Metric]:
        """COCO's: ``map`` (mean over classes and ten IoU limits), ``map50``, ``map75``.

        ``map_small``, ``map_medium``, ``map_large`` (up to 32 and 96 pixels squared) too, where such things occur.
        """
        found = _pairs(targets, outputs, schema)
        whole = Precision(found, len(schema.classes))
        said: dict[str, Metric] = {
            "map": whole.mean,
            "map50": lambda at: whole.mean(at, slice(0, 1)),
            "map75": lambda at: whole.mean(at, slice(5, 6)),
        }
        for name in ("small", "medium", "large"):
            low, high = AREAS[name]
            if any(((one.area >= low) & (one.area <= high) & ~one.is_crowd).any() for one in found):
                said[f"map_{name}"] = _Late(found, len(schema.classes), name)
        return said

    def by_class(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> dict[str, dict[str, float]]:
        """``ap`` (over ten limits), ``ap50``; ``precision`` and ``recall`` of boxes meant, and ``count`` of things."""
        found = _pairs(targets, outputs, schema)
        table = Precision(found, len(schema.classes)).table(np.arange(len(found)))
        counts = np.zeros((len(schema.classes), 3), np.int64)  # right, said, real
        for one in found:
            for i in range(len(schema.classes)):
                counts[i] += _counts(one, i)
        return {
            name: {
                "ap": float(table[i].mean()),
                "ap50": float(table[i, 0]),
                "precision": float(counts[i, 0] / counts[i, 1]) if counts[i, 1] else 0.0,
                "recall": float(counts[i, 0] / counts[i, 2]) if counts[i, 2] else 0.0,
                "count": float(counts[i, 2]),
            }
            for i, name in enumerate(schema.classes)
            if not np.isnan(table[i, 0])
        }

    def quality(self, targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> NDArray[np.float64]:
        """F1 of the boxes meant: found are those of the right class that overlap a thing by half or more."""
        found = []
        for one in _pairs(targets, outputs, schema):
            labels = np.union1d(one.truth_class, one.box_class)
            right, said, real = sum((_counts(one, int(i)) for i in labels), np.zeros(3, np.int64))
            found.append(2 * right / (said + real) if said + real else 1.0)
        return np.asarray(found, np.float64)

    def recall(
        self, said: Sequence[Sequence[tuple[Shape, float]]], schema: LabelSchema, sizes: Sequence[tuple[int, int]]
    ) -> dict[str, NDArray[Any]]:
        """Boxes, scores and classes again; those below one half were never kept, so precision ends earlier."""
        most = max([1, *(len(shapes) for shapes in said)])
        boxes, scores = np.zeros((len(said), most, 4), np.float32), np.zeros((len(said), most), np.float32)
        classes = np.zeros((len(said), most), np.int64)
        for at, (shapes, size) in enumerate(zip(said, sizes, strict=True)):
            for i, (shape, score) in enumerate(shapes):
                bounds = _bounds(shape)
                if bounds is None or shape.label not in schema.classes:
                    continue
                boxes[at, i] = np.asarray(bounds) / (*size, *size)
                scores[at, i], classes[at, i] = score, schema.classes.index(shape.label)
        return {BOXES: boxes, SCORES: scores, CLASSES: classes}

    def agreement(self, left: Arrays, right: Arrays, schema: LabelSchema) -> float:
        """Share of boxes meant that both models give (same class, overlap of half or more), the mean over the images.

        Not the share of images on which all boxes are the same: in a picture of twenty things one box always lies so
        near to one half that the smallest change of the model turns it.
        """
        ours, theirs = (_answers(outputs, schema) for outputs in (left, right))
        if len(ours) != len(theirs) or not len(ours):
            raise Invalid("answers to compare", "of the same items, at least one", f"{len(ours)} and {len(theirs)}")
        return float(np.mean([_alike(a, b) for a, b in zip(ours, theirs, strict=True)]))


def sharpening(outputs: Arrays, targets: NDArray[Any]) -> float:
    """The power to raise scores to so that one half is where these answers are best cut (by F1); the order stays."""
    labels = 1 + int(max(targets[..., LABEL].max(initial=0), outputs[CLASSES].max(initial=0)))
    found = _pairs(targets, outputs, LabelSchema(classes=tuple(f"class {i}" for i in range(labels))))
    cut = float(np.clip(Precision(found, labels).best_cut(), *CUTS))
    return float(np.log(THRESHOLD) / np.log(cut))


class _Late:
    """Precision of one range of areas, matched when it is asked for: a training never does."""

    def __init__(self, found: Sequence[Found], classes: int, area: str) -> None:
        self._found, self._classes, self._area = found, classes, area
        self._precision: Precision | None = None

    def __call__(self, at: NDArray[np.intp]) -> float:
        if self._precision is None:
            self._precision = Precision(self._found, self._classes, self._area)
        return self._precision.mean(at)


def _row(shape: Shape, place: dict[str, int], schema: LabelSchema, size: tuple[int, int]) -> tuple[float, ...] | None:
    """The columns of a shape but the image's size; ``None`` where it is no thing with a known class."""
    if shape.kind in regions.NOTES or not shape.label:
        return None
    if shape.label not in place:
        raise NotFound("class", shape.label, schema.classes)
    if (bounds := _bounds(shape)) is None:
        return (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    width, height = size
    left, top = max(0.0, bounds[0]), max(0.0, bounds[1])
    right, bottom = min(float(width), bounds[0] + bounds[2]), min(float(height), bounds[1] + bounds[3])
    if right <= left or bottom <= top:
        return (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    inside = (right - left) * (bottom - top)
    is_cut = abs(inside - bounds[2] * bounds[3]) > 1e-6 * inside
    area = min(inside, _area(shape, inside))
    crowd = float(bool(shape.facts.get("iscrowd", 0)))
    sides = (left / width, top / height, (right - left) / width, (bottom - top) / height)
    return (float(place[shape.label]), *sides, crowd, area, float(is_cut))


def _bounds(shape: Shape) -> tuple[float, float, float, float] | None:
    if shape.kind != "mask":
        return shape.bounds
    return mask.bounds(shape.mask, int(shape.points[0][0]))


def _area(shape: Shape, box: float) -> float:
    """Of the thing itself, in square pixels."""
    if shape.kind == "mask":
        return float(mask.area(shape.mask))
    if shape.kind in ("polygon", "obb"):
        return sum(_polygon_area(row) for row in shape.points) or box
    if shape.kind == "ellipse":
        return float(np.pi * shape.points[0][2] * shape.points[0][3])
    return box


def _polygon_area(row: tuple[float, ...]) -> float:
    x, y = np.asarray(row[::2]), np.asarray(row[1::2])
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _scaled(boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    return np.asarray(boxes.astype(np.float64) * (size[0], size[1], size[0], size[1]))


def _outputs(outputs: Arrays, schema: LabelSchema) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Boxes, scores and classes, refused where they cannot be a model's of ``schema``."""
    found = tuple(outputs.get(name) for name in (BOXES, SCORES, CLASSES))
    boxes, scores, labels = found
    if boxes is None or scores is None or labels is None:
        raise Invalid("outputs of the model", f"{BOXES}, {SCORES} and {CLASSES}", ", ".join(outputs) or "none")
    if scores.ndim != 2 or labels.shape != scores.shape or boxes.shape != (*scores.shape, 4):
        got = f"{boxes.shape}, {scores.shape}, {labels.shape}"
        raise Invalid("outputs of the model", "boxes (items, n, 4), scores and classes (items, n)", got)
    said = labels[scores > 0]
    if said.size and not (said.min() >= 0 and said.max() < len(schema.classes)):
        raise Invalid(f"output {CLASSES!r} of the model", f"0 to {len(schema.classes) - 1}", int(said.max()))
    return boxes, scores, labels


_Answer = tuple[NDArray[Any], NDArray[Any], NDArray[Any], tuple[int, int] | None]


def _answers(outputs: Arrays, schema: LabelSchema, sizes: Sizes = ()) -> list[_Answer]:
    """By item: its boxes, scores, classes (those of score 0 left out) and its image's size."""
    boxes, scores, labels = _outputs(outputs, schema)
    if sizes and len(sizes) != len(scores):
        raise Invalid("sizes of the images", f"{len(scores)}, one per item", len(sizes))
    kept = scores > 0
    return [
        (boxes[i][kept[i]], scores[i][kept[i]], labels[i][kept[i]], sizes[i] if sizes else None)
        for i in range(len(scores))
    ]


def _pairs(targets: NDArray[Any], outputs: Arrays, schema: LabelSchema) -> list[Found]:
    """By item what is there and what the model says, in pixels."""
    answers = _answers(outputs, schema)
    if targets.ndim != 3 or targets.shape[2] != 10 or len(targets) != len(answers):
        raise Invalid("targets", f"of shape ({len(answers)}, most, 10), like the model's answer", targets.shape)
    found = []
    for rows, (boxes, scores, labels, _) in zip(targets.astype(np.float64), answers, strict=True):
        size = (int(rows[0, IMAGE_WIDTH]), int(rows[0, IMAGE_HEIGHT]))
        things = rows[rows[:, LABEL] >= 0]
        found.append(
            Found(
                truth=_scaled(things[:, X : HEIGHT + 1], size),
                truth_class=things[:, LABEL].astype(np.intp),
                is_crowd=things[:, CROWD] > 0,
                area=things[:, AREA],
                boxes=_scaled(boxes, size),
                scores=scores.astype(np.float64),
                box_class=labels.astype(np.intp),
            )
        )
    return found


def _counts(one: Found, label: int) -> NDArray[np.int64]:
    """Of a class in one image: boxes that are right, boxes meant, and things; what hits a crowd does not count."""
    theirs = one.truth_class == label
    mine = (one.box_class == label) & (one.scores >= THRESHOLD)
    real, crowd = theirs & ~one.is_crowd, theirs & one.is_crowd
    boxes = one.boxes[mine]
    right = _matches(overlaps(boxes, one.truth[real], one.is_crowd[real]))
    in_crowd = (overlaps(boxes, one.truth[crowd], one.is_crowd[crowd]) >= ALIKE).any(axis=1) & ~right
    return np.array([right.sum(), len(boxes) - in_crowd.sum(), real.sum()], np.int64)


def _matches(shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows find a column of their own with an overlap of half or more; the closest pairs first."""
    found = np.zeros(len(shares), np.bool_)
    taken = np.zeros(shares.shape[1], np.bool_)
    rows, columns = np.nonzero(shares >= ALIKE)
    for i in np.argsort(-shares[rows, columns], kind="stable"):
        if not found[rows[i]] and not taken[columns[i]]:
            found[rows[i]] = taken[columns[i]] = True
    return found


def _alike(left: _Answer, right: _Answer) -> float:
    """F1 of two models' boxes for one image."""
    a, b = (side[0][side[1] >= THRESHOLD].astype(np.float64) for side in (left, right))
    ours, theirs = (side[2][side[1] >= THRESHOLD] for side in (left, right))
    hits = 0
    for label in np.intersect1d(ours, theirs):
        some, others = a[ours == label], b[theirs == label]
        hits += int(_matches(overlaps(some, others, np.zeros(len(others), np.bool_))).sum())
    return 2 * hits / (len(a) + len(b)) if len(a) + len(b) else 1.0


plugins.add("task.object-detection")(Detection("object-detection", regions.PLACES))
