"""Datasets: add, look, label, split, freeze. The one class that the workspace hands out for this stage."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopworks.core.content import content_id
from loopworks.core.contracts import Task
from loopworks.core.errors import Conflict, Damaged, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape
from loopworks.data import exporter, files, importer, media, partition
from loopworks.data.cleaning import Cleaning
from loopworks.data.editing import Editing
from loopworks.data.files import Labels
from loopworks.data.intake import AddReport, By
from loopworks.data.look import Look
from loopworks.data.sources import Tick
from loopworks.data.tables.table import Table
from loopworks.data.tables.version import TASKS as TABLE_TASKS
from loopworks.data.tables.version import opened as opened_version
from loopworks.data.timeline import Timeline
from loopworks.data.version import Version, VersionRow
from loopworks.data.video import Frames
from loopworks.store import annotations, events, items, operations, tallies
from loopworks.store import datasets as rows
from loopworks.store import versions as version_rows
from loopworks.store.events import Event
from loopworks.store.home import Home
from loopworks.store.ids import new_id
from loopworks.store.items import SPLITS, Item, State
from loopworks.store.lineage import Node

__all__ = [
    "AddReport",
    "By",
    "Dataset",
    "Item",
    "Labels",
    "State",
    "Version",
    "VersionRow",
    "TABLE_TASKS",
    "create_dataset",
    "datasets",
    "open_dataset",
    "open_version",
]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def datasets(home: Home) -> "list[Dataset]":
    """All datasets of the workspace, by name."""
    with home.catalog.read() as tx:
        return [Dataset(home, row) for row in rows.every(tx)]


def create_dataset(
    home: Home, name: str, task: str, *, is_multi: bool = False, classes: Sequence[str] = (), author: str = ""
) -> "Dataset":
    """A new, empty dataset.

    Args:
        home: the workspace.
        name: letters, digits, - and _, at most 64.
        task: name of the task kind, e.g. image-classification.
        is_multi: whether an item may carry several classes.
        classes: known from the start, in this order; folders bring others.
        author: who does it.
    Raises:
        Invalid: the name or a class name is not allowed.
        NotFound: no such task kind.
        Conflict: the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise Invalid("dataset name", "1 to 64 letters, digits, - or _", repr(name))
    plugins.get(f"task.{task}")
    schema = LabelSchema(classes=tuple(classes), is_multi=is_multi)
    with home.catalog.begin() as tx:
        row = rows.add(tx, name, task, schema)
        made = {"name": name, "task": task, **schema.to_json()}
        events.add(tx, [events.make("dataset.create", dataset=row.id, author=author, after=made)])
    return Dataset(home, row)


def open_dataset(home: Home, name: str) -> "Dataset":
    """The dataset called ``name``; ``NotFound`` lists those that exist."""
    with home.catalog.read() as tx:
        return Dataset(home, rows.get(tx, name))


def open_version(home: Home, version: str) -> Version:
    """A version of any dataset by its id or the beginning of it.

    Raises:
        NotFound: no such version.
        Invalid: several versions begin like that.
    """
    with home.catalog.read() as tx:
        row = version_rows.get(tx, version)
        name = rows.by_id(tx, row.dataset).name
    return opened_version(home, name, row)


class Dataset(Editing, Timeline, Cleaning):
    """A live, editable set of items for one task. Every change is one transaction and leaves an event."""

    def __init__(self, home: Home, row: rows.DatasetRow) -> None:
        """Wrap a row; ``open_dataset`` and ``create_dataset`` make these."""
        self._home = home
        self._row = row

    @property
    def id(self) -> str:
        """Id in the catalog."""
        return self._row.id

    @property
    def name(self) -> str:
        """Name, unique in the workspace."""
        return self._row.name

    @property
    def task(self) -> Task:
        """The task kind."""
        found: Task = plugins.get(f"task.{self._row.task}")
        return found

    @property
    def schema(self) -> LabelSchema:
        """The classes as they are now, also where another process added one."""
        with self._home.catalog.read() as tx:
            return rows.by_id(tx, self.id).schema

    @property
    def node(self) -> Node:
        """The dataset in the lineage graph."""
        return Node("dataset", self.name)

    @property
    def is_table(self) -> bool:
        """Whether its items are rows of a table."""
        return self._row.task in TABLE_TASKS

    @property
    def table(self) -> Table:
        """The rows, of a dataset for a tabular task; ``Invalid`` for others."""
        if not self.is_table:
            raise Invalid(f"dataset {self.name!r}", f"for {' or '.join(sorted(TABLE_TASKS))}", self._row.task)
        return Table(self._home, self.id, self.name, self._row.task)

    def add(
        self,
        source: files.Source,
        *,
        format: str = "auto",
        options: Mapping[str, Any] | None = None,
        labels: files.Labels = "auto",
        by: By = "copy",
        author: str = "",
        split: str = "",
        frames: Frames | None = None,
        progress: Callable[[int, int], None] | None = None,
        tick: Tick | None = None,
    ) -> AddReport:
        """Add what a source of any format holds; what cannot be read is listed, the rest is kept.

        Adding the same again adds nothing, and a killed import is continued by running it again. Labels that the
        source now says differently are changed; what a person said is kept.

        Args:
            source: a file, folder, pattern, archive, video or URL, or a list of these.
            format: name of a format, e.g. coco (docs/formats.md), or auto.
            options: of the format, e.g. ``{"delimiter": ";"}``; needs its name.
            labels: for images in folders. auto: classes where there are class folders; folders: there must be some;
                none: no labels.
            by: copy: the bytes into the workspace; link: hard links where the disk allows it, else copies;
                reference: leave the files where they are, and check them on every read.
            author: who does it.
            split: train, val or test for all of them; by default what folders called so say, or none.
            frames: which frames of videos become items.
            progress: takes the number of files done and of all.
            tick: takes how far fetching, unpacking and decoding are, before the first file is added.
        Raises:
            NotFound: a path or format does not exist.
            Invalid: nothing there that can be read, class names that clash; nothing is imported.
            NoSpace: the disk is full; what was added before stays.
        """
        if self.is_table:
            return self.table.add(source, author=author, progress=progress, **(options or {})).as_items()
        with importer.prepare(
            self._home,
            source,
            format=format,
            options=options,
            labels=labels,
            known=self.schema.classes,
            by=by,
            author=author,
            split=split,
            frames=frames,
            tick=tick,
        ) as ready:
            return ready.run(self, progress)

    def items(
        self,
        state: State = "all",
        *,
        split: str | None = None,
        label: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Item]:
        """Items by name, a page at a time; see ``store.items.page``.

        Raises:
            Invalid: the state is unknown, or the limit below 1.
            NotFound: no such class, split or item to go on after.
        """
        if state not in ("all", "labeled", "unlabeled"):
            raise Invalid("state", "all, labeled or unlabeled", state)
        if limit < 1:
            raise Invalid("limit", "at least 1", limit)
        if split and split not in SPLITS:
            raise NotFound("split", split, SPLITS)
        if label is not None:
            self._known([label])
        with self._home.catalog.read() as tx:
            return items.page(tx, self.id, state=state, split=split, label=label, limit=limit, after=after)

    @property
    def look(self) -> Look:
        """Find, count and search by a query; saved views; which models were asked."""
        return Look(self._home, self.id)

    def find(self, query: str = "", *, sort: str = "", limit: int = 100, after: str | None = None) -> list[Item]:
        """Items that fulfil a query (docs/query.md), or a saved view of that name, a page at a time.

        Args:
            query: such as ``label = 'car' and width > 640``; empty: all.
            sort: such as ``-size``; default by name.
            limit: at most so many, 1 or more.
            after: id of the last item of the page before.
        Raises: Invalid: the query cannot be read; the hint shows the place. A table's rows are found by ``table.find``.
        """
        if self.is_table:
            hint = "table.find(query) in Python, loopworks data table rows NAME --query QUERY"
            raise Invalid(f"dataset {self.name!r}", "one of items", "a table", hint)
        return self.look.find(query, sort=sort, limit=limit, after=after)

    def ids(self, query: str = "") -> Iterator[str]:
        """Ids of all items that fulfil a query or saved view, by id, streamed; for bulk actions."""
        return self.look.ids(query)

    def item(self, item: str) -> Item:
        """An item by its id or the beginning of it; ``NotFound`` or ``Invalid`` (several begin like that)."""
        with self._home.catalog.read() as tx:
            return items.get(tx, self.id, item)

    def counts(self) -> dict[str, Any]:
        """``items``, ``labeled``, ``unlabeled``, ``by_split`` (empty text: no split yet), ``by_class``."""
        if self.is_table:
            return self.table.counts()
        with self._home.catalog.read() as tx:
            found = tallies.read(tx, self.id)
            classes = rows.by_id(tx, self.id).schema.classes
        return {**found, "by_class": {name: found["by_class"].get(name, 0) for name in classes}}

    def add_classes(self, names: Iterable[str], *, author: str = "") -> tuple[str, ...]:
        """Add classes after those that exist, and give those that are new.

        Raises: Invalid: a name differs from another only in upper and lower case.
        """
        wanted = list(dict.fromkeys(names))
        if not set(wanted) - set(self.schema.classes):
            return ()
        with self._home.catalog.begin() as tx:
            old = rows.by_id(tx, self.id).schema
            fresh = tuple(name for name in wanted if name not in old.classes)
            grown = LabelSchema(classes=old.classes + fresh, is_multi=old.is_multi)
            rows.set_classes(tx, self.id, grown.classes)
            logged = events.make(
                "dataset.classes",
                dataset=self.id,
                author=author,
                before=list(old.classes),
                after=list(grown.classes),
            )
            events.add(tx, [logged])
        return fresh

    def label(
        self,
        labels: Mapping[str, Sequence[str | Shape]],
        *,
        author: str,
        source: str = "person",
        rev: int | Mapping[str, int] | None = None,
    ) -> str:
        """Say what items show, in one transaction: all of it holds, or nothing.

        Args:
            labels: item id -> its classes, or shapes (boxes, polygons ...) as they are; none at all is an answer too
                where the task allows it.
            author: name of the person or model.
            source: person, import or model.
            rev: the items' ``rev`` as you saw them, one for all or one per item; where an item has changed since,
                nothing is written.
        Returns: the operation's id, for ``undo``.
        Raises:
            NotFound: no such item or class.
            Invalid: a label that the task does not allow.
            Conflict: an item was changed by somebody else.
        """
        if source not in ("person", "import", "model"):
            raise Invalid("source", "person, import or model", source)
        task, plain = self.task, functools.partial(Shape, source=source, author=author)  # type: ignore[arg-type]
        op = new_id()
        with self._home.catalog.begin() as tx:
            schema = rows.by_id(tx, self.id).schema
            before = self._wanted(tx, labels)
            _unchanged(before, rev)
            shapes = {
                item: task.check([one if isinstance(one, Shape) else plain(label=one) for one in said], schema)
                for item, said in labels.items()
            }
            annotations.write(tx, self.id, shapes, before=before, author=author, op=op)
            operations.record(tx, self.id, op, "label", count=len(shapes), author=author)
        return op

    def clear_labels(self, ids: Iterable[str], *, author: str) -> str:
        """Take the labels of items away; the history keeps them. Gives the operation's id."""
        op = new_id()
        with self._home.catalog.begin() as tx:
            before = self._wanted(tx, ids)
            annotations.clear(tx, self.id, before, author=author, op=op)
            count = sum(item.state == "labeled" for item in before.values())
            operations.record(tx, self.id, op, "clear", count=count, author=author)
        return op

    def split(
        self,
        test: float = 0.2,
        val: float = 0.1,
        *,
        by: str | None = None,
        time: str | None = None,
        seed: int = 0,
        author: str = "",
    ) -> dict[str, int]:
        """Put the labelled items that have no split yet into train, val and test; see ``data.splits``.

        Items that have a split keep it: an image that was ever in the test set is never trained on. Without ``by`` and
        ``time`` each class is shared out by itself, or as the last split was.

        Args:
            test: share of the test set, in 0..1.
            val: share of the validation set, in 0..1.
            by: attribute (camera, patient, video ...) or ``folder``: equal values stay in one split; empty: not so.
            time: attribute that is a time, or ``added_at``: the newest items are the test set; empty: not so.
            seed: another seed, another order.
            author: who does it.
        Returns: the number of labelled items in each split now; ``split_figures`` tells more.
        Raises: Invalid: shares out of range, no item has the attribute, or one has no time.
        """
        if self.is_table:
            return self.table.split(test, val, by=by or "", time=time or "", seed=seed, author=author)
        return partition.split(self._home, self.id, test=test, val=val, seed=seed, by=by, time=time, author=author)

    def split_figures(self) -> partition.Figures:
        """How the labelled items are split now: by class, by group, by time."""
        return partition.figures(self._home, self.id)

    def assign(self, ids: Iterable[str], split: str, *, author: str = "", force: bool = False) -> str:
        """Put items into a split by hand; gives the operation's id.

        Raises:
            NotFound: no such item or split.
            Conflict: an item would leave the test set; with ``force`` it does, and the history says so.
        """
        if split not in SPLITS:
            raise NotFound("split", split, SPLITS)
        with self._home.catalog.begin() as tx:
            before = self._wanted(tx, ids)
            leaving = [item.name for item in before.values() if item.split == "test" and split != "test"]
            if leaving and not force:
                raise Conflict(
                    f"items of the test set must stay there; got {len(leaving)} to move, such as {leaving[0]}",
                    "figures measured on it are void once it was trained on; force=True moves them all the same",
                )
            moved = {key: split for key, item in before.items() if item.split != split}
            return self._set_splits(tx, moved, {key: item.split for key, item in before.items()}, author, "assign")

    def export(
        self,
        folder: str | Path,
        *,
        format: str = "folders",
        options: Mapping[str, Any] | None = None,
        by: exporter.By = "copy",
        media: bool = True,
    ) -> exporter.ExportReport:
        """Write all items as they are now, labelled or not; the parameters are those of ``Version.export``."""
        return exporter.export(
            self._home,
            self.id,
            self.schema,
            exporter.live(self._home, self.id),
            folder,
            format=format,
            options=options,
            by=by,
            has_media=media,
        )

    def read(self, item: Item) -> bytes:
        """The item's bytes; ``Damaged`` where a file that is kept by reference is not what it was."""
        return item.text.encode() if item.text else media.read(self._home, item.id, item.uri, item.name)

    def history(self, item: str) -> list[Event]:
        """Every change of an item (id or the beginning of it), oldest first."""
        with self._home.catalog.read() as tx:
            return events.of_item(tx, self.id, items.get(tx, self.id, item).id)

    def verify(self, item: Item) -> None:
        """Read the item's bytes and compare them with its id; ``Damaged`` where they differ, or are gone."""
        if (found := content_id(self.read(item))) != media.content_of(item.id):
            raise Damaged(
                f"item {item.name} must have SHA-256 {media.content_of(item.id)}; got {found}", "add the file again"
            )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the counts of now."""
        schema = self.schema
        return {
            "name": self.name,
            "task": self.task.name,
            "classes": list(schema.classes),
            "is_multi": schema.is_multi,
            "counts": self.counts(),
        }

    def _known(self, names: Iterable[str]) -> None:
        classes = self.schema.classes
        for name in names:
            if name not in classes:
                raise NotFound("class", name, classes)

    def _set_splits(self, tx: Any, moved: Mapping[str, str], before: Mapping[str, str], author: str, what: str) -> str:
        op = new_id()
        items.set_splits(tx, self.id, moved)
        make = functools.partial(events.make, "item.split", dataset=self.id, author=author, op=op)
        events.add(tx, [make(item=item, before=before[item], after=split) for item, split in moved.items()])
        operations.record(tx, self.id, op, what, count=len(moved), author=author)
        return op


def _unchanged(before: Mapping[str, Item], rev: int | Mapping[str, int] | None) -> None:
    for key, item in before.items():
        seen = rev.get(key) if isinstance(rev, Mapping) else rev
        if seen is not None and seen != item.rev:
            raise Conflict(
                f"item {item.name} must be at revision {seen}; got {item.rev}",
                "somebody else changed it meanwhile: look at it again",
            )
