"""A frozen version as the stages after ``data`` read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Rule, learnable
from loopworks.core.values import LabelSchema
from loopworks.data.version import Version


@dataclass(frozen=True, slots=True)
class VersionSource:
    """A version as the stages after ``data`` read it."""

    version: Version

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

    @property
    def typical_size(self) -> tuple[int, int]:
        """Median width and height of the images, in pixels."""
        rows = self.version.rows("train")
        return int(median(row.width for row in rows)), int(median(row.height for row in rows))

    def inputs(self, rule: Rule, split: str, progress: Callable[[float, str], None] | None = None) -> Arrays:
        """A split's items by the rule."""

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(done / max(total, 1), f"reading {split}")

        return self.version.inputs(rule, split, tell)

    def targets(self, split: str) -> NDArray[Any]:
        """A split's labels."""
        return self.version.targets(split)

    def facts(self, split: str) -> list[dict[str, Any]]:
        """What is known of each item beside its label."""
        return [
            {
                "item": row.item_id,
                "name": row.name,
                "width": row.width,
                "height": row.height,
                "tags": row.tags,
                **row.attributes,
            }
            for row in self.version.rows(split)
        ]

    def texts(self, split: str) -> list[str]:
        """A split's texts."""
        return [row.text for row in self.version.rows(split)]
