"""What every recipe has in common that learns of which class every pixel is."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from loopworks.core.values import ImageRule
from loopworks.data.source import Sized, Source
from loopworks.tasks import segmentation as task
from loopworks.train.contracts import Lesson
from loopworks.train.images import ImageFit

if TYPE_CHECKING:
    from loopworks.train.augment import Augment
    from loopworks.train.loop import Objective

USUAL_PX, HASTY_PX, LEAST_PX = 480, 256, 64
HASTY_S = 60.0
"""A budget under which images are made smaller, so that some epochs fit into it."""
MULTIPLE = 32
"""Sides are multiples of it, since networks halve them five times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFit(ImageFit):
    """Parameters of every training of a network that says of which class every pixel is."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    tasks: ClassVar[frozenset[str]] = frozenset({"semantic-segmentation"})
    steps: ClassVar[int] = 1000

    image_size: Annotated[int, Field(ge=0, le=2048)] = 0
    """Longer side of the network's input, in pixels; the shorter one as the typical image has it. Both become multiples
    of 32. 0: 480, or less where the images or the budget are small."""
    fit: Literal["stretch"] = "stretch"
    """Images are stretched to the input, so that a pixel's place in the answer is its place in the image."""
    batch: Annotated[int, Field(ge=0, le=4096)] = 8
    """Images per step; 0 is 16 below 512 training images, else 32."""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.3
    """Largest random change of size, as a share."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 5.0
    """Largest random turn, in degrees."""
    light: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest random change of brightness and contrast, as a share."""
    flip: Literal["none", "horizontal", "both"] = "horizontal"
    """Random mirroring; not where left and right are different classes."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.4
    """How much more pixels of rare classes weigh: 0 weighs every pixel alike, 1 every class."""
    overlap: Annotated[float, Field(ge=0, le=10)] = 0.5
    """Weight of the overlap of each class (Dice) in the loss, beside cross entropy; no unit."""

    def rule(self, source: Source) -> ImageRule:
        """The input has the shape of the typical image."""
        width, height = source.typical_size if isinstance(source, Sized) else (1, 1)
        scale = self.image_size / max(width, height)
        sides = [max(LEAST_PX, MULTIPLE * round(side * scale / MULTIPLE)) for side in (height, width)]
        return ImageRule(height=sides[0], width=sides[1], fit=self.fit)

    def sized(self, lesson: Lesson) -> "SegmentFit":
        """The same with the image's size chosen."""
        if self.image_size:
            return self
        most = HASTY_PX if lesson.budget_s is not None and lesson.budget_s < HASTY_S else USUAL_PX
        typical = max(lesson.source.typical_size) if isinstance(lesson.source, Sized) else most
        return replace(self, image_size=max(LEAST_PX, min(most, MULTIPLE * round(typical / MULTIPLE))))

    def objective(self, augment: "Augment", source: Source) -> "Objective":
        """The class of every pixel."""
        from loopworks.train.segmentation.objective import Masks, class_weights

        rule = self.rule(source)
        weights = class_weights(source.targets("train"), source.schema, self.balance)
        return Masks(augment, source.schema, weights, (rule.height, rule.width), self.overlap)


def notes(source: Source) -> tuple[str, ...]:
    """What a user must know of every such model."""
    return (task.uncovered(source.schema),)
