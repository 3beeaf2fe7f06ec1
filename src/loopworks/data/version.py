"""A frozen version of a dataset: what training, scoring and export read."""

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import image, turning
from loopworks.core.contracts import Arrays, Rule, Task, learnable
from loopworks.core.errors import Damaged, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema, LineageNode, Problem, Shape
from loopworks.data import exporter
from loopworks.data import media as content
from loopworks.data.exporter import ExportReport
from loopworks.store import annotations, parts, versions
from loopworks.store.blobs import write_error
from loopworks.store.home import Home
from loopworks.store.ids import canonical, sha256
from loopworks.store.items import SPLITS
from loopworks.store.lineage import Node

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Somebody, and how many labels of a version they gave."""

    author: str
    source: str
    count: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"author": self.author, "source": self.source, "count": self.count}


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One item of a version."""

    item_id: str
    name: str
    """Path as imported."""
    split: str
    shapes: tuple[Shape, ...]
    width: int
    height: int
    mime: str
    uri: str
    """Where the bytes lie that are kept by reference; empty where they are in the workspace."""
    text: str = ""
    """The item itself, where items are texts."""
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Format name -> what only that format knows of it."""
    _home: Home = field(repr=False, compare=False)

    def read(self) -> bytes:
        """The item's bytes; ``Damaged`` where a file that is kept by reference is not what it was."""
        return content.read(self._home, self.item_id, self.uri, self.name)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.item_id,
            "name": self.name,
            "split": self.split,
            "width": self.width,
            "height": self.height,
            "mime": self.mime,
            "uri": self.uri,
            "text": self.text,
            "labels": [shape.to_json() for shape in self.shapes],
            "tags": list(self.tags),
            "attributes": dict(self.attributes),
        }


class Version:
    """A dataset frozen for ever; see ``Dataset.freeze``."""

    def __init__(self, home: Home, dataset: str, row: versions.VersionRow) -> None:
        """Read the manifest of ``row``, of the dataset called ``dataset``."""
        self._home = home
        self._row = row
        self._manifest = parts.read_manifest(home.blobs, row.id)
        self.dataset = dataset

    @property
    def id(self) -> str:
        """SHA-256 of the manifest, 64 hex digits: the same content has the same id on every machine."""
        return self._row.id

    @property
    def number(self) -> int:
        """1, 2, 3 ... within the dataset."""
        return self._row.number

    @property
    def message(self) -> str:
        """What was said on freezing."""
        return self._row.message

    @property
    def author(self) -> str:
        """Who froze it."""
        return self._row.author

    @property
    def parent(self) -> str:
        """Id of the version before, or empty."""
        return self._row.parent

    @property
    def created_at(self) -> datetime:
        """When it was frozen, in UTC."""
        return self._row.created_at

    @property
    def task(self) -> Task:
        """The task kind."""
        found: Task = plugins.get(f"task.{self._manifest.task}")
        return found

    @property
    def schema(self) -> LabelSchema:
        """The classes when it was frozen."""
        return self._manifest.schema

    @property
    def counts(self) -> dict[str, Any]:
        """``items``, ``by_split``, ``by_class``, ``by_split_class`` (split -> class -> items)."""
        return dict(self._manifest.counts)

    @property
    def is_by_reference(self) -> bool:
        """Whether some bytes lie outside the workspace, where they may change or vanish."""
        return self._manifest.is_by_reference

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What training on it will suffer from: classes with one item or with none, an empty split."""
        return tuple(_problems(self._manifest))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "number": self.number,
            "dataset": self.dataset,
            "task": self._manifest.task,
            "schema": self.schema.to_json(),
            "counts": self.counts,
            "is_by_reference": self.is_by_reference,
            "message": self.message,
            "author": self.author,
            "parent": self.parent,
            "created_at": self.created_at.isoformat(),
            "problems": [problem.to_json() for problem in self.problems],
        }

    def rows(self, split: str | None = None) -> list[VersionRow]:
        """The items of one split, or of all, in order of their id.

        Raises: Damaged: a stored part is missing or not what was written.
        """
        with self._home.catalog.read() as tx:
            found = parts.rows(tx, self._home.blobs, self._manifest, _split(split))
            return [
                VersionRow(
                    item_id=row.item_id,
                    name=row.name,
                    split=row.split,
                    shapes=row.shapes,
                    width=row.width,
                    height=row.height,
                    mime=row.mime,
                    uri=row.uri,
                    text=row.text,
                    tags=row.tags,
                    attributes=row.facts,
                    extra=row.origin,
                    _home=self._home,
                )
                for row in found
            ]

    def targets(self, split: str | None = None) -> NDArray[Any]:
        """Labels in the order of ``rows``, as the task kind's training target; places where images are shown."""
        rows = self.rows(split)
        task = learnable(self.task)
        if task.media != "image":
            return task.targets([row.shapes for row in rows], self.schema)
        turns = self._turns(rows, split)
        sizes = [turning.shown_size((row.width, row.height), turn) for row, turn in zip(rows, turns, strict=True)]
        labels = [
            [turning.shown(shape, (row.width, row.height), turn) for shape in row.shapes]
            for row, turn in zip(rows, turns, strict=True)
        ]
        return task.targets(labels, self.schema, sizes)

    def inputs(self, rule: Rule, split: str | None = None, progress: Progress | None = None) -> Arrays:
        """The items in the order of ``rows``, packed by a model's rule.

        Raises: Invalid, Damaged, NoSpace: as ``pixels``.
        """
        if isinstance(rule, ImageRule):
            return {rule.inputs()[0].name: self.pixels(rule, split, progress)}
        rows = self.rows(split)
        return rule.pack([row.text for row in rows], names=[row.name for row in rows])

    def pixels(
        self, rule: ImageRule, split: str | None = None, progress: Progress | None = None, threads: int = 2
    ) -> NDArray[np.uint8]:
        """The images in the order of ``rows``, decoded by the rule, shape ``(items, height, width, 3)``.

        The array is a file in the workspace's cache, mapped into memory read-only; the second call opens it at once.

        Args:
            rule: size and fit.
            split: train, val or test; all by default.
            progress: takes the number of images done and of all.
            threads: how many decode side by side.
        Raises:
            Invalid: an image cannot be decoded; the error names it.
            Damaged: the bytes of an image are gone or changed.
            NoSpace: the cache's disk is full.
        """
        import PIL

        # Another Pillow may round another way, so its pixels are another file.
        rule_key = sha256(canonical([rule.to_json(), PIL.__version__]))[:12]
        path = self._home.cache / "pixels" / f"{self.id[:32]}-{rule_key}-{split or 'all'}.npy"
        if (ready := _open_cached(path)) is not None:
            return ready
        rows = self.rows(split)
        if not rows:
            return np.zeros((0, rule.height, rule.width, 3), np.uint8)
        self._decode(rows, rule, path, progress, threads)
        done = _open_cached(path)
        if done is None:
            raise Damaged(f"{path} must stay while it is used; got it removed", "run it again")
        return done

    def authors(self) -> list["Author"]:
        """Who said how many of the labels that the version holds, the most first."""
        said = Counter((shape.author, shape.source) for row in self.rows() for shape in row.shapes)
        return [Author(author=who, source=source, count=count) for (who, source), count in said.most_common()]

    def diff(self, other: "Version") -> parts.Diff:
        """What ``other`` has that this version has not, and the other way round (this one is the "before")."""
        with self._home.catalog.read() as tx:
            return parts.diff(tx, self._home.blobs, self._manifest, other._manifest)

    def facts(self, item: str) -> tuple[LineageNode, ...]:
        """Who said what the version holds of an item, and when: one node of kind annotation per shape.

        Args:
            item: id of an item of this version.
        Raises: NotFound: the version has no such item.
        """
        with self._home.catalog.read() as tx:
            found = parts.find(tx, self._home.blobs, self._manifest, item)
            if found is None:
                raise NotFound("item", item, hint=f"version {self.id[:12]} does not hold it")
            said = annotations.behind(tx, self._row.dataset, item, found.shapes, self.created_at)
        return tuple(
            LineageNode(
                kind="annotation",
                id=one.id,
                facts={
                    "item": item,
                    "name": found.name,
                    "label": one.label,
                    "source": one.source,
                    "author": one.author,
                    "at": one.created_at.isoformat(),
                    "event": one.event,
                },
            )
            for one in said
        )

    @property
    def node(self) -> Node:
        """The version in the lineage graph."""
        return Node("version", self.id)

    def export(
        self,
        folder: str | Path,
        *,
        format: str = "folders",
        options: Mapping[str, Any] | None = None,
        by: exporter.By = "copy",
        media: bool = True,
    ) -> ExportReport:
        """Write the version into a folder in any format; by default as ``SPLIT/CLASS/NAME``, ready to be added again.

        A failure leaves nothing behind.

        Args:
            folder: must be empty or not there yet.
            format: name of a format, e.g. coco; docs/formats.md says what each keeps.
            options: of the format.
            by: copy, or link: hard links to the workspace's own (read-only) files where the disk allows it.
            media: whether the images are written too, or the annotations alone.
        Raises:
            NotFound: no such format.
            Conflict: the folder holds something.
            NoSpace, Denied: it cannot be written.
        """
        return exporter.export(
            self._home,
            self._row.dataset,
            self.schema,
            (_exported(row) for row in self.rows()),
            folder,
            format=format,
            options=options,
            by=by,
            has_media=media,
        )

    def _turns(self, rows: Sequence[VersionRow], split: str | None) -> list[int]:
        """EXIF orientation of images whose labels say places (others: 1), read once and kept in the cache."""
        if not any(shape.points for row in rows for shape in row.shapes):
            return [turning.UPRIGHT] * len(rows)
        path = self._home.cache / "turns" / f"{self.id[:32]}-{split or 'all'}.npy"
        if (ready := _open_cached(path)) is not None and len(ready) == len(rows):
            return [int(turn) for turn in ready]
        most = self._home.settings.max_image_pixels
        found = [image.orientation(row.read(), row.name, most) for row in rows]
        temp = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temp.open("wb") as file:
                np.save(file, np.asarray(found, np.uint8))
            os.replace(temp, path)
        except OSError as error:
            raise write_error(path.parent, error) from None
        finally:
            temp.unlink(missing_ok=True)
        return found

    def _decode(
        self, rows: Sequence[VersionRow], rule: ImageRule, path: Path, progress: Progress | None, threads: int
    ) -> None:
        """Fill a new cache file and put it in place when it is whole."""
        most = self._home.settings.max_image_pixels
        temp = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        shape = (len(rows), rule.height, rule.width, 3)

        def one(row: VersionRow) -> NDArray[np.uint8]:
            return image.decode(row.read(), rule, row.name, most)

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _need_room(path.parent, int(np.prod(shape, dtype=np.int64)))
            out = np.lib.format.open_memmap(temp, mode="w+", dtype=np.uint8, shape=shape)
            with ThreadPoolExecutor(max(1, threads)) as pool:
                # A window, not all at once, so that decoded images do not pile up in memory.
                for at in range(0, len(rows), 256):
                    window = rows[at : at + 256]
                    try:
                        for place, pixels in enumerate(pool.map(one, window), at):
                            out[place] = pixels
                    except BaseException:
                        pool.shutdown(cancel_futures=True)
                        raise
                    if progress:
                        progress(at + len(window), len(rows))
            out.flush()
            del out
            os.replace(temp, path)
        except OSError as error:
            raise write_error(path.parent, error) from None
        finally:
            temp.unlink(missing_ok=True)


def _open_cached(path: Path) -> NDArray[np.uint8] | None:
    try:
        found: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    return found


def _need_room(folder: Path, size: int) -> None:
    """Writing to a map on a full disk kills the process (SIGBUS), so the room is looked for first."""
    if shutil.disk_usage(folder).free < size + (64 << 20):
        raise OSError(28, "No space left on device")


def _split(split: str | None) -> str | None:
    if split is not None and split not in SPLITS:
        raise NotFound("split", split, SPLITS)
    return split


def _problems(manifest: parts.Manifest) -> Iterator[Problem]:
    for name, count in manifest.counts["by_class"].items():
        if count < 2:
            yield Problem(
                where=f"class {name}",
                error="invalid",
                message=f"class {name!r} should have two images or more; got {count}",
                hint="a model cannot be both trained and judged on it; label more of it",
            )
    for split in SPLITS:
        if not manifest.counts["by_split"].get(split):
            yield Problem(
                where=f"split {split}",
                error="invalid",
                message=f"split {split} should have an image or more; got 0",
                hint="label more, or ask for a larger share",
            )


def _exported(row: VersionRow) -> exporter.Row:
    return exporter.Row(
        item=row.item_id,
        name=row.name,
        uri=row.uri,
        split=row.split,
        width=row.width,
        height=row.height,
        shapes=row.shapes,
        text=row.text,
        tags=row.tags,
        attributes=row.attributes,
        extra=row.extra,
    )
