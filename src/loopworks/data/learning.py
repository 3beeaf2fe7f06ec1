"""A frozen version as the stages after ``data`` read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule, learnable
from loopworks.core.values import LabelSchema
from loopworks.data.source import Source
from loopworks.data.tables.version import TableVersion
from loopworks.data.version import Version


@dataclass(frozen=True, slots=True)
class VersionSource:
    """A version as the stages after ``data`` read it."""

    version: Version
    _targets: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Id of the version."""
        return self.version.id

    @property
    def task(self) -> Learnable:
        """Its task kind."""
        return learnable(self.version.task)

    @property
    def schema(self) -> LabelSchema:
        """Its classes."""
        return self.version.schema

    @property
    def counts(self) -> Mapping[str, int]:
        """Split -> items."""
        return dict(self.version.counts["by_split"])

    def inputs(self, rule: Rule, split: str, progress: Callable[[float, str], None] | None = None) -> Arrays:
        """A split's items by the rule."""

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(done / max(total, 1), f"reading {split}")

        return self.version.inputs(rule, split, tell)

    def targets(self, split: str) -> NDArray[Any]:
        """A split's labels; made once, since masks take long to paint."""
        if split not in self._targets:
            self._targets[split] = self.version.targets(split)
        return self._targets[split]

    def facts(self, split: str) -> list[dict[str, Any]]:
        """What is known of each item beside its label."""
        return [
            {
                **row.attributes,
                "item": row.item_id,
                "name": row.name,
                "width": row.width,
                "height": row.height,
                "tags": row.tags,
            }
            for row in self.version.rows(split)
        ]


@dataclass(frozen=True, slots=True)
class Pictures(VersionSource):
    """A version of images."""

    @property
    def typical_size(self) -> tuple[int, int]:
        """Median width and height of the images, in pixels."""
        rows = self.version.rows("train")
        return int(median(row.width for row in rows)), int(median(row.height for row in rows))


@dataclass(frozen=True, slots=True)
class Writings(VersionSource):
    """A version of texts."""

    def texts(self, split: str) -> list[str]:
        """A split's texts."""
        return [row.text for row in self.version.rows(split)]


def source_of(version: Version) -> Source:
    """The version as its medium has it: what a source offers says what recipes may ask of it."""
    if isinstance(version, TableVersion):
        return version.source()
    return Pictures(version) if version.task.media == "image" else Writings(version)
