"""A small encoder and decoder that learns from random weights: the recipe for machines offline."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train.contracts import Lesson, Made
from loopworks.train.images import Net, channel_stats, learn
from loopworks.train.segmentation.fit import SegmentFit, notes

NAME = "train.small-segmenter"
WIDER = (1, 2, 4, 6, 8)
"""Channels of the stem and the stages, as multiples of the first."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class SmallSegmenter(SegmentFit):
    """A compact encoder and decoder from random weights: street scenes in some minutes on two cores."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    width: Annotated[int, Field(ge=4, le=256)] = 16
    """Channels of the first layer; the stages have 2, 4, 6 and 8 times as many."""
    blocks: Annotated[int, Field(ge=1, le=8)] = 2
    """Residual blocks per stage."""
    decoder: Annotated[int, Field(ge=8, le=512)] = 48
    """Channels of the decoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the features that is left out before the last layer while training."""

    @classmethod
    def fitness(cls, _source: Source, _budget_s: float | None) -> tuple[float, str]:
        """What there is where nothing pretrained is at hand."""
        return 0.5, "no pretrained weights are needed"

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        params = self.sized(source)

        def build(_classes: int, images: NDArray[np.uint8], _ctx: Context) -> Net:
            from loopworks.train.segmentation.nets import CompactSegmenter
            from loopworks.train.segmentation.objective import channel_count

            mean, std = channel_stats(images)
            widths = [self.width * times for times in WIDER]
            network = CompactSegmenter(
                channel_count(source.source.schema), widths, self.blocks, self.decoder, self.dropout
            )
            return Net(network=network, mean=mean, std=std, head="head", notes=notes(source.source))

        return learn(source, ctx, params, NAME, build, params.objective)
