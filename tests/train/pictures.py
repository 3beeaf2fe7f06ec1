"""A source in memory for detectors: discs and rectangles on noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema, Shape
from loopworks.data.source import Progress

CLASSES = ("disc", "block")
COLORS = {"disc": (230, 80, 60), "block": (60, 120, 230)}


def picture(seed: int, width: int = 96, height: int = 64, most: int = 3) -> tuple[NDArray[np.uint8], list[Shape]]:
    """One picture of ``height`` x ``width`` with up to ``most`` things, and their boxes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, most + 1))):
        label = CLASSES[int(rng.integers(len(CLASSES)))]
        w, h = (int(side) for side in rng.integers(height // 4, height // 2, 2))
        if label == "disc":
            h = w
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        if any(_meets((x, y, w, h), shape.points[0]) for shape in shapes):
            continue
        (pen.ellipse if label == "disc" else pen.rectangle)((x, y, x + w - 1, y + h - 1), fill=COLORS[label])
        shapes.append(Shape(label=label, kind="box", points=((float(x), float(y), float(w), float(h)),)))
    return np.asarray(image), shapes


def _meets(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(left[i] < right[i] + right[i + 2] and right[i] < left[i] + left[i + 2] for i in (0, 1))


@dataclass(frozen=True, kw_only=True)
class Things:
    """Pictures of one size with boxes, by split."""

    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, list[list[Shape]]]
    schema: LabelSchema = LabelSchema(classes=CLASSES)
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.object-detection"))

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(images) for split, images in self.images.items()}

    @property
    def typical_size(self) -> tuple[int, int]:
        height, width = self.images["train"].shape[1:3]
        return width, height

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        assert isinstance(rule, ImageRule)
        if progress is not None:
            progress(0.0, f"decode {split}")
        size = (rule.width, rule.height)
        return {
            "image": np.stack([
                np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in self.images[split]
            ])
        }

    def targets(self, split: str) -> NDArray[Any]:
        height, width = self.images[split].shape[1:3]
        return self.task.targets(self.labels[split], self.schema, [(width, height)] * len(self.labels[split]))

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": f"{split} {i}"} for i in range(len(self.images[split]))]


def things(train: int = 24, val: int = 12, test: int = 12, **more: Any) -> Things:
    """Pictures of discs and blocks."""
    images: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, list[list[Shape]]] = {}
    for place, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        made = [picture(1000 * place + i, **more) for i in range(count)]
        if made:
            images[split], labels[split] = np.stack([one for one, _ in made]), [shapes for _, shapes in made]
    return Things(images=images, labels=labels)
