"""What is looked at of inputs and answers when they are compared with the training data: columns, and points.

Everything is read from what the model itself takes (packed tensors) and gives, so that all ways of asking count alike.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.row import FEATURES, RowRule
from loopworks.core.values import Shape
from loopworks.data.features.images import FACTS

IMAGE_SIDE = 64
"""Images are compared at this size in pixels: it must be a multiple of 16."""
MOST_DIMS = 64
CLIP = 8.0
"""Standard deviations at which a column of a row's point ends: one outlier must not be all that there is."""
NAMELESS = "(none)"
_BY_NATURE = ("days", "year")
"""Parts of a moment that always move on."""

Said = Sequence[tuple[Shape, float]]


@dataclass(frozen=True, slots=True)
class Traits:
    """Some items as columns and points, in one order."""

    numbers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Column -> values, NaN where missing."""
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Column -> values, empty where missing."""
    points: NDArray[np.float32] | None = None
    """One row per item, not scaled yet."""
    marks: NDArray[np.bool_] | None = None
    """Of texts: which hashed pieces of words each has, shape ``(items, pieces)``."""

    @property
    def count(self) -> int:
        """Items."""
        columns: list[Any] = [*self.numbers.values(), *self.categories.values()]
        return len(columns[0]) if columns else 0


def of_inputs(rule: Rule, inputs: Arrays) -> Traits:
    """Packed tensors as columns and points."""
    if isinstance(rule, RowRule):
        return _of_rows(rule, inputs)
    if rule.media == "image":
        return _of_images(next(iter(inputs.values())))
    return _of_texts(texts(inputs))


def of_answers(said: Sequence[Said]) -> Traits:
    """Answers as columns: which class, or which number, or how many objects; and how sure."""
    numbers: dict[str, NDArray[np.float64]] = {}
    categories: dict[str, list[str]] = {}
    kinds = {shape.kind for shapes in said for shape, _ in shapes}
    if kinds == {"value"}:
        numbers["answer"] = np.array([_value(shapes) for shapes in said], np.float64)
        return Traits(numbers)
    if kinds - {"class"}:
        numbers["objects"] = np.array([len(shapes) for shapes in said], np.float64)
        most = [Counter(shape.label for shape, _ in shapes).most_common(1) for shapes in said]
        categories["most objects"] = [found[0][0] if found else NAMELESS for found in most]
    else:
        categories["answer"] = [answer_text(shapes) or NAMELESS for shapes in said]
    numbers["confidence"] = np.array([confidence(shapes) for shapes in said], np.float64)
    return Traits(numbers, categories)


def answers(bundle: Bundle, outputs: Arrays, ref: str, sizes: Sequence[tuple[int, int]] = ()) -> list[Said]:
    """A model's output tensors as shapes with their confidence."""
    task: Learnable = plugins.get(f"task.{bundle.task}")
    return list(task.labels(outputs, bundle.schema, ref, sizes))


def answer_text(said: Said) -> str:
    """An answer in one line: classes, a number, or how many objects of each class."""
    shapes = [shape for shape, _ in said]
    if any(shape.kind == "value" for shape in shapes):
        return repr(_value(said))
    if all(shape.kind == "class" for shape in shapes):
        return "|".join(sorted(shape.label for shape in shapes))
    counts = Counter(shape.label for shape in shapes)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def confidence(said: Said) -> float:
    """Of the least sure part of an answer, in 0..1; 0 where nothing was answered."""
    return min((score for _, score in said), default=0.0)


def _value(said: Said) -> float:
    return float(said[0][0].facts["value"]) if said else float("nan")


def texts(inputs: Arrays) -> list[str]:
    """The texts in a packed tensor."""
    found = next(iter(inputs.values())).ravel().tolist()
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in found]


def rows_of(rule: RowRule, inputs: Arrays) -> list[dict[str, Any]]:
    """Packed tensors as rows: column -> number or text, ``None`` where missing."""
    cells: dict[str, list[Any]] = {}
    for column in rule.columns:
        told = inputs[column.name].ravel().tolist()
        cells[column.name] = [_cell(value) for value in told]
    count = len(next(iter(cells.values())))
    return [{name: values[i] for name, values in cells.items()} for i in range(count)]


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") or None
    return None if isinstance(value, float) and value != value else value


def _of_rows(rule: RowRule, inputs: Arrays) -> Traits:
    numbers: dict[str, NDArray[np.float64]] = {}
    categories: dict[str, Sequence[str]] = {}
    matrix = rule.encode(inputs)[FEATURES]
    place = {name: at for at, name in enumerate(rule.features)}
    for column in rule.columns:
        raw = inputs[column.name].ravel()
        if column.kind == "category":
            categories[column.name] = [_decoded(value) for value in raw.tolist()]
        elif column.kind == "text":
            numbers[f"{column.name} (characters)"] = np.array([len(_decoded(v)) for v in raw.tolist()], np.float64)
        elif column.kind == "moment":
            for part in column.parts:
                if part not in _BY_NATURE:
                    name = f"{column.name}.{part}"
                    numbers[name] = matrix[:, place[name]].astype(np.float64)
        else:
            numbers[column.name] = raw.astype(np.float64)
    still = [at for name, at in place.items() if not name.endswith(tuple(f".{part}" for part in _BY_NATURE))]
    return Traits(numbers, categories, matrix[:, still])


def _decoded(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _of_images(pixels: NDArray[np.uint8]) -> Traits:
    from PIL import Image

    small = np.empty((len(pixels), IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    for row, one in zip(small, pixels, strict=True):
        row[:] = np.asarray(Image.fromarray(np.asarray(one, np.uint8)).resize((IMAGE_SIDE, IMAGE_SIDE), reducing_gap=2))
    found = plugins.get("feature.look")().describe(small)
    facts = found[:, : len(FACTS)].astype(np.float64)
    return Traits({name: facts[:, at] for at, name in enumerate(FACTS)}, {}, found[:, len(FACTS) :])


def _of_texts(found: Sequence[str]) -> Traits:
    numbers = {
        "characters": np.array([len(text) for text in found], np.float64),
        "words": np.array([len(text.split()) for text in found], np.float64),
        "letters share": np.array([_share(text) for text in found], np.float64),
    }
    points = np.asarray(plugins.get("feature.words")().describe(found), np.float32)
    return Traits(numbers, {}, points, points != 0)


def _share(text: str) -> float:
    return sum(char.isalpha() for char in text) / max(1, len(text))


@dataclass(frozen=True, slots=True)
class Scale:
    """How raw points are made comparable: standardized and, where there are many columns, projected at random.

    Source of the projection: Achlioptas 2003, "Database-friendly random projections".
    """

    middle: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def fit(cls, points: NDArray[np.float32], *, is_scaled: bool) -> "Scale":
        """The scale of these points; ``is_scaled``: descriptors, which are of one scale already."""
        if is_scaled:
            return cls(np.zeros(points.shape[1], np.float32), np.ones(points.shape[1], np.float32))
        finite = np.where(np.isfinite(points), points.astype(np.float64), np.nan)
        known = np.isfinite(finite)
        count = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, finite, 0.0)
        middle = filled.sum(axis=0) / count
        spread = np.sqrt((np.where(known, finite - middle, 0.0) ** 2).sum(axis=0) / count)
        return cls(middle.astype(np.float32), np.where(spread > 0, spread, 1.0).astype(np.float32))

    def apply(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points of at most ``MOST_DIMS`` dimensions; a missing value is the mean."""
        scaled = np.clip((points - self.middle) / self.spread, -CLIP, CLIP)
        scaled = np.where(np.isfinite(scaled), scaled, 0.0).astype(np.float32)
        width = scaled.shape[1]
        if width <= MOST_DIMS:
            return np.asarray(scaled, np.float32)
        signs = np.random.default_rng(width).choice(np.array([-1.0, 1.0], np.float32), (width, MOST_DIMS))
        return np.asarray(scaled @ signs / np.sqrt(np.float32(MOST_DIMS)), np.float32)
