"""What a descriptor of items promises: plug-ins named ``feature.NAME`` that turn an item into a row of numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from loopworks.core.values import ImageRule, Problem

Batch = NDArray[Any] | Sequence[str]
"""Images as uint8 of shape ``(n, height, width, 3)`` by the descriptor's rule, or texts."""


class Descriptor(Protocol):
    """Turns items into rows of numbers: alike items, near rows. Pure: the same item always gives the same row."""

    @property
    def key(self) -> str:
        """Name and parameters as a file name; another key where the same item would give another row."""

    @property
    def title(self) -> str:
        """What to call it before people, in a few words."""

    @property
    def rule(self) -> ImageRule | None:
        """How images are decoded for it; ``None``: it describes texts."""

    @property
    def width(self) -> int:
        """Numbers in a row."""

    @property
    def dtype(self) -> str:
        """NumPy type of the numbers: float32, or uint8."""

    def describe(self, batch: Batch, /) -> NDArray[Any]:
        """One row for each item, shape ``(n, width)``; called from several threads."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of some items, in the order they were asked for; items that could not be read are left out."""

    ids: tuple[str, ...]
    values: NDArray[Any]
    """Shape ``(len(ids), width)``; mapped from a file where it is large."""
    problems: Mapping[str, Problem]
    """Item id -> why there is no row for it."""
