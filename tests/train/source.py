"""A source in memory: real digits, or coloured squares."""

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
class Memory:
    """Images of one size with multi-hot targets, by split."""

    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[np.float32]]
    schema: LabelSchema
    id: str = "0" * 64
    task: Learnable = field(default_factory=lambda: plugins.get("task.image-classification"))

    @property
    def counts(self) -> Mapping[str, int]:
        return {split: len(images) for split, images in self.images.items()}

    @property
    def typical_size(self) -> tuple[int, int]:
        height, width = self.images["train"].shape[1:3]
        return width, height

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        assert isinstance(rule, ImageRule)
        size = (rule.width, rule.height)
        if progress is not None:
            progress(0.0, f"decode {split}")
        pixels = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in self.images[split]]
        return {"image": np.stack(pixels)}

    def targets(self, split: str) -> NDArray[np.float32]:
        return self.labels[split]

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return [{"name": f"{split} {place}"} for place in range(len(self.images[split]))]


def squares(
    train: int = 24, val: int = 12, test: int = 12, *, classes: int = 3, size: int = 16, is_multi: bool = False
) -> Memory:
    """Noise with a patch whose place is the class; a network learns it in a few steps."""
    rng = np.random.default_rng(0)
    names = tuple(f"place {i}" for i in range(classes))
    images, labels = {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        picks = np.zeros((count, classes), np.float32)
        picks[np.arange(count), np.arange(count) % classes] = 1
        if is_multi:
            picks = np.maximum(picks, rng.integers(0, 2, picks.shape)).astype(np.float32)
        pictures = rng.integers(0, 60, (count, size, size, 3), dtype=np.uint8)
        step = size // classes
        for picture, row in zip(pictures, picks, strict=True):
            for at in np.flatnonzero(row):
                picture[at * step : at * step + step, 2:-2] = 220
        if count:
            images[split], labels[split] = pictures, picks
    return Memory(images=images, labels=labels, schema=LabelSchema(classes=names, is_multi=is_multi))


def digits(train: int = 240, val: int = 60, seed: int = 0) -> Memory:
    """scikit-learn's handwritten digits, 8 x 8 grey: ``train`` and ``val`` of them, and the rest as the test set."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.images))
    pictures = np.repeat((found.images[order] * 255 / 16).astype(np.uint8)[..., None], 3, axis=-1)
    rows = np.eye(10, dtype=np.float32)[found.target[order]]
    cuts = {"train": slice(0, train), "val": slice(train, train + val), "test": slice(train + val, None)}
    return Memory(
        images={split: pictures[cut] for split, cut in cuts.items() if len(pictures[cut])},
        labels={split: rows[cut] for split, cut in cuts.items() if len(rows[cut])},
        schema=LabelSchema(classes=tuple("0123456789")),
    )
