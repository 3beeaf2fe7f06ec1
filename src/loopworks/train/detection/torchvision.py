"""Detectors of torchvision: fine-tuned from pretrained weights where they can be had, else from random ones."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Missing
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train import weights
from loopworks.train.contracts import Lesson, Made
from loopworks.train.detection.fit import DetectionFit, told
from loopworks.train.images import Net, channel_stats, learn, load_libraries

if TYPE_CHECKING:
    from loopworks.train.augment import Augment
    from loopworks.train.loop import Objective

NAME = "train.torchvision-detector"
USUAL_SIZE = 512
REACH_PX = 16
"""As of ``small.REACH_PX``; these pyramids begin at stride 8 or 16."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""What the published weights were trained with, in 0..255."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchvisionDetector(DetectionFit):
    """A one-stage detector of torchvision (FCOS, RetinaNet, SSDlite), pretrained where its weights are in reach."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    steps: ClassVar[int] = 1000

    detector: Literal["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"] = (
        "ssdlite320_mobilenet_v3_large"
    )
    """Which; those on ResNet-50 need a GPU to learn within an hour. Detectors of two stages cannot be exported."""
    weights: str = "auto"
    """auto: cached or downloaded if they can be reached, else random; random; or a .safetensors file."""
    rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    """Highest learning rate, no unit."""
    batch: Annotated[int, Field(ge=0, le=4096)] = 8
    """Images per step; 0 is 16 below 512 training images, else 32."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """Below the small detector: strong where published weights fit and there is time."""
        return 0.3, "it needs published weights and time"

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        load_libraries()
        try:
            import torchvision  # noqa: F401
        except ImportError:
            raise Missing("torchvision", "train", "its detectors") from None
        size = self.image_size or (320 if self.detector.startswith("ssdlite") else USUAL_SIZE)
        params = replace(self, image_size=size)
        rule = params.rule(source.source)
        from loopworks.train.detection.heads import CLASS_LAYERS, Heads, create

        built: list[Heads] = []

        def build(classes: int, images: NDArray[np.uint8], ctx: Context) -> Net:
            path, why = self._file(ctx)
            mean, std = channel_stats(images)
            if path is not None and path.suffix != ".safetensors":
                mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
            notes = (
                f"{self.detector} began from " + (f"weights of {path.name}" if path else f"random weights: {why}"),
            )
            network = Heads(create(self.detector, classes, path), rule.height, rule.width)
            built.append(network)
            return Net(network=network, mean=mean, std=std, head=CLASS_LAYERS[self.detector], notes=notes)

        def objective(augment: "Augment", _source: Source) -> "Objective":
            from loopworks.train.detection.dense import Dense

            return Dense(augment, built[0].get_buffer("places"), REACH_PX / max(rule.height, rule.width))

        return told(learn(source, ctx, params, NAME, build, objective), source.source)

    def _file(self, ctx: Context) -> tuple[Path | None, str]:
        """The file of weights to begin from, or why there is none."""
        from loopworks.train.detection.heads import cached, published

        if self.weights == "random":
            return None, "asked for"
        if self.weights == "auto":
            return weights.fetch(published(self.detector), cached(self.detector), ctx)
        return weights.local(Path(self.weights)), ""
