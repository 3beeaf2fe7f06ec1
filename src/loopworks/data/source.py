"""What the later stages read: items of a version as arrays, split by split."""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Learnable
from loopworks.core.values import ImageRule, LabelSchema

Progress = Callable[[float, str], None]
"""Takes the share done in 0..1 and a short text; may raise ``Cancelled``."""


class Source(Protocol):
    """Labeled images of a frozen version, as the stages after ``data`` see them."""

    @property
    def id(self) -> str:
        """Id of the version: the same id, the same items, labels and splits."""

    @property
    def task(self) -> Learnable:
        """Task kind of the labels."""

    @property
    def schema(self) -> LabelSchema:
        """Classes in their order."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Split (train, val, test) -> labeled items in it; a missing split counts as none."""

    def pixels(self, rule: ImageRule, split: str, progress: Progress | None = None) -> NDArray[np.uint8]:
        """The split's images by the rule, shape ``(items, height, width, 3)``, in a fixed order."""

    def targets(self, split: str) -> NDArray[np.float32]:
        """The split's labels, shape ``(items, classes)``, in the order of ``pixels``."""


@runtime_checkable
class Sized(Protocol):
    """A source that also knows how large its images are, before any of them is decoded."""

    @property
    def typical_size(self) -> tuple[int, int]:
        """Median width and height of the labeled images, in pixels."""
