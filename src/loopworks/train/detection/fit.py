"""What every recipe that trains a detector has in common: parameters, the input's shape, notes on the data."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from loopworks.core.values import ImageRule
from loopworks.data.source import Sized, Source
from loopworks.tasks import detection as task
from loopworks.train.contracts import Made
from loopworks.train.images import ImageFit

STEP = 32
"""Sides of the input are multiples of it, in pixels: the coarsest grid's stride."""
FLATTEST = 4
"""An input is at most so many times as long as it is high, or as high as it is long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFit(ImageFit):
    """Parameters of every training of a detector."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    tasks: ClassVar[frozenset[str]] = frozenset({"object-detection"})
    """Task kinds that the recipe learns."""

    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    """Longer side of the input in pixels, rounded to a multiple of 32; the shorter follows the images' usual shape.

    0 chooses by the data.
    """
    fit: Literal["stretch"] = "stretch"
    """Images are stretched to the input, which has their usual shape: so boxes need no images' sizes."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest random move of an image along each axis, as a share of its side."""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.3
    """Largest random change of size, as a share."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest random turn, in degrees; boxes grow to hold the turned thing."""
    light: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest random change of brightness and contrast, as a share."""
    flip: Literal["none", "horizontal", "both"] = "horizontal"
    """Random mirroring; none where a mirrored thing is of another class (arrows, letters)."""

    def rule(self, source: Source) -> ImageRule:
        """As long as ``image_size`` says, and of the images' usual shape."""
        width, height = source.typical_size if isinstance(source, Sized) else (1, 1)
        share = min(width, height) / max(width, height, 1) if min(width, height) else 1.0
        long = _stepped(self.image_size)
        short = max(_stepped(share * self.image_size), STEP * -(-long // (FLATTEST * STEP)))
        return ImageRule(height=short, width=long) if width >= height else ImageRule(height=long, width=short)


def _stepped(side: float) -> int:
    return max(STEP, round(side / STEP) * STEP)


def told(made: Made, source: Source) -> Made:
    """The same with notes on boxes that were cut or left out."""
    rows = source.targets("train")
    mended = rows[rows[..., task.MENDED] > 0]
    cut = int((mended[:, task.LABEL] >= 0).sum())
    notes = []
    if cut:
        notes.append(f"{cut} boxes of the train split reach beyond their image and were cut")
    if gone := len(mended) - cut:
        notes.append(f"{gone} boxes of the train split have no size inside their image and were left out")
    return replace(made, notes=(*made.notes, *notes))
