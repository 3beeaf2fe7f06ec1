"""A dataset over time: frozen versions, their tags, restoring one, branches and merges.

``Dataset`` inherits these, so that its own module stays readable; nothing else does.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loopworks.core.contracts import Learnable, Task
from loopworks.core.errors import Invalid, NotFound
from loopworks.data import media, merging, transfer
from loopworks.data.merging import MergeReport, RestoreReport, Rule
from loopworks.data.tables.version import opened
from loopworks.data.version import Version
from loopworks.store import datasets as rows
from loopworks.store import erasing, events, items, lineage, parts, tallies
from loopworks.store import versions as version_rows
from loopworks.store.datasets import DatasetRow
from loopworks.store.erasing import Erased
from loopworks.store.home import Home
from loopworks.store.lineage import Node
from loopworks.store.sending import Progress

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset
    from loopworks.data.tables.table import Table

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a dataset may be called."""


class Timeline:
    """Versions of a dataset."""

    _home: Home
    _row: DatasetRow

    if TYPE_CHECKING:  # what Dataset has

        @property
        def task(self) -> Task:
            """The task kind."""

        @property
        def is_table(self) -> bool:
            """Whether the items are rows of a table."""

        @property
        def table(self) -> Table:
            """The rows, where the items are some."""

        def counts(self) -> dict[str, Any]:
            """The counters."""

        def split(self, *, seed: int = 0, author: str = "") -> dict[str, int]:
            """Give splits."""

    def freeze(self, message: str = "", *, author: str = "", seed: int = 0) -> Version:
        """Keep the labelled items as they are now, for ever.

        Items without a split are split first (``split`` with its defaults). The same state frozen again is the same
        version.

        Raises: Invalid: no labelled items, or one class only.
        """
        if self.is_table:
            return self.table.freeze(message, author=author, seed=seed)
        self._check_freezable()
        if self._has_unsplit():
            self.split(seed=seed, author=author)
        return self._freeze(message, author)

    def versions(self) -> list[Version]:
        """All frozen versions, oldest first."""
        with self._home.catalog.read() as tx:
            found = version_rows.every(tx, self._row.id)
        return [opened(self._home, self._row.name, row) for row in found]

    def version(self, version: str) -> Version:
        """A frozen version by its id or the beginning of it; ``NotFound`` or ``Invalid`` (several begin like that)."""
        with self._home.catalog.read() as tx:
            row = version_rows.get(tx, version, self._row.id)
        return opened(self._home, self._row.name, row)

    def tag(self, version: str, tag: str, *, author: str = "") -> str:
        """Let ``tag`` (v1, gold ...) mean a version, and no other of this dataset any more.

        Returns: id of the version that it meant before, or empty.
        Raises:
            NotFound: no such version.
            Invalid: no good tag: 1 to 64 letters, digits, . - or _, and no beginning of an id.
        """
        with self._home.catalog.begin() as tx:
            row = version_rows.get(tx, version, self._row.id)
            return version_rows.set_tag(tx, self._row.id, tag, row.id, author=author)

    def tags(self) -> dict[str, str]:
        """Tag -> id of the version that it means; ``version`` takes tags too."""
        with self._home.catalog.read() as tx:
            return version_rows.tags(tx, self._row.id)

    def restore(self, version: str, *, author: str = "") -> RestoreReport:
        """Make the live set what a version holds: labels, splits, tags, attributes, and which items are there.

        Items that are labelled now and came later are deleted, those that had no label then have none; unlabelled
        items stay. An item of the test set stays there. One operation, which ``undo`` takes back.
        """
        self._not_a_table("restored")
        with self._home.catalog.read() as tx:
            row = version_rows.get(tx, version, self._row.id)
        return merging.restore(self._home, self._row.id, row, author=author)

    def branch(self, name: str, version: str = "", *, author: str = "") -> "Dataset":
        """A new dataset that begins as a version (default: the newest) and goes its own way; media are not copied.

        Raises:
            Invalid: a name that no dataset may have, or nothing frozen yet.
            Conflict: the name is taken.
            NotFound: no such version.
        """
        from loopworks.data.stage import open_dataset

        if not NAME.fullmatch(name):
            raise Invalid("dataset name", "1 to 64 letters, digits, - or _", repr(name))
        self._not_a_table("branched")
        with self._home.catalog.read() as tx:
            row = version_rows.get(tx, version, self._row.id) if version else version_rows.latest(tx, self._row.id)
        if row is None:
            raise Invalid(f"dataset {self._row.name!r}", "frozen to be branched", "no version", "loopworks data freeze")
        merging.branch(self._home, self._row.id, name, row, author=author)
        return open_dataset(self._home, name)

    def merge(self, other: str, *, rule: Rule = "fail", author: str = "", dry_run: bool = False) -> MergeReport:
        """Bring in what was done in ``other``, a branch of this dataset (or what this one is a branch of).

        Three-way: a part of an item (presence, labels, split, tags, attributes) that one side changed since both were
        the same is taken from that side. Attributes are merged name by name, tags one by one. An item that is in the
        test set on either side is in it afterwards. One operation, which ``undo`` takes back.

        Args:
            other: name of the dataset.
            rule: for what both changed. fail: merge nothing; ours, theirs: that side; newest: the side that changed
                the item last.
            author: who does it.
            dry_run: write nothing, say what would be done.
        Raises:
            NotFound: no such dataset.
            Invalid: the two have no version in common.
            Conflict: both changed the same, and the rule is to fail.
        """
        from loopworks.data.stage import open_dataset

        self._not_a_table("merged")
        theirs = open_dataset(self._home, other)
        report = merging.merge(self._home, self._row.id, theirs.id, rule=rule, author=author, dry_run=True)
        if dry_run:
            return report
        now = theirs._freeze(f"merged into {self._row.name}", author).id if theirs.counts()["labeled"] else ""
        return merging.merge(
            self._home, self._row.id, theirs.id, rule=rule, author=author, dry_run=False, theirs_now=now
        )

    def push(
        self,
        version: str,
        target: transfer.Other,
        *,
        name: str = "",
        author: str = "",
        progress: Progress | None = None,
    ) -> transfer.TransferReport:
        """Bring a frozen version to another workspace; only blobs that are missing there are sent.

        Args:
            version: id, its beginning, or a tag.
            target: the other workspace, opened or its folder.
            name: of the dataset there; default its name here.
            author: who does it.
            progress: takes the number of blobs done and of all, and the bytes sent.
        Raises: as ``Workspace.pull``, which is the same the other way round.
        """
        with transfer.other(target) as found:
            return transfer.send(
                self._home, found, self._row.name, version, name=name, author=author, progress=progress
            )

    def _not_a_table(self, what: str) -> None:
        if self.is_table:
            raise Invalid(f"dataset to be {what}", "of images or texts", "a table", "export a version and add it anew")

    def erase(self, ids: Iterable[str], *, reason: str, author: str = "") -> Erased:
        """Erase items for good: rows, bytes, history's contents, and the frozen versions that hold them.

        Not this dataset alone: the same bytes are erased from every dataset of the workspace. Versions that hold them
        are issued again under a new id; models and tags point to the new one. Adding the bytes again is refused.

        Args:
            ids: of items of this dataset, also of deleted ones.
            reason: stays in the tombstone.
            author: who does it.
        Raises:
            NotFound: no such item.
            Invalid: no reason is given.
        """
        self._not_a_table("erased from")
        wanted = list(dict.fromkeys(ids))
        with self._home.catalog.read() as tx:
            found = items.among(tx, self._row.id, wanted, deleted=True)
        for item in wanted:
            if item not in found:
                raise NotFound("item", item, hint=f"dataset {self._row.name!r} has no item with this id")
        return erasing.erase(self._home, map(media.content_of, wanted), reason=reason, author=author)

    def _freeze(self, message: str, author: str) -> Version:
        catalog, blobs = self._home.catalog, self._home.blobs
        with catalog.read() as tx:
            row = rows.by_id(tx, self._row.id)
            manifest = parts.write(catalog, blobs, tx, self._row.id, row.task, row.schema)
        with catalog.begin() as tx:
            version, is_new = version_rows.add(
                tx,
                self._row.id,
                manifest.id,
                task=row.task,
                message=message,
                author=author,
                count=manifest.counts["items"],
            )
            lineage.link(tx, Node("dataset", self._row.name), Node("version", version.id))
            if is_new:
                made = {"version": version.id, "number": version.number, "message": message}
                events.add(tx, [events.make("version.freeze", dataset=self._row.id, author=author, after=made)])
        return Version(self._home, self._row.name, version)

    def _has_unsplit(self) -> bool:
        with self._home.catalog.read() as tx:
            return "" in tallies.frozen(tx, self._row.id, ())["by_split"]

    def _check_freezable(self) -> None:
        counts = self.counts()
        where = f"dataset {self._row.name!r}"
        if not counts["labeled"]:
            hint = "label some, or add a folder with one folder per class"
            raise Invalid(where, "labelled to be frozen", f"no labelled item of {counts['items']}", hint)
        present = [name for name, count in counts["by_class"].items() if count]
        # Where a class is all that is asked and a model is to learn it; boxes, masks and labels alone may have one.
        is_choice = isinstance(self.task, Learnable) and self.task.kinds == {"class"} and not self._row.schema.is_multi
        if len(present) < 2 and is_choice:
            hint = "label images of a second class: one class alone teaches a model nothing"
            raise Invalid(where, "labelled with two classes or more", f"only {', '.join(present) or 'none'}", hint)
