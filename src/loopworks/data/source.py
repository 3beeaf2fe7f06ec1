"""What the later stages read: items of a version as arrays, split by split, whatever their medium."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule
from loopworks.core.values import LabelSchema

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[float, str], None]
"""Takes the share done in 0..1 and a short text; may raise ``Cancelled``."""


class Source(Protocol):
    """Labeled items of a frozen version, as the stages after ``data`` see them; every split in a fixed order."""

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

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        """The split's items, packed by the rule: what clients of the model would send."""

    def targets(self, split: str) -> NDArray[Any]:
        """The split's labels, as ``task.targets`` makes them."""

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        """What is known of each item beside its label: its id as ``item``, its ``name``, and by medium ``width``,
        ``height``, ``tags``, attributes or columns. What results are sliced by, and mistakes are shown by."""


@runtime_checkable
class Sized(Protocol):
    """A source that also knows how large its images are, before any of them is decoded."""

    @property
    def typical_size(self) -> tuple[int, int]:
        """Median width and height of the labeled images, in pixels."""


@runtime_checkable
class Texts(Protocol):
    """A source whose items are texts."""

    def texts(self, split: str) -> Sequence[str]:
        """The split's texts."""


@runtime_checkable
class Rows(Protocol):
    """A source whose items are rows of a table."""

    def rows(self, split: str) -> "pa.Table":
        """The split's rows with a known target: typed columns, without target and id."""
