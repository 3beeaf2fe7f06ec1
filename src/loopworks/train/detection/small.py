"""A small detector that learns from random weights: the recipe for two cores and for machines offline."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.data.source import Sized, Source
from loopworks.train.contracts import Lesson, Made
from loopworks.train.detection.fit import DetectionFit, told
from loopworks.train.images import Net, channel_stats, learn

if TYPE_CHECKING:
    from loopworks.train.augment import Augment
    from loopworks.train.loop import Objective

NAME = "train.small-detector"
USUAL_SIZE = 320
REACH_PX = 8
"""Things smaller than twice this are searched for as if they were so large, in pixels of the input."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDetector(DetectionFit):
    """A compact detector from random weights: useful in minutes on two cores for things that look alike."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    steps: ClassVar[int] = 3000

    width: Annotated[int, Field(ge=4, le=128)] = 16
    """Channels at half the input's size; each further stage has up to twice as many."""
    blocks: Annotated[int, Field(ge=1, le=8)] = 2
    """Residual blocks per stage."""
    rate: Annotated[float, Field(gt=0, le=1)] = 3e-3
    """Highest learning rate, no unit."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """Learns from few images and in little time."""
        return 0.5, "it learns from random weights on few cores"

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        params = replace(self, image_size=self.image_size or _usual(source.source))
        rule = params.rule(source.source)

        def build(classes: int, images: NDArray[np.uint8], _ctx: Context) -> Net:
            from loopworks.train.detection.nets import SmallDetector as Network

            mean, std = channel_stats(images)
            widths = [self.width, 2 * self.width, 4 * self.width, 8 * self.width, 8 * self.width]
            network = Network(classes, rule.height, rule.width, widths, self.blocks, 4 * self.width)
            return Net(network=network, mean=mean, std=std, head="head")

        def objective(augment: "Augment", _source: Source) -> "Objective":
            from loopworks.train.detection.dense import Dense
            from loopworks.train.detection.nets import STRIDES, grid_places

            places = grid_places([(rule.height // stride, rule.width // stride) for stride in STRIDES])
            return Dense(augment, places, REACH_PX / max(rule.height, rule.width))

        return told(learn(source, ctx, params, NAME, build, objective), source.source)


def _usual(source: Source) -> int:
    """Small images keep their size."""
    longest = max(source.typical_size) if isinstance(source, Sized) else USUAL_SIZE
    return min(USUAL_SIZE, max(32, longest))
