"""What finds faults and likeness in a dataset: its checks, similar items, the map.

``Dataset`` inherits these, so that its own module stays readable; nothing else does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from loopworks.core import image as pictures
from loopworks.core.errors import Invalid
from loopworks.data.clean.stage import Clean
from loopworks.data.features import compute, layout, search
from loopworks.data.features.compute import Progress
from loopworks.data.features.contract import Descriptor, Rows
from loopworks.data.features.search import Hit, Models, Similar
from loopworks.store import items
from loopworks.store.datasets import DatasetRow
from loopworks.store.home import Home
from loopworks.store.items import Item

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """An item's place on the map, each axis in 0..1."""

    item: str
    name: str
    x: float
    y: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"item": self.item, "name": self.name, "x": self.x, "y": self.y}


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """Items on a plane, alike ones together, and by what they were compared."""

    descriptor: str
    spots: tuple[Spot, ...]
    unread: int
    """Items that could not be read and were left out."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"descriptor": self.descriptor, "spots": [spot.to_json() for spot in self.spots], "unread": self.unread}


class Cleaning:
    """Checks and likeness."""

    _home: Home
    _row: DatasetRow
    models: Models | None = None
    """Gives the newest model of the workspace that learnt from this dataset; set by the workspace."""

    @property
    def clean(self) -> Clean:
        """Checks of the data, what they found, and fixes."""
        return Clean(self._home, cast("Dataset", self))

    def similar(
        self,
        item: str = "",
        *,
        image: bytes | str | Path | None = None,
        text: str = "",
        k: int = 10,
        descriptor: str = "auto",
    ) -> Similar:
        """The items most like an item, an example image or a text; the answer says what they were compared by.

        Args:
            item: id, the beginning of one, or a name; it is left out of the answer itself.
            image: bytes of an image file, or its path; give one of the three.
            text: for datasets of texts.
            k: how many, at least 1.
            descriptor: auto (the newest model of this dataset, else a built-in one), model, look, near, words; or
                timm:NAME or transformers:NAME (or a folder) with weights that are on this machine.
        Raises:
            NotFound: no such item or descriptor.
            Invalid: not one of the three given, an image that cannot be read, or one for a dataset of texts.
            Unreachable: a backbone whose weights are not here.
        """
        if sum((bool(item), image is not None, bool(text))) != 1:
            raise Invalid("what to look for", "one of item, image and text", "none or several")
        if k < 1:
            raise Invalid("k", "at least 1", k)
        chosen = self._chosen(descriptor)
        found = self._describe(chosen, 0)
        everything, rows = found
        if item:
            with self._home.catalog.read() as tx:
                start = items.get(tx, self._row.id, item)
            asked = compute.rows(self._home, chosen, [start])
            if not asked.ids:
                problem = asked.problems[start.id]
                raise Invalid(start.name, "an item that can be read", problem.message, problem.hint)
            row = asked.values
        else:
            row = self._example(chosen, image, text)
            start = None
        best, scores = search.nearest(chosen, rows.values, row, k + (start is not None))
        hits = [
            Hit(item=rows.ids[at], name=everything[rows.ids[at]].name, score=round(float(score), 6))
            for at, score in zip(best, scores, strict=True)
            if start is None or rows.ids[at] != start.id
        ]
        return Similar(descriptor=chosen.title, hits=tuple(hits[:k]), unread=len(rows.problems))

    def map(self, *, descriptor: str = "auto", limit: int = 20_000, seed: int = 0) -> Map:
        """Places of the items on a plane, alike ones together: neighbours of the descriptor, laid out as in UMAP.

        Args:
            descriptor: as in ``similar``.
            limit: at most so many items, the first by name.
            seed: the same items and seed give the same map.
        """
        if limit < 1:
            raise Invalid("limit", "at least 1", limit)
        chosen = self._chosen(descriptor)
        everything, rows = self._describe(chosen, limit)
        places = layout.lay_out(search.vectors(chosen, np.asarray(rows.values)), seed=seed)
        spots = [
            Spot(item=one, name=everything[one].name, x=round(x, 5), y=round(y, 5))
            for one, (x, y) in zip(rows.ids, places.tolist(), strict=True)
        ]
        return Map(descriptor=chosen.title, spots=tuple(spots), unread=len(rows.problems))

    def embed(self, descriptor: str = "auto", *, progress: Progress | None = None) -> dict[str, Any]:
        """Compute the rows by which items are compared, where the cache has none yet, so that nobody waits for them.

        Args:
            descriptor: as in ``similar``.
            progress: takes the number of items done and of all that had to be computed.
        Returns: ``dataset``, ``descriptor``, ``items`` with a row, their ``width``, and ``unread``.
        """
        chosen = self._chosen(descriptor)
        _, rows = self._describe(chosen, 0, progress)
        return {
            "dataset": self._row.name,
            "descriptor": chosen.title,
            "items": len(rows.ids),
            "width": chosen.width,
            "unread": len(rows.problems),
        }

    def comparable(self) -> str:
        """The kind of the items, image or text; ``Invalid`` where items of the kind cannot be compared."""
        kind = cast("Dataset", self).task.media
        if kind not in ("image", "text"):
            raise Invalid("items to compare", "images or texts", f"{kind}s")
        return kind

    def _chosen(self, name: str) -> Descriptor:
        return search.choose(name, self.comparable(), self.models)

    def _describe(
        self, descriptor: Descriptor, limit: int, progress: Progress | None = None
    ) -> tuple[dict[str, Item], Rows]:
        found: dict[str, Item] = {}
        after: str | None = None
        with self._home.catalog.read() as tx:
            while not limit or len(found) < limit:
                most = min(PAGE, limit - len(found)) if limit else PAGE
                page = items.page(tx, self._row.id, limit=most, after=after)
                if not page:
                    break
                found |= {one.id: one for one in page}
                after = page[-1].id
        return found, compute.rows(self._home, descriptor, found.values(), progress)

    def _example(self, descriptor: Descriptor, image: bytes | str | Path | None, text: str) -> Any:
        if descriptor.rule is None:
            if not text:
                raise Invalid("example", "a text, as the items are texts", "an image")
            return compute.describe_batch(descriptor, [text])
        if image is None:
            raise Invalid(
                "example", "an image, as the items are images", "a text", "data search looks through captions"
            )
        if isinstance(image, bytes):
            name, content = "example", image
        else:
            from loopworks.core.content import read_file

            name, content = str(image), read_file(Path(image))
        pixels = pictures.decode(content, descriptor.rule, name, self._home.settings.max_image_pixels)
        return compute.describe_batch(descriptor, [pixels])
