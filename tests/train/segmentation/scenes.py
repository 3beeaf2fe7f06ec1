"""Pictures with coloured things on a ground, and a source of them in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loopworks.core import mask
from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema, Shape
from loopworks.data.source import Progress

SCHEMA = LabelSchema(classes=("disc", "bar"))
COLORS = np.array([(200, 60, 50), (50, 80, 210)])


def scene(seed: int, width: int = 96, height: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy picture with a red disc and a blue bar, and its classes (2: neither)."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:height, :width]
    classes = np.full((height, width), 2, np.uint8)
    cx, cy, radius = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height, rng.uniform(0.15, 0.3) * height
    classes[(xs - cx) ** 2 + (ys - cy) ** 2 < radius**2] = 0
    left = int(rng.uniform(0.05, 0.75) * width)
    classes[:, left : left + max(3, width // 8)] = 1
    picture = np.broadcast_to(rng.integers(90, 140, 3), (height, width, 3)).astype(float)
    picture = np.where((classes < 2)[..., None], COLORS[np.minimum(classes, 1)], picture)
    return np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8), classes


def shapes(classes: NDArray[np.uint8], names: Sequence[str] = SCHEMA.classes) -> tuple[Shape, ...]:
    size = ((float(classes.shape[0]), float(classes.shape[1])),)
    texts = mask.encode_classes(classes)
    return tuple(
        Shape(label=name, kind="mask", points=size, mask=texts[i]) for i, name in enumerate(names) if i in texts
    )


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """A source of pictures of one size each, with masks."""

    pictures: Mapping[str, Sequence[NDArray[np.uint8]]]
    labels: Mapping[str, Sequence[tuple[Shape, ...]]]
    schema: LabelSchema = SCHEMA
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.semantic-segmentation"))

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(found) for split, found in self.pictures.items()}

    @property
    def typical_size(self) -> tuple[int, int]:
        height, width = np.median([picture.shape[:2] for picture in self.pictures["train"]], axis=0)
        return int(width), int(height)

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        assert isinstance(rule, ImageRule)
        if progress is not None:
            progress(0.0, f"decode {split}")
        size = (rule.width, rule.height)
        found = [Image.fromarray(x).resize(size, Image.Resampling.BILINEAR) for x in self.pictures[split]]
        return {"image": np.stack([np.asarray(x) for x in found])}

    def targets(self, split: str) -> NDArray[Any]:
        sizes = [(picture.shape[1], picture.shape[0]) for picture in self.pictures[split]]
        return self.task.targets(self.labels[split], self.schema, sizes)

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": f"{split} {place}"} for place in range(len(self.pictures[split]))]


def scenes(
    train: int = 16,
    val: int = 6,
    test: int = 6,
    *,
    sizes: Sequence[tuple[int, int]] = ((96, 64),),
    schema: LabelSchema = SCHEMA,
) -> Scenes:
    """Splits of scenes; a count of 0 leaves the split out; sizes (width, height) are taken in turn."""
    made = {
        split: [scene(1000 * place + i, *sizes[i % len(sizes)]) for i in range(count)]
        for place, (split, count) in enumerate((("train", train), ("val", val), ("test", test)))
        if count
    }
    return Scenes(
        pictures={split: [picture for picture, _ in found] for split, found in made.items()},
        labels={split: [shapes(classes, schema.classes) for _, classes in found] for split, found in made.items()},
        schema=schema,
    )
