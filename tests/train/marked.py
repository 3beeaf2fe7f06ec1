"""Images in memory of which more is known than their label: for slices, mistakes and searches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.data.source import Progress


@dataclass(frozen=True, kw_only=True)
class Marked:
    """Images of one size with multi-hot targets and facts, by split; keeps what it was asked for."""

    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[np.float32]]
    known: Mapping[str, Sequence[Mapping[str, Any]]]
    schema: LabelSchema
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.image-classification"))
    asked: list[tuple[str, str]] = field(default_factory=list, compare=False)

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(images) for split, images in self.images.items()}

    @property
    def typical_size(self) -> tuple[int, int]:
        height, width = self.images["train"].shape[1:3]
        return width, height

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        assert isinstance(rule, ImageRule)
        self.asked.append(("inputs", split))
        size = (rule.width, rule.height)
        pixels = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in self.images[split]]
        return {"image": np.stack(pixels)}

    def targets(self, split: str) -> NDArray[np.float32]:
        self.asked.append(("targets", split))
        return self.labels[split]

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        self.asked.append(("facts", split))
        return self.known[split]


def marked(train: int = 24, val: int = 24, test: int = 48, *, size: int = 16, noise: int = 60) -> Marked:
    """Noise with a patch whose place, one of three, is the class; ``light`` and ``site`` are known of each."""
    rng = np.random.default_rng(0)
    images, labels, known = {}, {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        if not count:
            continue
        picks = np.eye(3, dtype=np.float32)[np.arange(count) % 3]
        pictures = rng.integers(0, noise, (count, size, size, 3), dtype=np.uint8)
        step = size // 3
        for picture, row in zip(pictures, picks, strict=True):
            at = int(row.argmax())
            picture[at * step : at * step + step, 2:-2] = 220
        images[split], labels[split] = pictures, picks
        known[split] = [
            {"item": f"{split}{i:03}", "name": f"{split} {i}", "site": "north" if i % 2 else "south", "light": i / 10}
            for i in range(count)
        ]
    return Marked(
        images=images, labels=labels, known=known, schema=LabelSchema(classes=("place 0", "place 1", "place 2"))
    )
