"""A small residual network that learns from random weights: the recipe for small images and for machines offline."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.data.source import Sized, Source
from loopworks.train.contracts import Draw, Lesson, Made
from loopworks.train.images import SHORT_S, TINY_PX, ClassFit, Net, augmentation, channel_stats, learn

NAME = "train.small-cnn"
TINY_SIZE, USUAL_SIZE = 32, 96
LARGER = (128, 160, 224)
"""Sizes that a long budget may take instead: 224 pixels gave 2.8 points more than 96 on photographs of waste
(benchmarks/LOG.md), at five times the work."""
EPOCHS, ITEM_S = 60, 2.5e-3
"""How often each image should be seen at least, and what that costs at 96 pixels on two cores, with its share of
validation."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class SmallCnn(ClassFit):
    """A compact residual network from random weights: seconds on two cores for small images."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})

    width: Annotated[int, Field(ge=4, le=256)] = 16
    """Channels of the first stage; each further stage has twice as many."""
    blocks: Annotated[int, Field(ge=1, le=8)] = 1
    """Residual blocks per stage."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the features that is left out before the last layer while training."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """Made for small images and for little time."""
        if is_tiny(source):
            return 0.9, f"images of at most {TINY_PX} pixels"
        if budget_s is not None and budget_s < SHORT_S:
            return 0.9, f"a budget under {SHORT_S:.0f} s"
        return 0.6, "no pretrained weights in the cache"

    @classmethod
    def space(cls, draw: Draw, source: Source) -> Mapping[str, Any]:
        """Width, size of the images, rate, regularization and augmentation."""
        usual = TINY_SIZE if is_tiny(source) else USUAL_SIZE
        return {
            "width": draw.choice("width", (8, 16, 24, 32)),
            "image_size": draw.choice("image_size", (usual * 3 // 4, usual, usual * 3 // 2)),
            "rate": draw.number("rate", 1e-3, 2e-2, log=True),
            "weight_decay": draw.number("weight_decay", 1e-3, 0.2, log=True),
            "dropout": draw.number("dropout", 0.0, 0.3),
            "smoothing": draw.number("smoothing", 0.0, 0.1),
            **augmentation(draw),
        }

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        size = self.image_size or size_for(source.source, source.budget_s)
        stride = 1 if size <= TINY_PX else 2
        widths = [self.width * 2**stage for stage in range(3 if stride == 1 else 4)]

        def build(classes: int, images: NDArray[np.uint8], _ctx: Context) -> Net:
            from loopworks.train.nets import CompactCnn

            mean, std = channel_stats(images)
            network = CompactCnn(classes, widths, stride, self.blocks, self.dropout)
            return Net(network=network, mean=mean, std=std, head="head")

        params = replace(self, image_size=size)
        return learn(source, ctx, params, NAME, build, params.objective)


def size_for(source: Source, budget_s: float | None) -> int:
    """Height and width that the images are learnt at: the largest that the budget can afford, not above their own."""
    if is_tiny(source):
        return TINY_SIZE
    own = max(source.typical_size) if isinstance(source, Sized) else USUAL_SIZE
    affordable = 0.0 if budget_s is None else budget_s / (EPOCHS * ITEM_S * source.counts["train"])
    fit = (size for size in LARGER if size <= own and (size / USUAL_SIZE) ** 2 <= affordable)
    return max(fit, default=USUAL_SIZE)


def is_tiny(source: Source) -> bool:
    """Whether the source says that its images are at most 48 pixels high and wide."""
    return isinstance(source, Sized) and max(source.typical_size) <= TINY_PX
